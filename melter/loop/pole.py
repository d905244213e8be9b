"""Where the sky turns, seen by the light: the sun's motion where nobody has told the latitude.

The sun moves by a quarter of a degree a minute at most, and the light on the sand with it, up to 0.09 mm/s under a lens of 1.2 m: in five minutes
some 25 mm away from where the winch counters put it. Direction and speed of that follow from the sun's place and one vector, that to the celestial
pole. A Kalman filter fits it to the offset of the seen spot from the counters' one, together with an offset that is a smooth function of
the place on the bed, which looks alike only as long as the path goes straight on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from melter.geometry.sun import SKY_RAD_S
from melter.machine import Machine

Array = NDArray[np.float64]

ANYWHERE_WORLD = np.array([0.0, 0.83, 0.0])
"""The mean pole (east, north, up) of all latitudes up to 60 degrees: what is taken where nothing is known."""
ANYWHERE_SD = np.array([0.35, 0.53])
"""How far north and up component may well be from it. The first one is wide enough for a sun that stands, a lamp."""
FOUND_SD = 0.1
"""How far what an earlier run found may well be from it."""
OFFSET_M, SLOPE_M, CURVE_M = 0.010, 0.003, 0.001
"""How large offset, slope and curve over half the bed may well be."""
NOISE_M, CORRELATED_S = 0.0004, 2.0
"""Of the offset's short mean: what the camera's noise, shimmer and wind leave, and for how long they err alike."""
FOLLOW_S = 10.0
"""What was found is taken up over this time: a sun that jumps would take the lens along."""
PLACE = 6


class PoleFinder:
    """Finds the celestial pole of one run; ``pole_world`` (3,) is where it is taken to be, its length how fast the sky turns."""

    def __init__(self, machine: Machine, sun_world: Array) -> None:
        """``sun_world``: (3,) the unit vector to the sun at 0 s."""
        self._half_bed_m = np.array(machine.bed.size_m) / 2
        self._period_s, self._focal_m = machine.control.period_s, machine.lens.focal_length_m
        self._sun = np.array(sun_world, dtype=float)
        place = [OFFSET_M, SLOPE_M, SLOPE_M, CURVE_M, CURVE_M, CURVE_M]
        self._state = np.array([*[0.0] * (2 * PLACE), *ANYWHERE_WORLD[1:]])
        self._covariance = np.diag(np.square([*place, *place, *ANYWHERE_SD]))
        self.pole_world = ANYWHERE_WORLD.copy()

    def take_up(self, pole_world: Array) -> None:
        """Begin with the (3,) pole that an earlier run found."""
        self.pole_world = np.array([0.0, *pole_world[1:]])
        self._state[-2:] = self.pole_world[1:]
        self._covariance[-2:, -2:] = FOUND_SD**2 * np.eye(2)

    @property
    def sd(self) -> float:
        """Standard deviation of the pole, of its length 1."""
        return float(np.sqrt(np.trace(self._covariance[-2:, -2:])))

    def see(self, t_s: float, spot_m: Array, offset_m: Array, sun_world: Array) -> None:
        """Take in a tick at ``t_s``: counters' spot (2,), the light's offset from it (2,), both by the sun (3,) that was taken for true."""
        taken_m = -self._focal_m * (sun_world - self._sun)[:2]
        rows = self._rows(t_s, spot_m)
        wrong = offset_m + taken_m - rows @ self._state
        noise_m2 = NOISE_M**2 * (1 + 2 * CORRELATED_S / self._period_s)
        spread = self._covariance @ rows.T
        gain = spread @ np.linalg.inv(rows @ spread + noise_m2 * np.eye(2))
        self._state = self._state + gain @ wrong
        covariance = self._covariance - gain @ spread.T
        self._covariance = (covariance + covariance.T) / 2
        share = self._period_s / FOLLOW_S
        self.pole_world[1:] += share * (self._state[-2:] - self.pole_world[1:])

    def _rows(self, t_s: float, spot_m: Array) -> Array:
        """(2, states): how the offset follows from the state."""
        u, v = np.clip(spot_m / self._half_bed_m, -1.5, 1.5)
        rows = np.zeros((2, 2 * PLACE + 2))
        rows[0, :PLACE] = rows[1, PLACE : 2 * PLACE] = 1.0, u, v, u * u - 1 / 3, u * v, v * v - 1 / 3
        x, y, z = self._sun
        rows[:, -2:] = np.array([[z, -y], [0.0, x]]) * (self._focal_m * SKY_RAD_S * t_s)
        return rows
