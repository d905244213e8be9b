import itertools
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from melter.errors import BadInput
from melter.geometry.pose import sun_direction_world
from melter.geometry.sun import (
    SKY_RAD_S,
    declination_rad,
    sun_position_rad,
    sun_rates_rad_s,
    sun_velocity_world_s,
)


def test_the_almanacs_example() -> None:
    """NREL/TP-560-34302, appendix A.5: Golden, 17 October 2003, 12:30:30 at UTC-7 (1830 m; topocentric, refracted)."""
    time = datetime(2003, 10, 17, 12, 30, 30, tzinfo=timezone(timedelta(hours=-7)))
    zenith, azimuth = np.degrees(sun_position_rad(39.742476, -105.1786, time))
    assert zenith == pytest.approx(50.11162, abs=0.02)
    assert azimuth == pytest.approx(194.34024, abs=0.005)


def test_noon_at_the_equator_in_march_is_overhead_and_evening_is_west() -> None:
    noon, _ = sun_position_rad(0, 0, datetime(2026, 3, 20, 12, 7, tzinfo=UTC))
    assert np.degrees(noon) < 0.6
    zenith, azimuth = sun_position_rad(45, 0, datetime(2026, 3, 20, 17, 0, tzinfo=UTC))
    assert sun_direction_world(zenith, azimuth)[0] < -0.9


@pytest.mark.parametrize(
    ("latitude", "longitude", "time"),
    [
        (91, 0, datetime(2026, 1, 1, tzinfo=UTC)),
        (0, 181, datetime(2026, 1, 1, tzinfo=UTC)),
        (0, 0, datetime(2026, 1, 1)),
    ],
)
def test_places_and_times_that_are_none(latitude, longitude, time) -> None:
    with pytest.raises(BadInput):
        sun_position_rad(latitude, longitude, time)


def test_rates_and_velocity_agree_with_two_positions_a_minute_apart() -> None:
    checked = 0
    for latitude, month, hour in itertools.product((-35, 0.5, 25, 48, 60), (3, 6, 12), (8, 11.7, 15)):
        time = datetime(2026, month, 20, tzinfo=UTC) + timedelta(hours=hour)
        before, now, after = (sun_position_rad(latitude, 0, time + timedelta(seconds=s)) for s in (-30, 0, 30))
        if now[0] > 1.4 or now[0] < 0.1:
            continue
        checked += 1
        zenith, azimuth = sun_rates_rad_s(np.radians(latitude), *now)
        turned = (after[1] - before[1] + np.pi) % (2 * np.pi) - np.pi
        assert zenith == pytest.approx((after[0] - before[0]) / 60, abs=0.002 * SKY_RAD_S)
        assert azimuth * np.sin(now[0]) == pytest.approx(turned / 60 * np.sin(now[0]), abs=0.002 * SKY_RAD_S)
        velocity = sun_velocity_world_s(np.radians(latitude), sun_direction_world(*now))
        moved = (sun_direction_world(*after) - sun_direction_world(*before)) / 60
        np.testing.assert_allclose(velocity, moved, atol=0.002 * SKY_RAD_S)
    assert checked > 20


def test_rates_are_elementwise_and_the_velocity_lies_across_the_sun() -> None:
    rng = np.random.default_rng(0)
    latitude, zenith, azimuth = rng.uniform(-1, 1, 50), rng.uniform(0.01, 1, 50), rng.uniform(0, 6.28, 50)
    whole = sun_rates_rad_s(latitude, zenith, azimuth)
    assert all(whole[i][7] == sun_rates_rad_s(latitude[7], zenith[7], azimuth[7])[i] for i in range(2))
    sun = sun_direction_world(zenith, azimuth)
    velocity = sun_velocity_world_s(latitude, sun)
    np.testing.assert_allclose((velocity * sun).sum(axis=-1), 0, atol=1e-18)
    np.testing.assert_allclose(velocity[:, 2], -np.sin(zenith) * whole[0], rtol=1e-9, atol=1e-15)
    assert np.isfinite(sun_velocity_world_s(0.8, [0.0, 0.0, 1.0])).all()


@pytest.mark.parametrize(("month", "degrees"), [(6, 23.4), (12, -23.4), (3, 0.0)])
def test_declination_over_the_year(month, degrees) -> None:
    position = sun_position_rad(48.1, 11.6, datetime(2026, month, 21, 11, tzinfo=UTC))
    assert np.degrees(declination_rad(np.radians(48.1), *position)) == pytest.approx(degrees, abs=0.5)
