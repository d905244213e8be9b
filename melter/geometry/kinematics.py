"""From cable lengths to the pose of the lens, with one cable slack too. World frame, metres, radians."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.geometry.cables import cable_lengths_m, length_jacobian
from melter.geometry.pose import rotation_from_vector

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

ITERATIONS, ITERATIONS_WITHOUT_ONE = 50, 8
STEP_MAX = 0.25
"""Largest change of a pose in one iteration, metres and radians."""
SETTLED = 1e-7
"""Change below which an iteration has settled, metres and radians."""
_DAMPING_MAX = 1e6


@dataclass(frozen=True, eq=False)
class Pose:
    """Where the lens is."""

    centre_world_m: Array
    """(3,)"""
    rotation: Array
    """(3, 3), lens to world."""


@dataclass(frozen=True, eq=False)
class ForwardPose:
    """The pose that fits cable lengths best."""

    pose: Pose
    residual_m: Array
    """(8,) given lengths minus lengths of this pose: two more numbers than a pose has, so they tell of errors."""
    converged: bool
    """Whether the last iteration settled."""
    iterations: int


def forward_pose(
    pulleys_world_m: Array,
    attachments_lens_m: Array,
    lengths_m: ArrayLike,
    guess: Pose,
    used: Flags | None = None,
    iterations: int = ITERATIONS,
) -> ForwardPose:
    """Return the pose whose straight cables fit ``lengths_m`` (8,) best, least squares, from a guess.

    ``used`` (8,): cables that count, at least six of them; None: all. Damped Gauss-Newton: each iteration lowers the
    residual or is taken back, so a poor guess ends in a nearby minimum and does not run away. From within 0.3 m and
    0.3 rad it settles on the corner8 machine in under 10 iterations. What is not finite gives ``converged`` False and
    the guess. Source: Marquardt, J. SIAM 11 (1963).
    """
    lengths = np.asarray(lengths_m, dtype=float)
    known = lengths if used is None else lengths[used]
    if not all(np.isfinite(a).all() for a in (known, guess.centre_world_m, guess.rotation)):
        return ForwardPose(guess, np.full(lengths.shape, np.nan), converged=False, iterations=0)
    weight = np.ones(lengths.shape) if used is None else used.astype(float)
    target = np.where(weight > 0, lengths, 0.0)

    def missing(pose: Pose) -> Array:
        return target - cable_lengths_m(pulleys_world_m, attachments_lens_m, pose.centre_world_m, pose.rotation)

    def slope(pose: Pose) -> Array:
        return length_jacobian(pulleys_world_m, attachments_lens_m, pose.centre_world_m, pose.rotation)

    return _fit(missing, slope, weight, guess, iterations)


def pose_and_slack(
    pulleys_world_m: Array, attachments_lens_m: Array, lengths_m: ArrayLike, guess: Pose, tolerance_m: float
) -> tuple[Pose, int | None] | None:
    """Return the pose that fits (8,) lengths within ``tolerance_m``, and the cable that must be left out, if any.

    All cables first; where they contradict each other, each is left out in turn and the best fit taken: that cable is
    slack. None where no pose fits.
    """
    every = forward_pose(pulleys_world_m, attachments_lens_m, lengths_m, guess)
    if every.converged and np.abs(every.residual_m).max() <= tolerance_m:
        return every.pose, None
    start = every.pose if every.converged else guess
    best: tuple[Pose, int] | None = None
    smallest_m = tolerance_m
    count = len(pulleys_world_m)
    for slack in range(count):
        used = np.arange(count) != slack
        found = forward_pose(pulleys_world_m, attachments_lens_m, lengths_m, start, used, ITERATIONS_WITHOUT_ONE)
        residual_m = float(np.abs(found.residual_m[used]).max())
        if found.converged and residual_m <= smallest_m:
            best, smallest_m = (found.pose, slack), residual_m
    return best


def towards(start: Pose, end: Pose, share: float) -> Pose:
    """Return the pose ``share`` (0 to 1) of the way along the straight line and the shortest turn."""
    turn = rotation_vector(end.rotation @ start.rotation.T)
    centre = start.centre_world_m + share * (end.centre_world_m - start.centre_world_m)
    return Pose(centre, rotation_from_vector(share * turn) @ start.rotation)


def rotation_vector(rotation: Array) -> Array:
    """Return the (3,) rotation vector of a (3, 3) rotation by less than half a turn, radians."""
    r = rotation
    skew: Array = np.array([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]]) / 2
    sine, cosine = float(np.sqrt(skew @ skew)), float((np.trace(rotation) - 1) / 2)
    angle = float(np.arctan2(sine, cosine))
    return skew * (angle / sine) if sine > 1e-9 else skew


def _fit(
    missing: Callable[[Pose], Array], slope: Callable[[Pose], Array], weight: Array, pose: Pose, iterations: int
) -> ForwardPose:
    """Levenberg and Marquardt's iteration on the residuals that have weight."""
    error, damping, size = missing(pose), 1e-9, np.inf
    for count in range(1, iterations + 1):
        jacobian = slope(pose) * weight[:, None]
        step = np.linalg.solve(jacobian.T @ jacobian + damping * np.eye(6), jacobian.T @ error)
        size = float(np.abs(step).max())
        step *= min(1.0, STEP_MAX / max(size, 1e-300))
        tried = Pose(pose.centre_world_m + step[:3], rotation_from_vector(step[3:]) @ pose.rotation)
        left = missing(tried)
        if float(weight @ (left * left)) <= float(weight @ (error * error)) + 1e-24:
            pose, error, damping = tried, left, max(damping * 0.1, 1e-12)
        else:
            damping = max(damping, 1e-6) * 10
        if size < SETTLED or damping > _DAMPING_MAX:
            return ForwardPose(pose, error, converged=size < SETTLED, iterations=count)
    return ForwardPose(pose, error, converged=False, iterations=iterations)
