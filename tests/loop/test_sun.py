"""The sun during a run: as the sky turns, as pvlib has it, and as the observation's reference wants it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from melter.geometry.pose import sun_direction_world
from melter.geometry.sun import sun_position_rad, sun_velocity_world_s
from melter.loop.sun import KNOT_S, Sun
from melter.machine import load_machine
from melter.observation import ObservationBuilder

MACHINE = load_machine()
BUILDER = ObservationBuilder(MACHINE)
NOON = (MACHINE.sun.zenith_rad, MACHINE.sun.azimuth_rad)


def test_without_a_place_it_stands_still() -> None:
    sun = Sun(BUILDER, NOON)
    assert sun.reference(1e4) is sun.reference(0)
    assert sun.angles_rad(1e4) == NOON
    np.testing.assert_array_equal(sun.direction_world(50), sun_direction_world(*NOON))


@pytest.mark.parametrize("latitude_deg", [-40.0, 0.0, 48.0])
def test_it_goes_with_the_sky(latitude_deg: float) -> None:
    sun, latitude = Sun(BUILDER, NOON, np.radians(latitude_deg)), np.radians(latitude_deg)
    start = sun.direction_world(0.0)
    speed = (sun.direction_world(0.5) - sun.direction_world(-0.5)) / 1.0
    np.testing.assert_allclose(speed, sun_velocity_world_s(latitude, start), atol=1e-9)
    np.testing.assert_allclose(sun.direction_world(86_400), start, atol=1e-9)  # a day later
    assert np.linalg.norm(sun.direction_world(1234.0)) == pytest.approx(1, abs=1e-12)


def test_against_pvlib_for_half_an_hour() -> None:
    place, at = (48.1, 11.6), datetime(2026, 6, 21, 10, 0, tzinfo=UTC)
    sun = Sun(BUILDER, sun_position_rad(*place, at), np.radians(place[0]))
    for minutes in (5, 30):
        exact = sun_direction_world(*sun_position_rad(*place, at + timedelta(minutes=minutes)))
        off = np.degrees(np.arccos(np.clip(sun.direction_world(60.0 * minutes) @ exact, -1, 1)))
        assert off < 0.02


def test_the_reference_is_that_of_the_sun_then() -> None:
    sun = Sun(BUILDER, NOON, np.radians(45.0))
    for t_s in (0.0, 17.0, KNOT_S, 400.0):
        exact = BUILDER.reference(*(np.array(angle) for angle in sun.angles_rad(t_s)))
        found = sun.reference(t_s)
        np.testing.assert_allclose(found.sun_world, exact.sun_world, atol=1e-9)
        np.testing.assert_allclose(found.rotation, exact.rotation, atol=1e-9)
        np.testing.assert_allclose(found.anchors_m, exact.anchors_m, atol=1e-9)
        for spot in ((0.0, 0.0), (0.2, -0.1)):
            apart = BUILDER.reference_lengths_m(np.array(spot), found) - BUILDER.reference_lengths_m(
                np.array(spot), exact
            )
            assert np.abs(apart).max() < 1e-4


def test_lengths_change_smoothly_over_the_knots() -> None:
    sun = Sun(BUILDER, NOON, np.radians(45.0))
    times = KNOT_S + np.arange(-0.2, 0.2, 0.05)
    lengths = np.array([BUILDER.reference_lengths_m(np.zeros(2), sun.reference(t)) for t in times])
    assert np.abs(np.diff(lengths, 2, axis=0)).max() < 2e-6
