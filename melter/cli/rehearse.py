"""``melter rehearse``: the whole loop once. Train, check, film, and run on a rehearsal machine."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melter.cli.common import Common, emit, parse, require_in, say
from melter.errors import BadInput, Fault


@dataclass(frozen=True, kw_only=True)
class Rehearse(Common):
    """Train a policy, run the safety check, make a video, and drive a rehearsal machine with it over a serial port and a camera."""

    minutes: float = 3.3
    """Time to train (min)."""
    path: str = "square:0.3"
    """square:SIDE, circle:DIAMETER or line:LENGTH (m), or a CSV file of x,y (m)."""
    feed_mm_s: float = 15.0
    """Speed along the path (mm/s); fast, so that the rehearsal is short."""
    model: str | None = None
    """Run folder of a policy that is trained already: skips the training."""
    out: str | None = None
    """Folder for everything. Default: the next free runs/rehearsal-NNN."""


def run(argv: list[str]) -> int:
    """Rehearse; return the exit code."""
    options = parse(Rehearse, argv, "rehearse")
    require_in("--minutes", options.minutes, 0.01, 24 * 60, " min")
    require_in("--feed-mm-s", options.feed_mm_s, 0.05, 30, " mm/s")
    from melter.geometry.paths import parse_path
    from melter.machine import load_machine
    from melter.policy.files import new_run_folder

    load_machine(options.machine)
    parse_path(options.path, options.feed_mm_s * 1e-3)
    folder = new_run_folder(options.out, "rehearsal")
    started_s = time.monotonic()
    model = Path(options.model) if options.model else folder / "policy"
    report, video = folder / "safety.html", folder / "policy.mp4"
    common = ("--machine", options.machine)
    if options.model is None:
        _step(
            "1/4 training",
            "sim-train",
            "--minutes",
            str(options.minutes),
            "--seed",
            str(options.seed),
            "--out",
            str(model),
            *common,
        )
    _step("2/4 safety check", "safety-check", str(model), "--report", str(report), *common)
    _step("3/4 video", "enjoy", str(model), "--video", str(video), "--seconds", "20", *common)
    say("4/4 rehearsal: a machine with hidden parameters behind a serial port and a camera")
    truth = folder / "truth.jsonl"
    with _twin(options.machine, options.seed, truth) as twin:
        link = ("--camera", twin["camera_url"], "--port", twin["port"])
        ride = (
            "--path",
            options.path,
            "--feed-mm-s",
            str(options.feed_mm_s),
            "--arm",
            "--no-learn",
            "--out",
            str(folder / "real"),
        )
        _step(None, "real", *link, "--model", str(model), *ride, *common)
    return _report(options, folder, model, report, video, truth, time.monotonic() - started_s)


def _report(
    options: Rehearse, folder: Path, model: Path, report: Path, video: Path, truth: Path, seconds: float
) -> int:
    from melter.loop.truth import true_errors

    figures = true_errors(folder / "real" / "recording.jsonl", truth)
    table: dict[str, Any] = {
        "policy": str(model),
        "report": str(report),
        "video": str(video),
        "recording": str(folder / "real"),
        "truth": str(truth),
        "by_truth": figures,
        "seconds": round(seconds, 1),
    }
    text = [
        f"by the rehearsal machine's own truth: spot error rms {figures['rms_mm']:.2f} mm, p95 {figures['p95_mm']:.2f} mm; "
        f"tension {figures['tension_min_n']:.0f} to {figures['tension_max_n']:.0f} N",
        f"policy     {model}",
        f"report     {report}",
        f"video      {video}",
        f"recording  {folder / 'real'}",
        f"all of it took {seconds / 60:.1f} min",
    ]
    emit(table, options.json, "\n".join(text))
    return 0


def _step(title: str | None, *arguments: str) -> None:
    """Run one command as a person would; its answer goes to stderr, what it complains of ends the rehearsal."""
    if title:
        say(f"{title}: melter {' '.join(arguments)}")
    done = subprocess.run([sys.executable, "-m", "melter.cli.main", *arguments], stdout=sys.stderr, check=False)
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode == 3:
        raise Fault(f"melter {arguments[0]} ended with a fault, see above")
    if done.returncode:
        raise BadInput(f"melter {arguments[0]} ended with exit code {done.returncode}, see above")


def _twin(machine: str, seed: int, truth: Path) -> contextlib.AbstractContextManager[dict[str, str]]:
    """A twin in a process of its own."""
    return running("twin", "--machine", machine, "--seed", str(seed), "--truth", str(truth))


@contextlib.contextmanager
def running(*words: str) -> Generator[dict[str, str]]:
    """Run ``melter`` with these words beside this process until left; give the JSON of its first line. Raises BadInput without one."""
    command = [sys.executable, "-m", "melter.cli.main", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise BadInput(f"melter {words[0]} did not start; try: melter {' '.join(words)}")
        yield json.loads(line)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
        if process.stdout:
            process.stdout.close()
