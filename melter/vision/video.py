"""Videos written frame by frame: MP4 through OpenCV, GIF through Pillow.

A video is written beside its final name and renamed when it is complete, so that a reader never meets half of one.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from melter.errors import BadInput, OutputExists
from melter.vision.opencv import cv2

Picture = NDArray[np.uint8]

SUFFIXES = (".mp4", ".gif")
GIF_FRAMES_MAX = 2000
"""A GIF is assembled in memory; longer ones belong into an MP4."""


def check_video_path(path: str | Path, *, overwrite: bool = False) -> Path:
    """Return ``path`` if a video can be written there; raise BadInput, OutputExists where there is a file already."""
    place = Path(path)
    if place.suffix.lower() not in SUFFIXES:
        raise BadInput(f"video {place}: suffix {place.suffix or '(none)'}, must be one of {', '.join(SUFFIXES)}")
    if not place.parent.is_dir():
        raise BadInput(f"video {place}: no such folder: {place.parent}")
    if place.is_dir():
        raise BadInput(f"video {place}: is a folder")
    if place.exists() and not overwrite:
        raise OutputExists(f"video {place}: exists already and is not overwritten without --force")
    if not os.access(place.parent, os.W_OK):
        raise BadInput(f"video {place}: folder {place.parent} cannot be written to")
    return place


class VideoWriter:
    """Writes RGB pictures of one size to a video file. A context manager.

    Leaving it, by Ctrl-C too, completes the file with what was written so far; leaving it by any other error, or
    without a picture, leaves the folder as it was.
    """

    def __init__(self, path: str | Path, rate_hz: float, *, overwrite: bool = False) -> None:
        """Raises BadInput (OutputExists) as :func:`check_video_path` does, and for rates outside 0.5 to 240 Hz."""
        self.path = check_video_path(path, overwrite=overwrite)
        if not 0.5 <= rate_hz <= 240:
            raise BadInput(f"video {self.path}: rate {rate_hz} Hz, must lie between 0.5 and 240 Hz")
        self.rate_hz, self.frames = rate_hz, 0
        self._overwrite, self._shape = overwrite, (0, 0, 0)
        self._beside = self.path.with_name(f".{self.path.stem}.{os.getpid()}.tmp{self.path.suffix.lower()}")
        self._encoder: _Encoder | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self.close()
        else:
            self.discard()

    def write(self, picture: Picture) -> None:
        """Append one picture, (h, w, 3) RGB, 8 bits; all of one video have the same size. Raises BadInput."""
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or 0 in picture.shape:
            raise BadInput(
                f"video {self.path}: picture {picture.dtype} {picture.shape}, must be uint8 (height, width, 3)"
            )
        if self._encoder is None:
            self._shape = picture.shape
            self._encoder = _open(self._beside, self.rate_hz, picture)
        if picture.shape != self._shape:
            raise BadInput(f"video {self.path}: picture {picture.shape}, must be {self._shape} like the first one")
        self._encoder.append(picture)
        self.frames += 1

    def close(self) -> None:
        """Complete the file and give it its name."""
        if self._encoder is None:
            return
        encoder, self._encoder = self._encoder, None
        encoder.finish()
        if not self._beside.is_file() or self._beside.stat().st_size == 0:
            self._beside.unlink(missing_ok=True)
            raise BadInput(f"video {self.path}: cannot be written (disk full?)")
        try:
            check_video_path(self.path, overwrite=self._overwrite)
        except BadInput:
            self._beside.unlink(missing_ok=True)
            raise
        self._beside.replace(self.path)

    def discard(self) -> None:
        """Drop what was written."""
        if self._encoder is not None:
            self._encoder.drop()
            self._encoder = None
        self._beside.unlink(missing_ok=True)


class _Encoder(Protocol):
    def append(self, picture: Picture) -> None: ...
    def finish(self) -> None: ...
    def drop(self) -> None: ...


class _Mp4:
    """MPEG-4 part 2: the one encoder that every OpenCV wheel has."""

    def __init__(self, path: Path, rate_hz: float, picture: Picture) -> None:
        height, width = picture.shape[:2]
        self._pad = (height % 2, width % 2)
        size = (width + self._pad[1], height + self._pad[0])
        self._writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), rate_hz, size)
        if not self._writer.isOpened():
            path.unlink(missing_ok=True)
            raise BadInput(f"video {path.name}: OpenCV cannot write MPEG-4 of {size[0]}x{size[1]} px here; try a .gif")

    def append(self, picture: Picture) -> None:
        """Odd sizes grow by a repeated edge: the codec knows even ones only."""
        if any(self._pad):
            picture = np.pad(picture, ((0, self._pad[0]), (0, self._pad[1]), (0, 0)), mode="edge")
        self._writer.write(np.ascontiguousarray(picture[:, :, ::-1]))

    def finish(self) -> None:
        self._writer.release()

    def drop(self) -> None:
        self._writer.release()


class _Gif:
    """Pictures with palettes of 128 colours, kept until the end."""

    def __init__(self, path: Path, rate_hz: float) -> None:
        self._path, self._rate_hz = path, rate_hz
        self._pictures: list[Any] = []

    def append(self, picture: Picture) -> None:
        from PIL import Image

        if len(self._pictures) >= GIF_FRAMES_MAX:
            raise BadInput(
                f"video {self._path.name}: more than {GIF_FRAMES_MAX} pictures, too many for a .gif; use .mp4"
            )
        self._pictures.append(Image.fromarray(picture).quantize(128, dither=Image.Dither.NONE))

    def finish(self) -> None:
        """GIF counts in hundredths of a second; the pauses alternate so that the whole keeps its time."""
        ends = np.rint(100 / self._rate_hz * np.arange(1, len(self._pictures) + 1)).astype(int)
        pauses = np.maximum(np.diff(ends, prepend=0), 2) * 10
        first, *rest = self._pictures
        first.save(self._path, format="GIF", save_all=True, append_images=rest, duration=pauses.tolist(), loop=0)

    def drop(self) -> None:
        self._pictures.clear()


def _open(path: Path, rate_hz: float, picture: Picture) -> _Encoder:
    if path.suffix == ".mp4":
        return _Mp4(path, rate_hz, picture)
    from importlib.util import find_spec

    if find_spec("PIL") is None:
        raise BadInput(f"video {path.name}: a .gif needs Pillow, which is not installed; use .mp4")
    return _Gif(path, rate_hz)


__all__ = ["SUFFIXES", "VideoWriter", "check_video_path"]
