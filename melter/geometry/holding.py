"""Can eight cables hold the lens: wrench feasibility and tension distribution, exact and for many poses at once.

Balancing tensions form a plane in eight dimensions (8 cables, 6 equations): t = t0 + N y with two numbers y. The
tension band cuts a polygon with at most 16 sides from it. A pose holds if that polygon is not empty, which its
corners decide; the tensions nearest to preferred ones are the nearest point of the polygon. Poses whose structure
matrix loses rank have more than two free numbers and go to a linear program (scipy's HiGHS).

World frame, metres, newtons; a wrench is (force, moment about the lens centre). Source of the idea: Pott,
Cable-Driven Parallel Robots (2018), ch. 3; Bosscher, Riechel, Ebert-Uphoff, IEEE T-RO 22 (2006).
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.geometry.cables import structure_matrix
from melter.geometry.pose import apply, rotation_facing, sun_direction_world, work_centre_world_m
from melter.geometry.shape import AIR_KG_M3, DRAG, GRAVITY_M_S2, MachineShape

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

RANK = 1e-7
"""Smallest singular value, over the largest, of a structure matrix with full rank."""
SLACK_N = 1e-6
"""Tension by which a band may be missed: rounding."""
CHUNK = 2048
"""Poses worked on at a time."""
_PAIRS = np.array([*combinations(range(8), 2)])


def structure_of(shape: MachineShape, centre_world_m: ArrayLike, rotation: Array) -> Array:
    """Return the (..., 6, 8) structure matrices of poses (..., 3) and (..., 3, 3)."""
    return structure_matrix(shape.pulleys_world_m, shape.attachments_lens_m, centre_world_m, rotation)


def wrenches_n(shape: MachineShape, rotation: Array, wind_m_s: float = 0.0) -> Array:
    """Return the (2, ..., 6) extreme wrenches of gravity and a level wind from any side, on lenses (..., 3, 3).

    Wind pushes along the lens's normal, with the square of its own component along it. Between the extremes every
    wrench is a mixture, so that a pose that balances both balances all.
    """
    arm = apply(rotation, shape.centre_of_mass_lens_m)
    weight = np.zeros(arm.shape)
    weight[..., 2] = -shape.mass_kg * GRAVITY_M_S2
    still = np.concatenate([weight, np.cross(arm, weight)], axis=-1)
    normal = rotation[..., 2]
    level2 = np.maximum(1 - normal[..., 2] ** 2, 0.0)
    push = 0.5 * AIR_KG_M3 * DRAG * shape.short_edge_m * shape.long_edge_m * wind_m_s**2 * level2
    force = np.concatenate([push[..., None] * normal, np.zeros(arm.shape)], axis=-1)
    return np.stack([still + force, still - force])


def holds(structure: Array, wrench: Array, low_n: float, high_n: float) -> Flags:
    """Return (...) whether tensions within [low_n, high_n] balance wrenches (..., 6) for structures (..., 6, 8)."""
    shape = np.broadcast_shapes(structure.shape[:-2], wrench.shape[:-1])
    lead, one = shape[: len(shape) - (structure.ndim - 2)], shape[len(shape) - (structure.ndim - 2) :]
    w = np.broadcast_to(structure, (*one, 6, 8)).reshape(-1, 6, 8)
    f = np.broadcast_to(wrench, (*shape, 6)).reshape(math.prod(lead), len(w), 6)
    held = np.zeros(f.shape[:2], dtype=bool)
    for i in range(0, len(w), CHUNK):
        basis = _basis(w[i : i + CHUNK])
        for k in range(len(f)):
            held[k, i : i + CHUNK] = _holds(basis, w[i : i + CHUNK], f[k, i : i + CHUNK], low_n, high_n)
    return held.reshape(shape)


def sun_is_held(
    shape: MachineShape,
    zenith_rad: ArrayLike,
    azimuth_rad: ArrayLike,
    spot_world_m: ArrayLike | None = None,
    wind_m_s: float = 0.0,
    margin_n: float = 0.0,
) -> Flags:
    """Return (...) whether the lens, facing suns (...) with its focus on spots (..., 2), can be held within the band.

    Angles in radians (azimuth clockwise from north), spots in world metres; shapes broadcast. ``spot_world_m`` None:
    the bed's middle and corners, all of them. ``margin_n`` is kept from both ends of the band; ``wind_m_s`` blows from
    any side. Exact, for thousands of suns per second.
    """
    sun = sun_direction_world(zenith_rad, azimuth_rad)
    if spot_world_m is None:
        spots = np.array([(0, 0), (1, 1), (-1, 1), (-1, -1), (1, -1)]) * np.array(shape.bed_size_m) / 2
        sun = sun[..., None, :]
    else:
        spots = np.asarray(spot_world_m, dtype=float)
    centre = work_centre_world_m(spots, sun, shape.focal_length_m, shape.sand_height_m)
    rotation = rotation_facing(sun)
    low_n, high_n = shape.tension_min_n + margin_n, shape.tension_max_n - margin_n
    wrench = wrenches_n(shape, rotation, wind_m_s)
    held = holds(structure_of(shape, centre, rotation), wrench if wind_m_s > 0 else wrench[:1], low_n, high_n)
    held = held.all(axis=0)
    return np.asarray(held.all(axis=-1) if spot_world_m is None else held)


def tensions_nearest_n(structure: Array, wrench: Array, low_n: float, high_n: float, preferred_n: ArrayLike) -> Array:
    """Return the (..., 8) balancing tensions within the band that lie nearest to ``preferred_n`` (least squares).

    NaN where the pose does not hold, or its structure matrix has lost rank. Exact: the nearest point of a polygon.
    """
    shape = np.broadcast_shapes(structure.shape[:-2], wrench.shape[:-1])
    w = np.broadcast_to(structure, (*shape, 6, 8)).reshape(-1, 6, 8)
    f = np.broadcast_to(wrench, (*shape, 6)).reshape(-1, 6)
    wanted = np.broadcast_to(np.asarray(preferred_n, dtype=float), (*shape, 8)).reshape(-1, 8)
    parts = [
        _nearest(w[i : i + CHUNK], f[i : i + CHUNK], low_n, high_n, wanted[i : i + CHUNK])
        for i in range(0, len(w), CHUNK)
    ]
    return np.concatenate(parts or [np.zeros((0, 8))]).reshape(*shape, 8)


def violation(structure: Array, wrench: Array, low_n: float, high_n: float) -> tuple[float, Array]:
    """Return the smallest widening of the band (newtons) with which one pose balances, and (8,) tensions that do.

    ``structure`` (6, 8), ``wrench`` (6,). Negative: by how much the band could be narrower. Infinite where no tensions
    at all balance. A linear program: minimise s with low - s <= t <= high + s.
    """
    from scipy.optimize import linprog

    eye, one = np.eye(8), np.ones((8, 1))
    answer: Any = linprog(
        np.append(np.zeros(8), 1.0),
        A_ub=np.block([[eye, -one], [-eye, -one]]),
        b_ub=np.concatenate([np.full(8, high_n), np.full(8, -low_n)]),
        A_eq=np.hstack([structure, np.zeros((6, 1))]),
        b_eq=-wrench,
        bounds=[(None, None)] * 9,
        method="highs",
    )
    if answer.status != 0:
        return float("inf"), np.full(8, np.nan)
    return float(answer.x[8]), np.asarray(answer.x[:8])


Basis = tuple[Array, Array, Flags]
"""(n, 8, 6) pseudo-inverses, (n, 8, 2) directions that keep the balance, and whether rank is full."""


def _basis(structure: Array) -> Basis:
    u, s, vt = np.linalg.svd(structure)
    full = s[:, 5] > RANK * s[:, 0]
    inverse = np.where(s > RANK * s[:, :1], 1 / np.maximum(s, 1e-300), 0.0)
    back = np.swapaxes(vt[:, :6], -1, -2) @ (inverse[..., None] * np.swapaxes(u, -1, -2))
    return back, np.swapaxes(vt[:, 6:], -1, -2), full


def _least(basis: Basis, wrench: Array) -> Array:
    """(n, 8) smallest balancing tensions."""
    return -np.squeeze(basis[0] @ wrench[..., None], -1)


def _corners(least: Array, free: Array, low_n: float, high_n: float) -> Array:
    """(n, 112, 2) points of the plane where two tensions stand at an end of the band."""
    a = free[:, _PAIRS]
    determinant = a[..., 0, 0] * a[..., 1, 1] - a[..., 0, 1] * a[..., 1, 0]
    safe = np.where(np.abs(determinant) > 1e-14, determinant, np.nan)
    ends = np.array([(p, q) for p in (low_n, high_n) for q in (low_n, high_n)])
    b = ends[None, None] - least[:, _PAIRS][:, :, None]
    x = (b[..., 0] * a[..., 1, 1, None] - b[..., 1] * a[..., 0, 1, None]) / safe[..., None]
    y = (b[..., 1] * a[..., 0, 0, None] - b[..., 0] * a[..., 1, 0, None]) / safe[..., None]
    return np.stack([x, y], axis=-1).reshape(len(least), -1, 2)


def _inside(least: Array, free: Array, points: Array, low_n: float, high_n: float) -> Flags:
    """(n, k) whether points (n, k, 2) of the plane lie in the band; NaN does not."""
    inside = np.ones(points.shape[:-1], dtype=bool)
    for cable in range(8):
        t = least[:, cable, None] + points[..., 0] * free[:, cable, 0, None] + points[..., 1] * free[:, cable, 1, None]
        inside &= (t >= low_n - SLACK_N) & (t <= high_n + SLACK_N)
    return inside


def _holds(basis: Basis, structure: Array, wrench: Array, low_n: float, high_n: float) -> Flags:
    _, free, full = basis
    answer = _some_edge(_least(basis, wrench), free, low_n, high_n)
    for i in np.flatnonzero(~full):
        answer[i] = violation(structure[i], wrench[i], low_n, high_n)[0] <= SLACK_N
    return answer


def _some_edge(least: Array, free: Array, low_n: float, high_n: float) -> Flags:
    """(n,) whether the polygon has any edge at all: a piece of a line, one cable at an end of the band, inside the rest.

    The polygon is bounded (both directions of the plane change some tension), so that it has an edge or is empty.
    """
    along = np.stack([-free[..., 1], free[..., 0]], axis=-1)
    norm2 = (free * free).sum(axis=-1)
    rate = np.einsum("ncx,nkx->nkc", free, along)
    found = np.zeros(len(least), dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1 / rate
        foot = np.einsum("ncx,nkx->nkc", free, free) / norm2[..., None]
        for end in (low_n, high_n):
            there = least[:, None, :] + (end - least)[..., None] * foot
            first, last = (low_n - SLACK_N - there) * inverse, (high_n + SLACK_N - there) * inverse
            start, stop = np.fmin(first, last).max(axis=-1), np.fmax(first, last).min(axis=-1)
            found |= (start <= stop).any(axis=-1)
    return found


def _nearest(structure: Array, wrench: Array, low_n: float, high_n: float, wanted: Array) -> Array:
    basis = _basis(structure)
    least, (_, free, full) = _least(basis, wrench), basis
    aim = np.einsum("nci,nc->ni", free, wanted - least)
    norm2 = np.maximum((free * free).sum(axis=-1), 1e-300)
    feet = [aim[:, None]]
    for end in (low_n, high_n):
        gap = (end - least - np.einsum("nci,ni->nc", free, aim)) / norm2
        feet.append(aim[:, None] + gap[..., None] * free)
    points = np.concatenate([*feet, _corners(least, free, low_n, high_n)], axis=1)
    inside = _inside(least, free, points, low_n, high_n)
    distance = np.where(inside, np.square(points - aim[:, None]).sum(axis=-1), np.inf)
    best = distance.argmin(axis=1)
    chosen = points[np.arange(len(points)), best]
    found = full & inside.any(axis=1)
    tensions = least + np.einsum("nci,ni->nc", free, np.where(found[:, None], chosen, 0.0))
    return np.where(found[:, None], np.clip(tensions, low_n, high_n), np.nan)
