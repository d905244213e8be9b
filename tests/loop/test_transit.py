"""The way from park into work: where it starts and ends, and that it keeps the limits on the way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melter.geometry.cables import cable_lengths_m
from melter.loop.transit import Transit
from melter.machine import load_machine
from melter.observation import ObservationBuilder
from melter.safety.kinematics import Kinematics

MACHINE = load_machine()
PARK_M = Kinematics(MACHINE).park_lengths_m
BUILDER = ObservationBuilder(MACHINE)


@given(st.floats(0, 25), st.floats(0, 360), st.floats(-0.4, 0.4), st.floats(-0.4, 0.4))
@settings(max_examples=25)
def test_any_sun_any_start(zenith_deg: float, azimuth_deg: float, x: float, y: float) -> None:
    sun = tuple(np.radians([zenith_deg, azimuth_deg]))
    transit = Transit(MACHINE, sun, np.array([x, y]), PARK_M)
    times = np.arange(0, transit.duration_s + 0.05, 0.05)
    lengths = np.array([transit.lengths_m(t) for t in times])
    reference = BUILDER.reference(np.array(sun[0]), np.array(sun[1]))
    np.testing.assert_allclose(lengths[0], PARK_M, atol=1e-12)
    np.testing.assert_allclose(lengths[-1], BUILDER.reference_lengths_m(np.array([x, y]), reference), atol=1e-9)
    speed = np.diff(lengths, axis=0) / 0.05
    assert np.abs(speed).max() <= 0.65 * MACHINE.limits.speed_max_m_s
    assert np.abs(np.diff(speed, axis=0)).max() / 0.05 < MACHINE.limits.acceleration_max_m_s2
    assert np.abs(speed[0]).max() < 0.005  # from rest
    assert np.abs(speed[-1]).max() < 0.005  # to rest
    assert transit.duration_s < 40


def test_held_before_and_after() -> None:
    transit = Transit(MACHINE, (0.4, 3.0), np.zeros(2), PARK_M)
    np.testing.assert_array_equal(transit.lengths_m(-1), transit.lengths_m(0))
    np.testing.assert_array_equal(transit.lengths_m(1e9), transit.lengths_m(transit.duration_s))


def test_cables_stay_taut_all_the_way() -> None:
    """Elongation between that of park and that of work, never less than nothing."""
    transit = Transit(MACHINE, (MACHINE.sun.zenith_rad, MACHINE.sun.azimuth_rad), np.zeros(2), PARK_M)
    for share in np.linspace(0, 1, 21):
        geometric = transit._geometric(share)
        stretch = geometric / transit._lengths(share) - 1
        tension = stretch * MACHINE.drive.cable_stiffness_n
        assert tension.min() > MACHINE.limits.tension_min_n
        assert tension.max() < MACHINE.limits.tension_max_n
    park = cable_lengths_m(
        MACHINE.pulleys_world_m, MACHINE.attachments_lens_m, np.array(MACHINE.park.lens_centre_world_m), np.eye(3)
    )
    assert transit._geometric(0.0) == pytest.approx(park)
