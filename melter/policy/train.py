"""Training in simulation on the native batch, into a run folder.

A run can be stopped at any moment (Ctrl-C, kill, power loss) and resumed: every checkpoint holds the networks, the
optimisers, the replay buffer, all random states and the simulations themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat

import melter.env
from melter.env.sb3 import SandMelterVecEnv
from melter.errors import Fault
from melter.policy.elsewhere import SimulationsElsewhere
from melter.policy.evaluate import Evaluation, evaluate
from melter.policy.files import surroundings, write_json
from melter.policy.keeper import BudgetSpent, Keeper
from melter.policy.learners import make_learner, require_installed
from melter.policy.progress import CsvLog
from melter.policy.request import (
    CHECKPOINT,
    Progress,
    TrainRequest,
    TrainResult,
    default_threads,
    load_request_machine,
    resumable,
    start_folder,
)
from melter.policy.servo import Servo
from melter.policy.stagger import stagger
from melter.safety.bundle import load_policy

__all__ = [
    "Progress",
    "TrainRequest",
    "TrainResult",
    "default_threads",
    "load_request_machine",
    "require_installed",
    "resumable",
    "start_folder",
    "train",
]

EVAL_EPISODES = 64


def train(
    request: TrainRequest,
    folder: Path,
    on_progress: Callable[[Progress], None],
    on_remark: Callable[[str], None] = lambda _: None,
    *,
    resume: bool = False,
    simulations: Callable[[TrainRequest], SimulationsElsewhere] | None = None,
    trackers: Sequence[KVWriter] = (),
) -> TrainResult:
    """Train into ``folder`` and evaluate; on KeyboardInterrupt the best model so far is saved, then it is raised again.

    ``simulations``: makes simulations that run elsewhere; without it they run in this process. ``trackers``: told every
    report too. Raises Fault where the folder cannot be written to; what was written before stays.
    """
    try:
        return _train(
            request, folder, on_progress, on_remark, resume=resume, simulations=simulations, trackers=trackers
        )
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Fault(
            f"run folder {folder}: cannot be written: {reason}; its last checkpoint is kept: melter sim-train --resume {folder}"
        ) from None


def _train(
    request: TrainRequest,
    folder: Path,
    on_progress: Callable[[Progress], None],
    on_remark: Callable[[str], None],
    *,
    resume: bool,
    simulations: Callable[[TrainRequest], SimulationsElsewhere] | None,
    trackers: Sequence[KVWriter],
) -> TrainResult:
    torch.set_num_threads(1)
    goes_on = resume and (folder / CHECKPOINT).is_file()
    if not goes_on:
        write_json(folder / "config.json", {**request.table(), **surroundings()})
    env: Any = (simulations or _here)(request)
    keeper = Keeper(request, folder, on_progress, on_remark)
    keeper.model = model = make_learner(request.settings, env, request.seed, request.threads, keeper.share)
    if goes_on:
        env.reset()
        keeper.load()
    else:
        model._last_obs = _begin(env, request)
        model._last_episode_starts = np.ones(env.num_envs, dtype=bool)
    files: list[KVWriter] = [CsvLog(folder / "progress.csv", model.num_timesteps), TensorBoardOutputFormat(str(folder))]
    model.set_logger(Logger(str(folder), [*files, *trackers]))
    try:
        model.learn(1 << 60, callback=keeper, reset_num_timesteps=False, log_interval=None)
    except BudgetSpent:
        keeper.finish()
    except KeyboardInterrupt:
        keeper.save_best()
        raise
    finally:
        model.logger.close()
        env.close()
    evaluations = _evaluate(folder, request)
    return TrainResult(folder, folder / "model.zip", model.num_timesteps, keeper.seconds, evaluations)


def _here(request: TrainRequest) -> SandMelterVecEnv:
    """Simulations in this process."""
    return melter.env.sb3_vec_env(
        request.settings.envs, request.machine, request.scenario, request.threads, request.seed
    )


def _begin(env: SandMelterVecEnv | SimulationsElsewhere, request: TrainRequest) -> Any:
    if isinstance(env, SimulationsElsewhere):
        return env.begin()
    return stagger(env, Servo(request.machine).act, request.settings.groups)


def _evaluate(folder: Path, request: TrainRequest) -> tuple[Evaluation, ...]:
    net = load_policy(folder).net
    suites = ("nominal", "outdoor")
    results = tuple(
        evaluate(net.act, request.machine, suite, EVAL_EPISODES, threads=request.threads) for suite in suites
    )
    write_json(folder / "eval.json", {result.suite: result.table() for result in results})
    return results
