"""The words of a jog line, read the way Grbl reads them. Part of the simulated firmware."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

ERROR_LETTER, ERROR_NUMBER, ERROR_JOG, ERROR_MODAL_TWICE, ERROR_NO_FEED, ERROR_REPEATED = 1, 2, 16, 21, 22, 25
MM_PER_INCH = 25.4
_WORD = re.compile(r"([A-Z])([-+]?(?:\d+\.?\d*|\.\d+))?")
_MODAL = {90: "distance", 91: "distance", 20: "units", 21: "units", 53: "machine"}


class LineError(Exception):
    """A line that is answered with ``error:code``."""

    def __init__(self, code: int) -> None:
        super().__init__(f"error:{code}")
        self.code = code


@dataclass(frozen=True)
class Jog:
    """What a jog line asks for."""

    axes_mm: dict[str, float]
    feed_mm_min: float
    relative: bool


def parse_jog(words: str, axis_letters: str) -> Jog:
    """Return the jog of the text after ``$J=``; raise LineError with Grbl's code."""
    values: dict[str, float] = {}
    modal: dict[str, int] = {}
    at = 0
    while at < len(words):
        match = _WORD.match(words, at)
        if match is None:
            raise LineError(ERROR_LETTER)
        letter, number = match.groups()
        if number is None:
            raise LineError(ERROR_NUMBER)
        at = match.end()
        if letter == "G":
            _take_modal(float(number), modal)
        elif letter in values:
            raise LineError(ERROR_REPEATED)
        elif letter in axis_letters or letter in "FN":
            values[letter] = float(number)
        else:
            raise LineError(ERROR_JOG)
    scale = MM_PER_INCH if modal.get("units") == 20 else 1.0
    feed = values.pop("F", 0.0) * scale
    values.pop("N", None)
    if not feed > 0 or not math.isfinite(feed):
        raise LineError(ERROR_NO_FEED)
    return Jog({letter: value * scale for letter, value in values.items()}, feed, modal.get("distance") == 91)


def _take_modal(number: float, modal: dict[str, int]) -> None:
    group = _MODAL.get(int(number)) if number == int(number) else None
    if group is None:
        raise LineError(ERROR_JOG)
    if group in modal:
        raise LineError(ERROR_MODAL_TWICE)
    modal[group] = int(number)
