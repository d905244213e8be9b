"""From eight cable lengths to the pose of the lens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.geometry.cables import cable_lengths_m, length_jacobian
from melter.geometry.pose import rotation_from_vector

Array = NDArray[np.float64]

STEP_MAX = 0.25
"""Largest change of a pose in one iteration, metres and radians."""
SETTLED = 1e-10
"""Change below which an iteration has settled, metres and radians."""


@dataclass(frozen=True, eq=False)
class ForwardPose:
    """The pose that fits eight lengths best."""

    centre_world_m: Array
    """(3,) lens centre."""
    rotation: Array
    """(3, 3) lens to world."""
    residual_m: Array
    """(8,) given lengths minus lengths of this pose: two more numbers than a pose has, so they tell of errors."""
    converged: bool
    """Whether the last iteration settled."""
    iterations: int


def forward_pose(
    pulleys_world_m: Array,
    attachments_lens_m: Array,
    lengths_m: ArrayLike,
    start_centre_world_m: ArrayLike,
    start_rotation: ArrayLike,
    iterations: int = 50,
) -> ForwardPose:
    """Return the pose whose straight cables fit ``lengths_m`` (8,) best, least squares, from a starting pose.

    Damped Gauss-Newton (Levenberg and Marquardt): each iteration lowers the residual or is taken back, so a poor start
    ends in a nearby minimum and does not run away. From within 0.3 m and 0.3 rad it settles on the corner8 machine in
    under 10 iterations. Lengths that are not finite give ``converged`` False and the start.
    """
    lengths = np.asarray(lengths_m, dtype=float)
    centre: Array = np.array(start_centre_world_m, dtype=float)
    rotation: Array = np.array(start_rotation, dtype=float)
    if not (np.isfinite(lengths).all() and np.isfinite(centre).all() and np.isfinite(rotation).all()):
        return ForwardPose(centre, rotation, np.full(lengths.shape, np.nan), converged=False, iterations=0)

    def missing(c: Array, r: Array) -> Array:
        return lengths - cable_lengths_m(pulleys_world_m, attachments_lens_m, c, r)

    error, damping, size = missing(centre, rotation), 1e-9, np.inf
    for count in range(1, iterations + 1):
        jacobian = length_jacobian(pulleys_world_m, attachments_lens_m, centre, rotation)
        step = np.linalg.solve(jacobian.T @ jacobian + damping * np.eye(6), jacobian.T @ error)
        size = float(np.abs(step).max())
        step *= min(1.0, STEP_MAX / max(size, 1e-300))
        new_centre: Array = np.asarray(centre + step[:3], dtype=np.float64)
        new_rotation = rotation_from_vector(step[3:]) @ rotation
        new_error = missing(new_centre, new_rotation)
        if float(new_error @ new_error) <= float(error @ error) + 1e-24:
            centre, rotation, error, damping = new_centre, new_rotation, new_error, max(damping * 0.1, 1e-12)
        else:
            damping = max(damping, 1e-6) * 10
            if damping > 1e6:
                return ForwardPose(centre, rotation, error, converged=size < 1e-6, iterations=count)
        if size < SETTLED:
            return ForwardPose(centre, rotation, error, converged=True, iterations=count)
    return ForwardPose(centre, rotation, error, converged=False, iterations=iterations)
