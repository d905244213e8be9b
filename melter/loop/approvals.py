"""Whether the bytes of a recorded run agree with its approvals: no motion on the wire that the gate had not approved before."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.errors import BadInput
from melter.hw.grbl import AXES_USUAL, JOG_CANCEL, Decoder, Report
from melter.hw.recording import read_recording as read_bytes
from melter.loop.recorder import read_recording
from melter.machine import WINCH_COUNT

Array = NDArray[np.float64]

ROUNDING_M = 60e-6
"""A jog ends this near to the approved way: micrometres approved, steps and hundredths of a millimetre sent and reported."""
HELD_BACK_S = 2.5
"""So long may approved motion wait before it is sent, and be sent again after a cancel."""
SAME_TIME_S = 0.001
"""A command's bytes are written just after its line; the two clocks are read at slightly different moments."""
_JOG = re.compile(rb"\$J=G91 ?(?:G21)? ?([^\n]*)\n")
_WORD = re.compile(rb"([A-Z])(-?\d+\.?\d*)")


@dataclass(frozen=True)
class Agreement:
    """What came of the comparison."""

    jogs: int
    unapproved: int
    """Jogs with no approval before them, or that end off the approved way."""
    remarks: list[str] = field(default_factory=list[str])
    """The first few, for people."""


def unapproved_jogs(folder: Path) -> int:
    """Return how many jogs of a run folder's ``serial.jsonl`` have no approval before them. Raises BadInput."""
    return compare_wire(folder).unapproved


def compare_wire(folder: Path) -> Agreement:
    """Follow every jog on the wire and ask whether the approvals before it lead there. Raises BadInput.

    The approved way is the sum of the approved speeds, tick by tick. A jog starts where the one before ended, or after a
    cancel where the board said it stood, and must end on that way as it was within the last :data:`HELD_BACK_S`.
    """
    lines = [line for line in read_recording(folder / "recording.jsonl") if line.get("kind") == "tick"]
    period_s = _period_s(folder)
    times = np.array([float(line["host_s"]) for line in lines])
    way = np.cumsum(np.array([line["approved_m_s"] for line in lines]).reshape(-1, WINCH_COUNT), axis=0) * period_s
    way = np.concatenate([np.zeros((1, WINCH_COUNT)), way])
    wire = _Wire()
    found: list[str] = []
    jogs = 0
    for piece in read_bytes(folder / "serial.jsonl"):
        if piece.direction == "rx":
            wire.hear(piece.data)
            continue
        for travel_m in wire.say(piece.data):
            jogs += 1
            newest = int(np.searchsorted(times, piece.time_s + SAME_TIME_S, side="right"))
            oldest = int(np.searchsorted(times, piece.time_s - HELD_BACK_S))
            near = way[oldest : newest + 1]
            end = wire.move(travel_m)
            outside = np.maximum(near.min(axis=0) - end, end - near.max(axis=0)).max()
            if newest == 0 or outside > ROUNDING_M:
                off = "before any approval" if newest == 0 else f"ends {outside * 1e3:.3f} mm off the approved way"
                found.append(f"jog {jogs} at {piece.time_s:.3f} s: {off}")
    return Agreement(jogs, len(found), found[:20])


class _Wire:
    """Where the jogs lead, as the board counts."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._end_m: Array = np.zeros(WINCH_COUNT)
        self._reported_m: Array | None = None
        self._zero_m: Array | None = None
        self._cancelled = False
        self._buffer = b""

    def hear(self, data: bytes) -> None:
        for event in self._decoder.feed(data):
            if isinstance(event, Report) and event.machine_um is not None:
                self._reported_m = np.asarray(event.machine_um, dtype=float)[:WINCH_COUNT] * 1e-6
                if self._cancelled and event.state != "jog" and self._zero_m is not None:
                    self._end_m, self._cancelled = self._reported_m - self._zero_m, False

    def say(self, data: bytes) -> list[Array]:
        """Return the travel (8,) of each jog that is complete with these bytes."""
        if JOG_CANCEL in data or b"\x18" in data:
            self._cancelled = True
        self._buffer += bytes(byte for byte in data if byte < 0x80 and byte not in b"?!~\x18")
        *whole, self._buffer = self._buffer.split(b"\n")
        return [_travel_m(line) for line in whole if line.startswith(b"$J=")]

    def move(self, travel_m: Array) -> Array:
        """Return where a jog ends."""
        if self._zero_m is None:
            self._zero_m = np.zeros(WINCH_COUNT) if self._reported_m is None else self._reported_m
        self._end_m = self._end_m + travel_m
        return self._end_m


def _travel_m(line: bytes) -> Array:
    travel = np.zeros(WINCH_COUNT)
    for letter, number in _WORD.findall(line.partition(b"G21")[2]):
        if letter.decode() in AXES_USUAL[:WINCH_COUNT]:
            travel[AXES_USUAL.index(letter.decode())] = float(number) * 1e-3
    return travel


def _period_s(folder: Path) -> float:
    """The control period, from the run's configuration."""
    import json

    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return 1.0 / float(config["machine_values"]["control"]["rate_hz"])
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        raise BadInput(f"recording {folder}: config.json does not tell the control rate") from None
