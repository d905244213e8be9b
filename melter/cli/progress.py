"""How far a long command is, and about how long it still takes: on stderr, in place on a terminal."""

from __future__ import annotations

import sys
import time
from typing import Self

from melter.cli.common import say

LINE_EVERY_S, REDRAW_EVERY_S = 10.0, 0.2


class ShareDone:
    """Tells the share that is done and the time left. A context manager."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._started_s = self._said_s = time.monotonic()
        self._in_place, self._drawn = sys.stderr.isatty(), False

    def __call__(self, share: float) -> None:
        """Tell, unless told just now. ``share``: 0 to 1."""
        now_s = time.monotonic()
        if now_s - self._said_s < (REDRAW_EVERY_S if self._in_place else LINE_EVERY_S):
            return
        self._said_s = now_s
        left_s = (now_s - self._started_s) * (1 - share) / max(share, 1e-9)
        words = f"{self._name}: {100 * share:3.0f} %, about {left_s:.0f} s left"
        if self._in_place:
            sys.stderr.write(f"\r{words}\033[K")
            sys.stderr.flush()
            self._drawn = True
        else:
            say(words)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._drawn:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
