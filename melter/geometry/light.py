"""The light patch as a covariance: the model the simulation calls at every control step.

Nine rays, at the Gauss points of the aperture, go through the sheet at the spectrum's mean and down to the sand; the
sun's shape, the grooves' errors and the colours widen what they draw. Elementwise arithmetic only, so that a pose
has the same bits alone and in a batch. Shapes: any leading batch shape ``...``. World frame, metres, radians.

The model agrees with :mod:`melter.geometry.trace` as far as ``tests/geometry/test_light.py`` says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.geometry.optics import (
    DESIGN_INDEX,
    WAVELENGTHS_UM,
    acrylic_index,
    facet_normals,
    sun_variance_rad2,
    through_sheet,
)
from melter.geometry.pose import rotation_facing, sun_direction_world

Array = NDArray[np.float64]
Single = NDArray[np.float32]

PEAK_RESOLUTION_M = 2e-3
"""Standard deviation of the Gaussian over which a peak irradiance is averaged: a fifth of the sun's image."""
TILT_CORE = 0.5
"""Share of the variance tilt adds that widens the bright core; the rest is coma's tail (ray trace, to 10 degrees)."""


@dataclass(frozen=True, eq=False)
class LensOptics:
    """What the light models need to know of a lens and its sun.

    ``focal_length_m``, ``facet_error_rad``, ``transmission``, ``circumsolar_ratio`` may be arrays of the batch shape.
    """

    focal_length_m: ArrayLike
    short_edge_m: float
    long_edge_m: float
    facet_error_rad: ArrayLike
    """RMS slope error of the grooves, each axis; light is deflected by (index - 1) times as much."""
    transmission: ArrayLike
    """Share of the aperture's power that arrives, lens facing the sun."""
    circumsolar_ratio: ArrayLike = 0.03
    """Share of the direct light that comes from around the sun's disc."""
    design_focal_length_m: float | None = None
    """What the grooves are computed for; None: ``focal_length_m`` if it is one number, else the mean edge."""

    @classmethod
    def from_machine(cls, machine: Any, **changes: ArrayLike) -> LensOptics:
        """Return the lens of a ``melter.machine.Machine``, with other values (or arrays) for fields in ``changes``."""
        lens = machine.lens
        optics = cls(
            focal_length_m=lens.focal_length_m,
            short_edge_m=lens.short_edge_m,
            long_edge_m=lens.long_edge_m,
            facet_error_rad=lens.facet_error_mrad * 1e-3,
            transmission=lens.transmission,
            circumsolar_ratio=machine.sun.circumsolar_ratio,
            design_focal_length_m=lens.focal_length_m,
        )
        return replace(optics, **changes)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, eq=False, slots=True)
class FastPatch:
    """The patch on the sand: first and second moments of the irradiance, world x and y."""

    centre_world_m: Array
    """(..., 2) centroid."""
    xx: Array
    """(...) second central moment along world x, square metres."""
    xy: Array
    """(...) mixed second central moment, square metres."""
    yy: Array
    """(...) second central moment along world y, square metres."""
    tilt_rad: Array
    """(...) angle between optical axis and sun."""
    defocus_m: Array
    """(...) focus to sand along the sun's ray, positive when the sand is nearer to the lens."""
    stretch: Array
    """(...) area on the sand, over area of the aperture, of the lens's shadow."""

    @property
    def covariance(self) -> tuple[Array, Array, Array]:
        """(xx, xy, yy)."""
        return self.xx, self.xy, self.yy


@dataclass(frozen=True, eq=False)
class _Nodes:
    """The nine rays: constants of one lens, nodes first, single precision."""

    u_m: Single
    """(3, 1, 1) along the short edge."""
    v_m: Single
    """(1, 3, 1) along the long edge."""
    weight: Single
    """(3, 3, 1) share of the power."""
    normal: Single
    """(3, 3, 3, 1) of facets, component first, that send light of the design index where the spectrum's mean goes."""
    colour: Single
    """(3, 3, 1) standard deviation of the rays' slopes by their colours, over the slope."""
    gain: float
    """Squared angle behind the sheet over squared angle before it, mean over aperture and axes."""
    widening: float
    """Area of a ray bundle's blur on a level sand over that on the axis, harmonic mean: what the peak is divided by."""
    colour_shift: Array
    """(4,) change of the focal length, over itself, of four equal parts of the spectrum."""
    focal_m: float
    """Focal length that the rays are computed for."""


@lru_cache(maxsize=64)
def _nodes(short_m: float, long_m: float, focal_m: float) -> _Nodes:
    points = np.array([-0.5, 0.0, 0.5]) * np.sqrt(0.6)
    u, v = np.meshgrid(points * short_m, points * long_m, indexing="ij")
    level = np.zeros((3, 3, 3))
    level[2] = -1.0
    normal = facet_normals(u, v, focal_m)
    out, passed = through_sheet(level[..., None], normal[..., None], acrylic_index(WAVELENGTHS_UM))
    slope = -out[:2] / out[2]
    share = np.array([5.0, 8.0, 5.0]) / 18
    weight = share[:, None] * share * passed.mean(axis=-1)
    weight /= weight.sum()
    colour = np.sqrt(slope.var(axis=-1).sum(axis=0) / np.maximum(np.square(slope).mean(axis=-1).sum(axis=0), 1e-12))
    gain = (weight * _angular_gain(normal)).sum()
    towards = -focal_m * slope.mean(axis=-1)
    mean_normal = facet_normals(towards[0], towards[1], focal_m)
    widening = 1 / (weight * (1 + np.square(slope.mean(axis=-1)).sum(axis=0)) ** -1.5).sum()
    corner = np.hypot(slope[0, 0, 0], slope[1, 0, 0]).reshape(4, -1).mean(axis=1)
    shift = np.hypot(u[0, 0], v[0, 0]) / focal_m / corner - 1
    return _Nodes(
        u_m=_single(u[:, :1]),
        v_m=_single(v[:1]),
        weight=_single(weight),
        normal=_single(mean_normal),
        colour=_single(colour),
        gain=float(gain),
        widening=float(widening),
        colour_shift=shift,
        focal_m=focal_m,
    )


def _single(value: Array) -> Single:
    """Single precision, with an axis for the batch."""
    return value[..., None].astype(np.float32)


def _angular_gain(normal: Array) -> Array:
    """Mean over both axes of the squared change of the outgoing direction for a small change of the incoming one."""
    step = 1e-4
    base, _ = through_sheet(np.array([0.0, 0.0, -1.0])[:, None, None], normal, DESIGN_INDEX)
    total = np.zeros(normal.shape[1:])
    for axis in range(2):
        turned = np.array([0.0, 0.0, -np.sqrt(1 - step * step)])
        turned[axis] = step
        total += np.square((through_sheet(turned[:, None, None], normal, DESIGN_INDEX)[0] - base) / step).sum(axis=0)
    return total / 2


def fast_patch(
    lens: LensOptics,
    centre_world_m: ArrayLike,
    rotation: ArrayLike,
    sun_world: ArrayLike,
    sand_height_m: ArrayLike = 0.0,
) -> FastPatch:
    """Return the patches of lenses at (..., 3), ``rotation`` (..., 3, 3) lens to world, under (..., 3) unit suns.

    Numbers of ``lens`` and ``sand_height_m`` are scalars or (...). NaN where a ray is totally reflected; a lens
    below the sand or a sun below the horizon gives numbers without meaning.
    """
    given = [np.asarray(a, dtype=float) for a in (centre_world_m, rotation, sun_world, sand_height_m)]
    shape = np.broadcast_shapes(given[0].shape[:-1], given[1].shape[:-2], given[2].shape[:-1], given[3].shape)
    centre, r, sun = _columns(given[0], shape, 1), _columns(given[1], shape, 2), _columns(given[2], shape, 1)
    height = centre[2] - _columns(given[3], shape, 0)[0]
    focal = _columns(np.asarray(lens.focal_length_m, dtype=float), shape, 0)[0]
    nodes = _nodes(float(lens.short_edge_m), float(lens.long_edge_m), _design_focal_m(lens))
    sun_lens = r[:3] * sun[0] + r[3:6] * sun[1] + r[6:] * sun[2]
    sine2 = sun_lens[0] * sun_lens[0] + sun_lens[1] * sun_lens[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        single = [a.astype(np.float32) for a in (sun_lens, r, height, focal)]
        moments, middle = _ray_moments(nodes, single[0], single[1], single[2], single[3])
        mx, my, mxx, myy, mxy, far2, bxx, byy, bxy = moments
        slope_x, slope_y, chief = sun[0] / sun[2], sun[1] / sun[2], height / sun[2]
        ux, uy, vx, vy = r[0] - r[6] * slope_x, r[3] - r[6] * slope_y, r[1] - r[7] * slope_x, r[4] - r[7] * slope_y
        angular = _angular_variance(lens, nodes)
        xx = (mxx - mx * mx) + angular * (far2 + bxx)
        xy = (mxy - mx * my) + angular * bxy
        yy = (myy - my * my) + angular * (far2 + byy)
        pulled = focal * _pull(sun_lens[2], sine2)
        defocus = pulled - chief
        stretch = np.abs(ux * vy - uy * vx)
    spot = np.empty((prod(shape), 2))
    spot[:, 0], spot[:, 1] = centre[0] + (middle[0] + mx), centre[1] + (middle[1] + my)
    tilt = np.arctan2(np.sqrt(sine2), sun_lens[2])
    rest = (_shaped(a, shape) for a in (xx, xy, yy, tilt, defocus, stretch))
    return FastPatch(spot.reshape((*shape, 2)), *rest)


def _columns(value: Array, shape: tuple[int, ...], axes: int) -> Array:
    """(components, n): the last ``axes`` axes first, in one row each, the batch flat; n is 1 for a single value."""
    inner = value.shape[value.ndim - axes :]
    if value.shape != shape + inner and value.shape != inner:
        value = np.broadcast_to(value, shape + inner)
    return np.ascontiguousarray(value.reshape(-1, prod(inner)).T)


def _shaped(row: Array, shape: tuple[int, ...]) -> Array:
    """A row of the flat batch, or one value for all of it, in the batch's shape."""
    return row.reshape(shape) if row.size == prod(shape) else np.full(shape, row[0])


def _design_focal_m(lens: LensOptics) -> float:
    if lens.design_focal_length_m is not None:
        return float(lens.design_focal_length_m)
    if np.ndim(lens.focal_length_m) == 0:
        return float(np.asarray(lens.focal_length_m))
    return float(0.5 * (lens.short_edge_m + lens.long_edge_m))


def _ray_moments(nodes: _Nodes, sun_lens: Single, r: Single, height: Single, focal: Single) -> tuple[Array, Single]:
    """(9, n) weighted sums over the nine rays, and (2, n) where the middle one falls, from the lens centre.

    Sums: x, y, xx, yy, xy from the middle ray; squared way; and xx, yy, xy of how a small turn of a ray is stretched
    along the sand, times the squared way. Single precision: 0.1 um on the sand, at half the cost.
    """
    gx, gy = _slopes(nodes, sun_lens, focal)
    first, second, third = (r[i::3, None, None] for i in range(3))
    ray = first * gx + second * gy - third
    start = first * nodes.u_m + second * nodes.v_m
    drop = start[2] + height
    reach = drop / -ray[2]
    way = ray[:2] * reach
    tint = nodes.colour * (third[:2] * reach - way * (r[8] / ray[2]))
    hits = way + start[:2]
    chief = hits[:, 1, 1]
    drop2 = drop * drop
    square = way * way
    far2 = square[0] + square[1] + drop2
    over = far2 / drop2
    rows = np.empty((9, *hits.shape[1:]), dtype=np.float32)
    np.subtract(hits, chief[:, None, None], out=rows[:2])
    np.multiply(rows[:2], rows[:2], out=rows[2:4])
    rows[2:4] += tint * tint
    np.multiply(rows[0], rows[1], out=rows[4])
    rows[4] += tint[0] * tint[1]
    rows[5] = far2
    np.multiply(over, square, out=rows[6:8])
    np.multiply(over * way[0], way[1], out=rows[8])
    rows *= nodes.weight
    lines = rows[:, 0] + rows[:, 1] + rows[:, 2]
    return (lines[:, 0] + lines[:, 1] + lines[:, 2]).astype(np.float64), chief


def _slopes(nodes: _Nodes, sun_lens: Single, focal: Single) -> tuple[Single, Single]:
    """(3, 3, n) slopes of the rays behind the sheet, lens frame, per way down the axis: Snell at both surfaces."""
    normal = nodes.normal
    cosine = sun_lens[0] * normal[0] + sun_lens[1] * normal[1] + sun_lens[2] * normal[2]
    bend = cosine - np.sqrt(cosine * cosine + (DESIGN_INDEX * DESIGN_INDEX - 1))
    x, y = bend * normal[0] - sun_lens[0], bend * normal[1] - sun_lens[1]
    down = np.sqrt(1 - x * x - y * y)
    closer = 1 / nodes.focal_m - 1 / focal
    return x / down + nodes.u_m * closer, y / down + nodes.v_m * closer


def _angular_variance(lens: LensOptics, nodes: _Nodes) -> Array:
    """(...) variance of the light's direction behind the lens, each axis: sun's shape and grooves."""
    sun = nodes.gain * sun_variance_rad2(lens.circumsolar_ratio)
    return (sun + np.square((DESIGN_INDEX - 1) * np.asarray(lens.facet_error_rad, dtype=float))).reshape(-1)


def _pull(cosine: Array, sine2: Array) -> Array:
    """Cosine of the tilt to the power 1.3 as a polynomial: within 5e-4 to 40 degrees."""
    return cosine * (1 - sine2 * (0.15 + sine2 * (0.06375 + 0.05 * sine2)))


def semi_axes_and_angle(xx: ArrayLike, xy: ArrayLike, yy: ArrayLike) -> tuple[Array, Array]:
    """Return (..., 2) semi-axes (large, small) and (...) the large one's angle from world x in (-pi/2, pi/2].

    Semi-axes are twice the square roots of the eigenvalues of the covariance.
    """
    a, b, c = (np.asarray(value, dtype=float) for value in (xx, xy, yy))
    mean, half = 0.5 * (a + c), 0.5 * (a - c)
    radius = np.sqrt(half * half + b * b)
    axes = np.stack([mean + radius, np.maximum(mean - radius, 0.0)], axis=-1)
    angle = 0.5 * np.arctan2(b, half)
    return 2 * np.sqrt(axes), np.where(angle <= -np.pi / 2, np.pi / 2, angle)


def _spread_m2(patch: FastPatch) -> Array:
    """Geometric mean of the patch's two principal variances."""
    return np.sqrt(np.maximum(patch.xx * patch.yy - patch.xy * patch.xy, 0.0))


def power_w(lens: LensOptics, tilt_rad: ArrayLike, dni_w_m2: ArrayLike) -> Array:
    """Return the (...) power that arrives in the patch, watts."""
    area = lens.short_edge_m * lens.long_edge_m
    return area * np.asarray(lens.transmission) * np.asarray(dni_w_m2) * np.maximum(np.cos(tilt_rad), 0.0)


def peak_irradiance_w_m2(lens: LensOptics, patch: FastPatch, dni_w_m2: ArrayLike) -> Array:
    """Return the (...) irradiance at the brightest place, watts per square metre.

    Each part of the spectrum has its own focus: a sharp outline, blurred by the sun's disc, the grooves and what tilt
    adds to the patch. A square of half-side h convolved with a Gaussian has in its middle, on each axis, within 1 %,
    ((2 pi s^2)^(3/2) + (2 h)^3)^(-1/3).
    """
    nodes = _nodes(float(lens.short_edge_m), float(lens.long_edge_m), _design_focal_m(lens))
    cosine, sine2 = np.cos(patch.tilt_rad), np.square(np.sin(patch.tilt_rad))
    pulled = np.asarray(lens.focal_length_m) * _pull(cosine, sine2)
    chief = pulled - patch.defocus_m
    aperture = patch.stretch * (lens.short_edge_m * lens.long_edge_m)
    slant = patch.stretch / np.maximum(cosine, 1e-3)
    deflected = np.square((DESIGN_INDEX - 1) * np.asarray(lens.facet_error_rad, dtype=float))
    core = (nodes.gain * sun_variance_rad2(0.0) + deflected) * nodes.widening * slant * chief * chief
    sun = sun_direction_world(np.arccos(np.minimum(1 / slant, 1.0)), 0.0)
    distance = np.maximum(np.asarray(lens.focal_length_m) - patch.defocus_m, 1e-3)
    facing = fast_patch(lens, distance[..., None] * sun, rotation_facing(sun), sun)
    core = core + PEAK_RESOLUTION_M**2 + TILT_CORE * np.maximum(_spread_m2(patch) - _spread_m2(facing), 0.0)
    total = np.zeros_like(core)
    for shift in nodes.colour_shift:
        half2 = 0.25 * aperture * np.square(1 - chief / (pulled * (1 + shift)))
        total += ((2 * np.pi * core) ** 1.5 + 8 * half2**1.5) ** (-2 / 3)
    return power_w(lens, patch.tilt_rad, dni_w_m2) * total / nodes.colour_shift.size
