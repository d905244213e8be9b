"""The serial link to eight winches, measured: streaming, reversals, stops and the driver's own processor time.

The board runs in a process of its own: the firmware model behind a pseudo-terminal paced to 115200 baud, with the
delays that were measured on real firmware (a few milliseconds per line, now and then up to 45 ms).

    python benchmarks/serial_link.py [--seconds 600] [--turns 40]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from melter.hw.board import settings_for
from melter.hw.driver import MotorDriver
from melter.hw.firmware import Firmware
from melter.hw.grbl_driver import GrblDriver
from melter.hw.pty_port import PtyPort
from melter.hw.recording import Recorder, read_recording
from melter.machine import Machine, load_machine
from melter.safety import gate
from melter.safety.gate import ApprovedCommand

BAUD = 115200
USUAL_S, SELDOM_S, SELDOM = 0.006, 0.045, 0.00002
"""Delay of the board's main loop: usual longest, seldom longest, how seldom (per millisecond: about once a minute)."""
PERIOD_S = 0.02
WAVES = np.linspace(0.6, 4.2, 8)
HIGHEST_M_S = 0.045


# the board's process


def serve(baud: int | None) -> None:
    """Be the board until standard input ends; answer ``trace`` with what happened since the last time."""
    import select

    rng = np.random.default_rng(0)
    firmware, port = Firmware(settings_for(load_machine())), PtyPort(baud=baud)
    tell({"path": port.path})
    port.write(firmware.power_up())
    last_s, deepest, trace = time.monotonic(), 0, []
    held: list[tuple[float, bytes]] = []
    while True:
        now_s = time.monotonic()
        if data := port.read():
            delay_s = rng.uniform(0.02, SELDOM_S) if rng.random() < SELDOM else rng.uniform(0, USUAL_S)
            held.append((max(now_s + delay_s, held[-1][0] if held else 0.0), data))
        out = b""
        while held and held[0][0] <= now_s:
            out += firmware.feed(held.pop(0)[1])
        port.write(out + firmware.advance(now_s - last_s))
        last_s, deepest = now_s, max(deepest, firmware.queued)
        trace.append((now_s, float(firmware.position_m[0])))
        if select.select([sys.stdin], [], [], 0.0)[0]:
            if not sys.stdin.readline():
                return
            tell({"position_m": firmware.position_m.tolist(), "deepest": deepest, "trace": trace[-4000:]})
            deepest, trace = 0, []
        time.sleep(0.001)


def tell(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


class BoardProcess:
    """The board in a process of its own."""

    def __init__(self, baud: int | None = BAUD) -> None:
        words = [sys.executable, __file__, "--board", str(baud or 0)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.path: str = self._answer()["path"]

    def ask(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write("trace\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def __enter__(self) -> BoardProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=10)


# the host's side


class Feeder:
    """Sends speeds within the machine's acceleration, one period after the other.

    Approves them itself, as the gate would, so that only the driver's processor time is measured and not the gate's.
    """

    def __init__(self, machine: Machine, driver: MotorDriver) -> None:
        self._driver = driver
        self._step_um = round(machine.limits.acceleration_max_m_s2 * PERIOD_S * PERIOD_S * 1e6)
        self._before_um = np.zeros(8, dtype=np.int64)
        self.total_um = np.zeros(8, dtype=np.int64)
        self._next_s, self._sequence = time.monotonic(), 0
        self.cpu_s = 0.0

    def send(self, speeds_m_s: Any, *, at_once: bool = False) -> ApprovedCommand:
        """Wait for the next period; send. ``at_once``: whatever the acceleration."""
        self._next_s += PERIOD_S
        time.sleep(max(0.0, self._next_s - time.monotonic()))
        wanted_um = np.rint(np.asarray(speeds_m_s) * PERIOD_S * 1e6).astype(np.int64)
        most_um = 10**9 if at_once else self._step_um
        counts_um = np.clip(wanted_um, self._before_um - most_um, self._before_um + most_um)
        self._before_um, self._sequence = counts_um, self._sequence + 1
        speeds = counts_um / (PERIOD_S * 1e6)
        command = ApprovedCommand(speeds, counts_um, PERIOD_S, time.monotonic(), self._sequence, gate._KEY)
        began_s = time.thread_time()
        self._driver.send(command)
        self._driver.poll()
        self.cpu_s += time.thread_time() - began_s
        self.total_um += counts_um
        return command


def await_rest(driver: MotorDriver, timeout_s: float = 3.0) -> bool:
    """Wait until the board has done all it was sent."""
    end_s, since_s = time.monotonic() + timeout_s, time.monotonic() + 0.1
    while time.monotonic() < end_s:
        status = driver.poll()
        if status.state == "idle" and status.queue_depth == 0 and status.read_host_s > since_s:
            return True
        time.sleep(0.01)
    return False


def stream(seconds: float, record: Path, baud: int | None = BAUD) -> dict[str, Any]:
    """Eight waves at 50 commands a second."""
    machine = load_machine()
    with BoardProcess(baud) as board, Recorder(record) as recorder:
        with GrblDriver(board.path, machine, on_bytes=recorder.on_bytes) as driver:
            feeder = Feeder(machine, driver)
            began_s, began_cpu_s, began_own_s = time.monotonic(), time.process_time(), time.thread_time()
            periods = round(seconds / PERIOD_S)
            for _ in range(periods):
                feeder.send(HIGHEST_M_S * np.sin(WAVES * (time.monotonic() - began_s)))
            others_s = time.process_time() - began_cpu_s - (time.thread_time() - began_own_s)
            cpu_s = others_s + feeder.cpu_s  # the driver's thread, and its part of this one
            at_rest, faults = await_rest(driver), driver.poll().faults
        told = board.ask()
    answers_s, unanswered = answers(record)
    error_mm = np.abs(np.array(told["position_m"]) * 1e3 - feeder.total_um / 1e3)
    return {
        "seconds": seconds,
        "commands": periods,
        "jogs": len(answers_s) + unanswered,
        "unanswered": unanswered,
        "answer_median_ms": float(np.median(answers_s)) * 1e3,
        "answer_p99_9_ms": float(np.percentile(answers_s, 99.9)) * 1e3,
        "answer_max_ms": float(answers_s.max()) * 1e3,
        "final_error_mm": float(error_mm.max()),
        "deepest": told["deepest"],
        "at_rest": at_rest,
        "faults": list(faults),
        "cpu_ms_per_period": cpu_s / periods * 1e3,
    }


def answers(record: Path) -> tuple[Any, int]:
    """Return how long each jog waited for its answer, and how many wait still."""
    waiting: list[float] = []
    took: list[float] = []
    rest = b""
    for piece in read_recording(record):
        if piece.direction == "tx":
            waiting += [piece.time_s] * piece.data.count(b"$J")
        else:
            rest += piece.data
            *lines, rest = rest.split(b"\n")
            for line in lines:
                if line.strip() == b"ok" and waiting:
                    took.append(piece.time_s - waiting.pop(0))
    return np.array(took), len(waiting)


def turns(times: int, at_once: bool) -> dict[str, Any]:
    """Reverse from and to 40 mm/s, and stop from 40 mm/s: command to effect.

    ``at_once``: the command changes its sign from one period to the next; else it passes zero at 1000 mm/s2.
    """
    machine, reversed_ms, stopped_ms = load_machine(), [], []
    with BoardProcess() as board, GrblDriver(board.path, machine) as driver:
        feeder, speed = Feeder(machine, driver), 0.04
        wait = np.random.default_rng(1)
        for _ in range(25):
            feeder.send(np.full(8, speed), at_once=at_once)
        for _ in range(times):
            board.ask()
            speed = -speed
            asked_s = feeder.send(np.full(8, speed), at_once=at_once).approved_host_s
            for _ in range(24 + int(wait.integers(10))):
                feeder.send(np.full(8, speed), at_once=at_once)
            trace = np.array([entry for entry in board.ask()["trace"] if entry[0] > asked_s])
            reversed_ms.append((trace[np.argmin(trace[:, 1] * np.sign(speed)), 0] - asked_s) * 1e3)
        for _ in range(times):
            board.ask()
            asked_s = time.monotonic()
            driver.stop()
            await_rest(driver)
            trace = np.array(board.ask()["trace"])
            moving = trace[1:, 0][np.diff(trace[:, 1]) != 0]
            stopped_ms.append((max(moving.max(initial=asked_s), asked_s) - asked_s) * 1e3)
            feeder = Feeder(machine, driver)
            for _ in range(25 + int(wait.integers(10))):
                feeder.send(np.full(8, speed), at_once=at_once)
            speed = -speed
            for _ in range(25):
                feeder.send(np.full(8, speed), at_once=at_once)
    return {
        "commands": "at once" if at_once else "at the gate's acceleration",
        "reversal_median_ms": float(np.median(reversed_ms)),
        "reversal_max_ms": max(reversed_ms),
        "stop_median_ms": float(np.median(stopped_ms)),
        "stop_max_ms": max(stopped_ms),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the stream (s)")
    parser.add_argument("--turns", type=int, default=20, help="reversals and stops to time")
    parser.add_argument("--board", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.board is not None:
        return serve(options.board or None)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(stream(options.seconds, Path(folder) / "link.jsonl"), indent=1))
    for at_once in (True, False):
        print(json.dumps(turns(options.turns, at_once), indent=1))
    return None


if __name__ == "__main__":
    main()
