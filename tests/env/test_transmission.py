"""Winches: lag, gains, power, friction with hysteresis, build-up, backlash, creep, wrap."""

from __future__ import annotations

import numpy as np
import pytest

from melter.env.hanging import Hanging, quaternion_from_rotation
from melter.env.mjcf import substeps_for
from melter.env.noise import keys_of
from melter.env.params import NOMINAL
from melter.env.physics import MachineBatch
from melter.env.transmission import BACKLASH_TENSION_N, STEPS_PER_BLOCK, Transmission, blocks_for
from melter.geometry.cables import cable_lengths_m, length_jacobian
from melter.geometry.pose import rotation_facing, sun_direction_world, work_centre_world_m
from melter.machine import load_machine

MACHINE = load_machine()
CABLES = (MACHINE.pulleys_world_m, MACHINE.attachments_lens_m)
SUN = sun_direction_world(MACHINE.sun.zenith_rad, MACHINE.sun.azimuth_rad)
FACING = rotation_facing(SUN)
CENTRE = work_centre_world_m(np.zeros(2), SUN, MACHINE.lens.focal_length_m)
LENGTHS = cable_lengths_m(*CABLES, CENTRE, FACING)
ALONG_X = length_jacobian(*CABLES, CENTRE, FACING)[:, 0]
"""Pay-out of the cables per metre that the lens moves east."""
PERIOD_S = MACHINE.control.period_s
PLAIN = {
    "pulley_loss": 0.0,
    "pulley_friction_n": 0.0,
    "pulley_radius_m": 0.0,
    "cable_creep": 0.0,
    "drum_build_up_per_m": 0.0,
    "backlash_m": 0.0,
    "motor_lag_s": 0.001,
}


class Rig:
    """A lens at work on winches with given parameters."""

    def __init__(self, **changes: float) -> None:
        values = NOMINAL.draw(keys_of([0], [0]), MACHINE)
        for name, value in (PLAIN | changes).items():
            values[name][:] = value
        self.values = values
        self.blocks = blocks_for(substeps_for(MACHINE, 120e3, 5.0))
        self.physics = MachineBatch(MACHINE, 1, self.blocks * STEPS_PER_BLOCK)
        self.winches = Transmission(MACHINE, self.physics, PERIOD_S / self.blocks)
        everything, hanging = np.array([0]), Hanging.from_values(MACHINE, values)
        self.physics.configure(everything, values)
        self.winches.configure(everything, values, LENGTHS)
        trim = hanging.trimmed(MACHINE, values, CENTRE[None], FACING[None])
        self.physics.place(everything, CENTRE[None], quaternion_from_rotation(FACING[None]), trim.unwound_m)
        self.winches.start(everything, LENGTHS[None], trim.tension_n, trim.tension_n)

    def run(self, seconds: float, speeds=0.0) -> np.ndarray:
        """Ask for pay-out speeds (8,) for a while; return where the lens is."""
        for _ in range(round(seconds / PERIOD_S)):
            self.physics.begin_period(np.zeros((1, 3)), np.zeros((1, 3)))
            self.winches.advance(np.broadcast_to(speeds, (1, self.blocks, 8)))
        return self.physics.centre_world_m[0].copy()

    def turned_m(self) -> np.ndarray:
        """(8,) stress-free cable that has left the drums: between pulley and lens, less what the drum's side lacks."""
        stretched = MACHINE.drum_side_m * self.winches.drum_tension_n[0] / self.values["cable_stiffness_n"][0]
        return self.physics.unwound_m[0] - stretched


def test_without_losses_the_lens_goes_where_its_cables_go() -> None:
    rig = Rig()
    rig.run(2.0, 0.005 * ALONG_X)
    moved = rig.run(1.0) - CENTRE
    np.testing.assert_allclose(moved, [0.01, 0, 0], atol=3e-4)
    np.testing.assert_allclose(rig.winches.counted_m[0] - LENGTHS, 0.01 * ALONG_X, atol=1e-5)


def test_friction_makes_a_way_back_shorter_by_what_the_pulleys_hold() -> None:
    """Forth and back by the counters: without friction the lens returns, with it a gap stays, wider with more friction."""
    gaps = []
    for friction in (0.0, 2.0, 4.0):
        rig = Rig(pulley_friction_n=friction)
        rig.run(1.0, -0.01 * ALONG_X)  # from here on every pulley slips one way
        rig.run(2.0, 0.01 * ALONG_X)
        there = rig.run(3.0)
        rig.run(0.5, 0.01 * ALONG_X)
        rig.run(0.5, -0.01 * ALONG_X)
        gaps.append(rig.run(3.0)[0] - there[0])
    assert gaps[0] == pytest.approx(0, abs=2e-6)
    # each cable is held back by friction on the drum's side twice over: 2 F D / EA of cable
    drum_m = float(np.mean(MACHINE.drum_side_m))
    expected = 2 * 2.0 * drum_m / MACHINE.drive.cable_stiffness_n
    assert 0.2 * expected < gaps[1] < 2 * expected
    assert gaps[2] == pytest.approx(2 * gaps[1], rel=0.25)


def test_friction_takes_energy_and_never_gives_it() -> None:
    rng = np.random.default_rng(0)
    for loss, friction in ((0.0, 0.0), (0.08, 4.0)):
        rig = Rig(pulley_loss=loss, pulley_friction_n=friction, cable_stiffness_n=25e3, cable_damping_ratio=0.03)
        rig.physics.velocity[:] = rng.choice([-0.1, 0.1], 6)
        early = max(np.abs(rig.run(PERIOD_S) - CENTRE).max() for _ in range(10))
        rig.run(6.0)
        late = max(np.abs(rig.physics.velocity).max() for _ in range(10) if rig.run(PERIOD_S) is not None)
        assert early > 3e-4
        assert late < 0.05
    still = Rig(pulley_loss=0.08, pulley_friction_n=4.0)
    assert np.abs(still.run(10.0) - CENTRE).max() < 1e-9


def test_motor_lag_and_gain() -> None:
    rig = Rig(motor_lag_s=0.05, speed_gain=1.03)
    rig.run(1.0, 0.002)
    expected = 1.03 * 0.002 * (1.0 - 0.05 * (1 - np.exp(-1 / 0.05)))
    np.testing.assert_allclose(rig.winches.counted_m[0] - LENGTHS, expected, rtol=1e-6)


def test_a_motor_reels_in_no_faster_than_its_power_allows() -> None:
    rig = Rig()
    rig.winches.tension_n[:] = 1000.0
    rig.winches.advance(np.full((1, 1, 8), -0.1))
    fastest = MACHINE.limits.power_max_w / 1000.0
    np.testing.assert_allclose(rig.winches.counted_m[0] - LENGTHS, -fastest * rig.winches.block_s, rtol=1e-9)
    rig = Rig()
    rig.winches.tension_n[:] = 1000.0
    rig.winches.advance(np.full((1, 1, 8), 0.1))  # paying out costs no power
    np.testing.assert_allclose(rig.winches.counted_m[0] - LENGTHS, 0.1 * rig.winches.block_s, rtol=0.1)


def test_drums_pay_out_by_their_gain_and_less_as_they_empty() -> None:
    for changes, expected in (
        ({}, 1.0),
        ({"drum_gain": 1.01}, 1.01),
        ({"drum_gain": 1.01, "drum_spread": -0.002}, 1.01 * 0.998),
        ({"drum_build_up_per_m": 0.02}, 1 - 0.02 * 0.05),
    ):
        rig = Rig(**changes)
        before = rig.turned_m()
        rig.run(2.0, 0.05)  # 0.1 m of cable each: the lens hangs lower on slacker cables
        np.testing.assert_allclose(rig.turned_m() - before, 0.1 * expected, atol=1.5e-4)


def test_a_jammed_drum_stops_turning_while_its_motor_goes_on() -> None:
    rig = Rig()
    rig.winches.jammed[0, 2] = True
    before = rig.turned_m()
    rig.run(0.5, 0.01)
    turned = rig.turned_m() - before
    assert turned[2] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(np.delete(turned, 2), 0.005, atol=2e-5)
    assert rig.winches.counted_m[0, 2] == pytest.approx(LENGTHS[2] + 0.005, rel=1e-3)


def test_backlash_opens_only_when_the_tension_goes() -> None:
    taut, loose = Rig(backlash_m=0.0005), Rig(backlash_m=0.0005)
    taut.run(1.0)
    assert (taut.winches.play_m == 0.0005).all()
    loose.run(1.0, 0.05)  # every cable 50 mm longer: some hang slack
    slack = loose.winches.tension_n[0] < BACKLASH_TENSION_N / 2
    assert slack.any()
    assert (loose.winches.play_m[0, slack] < 0.0004).all()


def test_creep_follows_a_change_of_tension_slowly() -> None:
    rig, stiff = Rig(cable_creep=0.003), Rig()
    assert np.abs(rig.run(5.0) - CENTRE).max() < 1e-6  # crept under its own tension long ago
    for one in (rig, stiff):
        one.run(0.1, -0.002)  # all cables 0.2 mm tighter
        one.run(0.5)
    before = rig.winches.tension_n[0] - stiff.winches.tension_n[0]
    for one in (rig, stiff):
        one.run(60.0)
    after = rig.winches.tension_n[0] - stiff.winches.tension_n[0]
    assert np.abs(before).max() < 0.5
    assert after.mean() < before.mean() - 0.1


def test_wrap_on_the_pulley_is_of_third_order() -> None:
    small, large = ([], [])
    for radius, seen in ((0.0, small), (0.035, large)):
        rig = Rig(pulley_radius_m=radius)
        for _ in range(2):
            rig.run(4.0, 0.04 * ALONG_X)
            seen.append(rig.run(0.5))
    first, second = (np.abs(b - a).max() for a, b in zip(small, large, strict=True))
    assert first < 5e-5
    assert second > 3 * first
