"""Observations: the table, its fingerprint, what each entry means, and the same bits alone and in a batch."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melter.geometry.cables import cable_lengths_m, structure_matrix
from melter.geometry.pose import rotation_facing, sun_direction_world, work_centre_world_m
from melter.geometry.reference import reference_tensions_n, weight_n
from melter.machine import Machine, load_machine, machine_from_table
from melter.observation import (
    LOOK_AHEAD_S,
    Measurement,
    Memory,
    ObservationBuilder,
    Plan,
    observation_table,
    table_sha256,
)

MACHINE = load_machine()
BUILDER = ObservationBuilder(MACHINE)
SUN = (np.array(MACHINE.sun.zenith_rad), np.array(MACHINE.sun.azimuth_rad))


def measured(**changes: Any) -> Measurement:
    reference = BUILDER.reference(*SUN)
    values: dict[str, Any] = {
        "patch_age_s": np.array(0.04),
        "patch_centre_world_m": np.zeros(2),
        "patch_semi_axes_m": np.array([0.012, 0.012]),
        "patch_angle_rad": np.array(0.0),
        "patch_seen": np.array(True),
        "cable_length_m": BUILDER.reference_lengths_m(np.zeros(2), reference),
        "sun_zenith_rad": SUN[0],
        "sun_azimuth_rad": SUN[1],
    }
    return Measurement(**values | changes)


def planned(target: Any = (0.0, 0.0), captured: Any = None, ahead: Any = None) -> Plan:
    target = np.array(target, dtype=float)
    ahead = np.tile(target, (len(LOOK_AHEAD_S), 1)) if ahead is None else np.array(ahead, dtype=float)
    return Plan(target, target if captured is None else np.array(captured, dtype=float), ahead)


def build(measurement: Measurement, plan: Plan, commands: Any = None) -> Any:
    commands = np.zeros((3, 8)) if commands is None else commands
    return BUILDER.build(measurement, plan, commands, BUILDER.reference(*SUN), Memory.empty())


def entry(observation: Any, name: str) -> Any:
    scale = next(entry.scale for entry in BUILDER.table if entry.name == name)
    return observation[BUILDER.slice_of(name)] * scale


def test_the_table_covers_the_observation_without_gaps() -> None:
    at = 0
    for line in BUILDER.table:
        assert BUILDER.slice_of(line.name) == slice(at, at + line.size)
        assert line.scale > 0
        assert line.bound > 0
        assert line.unit
        assert line.meaning
        at += line.size
    assert at == BUILDER.size == len(BUILDER.high)
    names = [line.name for line in BUILDER.table]
    assert len(set(names)) == len(names)


def test_fingerprint_follows_the_table(corner8_table: dict[str, Any]) -> None:
    assert BUILDER.sha256 == table_sha256(observation_table(MACHINE))
    other = copy.deepcopy(corner8_table)
    other["limits"]["speed_normal_m_s"] = 0.04
    assert ObservationBuilder(machine_from_table(other)).sha256 != BUILDER.sha256
    assert table_sha256(observation_table(MACHINE)[:-1]) != BUILDER.sha256


def test_nothing_to_do_where_all_is_right() -> None:
    observation = build(measured(), planned())
    for name in ("spot_error", "length_error", "feed_forward", "path_ahead", "target", "commands", "angle"):
        np.testing.assert_allclose(entry(observation, name), 0, atol=1e-8)
    np.testing.assert_allclose(entry(observation, "semi_axes"), 0.012, rtol=1e-6)
    np.testing.assert_allclose(entry(observation, "sun"), [0, -np.sin(np.radians(25))], atol=1e-7)
    assert entry(observation, "patch_seen") == 1
    assert entry(observation, "patch_age") == pytest.approx(0.04)


def test_spot_error_is_taken_at_the_moment_of_capture() -> None:
    seen = measured(patch_centre_world_m=np.array([0.101, 0.049]))
    observation = build(seen, planned((0.15, 0.05), captured=(0.100, 0.050)))
    np.testing.assert_allclose(entry(observation, "spot_error"), [-0.001, 0.001], rtol=1e-5)
    np.testing.assert_allclose(entry(observation, "target"), [0.15, 0.05], rtol=1e-6)


def test_feed_forward_is_the_speed_that_follows_the_path() -> None:
    """Ten seconds of the plan, followed by the reference lengths."""
    speed = np.array([0.003, -0.002])
    ahead = np.array([speed * t for t in LOOK_AHEAD_S])
    observation = build(measured(), planned((0, 0), ahead=ahead))
    reference = BUILDER.reference(*SUN)
    moved = BUILDER.reference_lengths_m(speed * 0.1, reference) - BUILDER.reference_lengths_m(np.zeros(2), reference)
    np.testing.assert_allclose(entry(observation, "feed_forward"), moved / 0.1, atol=1e-6)
    np.testing.assert_allclose(entry(observation, "path_ahead").reshape(-1, 2), ahead, atol=1e-8)


def test_commands_newest_first_and_scaled_by_a_tenth_of_normal_speed() -> None:
    commands = np.arange(24.0).reshape(3, 8) * 1e-3
    np.testing.assert_allclose(entry(build(measured(), planned(), commands), "commands"), commands.ravel(), atol=1e-8)


def test_angle_is_the_same_half_a_turn_on_and_silent_for_a_round_patch() -> None:
    oval = [
        entry(
            build(measured(patch_semi_axes_m=np.array([0.03, 0.01]), patch_angle_rad=np.array(a)), planned()), "angle"
        )
        for a in (0.3, 0.3 + np.pi)
    ]
    np.testing.assert_allclose(oval[0], oval[1], atol=1e-6)
    np.testing.assert_allclose(oval[0], np.array([np.cos(0.6), np.sin(0.6)]) * 2 / 3, rtol=1e-5)
    np.testing.assert_allclose(entry(build(measured(patch_angle_rad=np.array(0.3)), planned()), "angle"), 0, atol=1e-7)


def test_everything_is_clipped_to_its_bound() -> None:
    far = measured(patch_centre_world_m=np.array([1e6, -1e6]), patch_age_s=np.array(1e9), cable_length_m=np.zeros(8))
    observation = build(far, planned((50, 50)), np.full((3, 8), -1e9))
    assert (np.abs(observation) <= BUILDER.high).all()
    assert observation.dtype == np.float32


@given(st.floats(-0.4, 0.4), st.floats(-0.4, 0.4), st.floats(0, 0.6), st.floats(0, 6.28))
def test_reference_lengths_hold_the_lens_in_focus_on_the_spot(
    x: float, y: float, zenith: float, azimuth: float
) -> None:
    """Stretched back to the pose that focuses on the spot, these cables balance the weight to a few newtons."""
    reference = BUILDER.reference(np.array(zenith), np.array(azimuth))
    sun = sun_direction_world(zenith, azimuth)
    rotation, centre = rotation_facing(sun), work_centre_world_m([x, y], sun, MACHINE.lens.focal_length_m)
    where = (MACHINE.pulleys_world_m, MACHINE.attachments_lens_m, centre, rotation)
    free = BUILDER.reference_lengths_m(np.array([x, y]), reference)
    lengths = cable_lengths_m(*where)
    stiffness, drum = MACHINE.drive.cable_stiffness_n, MACHINE.drum_side_m
    parked = reference_tensions_n(
        structure_matrix(*where[:2], np.array(MACHINE.park.lens_centre_world_m), np.eye(3)),
        weight_n(MACHINE.lens.moving_mass_kg),
        MACHINE.tension_band_n,
    )
    tension = (lengths - free + drum * parked / stiffness) * stiffness / (free + drum)
    missing = structure_matrix(*where) @ tension + weight_n(MACHINE.lens.moving_mass_kg)
    assert tension.min() > -5
    assert tension.max() < MACHINE.limits.tension_max_n + 5
    # a newton is 50 micrometres of cable: the quadratic in the spot is good to a fraction of a millimetre
    assert np.abs(missing).max() < 40


def test_the_draft_machine_cannot_be_held(vitrifier: Machine) -> None:
    assert BUILDER.why_not_held() is None
    assert ObservationBuilder(vitrifier).why_not_held()


def test_the_same_bits_alone_and_in_a_batch() -> None:
    rng, n = np.random.default_rng(3), 17
    suns = rng.uniform(0, 0.4, n), rng.uniform(0, 6, n)
    whole = Measurement(
        patch_age_s=rng.uniform(0, 0.1, n),
        patch_centre_world_m=rng.normal(0, 0.1, (n, 2)),
        patch_semi_axes_m=np.sort(rng.uniform(0.01, 0.03, (n, 2)))[:, ::-1],
        patch_angle_rad=rng.uniform(-1.5, 1.5, n),
        patch_seen=rng.random(n) < 0.5,
        cable_length_m=rng.uniform(1.5, 3, (n, 8)),
        sun_zenith_rad=suns[0],
        sun_azimuth_rad=suns[1],
    )
    plan = Plan(rng.normal(0, 0.1, (n, 2)), rng.normal(0, 0.1, (n, 2)), rng.normal(0, 0.1, (n, len(LOOK_AHEAD_S), 2)))
    commands = rng.normal(0, 0.01, (n, 3, 8))
    together = BUILDER.build(whole, plan, commands, BUILDER.reference(*suns), Memory.empty((n,)))
    for i in range(n):
        one = Measurement(**{name: getattr(whole, name)[i] for name in Measurement.__dataclass_fields__})
        at = Plan(plan.target_world_m[i], plan.target_at_capture_world_m[i], plan.target_ahead_world_m[i])
        alone = BUILDER.build(one, at, commands[i], BUILDER.reference(suns[0][i], suns[1][i]), Memory.empty())
        np.testing.assert_array_equal(alone, together[i])


def frames(memory: Memory, offsets: np.ndarray, *, age_s: float = 0.04, seen: bool = True) -> np.ndarray:
    """Build an observation for each camera offset (k, 2), the lens where its counters say, and return the last."""
    reference = BUILDER.reference(*SUN)
    for offset in offsets:
        measurement = measured(
            patch_centre_world_m=offset,
            patch_age_s=np.array(age_s),
            patch_seen=np.array(seen),
            cable_length_m=BUILDER.reference_lengths_m(np.zeros(2), reference),
        )
        observation = BUILDER.build(measurement, planned((0, 0)), np.zeros((3, 8)), reference, memory)
    return observation


def test_the_memory_averages_the_cameras_noise_and_keeps_the_offset() -> None:
    rng, memory, offset = np.random.default_rng(0), Memory.empty(), np.array([0.003, -0.002])
    observation = frames(memory, offset + rng.normal(0, 0.0005, (400, 2)))
    estimate = entry(observation, "spot_estimate").reshape(2, 3)
    for lane, worst in enumerate((5e-4, 3e-4, 1.5e-4)):
        np.testing.assert_allclose(estimate[:, lane], -offset, atol=worst)
    np.testing.assert_allclose(entry(observation, "counter_error"), 0, atol=1e-9)
    assert entry(observation, "offset_spread") == pytest.approx(0.0007, rel=0.3)
    # the first frame is believed at once, and what is not seen changes nothing
    fresh = Memory.empty()
    np.testing.assert_allclose(
        entry(frames(fresh, offset[None]), "spot_estimate").reshape(2, 3), -np.tile(offset[:, None], 3), rtol=1e-5
    )
    before = fresh.offset_m.copy()
    frames(fresh, np.full((10, 2), 0.3), seen=False)
    np.testing.assert_array_equal(fresh.offset_m, before)


def test_the_counters_follow_a_motion_that_the_camera_has_not_seen_yet() -> None:
    """A spot that moves steadily, seen two periods late: the estimate is where it is now."""
    memory, reference, period_s = Memory.empty(), BUILDER.reference(*SUN), MACHINE.control.period_s
    speed, offset = np.array([0.02, 0.01]), np.array([0.001, 0.002])
    for tick in range(60):
        here, seen = speed * tick * period_s, speed * max(tick - 2, 0) * period_s + offset
        measurement = measured(
            patch_centre_world_m=seen,
            patch_age_s=np.array(2 * period_s),
            cable_length_m=BUILDER.reference_lengths_m(here, reference),
        )
        observation = BUILDER.build(measurement, planned(here), np.zeros((3, 8)), reference, memory)
    np.testing.assert_allclose(
        entry(observation, "spot_estimate").reshape(2, 3), -np.tile(offset[:, None], 3), atol=2e-5
    )


def test_a_lens_meant_to_hang_lower_has_shorter_lower_and_longer_upper_cables() -> None:
    reference = BUILDER.reference(*SUN)
    focused, dropped = (BUILDER.reference_lengths_m(np.zeros(2), reference, drop) for drop in (0.0, 0.1))
    assert (dropped - focused)[0::2].min() > 0.005
    assert (dropped - focused)[1::2].max() < -0.005
