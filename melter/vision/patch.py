"""One bright spot in one frame: is it the light patch, and where exactly is its irradiance centroid?

Where nothing is saturated or hidden, the centroid and second moments are sums over pixels in linear light, each pixel
weighted with the bed area it sees, background taken off. A saturated patch is measured by its outlines
(:mod:`melter.vision.outline`), one that something hides a part of is completed (:mod:`melter.vision.hidden`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from melter.observation import Status
from melter.vision.bed import BedView
from melter.vision.cut import Array, Box, Cut, Sums, core_of, cut_out, sum_up
from melter.vision.hidden import Whole, completed, hidden_part
from melter.vision.hue import whiteness
from melter.vision.maps import BedMaps
from melter.vision.opencv import cv2
from melter.vision.outline import CELLS, Outline, measure_outline
from melter.vision.plausible import Level, Look, look_at, reason_against
from melter.vision.response import Pixels, Response
from melter.vision.sharpness import Blur, without_sparkles

READ_NOISE_CODES = 1.3
"""Of a webcam at 8 bits, JPEG included."""
HIDDEN_FROM = 0.04
"""Share of the light missing from which a patch is called occluded."""
HIDDEN_DOUBT = (0.3, 0.6)
"""By how much of its size a completed patch's centroid may be off: at least, and more per share that is hidden."""
POINT_PX = 2.2
"""Standard deviation up to which a round spot may be a saturated glint."""
SATURATED_FROM = 0.004
"""Share of the core's pixels."""
LIKE_FROM, LIKE_SPAN = 0.7, 2.0
"""Coarseness at which likeness begins, and over which it grows to 1."""
ROUND_TELLS = 10.0
"""Coarseness of a saturated spot below which its roundness counts."""
MAYBE_HIDDEN = 0.25
"""Of a patch's size, by which its centroid may be off where straight edges say that a part may be hidden."""
HOLES_SHARE = 0.15
"""Of a patch's size, by which its centroid may be off where glints on it were left out."""
MOST_CLIPPED = 0.25
"""Share of the core that is saturated up to which glints may have done it."""
CLIPPED_HALO_PX = 4
WHITE_LIKENESS = 0.4
"""Factor of the likeness of a spot that is not of the sand's colour but as white as the sun."""
TEXTURE_SHARE = 0.035
"""Of a patch's size, by which uneven brightness of the sand moves its centroid."""
SYSTEMATIC_PX = 0.04
"""What pixels, optics and JPEG do to any centroid."""
TWO_SIGMA = 1.44
"""Covariances are given so that the ellipse of two sigma holds 95 %: (2.45 / 2)² of the plain one, a little less."""


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
    peak: float = 0.0
    """Brightest linear light of it, of full scale 1; 1 where saturated."""
    likeness: float = 1.0
    """0 to 1: how much its finest structure looks like sunlight through the lens; sparkles have little."""

    @property
    def weight(self) -> float:
        """By which several spots of one frame are compared."""
        return self.flux * self.likeness


@dataclass(frozen=True)
class Rejected:
    """A bright spot that is something else, and why."""

    centre_px: tuple[float, float]
    reason: str


def measure_spot(
    pixels: Pixels,
    box: Box,
    view: BedView,
    maps: BedMaps,
    level: Level,
    response: Response,
    shape_known: tuple[Array, float] | None = None,
    relief_m: float = 0.0,
    others: Sequence[Box] = (),
) -> Spot | Rejected:
    """Return the patch in ``box`` (u0, v0, u1, v1 of what is above the threshold), or why it is none.

    ``shape_known``: parameters of the profile in the last good frame and their relative age; ``relief_m``: standard
    deviation of the sand's height; ``others``: boxes of small spots that are not part of this one.
    """
    place_px = ((box[0] + box[2] - 1) / 2, (box[1] + box[3] - 1) / 2)
    blur = Blur.at(view.jacobian_m_per_px(place_px), view.blur_px, level.floor_semi_axis_m)
    cut = without_sparkles(cut_out(pixels, box, maps, response, others), blur, box)
    judged = _judged(pixels, cut, box, view, level, response, blur)
    glinting = not isinstance(judged, Look) and judged[1]
    if glinting:
        cut = _without_clipped(cut)
        judged = _judged(pixels, cut, box, view, level, response, blur)
    if not isinstance(judged, Look):
        return Rejected(place_px, judged[0])
    spot = _measured(judged, level, view, shape_known)
    if glinting:
        spot = replace(spot, covariance_m2=spot.covariance_m2 + spot.moments_m2 * HOLES_SHARE**2)
    return replace(_with_bed(spot, view, relief_m), peak=_peak(cut, judged.sums), likeness=_likeness(judged))


def _judged(
    pixels: Pixels, cut: Cut, box: Box, view: BedView, level: Level, response: Response, blur: Blur
) -> Look | tuple[str, bool]:
    """Return what passes for the patch; or why it does not, and whether glints on sunlit sand may be to blame."""
    sums = sum_up(cut, box, level.threshold)
    if isinstance(sums, str):
        return sums, False
    clipped = np.count_nonzero(cut.saturated & sums.inside) / max(np.count_nonzero(core_of(cut, sums)), 1)
    outline = _outline(cut, sums, view, level) if clipped > SATURATED_FROM else None
    white = partial(whiteness, pixels, cut, sums, level.hues, response)
    place_px = ((box[0] + box[2] - 1) / 2, (box[1] + box[3] - 1) / 2)
    look = look_at(cut, sums, blur, outline, view, place_px, white)
    reason = reason_against(look, level, view)
    return (reason, outline is not None and look.sandy and bool(clipped < MOST_CLIPPED)) if reason else look


def _without_clipped(cut: Cut) -> Cut:
    """The same with saturated pixels, and those around them, not used: glints, on a patch of the sand's colour."""
    reach = 2 * CLIPPED_HALO_PX // cut.stride + 1
    halo = cv2.dilate(cut.saturated.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
    return replace(cut, usable=cut.usable & ~halo, saturated=cut.saturated & ~halo)


def _measured(look: Look, level: Level, view: BedView, shape_known: tuple[Array, float] | None) -> Spot:
    spot = _whole(look, level, view, shape_known) if look.edges.cut else None
    if spot is not None:
        return spot
    spot = _by_sums(look.cut, look.sums, view) if look.outline is None else _by_outline(look.sums, look.outline, view)
    if not look.edges.cut and not look.edges.doubtful:
        return spot
    return replace(spot, covariance_m2=spot.covariance_m2 + spot.moments_m2 * MAYBE_HIDDEN**2)


def _likeness(look: Look) -> float:
    likeness = float(np.clip((look.coarseness - LIKE_FROM) / LIKE_SPAN, 0.05, 1.0))
    if look.outline is not None and look.coarseness < ROUND_TELLS and look.flatness is not None:
        likeness *= float(np.clip(look.flatness, 0.1, 1.0))
    return likeness * (WHITE_LIKENESS if look.white else 1.0)


def _peak(cut: Cut, sums: Sums) -> float:
    return 1.0 if (cut.saturated & sums.inside).any() else float(np.max(cut.light[sums.inside], initial=0.0))


def _outline(cut: Cut, sums: Sums, view: BedView, level: Level) -> Outline | None:
    """The outlines of a saturated spot, on a raster of the bed."""
    half = 3.5 * float(np.sqrt(np.linalg.eigvalsh(sums.moments_m2)[-1]))
    cell = 2 * half / CELLS
    steps = (np.arange(CELLS) + 0.5) * cell - half
    points = np.stack(np.meshgrid(sums.centre_m[0] + steps, sums.centre_m[1] + steps), axis=-1)
    px = (view.to_px(points) - np.array(cut.corner_px)) / cut.stride
    u, v = px[..., 0].astype(np.float32), px[..., 1].astype(np.float32)
    lows = sums.centre_m + steps[0]
    return measure_outline(cut.light, u, v, lows, cell, sums.background, sums.noise, level.flux_m2)


def _whole(look: Look, level: Level, view: BedView, shape_known: tuple[Array, float] | None) -> Spot | None:
    """A partly hidden patch, completed; None when nothing much turns out to be hidden."""
    whole = completed(look.cut, look.sums, hidden_part(look.cut, look.edges), level.flux_m2, shape_known)
    if whole is None or whole.hidden_share < HIDDEN_FROM:
        return None
    return _by_filling(look.sums, whole, view)


def _by_sums(cut: Cut, sums: Sums, view: BedView) -> Spot:
    covariance = _noise_of_centroid(cut, sums) + sums.moments_m2 * TEXTURE_SHARE**2
    return _spot("ok", sums.centre_m, sums.moments_m2, covariance, sums, view)


def _by_outline(sums: Sums, outline: Outline, view: BedView) -> Spot:
    size_m2 = float(np.trace(outline.moments_m2)) / 2
    covariance = np.eye(2) * size_m2 * outline.doubt**2
    return _spot("saturated", outline.centre_m, outline.moments_m2, covariance, sums, view)


def _by_filling(sums: Sums, whole: Whole, view: BedView) -> Spot:
    doubt = HIDDEN_DOUBT[0] + HIDDEN_DOUBT[1] * whole.hidden_share
    covariance = whole.covariance_m2 * whole.hidden_share + whole.moments_m2 * doubt**2
    return _spot("occluded", whole.centre_m, whole.moments_m2, covariance, sums, view)


def _spot(status: Status, centre: Array, moments: Array, covariance: Array, sums: Sums, view: BedView) -> Spot:
    """A spot with the optics' blur taken off its moments."""
    px = view.to_px(centre)
    jacobian = view.jacobian_m_per_px(px)
    net = _without_blur(moments, jacobian @ jacobian.T * view.blur_px**2)
    return Spot(status, centre, net, covariance, _pointlike(sums.moments_m2, jacobian), sums.flux, px)


def _with_bed(spot: Spot, view: BedView, relief_m: float) -> Spot:
    """The same with the uncertainty of the bed's pose and of the sand's height added."""
    jacobian = view.jacobian_m_per_px(spot.centre_px)
    away = view.sight_on_bed(spot.centre_m)
    more = view.covariance_m2(spot.centre_m) + jacobian @ jacobian.T * SYSTEMATIC_PX**2
    more = more + np.outer(away, away) * relief_m**2
    return replace(spot, covariance_m2=(spot.covariance_m2 + more) * TWO_SIGMA)


def _pointlike(moments_m2: Array, jacobian_m_per_px: Array) -> bool:
    """Whether a spot is as round as the optics' blur although the bed is seen obliquely, and not much larger."""
    inverse = np.linalg.inv(jacobian_m_per_px)
    small, large = np.sqrt(np.linalg.eigvalsh(inverse @ moments_m2 @ inverse.T))
    axes = np.linalg.svd(inverse, compute_uv=False)
    return bool(large < POINT_PX and large / small < 1 + 0.45 * (axes[0] / axes[1] - 1))


def _noise_of_centroid(cut: Cut, sums: Sums) -> Array:
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
