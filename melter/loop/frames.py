"""Kept frames of a run: JPEG files in a folder, one now and then and all of the last seconds before and after a fault.

Append-only and bounded: a run of hours keeps a fixed number of bytes. Coding and writing happen in a thread of their own.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from melter.errors import BadInput
from melter.vision.camera import Frame
from melter.vision.jpeg import encode_jpeg

AROUND_FAULT_S, AROUND_EVERY_S = 5.0, 0.09
"""So long before and after a fault, ten frames a second are kept: 140 MB wait in memory for it at 1280 x 720."""
BYTES_MAX = 2**30
"""Of pictures per run: about two hours of one a second."""
RING_BYTES_MAX = 256 * 2**20
"""Of frames in memory; larger pictures reach less far back."""
INDEX = "frames.jsonl"


class KeptFrames:
    """Takes every frame, keeps some. A context manager."""

    def __init__(self, folder: Path, every_s: float, bytes_max: int = BYTES_MAX) -> None:
        """``every_s``: a frame is kept at least so long after the one before; 0 keeps every frame."""
        self.folder, self._every_s, self._left = folder, every_s, bytes_max
        self._lock, self._new, self._end = threading.Lock(), threading.Event(), threading.Event()
        self._ring: deque[Frame] = deque()
        self._waiting: deque[Frame] = deque(maxlen=300)
        self._kept_s, self._until_s, self._last = -1e9, -1e9, -1
        self.kept = 0
        """Frames on disk."""
        try:
            folder.mkdir()
            self._index = (folder / INDEX).open("x", encoding="utf-8")
        except OSError as error:
            raise BadInput(f"kept frames {folder}: cannot be written: {error.strerror}") from None
        self._thread = threading.Thread(target=self._run, name="frames", daemon=True)

    def see(self, frame: Frame) -> None:
        """Take in a frame; never waits."""
        now_s, ring = frame.captured_host_s, self._ring
        with self._lock:
            every_s = min(self._every_s, AROUND_EVERY_S) if now_s <= self._until_s else self._every_s
            if now_s - self._kept_s >= every_s:
                self._kept_s = now_s
                self._waiting.append(frame)
                self._new.set()
            if not ring or now_s - ring[-1].captured_host_s >= AROUND_EVERY_S:
                ring.append(frame)
            while ring and (
                now_s - ring[0].captured_host_s > AROUND_FAULT_S or len(ring) * frame.image.nbytes > RING_BYTES_MAX
            ):
                ring.popleft()

    def fault(self, now_s: float) -> None:
        """Keep all frames of the last seconds and of the next ones."""
        with self._lock:
            self._until_s = now_s + AROUND_FAULT_S
            self._waiting.extend(self._ring)
            self._new.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._new.set()
        self._thread.join(timeout=20)
        self._index.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # a full disk ends the pictures, not the run
            while True:
                self._new.wait()
                with self._lock:
                    frame = self._waiting.popleft() if self._waiting else None
                    if frame is None:
                        self._new.clear()
                if frame is not None:
                    self._keep(frame)
                elif self._end.is_set():
                    return

    def _keep(self, frame: Frame) -> None:
        """Write one picture and its line; each frame once, older ones late are still named by their number."""
        name = f"{frame.number:08d}.jpg"
        if self._left <= 0 or (self.folder / name).exists():
            return
        image = frame.image
        coded = encode_jpeg((image if image.dtype == np.uint8 else image >> 8).astype(np.uint8))
        part = self.folder / f".{name}.part"
        part.write_bytes(coded)
        part.replace(self.folder / name)
        self._index.write(
            json.dumps({"frame": frame.number, "captured_host_s": frame.captured_host_s, "file": name}) + "\n"
        )
        self._index.flush()
        self._left -= len(coded)
        self.kept += 1
