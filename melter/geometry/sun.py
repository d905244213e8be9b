"""Where the sun stands, for a place and a time (pvlib, loaded when called)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from melter.errors import BadInput


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
    import numpy as np
    import pandas as pd  # pvlib's own table type
    from pvlib.solarposition import get_solarposition

    table: Any = get_solarposition(pd.DatetimeIndex([time]), latitude_deg, longitude_deg)
    zenith, azimuth = float(table["zenith"].iloc[0]), float(table["azimuth"].iloc[0])
    return float(np.radians(zenith)), float(np.radians(azimuth))
