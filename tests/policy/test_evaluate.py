"""Evaluation: fixed episodes, the figures' definitions, the servo as the yardstick; loading for a machine."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from melter.env.batch import SandMelterBatch
from melter.env.scenario import SUITES
from melter.errors import ModelFileError
from melter.machine import Machine, machine_from_table
from melter.policy.evaluate import SETTLING_S, evaluate
from melter.policy.load import load_for
from melter.policy.servo import Servo

MADE = Callable[[Path], Path]


def test_the_servo_keeps_the_spot_to_a_third_of_a_millimetre(corner8: Machine) -> None:
    found = evaluate(Servo(corner8).act, corner8, "nominal", 6, threads=2)
    assert found.rms_mm < 0.3
    assert found.terminated == 0
    assert 0 < found.p50_mm <= found.p95_mm <= found.max_mm
    assert found.p50_mm <= found.rms_mm <= found.max_mm
    assert found.rms_ci_mm[0] <= found.rms_mm <= found.rms_ci_mm[1]
    assert corner8.limits.tension_min_n < found.tension_min_n < found.tension_max_n < corner8.limits.tension_max_n
    assert set(found.table()) >= {
        "rms_mm", "p50_mm", "p95_mm", "max_mm", "tension_min_n", "tension_max_n", "terminated", "episodes", "suite"
    }  # fmt: skip


def test_the_figures_are_those_of_the_episodes(corner8: Machine) -> None:
    """The same episodes played again by hand, the first two seconds left out."""
    servo = Servo(corner8)
    found = evaluate(servo.act, corner8, "outdoor", 3, first=50)
    batch = SandMelterBatch(corner8, 3, SUITES["outdoor"])
    batch.reset(np.arange(3), [0, 0, 0], [50, 51, 52])
    errors, tensions, running = [], [], np.ones(3, dtype=bool)
    for tick in range(batch.horizon):
        _, state = batch.step(np.where(running[:, None], servo.act(batch.observe()), 0))
        if tick >= SETTLING_S * corner8.control.rate_hz:
            errors += list(state.spot_error_m[running & state.melting] * 1e3)
            tensions += list(state.tensions_n[running])
        running &= state.ending == 0
    assert found.rms_mm == pytest.approx(np.sqrt(np.mean(np.square(errors))))
    assert found.p95_mm == pytest.approx(np.percentile(errors, 95))
    assert found.max_mm == pytest.approx(np.max(errors))
    assert found.tension_min_n == pytest.approx(np.min(tensions))
    assert found.tension_max_n == pytest.approx(np.max(tensions))


def test_the_same_again_at_any_thread_count(corner8: Machine) -> None:
    one, other = (evaluate(Servo(corner8).act, corner8, "outdoor", 3, threads=t) for t in (1, 3))
    assert one == other


def test_terminated_episodes_are_counted_and_named(corner8: Machine) -> None:
    def pull(observation: Any) -> Any:
        return np.full((len(observation), 8), -1, np.float32)

    found = evaluate(pull, corner8, "nominal", 4)
    assert found.terminated == 4
    assert found.endings == {"tension above the trip limit": 4}
    assert np.isfinite([found.rms_mm, found.p50_mm, found.p95_mm, found.max_mm]).all()
    assert np.isfinite([found.tension_min_n, found.tension_max_n]).all()
    assert found.tension_max_n > corner8.limits.tension_trip_n
    assert "4 of 4 episodes terminated" in found.text()


def test_the_servo_answers_in_range_and_alone_as_in_a_batch(corner8: Machine) -> None:
    servo = Servo(corner8)
    batch = SandMelterBatch(corner8, 5, SUITES["outdoor"])
    batch.reset(np.arange(5), np.zeros(5, dtype=int), np.arange(5))
    observation = batch.observe()
    action = servo.act(observation)
    assert action.dtype == np.float32
    assert (np.abs(action) <= 1).all()
    for i in range(5):
        np.testing.assert_array_equal(servo.act(observation[i : i + 1])[0], action[i])
    assert (np.abs(servo.act(50 * observation)) <= 1).all()


def test_a_policy_for_this_machine(hand_made: MADE, tmp_path: Path, corner8: Machine) -> None:
    folder = hand_made(tmp_path / "run")
    assert load_for(folder, corner8, same_machine=True).manifest.machine_name == "corner8"


def test_a_policy_for_another_observation_or_machine(
    hand_made: MADE, tmp_path: Path, corner8_table: dict[str, Any]
) -> None:
    folder = hand_made(tmp_path / "run")
    slower = copy.deepcopy(corner8_table)
    slower["limits"]["speed_normal_m_s"] = 0.04
    with pytest.raises(ModelFileError, match="another observation table"):
        load_for(folder, machine_from_table(slower))
    heavier = copy.deepcopy(corner8_table)
    heavier["lens"]["moving_mass_kg"] = 6.5
    assert load_for(folder, machine_from_table(heavier))
    with pytest.raises(ModelFileError, match="not for corner8 as its file is now"):
        load_for(folder, machine_from_table(heavier), same_machine=True)
