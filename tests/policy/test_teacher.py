"""The teacher: what it knows makes it better than anything that has to measure."""

from __future__ import annotations

from typing import Any

import numpy as np

from melter.env.batch import SandMelterBatch
from melter.env.sb3 import SandMelterVecEnv
from melter.env.scenario import SUITES
from melter.machine import Machine
from melter.policy.evaluate import figures, play
from melter.policy.servo import Servo
from melter.policy.stagger import stagger
from melter.policy.teacher import Teacher, TeacherGains


def played(machine: Machine, suite: str, teacher: Teacher | None) -> Any:
    batch = SandMelterBatch(machine, 12, SUITES[suite], threads=2)
    act = Servo(machine).act if teacher is None else lambda _: teacher.act(batch)
    return figures(suite, play(act, batch, 40))


def test_far_better_than_the_servo_and_steady(corner8: Machine) -> None:
    taught, servo = (played(corner8, "outdoor", teacher) for teacher in (Teacher(), None))
    assert taught.rms_mm < 0.5 * servo.rms_mm
    assert taught.terminated == 0


def test_a_larger_share_takes_errors_back_sooner(corner8: Machine) -> None:
    slow, quick = (played(corner8, "nominal", Teacher(TeacherGains(spot_share=share))) for share in (0.05, 0.3))
    assert quick.rms_mm < slow.rms_mm


def test_actions_are_in_range_and_each_simulations_own(corner8: Machine) -> None:
    batch, alone = (SandMelterBatch(corner8, n, SUITES["outdoor"]) for n in (3, 1))
    batch.reset(np.arange(3), [0, 0, 0], [5, 6, 7])
    alone.reset(np.arange(1), [0], [6])
    action = Teacher().act(batch)
    assert action.shape == (3, 8)
    assert action.dtype == np.float32
    assert (np.abs(action) <= 1).all()
    np.testing.assert_allclose(Teacher().act(alone)[0], action[1], atol=1e-6)


def test_groups_begin_their_episodes_at_different_times(corner8: Machine) -> None:
    env = SandMelterVecEnv(8, corner8, "train")
    observation = stagger(env, Servo(corner8).act, 4)
    np.testing.assert_array_equal(observation, env.env.batch.observe())
    horizon = env.env.batch.horizon
    expected = horizon * np.array([3, 3, 2, 2, 1, 1, 0, 0]) // 4
    np.testing.assert_array_equal(env.env.batch.tick, expected)
    np.testing.assert_array_equal(env.running()[:, 1], expected)


def test_one_group_begins_at_once(corner8: Machine) -> None:
    env, other = (SandMelterVecEnv(3, corner8, "train") for _ in range(2))
    for one in (env, other):
        one.seed(4)
    np.testing.assert_array_equal(stagger(env, Servo(corner8).act, 1), other.reset())
    assert (env.env.batch.tick == 0).all()
