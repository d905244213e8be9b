"""Grbl's and grblHAL's line protocol without any I/O: bytes in, events out; commands in, bytes out.

One table per direction. Lengths are whole micrometres of cable, as exact as the wire's three decimals of a
millimetre. Sources: Grbl 1.1's interface and jogging documentation, grblHAL's notes for sender developers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Micrometres = NDArray[np.int64]

BAUD = 115200
STATUS = b"?"
STATUS_HAL = b"\x80"
"""grblHAL's own: taken at once also where ``?`` would become part of a line that starts with ``$``."""
STATUS_FULL = b"\x87"
JOG_CANCEL = b"\x85"
FEED_HOLD = b"!"
"""Stops a program run and, on grblHAL, no jog: the other way round than the jog cancel."""
RESUME = b"~"
SOFT_RESET = b"\x18"
UNLOCK = b"$X\n"
BUILD_INFO = b"$I\n"
BUILD_INFO_ALL = b"$I+\n"
SETTINGS = b"$$\n"

AXES_USUAL = "XYZABCUVW"
LINE_BYTES = 1024
"""Longest line a board sends; longer is noise."""
STATES = ("idle", "run", "jog", "hold", "alarm", "door", "check", "home", "sleep", "tool")

ERRORS = {
    1: "a letter was expected",
    2: "a number is malformed",
    3: "command not known",
    4: "a value is negative",
    5: "homing is switched off",
    7: "its settings memory cannot be read",
    8: "not while moving, in alarm or in hold",
    9: "locked by a jog or an alarm",
    10: "soft limits need homing",
    11: "line too long",
    12: "steps faster than the board can make them",
    13: "its safety door is open",
    14: "stored line too long",
    15: "jog target beyond the travel limits",
    16: "jog command malformed",
    18: "its reset input is active",
    19: "a value must be above zero",
    20: "command not supported",
    21: "two commands of one group in the line",
    22: "feed missing",
    24: "more than one command in the line",
    25: "a word is repeated",
    26: "no axis word",
    33: "target not allowed",
    36: "words that the command does not use",
    39: "a value is out of range",
    43: "feed above what the board allows",
    45: "a limit switch is engaged",
    46: "homing required",
    49: "its self-test failed",
    50: "emergency stop is active",
    51: "motor fault",
    52: "setting out of range",
    53: "no such setting on this board",
    77: "authentication required",
    78: "access denied",
    79: "not before the cause of the alarm is gone and the board is reset",
}
ALARMS = {
    1: "hard limit",
    2: "soft limit",
    3: "reset while moving, position lost",
    4: "probe in the wrong state",
    5: "probe without contact",
    6: "reset while homing",
    7: "door opened while homing",
    8: "homing failed, switch not left",
    9: "homing failed, switch not found",
    10: "emergency stop",
    11: "homing required",
    12: "a limit switch is engaged",
    13: "probe protection",
    14: "spindle",
    15: "homing failed, second switch not found",
    16: "self-test failed",
    17: "motor fault",
    18: "homing failed",
}


@dataclass(frozen=True)
class Banner:
    """The board has started."""

    text: str


@dataclass(frozen=True)
class Ok:
    """The oldest unanswered line was accepted."""


@dataclass(frozen=True)
class Error:
    """The oldest unanswered line was refused."""

    code: int

    def __str__(self) -> str:
        return f"error:{self.code} ({ERRORS.get(self.code, 'see the list of error codes')})"


@dataclass(frozen=True)
class Alarm:
    """The board has locked itself."""

    code: int

    def __str__(self) -> str:
        return f"ALARM:{self.code} ({ALARMS.get(self.code, 'see the list of alarm codes')})"


@dataclass(frozen=True)
class Report:
    """A status report. Which of the two positions is there depends on the board's $10."""

    state: str
    """One of STATES."""
    machine_um: Micrometres | None
    work_um: Micrometres | None
    offset_um: Micrometres | None
    """Machine minus work position; only in some reports."""
    blocks_free: int | None
    """Planner blocks free; None where the board does not tell."""
    substate: int | None = None
    """The number behind the state, such as the alarm's code in a full report of grblHAL."""


@dataclass(frozen=True)
class Setting:
    """A line of the settings dump."""

    number: int
    value: str


@dataclass(frozen=True)
class Message:
    """Anything in square brackets: build info, parser state, remarks."""

    text: str


@dataclass(frozen=True)
class Garbage:
    """A line that is none of the others: noise, or another device."""

    text: str


Event = Banner | Ok | Error | Alarm | Report | Setting | Message | Garbage

_BANNER = re.compile(r"grbl\w*\s+[\w.]+\s*\[.*\]$", re.IGNORECASE)
_ERROR = re.compile(r"error:\s*(\d{1,3})$")
_ALARM = re.compile(r"ALARM:\s*(\d{1,3})$")
_SETTING = re.compile(r"\$(\d{1,4})=([^()]*?)\s*(\(.*\))?$")
_STARTUP_LINE = re.compile(r"\$N\d=|>.*:ok$")
_REPORT = re.compile(r"<([A-Za-z]+)(?::(\d{1,3}))?((?:\|[^|<>]*)*)>$")
_AXES = re.compile(r"\[AXS:(\d+):([A-Z]*)\]$")
_NUMBER = re.compile(r"-?\d{1,6}\.\d{3,4}$")
"""Boards print three decimals, four in inches: fewer mean that a byte got lost."""


class Decoder:
    """Cuts bytes into lines and lines into events, however the bytes are split."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that ``data`` completes."""
        self._rest += data
        *lines, rest = re.split(rb"[\r\n]+", bytes(self._rest))
        if len(rest) > LINE_BYTES:
            lines, rest = [*lines, rest[:LINE_BYTES]], b""
        self._rest = bytearray(rest)
        return [parse_line(line) for line in lines if line.strip()]


def parse_line(line: bytes) -> Event:
    """Return what one line from the board means."""
    text = line.decode("ascii", "replace").strip()
    if not text.isprintable() or "�" in text:
        return Garbage(text)
    if text.lower() == "ok":
        return Ok()
    if text.startswith("<"):
        return _parse_report(text)
    if match := _ERROR.match(text):
        return Error(int(match[1]))
    if match := _ALARM.match(text):
        return Alarm(int(match[1]))
    if match := _SETTING.match(text):
        return Setting(int(match[1]), match[2])
    if _BANNER.search(text):
        return Banner(text)
    if (text.startswith("[") and text.endswith("]")) or _STARTUP_LINE.match(text):
        return Message(text)
    return Garbage(text)


def _parse_report(text: str) -> Event:
    match = _REPORT.match(text)
    if match is None or match[1].lower() not in STATES:
        return Garbage(text)
    fields: dict[str, str] = {}
    for field in match[3].split("|")[1:]:
        name, _, value = field.partition(":")
        if name in fields:  # two reports run into one another where the bytes between were lost
            return Garbage(text)
        fields[name] = value
    try:
        machine, work, offset = (_micrometres(fields.get(name)) for name in ("MPos", "WPos", "WCO"))
        free = int(fields["Bf"].split(",")[0]) if "Bf" in fields else None
    except ValueError:
        return Garbage(text)
    if machine is None and work is None:
        return Garbage(text)
    return Report(match[1].lower(), machine, work, offset, free, None if match[2] is None else int(match[2]))


def _micrometres(values: str | None) -> Micrometres | None:
    if values is None:
        return None
    numbers = values.split(",")
    if not all(_NUMBER.match(number) for number in numbers):
        raise ValueError(values)
    return np.array([round(float(number) * 1000) for number in numbers], dtype=np.int64)


def axis_letters(info: Iterable[str], axes: int) -> str:
    """Return the board's axes in the order of its reports and settings; its usual order where it does not tell."""
    told = next((match[2] for text in info if (match := _AXES.match(text))), "")
    return told if len(told) == axes else AXES_USUAL[:axes]


def jog_line(increments_um: Micrometres, duration_s: float, axes: str = "XYZABCUV") -> bytes:
    """Return the jog that moves each axis by its increment in just ``duration_s`` (feed along the Euclidean norm).

    Axes that stand still are left out. Raises ValueError when none moves (a jog without axis words would drive
    every axis to zero) or the duration is not positive.
    """
    if not np.any(increments_um) or not duration_s > 0:
        raise ValueError(f"jog of {increments_um} um in {duration_s} s: must move at least one axis, in more than 0 s")
    words = [f"{axis}{_millimetres(int(um))}" for axis, um in zip(axes, increments_um, strict=True) if um]
    length_mm = float(np.sqrt(np.square(increments_um.astype(float)).sum())) * 1e-3
    feed_mm_min = max(length_mm / duration_s * 60.0, 0.001)
    digits = 3 if feed_mm_min < 100 else 1
    return f"$J=G91G21{''.join(words)}F{feed_mm_min:.{digits}f}\n".encode("ascii")


def setting_line(number: int, value: float) -> bytes:
    """Return the line that sets ``$number``."""
    return f"${number}={value:.5f}".rstrip("0").rstrip(".").encode("ascii") + b"\n"


def _millimetres(um: int) -> str:
    whole, part = divmod(abs(um), 1000)
    return f"{'-' if um < 0 else ''}{whole}.{part:03d}"
