"""Pictures of a simulated machine, with MuJoCo's renderer where OpenGL works and without it elsewhere.

Both show the same: MuJoCo draws sand, poles and lens with light and shadow; cables, light, paths, caption and the
close-up are painted over it by :mod:`melter.env.drawing`, which draws the rest as well where there is no OpenGL.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from melter.env.batch import SandMelterBatch
from melter.env.closeup import paint_caption, paint_close_up
from melter.env.drawing import Eye, Painter, Picture, eye_for, shapes_of, sky_and_ground
from melter.env.gl import SolidRenderer, working_gl
from melter.env.look import NO_PATH, Array, Look, look_at, look_of
from melter.errors import BadInput
from melter.machine import Machine

SIZE_PX, PANEL_PX = (960, 540), (800, 540)
TRACE_POINTS = 20_000
"""Oldest points of the trace beyond this are forgotten."""
GAP = np.full(2, np.nan)
"""Stands in a trace where the light did not melt."""


class View:
    """Looks at one simulation of a batch. The spot's trace grows with each picture, anew in each episode."""

    def __init__(
        self, batch: SandMelterBatch, index: int = 0, size_px: tuple[int, int] = SIZE_PX, title: str = ""
    ) -> None:
        """``title`` heads the caption. Raises BadInput for a simulation that is not there and sizes outside 64 to 4096 px."""
        self._onlooker = _Onlooker(batch, index, title)
        self._canvas = _Canvas(batch.machine, size_px)

    def look(self) -> Look:
        """Return what is to be seen now, the trace included."""
        return self._onlooker.look()

    def picture(self) -> Picture:
        """Return (h, w, 3) RGB."""
        return self._canvas.picture(self.look())

    def close(self) -> None:
        """Free the drawing context; the view is of no use afterwards."""
        self._canvas.close()


class SideBySide:
    """Looks at the first simulations of a batch at once, one panel each, from left to right."""

    def __init__(self, batch: SandMelterBatch, titles: Sequence[str], panel_px: tuple[int, int] = PANEL_PX) -> None:
        """Raises BadInput as :class:`View` does."""
        self._onlookers = [_Onlooker(batch, index, title) for index, title in enumerate(titles)]
        self._canvas = _Canvas(batch.machine, panel_px)

    def picture(self) -> Picture:
        """Return (h, panels * w, 3) RGB."""
        return np.concatenate([self._canvas.picture(onlooker.look()) for onlooker in self._onlookers], axis=1)

    def close(self) -> None:
        """Free the drawing context; the view is of no use afterwards."""
        self._canvas.close()


class _Onlooker:
    """Remembers where the spot of one simulation has been."""

    def __init__(self, batch: SandMelterBatch, index: int, title: str) -> None:
        if not 0 <= index < batch.count:
            raise BadInput(f"view: simulation {index}, must lie between 0 and {batch.count - 1}")
        self._batch, self._index, self._title = batch, index, title
        self._trace: list[Array] = []
        self._tick, self._key = -1, -1

    def look(self) -> Look:
        tick, key = int(self._batch.tick[self._index]), int(self._batch.keys[self._index])
        if key != self._key or tick < self._tick:
            self._trace.clear()
        spot = self._batch.patch[self._index, :2].copy()
        if (key, tick) != (self._key, self._tick) and np.isfinite(spot).all():
            self._trace.append(spot if self._batch.melting[self._index] else GAP)
            del self._trace[:-TRACE_POINTS]
        self._tick, self._key = tick, key
        return look_of(self._batch, self._index, np.array(self._trace).reshape(-1, 2), self._title)


class _Canvas:
    """Draws looks of one machine at one size."""

    def __init__(self, machine: Machine, size_px: tuple[int, int]) -> None:
        if not all(64 <= side <= 4096 for side in size_px):
            raise BadInput(f"view: size {size_px[0]}x{size_px[1]} px, must lie between 64 and 4096 px each")
        self.eye = eye_for(machine, size_px)
        self._solid = _solid_renderer(machine, self.eye)
        self._empty = sky_and_ground(self.eye)

    def picture(self, look: Look) -> Picture:
        """Return (h, w, 3) RGB."""
        shapes = shapes_of(look)
        if self._solid is None:
            painter = Painter(self._empty, self.eye)
        else:
            painter = Painter(self._solid.picture(look), self.eye)
            shapes = [shape for shape in shapes if not shape.solid]
        painter.paint(shapes)
        paint_caption(painter, look)
        paint_close_up(painter, look)
        return painter.picture()

    def close(self) -> None:
        """Free the drawing context."""
        if self._solid is not None:
            self._solid.close()
            self._solid = None


def _solid_renderer(machine: Machine, eye: Eye) -> SolidRenderer | None:
    """MuJoCo's renderer, or None where OpenGL does not work, whatever the reason."""
    name = working_gl()
    if name is None:
        return None
    try:
        return SolidRenderer(machine, eye, name)
    except Exception:  # drivers raise what they like; the drawn view needs none of them
        return None


def machine_picture(machine: Machine, path: str | Path, size_px: tuple[int, int] = (1280, 720)) -> None:
    """Write a PNG of ``machine`` at work on the middle of its bed, about to melt a square. Raises BadInput."""
    from PIL import Image

    place = Path(path)
    if place.suffix.lower() != ".png" or not place.parent.is_dir():
        raise BadInput(f"picture {place}: must be a .png in a folder that exists")
    half = 0.35 * min(machine.bed.size_m)
    corners = [(0.0, 0.0), (0.0, -half), (half, -half), (half, half), (-half, half), (-half, -half), (0.0, -half)]
    canvas = _Canvas(machine, size_px)
    picture = canvas.picture(look_at(machine, (0.0, 0.0), np.array(corners)))
    canvas.close()
    beside = place.with_name(f".{place.name}.tmp")
    Image.fromarray(picture).save(beside, format="PNG", optimize=True)
    beside.replace(place)


__all__ = ["NO_PATH", "SideBySide", "View", "machine_picture"]
