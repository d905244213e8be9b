"""One connection to a camera: OpenCV's capture for local cameras and RTSP, JPEGs over HTTP by their own marks."""

from __future__ import annotations

import math
import urllib.error
import urllib.request
from typing import Any, Protocol, cast, runtime_checkable

from melter.errors import CameraError
from melter.vision.camera import decode_image
from melter.vision.opencv import cv2
from melter.vision.response import Pixels, checked_pixels

LONGEST_READ_S = 2.0
"""A stream that is silent for this long is taken for gone."""
MANUAL_EXPOSURE = (1.0, 0.25)
"""What switches automatic exposure off: V4L2's number, DirectShow's."""
JPEG_MAX_BYTES = 64 * 2**20


class Device(Protocol):
    """One connection to a camera."""

    def read(self) -> Pixels | None:
        """Return the next picture, None when it could not be decoded; raise CameraError when the connection is gone."""
        ...

    def close(self) -> None:
        """Let the connection go."""
        ...


@runtime_checkable
class Adjustable(Protocol):
    """A device whose exposure can be set."""

    def fix(self) -> list[str]:
        """Switch the automatics off; return the names of those that stay on."""
        ...

    def expose(self, factor: float) -> bool:
        """Multiply the exposure; return whether the device took it."""
        ...


class CaptureDevice:
    """OpenCV's own capture: local cameras, RTSP."""

    def __init__(self, source: int | str, timeout_s: float) -> None:
        if isinstance(source, int):
            self._capture = cv2.VideoCapture(source)
            self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        else:
            limit_ms = int(1000 * timeout_s)
            options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit_ms]
            self._capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, options)
        self._name = source
        if not self._capture.isOpened():
            self._capture.release()
            raise CameraError(f"source {source}: cannot be opened as a camera or stream")

    def read(self) -> Pixels | None:
        good, image = cast("tuple[bool, Any]", self._capture.read())
        if not good or image is None:
            raise CameraError(f"source {self._name}: gives no more frames")
        return checked_pixels(image)

    def fix(self) -> list[str]:
        """Fix what V4L2, DirectShow and AVFoundation let one fix; the device's own answer counts."""
        left: list[str] = []
        now = float(self._capture.get(cv2.CAP_PROP_EXPOSURE))
        if not any(self._set(cv2.CAP_PROP_AUTO_EXPOSURE, manual) for manual in MANUAL_EXPOSURE):
            left.append("exposure")
        elif now != 0:
            self._capture.set(cv2.CAP_PROP_EXPOSURE, now)
        gain = float(self._capture.get(cv2.CAP_PROP_GAIN))
        if not self._set(cv2.CAP_PROP_GAIN, gain):
            left.append("gain")
        if not self._set(cv2.CAP_PROP_AUTO_WB, 0.0):
            left.append("white balance")
        return left

    def expose(self, factor: float) -> bool:
        now = float(self._capture.get(cv2.CAP_PROP_EXPOSURE))
        wanted = exposure_setting(now, factor)
        return wanted != now and self._set(cv2.CAP_PROP_EXPOSURE, wanted)

    def _set(self, what: int, value: float) -> bool:
        """Set and read back."""
        if not self._capture.set(what, value):
            return False
        return abs(float(self._capture.get(what)) - value) <= 0.01 + 0.05 * abs(value)

    def close(self) -> None:
        self._capture.release()


def exposure_setting(now: float, factor: float) -> float:
    """Return a device's exposure setting ``factor`` times as long as ``now``.

    V4L2 counts in units of 100 µs (positive whole numbers); DirectShow in powers of two seconds (negative ones).
    """
    if now > 0:
        return float(max(1, round(now * factor)))
    return float(round(now + math.log2(factor)))


class HttpJpegDevice:
    """Reads JPEGs out of an HTTP answer by their own start and end marks; any multipart dialect will do."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url, self._buffer = url, bytearray()
        try:
            self._answer: Any = urllib.request.urlopen(url, timeout=min(timeout_s, LONGEST_READ_S))
        except (urllib.error.URLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise CameraError(f"source {url}: cannot be opened: {reason}") from None
        kind = self._answer.headers.get_content_type()
        if not kind.startswith(("multipart/", "image/")):
            self._answer.close()
            raise CameraError(f"source {url}: answers {kind}, must be multipart/x-mixed-replace or image/jpeg")

    def read(self) -> Pixels | None:
        coded = self._next_jpeg()
        try:
            return decode_image(coded, self._url)
        except CameraError:
            return None

    def close(self) -> None:
        self._answer.close()

    def _next_jpeg(self) -> bytes:
        buffer, searched = self._buffer, 0
        while True:
            start = buffer.find(b"\xff\xd8\xff")
            end = buffer.find(b"\xff\xd9", max(start + 2, searched)) if start >= 0 else -1
            if end >= 0:
                coded = bytes(buffer[start : end + 2])
                del buffer[: end + 2]
                return coded
            searched = max(0, len(buffer) - 1)
            if len(buffer) > JPEG_MAX_BYTES:
                raise CameraError(f"source {self._url}: no picture in {JPEG_MAX_BYTES} bytes")
            try:
                piece = self._answer.read1(65536)
            except (OSError, ValueError) as error:
                raise CameraError(f"source {self._url}: reading stopped: {error}") from None
            if not piece:
                raise CameraError(f"source {self._url}: the stream ended")
            buffer += piece
