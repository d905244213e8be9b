"""The screen: what it says, in 80 columns, in place on a terminal and as lines elsewhere."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest

from melter.loop import screen
from melter.loop.screen import WIDTH, Screen, View, line, table
from melter.loop.timing import Timing
from melter.machine import load_machine

MACHINE = load_machine()
TICK: dict[str, Any] = {
    "t_s": 20.0,
    "patch_status": "ok",
    "patch_centre_m": [0.012, -0.1],
    "patch_semi_axes_m": [0.013, 0.011],
    "approved_m_s": [0.02, -0.02, 0.01, 0.0, 0.05, -0.05, 0.0, 0.0],
    "gap_m": 0.0004,
    "gap_share": 0.21,
}


def test_what_it_says() -> None:
    timing = Timing(0.05)
    timing.begin(1, 1.001)
    timing.sent(1.004, 0.97)
    view = View(80.0, "work", TICK, (0.3, 0.5), ("VisionFault: gone",), 100, 2, "5 updates", "keys")
    lines = table(view, MACHINE, timing)
    assert all(len(text) <= WIDTH for text in lines)
    told = "\n".join(lines)
    for words in ("work  25 % of the path, 60 s left", "12.0, -100.0 mm", "error 0.40 mm", "34 ms", "2 late"):
        assert words in told
    for words in (
        "gap 0.40 mm (21% of its limit)",
        "VisionFault: gone",
        "5 updates",
        "45 W in all",
        "keys",
    ):
        assert words in told
    assert line(view) == "work  25 % of the path, 60 s left  patch ok  error 0.40 mm"


def test_with_nothing_known_yet() -> None:
    told = "\n".join(table(View(0.0), MACHINE, Timing(0.05)))
    assert "faults   none" in told
    assert "winches  -" in told


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_in_place_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "LIVE_S", 0.01)
    stream, view = Terminal(), View(10.0, "armed")
    with Screen(view, MACHINE, Timing(0.05), stream):
        time.sleep(0.05)
        view.state = "work"
        time.sleep(0.05)
    told = stream.getvalue()
    assert "armed" in told
    assert "work" in told
    assert f"\x1b[{len(table(view, MACHINE, Timing(0.05)))}A" in told  # drawn over


def test_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "LIVE_S", 0.01)
    monkeypatch.setattr(screen, "LINES_S", 0.03)
    stream = io.StringIO()
    with Screen(View(10.0, "transit"), MACHINE, Timing(0.05), stream):
        time.sleep(0.2)
    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().startswith("transit  patch -\n")


def test_a_terminal_that_goes_away_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "LIVE_S", 0.01)
    stream = Terminal()
    with Screen(View(10.0), MACHINE, Timing(0.05), stream):
        stream.close()
        time.sleep(0.05)
