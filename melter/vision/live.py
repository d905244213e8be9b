"""Live cameras: a thread that always holds the newest frame, reconnects, and counts what went wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType
from typing import Protocol, Self

from melter.errors import CameraError, VisionFault
from melter.vision.camera import BrokenFrame, CameraStats, Frame
from melter.vision.devices import Adjustable, CaptureDevice, Device, HttpJpegDevice
from melter.vision.response import Pixels

STALL_S = 1.0
"""No frame for this long is a stall: the connection is made anew."""
LONGEST_PAUSE_S = 2.0
"""Between two attempts to reconnect."""


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
    return LiveCamera(str(index), lambda: CaptureDevice(index, timeout_s), timeout_s)


def open_url(url: str, timeout_s: float) -> LiveCamera:
    """Return the stream at a URL: MJPEG or a JPEG over HTTP by itself, others through FFmpeg. Raises CameraError."""
    if url.startswith(("http://", "https://")):
        return LiveCamera(url, lambda: HttpJpegDevice(url, timeout_s), timeout_s)
    return LiveCamera(url, lambda: CaptureDevice(url, timeout_s), timeout_s)
