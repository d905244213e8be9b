"""The light patch as a covariance: the model the simulation calls at every control step.

Elementwise arithmetic only, so that a pose has the same bits alone and in a batch. Shapes: any leading batch
shape ``...``. World frame, metres, radians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.machine import Machine

Array = NDArray[np.float64]

SUN_HALF_ANGLE_RAD = 4.65e-3
"""Half-angle of the sun's disc (Buie et al. 2003)."""
CHROMATIC_SPREAD = 0.009
"""RMS relative spread of the focal length over the sun's spectrum."""
FOCUS_TILT_EXPONENT = 1.3
"""The focus lies focal_length * cos(tilt)^1.3 down the sun's ray."""


@dataclass(frozen=True)
class LensOptics:
    """What the light models need to know of a lens. Every field is a number or an array of the batch shape."""

    focal_length_m: ArrayLike
    short_edge_m: ArrayLike
    long_edge_m: ArrayLike
    facet_error_rad: ArrayLike
    """RMS angular deviation of the light, both axes together."""
    transmission: ArrayLike

    @classmethod
    def from_machine(cls, machine: Machine) -> LensOptics:
        """Return the lens of a machine file."""
        lens = machine.lens
        return cls(lens.focal_length_m, lens.short_edge_m, lens.long_edge_m, lens.facet_error_mrad * 1e-3, lens.transmission)


@dataclass(frozen=True, slots=True)
class FastPatch:
    """The patch on the sand: first and second moments of the irradiance, world x and y."""

    centre_world_m: Array
    """(..., 2) centroid."""
    xx: Array
    """(...) second central moment along world x, square metres."""
    xy: Array
    yy: Array
    tilt_rad: Array
    """(...) angle between optical axis and sun."""
    defocus_m: Array
    """(...) focus to sand along the sun's ray, positive when the sand is nearer to the lens."""

    @property
    def covariance(self) -> tuple[Array, Array, Array]:
        """(xx, xy, yy)."""
        return self.xx, self.xy, self.yy


def fast_patch(
    lens: LensOptics, centre_world_m: ArrayLike, rotation: ArrayLike, sun_world: ArrayLike, sand_height_m: ArrayLike = 0.0
) -> FastPatch:
    """Return the patch of lenses at ``centre_world_m`` (..., 3) with ``rotation`` (..., 3, 3) under ``sun_world`` (..., 3)."""
    c, r, s = (np.asarray(a, dtype=float) for a in (centre_world_m, rotation, sun_world))
    sx, sy, sz = s[..., 0], s[..., 1], s[..., 2]
    nx, ny, nz = r[..., 0, 2], r[..., 1, 2], r[..., 2, 2]
    cosine = nx * sx + ny * sy + nz * sz
    tx, ty, tz = ny * sz - nz * sy, nz * sx - nx * sz, nx * sy - ny * sx
    sine = np.sqrt(tx * tx + ty * ty + tz * tz)
    tilt = np.arctan2(sine, cosine)
    focal = np.asarray(lens.focal_length_m) * np.maximum(cosine, 0.05) ** FOCUS_TILT_EXPONENT
    reach = (c[..., 2] - sand_height_m) / sz
    defocus = focal - reach
    slope_x, slope_y = sx / sz, sy / sz
    share = defocus / focal
    ux, uy = r[..., 0, 0] - r[..., 2, 0] * slope_x, r[..., 1, 0] - r[..., 2, 0] * slope_y
    vx, vy = r[..., 0, 1] - r[..., 2, 1] * slope_x, r[..., 1, 1] - r[..., 2, 1] * slope_y
    spread = share * share + (CHROMATIC_SPREAD * CHROMATIC_SPREAD)
    uu = spread * np.square(lens.short_edge_m) / 12
    vv = spread * np.square(lens.long_edge_m) / 12
    angular = (0.25 * SUN_HALF_ANGLE_RAD**2 + 0.5 * np.square(lens.facet_error_rad) + 0.003 * sine * sine) * reach * reach
    xx = uu * ux * ux + vv * vx * vx + angular * (1 + slope_x * slope_x)
    xy = uu * ux * uy + vv * vx * vy + angular * slope_x * slope_y
    yy = uu * uy * uy + vv * vy * vy + angular * (1 + slope_y * slope_y)
    x, y = c[..., 0] - reach * slope_x * sz, c[..., 1] - reach * slope_y * sz
    return FastPatch(np.stack([x, y], axis=-1), xx, xy, yy, tilt, defocus)


def semi_axes_and_angle(xx: ArrayLike, xy: ArrayLike, yy: ArrayLike) -> tuple[Array, Array]:
    """Return (..., 2) semi-axes (large, small) and (...) the large one's angle from world x in (-pi/2, pi/2].

    Semi-axes are twice the square roots of the eigenvalues of the covariance.
    """
    a, b, c = (np.asarray(value, dtype=float) for value in (xx, xy, yy))
    mean, half = 0.5 * (a + c), 0.5 * (a - c)
    radius = np.sqrt(half * half + b * b)
    large = mean + radius
    small = np.maximum(mean - radius, 0.0)
    angle = 0.5 * np.arctan2(b, half)
    return 2 * np.sqrt(np.stack([large, small], axis=-1)), np.where(angle <= -np.pi / 2, np.pi / 2, angle)


def power_w(lens: LensOptics, tilt_rad: ArrayLike, dni_w_m2: ArrayLike) -> Array:
    """Return the (...) power that arrives in the patch, watts."""
    area = np.asarray(lens.short_edge_m, dtype=float) * np.asarray(lens.long_edge_m, dtype=float)
    return area * np.asarray(lens.transmission) * np.asarray(dni_w_m2) * np.maximum(np.cos(tilt_rad), 0.0)


def peak_irradiance_w_m2(lens: LensOptics, patch: FastPatch, dni_w_m2: ArrayLike) -> Array:
    """Return the (...) irradiance at the brightest point, watts per square metre."""
    area = 2 * np.pi * np.sqrt(np.maximum(patch.xx * patch.yy - patch.xy * patch.xy, 1e-18))
    return power_w(lens, patch.tilt_rad, dni_w_m2) / area
