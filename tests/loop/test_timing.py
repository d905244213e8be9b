"""The stop watch: percentiles against sorted lists, each frame once, memory that does not grow."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melter.loop.timing import STAGES, Spread, Timing


@given(st.lists(st.floats(1e-6, 50), min_size=1, max_size=200), st.floats(0.01, 1))
def test_percentiles_are_those_of_a_sorted_list_to_two_percent(values: list[float], share: float) -> None:
    spread = Spread()
    for value in values:
        spread.add(value)
    exact = sorted(values)[int(np.ceil(share * len(values) - 1e-12)) - 1]
    found = spread.percentile(share)
    assert found is not None
    assert exact / 1.021 <= found <= exact * 1.021
    assert spread.largest == max(values)
    assert spread.table_ms()["mean"] == pytest.approx(1e3 * np.mean(values), abs=6e-4)


def test_nothing_and_nonsense() -> None:
    spread = Spread()
    assert spread.percentile(0.5) is None
    assert spread.table_ms()["p99"] is None
    spread.add(float("nan"))
    assert spread.count == 0
    spread.add(-1.0)
    assert spread.count == 1
    assert spread.largest == 0


def test_a_tick() -> None:
    timing = Timing(0.05, track_s=lambda: 0.006)
    timing.begin(10.0, 10.002)
    timing.frame(9.98)
    for stage, at in (("observe", 10.003), ("act", 10.0032), ("approve", 10.0042)):
        timing.mark(stage, at)
    timing.sent(10.005, 9.98)
    table = timing.table()
    assert table["stages_ms"]["capture"]["max"] == pytest.approx(22, rel=0.03)
    assert table["stages_ms"]["track"]["p50"] == pytest.approx(6, rel=0.03)
    assert table["stages_ms"]["observe"]["max"] == pytest.approx(1)
    assert table["stages_ms"]["act"]["max"] == pytest.approx(0.2)
    assert table["stages_ms"]["approve"]["max"] == pytest.approx(1)
    assert table["stages_ms"]["send"]["max"] == pytest.approx(0.8)
    assert table["tick_ms"]["max"] == pytest.approx(3)
    assert table["light_to_command_ms"]["max"] == pytest.approx(25)
    assert set(table["stages_ms"]) == set(STAGES)


def test_each_frame_counts_once() -> None:
    timing = Timing(0.05)
    for tick in range(3):
        timing.begin(10 + tick, 10 + tick)
        timing.frame(9.9)
        timing.sent(10.01 + tick, 9.9)
    assert timing.reaction.count == 1
    assert timing.reaction.largest == pytest.approx(0.11)
    assert timing.stages["capture"].count == 1


@pytest.mark.parametrize(("late_s", "late"), [(0.0249, 0), (0.0251, 1)])
def test_late_is_more_than_half_a_period(late_s: float, late: int) -> None:
    timing = Timing(0.05)
    timing.begin(10.0, 10.0 + late_s)
    assert timing.late == late


def test_memory_stays() -> None:
    spread = Spread()
    size = sys.getsizeof(spread._bins)
    for i in range(10_000):
        spread.add(1e-4 * i)
    assert sys.getsizeof(spread._bins) == size
    assert size < 20_000
