"""Where a lens comes to rest when its cables have given lengths: static balance of elastic, pull-only cables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.geometry.cables import balanced_tensions_n, cable_lengths_m, structure_matrix, unwound_lengths_m
from melter.geometry.pose import apply, rotation_from_vector
from melter.geometry.reference import GRAVITY_M_S2, reference_tensions_n
from melter.machine import WINCH_COUNT, Machine

Array = NDArray[np.float64]

ROUNDS = 10
STEP_MAX = 0.02
"""Metres and radians that one round moves at most."""
GUARD_N_M = np.array([50.0, 50.0, 50.0, 15.0, 15.0, 15.0])
"""Added stiffness, so that a lens on slack cables does not jump."""


@dataclass(frozen=True)
class Hanging:
    """Machines (k) as their cables see them: true geometry, stiffness and weight."""

    pulleys_world_m: Array
    """(k, 8, 3)"""
    attachments_lens_m: Array
    """(k, 8, 3)"""
    stiffness_n: Array
    """(k, 1) EA"""
    mass_kg: Array
    """(k, 1)"""
    centre_of_mass_m: Array
    """(k, 3) lens frame"""

    @classmethod
    def from_values(cls, values: dict[str, Array]) -> Hanging:
        """Return the machines of drawn values (``melter.env.params``)."""
        return cls(
            values["pulley_m"].reshape(-1, WINCH_COUNT, 3),
            values["attachment_m"].reshape(-1, WINCH_COUNT, 3),
            values["cable_stiffness_n"],
            values["moving_mass_kg"],
            values["centre_of_mass_m"],
        )

    def weight(self, rotation: Array) -> Array:
        """Return (k, 6) what gravity does to the lens, about its centre."""
        force = self.mass_kg * GRAVITY_M_S2 * np.array([0.0, 0.0, -1.0])
        return np.concatenate([force, np.cross(apply(rotation, self.centre_of_mass_m), force)], axis=1)

    def zeroed_at_park(self, machine: Machine, values: dict[str, Array]) -> tuple[Array, Array, Array]:
        """Return lens centre (k, 3), rotation (k, 3, 3) and stress-free cable (k, 8) as its owner parks it.

        The lens hangs off the drawing by what its owner does not know, the cables tensioned by hand.
        """
        centre = np.array(machine.park.lens_centre_world_m) + values["zero_position_m"]
        rotation = rotation_from_vector(values["zero_attitude_rad"])
        structure = structure_matrix(self.pulleys_world_m, self.attachments_lens_m, centre, rotation)
        wrench = self.weight(rotation)
        aimed = reference_tensions_n(structure, wrench, machine.tension_band_n) + values["zero_tension_n"]
        tension = np.maximum(balanced_tensions_n(structure, wrench, aimed), 1.0)
        lengths = cable_lengths_m(self.pulleys_world_m, self.attachments_lens_m, centre, rotation)
        return centre, rotation, unwound_lengths_m(lengths, tension, self.stiffness_n)

    def rest(self, unwound_m: Array, centre: Array, rotation: Array) -> tuple[Array, Array]:
        """Return lens centre (k, 3) and rotation (k, 3, 3) at rest on (k, 8) stress-free cable, from a first guess."""
        for _ in range(ROUNDS):
            structure = structure_matrix(self.pulleys_world_m, self.attachments_lens_m, centre, rotation)
            lengths = cable_lengths_m(self.pulleys_world_m, self.attachments_lens_m, centre, rotation)
            tension = np.maximum(self.stiffness_n * (lengths / unwound_m - 1.0), 0.0)
            missing = self.weight(rotation) + np.squeeze(structure @ tension[..., None], -1)
            spring = np.where(tension > 0, self.stiffness_n / unwound_m, 0.0)
            stiffness = (structure * spring[:, None, :]) @ np.swapaxes(structure, -1, -2)
            step = np.squeeze(np.linalg.solve(stiffness + np.diag(GUARD_N_M), missing[..., None]), -1)
            step *= np.minimum(1.0, STEP_MAX / np.maximum(np.abs(step).max(axis=1, keepdims=True), 1e-12))
            centre, rotation = centre + step[:, :3], rotation_from_vector(step[:, 3:]) @ rotation
        return centre, rotation


def quaternion_from_rotation(rotation: Array) -> Array:
    """Return (k, 4) unit quaternions (w, x, y, z) of (k, 3, 3) rotations by less than 120 degrees."""
    w = 0.5 * np.sqrt(np.maximum(1 + rotation[:, 0, 0] + rotation[:, 1, 1] + rotation[:, 2, 2], 1e-9))
    x = (rotation[:, 2, 1] - rotation[:, 1, 2]) / (4 * w)
    y = (rotation[:, 0, 2] - rotation[:, 2, 0]) / (4 * w)
    z = (rotation[:, 1, 0] - rotation[:, 0, 1]) / (4 * w)
    q = np.stack([w, x, y, z], axis=1)
    return q / np.sqrt(np.sum(q * q, axis=1, keepdims=True))
