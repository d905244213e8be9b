"""``melter hw``: the motor controller by hand, with the gate between a person's wish and the winches."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from melter.cli.common import Common, emit, parse, require_in, say
from melter.errors import BadInput, Fault, LinkFault, PortError
from melter.machine import Machine, load_machine

if TYPE_CHECKING:
    from melter.hw.driver import MotorDriver

JOG_MAX_MM = 200.0
"""Longest single jog by hand."""
AT_REST_S = 5.0
LOOK_S = 0.2
"""The monitor's table is renewed this often."""

USAGE = """usage: melter hw {list,setup,status,jog,stop,monitor,replay} [options]

The motor controller by hand, the gate in between.

  list      serial ports here, and what answers there
  setup     compare the board's settings with the machine file and write them (--dry-run: only compare)
  status    state, positions, settings and promises of the board
  jog       move one winch by some millimetres of cable; positive pays out
  stop      stop all winches now
  monitor   position, speed, tension, power and latency, live
  replay    run a recording of the serial link through the protocol again

melter hw COMMAND --help tells each option, its unit and its default.
"""


@dataclass(frozen=True, kw_only=True)
class PortOptions(Common):
    """Options of every command that talks to a board."""

    port: str
    """Serial device of the board, such as /dev/ttyUSB0."""
    driver: str = "grblhal"
    """Motor driver: grblhal, dynamixel, or one that another package registers (docs/drivers.md)."""


@dataclass(frozen=True, kw_only=True)
class ListOptions(Common):
    """Serial ports here, and what answers there. Asking opens a port, which resets some boards."""

    port: str | None = None
    """Look at this device only."""
    no_ask: bool = False
    """Only list the ports, open none."""


@dataclass(frozen=True, kw_only=True)
class SetupOptions(PortOptions):
    """Compare the board's settings with the machine file, show the differences and write them."""

    dry_run: bool = False
    """Show the differences and write nothing; exit code 1 when there are any."""


@dataclass(frozen=True, kw_only=True)
class StatusOptions(PortOptions):
    """State, positions, settings and promises of the board; nothing is stopped or changed."""


@dataclass(frozen=True, kw_only=True)
class JogOptions(PortOptions):
    """Move one winch, the gate in between; Ctrl-C stops it. The lens must be parked where the counters are zero."""

    winch: str
    """Name of the winch in the machine file, such as NE-upper."""
    mm: float
    """Millimetres of cable, -200 to 200; positive pays out."""
    speed_mm_s: float = 20.0
    """Millimetres of cable per second, up to the machine's normal speed."""
    record: Path | None = None
    """Append every byte of the serial link to this file."""


@dataclass(frozen=True, kw_only=True)
class StopOptions(PortOptions):
    """Stop all winches now. A still lens keeps burning: cover it, or lower it."""


@dataclass(frozen=True, kw_only=True)
class MonitorOptions(PortOptions):
    """Watch position, speed, tension, power and latency, live; the board is brought to rest first. Ctrl-C ends it.

    Tension is what the drawing asks for at the place where the counters say that the lens hangs; nobody measures it.
    Where the motors tell their currents, these are shown as well.
    """

    seconds: float | None = None
    """Stop watching after this many seconds; without it, when interrupted."""
    record: Path | None = None
    """Append every byte of the serial link to this file."""


@dataclass(frozen=True, kw_only=True)
class ReplayOptions(Common):
    """Run a recording of the serial link through the protocol again."""

    file: Annotated[Path, tyro.conf.Positional]
    """Recording made with --record."""


def run(argv: list[str]) -> int:
    """Run one of the commands; return its exit code."""
    import sys

    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return 0 if argv else 2
    command = _COMMANDS.get(argv[0])
    if command is None:
        raise BadInput(f"hw {argv[0]}: no such command; known: {', '.join(_COMMANDS)}")
    return command(argv[1:])


def _list(argv: list[str]) -> int:
    from melter.hw.service import list_boards

    options = parse(ListOptions, argv, "hw list")
    found = list_boards(options.port, ask=not options.no_ask)
    lines = [f"{one.device}  {one.description}  {one.answers}" for one in found] or ["no serial ports here"]
    emit({"ports": [vars(one) for one in found]}, options.json, "\n".join(lines))
    return 0


def _setup(argv: list[str]) -> int:
    from melter.hw.service import set_up

    options = parse(SetupOptions, argv, "hw setup")
    machine = load_machine(options.machine)
    if options.driver != "grblhal":
        return _setup_motors(options, machine)
    _, listed = set_up(options.port, machine, write=False)
    for one in listed:
        say(str(one))
    if not options.dry_run:
        set_up(options.port, machine, write=True)
    shown = [{"setting": one.wanted.number, "found": one.found, "wanted": one.wanted.value} for one in listed]
    done = "suits already" if not listed else "not written" if options.dry_run else "written and read back"
    text = f"{options.port}: {len(listed)} settings differ from {machine.name}: {done}"
    emit({"differences": shown, "written": bool(listed) and not options.dry_run}, options.json, text)
    return 1 if listed and options.dry_run else 0


def _setup_motors(options: SetupOptions, machine: Machine) -> int:
    """Set up what is not a grblHAL board, where its driver can."""
    driver: Any = _driver(options, machine)
    if not hasattr(driver, "set_up"):
        raise BadInput(f"--driver {options.driver}: has nothing to set up")
    if options.dry_run:
        raise BadInput(f"--dry-run: not with --driver {options.driver}")
    changed: list[str] = driver.set_up()
    for one in changed:
        say(one)
    emit(
        {"differences": changed, "written": bool(changed)},
        options.json,
        f"{options.port}: {len(changed)} settings differed from {machine.name}: {'written and read back' if changed else 'suits already'}",
    )
    return 0


def _status(argv: list[str]) -> int:
    options = parse(StatusOptions, argv, "hw status")
    machine = load_machine(options.machine)
    driver = _driver(options, machine)
    if options.driver != "grblhal":
        with driver:
            status = driver.poll()
        result: dict[str, Any] = {
            "state": status.state,
            "positions_mm": (status.positions_m * 1000).tolist(),
            "settings": {},
        }
        result["promises"] = vars(driver.promises)
        emit(result, options.json, _positions(options.port, machine, status.state, result["positions_mm"]))
        return 0
    from melter.hw.board import board_order, describe, differences
    from melter.hw.service import look

    board = look(options.port)
    try:
        order = board_order(board.letters, machine)
        listed = differences(machine, board.settings, order) if board.settings else []
        told = describe(listed) or f"suit {machine.name}" if board.settings else "not told while it moves"
        positions = (board.position_um[list(order)] / 1000).tolist()
    except PortError as error:
        listed, told, positions = [], str(error), (board.position_um / 1000).tolist()
    result = {
        "state": board.state,
        "alarm": board.alarm,
        "positions_mm": positions,
        "axes": board.axes,
        "letters": board.letters,
        "settings": {str(number): value for number, value in sorted(board.settings.items())},
        "differences": [str(one) for one in listed],
        "promises": vars(driver.promises),
        "info": list(board.info),
    }
    text = _positions(options.port, machine, f"{board.state}, {board.axes} axes", positions)
    emit(result, options.json, f"{text}\n\nsettings: {told}")
    return 0


def _positions(port: str, machine: Machine, state: str, positions_mm: list[float]) -> str:
    rows = [f"{winch.name:<12} {mm:12.3f}" for winch, mm in zip(machine.winch, positions_mm, strict=False)]
    return "\n".join([f"{port}: {state}", "", "winch         position mm", *rows])


def _jog(argv: list[str]) -> int:
    from melter.safety.gate import Gate

    options = parse(JogOptions, argv, "hw jog")
    machine = load_machine(options.machine)
    names = [winch.name for winch in machine.winch]
    if options.winch not in names:
        raise BadInput(f"--winch {options.winch}: no such winch; the machine has {', '.join(names)}")
    require_in("--mm", options.mm, -JOG_MAX_MM, JOG_MAX_MM, " mm")
    normal_mm_s = machine.limits.speed_normal_m_s * 1000
    if not 0 < options.speed_mm_s <= normal_mm_s:
        raise BadInput(
            f"--speed-mm-s {options.speed_mm_s:g}: must be above 0 and at most {normal_mm_s:g} mm/s, the normal speed"
        )
    winch = names.index(options.winch)
    with ExitStack() as stack:
        driver = _connected(options, machine, options.record, stack)
        before_m = driver.poll().positions_m
        _jog_through_gate(
            driver,
            Gate(machine, speed_factor=driver.promises.speed_factor),
            winch,
            options.mm * 1e-3,
            options.speed_mm_s * 1e-3,
        )
        moved_mm = float((_at_rest(driver) - before_m)[winch] * 1000)
    text = f"{options.winch}: asked for {options.mm:g} mm, moved {moved_mm:.3f} mm"
    emit({"winch": options.winch, "asked_mm": options.mm, "moved_mm": round(moved_mm, 6)}, options.json, text)
    return 0


def _jog_through_gate(driver: MotorDriver, gate: Any, winch: int, length_m: float, speed_m_s: float) -> None:
    """Send approved commands until ``length_m`` of cable is asked for, with ramps that the gate would make anyway."""
    limits, period_s = gate.machine.limits, gate.machine.control.period_s
    gate.arm(time.monotonic(), gate.park_lengths_m + driver.poll().positions_m)
    left_um = round(length_m * 1e6)
    next_s = time.monotonic()
    speed = 0.0
    while left_um or speed:
        next_s += period_s
        time.sleep(max(0.0, next_s - time.monotonic()))
        status = driver.poll()
        if status.faults:
            raise LinkFault(status.faults[0])
        left_m = abs(left_um) * 1e-6
        step = limits.acceleration_max_m_s2 * period_s
        braking = np.sqrt(step * step / 4 + 2 * limits.acceleration_max_m_s2 * left_m) - step / 2
        request = np.zeros(len(gate.machine.winch))
        request[winch] = np.sign(left_um) * min(speed_m_s, max(braking, 0.0), left_m / period_s)
        lengths = gate.park_lengths_m + status.positions_m
        command = gate.approve(request, lengths, time.monotonic(), measured_host_s=status.read_host_s, mode="jog")
        driver.send(command)
        left_um -= int(command.counts_um[winch])
        speed = float(command.speeds_m_s[winch])


def _at_rest(driver: MotorDriver) -> Any:
    """Return the (8,) positions, metres, once the board has done all it was sent."""
    deadline_s = time.monotonic() + AT_REST_S
    since_s = time.monotonic()
    while time.monotonic() < deadline_s:
        status = driver.poll()
        if status.faults:
            raise LinkFault(status.faults[0])
        if status.state == "idle" and status.queue_depth == 0 and status.read_host_s > since_s:
            return status.positions_m
        time.sleep(0.01)
    raise Fault(f"the winches do not come to rest within {AT_REST_S:g} s")


def _stop(argv: list[str]) -> int:
    from melter.hw.service import stop_at_once

    options = parse(StopOptions, argv, "hw stop")
    began_s = time.monotonic()
    if options.driver != "grblhal":
        driver = _driver(options, load_machine(options.machine))
        with driver:
            driver.stop()
            stood_m = _at_rest(driver)
        result = {"state": "idle", "positions_mm": (stood_m * 1000).tolist(), "seconds": time.monotonic() - began_s}
        emit(result, options.json, f"{options.port}: idle after {result['seconds']:.3f} s")
        return 0
    report = stop_at_once(options.port)
    took_s = time.monotonic() - began_s
    counters = report.machine_um if report.machine_um is not None else report.work_um
    positions = [] if counters is None else (counters / 1000).tolist()
    text = f"{options.port}: {report.state} after {took_s:.3f} s"
    emit({"state": report.state, "positions_mm": positions, "seconds": took_s}, options.json, text)
    return 0


def _monitor(argv: list[str]) -> int:
    options = parse(MonitorOptions, argv, "hw monitor")
    if options.seconds is not None:
        require_in("--seconds", options.seconds, 0.0, 1e6, " s")
    from melter.cli.hw_monitor import Watch

    machine = load_machine(options.machine)
    watch = Watch(machine)
    end_s = time.monotonic() + (options.seconds if options.seconds is not None else np.inf)
    with ExitStack() as stack:
        driver = _connected(options, machine, options.record, stack)
        say(watch.promises(driver.promises))
        while time.monotonic() < end_s:
            time.sleep(min(LOOK_S, max(0.0, end_s - time.monotonic())))
            status = driver.poll()
            if status.faults:
                raise LinkFault(status.faults[0])
            watch.take(status, time.monotonic(), getattr(driver, "feedback", None))
            say(watch.table())
        status = driver.poll()
    emit(watch.summary(status), options.json, f"{options.port}: {status.state}")
    return 0


def _replay(argv: list[str]) -> int:
    from melter.hw.recording import read_recording, summarise

    options = parse(ReplayOptions, argv, "hw replay")
    result = summarise(read_recording(options.file))
    lines = [f"{name}: {value}" for name, value in result.items() if name != "remarks"]
    emit(result, options.json, "\n".join([*lines, *result["remarks"]]))
    return 0


def _driver(options: PortOptions, machine: Machine, on_bytes: Any = None) -> MotorDriver:
    from melter.hw.drivers import make_driver

    return make_driver(options.driver, options.port, machine, on_bytes)


def _connected(options: PortOptions, machine: Machine, record: Path | None, stack: ExitStack) -> MotorDriver:
    from melter.hw.recording import Recorder

    recorder = stack.enter_context(Recorder(record)) if record is not None else None
    return stack.enter_context(_driver(options, machine, recorder.on_bytes if recorder else None))


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "list": _list,
    "setup": _setup,
    "status": _status,
    "jog": _jog,
    "stop": _stop,
    "monitor": _monitor,
    "replay": _replay,
}
