"""From light in front of the lens to the codes of a webcam: blur, flare, exposure, noise, response, JPEG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Light = NDArray[np.float32]
Picture = NDArray[np.uint8]
Curve = Literal["srgb", "power", "shoulder"]


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """What a camera does to light."""

    blur_px: float = 0.7
    """Standard deviation of the optics' blur."""
    flare: float = 0.02
    """Share of the light that falls around: two thirds within some pixels, the rest widely."""
    flare_px: float = 7.0
    vignette: float = 0.15
    """Darkening of the corners."""
    curve: Curve = "srgb"
    full_well: float = 8000.0
    """Electrons at full scale: photon noise."""
    read_noise: float = 8e-4
    """Of full scale."""
    jpeg: int | None = 92
    """Quality; None: the codes as they are."""
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """White balance, blue, green, red."""

    def spread(self, light: Light, smear_px: tuple[float, float] = (0.0, 0.0)) -> Light:
        """Return light after optics and shake: (h, w, 3)."""
        out = np.asarray(cv2.GaussianBlur(light, (0, 0), self.blur_px), dtype=np.float32)
        length = float(np.hypot(*smear_px))
        if length > 0.3:
            out = _smeared(out, smear_px)
        if self.flare > 0:
            small = cv2.resize(out, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
            near = cv2.GaussianBlur(small, (0, 0), self.flare_px / 4)
            far = cv2.GaussianBlur(small, (0, 0), 1.5 * self.flare_px)
            around = cv2.resize(2 / 3 * near + far / 3, (light.shape[1], light.shape[0]))
            out = (1 - self.flare) * out + self.flare * around
        return np.asarray(out, dtype=np.float32)

    def expose(self, spread: Light, exposure: float, rng: np.random.Generator) -> Picture:
        """Return the picture of already spread light at an exposure."""
        h, w = spread.shape[:2]
        y, x = np.ogrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
        fall = (1 - self.vignette * (x * x + y * y) / 2).astype(np.float32)
        light = spread * fall[..., None] * np.float32(exposure)
        light = np.minimum(light, 4.0)
        sigma = np.sqrt(light / np.float32(self.full_well) + np.float32(self.read_noise**2))
        noise = rng.standard_normal(light.shape, dtype=np.float32)
        light = (light + sigma * noise) * np.array(self.gains, dtype=np.float32)
        codes = np.round(255 * self._encoded(np.clip(light, 0, 1))).astype(np.uint8)
        if self.jpeg is None:
            return codes
        coded = cv2.imencode(".jpg", codes, [cv2.IMWRITE_JPEG_QUALITY, self.jpeg])[1]
        return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), dtype=np.uint8)

    def _encoded(self, x: Light) -> Light:
        if self.curve == "power":
            return x ** np.float32(1 / 2.2)
        if self.curve == "shoulder":
            x = np.where(x > 0.7, 0.7 + 0.3 * np.tanh((x - 0.7) / 0.3) / np.tanh(1.0), x)
        low = 12.92 * x
        return np.where(x < 0.0031308, low, 1.055 * np.maximum(x, 0.0031308) ** (1 / 2.4) - 0.055).astype(np.float32)


def _smeared(light: Light, smear_px: tuple[float, float]) -> Light:
    n = 2 * int(np.ceil(max(map(abs, smear_px)))) + 3
    kernel = np.zeros((n, n), dtype=np.float32)
    for t in np.linspace(-0.5, 0.5, 41):
        u, v = n // 2 + t * smear_px[0], n // 2 + t * smear_px[1]
        i, j = int(u), int(v)
        a, b = u - i, v - j
        kernel[j : j + 2, i : i + 2] += np.outer([1 - b, b], [1 - a, a]).astype(np.float32)
    return np.asarray(cv2.filter2D(light, -1, kernel / kernel.sum()), dtype=np.float32)
