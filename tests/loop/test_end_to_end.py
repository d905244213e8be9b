"""The whole loop for real: a twin in a process of its own, its serial port, its camera, tracker, gate and servo."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from melter.errors import PortError
from melter.geometry.paths import SandPath
from melter.hw.grbl_driver import GrblDriver
from melter.hw.real_robot import RealRobot
from melter.loop import session
from melter.loop.recorder import Recorder, read_recording
from melter.loop.session import Result, Session
from melter.loop.teller import Teller
from melter.loop.truth import true_errors
from melter.machine import load_machine
from melter.policy.servo import Servo
from melter.safety.gate import Gate
from melter.vision.camera import open_camera
from melter.vision.tracker import PatchTracker
from melter.vision.watch import PatchWatcher

MACHINE = load_machine()
SUN_RAD = (MACHINE.sun.zenith_rad, MACHINE.sun.azimuth_rad)


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    command = [sys.executable, "-m", "melter.cli.main", "twin", "--seed", "5", "--truth", str(tmp_path / "truth.jsonl")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield process, json.loads(line)
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def connected(stack: contextlib.ExitStack, port: str) -> GrblDriver:
    """A driver on the twin's port. Terminals' names are given again, so another test's driver may knock there first."""
    for _ in range(5):
        with contextlib.suppress(PortError):
            return stack.enter_context(GrblDriver(port, MACHINE))
        time.sleep(1)
    raise AssertionError(f"{port} stays busy")


def drive(where: dict[str, str], folder: Path, path: SandPath, on_tick: Any = lambda _: None) -> Result:
    gate = Gate(MACHINE)
    with contextlib.ExitStack() as stack:
        camera = stack.enter_context(open_camera(where["camera_url"]))
        watcher = PatchWatcher(camera, PatchTracker(MACHINE))
        watcher.take_reference()
        driver = connected(stack, where["port"])
        recorder = stack.enter_context(Recorder(folder / "recording.jsonl"))
        stack.enter_context(watcher)
        teller = stack.enter_context(Teller(where["camera_url"]))
        robot = RealRobot(MACHINE, driver, watcher, gate.park_lengths_m, SUN_RAD)

        def each(tick: dict[str, Any]) -> None:
            if "target_world_m" in tick:
                teller.tell(tick["target_world_m"])
            on_tick(tick)

        act = Servo(MACHINE).act
        return Session(MACHINE, robot, gate, act, path, recorder, sun_rad=SUN_RAD, on_tick=each).run()


def require_limits(folder: Path) -> list[dict[str, Any]]:
    """No command above a limit, by sums of this file's own."""
    ticks = [line for line in read_recording(folder / "recording.jsonl") if line["kind"] == "tick"]
    speeds = np.array([line["approved_m_s"] for line in ticks])
    work = np.array([line["mode"] == "policy" for line in ticks])
    limits, period_s = MACHINE.limits, MACHINE.control.period_s
    assert np.abs(speeds).max() <= limits.speed_max_m_s + 1e-9
    assert np.abs(speeds[work]).max(initial=0) <= limits.speed_normal_m_s + 1e-9
    assert np.abs(np.diff(speeds, axis=0)).max() <= limits.acceleration_max_m_s2 * period_s + 1e-9
    return ticks


def test_a_line_by_the_servo(twin: Any, tmp_path: Path) -> None:
    _, where = twin
    path = SandPath(np.array([(-0.02, 0.0), (0.02, 0.01)]), 0.011)  # 3.7 s
    result = drive(where, tmp_path, path)
    assert result.faults == []
    assert result.finished
    assert result.dark
    require_limits(tmp_path)
    truth = true_errors(tmp_path / "recording.jsonl", tmp_path / "truth.jsonl")
    assert truth["rms_mm"] < 5
    assert truth["tension_max_n"] < MACHINE.limits.tension_trip_n
    lines = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()[:-1]]
    told = [line for line in lines if line["target_world_m"] is not None]
    assert told  # the controller told the twin where the target is
    assert abs(told[-1]["target_world_m"][0]) <= 0.02 + 1e-9
    assert np.abs([line["cable_speed_m_s"] for line in lines]).max() < MACHINE.limits.speed_max_m_s * 1.15
    assert lines[-1]["peak_w_m2"] < 10e3  # and the light is spread again


def test_a_twin_that_dies_in_mid_run(twin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "LINK_TRIES", 2)
    process, where = twin
    sent = 0

    def on_tick(_: Any) -> None:
        nonlocal sent
        sent += 1
        if sent == 40:
            process.kill()

    result = drive(where, tmp_path, SandPath(np.array([(0.0, 0.0), (0.02, 0.0)]), 0.01), on_tick)
    assert not result.finished
    assert not result.dark
    assert result.faults[0].startswith(("LinkFault", "VisionFault"))
    assert any(fault.startswith("LinkFault") for fault in result.faults)
    ticks = require_limits(tmp_path)
    assert len(ticks) >= 40
    lines = read_recording(tmp_path / "recording.jsonl")
    assert [line["event"] for line in lines if line["kind"] == "event"] == ["armed", "transit", "dark", "not dark"]
    assert any(line["kind"] == "fault" for line in lines)
    assert len(lines) == len((tmp_path / "recording.jsonl").read_text().splitlines())  # none is cut
