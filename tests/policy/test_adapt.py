"""Learning on the machine: what is there to be learnt is learnt, what is not does no harm."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from melter.errors import BadInput
from melter.machine import Machine
from melter.observation import LOOK_AHEAD_S, Measurement, Memory, Plan
from melter.policy.adapt import LAG, LATE, Adapter, AdaptSettings

PERIOD_S = 0.05
AGE_S = 0.05


def _measurement(patch: np.ndarray, age_s: float = AGE_S, seen: bool = True) -> Measurement:
    return Measurement(
        patch_age_s=np.array(age_s),
        patch_centre_world_m=patch,
        patch_semi_axes_m=np.array([0.012, 0.01]),
        patch_angle_rad=np.array(0.0),
        patch_seen=np.array(seen),
        cable_length_m=np.zeros(8),
        sun_zenith_rad=np.array(0.4),
        sun_azimuth_rad=np.array(3.0),
    )


def _drive(
    adapter: Adapter, offset, seconds: float, *, noise_m: float = 1e-4, late_s: float = 0.0, seed: int = 0
) -> Memory:
    """Counters weave over the bed at 15 mm/s and more; the light lies ``offset(spot, velocity)`` away, seen ``late_s`` late."""
    rng, memory = np.random.default_rng(seed), Memory.empty()
    speed, radius = 0.015, 0.15

    def spot(t_s: float) -> np.ndarray:
        angle = speed / radius * t_s
        return radius * np.array([np.cos(angle), np.sin(1.7 * angle)])

    def velocity(t_s: float) -> np.ndarray:
        return (spot(t_s + 1e-3) - spot(t_s - 1e-3)) / 2e-3

    shares = -np.expm1(-PERIOD_S / np.array([0.2, 1.0, 5.0]))
    for tick in range(round(seconds / PERIOD_S)):
        t_s = tick * PERIOD_S
        taken_s = t_s - AGE_S - late_s
        patch = spot(taken_s) + offset(spot(taken_s), velocity(taken_s)) + rng.normal(0, noise_m, 2)
        measurement = _measurement(patch)
        memory.add(spot(t_s), patch, measurement.patch_seen, measurement.patch_age_s / PERIOD_S, shares)
        adapter.learn(memory, measurement, t_s)
    return memory


def _slope(spot: np.ndarray, _: np.ndarray) -> np.ndarray:
    return np.array([0.002 + 0.01 * spot[0], -0.001 + 0.008 * spot[1]])


def test_an_offset_that_depends_on_the_place_is_learnt(corner8: Machine) -> None:
    adapter = Adapter(corner8)
    _drive(adapter, lambda s, v: _slope(s, v) - 0.03 * v, 180)
    place, still = np.array([0.1, 0.08]), np.zeros(2)
    assert adapter.share == 1
    assert adapter.offset_m(place, still) == pytest.approx(_slope(place, still), abs=2e-4)
    without, left = adapter.lags_mm
    assert left < 0.3 * without


def test_nothing_to_learn_is_not_used(corner8: Machine) -> None:
    adapter = Adapter(corner8, AdaptSettings(lag_s=(0.0, 0.001), late_s=(0.0, 0.001)))
    _drive(adapter, lambda s, _: 0 * s, 120, noise_m=5e-4)
    assert np.linalg.norm(adapter.offset_m(np.array([0.1, 0.1]), np.zeros(2))) < 2e-4


def test_a_late_camera_and_lagging_winches_are_told_apart_by_what_is_known_of_them(corner8: Machine) -> None:
    late = Adapter(corner8)
    _drive(late, lambda _, v: -0.03 * v, 120, late_s=0.06)
    assert 0.035 < late.state[LATE] < 0.065
    assert late.state[LAG] == pytest.approx(0.03, abs=0.015)
    sure = Adapter(corner8, AdaptSettings(late_s=(0.0, 1e-4), lag_s=(0.03, 0.05)))
    _drive(sure, lambda _, v: -0.09 * v, 120)
    assert sure.state[LAG] == pytest.approx(0.09, abs=0.01)


def test_a_map_that_is_wrong_fades_out(corner8: Machine) -> None:
    adapter = Adapter(corner8)
    _drive(adapter, _slope, 120)
    assert adapter.share == 1
    adapter.state[:12] *= -8  # the machine has changed, or the map was spoilt
    adapter.covariance *= 1e-9
    _drive(adapter, _slope, 60)
    assert adapter.share == 0


def test_jumps_are_not_learnt_from(corner8: Machine) -> None:
    adapter = Adapter(corner8)
    memory = _drive(adapter, _slope, 60)
    before = adapter.state.copy()
    for tick in range(20):
        adapter.learn(memory, _measurement(memory.spots_m[1] + 0.2), 1000.0 + tick)
    assert adapter.state == pytest.approx(before)


def test_the_map_is_bounded_and_enters_slowly(corner8: Machine) -> None:
    adapter = Adapter(corner8)
    adapter.state[0] = 5.0
    assert np.linalg.norm(adapter.offset_m(np.zeros(2), np.zeros(2))) == pytest.approx(adapter.settings.most_m)
    shares = []
    fresh = Adapter(corner8)
    for part in range(24):
        _drive(fresh, _slope, 5, seed=part)
        shares.append(fresh.share)
    assert shares[0] == 0


def test_no_frame_twice_and_none_unseen(corner8: Machine) -> None:
    adapter = Adapter(corner8)
    memory = _drive(adapter, _slope, 10)
    frames = adapter.frames
    adapter.learn(memory, _measurement(np.zeros(2)), 199 * PERIOD_S)
    adapter.learn(memory, _measurement(np.zeros(2), seen=False), 11.0)
    assert adapter.frames == frames


def test_moved_plans_leave_the_error_as_it_is_without_the_map(corner8: Machine) -> None:
    adapter, ahead = Adapter(corner8), len(LOOK_AHEAD_S)
    plan = Plan(np.array([0.1, 0.0]), np.array([0.099, 0.0]), np.array([[0.1 + 0.02 * t, 0.0] for t in LOOK_AHEAD_S]))
    measurement = _measurement(np.array([0.097, 0.001]))
    moved, seen = adapter.move(plan, measurement)
    assert moved.target_world_m == pytest.approx(plan.target_world_m)
    assert seen.patch_centre_world_m == pytest.approx(measurement.patch_centre_world_m)
    adapter.share, adapter.state[:12] = 1.0, 0.0
    adapter.state[0], adapter.state[LAG], adapter.state[LATE] = 0.002, 0.05, 0.0
    moved, seen = adapter.move(plan, measurement)
    assert moved.target_ahead_world_m.shape == (ahead, 2)
    assert moved.target_world_m == pytest.approx([0.1 - 0.002 + 0.05 * 0.02, 0.0])  # ahead of a lag, against an offset
    adapter.state[LATE], adapter.state[LAG], adapter.state[0] = 0.03, 0.0, 0.0
    moved, seen = adapter.move(plan, measurement)
    assert seen.patch_age_s == pytest.approx(AGE_S + 0.03)
    assert moved.target_at_capture_world_m[0] < plan.target_at_capture_world_m[0]


def test_what_was_learnt_is_taken_up_again(corner8: Machine, tmp_path: Path) -> None:
    adapter, again = Adapter(corner8), Adapter(corner8)
    _drive(adapter, _slope, 60)
    file = tmp_path / "learned.json"
    file.write_text(json.dumps(adapter.as_table()))
    again.take_up(file)
    assert again.state == pytest.approx(adapter.state)
    for name, value in (("machine_sha256", "other"), ("state", [1.0]), ("covariance", [[-1.0] * 15] * 15)):
        file.write_text(json.dumps(adapter.as_table() | {name: value}))
        with pytest.raises(BadInput, match="learned"):
            again.take_up(file)
    file.write_text(json.dumps(adapter.as_table()).replace(str(adapter.state[0]), "NaN"))
    with pytest.raises(BadInput, match="finite"):
        again.take_up(file)
