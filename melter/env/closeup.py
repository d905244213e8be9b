"""What is painted flat over a picture: the caption, and a close-up of the light on the sand."""

from __future__ import annotations

import numpy as np

from melter.env.drawing import AHEAD, INK, PANEL, PATCH, PATCH_EDGE, SAND, TRACE, Painter, tracks
from melter.env.look import Array, Look, tension_colour
from melter.geometry.light import semi_axes_and_angle

TARGET = (0.80, 0.0, 0.30, 1.0)
CAPTION_LETTERS = 20
"""As many fit into the caption's panel."""
SMALLEST_HALF_M = 0.03
"""Half the width of the close-up, at least."""


def paint_caption(painter: Painter, look: Look) -> None:
    """Write the caption at the upper right, and what the cables' colours mean."""
    if not look.caption:
        return
    lines = look.caption if look.drawable else (look.caption[0], "diverged")
    size, margin = painter.height / 36, 0.03 * painter.height
    left, right, top = painter.width - 0.37 * painter.height, painter.width - margin, painter.height - margin
    bottom = top - (1.4 * len(lines) + 2.3) * size
    painter.polygon(_rectangle(left, bottom, right, top), PANEL, None)
    for i, line in enumerate(lines):
        shown = line if len(line) <= CAPTION_LETTERS else f"…{line[1 - CAPTION_LETTERS :]}"
        painter.text(left + 0.5 * size, top - (1.4 * i + 1.3) * size, shown, size)
    _legend(painter, look, left + 0.5 * size, bottom + 0.6 * size, 0.8 * size)


def paint_close_up(painter: Painter, look: Look) -> None:
    """Paint patch, trace, path and target from above, x right and y up, at the lower right."""
    if not look.drawable:
        return
    side = 0.34 * painter.height
    right, low = painter.width - 0.03 * painter.height, 0.03 * painter.height
    frame = _rectangle(right - side, low, right, low + side)
    axes, _ = semi_axes_and_angle(*look.moments_m2)
    half = SMALLEST_HALF_M * 2.0 ** max(0.0, np.ceil(np.log2(max(1.3 * float(axes[0]) / SMALLEST_HALF_M, 1e-9))))
    middle = look.spot_world_m if look.target_world_m is None else look.target_world_m
    centre = np.array([right - side / 2, low + side / 2])
    scale = side / 2 / half

    def on_panel(points: Array) -> Array:
        return centre + (points - middle) * scale

    painter.polygon(frame, SAND, None)
    painter.clip(frame)
    for track in tracks(look.trace_world_m):
        painter.polygon(on_panel(track), None, TRACE, 0.006 * scale)
    painter.polygon(on_panel(look.ellipse_world_m()), (*PATCH[:3], 0.55), PATCH_EDGE, 1.2, closed=True)
    if len(look.path_ahead_world_m) > 1:
        painter.polygon(on_panel(look.path_ahead_world_m), None, AHEAD, 1.5)
    _cross(painter, on_panel(look.spot_world_m[None])[0], 0.03 * side, PATCH_EDGE, diagonal=False)
    if look.target_world_m is not None:
        _cross(painter, on_panel(look.target_world_m[None])[0], 0.03 * side, TARGET, diagonal=True)
    painter.clip(None)
    _key(painter, look, right - side, low + side + 0.04 * side, side / 15)
    painter.polygon(frame, None, INK, 1.2, closed=True)
    _scale_bar(painter, (right - 0.94 * side, low + 0.06 * side), half / 3, scale, side / 15)


def _legend(painter: Painter, look: Look, x: float, y: float, size: float) -> None:
    """What the cables' colours mean."""
    low, high = look.machine.limits.tension_min_n, look.machine.limits.tension_max_n
    for word, tension_n in (("slack", 0.0), ("band", 0.5 * (low + high)), ("above", high)):
        colour = tension_colour(tension_n, look.machine)
        painter.polygon(np.array([(x, y + 0.35 * size), (x + 0.8 * size, y + 0.35 * size)]), None, colour, 0.3 * size)
        painter.text(x + 1.3 * size, y, word, size)
        x += (2.0 + 0.58 * len(word)) * size


def _scale_bar(painter: Painter, corner: tuple[float, float], length_m: float, scale: float, size_px: float) -> None:
    x, y = corner
    painter.polygon(np.array([(x, y), (x + length_m * scale, y)]), None, INK, 2.0)
    painter.text(x, y + 0.35 * size_px, f"{1e3 * length_m:.0f} mm", size_px)


def _key(painter: Painter, look: Look, x: float, y: float, size: float) -> None:
    """What the crosses mean."""
    words = [("spot", PATCH_EDGE, False)] + ([("target", TARGET, True)] if look.target_world_m is not None else [])
    for word, colour, diagonal in words:
        _cross(painter, np.array([x + 0.5 * size, y + 0.35 * size]), 0.45 * size, colour, diagonal=diagonal)
        painter.text(x + 1.4 * size, y, word, size)
        x += (2.6 + 0.6 * len(word)) * size


def _cross(
    painter: Painter, at: Array, reach: float, colour: tuple[float, float, float, float], *, diagonal: bool
) -> None:
    arms = np.array([(1.0, 1.0), (1.0, -1.0)]) * 0.7 if diagonal else np.array([(1.0, 0.0), (0.0, 1.0)])
    for arm in arms:
        painter.polygon(np.array([at - reach * arm, at + reach * arm]), None, colour, 1.6)


def _rectangle(left: float, low: float, right: float, high: float) -> Array:
    return np.array([(left, low), (right, low), (right, high), (left, high)])
