"""The sun during a run: where it stands at each moment, and the lens attitude and cable lengths that belong to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from melter.geometry.pose import rotation_facing
from melter.geometry.sun import SKY_RAD_S
from melter.observation import ObservationBuilder, Reference

Array = NDArray[np.float64]

KNOT_S = 120.0
"""Cable elongations are worked out afresh this often and interpolated between: the sun has gone half a degree."""


class Sun:
    """The sun from where it stands at first, moving with the sky about its pole, or held still without one."""

    def __init__(
        self, builder: ObservationBuilder, sun_rad: tuple[float, float], latitude_rad: float | None = None
    ) -> None:
        """``sun_rad``: zenith and azimuth at 0 s."""
        self._builder = builder
        self.pole_world: Array | None = (
            None if latitude_rad is None else np.array([0.0, np.cos(latitude_rad), np.sin(latitude_rad)])
        )
        """(3,) celestial pole; its length is how many times as fast as the sky the sun goes about it."""
        self._first = builder.reference(np.array(sun_rad[0]), np.array(sun_rad[1]))
        self._sun_rad = (float(sun_rad[0]), float(sun_rad[1]))
        self._knots: dict[int, Array] = {0: self._first.slack_coefficients}

    def direction_world(self, t_s: float) -> Array:
        """Return the (3,) unit vector to the sun ``t_s`` after the start; the day's own motion of the sun is left out."""
        length = 0.0 if self.pole_world is None else float(np.linalg.norm(self.pole_world))
        if self.pole_world is None or length < 1e-6:
            return self._first.sun_world
        pole, angle, sun = self.pole_world / length, -SKY_RAD_S * length * t_s, self._first.sun_world
        turned = sun * np.cos(angle) + np.cross(pole, sun) * np.sin(angle)
        return turned + pole * float(pole @ sun) * (1 - np.cos(angle))

    def angles_rad(self, t_s: float) -> tuple[float, float]:
        """Return zenith and azimuth ``t_s`` after the start, azimuth clockwise from north in [0, 2 pi)."""
        if self.pole_world is None:
            return self._sun_rad
        x, y, z = self.direction_world(t_s).tolist()
        return float(np.arccos(np.clip(z, -1.0, 1.0))), float(np.arctan2(x, y) % (2 * np.pi))

    def reference(self, t_s: float) -> Reference:
        """Return attitude and elongations for the sun ``t_s`` after the start."""
        if self.pole_world is None:
            return self._first
        sun = self.direction_world(t_s)
        rotation = rotation_facing(sun)
        knot, share = divmod(max(t_s, 0.0) / KNOT_S, 1.0)
        before, after = self._knot(int(knot)), self._knot(int(knot) + 1)
        slack = before + share * (after - before)
        return replace(
            self._first,
            sun_world=sun,
            rotation=rotation,
            anchors_m=self._builder.anchors_m(rotation),
            slack_coefficients=slack,
        )

    def _knot(self, number: int) -> Array:
        found = self._knots.get(number)
        if found is None:
            zenith, azimuth = self.angles_rad(number * KNOT_S)
            found = self._builder.reference(np.array(zenith), np.array(azimuth)).slack_coefficients
            self._knots = {k: v for k, v in self._knots.items() if abs(k - number) <= 1} | {number: found}
        return found
