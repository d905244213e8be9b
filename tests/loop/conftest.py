"""A machine without physics and a clock without time: sessions run in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from melter.errors import LinkFault
from melter.geometry.paths import SandPath
from melter.geometry.pose import sun_direction_world
from melter.loop.recorder import Recorder, read_recording
from melter.loop.session import Result, Session
from melter.machine import load_machine
from melter.observation import Measurement, PatchEstimate
from melter.policy.servo import Servo
from melter.robot import Reading
from melter.safety.gate import ApprovedCommand, Gate
from melter.safety.kinematics import Kinematics

MACHINE = load_machine()
SUN_RAD = (MACHINE.sun.zenith_rad, MACHINE.sun.azimuth_rad)
PERIOD_S = MACHINE.control.period_s
LINE = SandPath(np.array([(-0.01, 0.0), (0.01, 0.0)]), 0.010)
"""Two seconds."""


class FakeClock:
    """Passes only when it is waited for; ``late`` adds to a wait now and then."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.late: Callable[[float], float] = lambda _: 0.0

    def now(self) -> float:
        return self.now_s

    def sleep_until(self, at_s: float) -> None:
        self.now_s = max(self.now_s, at_s) + self.late(at_s)


class FakeRobot:
    """Winches that do what they are told at once; light that follows the cables. ``trouble`` is called at each look."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.kinematics = clock, Kinematics(MACHINE)
        self.lengths = self.kinematics.park_lengths_m.copy()
        self.pose = self.kinematics.park
        self.drift_m_s = np.zeros(8)
        self.sent: list[ApprovedCommand] = []
        self.events: list[str] = []
        self.trouble: Callable[[FakeRobot], None] = lambda _: None
        self.sight: Callable[[FakeRobot], bool] = lambda _: True
        self.link: Callable[[FakeRobot], None] = lambda _: None
        self.sunless = False
        self.read_s = clock.now_s

    @property
    def spot_m(self) -> np.ndarray:
        found = self.kinematics.forward(self.lengths, self.pose)
        if found is not None:
            self.pose = found[0]
        sun = sun_direction_world(*SUN_RAD)
        centre = self.pose.centre_world_m
        return (centre - sun * centre[2] / sun[2])[:2]

    def measure(self) -> Reading:
        self.trouble(self)
        now_s = self.clock.now()
        self.lengths = self.lengths + self.drift_m_s * (now_s - self.read_s)
        self.read_s = now_s
        seen, spot = self.sight(self), self.spot_m
        patch = PatchEstimate(
            "ok" if seen else "lost", now_s, spot if seen else None, sunless=self.sunless and not seen
        )
        measurement = Measurement(
            patch_age_s=np.array(0.0),
            patch_centre_world_m=spot,
            patch_semi_axes_m=np.array([0.012, 0.012]),
            patch_angle_rad=np.array(0.0),
            patch_seen=np.array(seen),
            cable_length_m=self.lengths.copy(),
            sun_zenith_rad=np.array(SUN_RAD[0]),
            sun_azimuth_rad=np.array(SUN_RAD[1]),
        )
        return Reading(measurement, self.lengths.copy(), now_s, patch)

    def lengths_m(self) -> np.ndarray:
        return self.lengths.copy()

    def send(self, command: ApprovedCommand) -> ApprovedCommand:
        self.link(self)
        self.sent.append(command)
        self.lengths = self.lengths + command.counts_um * 1e-6
        return command

    def recover(self) -> None:
        self.events.append("recover")

    def stop(self) -> None:
        self.events.append("stop")


class Bench:
    """A session and all around it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.robot = FakeRobot(self.clock)
        self.gate = Gate(MACHINE)
        self.act: Any = Servo(MACHINE).act
        self.path = LINE
        self.on_tick: Callable[[dict[str, Any]], None] = lambda _: None
        self.session: Session | None = None
        self.more: dict[str, Any] = {}
        """Further arguments of the session."""

    def run(self, max_s: float | None = None) -> Result:
        with Recorder(self.folder / "recording.jsonl", self.clock.now) as recorder:
            self.session = Session(
                MACHINE,
                self.robot,
                self.gate,
                self.act,
                self.path,
                recorder,
                sun_rad=SUN_RAD,
                clock=self.clock,
                on_tick=self.on_tick,
                **self.more,
            )
            return self.session.run(max_s)

    def lines(self, kind: str | None = None) -> list[dict[str, Any]]:
        return [e for e in read_recording(self.folder / "recording.jsonl") if kind is None or e["kind"] == kind]

    def in_work(self, seconds: float) -> Callable[[], bool]:
        """Whether the path has begun that long ago."""
        return lambda: bool(self.session and self.session.result.errors_mm[round(seconds / PERIOD_S) :])


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def link_fault() -> Callable[[str], None]:
    def fail(words: str) -> None:
        raise LinkFault(words)

    return fail
