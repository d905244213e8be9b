"""What light does in a flat acrylic Fresnel lens: spectrum, index, grooves, refraction, the sun's disc.

The sheet is thin: rays change direction, not place. Lens frame: z towards the sun, grooves on that side. Arrays of
directions have their components first, shape (3, ...).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

WAVELENGTHS_UM = np.array(
    [0.412, 0.454, 0.486, 0.519, 0.551, 0.583, 0.616, 0.649, 0.683, 0.722, 0.765, 0.807, 0.856, 0.909, 0.994, 1.061]
)
"""Sixteen equal shares of the direct sunlight from 0.38 to 1.1 um (ASTM G173-03); acrylic absorbs most beyond."""
DESIGN_WAVELENGTH_UM = 0.71
"""Wavelength the grooves are cut for: the middle of that light."""
SUN_HALF_ANGLE_RAD = 4.65e-3
"""Half-angle of the sun's disc (Buie, Monger, Dey, Solar Energy 74, 2003)."""
AUREOLE_HALF_ANGLE_RAD = 43.6e-3
"""Outer edge of the circumsolar light (same source)."""

WAVELENGTHS_UM.setflags(write=False)


def acrylic_index(wavelength_um: ArrayLike) -> Array:
    """Return the refractive index of PMMA (Sultanova, Kasarova, Nikolov, Acta Physica Polonica A 116, 2009)."""
    square = np.square(np.asarray(wavelength_um, dtype=float))
    return np.sqrt(1 + 1.1819 * square / (square - 0.011313))


DESIGN_INDEX = float(acrylic_index(DESIGN_WAVELENGTH_UM))


def facet_normals(u_m: Array, v_m: Array, focal_length_m: ArrayLike) -> Array:
    """Return the (3, ...) unit normals, towards the sun, of the grooves at lens (u, v).

    Each groove sends light along the axis to the focus: sin(b) = sin(g) / n behind it and
    tan(a) = n sin(b) / (n cos(b) - 1), with g the angle of the outgoing ray and a the slope of the facet (Snell twice).
    """
    radius = np.hypot(u_m, v_m)
    sine_inside = radius / np.hypot(radius, focal_length_m) / DESIGN_INDEX
    cosine_inside = np.sqrt(1 - sine_inside * sine_inside)
    slope = DESIGN_INDEX * sine_inside / (DESIGN_INDEX * cosine_inside - 1)
    share = slope / np.maximum(radius, 1e-12)
    normal = np.stack([share * u_m, share * v_m, np.ones_like(radius)])
    return normal / np.sqrt(1 + slope * slope)


def through_sheet(incoming: Array, normal: Array, index: ArrayLike) -> tuple[Array, Array]:
    """Return (3, ...) outgoing unit directions and the (...) share of unpolarised light that both surfaces pass.

    ``incoming`` (3, ...): unit directions of travel. The share is 0 where a facet is not lit or light is totally
    reflected at the flat side. Source: Fresnel's equations, Born and Wolf, section 1.5.
    """
    n = np.asarray(index, dtype=float)
    cosine = -(incoming[0] * normal[0] + incoming[1] * normal[1] + incoming[2] * normal[2])
    inside = np.sqrt(n * n - 1 + cosine * cosine)
    bend = cosine - inside
    x, y = incoming[0] + bend * normal[0], incoming[1] + bend * normal[1]
    z_inside = incoming[2] + bend * normal[2]
    square = 1 - x * x - y * y
    leaves = (square > 0) & (cosine > 0)
    z = np.sqrt(np.where(leaves, square, 1.0))
    share = _transmittance(cosine, inside / n, n) * _transmittance(-z_inside / n, z, 1 / n)
    return np.stack(np.broadcast_arrays(x, y, -z)), np.where(leaves, share, 0.0)


def _transmittance(cosine_in: Array, cosine_out: Array, relative_index: ArrayLike) -> Array:
    """Share of unpolarised power through one surface; ``relative_index``: behind over before."""
    n = np.asarray(relative_index, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        across = (cosine_in - n * cosine_out) / (cosine_in + n * cosine_out)
        along = (n * cosine_in - cosine_out) / (n * cosine_in + cosine_out)
        return 1 - 0.5 * (across * across + along * along)


def sun_offsets_rad(share: Array, circumsolar_ratio: float) -> Array:
    """Return the angle from the sun's centre below which ``share`` (0 to 1) of its power lies.

    The disc darkens to its limb; outside, light falls off with a power of the angle (Buie et al. 2003). The aureole
    holds exactly ``circumsolar_ratio`` of the power.
    """
    disc_mrad, disc = _cumulative(_disc_profile, 0.0, SUN_HALF_ANGLE_RAD * 1e3)
    if circumsolar_ratio <= 0:
        return np.interp(share, disc, disc_mrad) * 1e-3
    exponent = _aureole_exponent(circumsolar_ratio)
    ring_mrad, ring = _cumulative(lambda a: a**exponent, SUN_HALF_ANGLE_RAD * 1e3, AUREOLE_HALF_ANGLE_RAD * 1e3)
    inner, outer = (share - circumsolar_ratio) / (1 - circumsolar_ratio), share / circumsolar_ratio
    angle = np.where(share < circumsolar_ratio, np.interp(outer, ring, ring_mrad), np.interp(inner, disc, disc_mrad))
    return angle * 1e-3


def sun_variance_rad2(circumsolar_ratio: ArrayLike) -> Array:
    """Return the variance of the sun's shape about its centre, each axis, square radians; elementwise."""
    ratio = np.atleast_1d(np.asarray(circumsolar_ratio, dtype=float))
    exponent = _aureole_exponent(np.maximum(ratio, 1e-4))
    low, high = SUN_HALF_ANGLE_RAD, AUREOLE_HALF_ANGLE_RAD
    a, b = exponent + 4, exponent + 2
    ring = (high**a - low**a) / a / ((high**b - low**b) / b)
    variance = 0.5 * ((1 - ratio) * (0.456 * low * low) + ratio * ring)
    return variance.reshape(np.shape(circumsolar_ratio))


def _disc_profile(angle_mrad: Array) -> Array:
    return np.cos(0.326 * angle_mrad) / np.cos(0.308 * angle_mrad)


def _aureole_exponent(ratio: ArrayLike) -> Array:
    return 2.2 * np.log(0.52 * np.asarray(ratio)) * np.asarray(ratio) ** 0.43 - 0.1


def _cumulative(profile: Callable[[Array], Array], low_mrad: float, high_mrad: float) -> tuple[Array, Array]:
    """Angles and the share of a ring-shaped source's power below each of them."""
    edge = np.linspace(low_mrad, high_mrad, 2001)
    middle = 0.5 * (edge[1:] + edge[:-1])
    power = np.concatenate([[0.0], np.cumsum(profile(middle) * middle)])
    return edge, power / power[-1]
