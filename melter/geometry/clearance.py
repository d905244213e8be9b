"""How near cables come to the light, to each other, to the lens and to the frame. World frame, metres."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.geometry.pose import apply
from melter.geometry.shape import MachineShape

Array = NDArray[np.float64]

SAMPLES = 41
"""Points looked at along each cable."""
NEAR_M = 0.15
"""Length next to its attachment where a cable may touch lens and light: it is tied there."""
SAME_PLACE_M = 0.1
"""Pulleys or attachments nearer than this (seen along the pole, or the strut) belong together."""


def clearances_m(
    shape: MachineShape, centre_world_m: ArrayLike, rotation: Array, sun_world: ArrayLike
) -> dict[str, Array]:
    """Return (...) least distances of poses (..., 3), (..., 3, 3) under (..., 3) suns, by what comes near to what.

    ``cable-light``: cable to the pyramid of light from the aperture to the focus and on to the sand, negative inside;
    ``cable-cable``: two cables, the crossed pair of one pole and one strut left out, and near ends that two share;
    ``cable-lens``: cable to the lens sheet; ``cable-frame``: cable to poles and top ring, its own pole left out;
    ``lens-frame``: lens sheet to poles and top ring. All but the first are 0 where the two touch or cross.
    """
    centre, sun = np.asarray(centre_world_m, dtype=float), np.asarray(sun_world, dtype=float)
    ends = centre[..., None, :] + apply(rotation[..., None, :, :], shape.attachments_lens_m)
    start = np.broadcast_to(shape.pulleys_world_m, ends.shape)
    free = _shortened(start, ends, pulleys=False, struts=True)[1]
    back = np.swapaxes(rotation, -1, -2)[..., None, :, :]
    lens_start, lens_end = (apply(back, p - centre[..., None, :]) for p in (start, free))
    return {
        "cable-light": _to_light(shape, start, free, centre, rotation, sun).min(axis=-1),
        "cable-cable": _between_cables(shape, ends, start),
        "cable-lens": sheet_distance_m(shape, lens_start, lens_end).min(axis=-1),
        "cable-frame": _cables_to_frame(shape, ends, start),
        "lens-frame": _lens_to_frame(shape, centre, rotation),
    }


def _to_light(shape: MachineShape, start: Array, end: Array, centre: Array, rotation: Array, sun: Array) -> Array:
    """(..., 8) least distance of cables to the light, from points all along and then more of them about the nearest."""
    back = np.swapaxes(rotation, -1, -2)[..., None, None, :, :]
    middle = centre[..., None, None, :]

    def along(share: Array) -> Array:
        points = end[..., None, :] + share[..., None] * (start - end)[..., None, :]
        return _light_distance_m(shape, apply(back, points - middle), points[..., 2], rotation, sun)

    share = np.broadcast_to(np.linspace(0, 1, SAMPLES), (*end.shape[:-1], SAMPLES))
    coarse = along(share)
    best = np.take_along_axis(share, coarse.argmin(axis=-1)[..., None], axis=-1)
    fine = along(np.clip(best + np.linspace(-1, 1, SAMPLES) / (SAMPLES - 1), 0, 1))
    return np.minimum(coarse.min(axis=-1), fine.min(axis=-1))


def _light_distance_m(shape: MachineShape, lens: Array, z_world_m: Array, rotation: Array, sun: Array) -> Array:
    """Distance from points (..., 8, k) to the sides of the light; inf above the lens and under the sand."""
    ray = apply(np.swapaxes(rotation, -1, -2), sun)
    depth = -lens[..., 2] / ray[..., 2][..., None, None]
    width = np.abs(1 - depth / shape.focal_length_m)
    half_x, half_y = shape.short_edge_m / 2, shape.long_edge_m / 2
    lean_x, lean_y = (float(np.cos(np.arctan(half / shape.focal_length_m))) for half in (half_x, half_y))
    u = lean_x * (np.abs(lens[..., 0] + depth * ray[..., 0][..., None, None]) - width * half_x)
    v = lean_y * (np.abs(lens[..., 1] + depth * ray[..., 1][..., None, None]) - width * half_y)
    lit = (depth > 0) & (z_world_m > shape.sand_height_m)
    return np.where(lit, _box(u, v), np.inf)


def sheet_distance_m(shape: MachineShape, p0: Array, p1: Array) -> Array:
    """Return the (...) distance of segments p0-p1, lens frame (..., 3), to the lens sheet; 0 where they pass through."""
    half = np.array([shape.short_edge_m, shape.long_edge_m]) / 2
    corner = np.array([(i * half[0], j * half[1], 0.0) for i, j in _CORNERS])
    least = np.full(p0.shape[:-1], np.inf)
    for k in range(4):
        least = np.minimum(least, segment_distance_m(p0, p1, corner[k], corner[(k + 1) % 4]))
    for p in (p0, p1):
        over = (np.abs(p[..., :2]) <= half).all(axis=-1)
        least = np.where(over, np.minimum(least, np.abs(p[..., 2])), least)
    z0, z1 = p0[..., 2:], p1[..., 2:]
    apart = np.where(z0 == z1, 1.0, z0 - z1)
    crossing = p0[..., :2] + z0 / apart * (p1 - p0)[..., :2]
    through = (z0 * z1 <= 0)[..., 0] & (np.abs(crossing) <= half).all(axis=-1)
    return np.where(through, 0.0, least)


def _box(u: Array, v: Array) -> Array:
    """Signed distance to a rectangle from the distances beyond its sides."""
    outside = np.sqrt(np.maximum(u, 0) ** 2 + np.maximum(v, 0) ** 2)
    return np.where((u < 0) & (v < 0), np.maximum(u, v), outside)


def _between_cables(shape: MachineShape, ends: Array, start: Array) -> Array:
    least = np.full(ends.shape[:-2], np.inf)
    for i, j in combinations(range(ends.shape[-2]), 2):
        pulleys = _near(shape.pulleys_world_m[i, :2], shape.pulleys_world_m[j, :2])
        struts = _near(shape.attachments_lens_m[i, :2], shape.attachments_lens_m[j, :2])
        if pulleys and struts:
            continue
        a = _shortened(start[..., i, :], ends[..., i, :], pulleys, struts)
        b = _shortened(start[..., j, :], ends[..., j, :], pulleys, struts)
        least = np.minimum(least, segment_distance_m(*a, *b))
    return least


def _near(a: Array, b: Array) -> bool:
    return bool(np.hypot(*(a - b)) < SAME_PLACE_M)


def _shortened(start: Array, end: Array, pulleys: bool, struts: bool) -> tuple[Array, Array]:
    """A cable without its last stretch where it shares that end with the other."""
    way = end - start
    unit = way / np.sqrt((way * way).sum(axis=-1, keepdims=True))
    return start + NEAR_M * pulleys * unit, end - NEAR_M * struts * unit


def frame_bars_world_m(shape: MachineShape) -> list[tuple[Array, Array]]:
    """Return the ends, (3,) each, of the frame's poles and of the ring that joins their tops, in order around."""
    poles = shape.poles_world_m
    from_middle = poles - poles.mean(axis=0)
    poles = poles[np.argsort(np.arctan2(from_middle[:, 1], from_middle[:, 0]))]
    tops = [np.array([*pole, shape.frame_height_m]) for pole in poles]
    upright = [(np.array([*pole, shape.sand_height_m]), top) for pole, top in zip(poles, tops, strict=True)]
    return [*upright, *zip(tops, [*tops[1:], tops[0]], strict=True)]


def _cables_to_frame(shape: MachineShape, ends: Array, start: Array) -> Array:
    """Bars that end at a cable's own pole count only beyond the stretch next to its pulley; its pole not at all."""
    least = np.full(ends.shape[:-2], np.inf)
    for foot, top in frame_bars_world_m(shape):
        for i in range(ends.shape[-2]):
            pulley = shape.pulleys_world_m[i]
            own = [_near(pulley[:2], end[:2]) for end in (foot, top)]
            if all(own):
                continue
            p0, p1 = _shortened(start[..., i, :], ends[..., i, :], pulleys=any(own), struts=False)
            least = np.minimum(least, segment_distance_m(p0, p1, foot, top))
    return least


def _lens_to_frame(shape: MachineShape, centre: Array, rotation: Array) -> Array:
    back = np.swapaxes(rotation, -1, -2)
    least = np.full(centre.shape[:-1], np.inf)
    for foot, top in frame_bars_world_m(shape):
        least = np.minimum(least, sheet_distance_m(shape, apply(back, foot - centre), apply(back, top - centre)))
    return least


_CORNERS = ((-1, -1), (1, -1), (1, 1), (-1, 1))


def segment_distance_m(p0: Array, p1: Array, q0: Array, q1: Array) -> Array:
    """Return the (...) distance between straight segments p0-p1 and q0-q1, each (..., 3).

    Source: Ericson, Real-Time Collision Detection (2005), section 5.1.9.
    """
    d1, d2, r = p1 - p0, q1 - q0, p0 - q0
    a, e, f = (d1 * d1).sum(-1), (d2 * d2).sum(-1), (d2 * r).sum(-1)
    b, c = (d1 * d2).sum(-1), (d1 * r).sum(-1)
    denominator = a * e - b * b
    parallel = denominator <= 1e-12 * a * e
    s = np.where(parallel, 0.0, np.clip((b * f - c * e) / np.where(parallel, 1.0, denominator), 0, 1))
    t = (b * s + f) / np.maximum(e, 1e-300)
    s = np.where(t < 0, np.clip(-c / np.maximum(a, 1e-300), 0, 1), s)
    s = np.where(t > 1, np.clip((b - c) / np.maximum(a, 1e-300), 0, 1), s)
    gap = p0 + s[..., None] * d1 - q0 - np.clip(t, 0, 1)[..., None] * d2
    return np.sqrt((gap * gap).sum(-1))
