"""The rehearsal machine under its own clock: the whole chain in one thread, and the same run every time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from melter.errors import LinkFault
from melter.hw.real_robot import RealRobot
from melter.machine import Machine
from melter.safety.gate import Gate
from melter.twin.faults import parse_fault
from melter.twin.virtual import START_S, VirtualOptions, VirtualTwin


def bench(machine: Machine, **options: Any) -> tuple[VirtualTwin, Gate, RealRobot]:
    twin = VirtualTwin(VirtualOptions(machine=machine, pictures=False, **options))
    twin.driver.connect()
    gate = Gate(machine)
    twin.sleep_until(twin.now() + 0.3)
    return twin, gate, RealRobot(machine, twin.driver, twin, gate.park_lengths_m, clock=twin.now)


def wind_out(twin: VirtualTwin, gate: Gate, robot: RealRobot, seconds: float, speed_m_s: float = 0.01) -> None:
    """Let all cables out together, tick by tick; nothing else."""
    reading = robot.measure()
    gate.arm(twin.now(), reading.lengths_m, speeds_m_s=np.zeros(8), sun_world=None)
    period_s = twin.options.machine.control.period_s
    until_s = twin.now() + seconds
    while twin.now() < until_s:
        twin.sleep_until(twin.now() + period_s)
        reading = robot.measure()
        speeds = np.where(np.arange(8) % 2, -speed_m_s, speed_m_s) * 0.1
        robot.send(
            gate.approve(speeds, reading.lengths_m, twin.now(), measured_host_s=reading.lengths_host_s, mode="jog")
        )


def test_time_passes_only_when_it_is_waited_for(corner8: Machine) -> None:
    twin, _, _ = bench(corner8)
    before = twin.now()
    assert twin.now() == before
    twin.sleep_until(before + 0.25)
    assert twin.now() == pytest.approx(before + 0.25)
    assert twin.machine.t_s == pytest.approx(twin.now() - START_S, abs=2 * twin.machine.step_s)
    twin.sleep_until(before)
    assert twin.now() == pytest.approx(before + 0.25)


def test_counters_follow_what_was_sent_through_the_real_protocol(corner8: Machine) -> None:
    twin, gate, robot = bench(corner8)
    wind_out(twin, gate, robot, 1.0)
    twin.sleep_until(twin.now() + 0.5)
    status = twin.driver.poll()
    assert status.faults == ()
    assert status.state == "idle"
    assert status.positions_m[0] == pytest.approx(1e-3, abs=2e-4)
    assert twin.firmware.position_m == pytest.approx(status.positions_m, abs=2e-5)


def test_the_same_seed_gives_the_same_run(corner8: Machine) -> None:
    seen: list[Any] = []
    for _ in range(2):
        twin, gate, robot = bench(corner8, seed=5)
        wind_out(twin, gate, robot, 0.5)
        estimate = twin.newest()
        assert estimate is not None
        assert estimate.centre_world_m is not None
        seen.append((estimate.centre_world_m.tolist(), twin.machine.snapshot().tensions_n.tolist()))
    assert seen[0] == seen[1]


def test_a_cut_cable_is_a_link_fault(corner8: Machine) -> None:
    twin, gate, robot = bench(corner8, faults=(parse_fault("serial-cut@0.8"),))
    with pytest.raises(LinkFault, match=r"hangup|silence"):
        wind_out(twin, gate, robot, 3.0)


def test_pictures_are_tracked(corner8: Machine) -> None:
    twin = VirtualTwin(VirtualOptions(machine=corner8, seed=1))
    twin.take_reference()
    twin.sleep_until(twin.now() + 0.12)
    estimate = twin.newest()
    assert estimate is not None
    assert estimate.captured_host_s >= START_S
