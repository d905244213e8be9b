"""The classical servo, entry by entry: what it does about an error, a moved offset, a corner, commands under way."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melter.machine import Machine
from melter.observation import COMMANDS_KEPT, LOOK_AHEAD_S, MEMORY_S, ObservationBuilder
from melter.policy import servo as servos
from melter.policy.servo import DISAGREEMENT_M, Servo, ServoGains

PLAIN = ServoGains(
    spot_per_s=(5.0, 5.0, 5.0),
    fast_weight=(0.0, 0.0, 0.0),
    slow_weight=(0.0, 0.0, 0.0),
    jump=(1e6, 1e6),
    moved_weight=1.0,
    length_per_s=2.0,
    commands_in_flight=0.0,
    lead=0.0,
)


def observation_of(machine: Machine, **entries: Any) -> Any:
    """One observation: lens at rest over the middle under the machine's sun, nothing amiss but ``entries`` (SI)."""
    builder = ObservationBuilder(machine)
    zenith, azimuth = machine.sun.zenith_rad, machine.sun.azimuth_rad
    sun = [np.sin(zenith) * np.sin(azimuth), np.sin(zenith) * np.cos(azimuth)]
    observation = np.zeros((1, builder.size), np.float32)
    for entry in builder.table:
        value = {"sun": sun, "offset_spread": 1e-6, **entries}.get(entry.name)
        if value is not None:
            observation[0, builder.slice_of(entry.name)] = np.ravel(value) / entry.scale
    return observation


def move_of(servo: Servo, observation: Any) -> Any:
    """(2,) level speed of the lens that the servo's action amounts to, m/s."""
    speeds = servo.act(observation).astype(float) * servo.machine.limits.speed_normal_m_s
    return servos._explained(servo._plane(observation), speeds)[0]


def estimates(fast: Any, middle: Any, slow: Any) -> Any:
    """(2, 3) spot_estimate."""
    return np.stack([fast, middle, slow], axis=-1)


def test_nothing_amiss_nothing_done(corner8: Machine) -> None:
    np.testing.assert_array_equal(Servo(corner8).act(observation_of(corner8)), 0)


@given(x=st.floats(-2e-3, 2e-3), y=st.floats(-2e-3, 2e-3))
def test_an_error_is_taken_back_at_the_gain(corner8: Machine, x: float, y: float) -> None:
    error = np.array([x, y])
    seen = observation_of(corner8, spot_estimate=estimates(error, error, error))
    np.testing.assert_allclose(move_of(Servo(corner8, PLAIN), seen), 5.0 * error, atol=2e-7)


def test_other_length_errors_do_not_move_the_spot(corner8: Machine) -> None:
    servo = Servo(corner8, PLAIN)
    lengths = 1e-3 * np.array([1, -1, 2, 0, 1, 0, -2, 1])
    seen = observation_of(corner8, length_error=lengths)
    np.testing.assert_allclose(move_of(servo, seen), 0, atol=1e-8)
    speeds = servo.act(seen)[0] * corner8.limits.speed_normal_m_s
    rest = lengths - servos._through(servo._plane(seen), servos._explained(servo._plane(seen), lengths[None]))[0]
    np.testing.assert_allclose(speeds, 2.0 * rest, atol=1e-8)


def test_commands_under_way_are_not_given_twice(corner8: Machine) -> None:
    gains = ServoGains(**{**PLAIN.__dict__, "commands_in_flight": 1.5})
    servo, error = Servo(corner8, gains), np.array([1e-3, 0.0])
    plane = servo._plane(observation_of(corner8))
    commands = np.zeros((COMMANDS_KEPT, 8))
    commands[:2] = servos._through(plane, np.array([[4e-3, 0.0]]))[0]
    seen = observation_of(corner8, spot_estimate=estimates(error, error, error), commands=commands)
    under_way_m = 4e-3 * 1.5 * corner8.control.period_s
    np.testing.assert_allclose(move_of(servo, seen), [5.0 * (1e-3 - under_way_m), 0], atol=1e-6)


def test_feed_forward_looks_into_a_corner(corner8: Machine) -> None:
    ahead = np.zeros((len(LOOK_AHEAD_S), 2))
    ahead[0], ahead[1:] = [1e-4, 0], [1e-4, 3e-4]  # 1 mm/s along x for 0.1 s, then 2 mm/s along y
    seen = observation_of(corner8, path_ahead=ahead)
    for lead in (0.0, 0.5, 1.0):
        servo = Servo(corner8, ServoGains(**{**PLAIN.__dict__, "lead": lead}))
        np.testing.assert_allclose(move_of(servo, seen), [-lead * 1e-3, lead * 2e-3], atol=1e-7)
    straight = np.outer(LOOK_AHEAD_S, [2e-3, 0])
    seen = observation_of(corner8, path_ahead=straight)
    np.testing.assert_allclose(move_of(servo, seen), 0, atol=1e-8)


def test_a_moved_offset_is_believed_only_beyond_the_noise(corner8: Machine) -> None:
    gains = ServoGains(**{**PLAIN.__dict__, "slow_weight": (1.0, 1.0, 1.0), "jump": (2.0, 2.0)})
    servo, spread = Servo(corner8, gains), 1e-3
    fast_noise, middle_noise = (spread * np.sqrt(corner8.control.period_s / 2 / tau) for tau in MEMORY_S[:2])
    nothing = np.zeros(2)
    for times, share in ((0.2, 0.0), (2.0, 0.5), (20.0, 1.0)):
        fast = np.array([times * fast_noise, 0.0])
        moved = move_of(
            servo, observation_of(corner8, spot_estimate=estimates(fast, nothing, nothing), offset_spread=spread)
        )
        if share != 0.5:
            np.testing.assert_allclose(moved, 5.0 * share * fast, atol=1e-5)
        middle = np.array([0.0, times * middle_noise])
        seen = observation_of(corner8, spot_estimate=estimates(middle, middle, nothing), offset_spread=spread)
        np.testing.assert_allclose(move_of(servo, seen), 5.0 * share * middle, atol=1e-5)


@pytest.mark.parametrize("knot", range(3))
def test_gains_are_scheduled_by_the_disagreement(corner8: Machine, knot: int) -> None:
    gains = ServoGains(**{**PLAIN.__dict__, "spot_per_s": (8.0, 4.0, 2.0)})
    error = np.array([1e-3, -1e-3])
    seen = observation_of(corner8, spot_estimate=estimates(error, error, error), offset_spread=DISAGREEMENT_M[knot])
    expected = gains.spot_per_s[knot] * error
    np.testing.assert_allclose(move_of(Servo(corner8, gains), seen), expected, rtol=1e-4)


def test_lost_or_wild_numbers_stay_in_range(corner8: Machine) -> None:
    builder = ObservationBuilder(corner8)
    rng = np.random.default_rng(0)
    wild = (rng.choice([-1, 0, 1], (500, builder.size)) * builder.high).astype(np.float32)
    action = Servo(corner8).act(wild)
    assert np.isfinite(action).all()
    assert (np.abs(action) <= 1).all()


def test_every_gain_matters(corner8: Machine) -> None:
    rng = np.random.default_rng(1)
    ahead = np.cumsum(rng.normal(0, 1e-4, (len(LOOK_AHEAD_S), 2)), axis=0)
    seen = observation_of(
        corner8,
        spot_estimate=rng.normal(0, 2e-4, (2, 3)),
        length_error=rng.normal(0, 1e-3, 8),
        commands=rng.normal(0, 1e-3, (COMMANDS_KEPT, 8)),
        path_ahead=ahead,
        offset_spread=5e-4,
    )
    before = Servo(corner8).act(seen)
    for field in fields(ServoGains):
        value = getattr(ServoGains(), field.name)
        other = tuple(v + 0.4 for v in value) if isinstance(value, tuple) else value + 0.4
        changed = Servo(corner8, ServoGains(**{**ServoGains().__dict__, field.name: other})).act(seen)
        assert np.abs(changed - before).max() > 1e-7, field.name
