"""Cameras: an index, a video file, an image, a folder of images or an MJPEG URL behind one interface.

Live sources have a thread that always holds the newest frame; a reader that is late gets the newest one and the
others are counted as skipped. Files are read in order, without a thread. Times are the host's monotonic clock when the
frame arrived (``captured_host_s``), because the time stamps of webcams and streams are invented.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from melter.errors import CameraError, VisionFault
from melter.vision.opencv import cv2
from melter.vision.response import Pixels, checked_pixels

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})
RATE_WITHOUT_CLOCK_HZ = 30.0
"""Assumed of images in a folder, which have no times."""


@dataclass(frozen=True)
class Frame:
    """One picture as it came."""

    image: Pixels
    """(h, w) grey or (h, w, 3) BGR, 8 or 16 bits."""
    captured_host_s: float
    """Monotonic host clock on arrival."""
    number: int
    """Running number in its source, from 0."""
    source: str
    """File, URL or index it came from."""
    t_s: float
    """Time in the source: of a live one since it was opened, of a file by its own rate."""


@dataclass(frozen=True)
class BrokenFrame:
    """A picture that is there but cannot be read."""

    number: int
    source: str
    t_s: float
    reason: str


@dataclass(frozen=True)
class CameraStats:
    """What a source has been doing."""

    frames: int = 0
    """That arrived."""
    skipped: int = 0
    """Replaced by a newer one before anybody looked."""
    broken: int = 0
    """That could not be decoded."""
    stalls: int = 0
    """Times that no frame came for longer than allowed."""
    reconnects: int = 0
    size_changes: int = 0


class CameraStream(Protocol):
    """An open source of frames; a context manager."""

    source: str
    live: bool

    def latest(self, newer_than: int = -1, timeout_s: float = 1.0) -> Frame:
        """Return the newest frame whose number is above ``newer_than``; raise VisionFault when none comes in time."""
        ...

    def frames(self) -> Iterator[Frame | BrokenFrame]:
        """Yield frames until the source ends."""
        ...

    @property
    def stats(self) -> CameraStats:
        """Counts so far."""
        ...

    def fix(self) -> str:
        """Switch automatic exposure, gain and white balance off; return what cannot be fixed, empty when all is."""
        ...

    def expose(self, factor: float) -> bool:
        """Multiply the exposure time; return whether the device took it."""
        ...

    def close(self) -> None:
        """Stop the thread, if any, and let the device go."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_camera(source: str, *, timeout_s: float = 5.0, rate_hz: float = RATE_WITHOUT_CLOCK_HZ) -> CameraStream:
    """Return an open source: integer index, video file, image file, folder of images, or URL.

    ``rate_hz`` is the assumed rate of images without times. Raises CameraError when nothing can be read from it
    within ``timeout_s``.
    """
    text = str(source).strip()
    path = Path(text)
    if "://" in text and not text.startswith("file://"):
        from melter.vision.live import open_url

        return open_url(text, timeout_s)
    if text.isdecimal() and not path.exists():
        from melter.vision.live import open_index

        return open_index(int(text), timeout_s)
    path = Path(text.removeprefix("file://"))
    if path.is_dir():
        return ImageFiles(text, _images_in(path), rate_hz)
    if not path.is_file():
        raise CameraError(f"source {text}: neither a file, a folder, a camera index nor a URL")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageFiles(text, [path], rate_hz)
    return VideoFile(text)


def read_image(path: str | Path) -> Pixels:
    """Return an image file as it is stored, 8 or 16 bits. Raises CameraError."""
    try:
        coded = Path(path).read_bytes()
    except OSError as error:
        raise CameraError(f"image {path}: cannot be read: {error.strerror}") from None
    return decode_image(coded, f"image {path}")


def decode_image(coded: bytes, name: str) -> Pixels:
    """Return the picture in JPEG, PNG, TIFF … bytes. Raises CameraError."""
    import numpy as np

    try:
        image = cv2.imdecode(np.frombuffer(coded, dtype=np.uint8), cv2.IMREAD_UNCHANGED) if coded else None
    except cv2.error:
        image = None
    if image is None:
        raise CameraError(f"{name}: not a picture, or a damaged one ({len(coded)} bytes)")
    try:
        return checked_pixels(image)
    except CameraError as error:
        raise CameraError(f"{name}: {error}") from None


class _FileStream:
    """What file sources share: frames in order, one per call of ``latest``."""

    live = False

    def __init__(self, source: str) -> None:
        self.source = source
        self._stats = CameraStats()
        self._iterator: Iterator[Frame | BrokenFrame] | None = None

    def frames(self) -> Iterator[Frame | BrokenFrame]:
        raise NotImplementedError

    @property
    def stats(self) -> CameraStats:
        return self._stats

    def latest(self, newer_than: int = -1, timeout_s: float = 1.0) -> Frame:
        """Return the next readable frame of the file; raise VisionFault at its end. A file keeps nobody waiting."""
        del timeout_s
        if self._iterator is None:
            self._iterator = self.frames()
        for frame in self._iterator:
            if isinstance(frame, Frame) and frame.number > newer_than:
                return frame
        raise VisionFault(f"source {self.source}: at its end after {self._stats.frames} frames")

    def fix(self) -> str:
        return f"source {self.source}: recorded pictures, their exposure is what it is"

    def expose(self, factor: float) -> bool:
        del factor
        return False

    def close(self) -> None:
        self._iterator = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _count(self, *, good: bool) -> None:
        s = self._stats
        self._stats = CameraStats(frames=s.frames + good, broken=s.broken + (not good))


class ImageFiles(_FileStream):
    """Image files in order of their names."""

    def __init__(self, source: str, files: list[Path], rate_hz: float) -> None:
        super().__init__(source)
        if not files:
            raise CameraError(f"source {source}: no images ({', '.join(sorted(IMAGE_SUFFIXES))}) in this folder")
        self._files, self._rate_hz = files, rate_hz

    def frames(self) -> Iterator[Frame | BrokenFrame]:
        for number, path in enumerate(self._files):
            t_s = number / self._rate_hz
            try:
                image = read_image(path)
            except CameraError as error:
                self._count(good=False)
                yield BrokenFrame(number, str(path), t_s, str(error))
                continue
            self._count(good=True)
            yield Frame(image, time.monotonic(), number, str(path), t_s)


class VideoFile(_FileStream):
    """A video file, decoded in order."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self._capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG)
        self._first = self._capture.read()[1] if self._capture.isOpened() else None
        if self._first is None:
            raise CameraError(f"source {source}: neither a picture nor a video that can be decoded")
        rate_hz = float(self._capture.get(cv2.CAP_PROP_FPS))
        self._rate_hz = rate_hz if 0.1 < rate_hz < 1000 else RATE_WITHOUT_CLOCK_HZ

    def frames(self) -> Iterator[Frame | BrokenFrame]:
        number, image = 0, self._first
        self._first = None
        while image is not None:
            self._count(good=True)
            yield Frame(checked_pixels(image), time.monotonic(), number, self.source, number / self._rate_hz)
            number += 1
            image = self._capture.read()[1]

    def close(self) -> None:
        super().close()
        self._capture.release()


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")), key=_natural
    )


def _natural(path: Path) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts frame_10 after frame_9."""
    import re

    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", path.name) if part)
