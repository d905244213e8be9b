"""A saturated patch from its outlines: where its irradiance centroid lies although its core is clipped.

Where the core is clipped, the flanks still tell. The region brighter than full scale and the regions brighter than 0.3
and 0.1 of it have centres that wander towards the patch's tail, because a leaning or defocused lens smears light to one
side (coma). How far the centroid lies from the brightest region, in terms of these steps and of how fast the areas grow,
was fitted to ray traces of the machine's lens: ``benchmarks/saturation.py`` repeats the fit and prints its residuals.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.vision.opencv import cv2
from melter.vision.response import Light

Array = NDArray[np.float64]

CELLS = 72
LEVELS = (0.9, 0.27, 0.09)
"""Of full scale, above background: saturated, and two outlines further out."""
FLANK_LEVEL = 0.5
"""An outline between, to tell how steep the flank is."""
CENTRE_FIT = np.array([[3.928, -6.302, -1.656, 2.124, 0.453, 0.503], [-3.055, 3.609, 3.235, -1.313, -2.974, -0.493]])
"""Factors of the two steps, each a polynomial of the growths g1, g2 of the areas: 1, g1, g2, g1², g2², g1 g2."""
SIZE_FIT = np.array([-0.223, 1.395, -3.718, -0.621, 3.769, 0.676])
"""Logarithm of the true semi-axes over those of the second region, same polynomial."""
CENTRE_FIT_LIT = np.array(
    [
        [-0.469, -4.12, -0.961, 3.702, 1.675, 1.024, 1.335, -0.873, -1.043, -0.665],
        [1.392, 1.045, -1.736, -1.913, -0.651, -0.771, -1.591, 0.754, 1.928, 0.061],
    ]
)
"""The same where the patch's power is known from the lens and the sunlit sand: m is the logarithm of its mean light in
the first region over that region's edge. Polynomial: 1, g1, g2, m, g1², g2², g1 g2, m g1, m g2, m²."""
SIZE_FIT_LIT = np.array([0.289, -0.29, -0.788, -0.239, 0.461, 2.395, -0.137, -0.201, -0.228, 0.034])
GROWTH_RANGE = ((0.15, 1.8), (0.12, 0.9))
"""Growths outside what the fit has seen are taken as at its edge."""
LIGHT_RANGE = (0.3, 5.0)
LONGEST_STEP = 0.7
"""No correction is larger than this share of the patch's mean semi-axis."""


@dataclass(frozen=True, eq=False)
class Outline:
    """What the outlines say."""

    centre_m: Array
    """(2,) of the irradiance."""
    moments_m2: Array
    """(2, 2) second central moments."""
    doubt: float
    """Standard deviation of the centre, each axis, as a share of the patch's mean standard deviation."""
    flank_m2: float
    """Variance of a Gaussian whose flank is as steep: small for a sparkle, however bright."""
    corrected: bool
    """Whether there were outlines to correct by; else the centre is the bright region's."""
    clipped_m2: float
    """Bed area of the saturated region."""


@dataclass(frozen=True, eq=False)
class _Region:
    area: float
    centre: Array
    moments: Array
    closed: bool


def measure_outline(
    light: Light,
    u: NDArray[np.float32],
    v: NDArray[np.float32],
    lows: Array,
    cell_m: float,
    background: float,
    noise: float,
    flux_m2: float | None = None,
) -> Outline | None:
    """Return what the outlines of the spot in a raster's middle say; None when nothing there is saturated.

    ``light`` is linear, any part of the picture; ``u``, ``v`` (n, n) are where the raster's cells lie in it, rows along
    y; ``lows`` (2,) is the first cell's middle on the bed; ``flux_m2`` is the patch's light summed over the bed, full
    scale times m², where it is known to a factor of 1.3.
    """
    flat: Any = cv2.remap(light, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    above = np.asarray(flat, dtype=np.float32) - np.float32(background)
    full = 1.0 - background
    found: list[_Region] = []
    for level in LEVELS:
        if level < LEVELS[0] and level * full < 0.8 * background + 5 * noise:
            break
        region = _region(above > level * full, found[0].centre if found else None)
        if region is None or (found and not region.closed):
            break
        found.append(region)
    if not found:
        return None
    between = _region(above > FLANK_LEVEL * full, found[0].centre)
    flux = None if flux_m2 is None else flux_m2 / (LEVELS[0] * full)
    return _judged(found, between, lows, cell_m, flux)


def _region(over: NDArray[np.bool_], near: Array | None) -> _Region | None:
    """The connected region nearest to the middle (or to ``near``), in cells."""
    count, labels, stats, centroids = cv2.connectedComponentsWithStats(over.astype(np.uint8), connectivity=8)
    if count < 2:
        return None
    middle = np.array(over.shape, dtype=float) / 2 if near is None else near
    distance = np.linalg.norm(np.asarray(centroids)[1:] - middle, axis=1) - np.sqrt(stats[1:, cv2.CC_STAT_AREA])
    which = 1 + int(np.argmin(distance))
    rows, columns = np.nonzero(labels == which)
    centre = np.array([columns.mean(), rows.mean()])
    d = np.stack([columns, rows]) - centre[:, None]
    n = over.shape[0] - 1
    closed = bool(rows.min() > 0 and columns.min() > 0 and rows.max() < n and columns.max() < n)
    return _Region(float(len(rows)), centre, d @ d.T / len(rows) + np.eye(2) / 12, closed)


def _judged(
    found: list[_Region], between: _Region | None, lows: Array, cell_m: float, flux_m2: float | None
) -> Outline:
    first, second = found[0], found[min(1, len(found) - 1)]
    growth, scale = _growths(found), cell_m**2
    size = float(np.sqrt(np.trace(second.moments) / 2))
    centre, corrected = first.centre, len(found) > 1
    moments, doubt = first.moments, 0.35
    if corrected:
        fit, size_fit, terms = _terms(growth, flux_m2, first.area * scale)
        step = (fit[0] @ terms) * (first.centre - second.centre)
        if len(found) > 2:
            step = step + (fit[1] @ terms) * (second.centre - found[2].centre)
        length = float(np.linalg.norm(step))
        centre = centre + step * min(1.0, LONGEST_STEP * size / max(length, 1e-9))
        moments = second.moments * np.exp(2 * float(np.clip(size_fit @ terms, -1.2, 0.3)))
        doubt = float(np.interp(growth[0], [0.3, 0.35, 0.45, 0.6, 0.9, 1.5], [0.24, 0.19, 0.11, 0.09, 0.11, 0.13]))
        doubt = doubt if len(found) > 2 else 1.5 * doubt
    flank = _flank(first, between, LEVELS[0] / FLANK_LEVEL)
    if corrected:
        flank = min(flank, _flank(first, second, LEVELS[0] / LEVELS[1]))
    return Outline(lows + centre * cell_m, moments * scale, doubt, flank * scale, corrected, first.area * scale)


def _flank(inner: _Region, outer: _Region | None, ratio: float) -> float:
    """Variance of the Gaussian between whose outlines, ``ratio`` apart in light, lies this area; in cells."""
    return float("inf") if outer is None else (outer.area - inner.area) / (2 * np.pi * np.log(ratio))


def _terms(growth: tuple[float, float], flux_m2: float | None, area_m2: float) -> tuple[Array, Array, Array]:
    """The fits to use and their polynomial's terms."""
    a, b = growth
    if flux_m2 is None:
        return CENTRE_FIT, SIZE_FIT, np.array([1.0, a, b, a * a, b * b, a * b])
    m = float(np.clip(np.log(flux_m2 / area_m2), *LIGHT_RANGE))
    return CENTRE_FIT_LIT, SIZE_FIT_LIT, np.array([1.0, a, b, m, a * a, b * b, a * b, m * a, m * b, m * m])


def _growths(found: list[_Region]) -> tuple[float, float]:
    growths = [float(np.log(b.area / a.area)) for a, b in pairwise(found)]
    growths = [*growths, *[0.4, 0.35][len(growths) :]]
    (low1, high1), (low2, high2) = GROWTH_RANGE
    return float(np.clip(growths[0], low1, high1)), float(np.clip(growths[1], low2, high2))
