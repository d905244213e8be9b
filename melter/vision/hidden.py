"""A patch that something hides a part of: which part, and what it would be like if one could see it whole.

Edges sharper than sunlight's tell where the thing in front begins and on which side the light is; straight things (poles,
cables, struts, the lens frame) make one edge or two parallel ones. A profile is fitted to what is left, and fills the
hidden part; what is seen counts as measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.vision.cut import Array, Cut, Sums, mahalanobis
from melter.vision.profile import Profile, Samples, fit_profile, start_from
from melter.vision.sharpness import Edges

SAMPLES = 500
WORTH = 20.0
"""Independent pixels that all samples together count for."""
REACH = 7.0
"""Standard deviations of the visible part within which pixels are used."""
ENOUGH = 4
"""Edge pixels of one direction that make an edge."""
PEAK_BEHIND = 0.05
"""Logarithm of the whole patch's peak over the brightest that is seen, on average."""
LESS_LIGHT = -0.1
"""Logarithm of the patch's power over what the machine file says, on average: dust, and lenses are rarely better than said."""
AGAIN = 0.2
"""Of the brightest light: what shines that much on the far side is the patch again."""
MARGIN_PX = 1.5
"""Pixels this near to the edge are mixed and not used."""


@dataclass(frozen=True, eq=False)
class Whole:
    """The patch as it would look."""

    centre_m: Array
    moments_m2: Array
    hidden_share: float
    """Of its light."""
    covariance_m2: Array
    """Of the centre, by the fit alone."""


def hidden_part(cut: Cut, edges: Edges) -> NDArray[np.bool_]:
    """Return (h, w): the dark sides of the edges, as straight as things in front are."""
    tensor = edges.towards_light.T @ edges.towards_light
    normal = np.linalg.eigh(tensor)[1][:, 1]
    side = edges.towards_light @ normal
    place = np.stack([edges.u, edges.v], axis=1) @ normal
    v, u = np.mgrid[0 : cut.light.shape[0], 0 : cut.light.shape[1]]
    d = u * normal[0] + v * normal[1]
    above, below = place[side > 0.7], place[side < -0.7]
    if len(above) >= ENOUGH and len(below) >= ENOUGH:
        low, high = float(np.median(below)), float(np.median(above))
        if low < high:
            return (d > low - MARGIN_PX) & (d < high + MARGIN_PX)
        return (d > low - MARGIN_PX) | (d < high + MARGIN_PX)
    edge, sign = (float(np.median(above)), -1.0) if len(above) >= len(below) else (float(np.median(below)), 1.0)
    depth = sign * (d - edge)
    return (depth > -MARGIN_PX) & (depth < _far_side(cut, depth) + MARGIN_PX)


def _far_side(cut: Cut, depth: Array) -> float:
    """How far behind the edge light comes out again: infinite when it does not."""
    bright = cut.light > AGAIN * float(cut.light.max())
    behind = depth[bright & cut.usable & (depth > 2 * MARGIN_PX)]
    return float(np.quantile(behind, 0.02)) if len(behind) >= 12 else float("inf")


def completed(
    cut: Cut,
    sums: Sums,
    hidden: NDArray[np.bool_],
    flux_expected_m2: float | None,
    shape_known: tuple[Array, float] | None,
) -> Whole | None:
    """Return the patch with its hidden part filled in; None when too little of it is seen."""
    dx, dy = cut.x - np.float32(sums.centre_m[0]), cut.y - np.float32(sums.centre_m[1])
    seen = cut.usable & ~hidden & (mahalanobis(sums.moments_m2, dx, dy) < REACH**2)
    samples = _samples(cut, sums, seen)
    if len(samples.light) < 12:
        return None
    peak = max(float(samples.light.max()), 1e-3)
    start = start_from(sums.centre_m, sums.moments_m2, peak)
    if shape_known is not None:
        start = shape_known[0].copy()
        start[1:3] = sums.centre_m
    expected = None if flux_expected_m2 is None else float(np.log(flux_expected_m2)) + LESS_LIGHT
    brightest = None if samples.saturated.any() else float(np.log(np.quantile(samples.light, 0.99))) + PEAK_BEHIND
    profile = fit_profile(
        samples,
        start,
        log_flux_expected=expected,
        log_peak_expected=brightest,
        shape_known=shape_known,
    )
    return _filled(cut, sums, hidden, profile)


def _filled(cut: Cut, sums: Sums, hidden: NDArray[np.bool_], profile: Profile) -> Whole:
    """Sums over what is seen as measured, and over hidden and saturated pixels as the profile says."""
    model = profile.light_at(cut.x, cut.y)
    measured = (cut.light - np.float32(sums.background)) * (cut.usable & (model > 0.003 * profile.peak))
    unknown = hidden | cut.saturated
    weight = (
        np.where(unknown, np.where(cut.saturated, np.maximum(model, measured), model), measured) * cut.area
    ).ravel()
    x, y = cut.x.ravel(), cut.y.ravel()
    flux = float(weight.sum())
    centre = np.array([weight @ x, weight @ y], dtype=float) / flux
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    wx, wy = weight * dx, weight * dy
    moments = np.array([[wx @ dx, wx @ dy], [wx @ dy, wy @ dy]], dtype=float) / flux
    if np.linalg.eigvalsh(moments)[0] <= 0:
        centre, moments = profile.centre_m, profile.moments_m2
    share = float((model * cut.area)[hidden].sum()) / max(float((model * cut.area).sum()), 1e-12)
    return Whole(centre, moments, min(max(share, 0.0), 1.0), profile.covariance[1:3, 1:3])


def _samples(cut: Cut, sums: Sums, seen: NDArray[np.bool_]) -> Samples:
    """Some 500 pixels of those seen."""
    pick = np.flatnonzero(seen)
    rows, columns = np.divmod(pick, cut.light.shape[1])
    thin = max(1, int(np.sqrt(len(pick) / SAMPLES)))
    pick = pick[(rows % thin == 0) & (columns % thin == 0)]
    x, y = cut.x.ravel()[pick].astype(float), cut.y.ravel()[pick].astype(float)
    light = cut.light.ravel()[pick].astype(float) - sums.background
    return Samples(x, y, light, cut.saturated.ravel()[pick], sums.noise, WORTH / max(len(pick), 1))
