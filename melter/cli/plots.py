"""Figures of the commands ``machine check`` and ``patch`` (matplotlib's objects, no global state)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from melter.errors import BadInput

FORMATS = (".png", ".pdf", ".svg")


def require_plot_file(path: Path) -> None:
    """Raise BadInput unless a figure can be written to ``path``."""
    if path.suffix.lower() not in FORMATS:
        raise BadInput(f"--plot {path}: must end in {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise BadInput(f"--plot {path}: no folder {path.parent}")


def save(figure: Any, path: Path) -> None:
    """Write a figure beside its final name, then rename it."""
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        figure.savefig(part, dpi=130)
        part.replace(path)
    except OSError as error:
        raise BadInput(f"--plot {path}: cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


def _figure(width_in: float, height_in: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def holding_figure(name: str, shape: Any, report: Any) -> Any:
    """Return maps of the bed by the sun's zenith angle, and below them what holds and what comes near to what."""
    maps = report.bed_by_zenith_deg
    figure = _figure(1.0 + 1.9 * max(len(maps), 5), 6.2)
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1.15])
    does = "holds its lens" if report.feasible_share == 1 else "does NOT hold its lens"
    does += "" if report.holds or report.feasible_share < 1 else ", but cannot work as it is"
    figure.suptitle(f"{name} {does}: sun up to {report.zenith_deg:g} deg from the zenith, wind {shape.wind_m_s:g} m/s")
    panels = above.subplots(1, len(maps), sharey=True, squeeze=False)[0]
    extent = _edges(report.bed_x_m) + _edges(report.bed_y_m)
    image = None
    for panel, (zenith, share) in zip(panels, maps.items(), strict=True):
        image = panel.imshow(share.T, origin="lower", extent=extent, vmin=0, vmax=1, cmap="RdYlGn")
        asked = "" if zenith <= report.zenith_deg else " (not asked)"
        panel.set(title=f"{zenith:g} deg{asked}: {share.mean():.0%}", xlabel="x east (m)")
        panel.title.set_fontsize("small")
    panels[0].set_ylabel("bed, y north (m)")
    above.colorbar(image, ax=panels, label="share of the sun's azimuths\nwith which the lens holds")
    plan, near = below.subplots(1, 2)
    _plan(plan, shape)
    _clearance_bars(near, report)
    return figure


def _edges(grid_m: Any) -> tuple[float, float]:
    half = float(grid_m[1] - grid_m[0]) / 2
    return float(grid_m[0]) - half, float(grid_m[-1]) + half


def _plan(axes: Any, shape: Any) -> None:
    """The parked machine from above: poles, cables, lens, bed."""
    half_x, half_y = shape.bed_size_m[0] / 2, shape.bed_size_m[1] / 2
    sides = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)])
    axes.fill(*(sides * [half_x, half_y]).T, color="wheat", label="bed")
    middle = shape.park_world_m[:2]
    axes.plot(*(middle + sides * [shape.short_edge_m / 2, shape.long_edge_m / 2]).T, "b-", label="lens at park")
    tied = middle + shape.attachments_lens_m[:, :2]
    for number, (start, end) in enumerate(zip(shape.pulleys_world_m, tied, strict=True)):
        upper = start[2] > shape.frame_height_m / 2
        style = {"color": "0.2", "linestyle": "-"} if upper else {"color": "C1", "linestyle": "--"}
        label = {0: "upper cables", 1: "lower cables"}.get(number, "")
        axes.plot([start[0], end[0]], [start[1], end[1]], linewidth=1, label=label or "_", **style)
    axes.plot(*shape.poles_world_m.T, "k^", label="poles")
    axes.set(title="from above", xlabel="x east (m)", ylabel="y north (m)", aspect="equal")
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize="small")


def _clearance_bars(axes: Any, report: Any) -> None:
    names = list(report.clearances_m)[::-1]
    values_mm = [report.clearances_m[name] * 1e3 for name in names]
    bars = axes.barh(names, values_mm, color=["C2" if value >= 20 else "C3" for value in values_mm])
    axes.bar_label(bars, fmt="%.0f mm", padding=3)
    axes.axvline(20, color="k", linestyle=":", linewidth=1)
    axes.margins(x=0.2)
    axes.set(title="least distances (20 mm needed; below 0: inside)", xlabel="mm")


def patch_figure(title: str, irradiance_w_m2: Any, x_m: Any, y_m: Any, outline_m: Any, axes_of: Any = None) -> Any:
    """Return the irradiance on the sand; over it the sharp outline and, of ``axes_of``, the patch's two axes.

    ``axes_of``: centre (2,), semi-axes (2,) and the first one's angle from world x, counterclockwise.
    """
    figure = _figure(6, 5)
    axes = figure.subplots()
    extent = (float(x_m[0]), float(x_m[-1]), float(y_m[0]), float(y_m[-1]))
    image = axes.imshow(np.asarray(irradiance_w_m2).T / 1e6, origin="lower", extent=extent, cmap="inferno")
    figure.colorbar(image, ax=axes, label="irradiance (MW/m2)")
    if outline_m is not None and len(outline_m):
        axes.plot(*np.vstack([outline_m, outline_m[:1]]).T, "c--", linewidth=1, label="sharp outline")
    if axes_of is not None:
        centre, lengths, angle = axes_of
        for number, length in enumerate(lengths):
            turn = angle + number * np.pi / 2
            way = length * np.array([np.cos(turn), np.sin(turn)])
            label = "semi-axes" if number == 0 else None
            axes.plot(*np.stack([centre - way, centre + way]).T, "w-", linewidth=0.8, label=label)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right", facecolor="0.3", labelcolor="w")
    axes.set(title=title, xlabel="x east (m)", ylabel="y north (m)", xlim=extent[:2], ylim=extent[2:])
    return figure
