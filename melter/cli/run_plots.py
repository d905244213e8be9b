"""Figures of recorded runs (matplotlib's objects, no global state)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from melter.machine import WINCH_COUNT

if TYPE_CHECKING:
    from melter.loop.run import Run


def _figure(width_in: float, height_in: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def run_figure(run: Run) -> Any:
    """Return one run: path and spot from above, error over time, commands against their limits, faults marked."""
    figure = _figure(12, 8)
    figure.suptitle(f"{run.folder.name}: {_words(run)}")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.3])
    above, error_panel, speed_panel = left.subplots(), *right.subplots(2, 1, sharex=True)
    _from_above(above, run)
    since = run.column("approved_host_s", 1)[:, 0] - run.begun_s
    work_since = run.column("approved_host_s", 1, run.work)[:, 0] - run.begun_s
    if len(run.errors):
        times = np.interp(run.errors[:, 0], run.column("t_s", 1, run.work)[:, 0], work_since)
        error_panel.plot(times, run.errors[:, 1], ".", markersize=2)
    error_panel.set(ylabel="spot error (mm)", ylim=(0, None))
    speeds = run.column("approved_m_s", WINCH_COUNT) * 1e3
    for winch in range(WINCH_COUNT):
        name = run.machine.winch[winch].name if run.machine else f"winch {winch + 1}"
        speed_panel.plot(since, speeds[:, winch], linewidth=0.7, label=name)
    if run.machine:
        limits = run.machine.limits
        for limit, style in ((limits.speed_normal_m_s, ":"), (limits.speed_max_m_s, "--")):
            for sign in (-1, 1):
                speed_panel.axhline(1e3 * sign * limit, color="k", linestyle=style, linewidth=0.7)
    speed_panel.set(ylabel="approved cable speed (mm/s)", xlabel="time since the start (s)")
    speed_panel.legend(ncols=8, fontsize="xx-small", loc="upper center", bbox_to_anchor=(0.5, -0.13))
    for line in run.events:
        colour = "r" if line["kind"] == "fault" else "0.6"
        for panel in (error_panel, speed_panel):
            panel.axvline(line["host_s"] - run.begun_s, color=colour, linewidth=0.8)
        name = line.get("event") or str(line.get("reason"))[:60]
        error_panel.annotate(
            name,
            (line["host_s"] - run.begun_s, 1),
            xycoords=("data", "axes fraction"),
            rotation=90,
            fontsize="xx-small",
            color=colour,
            va="top",
        )
    return figure


def _from_above(axes: Any, run: Run) -> None:
    target, spot = run.column("target_world_m", 2, run.work), run.column("patch_centre_m", 2, run.work)
    if run.machine:
        x, y = (half / 2 for half in run.machine.bed.size_m)
        axes.fill([-x, x, x, -x], [-y, -y, y, y], color="wheat", label="bed", zorder=0)
        keep_in = run.machine.bed.keep_in_polygon_world_m
        axes.plot(*np.vstack([keep_in, keep_in[:1]]).T, "r--", linewidth=0.8, label="the beam stays inside")
    axes.plot(*target.T, "k-", linewidth=0.8, label="target")
    axes.plot(*spot.T, ".", markersize=2, label="spot as seen")
    axes.set(xlabel="x east (m)", ylabel="y north (m)", aspect="equal")
    axes.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(0, -0.12), ncols=4)


def _words(run: Run) -> str:
    figures = run.figures()
    error = "no spot error" if figures["rms_mm"] is None else f"rms {figures['rms_mm']:.2f} mm"
    return f"{error}, {figures['ticks']} ticks, {figures['faults']} faults"


def compare_figure(rows: list[dict[str, Any]], runs: list[Run]) -> Any:
    """Return errors of several runs: bars of RMS and p95, and each recorded run's share of time below an error."""
    figure = _figure(11, 5)
    bars, shares = figure.subplots(1, 2)
    named = [row for row in rows if row["rms_mm"] is not None]
    place = np.arange(len(named))
    bars.barh(place + 0.2, [row["p95_mm"] for row in named], height=0.4, color="0.75", label="p95")
    bars.barh(place - 0.2, [row["rms_mm"] for row in named], height=0.4, label="RMS")
    bars.set(yticks=place, yticklabels=[row["name"] for row in named], xlabel="spot error (mm)")
    bars.legend()
    for run in runs:
        errors = np.sort(run.errors[:, 1]) if len(run.errors) else np.zeros(0)
        if len(errors):
            shares.plot(errors, np.linspace(0, 1, len(errors)), label=run.folder.name)
    shares.set(xlabel="spot error (mm)", ylabel="share of frames below", xlim=(0, None), ylim=(0, 1))
    if shares.get_legend_handles_labels()[0]:
        shares.legend(fontsize="x-small")
    return figure
