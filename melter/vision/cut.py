"""The pixels around a bright spot, and their sums: background, centroid, second moments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.vision.maps import BedMaps
from melter.vision.response import Light, Pixels, Response, measured_light

Array = NDArray[np.float64]
Box = tuple[int, int, int, int]

MARGIN = 0.85
"""Around a box, of its size."""
APERTURE = 2.25
"""Light is summed inside this many semi-axes."""
MOST_PIXELS = 30_000
"""Larger surroundings are thinned out."""


@dataclass(frozen=True, eq=False)
class Cut:
    """Pixels around a spot, (h, w) each."""

    light: Light
    saturated: NDArray[np.bool_]
    usable: NDArray[np.bool_]
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    area: NDArray[np.float32]
    """Bed area of each, m²."""
    corner_px: tuple[int, int]
    stride: int


@dataclass(frozen=True, eq=False)
class Sums:
    """What the light inside the aperture adds up to."""

    centre_m: Array
    moments_m2: Array
    flux: float
    background: float
    noise: float
    inside: NDArray[np.bool_]


def cut_out(pixels: Pixels, box: Box, maps: BedMaps, response: Response, others: Sequence[Box] = ()) -> Cut:
    """Return the pixels in and around ``box`` (u0, v0, u1, v1); those of ``others`` are not usable."""
    height, width = pixels.shape[:2]
    wide, high = box[2] - box[0], box[3] - box[1]
    margin_u, margin_v = max(14, int(MARGIN * wide)), max(12, int(MARGIN * high))
    u0, v0 = max(box[0] - margin_u, 0), max(box[1] - margin_v, 0)
    u1, v1 = min(box[2] + margin_u, width), min(box[3] + margin_v, height)
    stride = max(1, int(np.sqrt((u1 - u0) * (v1 - v0) / MOST_PIXELS)))
    part = (slice(v0, v1, stride), slice(u0, u1, stride))
    light, saturated = measured_light(np.ascontiguousarray(pixels[part]), response)
    usable = maps.allowed[part] > 0
    for a, b, c, d in others:
        usable[max(b - 3 - v0, 0) // stride : max(d + 3 - v0, 0) // stride + 1,
               max(a - 3 - u0, 0) // stride : max(c + 3 - u0, 0) // stride + 1] = False  # fmt: skip
    area = maps.area_m2[part] * np.float32(stride**2)
    return Cut(light, saturated, usable, maps.x_m[part], maps.y_m[part], area, (u0, v0), stride)


def sum_up(cut: Cut, box: Box, threshold: float) -> Sums | str:
    """Moments inside an aperture that follows the spot, above the background around it; or why there are none."""
    outside = np.ones(cut.light.shape, dtype=bool)
    v0, u0 = (box[1] - cut.corner_px[1]) // cut.stride, (box[0] - cut.corner_px[0]) // cut.stride
    v1, u1 = -(-(box[3] - cut.corner_px[1]) // cut.stride), -(-(box[2] - cut.corner_px[0]) // cut.stride)
    outside[max(v0 - 2, 0) : v1 + 2, max(u0 - 2, 0) : u1 + 2] = False
    ring = cut.light[outside & cut.usable]
    if ring.size < 20:
        return "at the edge of the image or of the frame"
    background = float(np.percentile(ring[:: 1 + ring.size // 2000], 30))
    first = ~outside & cut.usable
    inside = first & (cut.light > min(threshold, 0.5 * float(cut.light[first].max(initial=0))))
    smallest = 0.1 * float(cut.area.mean())
    noise, usable, light = 0.0, cut.usable.ravel(), cut.light.ravel()
    x, y, area, within = cut.x.ravel(), cut.y.ravel(), cut.area.ravel(), inside.ravel()
    centre, moments, flux = np.zeros(2), np.zeros((2, 2)), 0.0
    for step in range(6):
        weight = (light - np.float32(background)) * area * within
        flux = float(weight.sum())
        if not flux > 0:
            return "no light above the background"
        centre = np.array([weight @ x, weight @ y], dtype=float) / flux
        dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
        wx, wy = weight * dx, weight * dy
        new = _at_least(np.array([[wx @ dx, wx @ dy], [wx @ dy, wy @ dy]], dtype=float) / flux, smallest)
        done = step > 1 and abs(np.trace(new - moments)) < 0.004 * np.trace(new)
        moments = new
        if done:
            break
        q = mahalanobis(moments, dx, dy)
        reach = (2 * APERTURE) ** 2
        within = (q < reach) & usable
        ring = light[(q > 1.2 * reach) & (q < 3.5 * reach) & usable]
        if ring.size >= 30:
            top = float(np.median(ring[:: 1 + ring.size // 2000])) * 3 + 0.02
            ring = ring[ring < top]
            background, noise = float(ring.mean()), float(ring.std())
    return Sums(centre, moments, flux, background, max(noise, 2e-4), within.reshape(cut.light.shape))


def mahalanobis(moments: Array, dx: NDArray[np.float32], dy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return squared distances in standard deviations."""
    i = np.linalg.inv(moments).astype(np.float32)
    return i[0, 0] * dx * dx + 2 * i[0, 1] * dx * dy + i[1, 1] * dy * dy


def core_of(cut: Cut, sums: Sums) -> NDArray[np.bool_]:
    """Pixels inside one semi-axis ellipse."""
    return mahalanobis(sums.moments_m2, cut.x - np.float32(sums.centre_m[0]), cut.y - np.float32(sums.centre_m[1])) < 4


def _at_least(moments: Array, smallest: float) -> Array:
    values, vectors = np.linalg.eigh(moments)
    return (vectors * np.maximum(values, smallest)) @ vectors.T
