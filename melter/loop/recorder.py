"""Append-only recordings: JSON lines, flushed twice a second, so that a kill costs at most the last second."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from melter.errors import BadInput

FLUSH_S = 0.5


class Recorder:
    """Writes events of a run to one file; may be called from any thread. A context manager."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path, self._clock = path, clock
        self._lock = threading.Lock()
        self._flushed_s = 0.0
        try:
            self._file = path.open("x", encoding="utf-8")
        except OSError as error:
            raise BadInput(f"recording {path}: cannot be written: {error.strerror}") from None

    def write(self, kind: str, **fields: Any) -> None:
        """Append one line: its kind, the host's monotonic time and ``fields``."""
        line = json.dumps(
            {"kind": kind, "host_s": round(self._clock(), 6), **{k: _plain(v) for k, v in fields.items()}}
        )
        with self._lock:
            if self._file.closed:
                return
            self._file.write(line + "\n")
            if kind != "tick" or time.monotonic() - self._flushed_s > FLUSH_S:
                self._file.flush()
                self._flushed_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._file.close()


def read_recording(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a recording; a last line that was cut short is left out."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return round(value, 9) if math.isfinite(value) else None
    return value
