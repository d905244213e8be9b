"""Single keys from a terminal without waiting for them, over SSH too; the terminal is put back as it was."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from types import TracebackType
from typing import Any, Self, TextIO

from melter.loop.session import Word

KEYS: dict[str, Word] = {" ": "pause", "p": "pause", "\n": "resume", "\r": "resume", "q": "stop", "m": "mark"}
HELP = "space pauses in the dark, Enter goes on, m marks, q stops"


class Keys:
    """The keys of one terminal as words. A context manager; where ``stream`` is no terminal it never says anything."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdin if stream is None else stream
        self._before: list[Any] | None = None
        self.live = False
        """Whether there is a terminal that listens."""

    def ask(self) -> Word | None:
        """Return the next key's word, or None; never waits. Keys that mean nothing are passed over."""
        if not self.live:
            return None
        number = self._stream.fileno()
        with contextlib.suppress(OSError, ValueError):
            while select.select([number], [], [], 0)[0]:
                key = os.read(number, 1)
                if not key:  # the terminal has gone
                    self.live = False
                    return None
                word = KEYS.get(key.decode("latin-1").lower())
                if word is not None:
                    return word
        return None

    def __enter__(self) -> Self:
        try:
            import termios
            import tty

            number = self._stream.fileno()
            if self._stream.isatty() and os.tcgetpgrp(number) == os.getpgrp():
                self._before = termios.tcgetattr(number)
                tty.setcbreak(number)  # keys come one by one; Ctrl-C stays what it is
                self.live = True
        except (ImportError, OSError, ValueError):  # another system, or no terminal at all
            self.live = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live = False
        if self._before is None:
            return
        import termios

        quiet = signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # also from the background
        try:
            with contextlib.suppress(OSError, ValueError, termios.error):
                termios.tcsetattr(self._stream.fileno(), termios.TCSADRAIN, self._before)
        finally:
            signal.signal(signal.SIGTTOU, quiet)
