"""Dwell and dose by place."""

from __future__ import annotations

import math

import numpy as np
import pytest

from melter.safety.dose import COOLING_S, DoseMap

PEAK = 3e6


def book(
    spots: list[tuple[float, float]], *, step_s: float = 0.5, melts: bool = True, gap_s: float = 0.0
) -> tuple[float, float]:
    doses, now, found = DoseMap(-0.45, -0.45, 0.45, 0.45), 0.0, (0.0, 0.0)
    for x, y in spots:
        now += step_s + gap_s
        found = doses.add(x, y, PEAK, step_s, now, melts=melts)
    return found


def test_a_spot_that_stays() -> None:
    dwell, dose = book([(0.1, 0.1)] * 20)
    assert dwell == pytest.approx(10.0)
    assert dose == pytest.approx(PEAK * 10, rel=0.02)
    assert dose < PEAK * 10  # a little is forgotten


def test_a_spot_that_travels() -> None:
    """At 10 mm/s each place has the light on it for two to three seconds."""
    dwell, dose = book([(0.005 * i - 0.3, 0.0) for i in range(100)])
    assert 2.0 <= dwell <= 4.0
    assert dose == pytest.approx(PEAK * dwell, rel=0.02)


@pytest.mark.parametrize("corner", [(0.0, 0.0), (0.0051, 0.0049), (0.01, 0.01), (-0.123, 0.321)])
def test_no_walk_around_a_corner_of_cells_escapes(corner: tuple[float, float]) -> None:
    around = [(corner[0] + 0.004 * math.cos(a), corner[1] + 0.004 * math.sin(a)) for a in np.linspace(0, 50, 40)]
    dwell, dose = book(around)
    assert dwell == pytest.approx(20.0)
    assert dose > 0.95 * PEAK * 20


def test_light_that_does_not_melt_has_a_dose_but_no_dwell() -> None:
    dwell, dose = book([(0.0, 0.0)] * 4, melts=False)
    assert dwell == 0.0
    assert dose == pytest.approx(PEAK * 2, rel=0.02)


def test_a_break_ends_a_dwell_but_not_a_dose() -> None:
    dwell, dose = book([(0.0, 0.0)] * 4, gap_s=0.9)
    assert dwell == pytest.approx(2.0)
    dwell, dose = book([(0.0, 0.0)] * 4, gap_s=1.1)
    assert dwell == pytest.approx(0.5)
    assert dose == pytest.approx(PEAK * 2, rel=0.02)


def test_doses_are_forgotten_with_the_time_constant() -> None:
    doses = DoseMap(-0.45, -0.45, 0.45, 0.45)
    doses.add(0.0, 0.0, PEAK, 1.0, 0.0, melts=True)
    _, left = doses.add(0.0, 0.0, 0.0, 0.0, COOLING_S, melts=True)
    assert left == pytest.approx(PEAK / math.e)


def test_a_clock_that_ran_back_forgets_nothing() -> None:
    doses = DoseMap(-0.45, -0.45, 0.45, 0.45)
    doses.add(0.0, 0.0, PEAK, 1.0, 100.0, melts=True)
    _, left = doses.add(0.0, 0.0, 0.0, 0.0, 5.0, melts=True)
    assert left == pytest.approx(PEAK)


@pytest.mark.parametrize("spot", [(9.0, 9.0), (-9.0, -9.0), (0.65, -0.65), (math.nan, 0.0), (math.inf, -math.inf)])
def test_what_is_off_the_map_is_booked_on_its_rim(spot: tuple[float, float]) -> None:
    dwell, dose = book([spot] * 6)
    assert dwell == pytest.approx(3.0)
    assert dose == pytest.approx(PEAK * 3, rel=0.02)


def test_places_do_not_share() -> None:
    doses = DoseMap(-0.45, -0.45, 0.45, 0.45)
    doses.add(0.0, 0.0, PEAK, 1.0, 1.0, melts=True)
    for away in ((0.031, 0.0), (0.0, 0.031), (-0.031, 0.0), (0.0, -0.031)):
        dwell, dose = doses.add(*away, 1.0, 1.0, 1.5, melts=True)
        assert (dwell, dose) == (1.0, 1.0)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("side", [-1, 1])
def test_the_map_reaches_beyond_the_polygon_on_every_side(axis: int, side: int) -> None:
    """Also where it is not as wide as it is high."""
    half = (0.2, 0.6)
    doses = DoseMap(-half[0], -half[1], half[0], half[1])
    for away in (0.05, 0.12):
        spot = [0.0, 0.0]
        spot[axis] = side * (half[axis] + away)
        assert doses.add(spot[0], spot[1], PEAK, 1.0, 1.0, melts=True) == (1.0, PEAK)


@pytest.mark.parametrize("half", [(0.2, 0.6), (0.6, 0.2)])
def test_rims_of_maps_that_are_not_square(half: tuple[float, float]) -> None:
    doses = DoseMap(-half[0], -half[1], half[0], half[1])
    for spot in ((9.0, 0.0), (0.0, 9.0), (-9.0, 0.0), (0.0, -9.0)):
        assert doses.add(*spot, PEAK, 1.0, 1.0, melts=True) == (1.0, PEAK)
