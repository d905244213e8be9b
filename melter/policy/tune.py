"""A search for better training settings: many short trainings, the hopeless ones given up early (Optuna).

Everything is in the search's folder: what was asked for (``tune.json``), every trial (``tune.db``, SQLite), the best
settings so far (``best.toml``) and the trials' run folders. A search can be stopped at any moment and gone on with.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melter.env.scenario import SUITES
from melter.errors import BadInput
from melter.policy.compare import Contender, Match, Ratio, comparison
from melter.policy.config import algo_config
from melter.policy.evaluate import Act, evaluate
from melter.policy.files import replacing
from melter.policy.load import load_for
from melter.policy.request import Progress, TrainRequest
from melter.policy.search import Found, Search, optuna, preset_toml

TRIALS, BEST = "tune.db", "best.toml"
SCORE_FIRST, SCORE_EPISODES = 300_000, 64
"""Outdoor episodes that a trial is scored on; nobody reports these."""
CHECK_FIRST, CHECK_EPISODES = 400_000, 200
"""Outdoor episodes on which the best settings are compared with the preset's, at the end; they chose nothing."""
TERMINATED_MM = 10.0
"""What a terminated episode adds to a trial's score, shared out over all episodes."""
REPORTS = 10
"""How often in a trial it is looked at whether to give it up."""


@dataclass(frozen=True)
class Standing:
    """Where a search stands after a trial."""

    trial: int
    trials: int
    """Finished or given up, over all sittings."""
    state: str
    score_mm: float | None
    best_mm: float | None
    seconds: float


def tune(
    search: Search,
    folder: Path,
    minutes: float,
    on_trial: Callable[[Standing], None],
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Found:
    """Search for ``minutes``, then compare the best with the preset; on KeyboardInterrupt all finished trials are kept."""
    study, begun = open_study(search, folder), time.monotonic()
    lasting_s = 60 * search.trial_minutes if search.trial_steps is None else 0.0
    while True:
        trial_begun = time.monotonic()
        trial = study.ask()
        state, score = _attempt(study, trial, search, folder, on_progress)
        keep_the_best(study, search, folder, trial.number)
        now = time.monotonic()
        lasting_s = now - trial_begun if state == "COMPLETE" else lasting_s
        done = [one for one in study.trials if one.state.name in ("COMPLETE", "PRUNED")]
        on_trial(Standing(trial.number, len(done), state.lower(), score, best_score(study), now - begun))
        if now - begun + lasting_s > 60 * minutes:
            break
    return found(search, folder, study, check=True)


def found(search: Search, folder: Path, study: Any = None, *, check: bool = False) -> Found:
    """Return what the search in ``folder`` found so far."""
    study = study or open_study(search, folder)
    states = [one.state.name for one in study.trials]
    best = _best(study)
    first = next((one for one in study.trials if one.number == 0), None)
    ratio = None
    if check and best is not None and best.number != 0 and first is not None and first.state.name == "COMPLETE":
        ratio = _compared(search, trial_folder(folder, best.number), trial_folder(folder, 0))
    return Found(
        folder,
        states.count("COMPLETE") + states.count("PRUNED"),
        states.count("COMPLETE"),
        states.count("PRUNED"),
        None if best is None else best.number,
        None if best is None else float(best.value),
        float(first.value) if first is not None and first.state.name == "COMPLETE" else None,
        {} if best is None else dict(best.params),
        ratio,
    )


def _attempt(
    study: Any, trial: Any, search: Search, folder: Path, on_progress: Callable[[Progress], None]
) -> tuple[str, float | None]:
    """Train with the trial's settings and score the policy; tell the study."""
    states = optuna().trial.TrialState
    try:
        score = _score(trial, search, trial_folder(folder, trial.number), on_progress)
    except (BadInput, optuna().TrialPruned):  # settings that do not go together, or no hope
        study.tell(trial, state=states.PRUNED)
        return "PRUNED", None
    except BaseException:
        study.tell(trial, state=states.FAIL)
        raise
    study.tell(trial, score)
    return "COMPLETE", score


def _score(trial: Any, search: Search, place: Path, on_progress: Callable[[Progress], None]) -> float:
    values = tuple(f"{one.name}={one.suggested(trial)}" for one in search.ranges)

    def report(value: float, step: int) -> None:
        trial.report(value, step)
        if trial.should_prune():
            raise optuna().TrialPruned

    return trained_score(search, values, place, report, on_progress)


def trained_score(
    search: Search,
    values: tuple[str, ...],
    place: Path,
    report: Callable[[float, int], None],
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> float:
    """Train with KEY=VALUE ``values`` into the folder ``place`` and return the policy's score (mm).

    ``report`` is told the error (mm) at a few steps in between, and may raise to end it.
    """
    from melter.policy.train import train

    request = TrainRequest(
        machine=search.machine,
        settings=algo_config(search.algo, search.preset, search.overrides + values),
        minutes=None if search.trial_steps else search.trial_minutes,
        steps=search.trial_steps,
        seed=search.seed,
        threads=search.threads,
    )
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    reported = 0

    def watch(progress: Progress) -> None:
        nonlocal reported
        on_progress(progress)
        step = int(progress.share * REPORTS)
        if reported < step < REPORTS:
            reported = step
            report(progress.error_mm, step)

    train(request, place, watch)
    return score_of(load_for(place, search.machine).net.act, search)


def score_of(act: Act, search: Search) -> float:
    """Return the figure that a search makes small: outdoor RMS (mm), and what terminated episodes add."""
    one = evaluate(act, search.machine, "outdoor", SCORE_EPISODES, first=SCORE_FIRST, threads=search.threads)
    score = one.rms_mm + TERMINATED_MM * one.terminated / one.episodes
    return score if math.isfinite(score) else 1e6


def open_study(search: Search, folder: Path) -> Any:
    """Open the trials; what ran when a sitting was cut short is tried again."""
    library = optuna()
    library.logging.set_verbosity(library.logging.ERROR)
    pruners = {
        "median": lambda: library.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2),
        "asha": lambda: library.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=2),
        "none": library.pruners.NopPruner,
    }
    storage = library.storages.RDBStorage(f"sqlite:///{(folder / TRIALS).resolve()}")
    study = library.create_study(
        storage=storage, study_name="melter", load_if_exists=True, direction="minimize", pruner=pruners[search.pruner]()
    )
    study.sampler = library.samplers.TPESampler(seed=search.seed + len(study.trials), n_startup_trials=8)
    if not study.trials:
        study.enqueue_trial({one.name: one.centre for one in search.ranges})
    for one in study.trials:
        if one.state.name == "RUNNING":
            study.tell(one.number, state=library.trial.TrialState.FAIL)
            if one.params:
                study.enqueue_trial(one.params)
    return study


def _best(study: Any) -> Any:
    complete = [one for one in study.trials if one.state.name == "COMPLETE"]
    return min(complete, key=lambda one: one.value) if complete else None


def best_score(study: Any) -> float | None:
    """Return the best score so far (mm), or None."""
    best = _best(study)
    return None if best is None else float(best.value)


def keep_the_best(study: Any, search: Search, folder: Path, number: int) -> None:
    """Write the best settings; keep the run folders of the preset's trial and of the best one only."""
    result = found(search, folder, study)
    if result.best_trial is not None:
        with replacing(folder / BEST) as beside:
            beside.write_text(preset_toml(search, result), encoding="utf-8")
    for one in range(number + 1):
        if one not in (0, result.best_trial):
            shutil.rmtree(trial_folder(folder, one), ignore_errors=True)


def _compared(search: Search, best: Path, first: Path) -> Ratio:
    contenders = [Contender(str(place), load_for(place, search.machine).net.act) for place in (best, first)]
    match = Match(contenders, search.machine, SUITES["outdoor"], first=CHECK_FIRST, threads=search.threads)
    match.play(CHECK_EPISODES)
    return comparison("outdoor", match.played, str(first), []).ratios[str(best)]


def trial_folder(folder: Path, number: int) -> Path:
    """Return the run folder of a trial."""
    return folder / f"trial-{number:04d}"
