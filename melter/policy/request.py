"""What a training is asked for and what it gives: plain values, no learning library."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melter.errors import BadInput
from melter.machine import Machine, load_machine, machine_from_table
from melter.observation import ObservationBuilder
from melter.policy.config import Config, config_from_table
from melter.policy.evaluate import Evaluation
from melter.policy.files import new_run_folder

CHECKPOINT = Path("checkpoints") / "latest.pt"
"""Within a run folder: what a resume goes on from."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """One training, resolved: everything needed to do it again."""

    machine: Machine
    settings: Config
    """Of the algorithm, which they name."""
    minutes: float | None = 3.3
    """Wall time for training; None: no limit."""
    steps: int | None = None
    """Control steps; None: until the time is up."""
    seed: int = 0
    threads: int = 1
    """Native threads for the simulations."""
    scenario: str = "train"
    target_mm: float | None = None
    """Outdoor RMS error at which training stops early; None: it goes on to the end of its budget."""

    def __post_init__(self) -> None:
        if self.minutes is not None and not (math.isfinite(self.minutes) and self.minutes > 0):
            raise BadInput(f"--minutes {self.minutes}: must be above 0")
        if self.steps is not None and self.steps < 1:
            raise BadInput(f"--steps {self.steps}: must be at least 1")
        if self.minutes is None and self.steps is None:
            raise BadInput("--minutes, --steps: at least one must be given")
        if not 1 <= self.threads <= 1024:
            raise BadInput(f"--threads {self.threads}: must lie between 1 and 1024")
        if self.target_mm is not None and not (math.isfinite(self.target_mm) and self.target_mm > 0):
            raise BadInput(f"--target-mm {self.target_mm}: must be above 0")
        if not 0 <= self.seed < 2**31 - 1_000_000:
            raise BadInput(f"--seed {self.seed}: must lie between 0 and {2**31 - 1_000_001}")

    def table(self) -> dict[str, Any]:
        """The request as plain values, for ``config.json``."""
        return {
            "algorithm": self.settings.algo,
            "settings": self.settings.table(),
            "minutes": self.minutes,
            "steps": self.steps,
            "seed": self.seed,
            "threads": self.threads,
            "scenario": self.scenario,
            "target_mm": self.target_mm,
            "machine": self.machine.model_dump(),
            "machine_sha256": self.machine.sha256,
        }


@dataclass(frozen=True)
class Progress:
    """Where a training stands, for people to look at."""

    share: float
    """Of the budget, 0 to 1."""
    steps: int
    seconds: float
    steps_per_s: float
    reward: float
    """Per control step, mean over the last rollout."""
    error_mm: float
    """Median spot error over the last rollout, exploration noise included."""


@dataclass(frozen=True)
class TrainResult:
    """What a training gave."""

    folder: Path
    model: Path
    steps: int
    seconds: float
    evaluations: tuple[Evaluation, ...]


def resumable(
    folder: str, minutes: float | None, steps: int | None, machine: Machine | None = None
) -> tuple[TrainRequest, Path]:
    """Return the request of a run folder, with a new budget where one is given; raise BadInput where there is none.

    ``machine``: the one that the caller means; a run of another machine file is refused. A run that was stopped before its
    first checkpoint begins again.
    """
    place = Path(folder)
    try:
        table = json.loads((place / "config.json").read_text(encoding="utf-8"))
        request = TrainRequest(
            machine=machine_from_table(table["machine"], f"{place}/config.json"),
            settings=config_from_table(table["algorithm"], table["settings"]),
            minutes=table["minutes"] if minutes is None and steps is None else minutes,
            steps=table["steps"] if minutes is None and steps is None else steps,
            seed=table["seed"],
            threads=table["threads"],
            scenario=table["scenario"],
            target_mm=table["target_mm"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"--resume {folder}: not a run folder of melter sim-train ({type(error).__name__}: {error})"
        ) from None
    if machine is not None and machine.sha256 != request.machine.sha256:
        raise BadInput(
            f"--resume {folder}: is a run of another machine file ({request.machine.name}, {request.machine.sha256[:12]}…) "
            f"than --machine {machine.name} ({machine.sha256[:12]}…)"
        )
    return request, place


def default_threads() -> int:
    """Cores for the simulations when one is left free for the person at the laptop."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return max(1, cores - 1)


def load_request_machine(name: str) -> Machine:
    """Return the machine to train for; refuse one that cannot hold its lens where it works."""
    machine = load_machine(name)
    reason = ObservationBuilder(machine).why_not_held()
    if reason:
        raise BadInput(f"machine {machine.name}: {reason}; see `melter machine check {name}`")
    return machine


def start_folder(out: str | None, machine: Machine, algo: str = "ppo") -> Path:
    """Create the folder of a new run."""
    return new_run_folder(out, f"{algo}-{machine.name}")
