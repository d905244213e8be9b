"""Figures of ``watch`` and of ``bench``: curves of a training, and of speed over cores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from melter.cluster.convergence import Curve
    from melter.cluster.follow import Standing
    from melter.cluster.scaling import Scaling


def training_figure(now: Standing) -> Any:
    """Return a figure of error, reward and speed over control steps."""
    steps = [point.steps / 1e6 for point in now.points]
    tried = [(point.steps / 1e6, point.outdoor_rms_mm) for point in now.points if point.outdoor_rms_mm > 0]
    figure = empty_figure(7.0, 7.5)
    axes = figure.subplots(3, 1, sharex=True)
    axes[0].semilogy(steps, [point.error_mm for point in now.points], label="median in training, exploration included")
    if tried:
        axes[0].semilogy(*zip(*tried, strict=True), "o", label="RMS outdoors")
    axes[0].set_ylabel("spot error (mm)")
    axes[0].legend()
    axes[1].plot(steps, [point.reward for point in now.points])
    axes[1].set_ylabel("reward per step")
    axes[2].plot(steps, [point.steps_per_s / 1e3 for point in now.points])
    axes[2].set_ylabel("1000 steps/s")
    axes[2].set_xlabel("million control steps")
    figure.suptitle(f"{now.algorithm} for {now.machine}")
    return figure


def scaling_figure(cores: list[int], rates: list[float], physics: list[float], laws: Sequence[Scaling]) -> Any:
    """Return a figure of measured rates over cores, and the laws fitted to them."""
    figure = empty_figure(7.0, 5.0)
    axes = figure.subplots()
    many = [2 ** (i / 8) for i in range(8 * 8)]
    axes.loglog(many, [rates[0] * n for n in many], ":", color="grey", label="as many times as fast")
    for law in laws:
        axes.loglog(many, [law.rate(n) for n in many], "--", label=law.law)
    axes.loglog(cores, rates, "o", label="native batch")
    axes.loglog(cores, physics, "x", label="MuJoCo alone")
    axes.set_xlabel("threads")
    axes.set_ylabel("control steps/s")
    axes.legend()
    return figure


def convergence_figure(found: Sequence[Curve]) -> Any:
    """Return a figure of errors over time."""
    figure = empty_figure(7.0, 4.5)
    axes = figure.subplots()
    for curve in found:
        axes.semilogy(
            *zip(*curve.points, strict=True), "o-", label=f"{curve.name} ({curve.steps / 1e6:.2f} million steps)"
        )
    axes.set_xlabel("time (s)")
    axes.set_ylabel("RMS error outdoors (mm)")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    return figure


def empty_figure(width_in: float, height_in: float) -> Any:
    """Return a figure that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
