"""The colour of a spot: light that sand scatters has the sand's hue, what shines off glass and grains has the sun's.

The reference picture tells how sand and the markers' white paper differ for this camera. Where they hardly do, or pictures
are grey, colour tells nothing and nothing is concluded from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.vision.cut import Cut, Sums
from melter.vision.maps import BedMaps
from melter.vision.opencv import cv2
from melter.vision.response import SATURATED_SHARE, Pixels, Response, full_scale, linear

LEAST_DIFFERENCE = 0.15
"""Logarithm of red over blue between sand and paper from which colour tells anything."""
BRIGHT_SHARE = 0.15
"""Of a spot's brightest light: dimmer pixels are left out."""
ENOUGH_PX = 4
PAPER_SHARE = 60.0
"""Percentile of a marker's pixels from which they are paper."""
CLEAR_SAND = 0.02
"""Linear light of sand from which its hue is taken from the frame itself: white balance may have changed."""


@dataclass(frozen=True)
class Hues:
    """Logarithms of red over blue."""

    sand: float
    paper: float

    @property
    def tell(self) -> bool:
        """Whether the two can be told apart."""
        return abs(self.paper - self.sand) >= LEAST_DIFFERENCE


def hues_of(
    pixels: Pixels, maps: BedMaps, marker_corners_px: NDArray[np.float64], response: Response = "srgb"
) -> Hues | None:
    """Return the hues of sand and paper in a picture with markers; None where they cannot be measured."""
    if pixels.ndim != 3 or len(maps.sample) < 50:
        return None
    sand = _hue(pixels.reshape(-1, 3)[maps.sample], pixels, response)
    mask = np.zeros(pixels.shape[:2], dtype=np.uint8)
    for corners in marker_corners_px:
        cv2.fillConvexPoly(mask, np.round(corners).astype(np.int32), 255)
    inside = pixels[mask > 0]
    if sand is None or len(inside) < 10 * ENOUGH_PX:
        return None
    paper = _hue(inside[inside[:, 1] >= np.percentile(inside[:, 1], PAPER_SHARE)], pixels, response)
    return None if paper is None else Hues(sand, paper)


def hues_now(hues: Hues | None, pixels: Pixels, maps: BedMaps, sand_level: float, response: Response) -> Hues | None:
    """Return the hues with the sand's taken from this frame, where it is bright enough; the difference stays."""
    if hues is None or pixels.ndim != 3 or sand_level < CLEAR_SAND:
        return hues if pixels.ndim == 3 else None
    sand = _hue(pixels.reshape(-1, 3)[maps.sample[::4]], pixels, response)
    return hues if sand is None else Hues(sand, sand + hues.paper - hues.sand)


def whiteness(pixels: Pixels, cut: Cut, sums: Sums, hues: Hues | None, response: Response) -> float | None:
    """Return how far a spot's hue is from the sand's (0) towards the paper's (1); None where colour does not tell."""
    if hues is None or not hues.tell or pixels.ndim != 3:
        return None
    height, width = cut.light.shape
    u, v = cut.corner_px
    part = pixels[v : v + height * cut.stride : cut.stride, u : u + width * cut.stride : cut.stride]
    unclipped = part.max(axis=2) < SATURATED_SHARE * full_scale(pixels)
    above = cut.light - np.float32(sums.background)
    known = sums.inside & unclipped & ~cut.saturated
    bright = known & (above > BRIGHT_SHARE * float(np.max(above[known], initial=0.0)))
    if np.count_nonzero(bright) < ENOUGH_PX or not (~sums.inside).any():
        return None
    around = part[~sums.inside]
    ground = np.median(linear(around[:: 1 + len(around) // 500], response), axis=0)
    blue, _, red = (linear(part[bright], response) - ground).sum(axis=0)
    if blue <= 0 or red <= 0:
        return None
    return float((np.log(red / blue) - hues.sand) / (hues.paper - hues.sand))


def _hue(codes: NDArray[np.uint8 | np.uint16], pixels: Pixels, response: Response) -> float | None:
    """Of unclipped pixels (n, 3); None when there are too few."""
    good = codes[codes.max(axis=1) < SATURATED_SHARE * full_scale(pixels)]
    if len(good) < ENOUGH_PX:
        return None
    blue, _, red = np.median(linear(good, response), axis=0)
    return float(np.log(red / blue)) if blue > 0 and red > 0 else None
