"""The pace: periods of the clock, not calls."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melter.safety.pace import EARLY_PERIODS, LATEST_HOST_S, Pace

PERIOD = 0.05


def started(now: float = 10.0) -> Pace:
    pace = Pace(PERIOD, 2)
    pace.start(now)
    return pace


def test_before_any_start_every_time_is_good() -> None:
    pace = Pace(PERIOD, 2)
    assert pace.last_s == -math.inf
    assert not pace.runs_back(-1e9)
    assert pace.early(-1e9) is None


@pytest.mark.parametrize(
    ("now", "back"),
    [
        (10.0, False), (math.nextafter(10.0, 0), True), (-5.0, True), (math.nan, True), (math.inf, True),
        (-math.inf, True), (LATEST_HOST_S, False), (LATEST_HOST_S * 1.000001, True), (1e300, True),
    ],
)  # fmt: skip
def test_clocks_that_tell_nothing(now: float, back: bool) -> None:
    assert started().runs_back(now) is back


@pytest.mark.parametrize(("after", "good"), [(0.0, False), (0.0249, False), (0.0251, True), (0.05, True)])
def test_half_a_period_early_once(after: float, good: bool) -> None:
    pace = started()
    pace.sent(10.0)
    assert (pace.early(10.0 + after) is None) is good


def test_never_early_on_average() -> None:
    pace, now, sent = started(), 10.0, 0
    while now < 20.0:
        if pace.early(now) is None:
            pace.sent(now)
            sent += 1
        now += 0.001
    assert sent <= 10.0 / PERIOD + 1 + EARLY_PERIODS
    assert sent >= 10.0 / PERIOD - 1


def test_message_says_when() -> None:
    pace = started()
    pace.sent(10.0)
    assert pace.early(10.01) == "too early: next command at 10.050 s, now 10.010 s (host clock)"


@pytest.mark.parametrize(("gap", "good"), [(0.15, True), (0.1500001, False), (0.0, True), (99.0, False)])
def test_late(gap: float, good: bool) -> None:
    pace = started()
    assert (pace.late(10.0 + gap) is None) is good
    if not good:
        assert f"{gap:.3f} s since the last one, at most 0.150 s" in str(pace.late(10.0 + gap))


@pytest.mark.parametrize(
    ("share", "gap", "good"),
    [
        (0.5, 0.3, True),
        (0.5, 0.3001, False),
        (0.9, 0.17, False),
        (0.1, 0.5, True),
        (0.01, 0.5001, False),
        (0.0, 0.5001, False),
    ],
)
def test_what_moves_slowly_may_be_late_for_as_long_as_the_way_is_the_same(share: float, gap: float, good: bool) -> None:
    assert (started().late(10.0 + gap, share) is None) is good


def test_late_counts_from_the_last_command() -> None:
    pace = started()
    pace.sent(11.0)
    assert pace.last_s == 11.0
    assert pace.late(11.15) is None


def test_starting_anew_gives_nothing_away() -> None:
    """Arming right after a command does not open a second one in the same period."""
    pace = started()
    pace.sent(10.0)
    pace.start(10.001)
    assert pace.last_s == 10.001
    assert pace.early(10.02) is not None
    assert pace.early(10.03) is None


@pytest.mark.parametrize(
    ("now", "good"), [(9.0, True), (-1e10, True), (-1.0001e10, False), (math.nan, False), (1e300, False)]
)
def test_a_clock_that_ran_back_is_taken_up_a_period_later(now: float, good: bool) -> None:
    pace = started()
    pace.sent(10.0)
    assert pace.rebase(now) is good
    if good:
        assert pace.last_s == now
        assert not pace.runs_back(now)
    else:
        assert pace.last_s == 10.0
    if now == 9.0:
        assert pace.early(9.049) is not None
        assert pace.early(9.051) is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.001, 0.02, 0.024, 0.026, 0.05, 0.06, 0.2, -0.3, -5.0]), max_size=60))
def test_whatever_the_clock_does_commands_need_time_that_ran_forward(steps: list[float]) -> None:
    """Sum of all forward steps, on whatever time base, pays for every command."""
    pace, now, forward, sent = started(), 10.0, 0.0, 0
    for step in steps:
        now += step
        forward += max(step, 0.0)
        if pace.runs_back(now):
            pace.rebase(now)
            continue
        if pace.early(now) is None:
            pace.sent(now)
            sent += 1
        assert sent <= forward / PERIOD + 1 + EARLY_PERIODS + 1e-9
