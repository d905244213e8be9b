"""Straight cables between pulleys and lens: lengths, directions, structure matrix, tension distribution.

Shapes: any leading batch shape ``...``; 8 cables in winch order. World frame, metres, newtons. A wrench is
(force, moment about the lens centre), world frame.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.geometry.pose import apply

Array = NDArray[np.float64]


def cable_vectors_world_m(
    pulleys_world_m: Array, attachments_lens_m: Array, centre_world_m: ArrayLike, rotation: Array
) -> tuple[Array, Array]:
    """Return (..., 8, 3) vectors attachment → pulley, and (..., 8, 3) arms lens centre → attachment.

    ``centre_world_m`` (..., 3); ``rotation`` (..., 3, 3), lens to world.
    """
    arms = apply(rotation[..., None, :, :], attachments_lens_m)
    centre = np.asarray(centre_world_m, dtype=float)[..., None, :]
    return pulleys_world_m - centre - arms, arms


def cable_lengths_m(
    pulleys_world_m: Array, attachments_lens_m: Array, centre_world_m: ArrayLike, rotation: Array
) -> Array:
    """Return the (..., 8) distances from pulley to attachment, metres."""
    v, _ = cable_vectors_world_m(pulleys_world_m, attachments_lens_m, centre_world_m, rotation)
    return np.sqrt(v[..., 0] * v[..., 0] + v[..., 1] * v[..., 1] + v[..., 2] * v[..., 2])


def structure_matrix(
    pulleys_world_m: Array, attachments_lens_m: Array, centre_world_m: ArrayLike, rotation: Array
) -> Array:
    """Return W (..., 6, 8): tensions (8) to the wrench they exert on the lens, about its centre, world frame.

    Its negative transpose is the Jacobian: d(length)/dt = -Wᵀ (velocity, angular velocity).
    Source: Pott, Cable-Driven Parallel Robots (2018), ch. 3.
    """
    v, arms = cable_vectors_world_m(pulleys_world_m, attachments_lens_m, centre_world_m, rotation)
    unit = v / np.sqrt(np.sum(v * v, axis=-1, keepdims=True))
    return np.swapaxes(np.concatenate([unit, np.cross(arms, unit)], axis=-1), -1, -2)


def length_jacobian(
    pulleys_world_m: Array, attachments_lens_m: Array, centre_world_m: ArrayLike, rotation: Array
) -> Array:
    """Return (..., 8, 6): d(cable length)/d(lens centre, rotation vector), metres and metres per radian."""
    return -np.swapaxes(structure_matrix(pulleys_world_m, attachments_lens_m, centre_world_m, rotation), -1, -2)


def balanced_tensions_n(structure: Array, wrench_on_lens: ArrayLike, preferred_n: ArrayLike) -> Array:
    """Return the (..., 8) tensions closest (least squares) to ``preferred_n`` that balance a wrench.

    ``structure`` (..., 6, 8); ``wrench_on_lens`` (..., 6) is what gravity and wind exert. The answer may lie
    outside a tension band: see ``melter.geometry.holding`` for the linear program that decides feasibility.
    Source: Pott, Bruckmann, Mikelsons (2009), closed-form force distribution.
    """
    preferred = np.broadcast_to(np.asarray(preferred_n, dtype=float), (*structure.shape[:-2], structure.shape[-1]))
    wrench = np.asarray(wrench_on_lens, dtype=float)
    missing = -wrench - np.squeeze(structure @ preferred[..., None], -1)
    transpose = np.swapaxes(structure, -1, -2)
    correction = transpose @ np.linalg.solve(structure @ transpose, missing[..., None])
    return preferred + np.squeeze(correction, -1)


def tensions_in_band_n(
    structure: Array,
    wrench_on_lens: ArrayLike,
    low_n: ArrayLike,
    high_n: ArrayLike,
    preferred_n: ArrayLike,
    rounds: int = 40,
) -> Array:
    """Return (..., 8) balancing tensions drawn towards the band [low_n, high_n] from ``preferred_n``.

    Over-relaxed alternating projections between the balance (6 equations) and the band; balance always holds, the
    band only as far as it can within ``rounds``. Source: Bauschke and Borwein, SIAM Review 38 (1996), on projections.
    """
    wrench, low, high = (np.asarray(a, dtype=float) for a in (wrench_on_lens, low_n, high_n))
    tension = balanced_tensions_n(structure, wrench, preferred_n)
    outside = ((tension < low) | (tension > high)).any(axis=-1)
    if not outside.any():
        return tension
    rows = np.broadcast_to(structure, (*tension.shape[:-1], *structure.shape[-2:]))[outside]
    low, high = (np.broadcast_to(a, tension.shape)[outside] for a in (low, high))
    wrench = np.broadcast_to(wrench, (*tension.shape[:-1], rows.shape[-2]))[outside]
    transpose = np.swapaxes(rows, -1, -2)
    back = transpose @ np.linalg.inv(rows @ transpose)
    kept = np.eye(rows.shape[-1]) - back @ rows
    least, moved = np.squeeze(back @ -wrench[..., None], -1), tension[outside]
    going = np.ones(len(moved), dtype=bool)
    for _ in range(rounds):
        aim = moved + 1.6 * (np.clip(moved, low, high) - moved)
        moved = np.where(going[:, None], least + np.squeeze(kept @ aim[..., None], -1), moved)
        going = np.asarray(((moved < low) | (moved > high)).any(axis=-1))
        if not going.any():
            break
    tension[outside] = moved
    return tension


def unwound_lengths_m(lengths_m: ArrayLike, tensions_n: ArrayLike, stiffness_n: ArrayLike) -> Array:
    """Return the stress-free length of cable that is ``lengths_m`` long under ``tensions_n``; EA in newtons."""
    return np.asarray(lengths_m, dtype=float) / (
        1.0 + np.asarray(tensions_n, dtype=float) / np.asarray(stiffness_n, dtype=float)
    )
