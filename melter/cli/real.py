"""``melter real``: the real machine, or a rehearsal one behind the same port and camera."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from melter.cli.common import Common, emit, parse, plain, require_in, say
from melter.errors import BadInput, CommandRefused, Fault, ModelFileError

if TYPE_CHECKING:
    from melter.geometry.paths import SandPath
    from melter.loop.session import Result
    from melter.machine import Machine
    from melter.safety.bundle import LoadedPolicy

SETTLING_S = 2.0
"""Left out of the error figures."""


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
    """Stop along the path after this time (min). Default: the whole path once."""
    no_learn: bool = False
    """Do not learn on the machine. (Learning is not built yet; runs never learn.)"""
    arm: bool = False
    """Arm without asking, for rehearsals and scripts. Otherwise a person presses a key."""
    calibration: str | None = None
    """Camera calibration (JSON). Without it the markers alone are used and lens distortion is not corrected."""
    sun: str | None = None
    """ZENITH,AZIMUTH of the sun (degrees, azimuth clockwise from north). Default: the machine file's."""
    out: str | None = None
    """Folder for the recording. Default: the next free runs/real-MACHINE-NNN."""


def run(argv: list[str]) -> int:
    """Run the machine; return the exit code."""
    options = parse(Real, argv, "real")
    from melter.geometry.paths import parse_path
    from melter.machine import load_machine

    for name in ("camera", "port"):
        if not getattr(options, name):
            raise BadInput(f"--{name}: must be given")
    require_in("--feed-mm-s", options.feed_mm_s, 0.05, 30, " mm/s")
    if options.minutes is not None:
        require_in("--minutes", options.minutes, 0.01, 24 * 60, " min")
    machine = load_machine(options.machine)
    path = parse_path(options.path, options.feed_mm_s * 1e-3)
    _require_inside(path, machine, options.path)
    policy = _certified(options.model, machine)
    sun_rad = _sun_rad(options.sun, machine)
    if not options.arm and not sys.stdin.isatty():
        raise BadInput("real: nobody is there to arm the machine; give --arm, or run it in a terminal")
    return _run(options, machine, path, policy, sun_rad)


def _run(options: Real, machine: Machine, path: SandPath, policy: LoadedPolicy, sun_rad: tuple[float, float]) -> int:
    """Open camera and port, preflight, run, report."""
    from melter.hw.drivers import make_driver
    from melter.hw.real_robot import RealRobot
    from melter.hw.recording import Recorder as ByteRecorder
    from melter.loop.recorder import Recorder
    from melter.loop.session import Session
    from melter.loop.teller import Teller
    from melter.policy.files import new_run_folder, surroundings, write_json
    from melter.safety.gate import Gate
    from melter.vision.calibration import load_calibration
    from melter.vision.camera import open_camera
    from melter.vision.tracker import PatchTracker
    from melter.vision.watch import PatchWatcher

    calibration = None if options.calibration is None else load_calibration(options.calibration)
    gate = Gate(machine)
    wire = _Wire()
    with contextlib.ExitStack() as stack:
        camera = stack.enter_context(open_camera(options.camera))
        tracker = PatchTracker(machine, calibration)
        watcher = PatchWatcher(camera, tracker)
        reference = watcher.take_reference()
        say("camera: markers found" + ("" if calibration else "; lens distortion is not corrected (no --calibration)"))
        driver = stack.enter_context(make_driver(options.driver, options.port, machine, wire.on_bytes))
        _require_parked(driver.poll().positions_m, gate, machine)
        say(f"controller: {options.port} at park, settings as the machine file says")
        if not options.arm:
            _wait_for_key(machine, sun_rad)
        folder = new_run_folder(options.out, f"real-{machine.name}")
        write_json(
            folder / "config.json",
            plain({**options.__dict__, "machine_values": machine.model_dump(), **surroundings()}),
        )
        _write_reference(folder, reference.image)
        wire.record(stack.enter_context(ByteRecorder(folder / "serial.jsonl")))
        recorder = stack.enter_context(Recorder(folder / "recording.jsonl"))
        recorder.write(
            "start",
            model_sha256=policy.sha256,
            machine_sha256=machine.sha256,
            path_m=path.points_world_m,
            feed_m_s=path.feed_m_s,
        )
        stack.enter_context(watcher)
        teller = stack.enter_context(Teller(options.camera))
        robot = RealRobot(machine, driver, watcher, gate.park_lengths_m, sun_rad)
        show = _Show(path, teller.tell)
        session = Session(machine, robot, gate, policy.net.act, path, recorder, sun_rad=sun_rad, on_tick=show)
        _wait_for_patch(watcher)
        max_s = None if options.minutes is None else options.minutes * 60
        for ending in (signal.SIGTERM, signal.SIGHUP):  # a kill or a closed terminal lowers the lens, as Ctrl-C does
            signal.signal(ending, _interrupt)
        try:
            session.run(max_s)
        finally:  # also after Ctrl-C, which lowers the lens first
            result = session.result
            figures = _figures(result, machine.control.rate_hz)
            recorder.write(
                "end",
                finished=result.finished,
                dark=result.dark,
                faults=result.faults,
                figures=figures,
                interventions=dict(gate.interventions),
            )
            table = _table(folder, policy, result, figures)
            write_json(folder / "result.json", plain(table))
    return _report(options, folder, result, table)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _table(folder: Path, policy: LoadedPolicy, result: Result, figures: dict[str, Any]) -> dict[str, Any]:
    return {
        "before": figures,
        "after": None,
        "model": str(policy.path),
        "log": str(folder),
        "faults": result.faults,
        "ticks": result.ticks,
        "late": result.late,
        "dark": result.dark,
        "finished": result.finished,
    }


def _report(options: Real, folder: Path, result: Result, table: dict[str, Any]) -> int:
    figures = table["before"]
    if result.faults:
        end = "the lens was lowered to park" if result.dark else "THE LENS COULD NOT BE LOWERED: cover it"
        if options.json:
            emit(table, True, "")
        raise Fault(f"{result.faults[0]}; {end}; recording: {folder}")
    text = [
        f"spot error as the camera saw it: rms {figures['rms_mm']:.2f} mm, p95 {figures['p95_mm']:.2f} mm, max {figures['max_mm']:.2f} mm"
        if figures["rms_mm"] is not None
        else "no spot error measured",
        f"{result.ticks} ticks, {result.late} late; recording: {folder}",
    ]
    emit(table, options.json, "\n".join(text))
    return 0


def _figures(result: Result, rate_hz: float) -> dict[str, Any]:
    """Error figures after the first 2 s on the path, as the camera saw them."""
    import numpy as np

    errors = np.array(result.errors_mm[round(SETTLING_S * rate_hz) :])
    if not len(errors):
        return {"rms_mm": None, "p50_mm": None, "p95_mm": None, "max_mm": None}
    return {
        "rms_mm": float(np.sqrt(np.mean(errors**2))),
        "p50_mm": float(np.median(errors)),
        "p95_mm": float(np.percentile(errors, 95)),
        "max_mm": float(errors.max()),
    }


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


class _Show:
    """A line of state on stderr: on a terminal twice a second in place, elsewhere every 15 s."""

    def __init__(self, path: SandPath, tell: Any) -> None:
        self._path, self._tell, self._said_s = path, tell, 0.0

    def __call__(self, tick: dict[str, Any]) -> None:
        if "target_world_m" in tick:
            self._tell(tick["target_world_m"])
        live, now_s = sys.stderr.isatty(), time.monotonic()
        if now_s - self._said_s < (0.5 if live else 15):
            return
        self._said_s = now_s
        errors = tick["errors_mm"][-20:]
        error = f"  error {sum(errors) / len(errors):.2f} mm" if errors else ""
        share = min(max(tick.get("t_s", 0.0) / self._path.duration_s, 0.0), 1.0)
        left = f"  {100 * share:.0f} %  {self._path.duration_s * (1 - share):.0f} s left" if "t_s" in tick else ""
        line = f"{tick['state']}  patch {tick.get('patch_status', '-')}{error}{left}"
        sys.stderr.write(f"\r{line:<78}" if live else line + "\n")
        sys.stderr.flush()


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


def _require_inside(path: SandPath, machine: Machine, name: str) -> None:
    half_x, half_y = machine.bed.size_m[0] / 2, machine.bed.size_m[1] / 2
    for x, y in path.points_world_m:
        if abs(x) > half_x or abs(y) > half_y:
            raise BadInput(
                f"--path {name}: point ({x:.3f}, {y:.3f}) m lies outside the bed of {machine.bed.size_m[0]} x {machine.bed.size_m[1]} m"
            )


def _require_parked(positions_m: Any, gate: Any, machine: Machine) -> None:
    if not gate.parked(gate.park_lengths_m + positions_m):
        worst = int(abs(positions_m).argmax())
        raise BadInput(
            f"controller: {machine.winch[worst].name} stands {positions_m[worst] * 1e3:+.1f} mm from park; "
            "bring the lens to park (melter hw jog) where the counters are zero"
        )


def _sun_rad(text: str | None, machine: Machine) -> tuple[float, float]:
    import math

    if text is None:
        return machine.sun.zenith_rad, machine.sun.azimuth_rad
    try:
        zenith, azimuth = (float(part) for part in text.split(","))
    except ValueError:
        raise BadInput(f"--sun {text}: must be ZENITH,AZIMUTH in degrees") from None
    require_in("--sun zenith", zenith, 0, 60, " deg")
    require_in("--sun azimuth", azimuth, 0, 360, " deg")
    return math.radians(zenith), math.radians(azimuth)


def _wait_for_key(machine: Machine, sun_rad: tuple[float, float]) -> None:
    zenith, azimuth = (round(value * 57.29578) for value in sun_rad)
    say(
        f"sun at zenith {zenith} deg, azimuth {azimuth} deg; beam stays over {json.dumps(machine.bed.keep_in_polygon_world_m.tolist())} m"
    )
    sys.stderr.write("Nobody near the beam, eyes protected? Enter arms the machine, anything else ends: ")
    sys.stderr.flush()
    if sys.stdin.readline() != "\n":
        raise CommandRefused("not armed")


def _wait_for_patch(watcher: Any) -> None:
    deadline = time.monotonic() + 3
    while watcher.newest() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def _write_reference(folder: Path, image: Any) -> None:
    from melter.vision.jpeg import encode_jpeg

    (folder / "reference.jpg").write_bytes(encode_jpeg(image))
