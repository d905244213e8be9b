"""Counters against what was sent: jumps, drifts, and what to believe on the way to dark."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from melter.machine import load_machine
from melter.safety.reckoning import DRIFT_M, DRIFT_SHARE, FOLLOWED, JUMP_M, RECKONING_S, Reckoning

MACHINE = load_machine()
START = np.full(8, 2.0)
PERIOD = MACHINE.control.period_s


def counts(value: int) -> np.ndarray:
    return np.full(8, value, dtype=np.int64)


def copied(reckoning: Reckoning) -> Reckoning:
    return copy.deepcopy(reckoning)


def test_sum_of_what_was_sent() -> None:
    reckoning = Reckoning(MACHINE, START)
    for tick in range(4):
        reckoning.add(counts(-1000), [-1000] * 8, tick * PERIOD)
    assert reckoning.sent_m == pytest.approx([1.996] * 8, abs=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
def test_counters_may_lag_by_half_a_second_of_motion(sign: int) -> None:
    reckoning = Reckoning(MACHINE, START)
    for tick in range(12):
        reckoning.add(counts(sign * 2500), [sign * 2500] * 8, tick * PERIOD)
    now = 11 * PERIOD + 0.001
    unseen = 10 * 0.0025  # commands of the last half second
    for off, good in ((unseen + JUMP_M - 1e-6, True), (unseen + JUMP_M + 1e-6, False)):
        told = [x - sign * off for x in reckoning.sent_m]
        assert (copied(reckoning).compare(told, now) is None) is good


def test_old_commands_no_longer_excuse() -> None:
    reckoning = Reckoning(MACHINE, START)
    reckoning.add(counts(2500), [2500] * 8, 0.0)
    wrong = [x - 0.007 for x in reckoning.sent_m]
    assert copied(reckoning).compare(wrong, RECKONING_S - 1e-6) is None
    found = reckoning.compare(wrong, RECKONING_S)
    assert found == "winch NE-upper: counter is -7.0 mm off what was sent"


def test_rebase_keeps_recent_commands_recent() -> None:
    reckoning = Reckoning(MACHINE, START)
    reckoning.add(counts(2500), [2500] * 8, 100.0)
    reckoning.rebase(3.0)
    wrong = [x - 0.007 for x in reckoning.sent_m]
    assert copied(reckoning).compare(wrong, 3.4) is None
    assert reckoning.compare(wrong, 3.6) is not None


def test_follows_the_counters_a_little() -> None:
    reckoning = Reckoning(MACHINE, START)
    told = (START + 0.0032).tolist()
    assert reckoning.compare(told, 0.0) is None
    assert reckoning.sent_m == pytest.approx([2.0 + 0.0032 * FOLLOWED] * 8, abs=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_counter_that_wanders_is_found(sign: int) -> None:
    """A lie too small to be a jump, again and again, ends as a fault before it has moved a cable by much."""
    reckoning, found, lie = Reckoning(MACHINE, START), None, 0.0
    for tick in range(1000):
        lie = reckoning.sent_m[3] - 2.0 + 0.9 * JUMP_M * sign
        told = START.copy()
        told[3] += lie
        found = reckoning.compare(told.tolist(), tick * PERIOD)
        if found:
            break
    assert found is not None
    assert "NW-lower: counter has drifted" in found
    assert DRIFT_M < abs(lie) < DRIFT_M + 2 * JUMP_M


@pytest.mark.parametrize(("gain", "good"), [(0.03, True), (-0.04, True), (0.10, False)])
def test_a_gain_is_no_drift(gain: float, good: bool) -> None:
    reckoning, told, found = Reckoning(MACHINE, START), START.copy(), None
    for tick in range(2000):
        move = 2500  # one way, the worst
        reckoning.add(counts(move), [move] * 8, tick * PERIOD)
        told += move * 1e-6 * (1 + gain)
        found = found or reckoning.compare(told.tolist(), tick * PERIOD)
    assert (found is None) is good
    assert DRIFT_SHARE > 0.04


def test_what_to_believe_on_the_way_to_dark() -> None:
    reckoning = Reckoning(MACHINE, START)
    told = START.copy()
    told[0] += 0.004  # noise: what was sent is newer
    told[1] += 0.300  # something happened
    told[2] = np.nan
    told[3] = -1.0
    told[4] = 0.0
    told[5] = 4.6
    told[6] = np.inf
    best = reckoning.best_m(told, 0.0)
    assert best.tolist() == [2.0, 2.3, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    reckoning = Reckoning(MACHINE, START)
    assert reckoning.best_m(None, 0.0).tolist() == START.tolist()
    assert reckoning.best_m(np.zeros(3), 0.0).tolist() == START.tolist()
    edge = START.copy()
    edge[0] = MACHINE.limits.cable_length_max_m
    assert reckoning.best_m(edge, 0.0)[0] == MACHINE.limits.cable_length_max_m


def test_what_a_broken_link_swallowed_is_not_reckoned_with_for_good() -> None:
    """Two commands got lost: from the counters on, the sum goes its way again, also while much is unseen."""
    reckoning = Reckoning(MACHINE, START)
    for tick in range(2):
        reckoning.add(counts(6000), [6000] * 8, tick * PERIOD)
    assert reckoning.best_m(START, 1.0).tolist() == START.tolist()  # nothing moved, and nothing is under way
    reckoning.add(counts(6000), [6000] * 8, 1.0)
    assert reckoning.best_m(START, 1.01) == pytest.approx(START + 0.006)
    assert reckoning.best_m(None, 2.0) == pytest.approx(START + 0.006)


@pytest.mark.parametrize(("off", "believed"), [(JUMP_M - 1e-9, False), (JUMP_M + 1e-6, True), (-JUMP_M - 1e-6, True)])
def test_both_sides_of_noise(off: float, believed: bool) -> None:
    told = START.copy()
    told[7] += off
    best = Reckoning(MACHINE, START).best_m(told, 0.0)
    assert best[7] == (told[7] if believed else 2.0)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_message_names_the_drift(sign: int) -> None:
    reckoning, found = Reckoning(MACHINE, START), None
    for tick in range(2000):
        found = found or reckoning.compare([x + sign * 0.9 * JUMP_M for x in reckoning.sent_m], tick * PERIOD)
    assert found == f"winch NE-upper: counter has drifted {sign * 20.0:.1f} mm since arming"


def test_unseen_motion_is_no_reason_to_disbelieve() -> None:
    reckoning = Reckoning(MACHINE, START)
    for tick in range(5):
        reckoning.add(counts(2500), [2500] * 8, tick * PERIOD)
    unseen = 5 * 0.0025
    for off, believed in ((unseen + JUMP_M - 1e-6, False), (unseen + JUMP_M + 1e-6, True)):
        told = np.array(reckoning.sent_m) - off
        assert (reckoning.best_m(told, 5 * PERIOD) == told).all() == believed


def test_short_cables_are_believed_too() -> None:
    told = START.copy()
    told[3] = 0.7
    assert Reckoning(MACHINE, START).best_m(told, 0.0)[3] == 0.7
