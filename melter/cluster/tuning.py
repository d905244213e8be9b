"""A search for training settings with several trials at a time, on the cores of a Ray cluster.

The study stays here, in the search's folder; trials run elsewhere and send back their run folder. Settings are drawn while others
are still being tried, so that a search with workers is not the same, trial by trial, as one without.
"""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from melter.cluster.crew import reason_of
from melter.cluster.ray_link import Cluster
from melter.errors import BadInput, Fault
from melter.policy.search import Found, Search, optuna
from melter.policy.tune import Standing, best_score, found, keep_the_best, open_study, trained_score, trial_folder

LOOK_S = 0.5
"""Time between two looks at what the trials report."""
KEPT = ("model.zip", "policy.safetensors", "manifest.json", "config.json", "eval.json", "progress.csv")
"""What a trial sends back."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    state: str
    """COMPLETE or PRUNED."""
    score_mm: float | None = None
    files: bytes = b""
    """Its run folder, as a tar archive."""


class Board:
    """Where running trials write how they do, and read whether to go on. Runs as an actor."""

    def __init__(self) -> None:
        self._news: list[tuple[int, float, int]] = []
        self._hopeless: set[int] = set()

    def tell(self, number: int, value: float, step: int) -> bool:
        """Note a trial's value; return whether it goes on."""
        self._news.append((number, value, step))
        return number not in self._hopeless

    def take(self) -> list[tuple[int, float, int]]:
        """Return what was noted since the last call."""
        news, self._news = self._news, []
        return news

    def give_up(self, number: int) -> None:
        """Let a trial end at its next report."""
        self._hopeless.add(number)


class _GivenUp(Exception):
    """Ends a hopeless trial."""


def run_trial(search: Search, values: tuple[str, ...], number: int, tell: Callable[[int, float, int], bool]) -> Outcome:
    """Train with ``values`` in a folder of its own; runs on a worker."""

    def report(value: float, step: int) -> None:
        if not tell(number, value, step):
            raise _GivenUp

    with tempfile.TemporaryDirectory(prefix="melter-") as made:
        place = Path(made) / "run"
        try:
            score = trained_score(search, values, place, report)
        except (_GivenUp, BadInput):
            return Outcome("PRUNED")
        return Outcome("COMPLETE", score, packed(place))


def packed(folder: Path) -> bytes:
    """Return the files of a run folder that are worth keeping, as a tar archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in KEPT:
            if (folder / name).is_file():
                archive.add(folder / name, name)
    return stream.getvalue()


def unpack(content: bytes, folder: Path) -> None:
    """Write what :func:`packed` gave into ``folder``, made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive.getmembers():
            source = archive.extractfile(member)
            if member.name in KEPT and source is not None:
                (folder / member.name).write_bytes(source.read())


def tune_on(
    cluster: Cluster, workers: int, search: Search, folder: Path, minutes: float, on_trial: Callable[[Standing], None]
) -> Found:
    """Search for ``minutes`` with ``workers`` trials at a time, one core each; then compare the best with the preset."""
    tuning = _Tuning(cluster, replace(search, threads=1), folder, on_trial)
    begun, lasting_s = time.monotonic(), 0.0 if search.trial_steps else 60 * search.trial_minutes
    try:
        while True:
            room = time.monotonic() - begun + lasting_s <= 60 * minutes
            while len(tuning.running) < workers and (room or not tuning.begun):
                tuning.start()
            if not tuning.running:
                break
            tuning.look()
            lasting_s = tuning.longest_s or lasting_s
    finally:
        tuning.stop()
    return found(search, folder, tuning.study, check=True)


class _Tuning:
    """Trials under way."""

    def __init__(self, cluster: Cluster, search: Search, folder: Path, on_trial: Callable[[Standing], None]) -> None:
        self._ray, self._search, self._folder, self._on_trial = cluster.ray, search, folder, on_trial
        self.study = open_study(search, folder)
        self.running: dict[Any, tuple[Any, float]] = {}
        """Reference to the outcome: trial, and when it began."""
        self.begun, self.longest_s, self._since = 0, 0.0, time.monotonic()
        self._board = self._ray.remote(Board).options(num_cpus=0).remote()
        board, ray = self._board, self._ray

        def tell(number: int, value: float, step: int) -> bool:
            return ray.get(board.tell.remote(number, value, step))

        def on_worker(one: Search, values: tuple[str, ...], number: int) -> Outcome:
            return run_trial(one, values, number, tell)

        self._task = self._ray.remote(on_worker).options(num_cpus=1, max_retries=0)

    def start(self) -> None:
        """Draw settings and begin a trial."""
        trial = self.study.ask()
        values = tuple(f"{one.name}={one.suggested(trial)}" for one in self._search.ranges)
        self.running[self._task.remote(self._search, values, trial.number)] = trial, time.monotonic()
        self.begun += 1

    def look(self) -> None:
        """Take in reports and outcomes."""
        by_number = {trial.number: trial for trial, _ in self.running.values()}
        for number, value, step in self._ray.get(self._board.take.remote()):
            trial = by_number.get(number)
            if trial is not None:
                trial.report(value, step)
                if trial.should_prune():
                    self._board.give_up.remote(number)
        ready, _ = self._ray.wait(list(self.running), num_returns=1, timeout=LOOK_S)
        for reference in ready:
            self._end(*self.running.pop(reference), reference)

    def _end(self, trial: Any, began_s: float, reference: Any) -> None:
        states = optuna().trial.TrialState
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            self.study.tell(trial, state=states.FAIL)
            raise Fault(f"trial {trial.number}: {reason_of(error)}") from None
        except self._ray.exceptions.RayError:  # its worker is lost; the settings are tried again
            self.study.tell(trial, state=states.FAIL)
            self.study.enqueue_trial(trial.params)
            return
        if outcome.state == "COMPLETE":
            self.study.tell(trial, outcome.score_mm)
            unpack(outcome.files, trial_folder(self._folder, trial.number))
            self.longest_s = max(self.longest_s, time.monotonic() - began_s)
        else:
            self.study.tell(trial, state=states.PRUNED)
        keep_the_best(self.study, self._search, self._folder, trial.number)
        done = [one for one in self.study.trials if one.state.name in ("COMPLETE", "PRUNED")]
        spent_s = time.monotonic() - self._since
        told = Standing(
            trial.number, len(done), outcome.state.lower(), outcome.score_mm, best_score(self.study), spent_s
        )
        self._on_trial(told)

    def stop(self) -> None:
        """End what still runs."""
        for reference, (trial, _) in self.running.items():
            self._ray.cancel(reference, force=True)
            self.study.tell(trial, state=optuna().trial.TrialState.FAIL)
        self._ray.kill(self._board)
