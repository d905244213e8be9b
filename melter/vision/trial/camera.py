"""A pinhole camera with radial and tangential distortion (Brown, Photogrammetric Engineering 32, 1966)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Pinhole:
    """Where a camera stands, where it looks, and how its lens bends."""

    position_m: tuple[float, float, float]
    target_m: tuple[float, float, float]
    roll_rad: float
    width_px: int
    height_px: int
    focal_px: float
    shift_px: tuple[float, float]
    """Of the principal point from the middle of the image."""
    bend: tuple[float, float, float, float, float]
    """k1, k2, p1, p2, k3."""

    @cached_property
    def axes(self) -> Array:
        """(3, 3) rows: right, down and forward in world axes."""
        forward = np.subtract(self.target_m, self.position_m)
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right = right / np.linalg.norm(right)
        down = np.cross(forward, right)
        c, s = np.cos(self.roll_rad), np.sin(self.roll_rad)
        return np.array([c * right + s * down, c * down - s * right, forward])

    @property
    def middle_px(self) -> tuple[float, float]:
        """The principal point."""
        return (self.width_px - 1) / 2 + self.shift_px[0], (self.height_px - 1) / 2 + self.shift_px[1]

    @property
    def matrix(self) -> Array:
        """(3, 3) camera matrix."""
        u, v = self.middle_px
        return np.array([[self.focal_px, 0.0, u], [0.0, self.focal_px, v], [0.0, 0.0, 1.0]])

    def pixels(self, points_m: Array) -> Array:
        """Return (..., 2) pixels of (..., 3) world points in front of the camera."""
        p = (np.asarray(points_m, dtype=float) - self.position_m) @ self.axes.T
        bent = self._bent(p[..., :2] / p[..., 2:])
        return bent * self.focal_px + np.array(self.middle_px)

    def _bent(self, ideal: Array) -> Array:
        x, y = ideal[..., 0], ideal[..., 1]
        k1, k2, p1, p2, k3 = self.bend
        r = x * x + y * y
        g = 1 + r * (k1 + r * (k2 + r * k3))
        return np.stack(
            [x * g + 2 * p1 * x * y + p2 * (r + 2 * x * x), y * g + 2 * p2 * x * y + p1 * (r + 2 * y * y)], -1
        )

    def rays(self, u: Array, v: Array) -> Array:
        """Return (..., 3) directions in world axes of pixels, not normalised."""
        wanted = (np.stack([u, v], axis=-1) - np.array(self.middle_px)) / self.focal_px
        ideal = wanted.copy()
        for _ in range(12 if any(self.bend) else 0):
            ideal += wanted - self._bent(ideal)
        return np.concatenate([ideal, np.ones((*ideal.shape[:-1], 1))], axis=-1) @ self.axes

    def ground(self, u: Array, v: Array) -> tuple[Array, Array]:
        """Return world x and y at z = 0 that pixels look at; NaN above the horizon."""
        d = self.rays(u, v)
        t = -self.position_m[2] / np.where(d[..., 2] < -1e-3, d[..., 2], np.nan)
        return self.position_m[0] + t * d[..., 0], self.position_m[1] + t * d[..., 1]
