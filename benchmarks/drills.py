"""Fault drills: every fault of the rehearsal machine in the middle of melting, one `melter twin` and one `melter real` each.

Usage: python benchmarks/drills.py --model RUN [--virtual] [--drills N] [--faults NAME,NAME] [--seed S] [--feed MM_S] [--keep FOLDER]

Without --drills: each fault once. With it: N drills with faults, moments, seeds and feeds drawn at random. By the twin's
truth file: when the fault struck, and how long the light could still melt after that and after the fault was named. By the
recording: what was named, and whether it is complete: an end, its last line written in the last second of the run, every
command on the wire with its approval before it. Exit 0 where every drill passed, else 1. A clock jump stops everything for 1.5 s: these are
given on top. A cut serial line cannot be darkened by software and counts as failed.

--virtual: the same session, driver protocol and firmware under a virtual clock (`melter.twin.virtual`), without pictures: the patch is told
as the camera would, late and noisily. Some ten times faster, and a busy computer does not show in the figures. A covered marker does nothing there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from melter.cli.rehearse import running
from melter.geometry.melting import melting_irradiance_w_m2
from melter.geometry.paths import parse_path
from melter.hw.real_robot import RealRobot
from melter.loop.approvals import unapproved_jogs
from melter.loop.recorder import Recorder, read_recording
from melter.loop.session import Session
from melter.loop.shadow import Shadow
from melter.machine import load_machine
from melter.policy.load import load_for
from melter.safety.gate import Gate
from melter.twin.faults import FAULTS, FROZEN_S, Fault
from melter.twin.virtual import VirtualOptions, VirtualTwin

DARK_S = 1.5
WEATHER = ("cloud", "gust")
"""May end without a fault as long as the light stays on its path."""
HARMLESS = (*WEATHER, "marker-covered")
"""A covered marker is none either where the others are enough."""
MELTING = ["--path", "line:0.3"]


@dataclass(frozen=True)
class Drill:
    """What a drill does."""

    fault: str
    at_s: float
    """After the twin's start."""
    seed: int
    feed_mm_s: float
    work_s: float = 40.0


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    fault: str
    seed: int
    exit_code: int
    named: str
    melting_before: bool
    """Whether the light was melting sand when the fault struck."""
    to_name_s: float | None
    """From the strike to the first fault in the recording."""
    to_dark_s: float | None
    """From the strike until the light cannot melt any more; None where it still could at the end."""
    name_to_dark_s: float | None
    parked: bool
    complete: str
    """Empty, or what the recording lacks."""
    passed: bool


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a certified run")
    parser.add_argument("--drills", type=int, default=0, help="number of random drills; 0: each fault once")
    parser.add_argument("--faults", default=",".join(FAULTS), help="names, joined by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--feed", type=float, default=None, help="mm/s; default: 2, or drawn from 1 to 3")
    parser.add_argument("--virtual", action="store_true", help="under a virtual clock")
    parser.add_argument("--keep", default=None, help="folder for the recordings")
    parser.add_argument("--out", default=None, help="JSON lines of the outcomes")
    options = parser.parse_args()
    names = options.faults.split(",")
    rng = np.random.default_rng(options.seed)
    drills = [
        Drill(
            str(rng.choice(names)) if options.drills else names[i],
            float(rng.uniform(24, 40)),
            int(options.seed * 1000 + i),
            options.feed or (float(rng.uniform(1, 3)) if options.drills else 2.0),
        )
        for i in range(options.drills or len(names))
    ]
    outcomes: list[Outcome] = []
    print(f"{'fault':16} {'seed':>5} exit {'named':>7} {'dark':>7} {'n-dark':>7}  recording  named as", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for number, drill in enumerate(drills):
            folder = Path(options.keep or scratch) / f"{number:03d}-{drill.fault}"
            folder.mkdir(parents=True)
            for again in range(3):  # a machine under a cloud is no drill: the next one
                tried = replace(drill, seed=drill.seed + 100_000 * again)
                outcome = (run_virtual if options.virtual else run)(tried, options.model, folder / f"try-{again}")
                if outcome.melting_before:
                    break
            outcomes.append(outcome)
            if options.out:
                with Path(options.out).open("a") as file:
                    file.write(json.dumps(asdict(outcome)) + "\n")
            print(_row(outcome), flush=True)
    good = sum(outcome.passed for outcome in outcomes)
    dark = [outcome.to_dark_s for outcome in outcomes if outcome.to_dark_s is not None]
    if dark:
        print(
            f"{good} of {len(outcomes)} passed; strike to dark: median {np.median(dark):.2f} s, worst {max(dark):.2f} s"
        )
    return 0 if good == len(outcomes) else 1


def run(drill: Drill, model: str, folder: Path) -> Outcome:
    """Run one drill."""
    folder.mkdir()
    truth, run_folder = folder / "truth.jsonl", folder / "run"
    words = [sys.executable, "-m", "melter.cli.main"]
    twin = ["twin", "--seed", str(drill.seed), "--truth", str(truth), "--fault", f"{drill.fault}@{drill.at_s}"]
    with running(*twin) as where:
        real = [*words, "real", "--camera", where["camera_url"], "--port", where["port"], "--model", model, *MELTING]
        real += ["--feed-mm-s", str(drill.feed_mm_s), "--minutes", str(drill.work_s / 60), "--arm", "--no-learn"]
        done = subprocess.run([*real, "--out", str(run_folder)], capture_output=True, text=True, check=False)
        ended_s = time.monotonic()
        time.sleep(0.7)
    (folder / "stderr.txt").write_text(done.stderr)
    return judge(drill, done.returncode, run_folder, read_recording(truth), ended_s)


def run_virtual(drill: Drill, model: str, folder: Path) -> Outcome:
    """Run one drill under a virtual clock."""
    machine, run_folder = load_machine(), folder / "run"
    run_folder.mkdir(parents=True)
    policy = load_for(model, machine, same_machine=True)
    twin = VirtualTwin(
        VirtualOptions(machine=machine, seed=drill.seed, pictures=False, faults=(Fault(drill.fault, drill.at_s),))
    )
    path, sun_rad = parse_path(MELTING[1], drill.feed_mm_s * 1e-3), (machine.sun.zenith_rad, machine.sun.azimuth_rad)
    gate = Gate(machine)
    with twin.driver as driver, Recorder(run_folder / "recording.jsonl", twin.now) as recorder:
        robot = RealRobot(machine, driver, twin, gate.park_lengths_m, sun_rad, twin.now)
        shadow = Shadow(machine.control.period_s)
        session = Session(
            machine, robot, gate, policy.net.act, path, recorder, sun_rad=sun_rad, clock=twin, shadow=shadow
        )
        result = session.run(drill.work_s)
        recorder.write("end", finished=result.finished, dark=result.dark, faults=result.faults)
        twin.sleep_until(twin.now() + 0.5)
    return judge(drill, 3 if result.faults else 0, run_folder, twin.truth, twin.now() - 0.5)


def judge(drill: Drill, exit_code: int, run_folder: Path, lines: list[dict[str, Any]], ended_s: float) -> Outcome:
    """Compare a recording with the truth's lines."""
    machine = load_machine()
    melting = float(melting_irradiance_w_m2(machine.sand.melting_k, machine.sand.absorptivity))
    at_s = np.array([line["t_s"] for line in lines])
    host_s = np.array([line["host_s"] for line in lines])
    bright = np.array([line["peak_w_m2"] for line in lines]) >= melting
    strike_s = float(np.interp(drill.at_s, at_s, host_s))
    recording = read_recording(run_folder / "recording.jsonl") if run_folder.is_dir() else []
    faults = [line for line in recording if line["kind"] == "fault"]
    named_s = faults[0]["host_s"] if faults else None
    after = host_s > strike_s
    still = host_s[after & bright]
    dark_s = float(still[-1]) if len(still) else strike_s
    dark = None if not len(bright) or bright[-1] else max(0.0, dark_s - strike_s)
    just = bright[(at_s > drill.at_s - 0.5) & (at_s <= drill.at_s)]
    before = bool(len(just) and just.mean() > 0.5)
    end = recording[-1] if recording and recording[-1]["kind"] == "end" else None
    complete = _complete(recording, run_folder, ended_s)
    harmless = drill.fault in HARMLESS and exit_code == 0
    in_time = dark is not None and dark <= DARK_S + (FROZEN_S if drill.fault == "clock-jump" else 0.0)
    passed = not complete and (harmless or (exit_code == 3 and bool(faults) and in_time))
    return Outcome(
        drill.fault,
        drill.seed,
        exit_code,
        faults[0]["reason"] if faults else "",
        before,
        None if named_s is None else named_s - strike_s,
        dark,
        None if dark is None or named_s is None else max(0.0, dark_s - named_s),
        bool(end and end["dark"]),
        complete,
        passed,
    )


def _complete(recording: list[dict[str, Any]], run_folder: Path, ended_s: float) -> str:
    """What the recording lacks, or nothing."""
    if not recording or recording[-1]["kind"] != "end":
        return "no end"
    if ended_s - recording[-1]["host_s"] > 3.0:
        return f"ends {ended_s - recording[-1]['host_s']:.1f} s before the program"
    missing = unapproved_jogs(run_folder) if (run_folder / "serial.jsonl").is_file() else 0
    return f"{missing} jogs without approval" if missing else ""


def _row(o: Outcome) -> str:
    times = "".join(f"{'-' if t is None else f'{t:.2f}':>8}" for t in (o.to_name_s, o.to_dark_s, o.name_to_dark_s))
    verdict = ("ok" if o.passed else "FAIL") + ("" if o.melting_before else " (was not melting)")
    return f"{o.fault:16} {o.seed:5} {o.exit_code:4}{times}  {o.complete or 'complete':9}  {verdict}  {o.named[:110]}"


if __name__ == "__main__":
    sys.exit(main())
