"""Where a lens comes to rest when its cables have given lengths: static balance of elastic, pull-only cables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.env.mjcf import bend_share
from melter.geometry.cables import balanced_tensions_n, cable_lengths_m, cable_vectors_world_m, structure_matrix
from melter.geometry.pose import apply, rotation_from_vector
from melter.geometry.reference import GRAVITY_M_S2, reference_tensions_n
from melter.machine import WINCH_COUNT, Machine

Array = NDArray[np.float64]

ROUNDS = 6
STEP_MAX = 0.02
"""Metres and radians that one round moves at most."""
GUARD_N_M = np.array([50.0, 50.0, 50.0, 15.0, 15.0, 15.0])
"""Added stiffness, so that a lens on slack cables does not jump."""


@dataclass(frozen=True)
class Trim:
    """Cables as their owner left them at a known pose."""

    unwound_m: Array
    """(k, 8) stress-free cable between pulley and lens"""
    tension_n: Array
    """(k, 8), the same on both sides of the pulleys"""


@dataclass(frozen=True)
class Rest:
    """A lens at rest."""

    centre_world_m: Array
    """(k, 3)"""
    rotation: Array
    """(k, 3, 3) lens to world"""
    unwound_m: Array
    """(k, 8) stress-free cable between pulley and lens"""
    tension_n: Array
    """(k, 8) at the lens"""
    drum_tension_n: Array
    """(k, 8) at the drum"""


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
    drum_side_m: Array
    """(8,) cable between drum and pulley"""
    flex_m_per_n: Array
    """(k, 8) how far poles give way per newton of cable tension"""
    pulley_loss: Array
    """(k, 1) share of the tension that a pulley holds back"""
    pulley_friction_n: Array
    """(k, 1)"""

    @classmethod
    def from_values(cls, machine: Machine, values: dict[str, Array]) -> Hanging:
        """Return the machines of drawn values (``melter.env.params``)."""
        return cls(
            values["pulley_m"].reshape(-1, WINCH_COUNT, 3),
            values["attachment_m"].reshape(-1, WINCH_COUNT, 3),
            values["cable_stiffness_n"],
            values["moving_mass_kg"],
            values["centre_of_mass_m"],
            machine.drum_side_m,
            values["pole_flex_m_per_n"] * bend_share(machine),
            values["pulley_loss"],
            values["pulley_friction_n"],
        )

    def weight(self, rotation: Array) -> Array:
        """Return (k, 6) what gravity does to the lens, about its centre."""
        force = self.mass_kg * GRAVITY_M_S2 * np.array([0.0, 0.0, -1.0])
        return np.concatenate([force, np.cross(apply(rotation, self.centre_of_mass_m), force)], axis=1)

    def trimmed(self, machine: Machine, values: dict[str, Array], centre: Array, rotation: Array) -> Trim:
        """Return how the owner trimmed the cables at the drawing's pose (k, 3), (k, 3, 3), lens covered.

        The lens hangs off the drawing by what its owner does not know, the cables tensioned by hand.
        """
        centre = centre + values["zero_position_m"]
        rotation = rotation_from_vector(values["zero_attitude_rad"]) @ rotation
        structure = structure_matrix(self.pulleys_world_m, self.attachments_lens_m, centre, rotation)
        wrench = self.weight(rotation)
        aimed = reference_tensions_n(structure, wrench, machine.tension_band_n) + values["zero_tension_n"]
        tension = np.maximum(balanced_tensions_n(structure, wrench, aimed), 1.0)
        lengths = cable_lengths_m(self.pulleys_world_m, self.attachments_lens_m, centre, rotation)
        return Trim((lengths - tension * self.flex_m_per_n) / (1 + tension / self.stiffness_n), tension)

    def moved(self, trim: Trim, paid_out_m: Array, centre: Array, rotation: Array) -> Rest:
        """Return where the lens rests after (k, 8) cable was paid out from a trim, from a guessed pose (k, 3), (k, 3, 3).

        Cable has passed the pulleys against their friction, in the direction in which it was paid out.
        """
        way = np.sign(paid_out_m)
        drum = self.drum_side_m / self.stiffness_n
        loss, friction = self.pulley_loss * way, self.pulley_friction_n * way
        base = trim.unwound_m + paid_out_m - drum * (trim.tension_n + friction)
        series = drum * (1 - loss) + self.flex_m_per_n
        spring = 1 / (base / self.stiffness_n + series)
        for _ in range(ROUNDS):
            vectors, arms = cable_vectors_world_m(self.pulleys_world_m, self.attachments_lens_m, centre, rotation)
            lengths = np.sqrt((vectors * vectors).sum(axis=-1))
            units = vectors / lengths[..., None]
            structure = np.swapaxes(np.concatenate([units, np.cross(arms, units)], axis=-1), -1, -2)
            tension = np.maximum(spring * (lengths - base), 0.0)
            missing = self.weight(rotation) + np.squeeze(structure @ tension[..., None], -1)
            holding = np.where(tension > 0, spring, 0.0) - tension / lengths
            stiffness = (structure * holding[:, None, :]) @ np.swapaxes(structure, -1, -2)
            stiffness += _turning_stiffness(arms, tension / lengths, tension[..., None] * units)
            step = np.squeeze(np.linalg.solve(stiffness + np.diag(GUARD_N_M), missing[..., None]), -1)
            step *= np.minimum(1.0, STEP_MAX / np.maximum(np.abs(step).max(axis=1, keepdims=True), 1e-12))
            centre, rotation = centre + step[:, :3], rotation_from_vector(step[:, 3:]) @ rotation
        lengths = cable_lengths_m(self.pulleys_world_m, self.attachments_lens_m, centre, rotation)
        tension = np.maximum(spring * (lengths - base), 0.0)
        at_drum = np.maximum(tension * (1 - loss) - friction, 0.0)
        unwound = (lengths - tension * self.flex_m_per_n) / (1 + tension / self.stiffness_n)
        return Rest(centre, rotation, np.where(tension > 0, unwound, base), tension, at_drum)


def _turning_stiffness(arms: Array, pull_n_per_m: Array, force_n: Array) -> Array:
    """(k, 6, 6) what tension adds to the stiffness, but for the part along the cables: arms (k, 8, 3), tension over length
    (k, 8), forces on the lens (k, 8, 3). Source: Behzadipour and Khajepour, J. Mechanical Design 128 (2006).
    """
    total = pull_n_per_m.sum(axis=1)
    first = (pull_n_per_m[..., None] * arms).sum(axis=1)
    second = ((pull_n_per_m[..., None] * arms)[..., :, None] * arms[..., None, :]).sum(axis=1)
    turned = (arms[..., :, None] * force_n[..., None, :]).sum(axis=1)
    square = second + 0.5 * (turned + np.swapaxes(turned, -1, -2))
    added = np.zeros((len(arms), 6, 6))
    trace = square[:, 0, 0] + square[:, 1, 1] + square[:, 2, 2]
    for i, j, sign in ((0, 1, -1.0), (0, 2, 1.0), (1, 2, -1.0)):
        value = sign * first[:, 3 - i - j]
        added[:, i, 3 + j], added[:, j, 3 + i] = -value, value
        added[:, 3 + j, i], added[:, 3 + i, j] = -value, value
    added[:, range(3), range(3)] = total[:, None]
    added[:, 3:, 3:] = -square
    added[:, range(3, 6), range(3, 6)] += trace[:, None]
    return added


def quaternion_from_rotation(rotation: Array) -> Array:
    """Return (k, 4) unit quaternions (w, x, y, z) of (k, 3, 3) rotations by less than 120 degrees."""
    w = 0.5 * np.sqrt(np.maximum(1 + rotation[:, 0, 0] + rotation[:, 1, 1] + rotation[:, 2, 2], 1e-9))
    x = (rotation[:, 2, 1] - rotation[:, 1, 2]) / (4 * w)
    y = (rotation[:, 0, 2] - rotation[:, 2, 0]) / (4 * w)
    z = (rotation[:, 1, 0] - rotation[:, 0, 1]) / (4 * w)
    q = np.stack([w, x, y, z], axis=1)
    return q / np.sqrt(np.sum(q * q, axis=1, keepdims=True))
