"""Where the lens is, from cable lengths alone: a small forward solution for the lowering path.

World frame, metres, radians. A pose is a lens centre (3,) and a rotation (3, 3), lens to world.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.geometry.cables import cable_lengths_m, structure_matrix
from melter.geometry.pose import rotation_from_vector
from melter.geometry.reference import reference_unwound_m
from melter.machine import WINCH_COUNT, Machine

Array = NDArray[np.float64]

_STEPS, _STEPS_WITHOUT_ONE = 25, 8
_CONVERGED_M = 1e-7
_CONSISTENT_M = 0.010
"""Largest residual that stretch and calibration explain; above, one cable is taken for slack."""


@dataclass(frozen=True, eq=False)
class Pose:
    """Where the lens is."""

    centre_world_m: Array
    """(3,)"""
    rotation: Array
    """(3, 3), lens to world."""


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
        vectors = self._pulleys - pose.centre_world_m - self._attachments @ pose.rotation.T
        return np.sqrt((vectors * vectors).sum(axis=1)) * self._share

    def jacobian(self, pose: Pose) -> Array:
        """Return (8, 6): d(stress-free length) / d(centre, rotation vector)."""
        structure = structure_matrix(self._pulleys, self._attachments, pose.centre_world_m, pose.rotation)
        return -structure.T * self._share[:, None]

    def forward(self, lengths_m: Array, guess: Pose) -> tuple[Pose, int | None] | None:
        """Return the pose that fits (8,) cable lengths best, and the slack winch where one cable must be left out.

        ``guess``: where to start. None when no pose fits within 10 mm even without one cable.
        """
        every = np.ones(WINCH_COUNT, dtype=bool)
        pose, residual = self._fit(lengths_m, guess, every)
        if residual <= _CONSISTENT_M:
            return pose, None
        start = pose if np.isfinite(residual) else guess
        best: tuple[Pose, int] | None = None
        smallest = _CONSISTENT_M
        for winch in range(WINCH_COUNT):
            used = every.copy()
            used[winch] = False
            pose, residual = self._fit(lengths_m, start, used, _STEPS_WITHOUT_ONE)
            if residual <= smallest:
                best, smallest = (pose, winch), residual
        return best

    def _fit(self, lengths_m: Array, guess: Pose, used: NDArray[np.bool_], steps: int = _STEPS) -> tuple[Pose, float]:
        """Gauss-Newton on the used cables; pose and largest residual, infinite where it did not converge."""
        pose = guess
        for _ in range(steps):
            error = (lengths_m - self.lengths_m(pose))[used]
            step = np.linalg.lstsq(self.jacobian(pose)[used], error, rcond=None)[0]
            size = float(np.abs(step).max())
            if not np.isfinite(size):
                return pose, np.inf
            step *= min(1.0, 0.3 / max(size, 1e-12))
            pose = Pose(pose.centre_world_m + step[:3], rotation_from_vector(step[3:]) @ pose.rotation)
            if size < _CONVERGED_M:
                return pose, float(np.abs((lengths_m - self.lengths_m(pose))[used]).max())
        return pose, np.inf


def towards(start: Pose, end: Pose, share: float) -> Pose:
    """Return the pose ``share`` (0 to 1) of the way along the straight line and the shortest turn."""
    turn = rotation_vector(end.rotation @ start.rotation.T)
    centre = start.centre_world_m + share * (end.centre_world_m - start.centre_world_m)
    return Pose(centre, rotation_from_vector(share * turn) @ start.rotation)


def rotation_vector(rotation: Array) -> Array:
    """Return the (3,) rotation vector of a (3, 3) rotation by less than half a turn, radians."""
    skew = (
        np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]])
        / 2
    )
    sine, cosine = float(np.sqrt(skew @ skew)), float((np.trace(rotation) - 1) / 2)
    angle = float(np.arctan2(sine, cosine))
    return skew * (angle / sine) if sine > 1e-9 else skew
