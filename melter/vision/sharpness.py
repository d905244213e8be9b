"""How sharp is a spot? Sunlight through the lens is never sharper than the sun's image; sparkles and edges in front are.

A pattern of light blurred by a Gaussian of variance s² has neighbours alike by exp(-1 / 4s²), and no edge steeper than
0.4 / s of its height a pixel (1 / sqrt(2 pi)). Both follow from the Gaussian's autocorrelation and peak.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from melter.vision.cut import Array, Box, Cut, Sums
from melter.vision.opencv import cv2

SPARKLE_PX = 9
"""Sparkles on a patch are narrower than this."""
SPARKLE_SHARE = 0.3
"""And narrower than this share of it."""
STANDS_OUT = 1.6
"""A sparkle is this much brighter than what is around it."""
SPARKLE_FLANK = (0.9, 2.0)
"""A sparkle's flank is steeper than the smallest patch's: this share of its variance; of one that is clipped and round,
this share."""
PIXEL_PX2 = 0.3
"""What a pixel adds to a flank's variance."""
ROUND_BOX = 1.3
"""Width over height up to which a clipped blob is round; patches look flat."""
SPARKLE_LIGHT = 0.2
"""More than this of the remaining light is no sparkle on a patch, but its core."""
IN_THE_MIDDLE = 0.8
"""Standard deviations from the spot's middle: what stands out there is its core, or does no harm."""
MOST_SPARKLES = 12
EDGE, BUMP = 0.40, 0.61
"""Steepest slope of an edge blurred by a Gaussian, and of a Gaussian itself, times its deviation over its height."""
SMALLEST = 1.5
"""Coarseness below which a spot with sharp edges is no patch, whatever made them."""
BUMPS = (1.6, 2.6)
"""Coarseness of a spot that is all bump, and of one that is large enough to have edges."""
FLAT_ENOUGH = 1.2
"""Width over height of the smallest patch from which roundness tells anything."""
STEEPER = ((3.0, 8.0), (1.12, 1.02))
"""Coarseness, and how steep an edge is over the steepest of the smallest patch when it belongs to something in front:
larger patches are out of focus, and their own edges softer."""
DOUBTFUL_STEEPNESS = 0.86
"""Share of that steepness from which something may be in front: not enough to complete the patch, but to doubt it."""
FLANK_DEPTH = 3.1
"""How far above full scale a saturated patch may be before its own flank counts as an edge, near the patch's outline."""
CUT_FROM = 0.3
"""Length of sharp edges, in spot sizes, from which a part may be hidden."""
STRAIGHT = 0.6
BRIGHT_ENOUGH = 0.25
"""Of the peak: edges of dimmer parts are not looked at."""


@dataclass(frozen=True, eq=False)
class Blur:
    """Blurs in pixels of the picture, (2, 2) variances: u, v."""

    optics_px2: Array
    sunlight_px2: Array
    """The smallest patch of this lens, optics included."""

    @classmethod
    def at(cls, jacobian_m_per_px: Array, optics_px: float, smallest_semi_axis_m: float) -> Blur:
        """Return the blurs at a place on the bed."""
        inverse = np.linalg.inv(jacobian_m_per_px)
        optics = np.eye(2) * max(optics_px, 0.45) ** 2
        return cls(optics, optics + inverse @ inverse.T * (smallest_semi_axis_m / 2) ** 2)


def fineness(cut: Cut, sums: Sums, blur: Blur) -> float:
    """Return the area of the spot's finest structure over that of the smallest patch: below about 0.7 it is no patch."""
    light = np.where(sums.inside, np.maximum(cut.light - np.float32(sums.background), 0), 0)
    whole = float(np.sum(light * light))
    if whole <= 0:
        return 0.0
    along_u = float(np.sum(light[:, 1:] * light[:, :-1])) / whole
    along_v = float(np.sum(light[1:] * light[:-1])) / whole
    s2 = [cut.stride**2 / (-4 * np.log(min(max(r, 1e-3), 1 - 1e-6))) for r in (along_u, along_v)]
    inverse = np.linalg.inv(blur.sunlight_px2)
    return float(np.sqrt(s2[0] * s2[1] * inverse[0, 0] * inverse[1, 1]))


def roundness(cut: Cut, sums: Sums, blur: Blur) -> float | None:
    """Return how flat the spot looks: 0 round in the image, 1 as flat as the smallest patch would be there.

    From second moments along and across the direction in which the bed is foreshortened; None where it hardly is.
    """
    values, vectors = np.linalg.eigh(blur.sunlight_px2)
    expected = float(np.sqrt(values[1] / values[0]))
    if expected < FLAT_ENOUGH:
        return None
    light = np.where(sums.inside, np.maximum(cut.light - np.float32(sums.background), 0), 0)
    total = float(light.sum())
    if total <= 0:
        return None
    of_u, of_v = light.sum(axis=0, dtype=float) / total, light.sum(axis=1, dtype=float) / total
    u, v = np.arange(len(of_u)), np.arange(len(of_v))
    du, dv = u - of_u @ u, v - of_v @ v
    cross = float(dv @ light.astype(float) @ du) / total
    moments = np.array([[of_u @ du**2, cross], [cross, of_v @ dv**2]])
    across, along = np.diag(vectors.T @ moments @ vectors)
    return float((np.sqrt(along / max(across, 1e-9)) - 1) / (expected - 1))


def without_sparkles(cut: Cut, blur: Blur, box: Box) -> Cut:
    """Return the cut with sparkles that lie on a larger spot replaced by what is around them."""
    size = [int(min(SPARKLE_PX, SPARKLE_SHARE * n)) | 1 for n in (box[2] - box[0], box[3] - box[1])]
    if min(size) < 5 or cut.stride > 1:
        return cut
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size[0], size[1]))
    ground: Any = cv2.GaussianBlur(cv2.morphologyEx(cut.light, cv2.MORPH_OPEN, kernel), (3, 3), 0)
    out: Any = (cut.light > STANDS_OUT * ground + 0.05).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(out, connectivity=8)
    sparkles = np.zeros(cut.light.shape, np.uint8)
    smallest = float(np.sqrt(np.linalg.det(blur.sunlight_px2)))
    middle, spread = _middle_px(ground)
    for i in range(1, min(count, MOST_SPARKLES + 1)):
        u, v, w, h = (int(n) for n in stats[i][:4])
        if np.linalg.norm((np.array([u + w / 2, v + h / 2]) - middle) / spread) < IN_THE_MIDDLE:
            continue
        part = (slice(max(v - 1, 0), v + h + 1), slice(max(u - 1, 0), u + w + 1))
        clipped = bool((cut.saturated & (labels == i)).any())
        limit = SPARKLE_FLANK[1] if clipped and w < ROUND_BOX * h else SPARKLE_FLANK[0]
        if _flank_px2(cut.light[part] - ground[part]) < limit * smallest + PIXEL_PX2:
            sparkles[labels == i] = 1
    if not sparkles.any():
        return cut
    gone = cv2.dilate(sparkles, np.ones((3, 3), np.uint8)) > 0
    light = np.where(gone, np.minimum(ground, cut.light), cut.light).astype(np.float32)
    if float(np.sum(cut.light - light)) > SPARKLE_LIGHT * float(np.sum(light)):
        return cut
    return replace(cut, light=light, saturated=cut.saturated & ~gone)


def _middle_px(light: Any) -> tuple[Array, Array]:
    """Centroid and standard deviations (u, v) of the brighter part of a spot."""
    weight = np.where(light > 0.2 * float(light.max()), light, 0.0).astype(float)
    u, v = weight.sum(axis=0), weight.sum(axis=1)
    iu, iv, total = np.arange(len(u)), np.arange(len(v)), max(float(weight.sum()), 1e-12)
    middle = np.array([iu @ u, iv @ v]) / total
    variance = np.array([u @ (iu - middle[0]) ** 2, v @ (iv - middle[1]) ** 2]) / total
    return middle, np.sqrt(np.maximum(variance, 0.25))


def _flank_px2(light: Any) -> float:
    """Variance of a Gaussian with as much area between its outlines at 0.9 and 0.5 of its top, or of full scale."""
    finer: Any = cv2.resize(np.asarray(light, dtype=np.float32), None, fx=3, fy=3, interpolation=cv2.INTER_LINEAR)
    top = float(finer.max())
    area = np.count_nonzero(finer > 0.5 * top) - np.count_nonzero(finer > 0.9 * top)
    return float(area) / 9 / (2 * np.pi * np.log(1.8))


@dataclass(frozen=True, eq=False)
class Edges:
    """Edges sharper than sunlight's."""

    u: Array
    """(n,) columns of the cut."""
    v: Array
    towards_light: Array
    """(n, 2) unit vectors u, v."""
    length: float
    """Number of edge pixels over the spot's size."""
    doubtful: bool = False
    """Whether edges not quite as sharp, but straight, make it likely that something is in front."""

    @property
    def cut(self) -> bool:
        """Whether something straight in front made them: long enough, and all of one direction or its opposite.

        A small, strongly saturated patch is sharp too, but all around.
        """
        if self.length <= CUT_FROM:
            return False
        values = np.linalg.eigvalsh(self.towards_light.T @ self.towards_light)
        one_sided = float(np.linalg.norm(self.towards_light.mean(axis=0)))
        return max(one_sided, float((values[1] - values[0]) / max(values.sum(), 1e-12))) > STRAIGHT


def sharp_edges(cut: Cut, sums: Sums, blur: Blur, coarseness: float) -> Edges:
    """Return the edges inside the aperture that something in front must have made.

    ``coarseness``: the spot's finest structure over the smallest patch's, as areas.
    """
    light: Any = np.maximum(cut.light - np.float32(sums.background), 0).astype(np.float32)
    if cut.stride > 1:
        return Edges(np.zeros(0), np.zeros(0), np.zeros((0, 2)), 0.0)
    peak = float(np.max(light[sums.inside], initial=0.0))
    size = float(np.sqrt(max(float(np.count_nonzero((light > 0.3 * peak) & sums.inside)), 1.0)))
    gu = cv2.Sobel(light, cv2.CV_32F, 1, 0, ksize=1) / 2
    gv = cv2.Sobel(light, cv2.CV_32F, 0, 1, ksize=1) / 2
    steepness = _steepness(light, gu, gv, cut, sums, blur, peak, coarseness)
    v, u = np.nonzero((steepness > DOUBTFUL_STEEPNESS) & sums.inside)
    g = np.stack([gu[v, u], gv[v, u]], axis=1).astype(float)
    g = g / np.maximum(np.linalg.norm(g, axis=1, keepdims=True), 1e-12)
    all_of_them = Edges(u.astype(float), v.astype(float), g, float(len(u)) / size)
    sharp = steepness[v, u] > 1
    sure = Edges(all_of_them.u[sharp], all_of_them.v[sharp], g[sharp], float(np.count_nonzero(sharp)) / size)
    doubtful = coarseness > STEEPER[0][0] and not sure.cut and all_of_them.cut
    return replace(sure, doubtful=True) if doubtful else sure


def _steepness(light: Any, gu: Any, gv: Any, cut: Cut, sums: Sums, blur: Blur, peak: float, coarseness: float) -> Any:
    """Each pixel's steepness over what only something in front can make; zero where clipped light does not tell."""
    clipped = cv2.dilate(cut.saturated.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    steeper = float(np.interp(coarseness, *STEEPER))
    height = EDGE if coarseness < SMALLEST else float(np.interp(coarseness, BUMPS, (BUMP, EDGE)))
    out = _steep_edges(light, gu, gv, clipped, sums, blur, peak, steeper * height)
    out[clipped] = 0
    if cut.saturated.any():
        np.maximum(out, _steep_flanks(light, cut, sums, blur, steeper), out=out)
    return out


def _steep_edges(light: Any, gu: Any, gv: Any, clipped: Any, sums: Sums, blur: Blur, peak: float, height: float) -> Any:
    """Where light changes faster than sunlight's edges do, of the brightest light nearby; clipped light does not tell."""
    reach = 2 * int(np.ceil(2.5 * np.sqrt(np.diag(blur.sunlight_px2).max()))) + 1
    near = np.ones((reach, reach), np.uint8)
    top = cv2.dilate(light, near)
    known = cv2.dilate(clipped.astype(np.uint8), near) == 0
    steep = np.hypot(gu, gv)
    limit = height / np.sqrt(_along(blur.sunlight_px2, gu, gv, steep) + 1 / 3)
    return np.where((top > BRIGHT_ENOUGH * peak) & known, steep / (limit * top + 4 * sums.noise), 0)


def _steep_flanks(light: Any, cut: Cut, sums: Sums, blur: Blur, steeper: float) -> Any:
    """Where light falls off faster than the flank of the smallest patch FLANK_DEPTH times as bright as full scale."""
    low = max(0.04, 8 * sums.noise)
    log = np.log(np.maximum(light, low))
    gu, gv = np.zeros_like(light), np.zeros_like(light)
    gu[:, 1:-1], gv[1:-1] = (log[:, 2:] - log[:, :-2]) / 2, (log[2:] - log[:-2]) / 2
    steep = np.hypot(gu, gv)
    s = np.sqrt(np.maximum(_along(blur.sunlight_px2, gu, gv, steep), 1e-9))
    limit = steeper * np.sqrt(2 * np.log(FLANK_DEPTH)) / s
    return np.where((light > low) & (light < 0.9) & ~cut.saturated, steep / limit, 0)


def _along(variance: Array, gu: Any, gv: Any, length: Any) -> Any:
    """Variance along the gradient's direction, each pixel."""
    nu, nv = gu / np.maximum(length, 1e-9), gv / np.maximum(length, 1e-9)
    uu, uv, vv = float(variance[0, 0]), float(variance[0, 1]), float(variance[1, 1])
    return uu * nu * nu + 2 * uv * nu * nv + vv * nv * nv
