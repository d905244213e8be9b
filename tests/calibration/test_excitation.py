"""The run made for calibrating: what it asks of machine, gate and sand."""

from __future__ import annotations

import numpy as np
import pytest

from melter.calibration.excitation import Excitation
from melter.geometry.pose import sun_direction_world
from melter.machine import load_machine
from melter.observation import DROP_M, ObservationBuilder
from melter.safety.gate import Gate

MACHINE = load_machine()
SUN_RAD = (MACHINE.sun.zenith_rad, MACHINE.sun.azimuth_rad)
EXCITATION = Excitation(MACHINE, SUN_RAD)
PERIOD_S = MACHINE.control.period_s
TIMES = np.arange(0, EXCITATION.duration_s + PERIOD_S / 2, PERIOD_S)
LENGTHS_M = np.array([EXCITATION.lengths_m(t) for t in TIMES])
SPEED_M_S = np.diff(LENGTHS_M, axis=0) / PERIOD_S


def test_begins_and_ends_below_focus_over_the_middle() -> None:
    builder = ObservationBuilder(MACHINE)
    reference = builder.reference(*(np.array(angle) for angle in SUN_RAD))
    expected = builder.reference_lengths_m(np.zeros(2), reference, DROP_M)
    for t_s in (0.0, EXCITATION.duration_s, EXCITATION.duration_s + 9.0):
        assert EXCITATION.lengths_m(t_s) == pytest.approx(expected, abs=1e-6)


def test_the_light_is_never_sharp_where_it_is_slow() -> None:
    """Faster than 6 mm/s leaves no glass; within 60 mm of the focus it is 15 mm/s at least."""
    spot, drop = EXCITATION.spot_world_m(TIMES), EXCITATION.drop_m(TIMES)
    speed = np.linalg.norm(np.gradient(spot, TIMES, axis=0), axis=1)
    assert speed[drop < 0.060].min() > 0.015
    assert (np.abs(spot) < np.array(MACHINE.bed.size_m) / 2).all()
    assert drop.min() < 0.001


def test_every_winch_goes_out_and_in_within_its_normal_speed() -> None:
    assert np.abs(SPEED_M_S[40:-40]).max() < 1.06 * MACHINE.limits.speed_normal_m_s
    assert np.mean(np.abs(SPEED_M_S) > MACHINE.limits.speed_normal_m_s) < 0.01
    assert np.ptp(LENGTHS_M, axis=0).min() > 0.2
    reversals = (np.diff(np.sign(SPEED_M_S), axis=0) != 0).sum(axis=0)
    assert reversals.min() > 20


def test_the_gate_lets_it_pass() -> None:
    """Winches that do what they are told: no fault, and hardly a command that has to be changed."""
    gate, now_s = Gate(MACHINE), 100.0
    counted = LENGTHS_M[0].copy()
    gate.arm(now_s, counted, speeds_m_s=np.zeros(8), sun_world=sun_direction_world(*SUN_RAD))
    for wanted in LENGTHS_M[1:]:
        now_s += PERIOD_S
        command = gate.approve((wanted - counted) / PERIOD_S, counted, now_s, measured_host_s=now_s)
        counted = counted + command.counts_um * 1e-6
    assert gate.fault_reason is None
    assert sum(gate.interventions.values()) < 0.01 * LENGTHS_M.size
    assert counted == pytest.approx(LENGTHS_M[-1], abs=1e-3)
