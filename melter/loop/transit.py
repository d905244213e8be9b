"""The classical way from park into work: the lens on a straight line, turning to face the sun."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from melter.geometry.cables import cable_lengths_m
from melter.geometry.pose import rotation_facing, sun_direction_world, work_centre_world_m
from melter.machine import Machine
from melter.observation import ObservationBuilder

Array = NDArray[np.float64]

SPEED_SHARE = 0.6
"""Of the highest cable speed, that the fastest winch reaches on the way."""


class Transit:
    """Cable lengths along the way, starting and ending at rest."""

    def __init__(
        self, machine: Machine, sun_rad: tuple[float, float], spot_world_m: Array, park_lengths_m: Array
    ) -> None:
        """From park, where the counters tell (8,) ``park_lengths_m``, to focus on (2,) ``spot_world_m``."""
        self.machine, self._sun_rad = machine, sun_rad
        self._park_m = np.array(machine.park.lens_centre_world_m)
        sun = sun_direction_world(*sun_rad)
        self._work_m = work_centre_world_m(spot_world_m, sun, machine.lens.focal_length_m, machine.sand.height_m)
        builder = ObservationBuilder(machine)
        reference = builder.reference(np.array(sun_rad[0]), np.array(sun_rad[1]))
        start, end = self._geometric(0.0), self._geometric(1.0)
        self._start_share = park_lengths_m / start
        self._end_share = builder.reference_lengths_m(spot_world_m, reference) / end
        shares = np.linspace(0, 1, 101)
        fastest = np.abs(np.diff([self._lengths(s) for s in shares], axis=0)).max() * 100 * 1.875
        self.duration_s = float(fastest / (SPEED_SHARE * machine.limits.speed_max_m_s))

    def lengths_m(self, t_s: float) -> Array:
        """Return (8,) stress-free cable lengths ``t_s`` after the start, held at both ends (quintic ease)."""
        x = min(max(t_s / self.duration_s, 0.0), 1.0)
        return self._lengths(x * x * x * (10 + x * (6 * x - 15)))

    def _lengths(self, share: float) -> Array:
        return self._geometric(share) * ((1 - share) * self._start_share + share * self._end_share)

    def _geometric(self, share: float) -> Array:
        centre = self._park_m + share * (self._work_m - self._park_m)
        rotation = rotation_facing(sun_direction_world(share * self._sun_rad[0], self._sun_rad[1]))
        return cable_lengths_m(self.machine.pulleys_world_m, self.machine.attachments_lens_m, centre, rotation)
