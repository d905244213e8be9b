"""Where in a frame is something brighter than sunlit sand and white paper can be?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.geometry.pose import sun_direction_world
from melter.machine import Machine
from melter.vision.maps import BedMaps
from melter.vision.opencv import cv2
from melter.vision.plausible import Level
from melter.vision.response import SATURATED_SHARE, Pixels, Response, full_scale, table

BRIGHTER_THAN_SAND = 4.0
"""White paper is 2 to 3 times as bright as sand (albedo 0.9, 0.3 to 0.45), a useful patch 10 times or more."""
DARKEST_THRESHOLD = 0.025
"""Linear light (code 44 of 255): below it, noise and stray light are bright too."""
SAND_VISIBLE = 0.002
"""Linear light (code 7 of 255) of sand from which its shadows can be told."""
SEARCH_WIDTH_PX = 800
"""Wider images are searched at half size, each pixel the largest of its 2 x 2."""
MOST_CANDIDATES = 6
DIFFUSE_W_M2 = 100.0
"""Sky light on a clear day."""
SUN_HALF_ANGLE_RAD = 4.65e-3
"""Mean over the year (Astronomical Almanac: 959.6 seconds of arc at 1 au)."""


@dataclass(frozen=True)
class Candidate:
    """A bright region: its box (u0, v0, u1, v1) in pixels and its light."""

    box: tuple[int, int, int, int]
    weight: float
    """Pixels above the threshold."""


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    level: Level
    candidates: tuple[Candidate, ...]
    reason: str = ""
    """Why there is none, if there is none."""
    shade: float = 0.0
    """Darkest over brightest sand, tenth parts of it each: near one without shadows; 0 where the sand cannot be seen."""


def find_bright(pixels: Pixels, maps: BedMaps, machine: Machine, response: Response) -> Found:
    """Return bright regions on the bed, largest first."""
    u0, v0, u1, v1 = maps.bounds_px
    if u1 <= u0 or len(maps.sample) < 50:
        return Found(Level(0, 1, 1, 1), (), "the bed is out of view")
    codes = table(response, 8 if pixels.dtype == np.uint8 else 16)
    values = codes[(pixels.reshape(-1, 3)[maps.sample, 1] if pixels.ndim == 3 else pixels.ravel()[maps.sample])]
    dark, sand, bright = (float(level) for level in np.percentile(values, (10, 70, 90)))
    limit = SATURATED_SHARE * full_scale(pixels)
    level = Level(
        sand,
        float(min(max(BRIGHTER_THAN_SAND * sand, DARKEST_THRESHOLD), codes[int(limit)])),
        _flux_expected_m2(machine),
        _floor_semi_axis_m(machine),
    )
    threshold = int(np.searchsorted(codes, level.threshold))
    part = pixels[v0:v1, u0:u1]
    green = cv2.extractChannel(part, 1) if part.ndim == 3 else part
    candidates = _regions(
        np.asarray(green, dtype=pixels.dtype), maps, threshold, half=pixels.shape[1] > SEARCH_WIDTH_PX
    )
    shade = dark / bright if sand > SAND_VISIBLE and bright < codes[int(limit)] else 0.0
    reason = "" if candidates else "nothing on the bed is brighter than sunlit sand can be"
    return Found(level, candidates, reason, shade)


def _regions(green: Pixels, maps: BedMaps, threshold: int, *, half: bool) -> tuple[Candidate, ...]:
    """Connected bright regions of the bounds' part of an image, largest first."""
    if green.dtype == np.uint8:
        over: NDArray[np.uint8] = np.asarray(cv2.inRange(green, np.array([threshold]), np.array([255])), dtype=np.uint8)
    else:
        over = (green >= threshold).astype(np.uint8) * 255
    x, y, w, h = (int(t) for t in cv2.boundingRect(over))
    if w == 0:
        return ()
    u0, v0 = maps.bounds_px[0] + x, maps.bounds_px[1] + y
    mask: Any = np.asarray(cv2.bitwise_and(over[y : y + h, x : x + w], maps.allowed[v0 : v0 + h, u0 : u0 + w]))
    scale = 1
    if half and min(w, h) >= 4:
        scale, mask = 2, mask[: h // 2 * 2, : w // 2 * 2]
        mask = mask[::2, ::2] | mask[1::2, ::2] | mask[::2, 1::2] | mask[1::2, 1::2]
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    count, _, stats, _ = cv2.connectedComponentsWithStatsWithAlgorithm(mask, 8, cv2.CV_32S, cv2.CCL_BBDT)
    found: list[Candidate] = []
    for i in np.argsort(-stats[1:count, cv2.CC_STAT_AREA])[:MOST_CANDIDATES] + 1:
        left, top, wide, high, n = (scale * int(t) for t in stats[i])
        if n * scale >= 4:
            found.append(Candidate((u0 + left, v0 + top, u0 + left + wide, v0 + top + high), n * scale))
    return tuple(found)


def _flux_expected_m2(machine: Machine) -> float:
    """Power of the patch over the irradiance of open, level sand."""
    sun, lens = machine.sun, machine.lens
    up = float(sun_direction_world(sun.zenith_rad, sun.azimuth_rad)[2])
    sunlit = max(sun.dni_w_m2 * up, 1.0) + DIFFUSE_W_M2
    return lens.transmission * lens.short_edge_m * lens.long_edge_m * max(sun.dni_w_m2, 1.0) / sunlit


def _floor_semi_axis_m(machine: Machine) -> float:
    """Twice the standard deviation of the image of the sun's disc, blurred by facets 40 % better than said."""
    facets_rad = 0.6e-3 * machine.lens.facet_error_mrad / np.sqrt(2)
    return 2 * machine.lens.focal_length_m * float(np.hypot(SUN_HALF_ANGLE_RAD / 2, facets_rad))
