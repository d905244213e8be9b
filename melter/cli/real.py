"""``melter real``: the real machine, or a rehearsal one behind the same port and camera."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from melter.cli.common import Common, emit, parse, plain, require_in, say
from melter.errors import BadInput, Fault, ModelFileError

if TYPE_CHECKING:
    from melter.cli.real_preflight import Sky
    from melter.geometry.paths import SandPath
    from melter.loop.session import Result
    from melter.machine import Machine
    from melter.safety.bundle import LoadedPolicy

PRIORITY = -10
"""Niceness to ask for: a tick that waits for another program's turn is a late one."""


@dataclass(frozen=True, kw_only=True)
class Real(Common):
    """Run a certified policy on the machine: park, arm, work along the path, park again. Recorded from the first tick.

    Ctrl-C lowers the lens to dark before the program ends.
    """

    camera: str = ""
    """Camera: URL, index, or file."""
    port: str = ""
    """Serial port of the motor controller, such as /dev/ttyUSB0."""
    driver: str = "grblhal"
    """Motor driver: grblhal, dynamixel, or one that another package registers (docs/drivers.md)."""
    model: str | None = None
    """Run folder or model. Default: the newest certified run under runs/."""
    path: str = "square:0.3"
    """square:SIDE, circle:DIAMETER or line:LENGTH (m), centred on the bed, or a CSV file of x,y (m)."""
    feed_mm_s: float = 3.0
    """Speed along the path (mm/s); 0.5 to 3 melts."""
    minutes: float | None = None
    """Stop after this time (min); a closed path is travelled round after round until then. Default: the path once."""
    no_learn: bool = False
    """Do not learn on the machine: the policy stays as it was trained."""
    learned: str | None = None
    """Run folder or learned.json of an earlier run on this machine: go on from what it learnt."""
    arm: bool = False
    """Arm without asking, for rehearsals and scripts. Otherwise a person presses a key."""
    calibration: str | None = None
    """Camera calibration (JSON). Without it the markers alone are used and lens distortion is not corrected."""
    sun: str | None = None
    """ZENITH,AZIMUTH of the sun (degrees, azimuth clockwise from north), or `now` with --place. Default: the machine file's."""
    place: str | None = None
    """LATITUDE,LONGITUDE of the machine (degrees, north and east positive): how the sun moves. Without it, the light has to tell."""
    keep_frames: float = 1.0
    """Keep a frame every so many seconds (s), and ten a second in the 5 s before and after a fault; 0 keeps none."""
    recover: bool = False
    """Bring the lens to park from where it was last known, after a power cut or a crash. A person looks at it and presses a key."""
    out: str | None = None
    """Folder for the recording. Default: the next free runs/real-MACHINE-NNN."""


def run(argv: list[str]) -> int:
    """Run the machine; return the exit code."""
    options = parse(Real, argv, "real")
    from melter.cli.real_preflight import require_sky, sky_of
    from melter.geometry.paths import parse_path
    from melter.loop.preflight import require_path_inside
    from melter.machine import load_machine

    for name in ("camera", "port"):
        if not getattr(options, name):
            raise BadInput(f"--{name}: must be given")
    require_in("--feed-mm-s", options.feed_mm_s, 0.05, 30, " mm/s")
    require_in("--keep-frames", options.keep_frames, 0.0, 3600.0, " s")
    if options.minutes is not None:
        require_in("--minutes", options.minutes, 0.01, 24 * 60, " min")
    machine = load_machine(options.machine)
    sky = sky_of(options.sun, options.place, machine)
    if options.recover:
        from melter.cli.real_recover import recover

        return recover(options, machine, sky)
    path = parse_path(options.path, options.feed_mm_s * 1e-3)
    if options.minutes is not None:
        path = path.going_round(60 * options.minutes)
    require_path_inside(path, machine, options.path)
    policy = _certified(options.model, machine)
    require_sky(machine, path, sky, options.minutes)
    if not options.arm and not sys.stdin.isatty():
        raise BadInput("real: nobody is there to arm the machine; give --arm, or run it in a terminal")
    return _run(options, machine, path, policy, sky)


def _run(options: Real, machine: Machine, path: SandPath, policy: LoadedPolicy, sky: Sky) -> int:
    """Open camera and port, preflight, run, report."""
    from melter.cli.real_figures import before_and_after, learner_for, take_up_pole
    from melter.cli.real_preflight import require_parked, told, wait_for_key, write_pictures
    from melter.cli.real_show import Show
    from melter.hw.drivers import make_driver
    from melter.hw.real_robot import RealRobot
    from melter.hw.recording import Recorder as ByteRecorder
    from melter.loop.frames import KeptFrames
    from melter.loop.keys import HELP, Keys
    from melter.loop.lastknown import LastKnownFile, place_for
    from melter.loop.recorder import Recorder
    from melter.loop.screen import Screen, View
    from melter.loop.session import Session
    from melter.loop.shadow import Shadow
    from melter.loop.teller import Teller
    from melter.loop.timing import Timing
    from melter.policy.files import new_run_folder, surroundings, write_json
    from melter.safety.gate import Gate
    from melter.vision.calibration import load_calibration
    from melter.vision.camera import open_camera
    from melter.vision.tracker import PatchTracker
    from melter.vision.watch import PatchWatcher

    with contextlib.suppress(OSError):  # before other work on this computer, where the system allows it
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    calibration = None if options.calibration is None else load_calibration(options.calibration)
    learner = learner_for(machine, no_learn=options.no_learn, learned=options.learned)
    wire = _Wire()
    with contextlib.ExitStack() as stack:
        camera = stack.enter_context(open_camera(options.camera))
        tracker = PatchTracker(machine, calibration)
        watcher = PatchWatcher(camera, tracker, on_frame=lambda frame: kept.see(frame) if kept else None)
        kept: KeptFrames | None = None
        reference = watcher.take_reference()
        say("camera: markers found" + ("" if calibration else "; lens distortion is not corrected (no --calibration)"))
        driver = stack.enter_context(make_driver(options.driver, options.port, machine, wire.on_bytes))
        gate = Gate(machine, speed_factor=driver.promises.speed_factor)
        require_parked(driver.poll().positions_m, machine, options.port)
        say(f"controller: {options.port} at park, settings as the machine file says")
        say(told(machine, sky))
        if not options.arm:
            wait_for_key()
        folder = new_run_folder(options.out, f"real-{machine.name}")
        write_json(
            folder / "config.json",
            plain({**options.__dict__, "machine_values": machine.model_dump(), **surroundings()}),
        )
        write_pictures(folder, reference.image, tracker, machine, path)
        wire.record(stack.enter_context(ByteRecorder(folder / "serial.jsonl")))
        recorder = stack.enter_context(Recorder(folder / "recording.jsonl"))
        recorder.write(
            "start",
            model_sha256=policy.sha256,
            machine_sha256=machine.sha256,
            path_m=path.points_world_m,
            feed_m_s=path.feed_m_s,
            sun_rad=sky.sun_rad,
            latitude_rad=sky.latitude_rad,
        )
        if options.keep_frames > 0:
            kept = stack.enter_context(KeptFrames(folder / "frames", options.keep_frames))
        stack.enter_context(watcher)
        teller = stack.enter_context(Teller(options.camera))
        robot = RealRobot(machine, driver, watcher, gate.park_lengths_m, sky.sun_rad)
        timing = Timing(machine.control.period_s, lambda: watcher.track_s)
        keys = stack.enter_context(Keys())
        view = View(path.duration_s, help=HELP if keys.live else "")
        known = stack.enter_context(LastKnownFile(place_for(machine, options.port), machine, str(folder)))
        session = Session(
            machine,
            robot,
            gate,
            policy.net.act,
            path,
            recorder,
            sun_rad=sky.sun_rad,
            latitude_rad=sky.latitude_rad,
            shadow=Shadow(machine.control.period_s),
            timing=timing,
            hands=keys,
            learner=learner,
        )
        take_up_pole(session, options.learned)
        session.on_tick = Show(session, view, known, kept, teller.tell)
        _wait_for_patch(watcher)
        max_s = None if options.minutes is None else options.minutes * 60
        for ending in (signal.SIGTERM, signal.SIGHUP):  # a kill or a closed terminal lowers the lens, as Ctrl-C does
            signal.signal(ending, _interrupt)
        gc.collect()
        gc.freeze()  # what is there by now stays: no pass over all of it in the middle of a tick
        try:
            with Screen(view, machine, timing):
                session.run(max_s)
        finally:  # also after Ctrl-C, which lowers the lens first
            result = session.result
            figures = before_and_after(learner, session, folder)
            recorder.write(
                "end",
                finished=result.finished,
                dark=result.dark,
                faults=result.faults,
                **figures,
                interventions=dict(gate.interventions),
            )
            table = (
                _table(folder, policy, result)
                | figures
                | {
                    "stopped": result.stopped,
                    "pauses": result.pauses,
                    "timing": timing.table(),
                    "interventions": dict(gate.interventions),
                    "frames_kept": 0 if kept is None else kept.kept,
                }
            )
            write_json(folder / "result.json", plain(table))
    return _report(options, folder, result, table)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _table(folder: Path, policy: LoadedPolicy, result: Result) -> dict[str, Any]:
    return {
        "model": str(policy.path),
        "log": str(folder),
        "faults": result.faults,
        "ticks": result.ticks,
        "late": result.late,
        "dark": result.dark,
        "finished": result.finished,
    }


def _report(options: Real, folder: Path, result: Result, table: dict[str, Any]) -> int:
    from melter.cli.real_figures import told as told_figures

    if result.faults:
        end = "the lens was lowered to park" if result.dark else "THE LENS COULD NOT BE LOWERED: cover it"
        if options.json:
            emit(table, True, "")
        raise Fault(f"{result.faults[0]}; {end}; recording: {folder}")
    text = f"{told_figures(table, folder)}\n{result.ticks} ticks, {result.late} late; recording: {folder}"
    emit(table, options.json, text)
    return 0


class _Wire:
    """Bytes of the serial line: kept until there is a folder to record them in, so that a refused start leaves none."""

    def __init__(self) -> None:
        self._kept: list[tuple[Any, float, bytes]] = []
        self._recorder: Any = None

    def on_bytes(self, direction: Any, time_s: float, data: bytes) -> None:
        """Take one piece."""
        if self._recorder is None:
            self._kept.append((direction, time_s, data))
        else:
            self._recorder.on_bytes(direction, time_s, data)

    def record(self, recorder: Any) -> None:
        """Record what was kept, and from now on everything."""
        self._recorder = recorder  # first: the reader's thread may hand in bytes meanwhile, and none may be lost
        for piece in self._kept:
            recorder.on_bytes(*piece)


def _certified(model: str | None, machine: Machine) -> LoadedPolicy:
    """Return the policy to run; refuse one that no passed safety check covers together with this machine."""
    from melter.policy.load import load_for
    from melter.safety.claims import find_certificate

    if model is None:
        runs = sorted(Path("runs").rglob("certificate.json"), key=lambda p: p.stat().st_mtime, reverse=True)
        usable = [p.parent for p in runs if _covers(p.parent, machine)]
        if not usable:
            raise BadInput(
                "--model: no certified run for this machine under runs/; train one (melter sim-train), check it (melter safety-check RUN)"
            )
        model = str(usable[0])
        say(f"model: {model}")
    policy = load_for(model, machine, same_machine=True)
    if find_certificate(model, machine) is None:
        raise ModelFileError(
            f"--model {model}: no certificate for this model and machine; run: melter safety-check {model} --machine {machine.name}"
        )
    return policy


def _covers(folder: Path, machine: Machine) -> bool:
    from melter.safety.claims import find_certificate

    try:
        return find_certificate(folder, machine) is not None
    except ModelFileError:
        return False


def _wait_for_patch(watcher: Any) -> None:
    deadline = time.monotonic() + 3
    while watcher.newest() is None and time.monotonic() < deadline:
        time.sleep(0.02)
