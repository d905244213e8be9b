"""From cable lengths to the pose, all cables taut or one slack."""

from __future__ import annotations

import numpy as np
import pytest

from melter.geometry.cables import cable_lengths_m
from melter.geometry.kinematics import Pose, forward_pose, pose_and_slack, rotation_vector, towards
from melter.geometry.pose import rotation_from_vector
from melter.machine import load_machine

MACHINE = load_machine("corner8")
CABLES = (MACHINE.pulleys_world_m, MACHINE.attachments_lens_m)
LEVEL = Pose(np.array([0.1, 0.0, 1.0]), np.eye(3))


def lengths_at(pose: Pose) -> np.ndarray:
    return cable_lengths_m(*CABLES, pose.centre_world_m, pose.rotation)


def random_pose(rng: np.random.Generator) -> Pose:
    centre = rng.uniform([-0.6, -0.6, 0.6], [0.6, 0.6, 1.4])
    return Pose(centre, rotation_from_vector(rng.normal(0, 0.2, 3)))


def near(pose: Pose, rng: np.random.Generator, off: float) -> Pose:
    turn = rotation_from_vector(rng.uniform(-off, off, 3))
    return Pose(pose.centre_world_m + rng.uniform(-off, off, 3), turn @ pose.rotation)


@pytest.mark.parametrize("seed", range(5))
def test_forward_pose_finds_the_pose_that_made_the_lengths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(40):
        pose = random_pose(rng)
        found = forward_pose(*CABLES, lengths_at(pose), near(pose, rng, 0.15))
        assert found.converged
        assert found.iterations < 15
        np.testing.assert_allclose(found.pose.centre_world_m, pose.centre_world_m, atol=1e-8)
        np.testing.assert_allclose(found.pose.rotation, pose.rotation, atol=1e-8)
        assert np.abs(found.residual_m).max() < 1e-9


def test_forward_pose_is_a_least_squares_fit_of_wrong_lengths() -> None:
    lengths = lengths_at(LEVEL) + 0.004 * np.eye(8)[0]
    off = forward_pose(*CABLES, lengths, LEVEL)
    assert off.converged
    assert np.linalg.norm(off.pose.centre_world_m - LEVEL.centre_world_m) < 0.01
    assert 1e-4 < np.abs(off.residual_m).max() < 0.004
    best = np.square(off.residual_m).sum()
    rng = np.random.default_rng(1)
    for _ in range(50):
        assert np.square(lengths - lengths_at(near(off.pose, rng, 1e-4))).sum() > best


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_gives_no_pose(bad: float) -> None:
    lengths = lengths_at(LEVEL)
    lengths[3] = bad
    found = forward_pose(*CABLES, lengths, LEVEL)
    assert not found.converged
    assert found.pose is LEVEL
    without = forward_pose(*CABLES, lengths, LEVEL, used=np.arange(8) != 3)
    assert without.converged
    np.testing.assert_allclose(without.pose.centre_world_m, LEVEL.centre_world_m, atol=1e-9)
    assert not forward_pose(*CABLES, lengths_at(LEVEL), Pose(np.array([bad, 0, 1]), np.eye(3))).converged


@pytest.mark.parametrize("slack", range(8))
def test_a_slack_cable_is_named_and_left_out(slack: int) -> None:
    rng = np.random.default_rng(slack)
    for _ in range(5):
        pose = random_pose(rng)
        lengths = lengths_at(pose) + 0.15 * np.eye(8)[slack]
        answer = pose_and_slack(*CABLES, lengths, near(pose, rng, 0.03), 0.010)
        assert answer is not None
        found, left_out = answer
        assert left_out == slack
        np.testing.assert_allclose(found.centre_world_m, pose.centre_world_m, atol=1e-7)


def test_taut_cables_leave_none_out_and_two_slack_ones_give_none() -> None:
    lengths = lengths_at(LEVEL)
    answer = pose_and_slack(*CABLES, lengths, LEVEL, 0.010)
    assert answer is not None
    assert answer[1] is None
    assert pose_and_slack(*CABLES, lengths + 0.3 * (np.eye(8)[0] - np.eye(8)[3]), LEVEL, 0.010) is None


def test_towards_goes_straight_and_turns_the_short_way() -> None:
    end = Pose(np.array([0.3, -0.2, 1.2]), rotation_from_vector([0.2, -0.3, 0.1]))
    for share in (0.0, 0.25, 1.0):
        between = towards(LEVEL, end, share)
        np.testing.assert_allclose(rotation_vector(between.rotation), share * np.array([0.2, -0.3, 0.1]), atol=1e-12)
        way = LEVEL.centre_world_m + share * (end.centre_world_m - LEVEL.centre_world_m)
        np.testing.assert_allclose(between.centre_world_m, way, atol=1e-15)
    for small in (1e-12, 1e-7, 3.1):
        vector = small * np.array([0.6, 0.0, 0.8])
        np.testing.assert_allclose(rotation_vector(rotation_from_vector(vector)), vector, rtol=1e-6)
