"""Progress on stderr: the share, the time left, never more often than asked."""

from __future__ import annotations

import sys

import pytest

from melter.cli import progress
from melter.cli.progress import ShareDone


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_where_nobody_watches(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with ShareDone("eval") as told:
        for second in range(40):
            clock[0] = 100.0 + second
            told((second + 1e-3) / 40)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"eval: {share:3d} %, about {left} s left" for share, left in ((25, 30), (50, 20), (75, 10))]


def test_in_place_on_a_terminal(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with ShareDone("eval") as told:
        told(0.1)
        assert capsys.readouterr().err == ""
        clock[0] += 1
        told(0.5)
        assert capsys.readouterr().err == "\reval:  50 %, about 1 s left\033[K"
    assert capsys.readouterr().err == "\r\033[K"


def test_nothing_divides_by_zero(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with ShareDone("eval") as told:
        clock[0] += 60
        told(0.0)
    assert "0 %" in capsys.readouterr().err
