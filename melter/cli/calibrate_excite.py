"""The run that ``melter calibrate machine --excite`` makes: through the same session and gate as ``melter real``."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from melter.calibration.excitation import Excitation
from melter.cli.common import plain, say
from melter.errors import Fault
from melter.geometry.paths import SandPath
from melter.loop.session import Session
from melter.loop.transit import Transit
from melter.observation import DROP_M

if TYPE_CHECKING:
    from melter.cli.real_preflight import Sky
    from melter.hw.driver import MotorDriver, MotorStatus
    from melter.loop.lastknown import LastKnownFile
    from melter.loop.recorder import Recorder
    from melter.machine import Machine
    from melter.robot import Reading
    from melter.vision.watch import PatchWatcher

STILL_S = 1.0
"""Time over the bed's middle before the excitation begins."""
LOOK_S, READINGS_A_LINE = 0.005, 20
"""The counters are looked at so often, and so many readings make a line of the recording."""


@dataclass(frozen=True, kw_only=True)
class Where:
    """What a run needs to know of camera and controller."""

    camera: str
    port: str
    driver: str
    calibration: str | None
    arm: bool


class CounterLog:
    """Every reading of the winch counters, more often than the control period; written to the recording in batches."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder, self._read_s, self._positions = recorder, list[float](), list[list[float]]()
        self._last_s = -np.inf

    def see(self, status: MotorStatus) -> None:
        """Take in a status; what was seen before does not count."""
        if status.read_host_s <= self._last_s or not np.isfinite(status.read_host_s):
            return
        self._last_s = status.read_host_s
        self._read_s.append(round(status.read_host_s, 6))
        self._positions.append(status.positions_m.tolist())
        if len(self._read_s) >= READINGS_A_LINE:
            self.write()

    def write(self) -> None:
        """Write what is waiting."""
        if self._read_s:
            self._recorder.write("counters", read_s=self._read_s, positions_m=self._positions)
        self._read_s, self._positions = [], []


class _Watch:
    """Asks a driver for its counters in a thread. A context manager."""

    def __init__(self, driver: MotorDriver, log: CounterLog) -> None:
        self._driver, self._log, self._end = driver, log, threading.Event()
        self._thread = threading.Thread(target=self._run, name="counters", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(timeout=2)
        self._log.write()

    def _run(self) -> None:
        while not self._end.wait(LOOK_S):
            self._log.see(self._driver.poll())


class ExcitingSession(Session):
    """A session that follows the excitation by the winch counters; camera and gate watch as ever."""

    def __init__(
        self, excitation: Excitation, machine: Machine, robot: Any, gate: Any, recorder: Any, **more: Any
    ) -> None:
        points = excitation.spot_world_m(np.linspace(0.0, excitation.duration_s, 400))
        length_m = float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())
        path = SandPath(points, length_m / excitation.duration_s)
        super().__init__(machine, robot, gate, _no_policy, path, recorder, **more)
        self._excitation = excitation

    def _go_to_work(self) -> None:
        """To the start below focus: nowhere on the way is the light sharp."""
        lens = self.machine.lens
        shorter = lens.model_copy(update={"focal_length_m": lens.focal_length_m - DROP_M})
        sun_rad = self.sun.angles_rad(self._next_s - self._sun_since_s)
        lowered = self.machine.model_copy(update={"lens": shorter})
        transit = Transit(lowered, sun_rad, self._excitation.spot_world_m(0.0), self.gate.park_lengths_m)
        self.recorder.write("event", event="transit", duration_s=transit.duration_s)
        period_s, start_s = self.machine.control.period_s, self._next_s
        while self._asked is None and self._next_s - start_s < transit.duration_s + 0.5:
            wanted = transit.lengths_m(self._next_s + period_s - start_s)
            self._tick("transit", lambda _, __, wanted=wanted: (wanted - self._commanded_m) / period_s)

    def _follow(self, max_s: float | None) -> None:
        self.recorder.write("event", event="excitation", duration_s=self._excitation.duration_s)
        begin_s, period_s = self._next_s + STILL_S, self.machine.control.period_s
        end_s = begin_s + min(self._excitation.duration_s, np.inf if max_s is None else max_s)
        self.sight.forget()

        def towards(reading: Reading, now_s: float) -> NDArray[np.float64]:
            self.sight.see(reading, now_s, period_s)
            t_s = now_s - begin_s
            self._extra = {"t_s": t_s, "target_world_m": self._excitation.spot_world_m(t_s)}
            return (self._excitation.lengths_m(t_s + period_s) - self._commanded_m) / period_s

        while self._asked is None and self._next_s < end_s:
            self._tick("policy", towards)


def excite(where: Where, machine: Machine, sky: Sky, out: str | None, minutes: float) -> Path:
    """Make the run; return its recording. Raises what ``melter real`` would."""
    from melter.cli.real_preflight import require_parked, told, wait_for_key
    from melter.hw.drivers import make_driver
    from melter.hw.real_robot import RealRobot
    from melter.loop.lastknown import LastKnownFile, place_for
    from melter.loop.recorder import Recorder
    from melter.policy.files import new_run_folder, surroundings, write_json
    from melter.safety.gate import Gate
    from melter.vision.calibration import load_calibration
    from melter.vision.camera import open_camera
    from melter.vision.tracker import PatchTracker
    from melter.vision.watch import PatchWatcher

    calibration = None if where.calibration is None else load_calibration(where.calibration)
    gate, excitation = Gate(machine), Excitation(machine, sky.sun_rad, 60.0 * minutes)
    with contextlib.ExitStack() as stack:
        camera = stack.enter_context(open_camera(where.camera))
        watcher = PatchWatcher(camera, PatchTracker(machine, calibration))
        watcher.take_reference()
        driver = stack.enter_context(make_driver(where.driver, where.port, machine, _unheard))
        require_parked(driver.poll().positions_m, machine, where.port)
        say(told(machine, sky))
        if not where.arm:
            wait_for_key()
        folder = new_run_folder(out, f"excite-{machine.name}")
        write_json(folder / "config.json", plain({"machine_values": machine.model_dump(), **surroundings()}))
        recorder = stack.enter_context(Recorder(folder / "recording.jsonl"))
        recorder.write(
            "start", machine_sha256=machine.sha256, sun_rad=sky.sun_rad, latitude_rad=sky.latitude_rad, excitation=True
        )
        stack.enter_context(watcher)
        robot = RealRobot(machine, driver, watcher, gate.park_lengths_m, sky.sun_rad)
        known = stack.enter_context(LastKnownFile(place_for(machine, where.port), machine, str(folder)))
        session = ExcitingSession(
            excitation, machine, robot, gate, recorder, sun_rad=sky.sun_rad, latitude_rad=sky.latitude_rad
        )
        _wait_for_patch(watcher)
        session.on_tick = _Progress(session, excitation.duration_s, known)
        for ending in (signal.SIGTERM, signal.SIGHUP):  # a kill or a closed terminal lowers the lens, as Ctrl-C does
            signal.signal(ending, _interrupt)
        gc.collect()
        gc.freeze()  # what is there by now stays: no pass over all of it in the middle of a tick
        try:
            with _Watch(driver, CounterLog(recorder)):
                result = session.run()
        finally:
            end = session.result
            recorder.write("end", finished=end.finished, dark=end.dark, faults=end.faults)
    if result.faults:
        end_words = "the lens was lowered to park" if result.dark else "THE LENS COULD NOT BE LOWERED: cover it"
        raise Fault(f"{result.faults[0]}; {end_words}; recording: {folder}")
    return folder / "recording.jsonl"


class _Progress:
    """Says every ten seconds how far the excitation is, and keeps the last known cable lengths."""

    def __init__(self, session: Session, duration_s: float, known: LastKnownFile) -> None:
        self._park_m = session.gate.park_lengths_m
        self._duration_s, self._known, self._said_s = duration_s, known, -10.0

    def __call__(self, fields: dict[str, Any]) -> None:
        if (lengths := fields.get("lengths_m")) is not None:
            self._known.note(np.asarray(lengths) - self._park_m, fields["state"])
        t_s = fields.get("t_s")
        if t_s is not None and t_s - self._said_s >= 10:
            self._said_s = t_s
            say(f"excitation: {max(t_s, 0.0):.0f} of {self._duration_s:.0f} s")


def _no_policy(_: NDArray[np.float32]) -> NDArray[np.float32]:
    raise Fault("excitation: no policy drives here")


def _wait_for_patch(watcher: PatchWatcher) -> None:
    """Return when the first frame was looked at; a camera that gives none is a fault at the first tick."""
    deadline_s = time.monotonic() + 3
    while watcher.newest() is None and time.monotonic() < deadline_s:
        time.sleep(0.02)


def _unheard(_direction: str, _time_s: float, _data: bytes) -> None:
    """The bytes of the line are not kept."""


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
