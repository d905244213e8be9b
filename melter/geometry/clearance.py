"""How near cables come to the light, to each other, to the lens and to the poles. World frame, metres."""

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
    ``cable-lens``: cable to the lens sheet; ``cable-pole``: cable to a pole that is not its own;
    ``lens-pole``: edge of the lens to a pole.
    """
    centre, sun = np.asarray(centre_world_m, dtype=float), np.asarray(sun_world, dtype=float)
    ends = centre[..., None, :] + apply(rotation[..., None, :, :], shape.attachments_lens_m)
    start = np.broadcast_to(shape.pulleys_world_m, ends.shape)
    share = np.linspace(0, 1, SAMPLES)[:, None]
    points = ends[..., None, :] + share * (start - ends)[..., None, :]
    lens = _to_lens(points - centre[..., None, None, :], rotation)
    tied = np.sqrt(np.square(points - ends[..., None, :]).sum(axis=-1)) < NEAR_M
    light = np.where(tied, np.inf, _to_light(shape, lens, points, rotation, sun))
    sheet = np.where(tied, np.inf, _to_sheet(shape, lens))
    return {
        "cable-light": light.min(axis=(-1, -2)),
        "cable-cable": _between_cables(shape, ends, start),
        "cable-lens": sheet.min(axis=(-1, -2)),
        "cable-pole": _to_poles(shape, ends, start),
        "lens-pole": _lens_to_poles(shape, centre, rotation),
    }


def _to_lens(offset: Array, rotation: Array) -> Array:
    """World offsets (..., 8, k, 3) from the lens centre in the lens frame."""
    return apply(np.swapaxes(rotation, -1, -2)[..., None, None, :, :], offset)


def _to_light(shape: MachineShape, lens: Array, points: Array, rotation: Array, sun: Array) -> Array:
    """Distance, across the axis of the light, from points to its cross-section; inf above lens, under sand."""
    ray = apply(np.swapaxes(rotation, -1, -2), sun)
    depth = -lens[..., 2] / ray[..., 2][..., None, None]
    width = np.abs(1 - depth / shape.focal_length_m)
    u = np.abs(lens[..., 0] + depth * ray[..., 0][..., None, None]) - width * shape.short_edge_m / 2
    v = np.abs(lens[..., 1] + depth * ray[..., 1][..., None, None]) - width * shape.long_edge_m / 2
    lit = (depth > 0) & (points[..., 2] > shape.sand_height_m)
    return np.where(lit, _box(u, v), np.inf)


def _to_sheet(shape: MachineShape, lens: Array) -> Array:
    """Distance from points in the lens frame to the lens sheet."""
    u, v = np.abs(lens[..., 0]) - shape.short_edge_m / 2, np.abs(lens[..., 1]) - shape.long_edge_m / 2
    return np.sqrt(np.maximum(u, 0) ** 2 + np.maximum(v, 0) ** 2 + lens[..., 2] ** 2)


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


def _to_poles(shape: MachineShape, ends: Array, start: Array) -> Array:
    least = np.full(ends.shape[:-2], np.inf)
    for pole in shape.poles_world_m:
        foot = np.array([*pole, shape.sand_height_m])
        top = np.array([*pole, shape.frame_height_m])
        for i in range(ends.shape[-2]):
            if not _near(shape.pulleys_world_m[i, :2], pole):
                least = np.minimum(least, segment_distance_m(start[..., i, :], ends[..., i, :], foot, top))
    return least


def _lens_to_poles(shape: MachineShape, centre: Array, rotation: Array) -> Array:
    half = np.array([(i * shape.short_edge_m / 2, j * shape.long_edge_m / 2, 0.0) for i, j in _CORNERS])
    corner = centre[..., None, :] + apply(rotation[..., None, :, :], half)
    least = np.full(centre.shape[:-1], np.inf)
    for pole in shape.poles_world_m:
        foot, top = np.array([*pole, shape.sand_height_m]), np.array([*pole, shape.frame_height_m])
        for k in range(4):
            least = np.minimum(least, segment_distance_m(corner[..., k, :], corner[..., (k + 1) % 4, :], foot, top))
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
