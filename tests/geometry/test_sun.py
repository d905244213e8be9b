from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from melter.errors import BadInput
from melter.geometry.pose import sun_direction_world
from melter.geometry.sun import sun_position_rad


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
