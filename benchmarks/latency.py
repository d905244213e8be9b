"""How long an interactive command takes while a training runs, beside how long it takes when none does.

Usage: python benchmarks/latency.py [SECONDS]   (default 20: for each of three conditions, told apart three times)

The command is ``python -c pass``: it reads files, starts a process and computes for some 20 ms. Conditions: nothing running;
``melter sim-train`` as it is; the same at full priority on all cores, for comparison.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

ROUNDS = 3
START_S = 12.0  # until a training is at work


def answer_ms() -> float:
    """Time that the command takes."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-S", "-c", "pass"], check=True)
    return 1e3 * (time.perf_counter() - begun)


def answers(seconds: float) -> list[float]:
    """Times, one command every 100 ms."""
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        found.append(answer_ms())
        time.sleep(0.1)
    return found


@contextmanager
def training(options: list[str] | None) -> Generator[None]:
    """A training beside, with these options; None: none."""
    if options is None:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "melter.cli.main", "sim-train", "--minutes", "30", *options]
        process = subprocess.Popen([*words, "--out", str(Path(folder) / "run")], stderr=subprocess.DEVNULL)
        try:
            time.sleep(START_S)
            yield
        finally:
            process.terminate()
            process.wait()


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    conditions: dict[str, list[str] | None] = {
        "nothing running": None,
        "melter sim-train": [],
        f"melter sim-train --nice 0 --threads {cores}": ["--nice", "0", "--threads", str(cores)],
    }
    times: dict[str, list[float]] = {name: [] for name in conditions}
    for _ in range(ROUNDS):
        for name, options in conditions.items():
            with training(options):
                times[name] += answers(seconds / ROUNDS)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{cores} cores, load at the end {load:.1f}")
    for name, found in times.items():
        p95 = statistics.quantiles(found, n=20)[-1]
        print(f"{name:<45} median {statistics.median(found):6.1f} ms  p95 {p95:6.1f} ms  ({len(found)} commands)")


if __name__ == "__main__":
    main()
