"""One small pinhole camera that every picture is brought to, so that the network need not know cameras."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from melter.machine import Machine
from melter.vision.calibration import CameraCalibration
from melter.vision.opencv import cv2
from melter.vision.response import Pixels, checked_pixels

Array = NDArray[np.float64]
Small = NDArray[np.uint8]

WIDTH_PX, HEIGHT_PX = 160, 96
HORIZONTAL_FOV_RAD = 1.326
"""76 degrees: a webcam's 50 to 80 degrees fit in, or lose little."""
FOCAL_PX = WIDTH_PX / 2 / float(np.tan(HORIZONTAL_FOV_RAD / 2))
MATRIX: Array = np.array([[FOCAL_PX, 0, (WIDTH_PX - 1) / 2], [0, FOCAL_PX, (HEIGHT_PX - 1) / 2], [0, 0, 1]])
"""(3, 3) of the small camera; no distortion."""
MATRIX.setflags(write=False)
FINER = 1.5
"""The picture is averaged to about this many times the small camera's resolution before it is warped."""


def calibration_or_guess(
    calibration: CameraCalibration | None, machine: Machine, size_px: tuple[int, int]
) -> CameraCalibration:
    """Return the calibration, or without one what the machine file's field of view says about a picture of this size."""
    if calibration is not None:
        return calibration
    width, height = size_px
    focal = width / 2 / float(np.tan(np.radians(machine.camera.horizontal_fov_deg) / 2))
    matrix = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    return CameraCalibration(size_px, matrix, np.zeros(5))


def to_canonical(image: Pixels, calibration: CameraCalibration) -> Small:
    """Return the (96, 160) grey codes that the small camera would see from the same place.

    What lies outside the picture gets the picture's median. The calibration must be for this image size.
    """
    grey = _grey(checked_pixels(image))
    height, width = grey.shape
    scale = min(1.0, FINER * FOCAL_PX / float(calibration.camera_matrix[0, 0]))
    small = cv2.resize(
        grey, (max(round(width * scale), 8), max(round(height * scale), 8)), interpolation=cv2.INTER_AREA
    )
    v, u = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX].astype(float)
    rays = np.stack([(u - MATRIX[0, 2]) / FOCAL_PX, (v - MATRIX[1, 2]) / FOCAL_PX], axis=-1)
    m = calibration.camera_matrix
    ideal = np.stack([m[0, 0] * rays[..., 0] + m[0, 1] * rays[..., 1] + m[0, 2], m[1, 1] * rays[..., 1] + m[1, 2]], -1)
    seen = calibration.distort_px(ideal)
    at = [((seen[..., i] + 0.5) * n / full - 0.5).astype(np.float32)
          for i, (n, full) in enumerate(zip(small.shape[::-1], (width, height), strict=True))]  # fmt: skip
    fill = float(np.median(small))
    out = cv2.remap(small, at[0], at[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=fill)
    return np.asarray(out, dtype=np.uint8)


def normalised(small: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return (..., 1, 96, 160) float32 of (..., 96, 160) codes: mean taken off, contrast made the same."""
    x = small.astype(np.float32)
    mean = x.mean(axis=(-2, -1), keepdims=True)
    std = x.std(axis=(-2, -1), keepdims=True)
    return np.clip((x - mean) / (std + 4.0), -4.0, 4.0)[..., None, :, :]


def _grey(pixels: Pixels) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8:
        pixels = (pixels >> 8).astype(np.uint8)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY) if pixels.ndim == 3 else pixels, dtype=np.uint8)
