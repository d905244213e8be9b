"""Recordings of a serial link: every byte both ways with its monotonic time, a JSON line per piece, append-only."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from melter.errors import BadInput
from melter.hw.grbl import AXES_USUAL, Decoder, Error, Garbage, Ok, Report
from melter.machine import WINCH_COUNT

FLUSH_S = 0.5
"""A kill costs at most this much of a recording."""
Direction = Literal["rx", "tx"]
_WORD = re.compile(rb"([A-Z])(-?\d+\.?\d*)")


@dataclass(frozen=True)
class Piece:
    """Bytes that went one way at one time."""

    direction: Direction
    """As the host sees it."""
    time_s: float
    """Host's monotonic clock."""
    data: bytes


class Recorder:
    """Appends to a file; its ``on_bytes`` fits the drivers' and may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._flushed_s = 0.0
        try:
            self._file = path.open("a", encoding="ascii")
        except OSError as error:
            raise BadInput(f"recording {path}: cannot be written: {error.strerror}") from None

    def on_bytes(self, direction: Direction, time_s: float, data: bytes) -> None:
        """Note one piece."""
        line = json.dumps({"t_s": round(time_s, 6), "dir": direction, "hex": data.hex()})
        with self._lock:
            if self._file.closed:
                return
            self._file.write(line + "\n")
            now_s = time.monotonic()
            if now_s - self._flushed_s > FLUSH_S:
                self._file.flush()
                self._flushed_s = now_s

    def close(self) -> None:
        """Write out what is left."""
        with self._lock:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_recording(path: Path) -> Iterator[Piece]:
    """Yield the pieces of a recording; a last line cut short by a kill is left out. Raises BadInput."""
    try:
        lines = path.read_text(encoding="ascii").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a recording"
        raise BadInput(f"recording {path}: cannot be read: {reason}") from None
    for number, line in enumerate(lines[:-1], start=1):
        try:
            entry: dict[str, Any] = json.loads(line)
            direction, time_s, data = entry["dir"], float(entry["t_s"]), bytes.fromhex(entry["hex"])
        except (ValueError, KeyError, TypeError):
            raise BadInput(f"recording {path}: line {number} is not a piece of a recording") from None
        if direction not in ("rx", "tx"):
            raise BadInput(f"recording {path}: line {number}: dir {direction!r}, must be rx or tx")
        yield Piece(direction, time_s, data)


def summarise(pieces: Iterable[Piece]) -> dict[str, Any]:
    """Run a recording through the protocol core again; return what was asked, what was answered and how late."""
    decoder, counts = Decoder(), Counter[str]()
    asked_mm = np.zeros(WINCH_COUNT)
    waiting: list[tuple[float, bytes]] = []
    answer_s: list[float] = []
    remarks: list[str] = []
    reported_mm: list[float] | None = None
    first_s = last_s = None
    for piece in pieces:
        first_s, last_s = piece.time_s if first_s is None else first_s, piece.time_s
        if piece.direction == "tx":
            counts["cancels"] += piece.data.count(0x85)
            for line in re.findall(rb"[^\n]+\n", re.sub(rb"[\x80-\xff?\x18]", b"", piece.data)):
                waiting.append((piece.time_s, line))
            continue
        for event in decoder.feed(piece.data):
            counts[type(event).__name__.lower()] += 1
            if isinstance(event, Ok | Error) and waiting:
                sent_s, line = waiting.pop(0)
                answer_s.append(piece.time_s - sent_s)
                if isinstance(event, Ok):
                    asked_mm += _jog_mm(line)
            if isinstance(event, Report) and event.machine_um is not None:
                reported_mm = (event.machine_um / 1000).tolist()
            elif not isinstance(event, Report | Ok) and isinstance(event, Error | Garbage):
                remarks.append(f"{piece.time_s - first_s:.3f} s: {event}")
    return {
        "seconds": 0.0 if first_s is None or last_s is None else last_s - first_s,
        "events": dict(counts),
        "jogs_mm": asked_mm.round(3).tolist(),
        "last_reported_mm": reported_mm,
        "answer_median_ms": float(np.median(answer_s) * 1e3) if answer_s else None,
        "answer_worst_ms": max(answer_s) * 1e3 if answer_s else None,
        "remarks": remarks[:50],
    }


def _jog_mm(line: bytes) -> np.ndarray[Any, np.dtype[np.float64]]:
    moved = np.zeros(WINCH_COUNT)
    if line.startswith(b"$J=G91G21"):
        for letter, number in _WORD.findall(line[len(b"$J=G91G21") :]):
            if letter.decode() in AXES_USUAL[:WINCH_COUNT]:
                moved[AXES_USUAL.index(letter.decode())] = float(number)
    return moved
