"""Faults in the middle of melting, on the rehearsal machine under a virtual clock: named, dark in time, recorded to the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from melter.geometry.melting import melting_irradiance_w_m2
from melter.geometry.paths import SandPath
from melter.hw.real_robot import RealRobot
from melter.loop.recorder import Recorder, read_recording
from melter.loop.session import Session
from melter.loop.shadow import Shadow
from melter.machine import load_machine
from melter.policy.servo import Servo
from melter.safety.gate import Gate
from melter.twin.faults import Fault
from melter.twin.virtual import VirtualOptions, VirtualTwin

MACHINE = load_machine()
SUN_RAD = (MACHINE.sun.zenith_rad, MACHINE.sun.azimuth_rad)
MELTS_W_M2 = float(melting_irradiance_w_m2(MACHINE.sand.melting_k, MACHINE.sand.absorptivity))
STRIKE_S, DARK_S = 32.0, 1.5
LOOP = {
    "cable-snapped": "shadow: the light jumped",
    "camera-gone": "camera: no new frame",
    "alarm": "alarm: the board raised",
}
"""Faults that the loop answers by itself, and how it names them."""


def drill(fault: str, folder: Path, seed: int = 3) -> dict[str, Any]:
    """Melt along a line until ``fault`` strikes; nominal machine but for the seed's weather and light."""
    twin = VirtualTwin(VirtualOptions(machine=MACHINE, seed=seed, pictures=False, faults=(Fault(fault, STRIKE_S),)))
    gate = Gate(MACHINE)
    path = SandPath(np.array([(-0.1, 0.0), (0.1, 0.0)]), 0.002)
    with twin.driver as driver, Recorder(folder / "recording.jsonl", twin.now) as recorder:
        robot = RealRobot(MACHINE, driver, twin, gate.park_lengths_m, SUN_RAD, twin.now)
        shadow = Shadow(MACHINE.control.period_s)
        session = Session(
            MACHINE, robot, gate, Servo(MACHINE).act, path, recorder, sun_rad=SUN_RAD, clock=twin, shadow=shadow
        )
        result = session.run(20.0)
    at_s = np.array([line["t_s"] for line in twin.truth])
    bright = np.array([line["peak_w_m2"] for line in twin.truth]) >= MELTS_W_M2
    return {
        "result": result,
        "melting": bool(bright[(at_s > STRIKE_S - 0.5) & (at_s < STRIKE_S)].all()),
        "dark_s": float(at_s[bright][-1]) - STRIKE_S,
    }


@pytest.mark.parametrize(
    "fault",
    ["cable-snapped", *(pytest.param(name, marks=pytest.mark.long) for name in LOOP if name != "cable-snapped")],
)
def test_a_fault_in_mid_melting(fault: str, tmp_path: Path) -> None:
    found = drill(fault, tmp_path)
    result = found["result"]
    assert found["melting"]
    assert result.faults
    assert LOOP[fault] in result.faults[0]
    assert result.dark
    assert found["dark_s"] <= DARK_S
    lines = read_recording(tmp_path / "recording.jsonl")
    assert any(line["kind"] == "fault" and line["reason"] in result.faults[0] for line in lines)
    assert lines[-1]["event"] == "parked"


@pytest.mark.long
def test_without_a_fault_the_shadow_is_quiet(tmp_path: Path) -> None:
    found = drill("gust", tmp_path)
    assert found["result"].faults == []
    assert found["result"].finished
    shares = [line["gap_share"] for line in read_recording(tmp_path / "recording.jsonl") if "gap_share" in line]
    assert len(shares) > 300
    assert max(shares) < 1


class Stumbling:
    """A clock on which the whole computer, driver included, stands still for a while at given moments."""

    def __init__(self, twin: VirtualTwin, moments_s: list[float], stands_s: float) -> None:
        self.twin, self.moments_s, self.stands_s = twin, [twin.now() + at_s for at_s in moments_s], stands_s

    def now(self) -> float:
        return self.twin.now()

    def sleep_until(self, at_s: float) -> None:
        self.twin.sleep_until(at_s)
        if self.moments_s and self.now() > self.moments_s[0]:
            self.moments_s.pop(0)
            driver, pump = self.twin.driver, self.twin.driver.pump
            driver.pump = lambda: None  # type: ignore[method-assign]
            self.twin.sleep_until(self.now() + self.stands_s)
            driver.pump = pump  # type: ignore[method-assign]


@pytest.mark.parametrize(("stands_s", "goes_on"), [(0.3, True), (0.6, False)])
def test_a_computer_that_stands_still_for_a_moment(stands_s: float, goes_on: bool, tmp_path: Path) -> None:
    """At a melting feed three tenths of a second are borne, and told; longer ones end in the dark."""
    twin = VirtualTwin(VirtualOptions(machine=MACHINE, seed=3, pictures=False))
    gate, path = Gate(MACHINE), SandPath(np.array([(-0.1, 0.0), (0.1, 0.0)]), 0.002)
    with twin.driver as driver, Recorder(tmp_path / "recording.jsonl", twin.now) as recorder:
        robot = RealRobot(MACHINE, driver, twin, gate.park_lengths_m, SUN_RAD, twin.now)
        clock = Stumbling(twin, [32.0, 34.0], stands_s)
        session = Session(MACHINE, robot, gate, Servo(MACHINE).act, path, recorder, sun_rad=SUN_RAD, clock=clock)
        result = session.run(10.0)
    assert (result.faults == []) is goes_on
    assert result.finished is goes_on
    assert result.dark
    assert result.late >= 1
