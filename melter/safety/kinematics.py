"""Where the lens is, from the cable lengths that the winches count: the machine's lengths and the geometry's solution.

World frame, metres, radians. Counted lengths are stress-free; the tensions of the park pose are taken everywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from melter.geometry.cables import cable_lengths_m, length_jacobian
from melter.geometry.kinematics import Pose, pose_and_slack, towards
from melter.geometry.reference import reference_unwound_m
from melter.machine import Machine

__all__ = ["Kinematics", "Pose", "towards"]

Array = NDArray[np.float64]

_CONSISTENT_M = 0.010
"""Largest residual that stretch and calibration explain; above, one cable is taken for slack."""


class Kinematics:
    """Cable lengths to pose and back, for one machine, without any state."""

    def __init__(self, machine: Machine) -> None:
        self._pulleys, self._attachments = machine.pulleys_world_m, machine.attachments_lens_m
        self.park = Pose(np.array(machine.park.lens_centre_world_m), np.eye(3))
        lengths = cable_lengths_m(self._pulleys, self._attachments, self.park.centre_world_m, self.park.rotation)
        unwound = reference_unwound_m(
            self._pulleys,
            self._attachments,
            self.park.centre_world_m,
            self.park.rotation,
            machine.lens.moving_mass_kg,
            machine.tension_band_n,
            machine.drive.cable_stiffness_n,
        )
        self._share = unwound / lengths
        self.park_lengths_m = self.lengths_m(self.park)
        self.park_lengths_m.setflags(write=False)

    def lengths_m(self, pose: Pose) -> Array:
        """Return the (8,) stress-free cable lengths at ``pose`` under the tensions of the park pose."""
        straight = cable_lengths_m(self._pulleys, self._attachments, pose.centre_world_m, pose.rotation)
        return straight * self._share

    def jacobian(self, pose: Pose) -> Array:
        """Return (8, 6): d(stress-free length) / d(centre, rotation vector)."""
        slope = length_jacobian(self._pulleys, self._attachments, pose.centre_world_m, pose.rotation)
        return slope * self._share[:, None]

    def forward(self, lengths_m: Array, guess: Pose) -> tuple[Pose, int | None] | None:
        """Return the pose that fits (8,) cable lengths best, and the slack winch where one cable must be left out.

        ``guess``: where to start. None when no pose fits within 10 mm even without one cable.
        """
        return pose_and_slack(self._pulleys, self._attachments, lengths_m / self._share, guess, _CONSISTENT_M)
