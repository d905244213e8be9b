"""Pictures with what the tracker saw drawn in: a video, an image, a window."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from melter.errors import CameraError
from melter.observation import PatchEstimate
from melter.vision.bed import BedView
from melter.vision.opencv import cv2
from melter.vision.response import checked_pixels
from melter.vision.tracker import PatchTracker

Image = NDArray[np.uint8]
COLOURS = {"ok": (80, 220, 80), "saturated": (0, 200, 255), "occluded": (255, 160, 0), "ambiguous": (255, 0, 255)}
"""BGR of each status."""
CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "MJPG"}


def draw_overlay(image: NDArray[Any], view: BedView | None, estimate: PatchEstimate, reason: str = "") -> Image:
    """Return an 8-bit BGR copy with markers, patch ellipse, two-sigma ellipse and status drawn in."""
    pixels = checked_pixels(image)
    shown = pixels.copy() if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    canvas: Any = cv2.cvtColor(shown, cv2.COLOR_GRAY2BGR) if shown.ndim == 2 else np.ascontiguousarray(shown)
    if view is not None:
        for corners in view.marker_corners_px:
            _outline(canvas, corners, (255, 200, 0))
    colour = COLOURS.get(estimate.status, (60, 60, 255))
    text = estimate.status
    if (
        view is not None
        and estimate.centre_world_m is not None
        and estimate.semi_axes_m is not None
        and estimate.covariance_m2 is not None
    ):
        angle = estimate.angle_rad or 0.0
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        circle = np.linspace(0, 2 * np.pi, 49)
        unit = np.stack([np.cos(circle), np.sin(circle)])
        _outline(
            canvas, view.to_px((turn @ (estimate.semi_axes_m[:, None] * unit)).T + estimate.centre_world_m), colour
        )
        spread = 2 * np.linalg.cholesky(estimate.covariance_m2)
        _outline(canvas, view.to_px((spread @ unit).T + estimate.centre_world_m), (255, 255, 255))
        x, y = 1000 * estimate.centre_world_m
        text += (
            f"  {x:.1f}, {y:.1f} mm   {1000 * estimate.semi_axes_m[0]:.1f} x {1000 * estimate.semi_axes_m[1]:.1f} mm"
        )
    text += f"  {reason}" if reason else ""
    cv2.putText(canvas, text[:120], (10, canvas.shape[0] - 12), cv2.FONT_HERSHEY_SIMPLEX, 0.55, colour, 1, cv2.LINE_AA)
    return np.asarray(canvas, dtype=np.uint8)


class OverlayWriter:
    """Writes overlays to a video or an image file, or shows them; a context manager."""

    def __init__(self, path: str | None, rate_hz: float, *, show: bool = False) -> None:
        self._path, self._rate_hz, self._show = path, rate_hz, show
        self._video: Any = None
        self._size: tuple[int, int] | None = None
        suffix = Path(path).suffix.lower() if path else ""
        if path and suffix not in CODECS and suffix not in (".png", ".jpg", ".jpeg"):
            raise CameraError(f"--overlay {path}: must end in {', '.join(CODECS)}, .png or .jpg")
        if path and not Path(path).absolute().parent.is_dir():
            raise CameraError(f"--overlay {path}: its folder does not exist")

    def __call__(self, image: NDArray[Any], tracker: PatchTracker, estimate: PatchEstimate) -> None:
        """Add one frame; the first sets the size of a video."""
        canvas: Any = draw_overlay(image, tracker.view, estimate, tracker.last_details.reason)
        if self._show:
            self._window(canvas)
        if self._path is None:
            return
        suffix = Path(self._path).suffix.lower()
        if suffix not in CODECS:
            if not cv2.imwrite(self._path, canvas):
                raise CameraError(f"--overlay {self._path}: cannot be written")
            return
        if self._video is None:
            self._size = (canvas.shape[1], canvas.shape[0])
            self._video = cv2.VideoWriter(
                self._path, cv2.VideoWriter.fourcc(*CODECS[suffix]), self._rate_hz, self._size
            )
            if not self._video.isOpened():
                raise CameraError(f"--overlay {self._path}: no encoder for {suffix}, or not writable")
        self._video.write(
            canvas if (canvas.shape[1], canvas.shape[0]) == self._size else cv2.resize(canvas, self._size)
        )

    def close(self) -> None:
        """Finish the file."""
        if self._video is not None:
            self._video.release()
            self._video = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _window(self, canvas: Any) -> None:
        try:
            cv2.imshow("melter", canvas)
            cv2.waitKey(1)
        except cv2.error:
            raise CameraError("--show: this OpenCV has no window support, or there is no display") from None


def _outline(canvas: Any, points_px: NDArray[np.float64], colour: tuple[int, int, int]) -> None:
    if np.isfinite(points_px).all() and np.abs(points_px).max() < 2e4:
        cv2.polylines(canvas, [np.round(points_px * 16).astype(np.int32)], True, colour, 1, cv2.LINE_AA, 4)
