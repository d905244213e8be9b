"""Keys from a terminal: words without waiting, and a terminal that is as before afterwards."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time

import pytest

from melter.loop.keys import Keys

pytest.importorskip("termios")


def test_without_a_terminal_nobody_asks() -> None:
    with Keys(io.StringIO("q")) as keys:
        assert not keys.live
        assert keys.ask() is None


PROGRAM = """
import sys, termios, time
from melter.loop.keys import Keys
before = termios.tcgetattr(0)
with Keys() as keys:
    print("live", keys.live, flush=True)
    words, end = [], time.monotonic() + 20
    while time.monotonic() < end and words[-1:] != ["stop"]:
        started = time.monotonic()
        word = keys.ask()
        assert time.monotonic() - started < 5
        if word:
            words.append(word)
        time.sleep(0.01)
print("words", *words, flush=True)
print("same", termios.tcgetattr(0) == before, flush=True)
"""


def test_in_a_terminal() -> None:
    """A program of its own with a terminal of its own, so that it is in the foreground there."""
    import pty

    host, device = pty.openpty()
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, fcntl, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n" + PROGRAM,
        ],
        stdin=device,
        stdout=subprocess.PIPE,
        text=True,
    )
    os.close(device)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().split() == ["live", "True"]
        for key in (b"x ", b"m", b"\n", b"q"):
            os.write(host, key)
            time.sleep(0.05)
        assert process.stdout.readline().split() == ["words", "pause", "mark", "resume", "stop"]
        assert process.stdout.readline().split() == ["same", "True"]
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        os.close(host)
