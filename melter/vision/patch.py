"""One bright spot in one frame: is it the light patch, and where exactly is its irradiance centroid?

Where nothing is saturated or hidden, the centroid and second moments are sums over pixels in linear light, each pixel
weighted with the bed area it sees, background taken off. Else a profile is fitted (:mod:`melter.vision.profile`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.observation import Status
from melter.vision.bed import BedView
from melter.vision.maps import BedMaps
from melter.vision.profile import MODEL_ERROR, WELL_FITTED, Profile, Samples, fit_profile, start_from
from melter.vision.response import Pixels, Response, measured_light

Array = NDArray[np.float64]

LARGEST_SEMI_AXIS_M = 0.40
APERTURE = 2.25
"""Light is summed inside this many semi-axes."""
MAX_AXIS_RATIO = 5.0
READ_NOISE_CODES = 1.3
"""Of a webcam at 8 bits, JPEG included."""
LEAST_EXPLAINED = 0.5
SKEW_REACH = 3.0
"""Standard deviations inside which lopsidedness is measured."""
COARSE_PIXELS = 60
"""A patch of so few pixels may fit half as well: the model does not average over a pixel."""
COMPLETIONS = 6
"""Directions in which a hidden part is looked for."""
LOPSIDED = 0.25
"""Skewness above which a cut-off side is considered: half a Gaussian has 1.0."""
FLAT_TOP = 0.7
"""Logarithm of the exponent above which a patch has sharp edges of its own, which look a little like hidden parts."""
POINT_PX = 2.2
"""Standard deviation up to which a round spot may be a saturated glint."""
HIDDEN_FROM = 0.06
"""Share of the light missing from which a patch is called occluded."""
TEXTURE_SHARE = 0.02
"""Of a patch's size, by which uneven brightness of the sand moves its centroid."""
SYSTEMATIC_PX = 0.04
"""What pixels, optics and JPEG do to any centroid."""
TWO_SIGMA = 1.44
"""Covariances are given so that the ellipse of two sigma holds 95 %: (2.45 / 2)² of the plain one, a little less."""


@dataclass(frozen=True)
class Level:
    """What one frame says about its exposure."""

    sand: float
    """Linear light of sunlit sand."""
    threshold: float
    """Linear light above which something is brighter than sand or white paper can be."""
    flux_expected_m2: float
    """Power of the patch over irradiance of open sand, from the machine file."""
    floor_semi_axis_m: float
    """No patch of this lens is smaller: the sun's disc and good facets."""


@dataclass(frozen=True, eq=False)
class Spot:
    """A bright spot that passes for the light patch."""

    status: Status
    """ok, saturated or occluded."""
    centre_m: Array
    """(2,)"""
    moments_m2: Array
    """(2, 2) second central moments on the bed."""
    covariance_m2: Array
    """(2, 2) of the centre."""
    pointlike: bool
    """Round and small in the image, not on the bed: more likely a glint than a patch."""
    flux: float
    """Light above background summed over the bed, full scale times m²; a lower bound where saturated."""
    centre_px: Array
    profile: Profile | None


@dataclass(frozen=True)
class Rejected:
    """A bright spot that is something else, and why."""

    centre_px: tuple[float, float]
    reason: str


@dataclass(frozen=True, eq=False)
class _Cut:
    """Pixels around a spot."""

    light: NDArray[np.float32]
    saturated: NDArray[np.bool_]
    usable: NDArray[np.bool_]
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    area: NDArray[np.float32]
    corner_px: tuple[int, int]
    stride: int


@dataclass(frozen=True, eq=False)
class _Sums:
    centre_m: Array
    moments_m2: Array
    flux: float
    background: float
    noise: float
    inside: NDArray[np.bool_]
    skew: Array
    """(2,) third central moments over the second ones' 3/2 power: how lopsided the light is along x and y."""


def measure_spot(
    pixels: Pixels,
    box: tuple[int, int, int, int],
    view: BedView,
    maps: BedMaps,
    level: Level,
    response: Response,
    shape_known: tuple[Array, float] | None = None,
    relief_m: float = 0.0,
) -> Spot | Rejected:
    """Return the patch in ``box`` (u0, v0, u1, v1 of what is above the threshold), or why it is none.

    ``shape_known``: parameters of the profile in the last good frame and their relative age; ``relief_m``: standard
    deviation of the sand's height.
    """
    u, v = (box[0] + box[2] - 1) / 2, (box[1] + box[3] - 1) / 2
    cut = _cut_out(pixels, box, maps, response)
    sums = _sum_up(cut, box, level)
    if isinstance(sums, str):
        return Rejected((u, v), sums)
    reason = _implausible(cut, sums, view, level, (u, v))
    if reason:
        return Rejected((u, v), reason)
    saturated_share = np.count_nonzero(cut.saturated & sums.inside) / max(np.count_nonzero(_core(cut, sums)), 1)
    profile = _fit(cut, sums, level, bool(saturated_share > 0), shape_known)
    if profile.explained < LEAST_EXPLAINED and not saturated_share > 0.1:
        return Rejected(
            (u, v), f"no smooth patch of light (the model explains {100 * max(profile.explained, 0):.0f} %)"
        )
    spot = _conclude(cut, sums, profile, saturated_share, view, relief_m)
    (large, small), _ = axes_of(spot.moments_m2)
    least = level.floor_semi_axis_m
    slack = {"ok": 1.0, "saturated": 0.9}.get(spot.status, 0.6)
    if small < 0.85 * slack * least or np.sqrt(large * small) < 0.95 * slack * least:
        return Rejected(
            (u, v),
            f"{1000 * large:.1f} x {1000 * small:.1f} mm, less than the sun's image ({1000 * least:.1f} mm): a glint",
        )
    return spot


def _cut_out(pixels: Pixels, box: tuple[int, int, int, int], maps: BedMaps, response: Response) -> _Cut:
    height, width = pixels.shape[:2]
    wide, high = box[2] - box[0], box[3] - box[1]
    margin_u, margin_v = max(14, int(1.2 * wide)), max(12, int(1.2 * high))
    u0, v0 = max(box[0] - margin_u, 0), max(box[1] - margin_v, 0)
    u1, v1 = min(box[2] + margin_u, width), min(box[3] + margin_v, height)
    stride = max(1, int(np.sqrt((u1 - u0) * (v1 - v0) / 30_000)))
    part = (slice(v0, v1, stride), slice(u0, u1, stride))
    light, saturated = measured_light(np.ascontiguousarray(pixels[part]), response)
    usable = maps.allowed[part] > 0
    return _Cut(
        light,
        saturated,
        usable,
        maps.x_m[part],
        maps.y_m[part],
        maps.area_m2[part] * np.float32(stride**2),
        (u0, v0),
        stride,
    )


def _sum_up(cut: _Cut, box: tuple[int, int, int, int], level: Level) -> _Sums | str:
    """Moments inside an aperture that follows the spot, above the background around it."""
    outside = np.ones(cut.light.shape, dtype=bool)
    v0, u0 = (box[1] - cut.corner_px[1]) // cut.stride, (box[0] - cut.corner_px[0]) // cut.stride
    v1, u1 = -(-(box[3] - cut.corner_px[1]) // cut.stride), -(-(box[2] - cut.corner_px[0]) // cut.stride)
    outside[max(v0 - 2, 0) : v1 + 2, max(u0 - 2, 0) : u1 + 2] = False
    ring = cut.light[outside & cut.usable]
    if ring.size < 20:
        return "at the edge of the image or of the frame"
    background = float(np.percentile(ring, 30))
    first = ~outside & cut.usable
    inside = first & (cut.light > min(level.threshold, 0.5 * float(cut.light[first].max(initial=0))))
    smallest = 0.1 * float(cut.area.mean())
    noise, usable, light = 0.0, cut.usable.ravel(), cut.light.ravel()
    x, y, area, within = cut.x.ravel(), cut.y.ravel(), cut.area.ravel(), inside.ravel()
    centre, moments, flux, weight = np.zeros(2), np.zeros((2, 2)), 0.0, light
    dx, dy = x, y
    for step in range(6):
        weight = (light - np.float32(background)) * area * within
        flux = float(weight.sum())
        if not flux > 0:
            return "no light above the background"
        new_centre = np.array([weight @ x, weight @ y], dtype=float) / flux
        dx, dy = x - np.float32(new_centre[0]), y - np.float32(new_centre[1])
        wx, wy = weight * dx, weight * dy
        new = _at_least(np.array([[wx @ dx, wx @ dy], [wx @ dy, wy @ dy]], dtype=float) / flux, smallest)
        done = step > 1 and abs(np.trace(new - moments)) < 0.004 * np.trace(new)
        centre, moments = new_centre, new
        if done:
            break
        q = _mahalanobis(moments, dx, dy)
        reach = (2 * APERTURE) ** 2
        within = (q < reach) & usable
        ring = light[(q > 1.2 * reach) & (q < 3.5 * reach) & usable]
        if ring.size >= 30:
            top = float(np.median(ring)) * 3 + 0.02
            ring = ring[ring < top]
            background, noise = float(ring.mean()), float(ring.std())
    weight = weight * (_mahalanobis(moments, dx, dy) < SKEW_REACH**2)
    third = np.array([weight @ dx**3, weight @ dy**3], dtype=float) / flux / np.diag(moments) ** 1.5
    return _Sums(centre, moments, flux, background, max(noise, 2e-4), within.reshape(cut.light.shape), third)


def _mahalanobis(moments: Array, dx: NDArray[np.float32], dy: NDArray[np.float32]) -> NDArray[np.float32]:
    i = np.linalg.inv(moments).astype(np.float32)
    return i[0, 0] * dx * dx + 2 * i[0, 1] * dx * dy + i[1, 1] * dy * dy


def _at_least(moments: Array, smallest: float) -> Array:
    values, vectors = np.linalg.eigh(moments)
    return (vectors * np.maximum(values, smallest)) @ vectors.T


def _core(cut: _Cut, sums: _Sums) -> NDArray[np.bool_]:
    """Pixels inside one semi-axis ellipse."""
    return _mahalanobis(sums.moments_m2, cut.x - np.float32(sums.centre_m[0]), cut.y - np.float32(sums.centre_m[1])) < 4


def _implausible(cut: _Cut, sums: _Sums, view: BedView, level: Level, centre_px: tuple[float, float]) -> str:
    """Say why a spot of this size and power cannot be the patch; empty when it can."""
    values = np.linalg.eigvalsh(sums.moments_m2)
    small, large = 2 * np.sqrt(values)
    if large > LARGEST_SEMI_AXIS_M:
        return f"semi-axis {1000 * large:.0f} mm, larger than any patch ({1000 * LARGEST_SEMI_AXIS_M:.0f} mm)"
    if large / small > MAX_AXIS_RATIO:
        return f"axis ratio {large / small:.1f}, longer than any patch ({MAX_AXIS_RATIO})"
    bright = cut.usable & sums.inside & (cut.light >= level.threshold)
    area = float(cut.area[bright].sum())
    spread = 2 * np.pi * (level.floor_semi_axis_m / 2) ** 2
    least = 0.5 * spread * np.log(max(level.flux_expected_m2 * level.sand / (spread * level.threshold), np.e))
    peak = float(cut.light[bright].max(initial=0.0))
    any_saturated = bool((cut.saturated & sums.inside).any())
    if any_saturated and area < least:
        return f"{1e6 * area:.0f} mm² bright, less than a patch would be at this exposure ({1e6 * least:.0f} mm²)"
    if not any_saturated and level.sand > 0.002:
        power = sums.flux / level.sand
        if power < 0.04 * level.flux_expected_m2:
            return (
                f"{power:.4f} m² of sunlit sand's light, less than the lens gathers ({level.flux_expected_m2:.2f} m²)"
            )
    jacobian = view.jacobian_m_per_px(centre_px)
    blur = jacobian @ jacobian.T * view.blur_px**2
    across = _across_sight(view, sums.centre_m)
    net = float(across @ (sums.moments_m2 - blur) @ across)
    if net < (0.5 * level.floor_semi_axis_m / 2) ** 2:
        return f"narrower than the sun's image ({1000 * level.floor_semi_axis_m:.1f} mm), a glint (peak {peak:.2f})"
    return ""


def _across_sight(view: BedView, point_m: Array) -> Array:
    """Unit vector on the bed at right angles to the line of sight: where the camera resolves best."""
    away = view.sight_on_bed(point_m)
    length = float(np.linalg.norm(away))
    return np.array([-away[1], away[0]]) / length if length > 1e-6 else np.array([1.0, 0.0])


def _fit(cut: _Cut, sums: _Sums, level: Level, saturated: bool, shape_known: tuple[Array, float] | None) -> Profile:
    dx, dy = cut.x - np.float32(sums.centre_m[0]), cut.y - np.float32(sums.centre_m[1])
    near = cut.usable & (_mahalanobis(sums.moments_m2, dx, dy) < 16)
    pick = np.flatnonzero(near)
    rows, columns = np.divmod(pick, cut.light.shape[1])
    thin = max(1, int(np.sqrt(len(pick) / 500)))
    pick = pick[(rows % thin == 0) & (columns % thin == 0)]
    light = cut.light.ravel()[pick].astype(float) - sums.background
    samples = Samples(
        cut.x.ravel()[pick].astype(float),
        cut.y.ravel()[pick].astype(float),
        light,
        cut.saturated.ravel()[pick],
        sums.noise,
    )
    peak = max(float(light.max(initial=0.0)), 1e-3) * (3.0 if saturated else 1.0)
    start = start_from(sums.centre_m, sums.moments_m2 * (0.6 if saturated else 1.0), peak)
    expected = None
    if saturated and 0.002 < level.sand < 0.9:
        expected = float(np.log(level.flux_expected_m2 * level.sand))
    best = fit_profile(samples, start, log_flux_expected=expected, shape_known=shape_known)
    lopsided = (
        float(np.linalg.norm(sums.skew)) > LOPSIDED and best.misfit > MODEL_ERROR and len(pick) > 3 * COARSE_PIXELS
    )
    tolerance = WELL_FITTED * (1 + COARSE_PIXELS / max(len(pick), 1))
    if best.misfit < tolerance and best.hidden_share < HIDDEN_FROM and not lopsided:
        return best
    return _completed(samples, best, expected, shape_known)


def _completed(
    samples: Samples, so_far: Profile, expected: float | None, shape_known: tuple[Array, float] | None
) -> Profile:
    """Try whether a larger patch, partly hidden on one side, explains the pixels clearly better."""
    some = Samples(samples.x_m[::2], samples.y_m[::2], samples.light[::2], samples.saturated[::2], samples.noise)
    root = np.linalg.cholesky(so_far.moments_m2)
    trials: list[Profile] = []
    for angle in np.arange(COMPLETIONS) * (2 * np.pi / COMPLETIONS):
        towards = root @ np.array([np.cos(angle), np.sin(angle)])
        start = start_from(
            so_far.centre_m + towards, so_far.moments_m2 + 0.5 * np.outer(towards, towards), 1.1 * so_far.peak
        )
        trials.append(
            fit_profile(
                some, start, log_flux_expected=expected, shape_known=shape_known, iterations=8, soft_first=False
            )
        )
    likely = min(trials, key=lambda trial: trial.cost)
    trial = fit_profile(
        samples, likely.parameters, log_flux_expected=expected, shape_known=shape_known, soft_first=False
    )
    return trial if trial.cost < 0.7 * so_far.cost and trial.hidden_share < 0.7 else so_far


def _conclude(cut: _Cut, sums: _Sums, profile: Profile, saturated_share: float, view: BedView, relief_m: float) -> Spot:
    status: Status = "ok"
    if profile.hidden_share > (HIDDEN_FROM if profile.parameters[6] < FLAT_TOP else 2.5 * HIDDEN_FROM):
        status = "occluded"
    elif saturated_share > 0.004:
        status = "saturated"
    centre, moments = (sums.centre_m, sums.moments_m2) if status == "ok" else (profile.centre_m, profile.moments_m2)
    here_px = view.to_px(centre)
    jacobian = view.jacobian_m_per_px(here_px)
    per_px = jacobian @ jacobian.T
    moments = _without_blur(moments, per_px * view.blur_px**2)
    covariance = view.covariance_m2(centre) + per_px * SYSTEMATIC_PX**2
    away = view.sight_on_bed(centre)
    covariance = covariance + np.outer(away, away) * relief_m**2
    if status == "ok":
        covariance = covariance + _noise_of_centroid(cut, sums) + moments * TEXTURE_SHARE**2
        apart = sums.centre_m - profile.centre_m
        doubt = 0.8 * max(profile.misfit - WELL_FITTED, 0.0)
        covariance = covariance + 0.1 * np.outer(apart, apart) + moments * (2 * doubt) ** 2
    else:
        covariance = covariance + profile.covariance[1:3, 1:3] * 4
        doubt = 0.05 if status == "saturated" else 0.25 + 0.8 * profile.hidden_share
        covariance = covariance + moments * (2 * doubt) ** 2
    pointlike = _pointlike(sums.moments_m2, jacobian)
    return Spot(status, centre, moments, covariance * TWO_SIGMA, pointlike, sums.flux, here_px, profile)


def _pointlike(moments_m2: Array, jacobian_m_per_px: Array) -> bool:
    """Whether a spot is as round as the optics' blur although the bed is seen obliquely, and not much larger."""
    inverse = np.linalg.inv(jacobian_m_per_px)
    small, large = np.sqrt(np.linalg.eigvalsh(inverse @ moments_m2 @ inverse.T))
    axes = np.linalg.svd(inverse, compute_uv=False)
    return bool(large < POINT_PX and large / small < 1 + 0.45 * (axes[0] / axes[1] - 1))


def _noise_of_centroid(cut: _Cut, sums: _Sums) -> Array:
    """Sensor noise at each pixel's level, carried through the sums; and albedo that varies by a few percent."""
    light = np.maximum(cut.light[sums.inside].astype(float), 1e-4)
    per_code = 2.4 / 1.055 * light**0.583 / 255
    variance = np.maximum((READ_NOISE_CODES * per_code) ** 2, sums.noise**2 * (light < 0.05)) + (0.03 * light) ** 2
    area = cut.area[sums.inside].astype(float)
    d = np.stack([cut.x[sums.inside] - sums.centre_m[0], cut.y[sums.inside] - sums.centre_m[1]]).astype(float)
    weighted = d * (area * np.sqrt(variance))
    return (weighted @ weighted.T) / sums.flux**2


def _without_blur(moments: Array, blur: Array) -> Array:
    """Second moments with the optics' blur taken off, never below a fifth of what was seen."""
    values, vectors = np.linalg.eigh(moments - blur)
    floor = 0.2 * float(np.linalg.eigvalsh(moments)[0])
    return (vectors * np.maximum(values, floor)) @ vectors.T


def axes_of(moments_m2: Array) -> tuple[Array, float]:
    """Return (large, small) semi-axes and the large one's angle in (-pi/2, pi/2] of second central moments."""
    values, vectors = np.linalg.eigh(moments_m2)
    angle = float(np.arctan2(vectors[1, 1], vectors[0, 1]))
    if angle <= -np.pi / 2:
        angle += np.pi
    elif angle > np.pi / 2:
        angle -= np.pi
    return 2 * np.sqrt(np.maximum(values[::-1], 0)), angle
