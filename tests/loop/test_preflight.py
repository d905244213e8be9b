"""What is refused before anything moves: sun and path; and where cable lengths put the light."""

from __future__ import annotations

import numpy as np
import pytest

from melter.errors import BadInput
from melter.geometry.paths import SandPath, parse_path
from melter.geometry.pose import sun_direction_world
from melter.loop.preflight import highest_zenith_deg, require_path_inside, require_sun, spot_of_lengths_m
from melter.loop.transit import Transit
from melter.machine import load_machine
from melter.safety.kinematics import Kinematics

MACHINE = load_machine()
SQUARE = parse_path("square:0.3", 0.003)


@pytest.mark.parametrize(("x", "good"), [(0.4, True), (0.4001, False), (-0.4, True), (-0.4001, False)])
def test_a_path_on_the_bed(x: float, good: bool) -> None:
    path = SandPath(np.array([(0.0, 0.0), (x, 0.1)]), 0.003)
    if good:
        require_path_inside(path, MACHINE, "p.csv")
    else:
        with pytest.raises(BadInput, match=r"--path p\.csv: point \(-?0\.400, 0\.100\) m lies outside the bed"):
            require_path_inside(path, MACHINE, "p.csv")


def test_both_sides_of_the_highest_zenith() -> None:
    highest = highest_zenith_deg(MACHINE, SQUARE, np.pi)
    assert highest is not None
    assert 35 < highest < 60
    require_sun(MACHINE, SQUARE, (float(np.radians(highest)), np.pi))
    with pytest.raises(
        BadInput, match=rf"sun at zenith {highest + 1}\.0 deg.*this machine can up to zenith {highest} deg"
    ):
        require_sun(MACHINE, SQUARE, (float(np.radians(highest + 1)), np.pi))


def test_the_wider_the_path_the_higher_the_sun_must_be() -> None:
    wide, small = (highest_zenith_deg(MACHINE, parse_path(f"square:{side}", 0.003), np.pi) for side in (0.7, 0.1))
    assert wide is not None
    assert small is not None
    assert wide < small


@pytest.mark.parametrize("zenith_deg", [90.0, 120.0])
def test_below_the_horizon(zenith_deg: float) -> None:
    with pytest.raises(BadInput, match="below the horizon"):
        require_sun(MACHINE, SQUARE, (float(np.radians(zenith_deg)), 1.0), " at the end")


def test_where_cable_lengths_put_the_light() -> None:
    sun_rad = (MACHINE.sun.zenith_rad, MACHINE.sun.azimuth_rad)
    park_m = Kinematics(MACHINE).park_lengths_m
    transit = Transit(MACHINE, sun_rad, np.array([0.1, -0.2]), park_m)
    spot = spot_of_lengths_m(MACHINE, transit.lengths_m(1e9), sun_direction_world(*sun_rad))
    assert spot is not None
    np.testing.assert_allclose(spot, [0.1, -0.2], atol=0.02)  # tensions other than at park are left out
    assert spot_of_lengths_m(MACHINE, park_m * [1, 1.3, 1, 0.7, 1, 1, 1.3, 1], sun_direction_world(*sun_rad)) is None
