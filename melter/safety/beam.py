"""The beam is limited like a motor: where its focus may be."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import ArrayLike

from melter.machine import Machine


class KeepIn:
    """The bed's keep-in polygon, drawn in by what the spot covers until it stops."""

    def __init__(self, machine: Machine) -> None:
        limits, control = machine.limits, machine.control
        speed = limits.speed_normal_m_s
        unseen_s = control.period_s + control.action_delay_s + control.camera_delay_s + machine.drive.motor_lag_s
        self.margin_m = speed * unseen_s + speed**2 / (2 * limits.acceleration_max_m_s2)
        """What the spot covers at normal speed between being measured and standing still."""
        self.polygon = shapely.Polygon(machine.bed.keep_in_polygon_world_m)
        self._inner = self.polygon.buffer(-self.margin_m)
        shapely.prepare(self._inner)

    def holds(self, spot_world_m: ArrayLike) -> bool:
        """Return whether a spot (2,) is inside with margin; False for what is not finite."""
        spot = np.asarray(spot_world_m, dtype=float)
        if spot.shape != (2,) or not np.isfinite(spot).all():
            return False
        return bool(shapely.contains_xy(self._inner, spot[0], spot[1]))

    def contains(self, spot_world_m: ArrayLike) -> bool:
        """Return whether a spot (2,) is inside the polygon itself, margin left aside."""
        spot = np.asarray(spot_world_m, dtype=float)
        return bool(shapely.contains_xy(self.polygon, spot[0], spot[1]))
