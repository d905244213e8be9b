"""The celestial pole from the light: found whatever the latitude, from a sun that stands as well, not from a path that goes straight on."""

from __future__ import annotations

import numpy as np
import pytest

from melter.geometry.pose import sun_direction_world
from melter.geometry.sun import sun_velocity_world_s
from melter.loop.pole import ANYWHERE_WORLD, PoleFinder
from melter.machine import load_machine

MACHINE = load_machine()
FOCAL_M, PERIOD_S = MACHINE.lens.focal_length_m, MACHINE.control.period_s
SLOPE = np.array([[0.008, -0.004], [0.003, 0.01]])
"""Of the offset over the bed: a geometry that is a per cent off."""


def square_m(t_s: float, feed_m_s: float) -> np.ndarray:
    side, along = divmod(feed_m_s * t_s / 0.3, 1.0)
    corners = np.array([(-0.15, -0.15), (0.15, -0.15), (0.15, 0.15), (-0.15, 0.15)])
    a, b = corners[int(side) % 4], corners[(int(side) + 1) % 4]
    return a + (b - a) * along


def drift_left_m_s(velocity_world_s: np.ndarray, seconds: float, sun: np.ndarray, seed: int = 0) -> float:
    """How fast the light still leaves the counters' spot after ``seconds`` on a square, by what was found."""
    finder, rng = PoleFinder(MACHINE, sun), np.random.default_rng(seed)
    slow = np.zeros(2)
    for tick in range(round(seconds / PERIOD_S)):
        t_s = tick * PERIOD_S
        spot = square_m(t_s, 0.003)
        slow += PERIOD_S / 2.0 * (-slow) + 0.0002 * np.sqrt(2 * PERIOD_S / 2.0) * rng.standard_normal(2)
        taken = sun + sun_velocity_about(finder.pole_world, sun) * t_s
        light = -FOCAL_M * (velocity_world_s * t_s - (taken - sun))[:2]
        offset = (0.004, -0.006) + SLOPE @ spot + light + slow + 0.0004 * rng.standard_normal(2)
        finder.see(t_s, spot, offset, taken)
    return FOCAL_M * float(np.hypot(*(velocity_world_s - sun_velocity_about(finder.pole_world, sun))[:2]))


def sun_velocity_about(pole: np.ndarray, sun: np.ndarray) -> np.ndarray:
    latitude, length = np.arctan2(pole[2], pole[1]), np.hypot(pole[1], pole[2])
    return length * sun_velocity_world_s(latitude, sun)


@pytest.mark.parametrize("latitude_deg", [-45.0, 0.0, 30.0, 55.0])
@pytest.mark.parametrize("azimuth_deg", [100.0, 180.0, 290.0])
def test_the_drift_is_found_in_four_minutes(latitude_deg: float, azimuth_deg: float) -> None:
    sun = sun_direction_world(np.radians(20.0), np.radians(azimuth_deg))
    velocity = sun_velocity_world_s(np.radians(latitude_deg), sun)
    assert drift_left_m_s(velocity, 240.0, sun) <= 0.02e-3
    assert FOCAL_M * np.hypot(*velocity[:2]) > 0.03e-3  # while it was this fast


def test_a_sun_that_stands_is_found_too() -> None:
    sun = sun_direction_world(np.radians(20.0), np.radians(150.0))
    before = FOCAL_M * float(np.hypot(*sun_velocity_about(ANYWHERE_WORLD, sun)[:2]))
    assert drift_left_m_s(np.zeros(3), 240.0, sun) <= 0.25 * before


def test_an_offset_of_the_place_alone_moves_no_sun_far() -> None:
    """On the first side a crooked geometry and the sky look alike; what is known beforehand keeps them apart."""
    sun = sun_direction_world(np.radians(20.0), np.radians(180.0))
    velocity = sun_velocity_world_s(np.radians(40.0), sun)
    assert drift_left_m_s(velocity, 40.0, sun) <= 0.03e-3


def test_what_an_earlier_run_found_is_where_the_next_one_begins() -> None:
    sun = sun_direction_world(np.radians(20.0), np.radians(180.0))
    finder, pole = PoleFinder(MACHINE, sun), np.array([0.0, 0.6, 0.8])
    finder.take_up(pole)
    np.testing.assert_array_equal(finder.pole_world, pole)
    assert finder.sd == pytest.approx(0.1 * np.sqrt(2))


def test_what_was_found_is_taken_up_slowly() -> None:
    sun = sun_direction_world(np.radians(20.0), np.radians(180.0))
    finder = PoleFinder(MACHINE, sun)
    finder.see(300.0, np.zeros(2), np.array([0.05, 0.0]), sun)
    assert np.abs(finder.pole_world - ANYWHERE_WORLD).max() < 0.01
    assert finder.sd < 1
