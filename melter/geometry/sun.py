"""Where the sun stands, for a place and a time (pvlib, loaded when called), and how it moves (numpy alone)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.errors import BadInput

Array = NDArray[np.float64]


def sun_position_rad(latitude_deg: float, longitude_deg: float, time: datetime) -> tuple[float, float]:
    """Return (zenith, azimuth) of the sun, radians: from world +z, and clockwise from north.

    ``latitude_deg`` north and ``longitude_deg`` east are positive; ``time`` carries its time zone. The zenith angle is
    the true one, without refraction; above pi/2 the sun is down. Raises BadInput. Source: pvlib's solar position
    algorithm (Reda and Andreas, Solar Energy 76, 2004), 0.0003 degrees.
    """
    if not -90 <= latitude_deg <= 90:
        raise BadInput(f"latitude {latitude_deg} degrees: must lie between -90 and 90")
    if not -180 <= longitude_deg <= 180:
        raise BadInput(f"longitude {longitude_deg} degrees: must lie between -180 and 180")
    if time.tzinfo is None:
        raise BadInput(f"time {time.isoformat()}: must carry a time zone, such as +00:00")
    import pandas as pd  # pvlib's own table type
    from pvlib.solarposition import get_solarposition

    table: Any = get_solarposition(pd.DatetimeIndex([time]), latitude_deg, longitude_deg)
    zenith, azimuth = float(table["zenith"].iloc[0]), float(table["azimuth"].iloc[0])
    return float(np.radians(zenith)), float(np.radians(azimuth))


SKY_RAD_S = 2 * np.pi / 86_400
"""How fast the sky turns about the celestial pole, as the sun sees it: once in a mean solar day."""


def sun_rates_rad_s(latitude_rad: ArrayLike, zenith_rad: ArrayLike, azimuth_rad: ArrayLike) -> tuple[Array, Array]:
    """Return the rates (...) of the sun's zenith and azimuth angles at a latitude, radians per second; elementwise.

    Where the sun stands tells the time of day, so neither date nor clock is asked for. Straight overhead the azimuth
    jumps: not finite there. The declination (0.4 degrees a day) and the equation of time are left out: within 0.2 % of
    the sun's path. Source: Meeus, Astronomical Algorithms, ch. 13, differentiated by the hour angle.
    """
    latitude, zenith, azimuth = (np.asarray(a, dtype=float) for a in (latitude_rad, zenith_rad, azimuth_rad))
    with np.errstate(divide="ignore", invalid="ignore"):
        turn = np.sin(latitude) - np.cos(latitude) * np.cos(azimuth) / np.tan(zenith)
    return -SKY_RAD_S * np.cos(latitude) * np.sin(azimuth), SKY_RAD_S * turn


def sun_velocity_world_s(latitude_rad: ArrayLike, sun_world: ArrayLike) -> Array:
    """Return the change per second (..., 3) of unit vectors to the sun (..., 3), world frame: no pole overhead."""
    latitude, sun = np.asarray(latitude_rad, dtype=float), np.asarray(sun_world, dtype=float)
    north, up = np.cos(latitude), np.sin(latitude)
    x, y, z = sun[..., 0], sun[..., 1], sun[..., 2]
    return SKY_RAD_S * np.stack([y * up - z * north, -x * up, x * north], axis=-1)


def declination_rad(latitude_rad: ArrayLike, zenith_rad: ArrayLike, azimuth_rad: ArrayLike) -> Array:
    """Return the sun's declination (...) for where it stands: beyond 23.44 degrees, it never stands there."""
    latitude, zenith, azimuth = (np.asarray(a, dtype=float) for a in (latitude_rad, zenith_rad, azimuth_rad))
    sine = np.sin(latitude) * np.cos(zenith) + np.cos(latitude) * np.sin(zenith) * np.cos(azimuth)
    return np.arcsin(np.clip(sine, -1.0, 1.0))
