"""Live cameras: a thread that always holds the newest frame, reconnects, and counts what went wrong."""

from __future__ import annotations

import math
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol, Self, cast, runtime_checkable

from melter.errors import CameraError, VisionFault
from melter.vision.camera import BrokenFrame, CameraStats, Frame, decode_image
from melter.vision.opencv import cv2
from melter.vision.response import Pixels, checked_pixels

STALL_S = 1.0
"""No frame for this long is a stall: the connection is made anew."""
LONGEST_PAUSE_S = 2.0
"""Between two attempts to reconnect."""
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


class Opener(Protocol):
    """Makes a connection, or raises CameraError."""

    def __call__(self) -> Device: ...


class LiveCamera:
    """The newest frame of a camera that never waits for us."""

    live = True

    def __init__(self, source: str, opener: Opener, timeout_s: float) -> None:
        self.source = source
        self._opener = opener
        self._news = threading.Condition()
        self._closing = threading.Event()
        self._frame: Frame | None = None
        self._seen = -1
        self._stats = CameraStats()
        self._trouble = "no frame yet"
        self._opened_host_s = time.monotonic()
        self._stalled_after = -1
        self._fixed, self._exposed = False, 1.0
        device = opener()
        self._device: Device | None = device
        self._thread = threading.Thread(target=self._run, args=(device,), name=f"camera {source}", daemon=True)
        self._thread.start()
        try:
            self.latest(timeout_s=timeout_s)
        except VisionFault as fault:
            self.close()
            raise CameraError(f"source {source}: opened, but no frame within {timeout_s} s ({fault})") from None

    @property
    def stats(self) -> CameraStats:
        with self._news:
            return self._stats

    def latest(self, newer_than: int = -1, timeout_s: float = 1.0) -> Frame:
        """Return the newest frame above number ``newer_than`` and younger than ``timeout_s``; waits that long for it.

        Raises VisionFault when none comes.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._news:
            while True:
                frame, now_s = self._frame, time.monotonic()
                if frame is not None and frame.number > newer_than and now_s - frame.captured_host_s <= timeout_s:
                    self._seen = frame.number
                    return frame
                if self._closing.is_set() or now_s >= deadline_s:
                    self._note_stall(frame, now_s)
                    age = f"the last one is {now_s - frame.captured_host_s:.2f} s old" if frame else self._trouble
                    raise VisionFault(f"camera {self.source}: no new frame within {timeout_s} s; {age}")
                self._news.wait(deadline_s - now_s)

    def _note_stall(self, frame: Frame | None, now_s: float) -> None:
        """Count a silence once, also one in which the device does not even return."""
        if frame is not None and now_s - frame.captured_host_s > STALL_S and frame.number != self._stalled_after:
            self._stalled_after = frame.number
            self._stats = replace(self._stats, stalls=self._stats.stalls + 1)

    def fix(self) -> str:
        """Switch automatic exposure, gain and white balance off; return what cannot be fixed, empty when all is.

        After a reconnect the device is set anew.
        """
        self._fixed, device = True, self._device
        if not isinstance(device, Adjustable):
            return f"camera {self.source}: its exposure cannot be set from here"
        left = device.fix()
        return f"camera {self.source}: stays automatic: {', '.join(left)}" if left else ""

    def expose(self, factor: float) -> bool:
        """Multiply the exposure time; return whether the device took it."""
        device = self._device
        taken = isinstance(device, Adjustable) and device.expose(factor)
        if taken:
            self._exposed *= factor
        return taken

    def frames(self) -> Iterator[Frame | BrokenFrame]:
        """Yield each newest frame until the camera is closed; raise VisionFault when it falls silent for 10 stalls."""
        number = -1
        while not self._closing.is_set():
            frame = self.latest(number, 10 * STALL_S)
            number = frame.number
            yield frame

    def close(self) -> None:
        self._closing.set()
        with self._news:
            self._news.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=2 * STALL_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, device: Device | None) -> None:
        pause_s = 0.1
        while not self._closing.is_set():
            try:
                if device is None:
                    device = self._device = self._opened_again()
                self._publish(device.read())
                pause_s = 0.1
            except CameraError as error:
                self._trouble = str(error)
                if device is not None:
                    self._count(stalls=1)
                    device.close()
                    device = self._device = None
                self._closing.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        if device is not None:
            device.close()

    def _opened_again(self) -> Device:
        """A new connection, set as the one before was."""
        device = self._opener()
        self._count(reconnects=1)
        if self._fixed and isinstance(device, Adjustable):
            device.fix()
            device.expose(self._exposed)
        return device

    def _publish(self, image: Pixels | None) -> None:
        now_s = time.monotonic()
        if image is None:
            self._count(broken=1)
            return
        with self._news:
            last, s = self._frame, self._stats
            self._stats = replace(
                s,
                frames=s.frames + 1,
                skipped=s.skipped + (last is not None and last.number > self._seen),
                size_changes=s.size_changes + (last is not None and last.image.shape != image.shape),
            )
            image.setflags(write=False)
            self._frame = Frame(image, now_s, s.frames, self.source, now_s - self._opened_host_s)
            self._news.notify_all()

    def _count(self, **more: int) -> None:
        with self._news:
            self._stats = replace(self._stats, **{name: getattr(self._stats, name) + n for name, n in more.items()})


def open_index(index: int, timeout_s: float) -> LiveCamera:
    """Return the camera with this number. Raises CameraError."""
    return LiveCamera(str(index), lambda: _CaptureDevice(index, timeout_s), timeout_s)


def open_url(url: str, timeout_s: float) -> LiveCamera:
    """Return the stream at a URL: MJPEG or a JPEG over HTTP by itself, others through FFmpeg. Raises CameraError."""
    if url.startswith(("http://", "https://")):
        return LiveCamera(url, lambda: _HttpJpegDevice(url, timeout_s), timeout_s)
    return LiveCamera(url, lambda: _CaptureDevice(url, timeout_s), timeout_s)


class _CaptureDevice:
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


class _HttpJpegDevice:
    """Reads JPEGs out of an HTTP answer by their own start and end marks; any multipart dialect will do."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url, self._buffer = url, bytearray()
        try:
            self._answer: Any = urllib.request.urlopen(url, timeout=min(timeout_s, STALL_S * 2))
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
