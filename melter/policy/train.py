"""Training in simulation: stable-baselines3's PPO on the native batch, into a run folder.

A run can be stopped at any moment (Ctrl-C, kill, power loss) and resumed: every checkpoint holds the network, the
optimiser, all random states and the simulations themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from stable_baselines3.common.utils import LinearSchedule

import melter.env
from melter.env.sb3 import SandMelterVecEnv
from melter.policy.evaluate import Evaluation, evaluate
from melter.policy.files import surroundings, write_json
from melter.policy.imitate import imitate
from melter.policy.keeper import BudgetSpent, CsvLog, Keeper
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
from melter.safety.bundle import load_policy

__all__ = ["Progress", "TrainRequest", "TrainResult", "default_threads", "load_request_machine", "resumable", "start_folder", "train"]

EVAL_EPISODES = 64


def train(
    request: TrainRequest,
    folder: Path,
    on_progress: Callable[[Progress], None],
    on_remark: Callable[[str], None] = lambda _: None,
    *,
    resume: bool = False,
) -> TrainResult:
    """Train into ``folder`` and evaluate; on KeyboardInterrupt the model so far is saved, then it is raised again."""
    torch.set_num_threads(1)
    env = melter.env.sb3_vec_env(request.ppo.envs, request.machine, request.scenario, request.threads, request.seed)
    model = _model(request, env)
    keeper = Keeper(request, folder, on_progress, on_remark)
    if resume and (folder / CHECKPOINT).is_file():
        keeper.load(model, env)
    else:
        write_json(folder / "config.json", {**request.table(), **surroundings()})
        _imitate(model, env, request, on_remark)
    model.set_logger(Logger(str(folder), [CsvLog(folder / "progress.csv"), TensorBoardOutputFormat(str(folder))]))
    try:
        model.learn(1 << 60, callback=keeper, reset_num_timesteps=False)
    except BudgetSpent:
        keeper.save(model, env)
    except KeyboardInterrupt:
        keeper.save_best(model)
        raise
    finally:
        model.logger.close()
    path = folder / "model.zip"
    evaluations = _evaluate(folder, request)
    return TrainResult(folder, path, model.num_timesteps, keeper.seconds, evaluations)


class _BudgetedPPO(PPO):
    """PPO whose schedules follow the budget of the run, be it time or steps."""

    share: Callable[[], float] = staticmethod(lambda: 0.0)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:  # noqa: ARG002
        self._current_progress_remaining = 1.0 - min(self.share(), 1.0)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "share"]


def _model(request: TrainRequest, env: SandMelterVecEnv) -> _BudgetedPPO:
    ppo = request.ppo
    return _BudgetedPPO(
        "MlpPolicy",
        env,
        learning_rate=LinearSchedule(ppo.learning_rate, ppo.learning_rate / 20, 1.0),
        n_steps=ppo.n_steps,
        batch_size=ppo.batch_size,
        n_epochs=ppo.n_epochs,
        gamma=ppo.gamma,
        gae_lambda=ppo.gae_lambda,
        clip_range=ppo.clip_range,
        ent_coef=ppo.ent_coef,
        vf_coef=ppo.vf_coef,
        max_grad_norm=ppo.max_grad_norm,
        target_kl=ppo.target_kl,
        policy_kwargs={
            "net_arch": list(ppo.net_arch),
            "log_std_init": ppo.log_std_init,
            "activation_fn": {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[ppo.activation],
        },
        seed=request.seed,
        device="cpu",
    )


def _imitate(model: PPO, env: SandMelterVecEnv, request: TrainRequest, on_remark: Callable[[str], None]) -> None:
    """Start the actor from the classical servo."""
    ppo = request.ppo
    if not ppo.imitation_rounds:
        return
    on_remark(f"imitating the classical servo, {ppo.imitation_rounds} rounds")
    model.num_timesteps = imitate(
        model.policy,
        env,
        np.random.default_rng(request.seed),
        rounds=ppo.imitation_rounds,
        steps=ppo.imitation_steps,
        epochs=ppo.imitation_epochs,
        learning_rate=ppo.imitation_learning_rate,
        noise=ppo.imitation_noise,
    )


def _evaluate(folder: Path, request: TrainRequest) -> tuple[Evaluation, ...]:
    net = load_policy(folder).net
    suites = ("nominal", "outdoor")
    results = tuple(
        evaluate(net.act, request.machine, suite, EVAL_EPISODES, threads=request.threads) for suite in suites
    )
    write_json(folder / "eval.json", {result.suite: result.table() for result in results})
    return results
