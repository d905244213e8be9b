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
    """Return the map of the bed and the bars by zenith angle of a machine's report."""
    figure = _figure(10, 4.6)
    left, right = figure.subplots(1, 2)
    half_x, half_y = (float(side[1] - side[0]) / 2 for side in (report.bed_x_m, report.bed_y_m))
    extent = (
        float(report.bed_x_m[0]) - half_x,
        float(report.bed_x_m[-1]) + half_x,
        float(report.bed_y_m[0]) - half_y,
        float(report.bed_y_m[-1]) + half_y,
    )
    image = left.imshow(report.bed_share.T, origin="lower", extent=extent, vmin=0, vmax=1, cmap="RdYlGn")
    figure.colorbar(image, ax=left, label="share of suns for which the lens holds")
    left.set(title=f"{name}: sun up to {report.zenith_deg:g} deg", xlabel="x east (m)", ylabel="y north (m)")
    left.plot(*shape.poles_world_m.T, "k^", label="poles", clip_on=True)
    left.legend(loc="upper right")
    zeniths = list(report.by_zenith_deg)
    right.bar([f"{z:g}" for z in zeniths], [report.by_zenith_deg[z] for z in zeniths], color="0.5")
    right.set(
        title=f"wind {shape.wind_m_s:g} m/s", xlabel="zenith angle (deg)", ylabel="share that holds", ylim=(0, 1.02)
    )
    return figure


def patch_figure(title: str, irradiance_w_m2: Any, x_m: Any, y_m: Any, outline_m: Any) -> Any:
    """Return the irradiance on the sand with the sharp outline drawn over it."""
    figure = _figure(6, 5)
    axes = figure.subplots()
    extent = (float(x_m[0]), float(x_m[-1]), float(y_m[0]), float(y_m[-1]))
    image = axes.imshow(np.asarray(irradiance_w_m2).T / 1e6, origin="lower", extent=extent, cmap="inferno")
    figure.colorbar(image, ax=axes, label="irradiance (MW/m2)")
    if outline_m is not None:
        axes.plot(*np.vstack([outline_m, outline_m[:1]]).T, "c--", linewidth=1, label="sharp outline")
        axes.legend(loc="upper right")
    axes.set(title=title, xlabel="x east (m)", ylabel="y north (m)", xlim=extent[:2], ylim=extent[2:])
    return figure
