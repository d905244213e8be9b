"""The one place that imports OpenCV, so that a machine that cannot load it gets one line that says what to do."""

from __future__ import annotations

import os

from melter.errors import CameraError

os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

try:
    import cv2
except ImportError as error:
    raise CameraError(
        f"OpenCV cannot be loaded ({error}): install the system library libgl1 (and libglib2.0-0), "
        "or opencv-python-headless of the same version in place of opencv-python"
    ) from None

__all__ = ["cv2"]
