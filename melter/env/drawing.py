"""Draws a machine without OpenGL: shapes in space, seen by a pinhole camera, painted back to front.

Painting is matplotlib's Agg rasteriser used directly: no figure, no window, no global state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.transforms import Bbox, IdentityTransform
from numpy.typing import NDArray

from melter.env.look import Array, Colour, Look, tension_colour
from melter.machine import Machine

Picture = NDArray[np.uint8]

FIELD_OF_VIEW_RAD = np.radians(27.0)
"""Vertical."""
AZIMUTH_RAD, ELEVATION_RAD = np.radians(196.0), np.radians(-21.0)
"""Where the camera looks: from the east, a little from the north and from above."""
SKY_TOP, SKY_LOW, GROUND = (0.53, 0.68, 0.85), (0.88, 0.92, 0.95), (0.63, 0.59, 0.53, 1.0)
SAND, SAND_EDGE, SHADOW = (0.84, 0.74, 0.54, 1.0), (0.55, 0.46, 0.30, 1.0), (0.10, 0.08, 0.05, 0.38)
POLE, RING, PULLEY = (0.40, 0.42, 0.47, 1.0), (0.48, 0.50, 0.55, 1.0), (0.15, 0.15, 0.17, 1.0)
STRUT, LENS, LENS_EDGE = (0.22, 0.22, 0.24, 1.0), (0.62, 0.85, 1.0, 0.42), (0.10, 0.28, 0.42, 1.0)
CONE, RAY, PATCH = (1.0, 0.84, 0.25, 0.16), (1.0, 0.80, 0.20, 0.75), (1.0, 0.97, 0.70, 0.95)
PATCH_EDGE, AHEAD, TRACE = (0.95, 0.45, 0.0, 1.0), (0.95, 0.97, 1.0, 0.95), (0.10, 0.36, 0.30, 0.95)
INK, PANEL = (0.08, 0.09, 0.11, 1.0), (1.0, 1.0, 1.0, 0.78)
FLOOR, MIDDLE = 0, 1
"""Layers: what lies on the sand is painted first."""


@dataclass(frozen=True)
class Eye:
    """A pinhole camera that looks at a point, upright."""

    position_world_m: Array
    axes: Array
    """(3, 3) rows right, up, forward, world frame."""
    look_at_world_m: Array
    distance_m: float
    size_px: tuple[int, int]
    """Width and height."""

    @property
    def focal_px(self) -> float:
        """Pixels per unit of slope."""
        return self.size_px[1] / 2 / float(np.tan(FIELD_OF_VIEW_RAD / 2))

    def project(self, points_world_m: Array) -> tuple[Array, Array]:
        """Return (k, 2) pixels (x right, y up, from the lower left corner) and (k,) distances along the view."""
        seen = (points_world_m - self.position_world_m) @ self.axes.T
        depth = np.maximum(seen[:, 2], 0.05)
        width, height = self.size_px
        return seen[:, :2] / depth[:, None] * self.focal_px + (width / 2, height / 2), depth


def eye_for(machine: Machine, size_px: tuple[int, int]) -> Eye:
    """Return the camera that has the whole machine in view, room for words and close-up at the right."""
    feet = np.array(machine.frame.poles_world_m)
    ends = [np.column_stack([feet, np.full(len(feet), z)]) for z in (machine.sand.height_m, machine.frame.height_m)]
    corners = np.concatenate([*ends, machine.pulleys_world_m])
    forward = np.array([np.cos(AZIMUTH_RAD), np.sin(AZIMUTH_RAD), np.tan(ELEVATION_RAD)])
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    axes = np.array([right, np.cross(right, forward), forward])
    look_at = (corners.min(axis=0) + corners.max(axis=0)) / 2
    distance_m = 10 * float(np.ptp(corners, axis=0).max())
    low, high = np.array((0.03, 0.04)) * size_px, np.array((0.77, 0.94)) * size_px
    eye = Eye(look_at - distance_m * forward, axes, look_at, distance_m, size_px)
    for _ in range(12):
        pixels, _ = eye.project(corners)
        left_low, right_high = pixels.min(axis=0), pixels.max(axis=0)
        off_px = (left_low + right_high) / 2 - (low + high) / 2
        look_at = look_at + (off_px / eye.focal_px * distance_m) @ axes[:2]
        distance_m *= float(((right_high - left_low) / (high - low)).max())
        eye = Eye(look_at - distance_m * forward, axes, look_at, distance_m, size_px)
    return eye


@dataclass(frozen=True, eq=False)
class Shape:
    """A polygon or line in space."""

    points_world_m: Array
    """(k, 3)."""
    fill: Colour | None = None
    line: Colour | None = None
    width_m: float = 0.0
    """Of the line; at least ``width_px`` wide on the picture."""
    width_px: float = 1.0
    closed: bool = False
    layer: int = MIDDLE
    solid: bool = False


def shapes_of(look: Look) -> list[Shape]:
    """Return everything that is to be seen but sky and ground; ``solid`` ones are MuJoCo's where it draws."""
    shapes = _frame(look)
    if not look.drawable:
        return shapes
    shapes.append(Shape(look.shadow_world_m, SHADOW, layer=FLOOR, solid=True))
    for lines, colour, width_m in (
        ([look.path_ahead_world_m], AHEAD, 0.004),
        (tracks(look.trace_world_m), TRACE, 0.014),
    ):
        for points in lines:
            if len(points) > 1:
                shapes.append(Shape(look.on_sand_world_m(_thinned(points)), line=colour, width_m=width_m, layer=FLOOR))
    return shapes + _patch(look) + _cone(look) + _lens(look)


def _frame(look: Look) -> list[Shape]:
    """Bed, poles, the ring on top of them, pulleys."""
    machine = look.machine
    feet = np.array(machine.frame.poles_world_m)
    bed = look.on_sand_world_m(_box(*(np.array(machine.bed.size_m) / 2)))
    top = np.column_stack([feet, np.full(len(feet), machine.frame.height_m)])
    low = look.on_sand_world_m(feet)
    shapes = [Shape(bed, SAND, layer=FLOOR, solid=True), Shape(bed, None, SAND_EDGE, closed=True, layer=FLOOR)]
    shapes += [Shape(np.array(pair), line=POLE, width_m=0.06, solid=True) for pair in zip(low, top, strict=True)]
    shapes += [
        Shape(np.array(pair), line=RING, width_m=0.03) for pair in zip(top, np.roll(top, -1, axis=0), strict=True)
    ]
    return shapes + [Shape(_disc(pulley, 0.035), PULLEY) for pulley in look.pulleys_world_m]


def _patch(look: Look) -> list[Shape]:
    """The patch and its glow, which fades as the light spreads."""
    ellipse = look.ellipse_world_m()
    glow = min(1.0, 0.02 / max(float(np.abs(ellipse - look.spot_world_m).max()), 1e-3))
    shapes = [
        Shape(
            look.on_sand_world_m(look.spot_world_m + k * (ellipse - look.spot_world_m)),
            (*PATCH[:3], glow * alpha),
            layer=FLOOR,
        )
        for k, alpha in ((4.5, 0.18), (3.2, 0.22), (2.1, 0.35))
    ]
    fill = (*PATCH[:3], max(0.35, 0.95 * glow))
    return [*shapes, Shape(look.on_sand_world_m(ellipse), fill, PATCH_EDGE, closed=True, layer=FLOOR)]


def _cone(look: Look) -> list[Shape]:
    corners, feet = look.lens_corners_world_m, look.cone_foot_world_m
    shapes: list[Shape] = []
    for i in range(4):
        j = (i + 1) % 4
        shapes.append(Shape(np.array([corners[i], corners[j], feet[j], feet[i]]), CONE))
        shapes.append(Shape(np.array([corners[i], feet[i]]), line=RAY))
        middle = (corners[i] + corners[j]) / 2
        shapes.append(Shape(np.array([middle, middle + 0.6 * look.sun_world]), line=RAY))
    return shapes


def _lens(look: Look) -> list[Shape]:
    corners, ends = look.lens_corners_world_m, look.attachments_world_m
    shapes = [Shape(corners, LENS, solid=True), Shape(corners, None, LENS_EDGE, 0.02, closed=True)]
    for i, end in enumerate(ends):
        corner = corners[np.argmin(np.linalg.norm(corners - end, axis=1))]
        shapes.append(Shape(np.array([corner, end]), line=STRUT, width_m=0.024, solid=True))
        colour = tension_colour(float(look.tensions_n[i]), look.machine)
        shapes.append(Shape(np.array([look.pulleys_world_m[i], end]), line=colour, width_m=0.008, width_px=1.8))
    return shapes


def sky_and_ground(eye: Eye) -> Picture:
    """Return a (h, w, 3) background: sky, lighter towards the horizon, and ground below it."""
    width, height = eye.size_px
    right, up, forward = eye.axes
    del right
    slope = -float(forward[2]) / float(up[2])
    above = (height - 0.5 - np.arange(height)) - (height / 2 + slope * eye.focal_px)
    share = np.clip(1 - above / (0.4 * height), 0, 1)[:, None]
    sky = (1 - share) * np.array(SKY_TOP) + share * np.array(SKY_LOW)
    haze = 0.6 * np.exp(np.minimum(above, 0) / (0.4 * height))[:, None]
    ground = (1 - haze) * np.array(GROUND[:3]) + haze * np.array(SKY_LOW)
    rows = np.where(above[:, None] > 0, sky, ground)
    return np.broadcast_to(np.rint(255 * rows)[:, None], (height, width, 3)).astype(np.uint8)


class Painter:
    """Paints shapes and labels onto one picture of (width, height) pixels."""

    def __init__(self, background: Picture, eye: Eye | None = None) -> None:
        self.height, self.width = background.shape[:2]
        self._agg = RendererAgg(self.width, self.height, 72)
        self._eye, self._unmoved = eye, IdentityTransform()
        self._clip: Bbox | None = None
        np.asarray(self._agg.buffer_rgba())[..., :3] = background
        np.asarray(self._agg.buffer_rgba())[..., 3] = 255

    def paint(self, shapes: list[Shape]) -> None:
        """Paint shapes in space, by layer and from back to front."""
        if self._eye is None:
            return
        seen = [(shape, *self._eye.project(shape.points_world_m)) for shape in shapes]
        for shape, pixels, depth in sorted(
            seen, key=lambda item: (item[0].layer, -item[0].layer * float(item[2].mean()))
        ):
            width_px = max(shape.width_px, shape.width_m * self._eye.focal_px / float(depth.mean()))
            self.polygon(pixels, shape.fill, shape.line, width_px, closed=shape.closed)

    def polygon(
        self, pixels: Array, fill: Colour | None, line: Colour | None, width_px: float = 1.0, *, closed: bool = False
    ) -> None:
        """Paint a polygon or line of (k, 2) pixels, y up."""
        context: Any = self._agg.new_gc()
        context.set_linewidth(width_px if line else 0.0)
        context.set_foreground(line or (0, 0, 0, 0), isRGBA=True)
        context.set_capstyle("round")
        context.set_joinstyle("round")
        if self._clip is not None:
            context.set_clip_rectangle(self._clip)
        outline = Path(np.concatenate([pixels, pixels[:1]]) if closed or fill else pixels)
        self._agg.draw_path(context, outline, self._unmoved, fill)

    def clip(self, rectangle: Array | None) -> None:
        """Confine what follows to the rectangle of (4, 2) pixels; None lifts that."""
        self._clip = None if rectangle is None else Bbox([rectangle.min(axis=0), rectangle.max(axis=0)])

    def text(self, x_px: float, y_px: float, text: str, size_px: float, colour: Colour = INK) -> None:
        """Write ``text`` with its lower left corner at (x, y), y up."""
        context: Any = self._agg.new_gc()
        context.set_foreground(colour, isRGBA=True)
        self._agg.draw_text(context, x_px, self.height - y_px, text, FontProperties(size=size_px), 0.0)

    def picture(self) -> Picture:
        """Return the (h, w, 3) RGB picture."""
        return np.array(np.asarray(self._agg.buffer_rgba())[..., :3])


def _box(half_x: float, half_y: float) -> Array:
    return np.array([(-half_x, -half_y), (half_x, -half_y), (half_x, half_y), (-half_x, half_y)])


def _disc(middle: Array, radius_m: float) -> Array:
    """A small upright diamond-like disc that looks round from everywhere near the horizon."""
    turn = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    side = np.array([-np.sin(AZIMUTH_RAD), np.cos(AZIMUTH_RAD), 0.0])
    return middle + radius_m * (np.cos(turn)[:, None] * side + np.sin(turn)[:, None] * (0.0, 0.0, 1.0))


def tracks(trace_world_m: Array) -> list[Array]:
    """Return the pieces of (m, 2) points between the gaps (NaN), each (k, 2) with k of at least 1."""
    gap = ~np.isfinite(trace_world_m).all(axis=1)
    pieces = np.split(trace_world_m, np.flatnonzero(gap))
    return [piece for piece in (p[np.isfinite(p).all(axis=1)] for p in pieces) if len(piece)]


def _thinned(points: Array, most: int = 400) -> Array:
    """At most about ``most`` of the points, the last one always."""
    step = max(1, len(points) // most)
    return np.concatenate([points[:-1:step], points[-1:]])
