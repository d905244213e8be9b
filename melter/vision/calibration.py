"""Camera calibration: pinhole and lens distortion, as JSON (``docs/frames.md``: image frame).

Model: Brown and Conrady's, coefficients in OpenCV's order (k1, k2, p1, p2, k3). *Undistorted pixels* are where a
camera with the same matrix and no distortion would see a point. Source: Zhang, A flexible new technique for camera
calibration, PAMI 22 (2000).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.errors import CameraError

Array = NDArray[np.float64]

RMS_ALLOWED_PX = 20.0
"""Above this re-projection error a calibration describes no camera."""


@dataclass(frozen=True)
class CameraCalibration:
    """Intrinsics of one camera at one image size."""

    image_size_px: tuple[int, int]
    """Width and height."""
    camera_matrix: Array
    """(3, 3) focal lengths and principal point, pixels."""
    distortion_coefficients: Array
    """(5,) k1, k2, p1, p2, k3."""
    rms_px: float = 0.0
    """Re-projection error of the calibration."""

    def __post_init__(self) -> None:
        width, height = self.image_size_px
        matrix = _locked(self.camera_matrix, (3, 3), "camera_matrix")
        coefficients = _locked(self.distortion_coefficients, (5,), "distortion_coefficients")
        if not (16 <= width <= 20_000 and 16 <= height <= 20_000):
            raise CameraError(f"calibration: image_size_px = {[width, height]}, must be 16 to 20000 each")
        fx, fy, cx, cy = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
        if not (0.1 * width <= fx <= 100 * width and 0.1 * width <= fy <= 100 * width):
            raise CameraError(
                f"calibration: focal lengths {fx:.6g}, {fy:.6g} px, must be 0.1 to 100 image widths ({width} px)"
            )
        if not (-width < cx < 2 * width and -height < cy < 2 * height):
            raise CameraError(
                f"calibration: principal point {cx:.6g}, {cy:.6g} px, must lie near the {width} x {height} px image"
            )
        if abs(matrix[1, 0]) > 1e-9 or not np.allclose(matrix[2], (0, 0, 1), atol=1e-9):
            raise CameraError("calibration: camera_matrix must be upper triangular with last row 0, 0, 1")
        if np.abs(coefficients).max() > 100:
            raise CameraError(f"calibration: distortion_coefficients = {coefficients.tolist()}, must be within ±100")
        if not 0 <= self.rms_px <= RMS_ALLOWED_PX:
            raise CameraError(f"calibration: rms_px = {self.rms_px}, must be 0 to {RMS_ALLOWED_PX}")
        object.__setattr__(self, "camera_matrix", matrix)
        object.__setattr__(self, "distortion_coefficients", coefficients)

    def undistort_px(self, points_px: ArrayLike) -> Array:
        """Return (..., 2) undistorted pixels of (..., 2) pixels (fixed-point iteration, to about 1e-9 px)."""
        points = np.asarray(points_px, dtype=float)
        seen = self._normalised(points)
        k1, k2, p1, p2, k3 = self.distortion_coefficients
        if not self.distortion_coefficients.any():
            return points.copy()
        ideal = seen.copy()
        for _ in range(60):
            x, y = ideal[..., 0], ideal[..., 1]
            r2 = x * x + y * y
            radial = np.maximum(1 + r2 * (k1 + r2 * (k2 + r2 * k3)), 0.2)
            dx = 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
            dy = p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
            new = (seen - np.stack([dx, dy], axis=-1)) / radial[..., None]
            step = float(np.abs(new - ideal).max(initial=0.0))
            ideal = new
            if step < 1e-12:
                break
        return self._pixels(ideal)

    def distort_px(self, points_px: ArrayLike) -> Array:
        """Return (..., 2) pixels of (..., 2) undistorted pixels."""
        ideal = self._normalised(np.asarray(points_px, dtype=float))
        k1, k2, p1, p2, k3 = self.distortion_coefficients
        x, y = ideal[..., 0], ideal[..., 1]
        r2 = x * x + y * y
        radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
        dx = 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        dy = p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
        return self._pixels(np.stack([x * radial + dx, y * radial + dy], axis=-1))

    def _normalised(self, points_px: Array) -> Array:
        m = self.camera_matrix
        y = (points_px[..., 1] - m[1, 2]) / m[1, 1]
        x = (points_px[..., 0] - m[0, 2] - m[0, 1] * y) / m[0, 0]
        return np.stack([x, y], axis=-1)

    def _pixels(self, ideal: Array) -> Array:
        m = self.camera_matrix
        u = m[0, 0] * ideal[..., 0] + m[0, 1] * ideal[..., 1] + m[0, 2]
        return np.stack([u, m[1, 1] * ideal[..., 1] + m[1, 2]], axis=-1)


def load_calibration(path: str | Path) -> CameraCalibration:
    """Return the calibration of a JSON file. Raises CameraError with the key, its value and what is allowed."""
    try:
        table: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise CameraError(f"calibration {path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise CameraError(f"calibration {path}: not JSON text") from None
    keys = {"image_size_px", "camera_matrix", "distortion_coefficients", "rms_px"}
    if not isinstance(table, dict) or not keys <= set(table):  # pyright: ignore[reportUnknownArgumentType]
        raise CameraError(f"calibration {path}: must be a JSON object with {', '.join(sorted(keys))}")
    try:
        width, height = (_whole(value) for value in table["image_size_px"])
        matrix, coefficients = (
            np.array(table["camera_matrix"], dtype=float),
            np.array(table["distortion_coefficients"], dtype=float),
        )
        rms_px = float(table["rms_px"])  # pyright: ignore[reportUnknownArgumentType]
    except (TypeError, ValueError):
        raise CameraError(
            f"calibration {path}: image_size_px, camera_matrix, distortion_coefficients and rms_px must be numbers"
        ) from None
    try:
        return CameraCalibration((width, height), matrix, coefficients.reshape(-1), rms_px)
    except CameraError as error:
        raise CameraError(f"{path}: {error}") from None


def save_calibration(calibration: CameraCalibration, path: str | Path) -> None:
    """Write a calibration as JSON, beside its final name first."""
    table = {
        "image_size_px": list(calibration.image_size_px),
        "camera_matrix": calibration.camera_matrix.tolist(),
        "distortion_coefficients": calibration.distortion_coefficients.tolist(),
        "rms_px": calibration.rms_px,
    }
    write_text(path, json.dumps(table, indent=2) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write a file so that a kill at any moment leaves the old one or the new one. Raises CameraError."""
    final = Path(path)
    beside = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(final)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise CameraError(f"{path}: cannot be written: {error.strerror}") from None


def _whole(value: Any) -> int:
    if isinstance(value, bool) or float(value) != int(value):
        raise ValueError
    return int(value)


def _locked(values: ArrayLike, shape: tuple[int, ...], name: str) -> Array:
    array = np.array(values, dtype=float)
    if array.shape != shape or not np.isfinite(array).all():
        raise CameraError(f"calibration: {name} has shape {array.shape}, must be {shape} and finite")
    array.setflags(write=False)
    return array
