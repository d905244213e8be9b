"""Pictures as JPEG bytes, for streams."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from melter.vision.opencv import cv2


def encode_jpeg(picture: NDArray[np.uint8], quality: int = 92) -> bytes:
    """Return a grey or BGR picture, (h, w[, 3]), as JPEG."""
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
