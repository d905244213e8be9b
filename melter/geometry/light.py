"""The light patch as a covariance: the model the simulation calls at every control step.

Nine rays, at the Gauss points of the aperture, go through the sheet at the spectrum's mean and down to the sand; the
sun's shape, the grooves' errors and the colours widen what they draw. Elementwise arithmetic only, so that a pose
has the same bits alone and in a batch. Shapes: any leading batch shape ``...``. World frame, metres, radians.

The model agrees with :mod:`melter.geometry.trace` as far as ``benchmarks/light.py`` says.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.geometry.optics import DESIGN_INDEX, sun_variance_rad2
from melter.geometry.rays import Batch, Single, make_batch, ray_moments

Array = NDArray[np.float64]
Shape = tuple[int, ...]

PEAK_RESOLUTION_M = 1.25e-3
"""Standard deviation of the Gaussian over which a peak irradiance is averaged: about a disc of 5 mm."""


@dataclass(frozen=True, eq=False)
class LensOptics:
    """What the light models need to know of a lens and its sun.

    ``focal_length_m``, ``facet_error_rad``, ``transmission``, ``circumsolar_ratio`` may be arrays of the batch shape.
    What follows from them is worked out once and kept: do not change the arrays afterwards, make new optics.
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
    _batches: dict[Shape, Batch] = field(default_factory=dict[Shape, Batch], init=False, repr=False)

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

    def batch(self, shape: Shape) -> Batch:
        """Return what a batch of this shape needs to know of the lens, worked out at the first call."""
        if shape not in self._batches:
            self._batches[shape] = make_batch(
                (float(self.short_edge_m), float(self.long_edge_m)),
                _design_focal_m(self),
                _rows(self.focal_length_m, shape, 0)[0],
                _rows(sun_variance_rad2(self.circumsolar_ratio), shape, 0)[0],
                _rows(np.square((DESIGN_INDEX - 1) * np.asarray(self.facet_error_rad, dtype=float)), shape, 0)[0],
            )
        return self._batches[shape]


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
    sun_up: Array
    """(...) cosine of the sun's zenith angle."""
    sharp: NDArray[np.float32]
    """(2, 2, n) second central moments of the sharp image, without the blur."""
    rotation: Array
    """(3, 3, n) lens to world."""

    @property
    def covariance(self) -> tuple[Array, Array, Array]:
        """(xx, xy, yy)."""
        return self.xx, self.xy, self.yy


def _design_focal_m(lens: LensOptics) -> float:
    if lens.design_focal_length_m is not None:
        return float(lens.design_focal_length_m)
    if np.ndim(lens.focal_length_m) == 0:
        return float(np.asarray(lens.focal_length_m))
    return float(0.5 * (lens.short_edge_m + lens.long_edge_m))


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
    shape = _common_shape(given)
    centre = given[0] if given[0].shape[:-1] == shape else np.broadcast_to(given[0], (*shape, 3))
    r, sun = _rows(given[1], shape, 2).reshape(3, 3, -1), _rows(given[2], shape, 1)
    height, batch = _rows(centre[..., 2] - given[3], shape, 0)[0], lens.batch(shape)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        sun_lens = np.einsum("ijn,in->jn", r, sun)
        single = (a.astype(np.float32) for a in (r, sun_lens, height))
        middle, sharp, blurred, far = ray_moments(batch, *single)
        moments = (sharp + blurred).astype(np.float64)
        cosine = np.maximum(np.minimum(sun_lens[2], 1.0), -1.0)
        defocus = batch.focal_m * _pull(cosine) - height / sun[2]
    rows = [moments[0, 0] + far, moments[0, 1], moments[1, 1] + far, np.arccos(cosine), defocus, sun[2]]
    spot = middle.T
    if shape != cosine.shape:
        rows = [row[: prod(shape)].reshape(shape) for row in rows]
        spot = spot[: prod(shape)].reshape((*shape, 2))
    xx, xy, yy, tilt, defocus, sun_up = rows
    return FastPatch(
        centre_world_m=np.asarray(spot + centre[..., :2], dtype=np.float64),
        xx=xx,
        xy=xy,
        yy=yy,
        tilt_rad=tilt,
        defocus_m=defocus,
        sun_up=sun_up,
        sharp=sharp,
        rotation=r,
    )


def _common_shape(given: list[Array]) -> Shape:
    """Batch shape of centre (..., 3), rotation (..., 3, 3), sun (..., 3) and height (...)."""
    shape = given[0].shape[:-1]
    if shape == given[1].shape[:-2] == given[2].shape[:-1] == given[3].shape:
        return shape
    return np.broadcast_shapes(shape, given[1].shape[:-2], given[2].shape[:-1], given[3].shape)


def _rows(value: ArrayLike, shape: Shape, axes: int) -> Array:
    """(components, n): the last ``axes`` axes first, a row each, the batch flat.

    A batch of one is doubled: sums over a single column would be taken in another order. One of none has ones.
    """
    value = np.asarray(value, dtype=float)
    inner = value.shape[value.ndim - axes :]
    if value.shape != shape + inner:
        value = np.broadcast_to(value, shape + inner)
    rows = value.reshape(prod(shape), prod(inner))
    if len(rows) < 2:
        rows = np.repeat(rows, 2, axis=0) if len(rows) else np.ones((2, prod(inner)))
    return rows.T.copy() if axes else rows.T


def _pull(cosine: Array) -> Array:
    """Cosine of the tilt to the power 1.3 as a polynomial: within 1e-3 to 40 degrees."""
    return cosine * (cosine * 0.2 + 0.9) - 0.1


def semi_axes_and_angle(xx: ArrayLike, xy: ArrayLike, yy: ArrayLike) -> tuple[Array, Array]:
    """Return (..., 2) semi-axes (large, small) and (...) the large one's angle from world x in (-pi/2, pi/2].

    Semi-axes are twice the square roots of the eigenvalues of the covariance.
    """
    a, b, c = (np.asarray(value, dtype=float) for value in (xx, xy, yy))
    total, across, twice = a + c, a - c, b + b
    radius = np.sqrt(across * across + twice * twice)
    axes = np.empty((*radius.shape, 2))
    np.add(total, radius, out=axes[..., 0])
    np.subtract(total, radius, out=axes[..., 1])
    np.maximum(axes, 0.0, out=axes)
    axes *= 2
    np.sqrt(axes, out=axes)
    angle = 0.5 * np.arctan2(twice, across)
    return axes, np.where(angle <= -np.pi / 2, np.pi / 2, angle)


def power_w(lens: LensOptics, tilt_rad: ArrayLike, dni_w_m2: ArrayLike) -> Array:
    """Return the (...) power that arrives in the patch, watts."""
    area = lens.short_edge_m * lens.long_edge_m
    return area * np.asarray(lens.transmission) * np.asarray(dni_w_m2) * np.maximum(np.cos(tilt_rad), 0.0)


CORE_AREA = 1.22
"""Area that the sun's disc and the grooves blur a point to, over what their variances say."""
TILT_CORE = 0.23
"""Share of the variance tilt adds that widens the bright core; the rest is coma's tail."""
AUREOLE_LOST = 0.15
"""Share of the light from around the sun's disc that the brightest place misses."""
LEAN = 0.62
"""How far towards the edge of the aperture the brightest place lies, when the sand lies across the light."""
LEAN_BLUR = 11.0
"""Area of the sharp image, over the variance of the blur, at which a quarter of that counts."""


def peak_irradiance_w_m2(lens: LensOptics, patch: FastPatch, dni_w_m2: ArrayLike) -> Array:
    """Return the (...) irradiance at the brightest place, averaged over PEAK_RESOLUTION_M, watts per square metre.

    Each eighth of the spectrum has its own focus. Its sharp image and the blur of the core add as areas, root
    of the squares. Where the lens leans, the image is brightest under its higher edge: the cone's section there
    is smaller by the cube of the heights above the focus. The five constants above are fitted to the ray trace.
    """
    shape = patch.xx.shape
    batch, edges = lens.batch(shape), (lens.short_edge_m, lens.long_edge_m)
    cosine, sun_up = np.cos(_rows(patch.tilt_rad, shape, 0)[0]), _rows(patch.sun_up, shape, 0)[0]
    pulled, up = batch.focal_m * _pull(cosine), np.abs(patch.rotation[2])
    chief = pulled - _rows(patch.defocus_m, shape, 0)[0]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        core = _core_area_m2(batch, patch, chief, pulled, edges)
        lean = (LEAN / 2) * (up[0] * edges[0] + up[1] * edges[1]) / np.maximum(chief * sun_up, 1e-3)
        aperture = cosine / sun_up * (edges[0] * edges[1])
        single = (a.astype(np.float32) for a in (chief / pulled, aperture, core, lean))
        concentration = _concentration(batch, *single)[: prod(shape)].reshape(shape)
    arriving = 1 - AUREOLE_LOST * np.asarray(lens.circumsolar_ratio, dtype=float)
    return power_w(lens, patch.tilt_rad, dni_w_m2) * concentration * arriving


def _concentration(batch: Batch, reach: Single, aperture: Single, core: Single, lean: Single) -> Array:
    """(n,) share of the power per area at the brightest place, mean over the parts of the spectrum; single precision."""
    image = reach * batch.spread.colour_power
    np.subtract(1, image, out=image)
    image *= image
    image *= aperture
    nearer = image / (image + core * np.float32(LEAN_BLUR / (2 * np.pi)))
    nearer *= nearer
    nearer *= lean
    nearer += 1
    image /= nearer * nearer * nearer
    image *= image
    image += core * core
    return (1 / np.sqrt(image)).sum(axis=0).astype(np.float64) / len(image)


def _core_area_m2(
    batch: Batch, patch: FastPatch, chief_m: Array, pulled_m: Array, edges_m: tuple[float, float]
) -> Array:
    """(n,) area on the sand that takes the power at the core's irradiance: disc, grooves, and part of what tilt adds.

    The blur is round across the optical axis: on the sand, it is longer where the axis leans.
    """
    x, y, up = patch.rotation[:, 2]
    core = CORE_AREA * batch.nodes.widening * batch.core_rad2 * chief_m * chief_m + PEAK_RESOLUTION_M**2 * up
    ideal = (TILT_CORE / 12) * np.square(1 - chief_m / pulled_m)
    on_sand = core / (up * up)
    xx = on_sand * (1 - y * y) + TILT_CORE * patch.sharp[0, 0]
    yy = on_sand * (1 - x * x) + TILT_CORE * patch.sharp[1, 1]
    xy = on_sand * (x * y) + TILT_CORE * patch.sharp[0, 1]
    found = np.sqrt(xx * yy - xy * xy)
    facing = np.sqrt((core + ideal * edges_m[0] ** 2) * (core + ideal * edges_m[1] ** 2)) / up
    return 2 * np.pi * (core / up + np.maximum(found - facing, 0.0))
