"""Error over time: one process on one core, workers on Ray, and RLlib in an interpreter of its own."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from melter.cluster.ray_link import LOCAL, join, leave
from melter.cluster.streamed import simulations_on
from melter.errors import BadInput, Fault
from melter.policy import train as training
from melter.policy.request import TrainRequest

RLLIB_PYTHON = "MELTER_RLLIB_PYTHON"
"""Environment variable that names the interpreter of an environment with ray[rllib] and melter in it."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Curve:
    """How the error fell."""

    name: str
    points: tuple[tuple[float, float], ...]
    """(seconds since training began, RMS error on the outdoor suite in mm); melter's own end with the policy that is kept."""
    steps: int
    """Control steps in all."""

    def table(self) -> dict[str, Any]:
        """Return the curve as plain values."""
        return asdict(self)


def curves(request: TrainRequest, machine: str, workers: int, tell: Tell) -> list[Curve]:
    """Train the same thing by each way, one after the other; ``machine`` is the request's, by name or file.

    Raises BadInput where the interpreter for RLlib is none.
    """
    python = rllib_python()
    found = [_trained(request, "one process, one core", None, tell)]
    cluster = join(LOCAL, workers + 1)
    try:
        found.append(_trained(request, f"Ray, {workers} workers", simulations_on(cluster, workers, tell), tell))
    finally:
        leave(cluster)
    if python is None:
        tell(f"RLlib is left out: {RLLIB_PYTHON} names no interpreter that has it")
    else:
        found.append(_rllib(python, request, machine, workers, tell))
    return found


def rllib_python() -> str | None:
    """Return the interpreter that RLlib is to run in, None where none is named; raise BadInput where it has no RLlib."""
    python = os.environ.get(RLLIB_PYTHON)
    if not python:
        return None
    try:
        command = [python, "-W", "ignore", "-c", "import ray.rllib, melter"]
        known = subprocess.run(command, capture_output=True, timeout=120, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        known = False
    if not known:
        raise BadInput(f"{RLLIB_PYTHON}={python}: must be a Python that has ray[rllib] and melter")
    return python


def _trained(request: TrainRequest, name: str, simulations: Any, tell: Tell) -> Curve:
    said = 0.0

    def on_progress(progress: training.Progress) -> None:
        nonlocal said
        if progress.share >= said:
            left_s = progress.seconds * (1 - progress.share) / max(progress.share, 1e-6)
            tell(f"{name}: {progress.share:.0%}, error {progress.error_mm:.2f} mm, {left_s:.0f} s left")
            said = progress.share + 0.2

    with tempfile.TemporaryDirectory(prefix="melter-") as made:
        result = training.train(request, Path(made), on_progress, simulations=simulations)
        with (Path(made) / "progress.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    told = [(row["time/seconds"], row.get("eval/outdoor_rms_mm")) for row in rows]
    points = [(float(seconds), float(rms)) for seconds, rms in told if rms]
    kept = next(one.rms_mm for one in result.evaluations if one.suite == "outdoor")
    return Curve(name, (*points, (result.seconds, kept)), result.steps)


def _rllib(python: str, request: TrainRequest, machine: str, workers: int, tell: Tell) -> Curve:
    name, points, steps = f"RLlib's PPO, {workers} workers", list[tuple[float, float]](), 0
    words = {"machine": machine, "minutes": request.minutes, "workers": workers, "seed": request.seed}
    options = [f"--{key}={value}" for key, value in words.items()]
    command = [python, "-W", "ignore", "-m", "melter.cluster.rllib_curve", *options]
    with tempfile.TemporaryFile("w+") as trouble:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=trouble, text=True) as process:
            try:
                for line in process.stdout or ():
                    if not line.startswith("{"):
                        continue
                    told = json.loads(line)
                    points.append((told["seconds"], told["rms_mm"]))
                    steps = told["steps"]
                    tell(f"{name}: {told['seconds']:.0f} s, {told['rms_mm']:.2f} mm")
                code = process.wait()
            finally:
                process.terminate()
        trouble.seek(0)
        lines = [line.strip() for line in trouble if line.strip()]
    if code != 0:
        raise Fault(f"{name}: ended with {code}: {lines[-1][:200] if lines else 'nothing said'}")
    return Curve(name, tuple(points), steps)
