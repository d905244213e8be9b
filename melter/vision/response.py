"""From pixel codes to light: the sensor's response taken out, saturation marked.

Webcams encode with a curve close to sRGB's (IEC 61966-2-1). Linear light is 0 (black) to 1 (full scale).
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.errors import CameraError

Response = Literal["srgb", "linear"]
Light = NDArray[np.float32]
Pixels = NDArray[np.uint8 | np.uint16]

SATURATED_SHARE = 0.98
"""Codes from this share of full scale up count as saturated (JPEG ripples and roll-off reach below the last code)."""


def srgb_to_linear(code: ArrayLike) -> NDArray[np.float64]:
    """Return linear light 0..1 of sRGB codes 0..1 (IEC 61966-2-1)."""
    c = np.asarray(code, dtype=float)
    return np.where(c <= 0.04045, c / 12.92, ((np.maximum(c, 0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(light: ArrayLike) -> NDArray[np.float64]:
    """Return sRGB codes 0..1 of linear light 0..1."""
    x = np.clip(np.asarray(light, dtype=float), 0, 1)
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 0.0031308) ** (1 / 2.4) - 0.055)


@cache
def table(response: Response, bits: int) -> Light:
    """Return the (2**bits,) linear light of each code."""
    code = np.arange(2**bits) / (2**bits - 1)
    light = srgb_to_linear(code) if response == "srgb" else code
    out = light.astype(np.float32)
    out.setflags(write=False)
    return out


def checked_pixels(image: object) -> Pixels:
    """Return an image as (h, w) or (h, w, 3) uint8 or uint16; alpha is dropped. Raises CameraError."""
    if not isinstance(image, np.ndarray) or image.dtype not in (np.uint8, np.uint16):
        raise CameraError("image: must be an array of 8-bit or 16-bit codes")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim == 3 and image.shape[2] == 4:
        image = image[:, :, :3]
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or min(image.shape[:2]) < 16:
        raise CameraError(f"image: shape {image.shape}, must be grey or colour and at least 16 x 16 px")
    return image


def full_scale(image: Pixels) -> int:
    """Return the largest code an image of this type can hold."""
    return 255 if image.dtype == np.uint8 else 65535


def linear(image: Pixels, response: Response = "srgb") -> Light:
    """Return linear light 0..1 of codes, same shape."""
    return table(response, 8 if image.dtype == np.uint8 else 16)[image]


def measured_light(pixels: Pixels, response: Response = "srgb") -> tuple[Light, NDArray[np.bool_]]:
    """Return (h, w) linear light and where it is saturated.

    Of a colour image, the mean of the channels that nowhere saturate; if all do, the one that saturates least.
    """
    limit = SATURATED_SHARE * full_scale(pixels)
    if pixels.ndim == 2:
        return linear(pixels, response), pixels >= limit
    over = pixels >= limit
    counts = np.count_nonzero(over.reshape(-1, 3), axis=0)
    clean = np.flatnonzero(counts == 0)
    if len(clean):
        return linear(pixels[:, :, clean], response).mean(axis=2), np.zeros(pixels.shape[:2], dtype=bool)
    best = int(np.argmin(counts))
    return linear(pixels[:, :, best], response), over[:, :, best]
