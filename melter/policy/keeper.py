"""Keeps a training: its budget, its checkpoints, its best policy, and the figures that people watch."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter

from melter.env.sb3 import SandMelterVecEnv
from melter.errors import ModelFileError
from melter.observation import ObservationBuilder
from melter.policy.evaluate import evaluate
from melter.policy.files import replacing
from melter.policy.request import CHECKPOINT, Progress, TrainRequest
from melter.safety.bundle import load_policy, manifest_for, save_bundle

CHECKPOINT_S = 20.0
"""Time between checkpoints; at most this much is lost."""
CONTESTS = 8
"""How often in a run the policy is compared with the best one so far."""
CONTEST_EPISODES = 64
CONTEST_FIRST = 100_000
"""Episodes of the outdoor suite that choose the best policy; others than those that are reported."""


class BudgetSpent(Exception):
    """Leaves ``learn`` between two updates, where a run can be resumed exactly."""


class Keeper(BaseCallback):
    """Keeps the budget, the checkpoints and the figures that people watch."""

    def __init__(
        self,
        request: TrainRequest,
        folder: Path,
        on_progress: Callable[[Progress], None],
        on_remark: Callable[[str], None],
    ) -> None:
        super().__init__()
        self.request, self.folder, self.on_progress, self.on_remark = request, folder, on_progress, on_remark
        self.seconds = 0.0
        self._since = time.monotonic()
        self._saved = -math.inf
        self._errors: list[Any] = []
        self._terms: dict[str, float] = {}
        self._ticks = 0
        self._pace = (time.monotonic(), 0)
        self._contest = 0
        self.best: tuple[float, dict[str, torch.Tensor]] | None = None
        """Score and weights of the best policy so far."""

    def share(self, model: PPO) -> float:
        """Share of the budget that is used up."""
        self._clock()
        steps, minutes = self.request.steps, self.request.minutes
        by_steps = model.num_timesteps / steps if steps else 0.0
        return max(by_steps, self.seconds / (60 * minutes) if minutes else 0.0)

    def _clock(self) -> None:
        now = time.monotonic()
        self.seconds += now - self._since
        self._since = now

    def _on_training_start(self) -> None:
        model = self.model
        model.share = lambda: self.share(model)  # type: ignore[attr-defined,arg-type]
        self._pace = (time.monotonic(), model.num_timesteps)

    def _on_rollout_start(self) -> None:
        share = self.share(self.model)  # type: ignore[arg-type]
        if share * CONTESTS >= self._contest:
            self.compete(self.model)  # type: ignore[arg-type]
        if share >= 1:
            raise BudgetSpent
        if time.monotonic() - self._saved > CHECKPOINT_S:
            self.save(self.model, self.training_env)  # type: ignore[arg-type]
        ppo = self.request.ppo
        only_critic = self.model._n_updates < ppo.critic_updates * ppo.n_epochs  # pyright: ignore[reportPrivateUsage]
        for parameter in _actor(self.model.policy):
            parameter.requires_grad_(not only_critic)
        self._errors, self._terms, self._ticks = [], {}, 0

    def compete(self, model: PPO) -> None:
        """Keep the weights if they are the best so far: by outdoor error, a terminated episode counting as 10 mm."""
        self._contest = int(self.share(model) * CONTESTS) + 1
        request = self.request
        found = evaluate(
            lambda observation: model.predict(observation, deterministic=True)[0],
            request.machine,
            "outdoor",
            CONTEST_EPISODES,
            first=CONTEST_FIRST,
            threads=request.threads,
        )
        score = found.rms_mm + 10.0 * found.terminated
        self.logger.record("eval/outdoor_rms_mm", found.rms_mm)
        self.logger.record("eval/outdoor_p95_mm", found.p95_mm)
        self.logger.record("eval/outdoor_terminated", found.terminated)
        better = self.best is None or score < self.best[0]
        if better:
            self.best = score, {name: value.clone() for name, value in model.policy.state_dict().items()}
        self.on_remark(f"validation: {found.text()}{'; the best so far' if better else ''}")

    def _on_step(self) -> bool:
        truth = self.training_env.truth  # type: ignore[attr-defined]
        self._errors.append(truth["spot_error_m"])
        for name, value in truth.items():
            if name.startswith("reward_"):
                self._terms[name] = self._terms.get(name, 0.0) + float(value.mean())
        self._ticks += 1
        return True

    def _on_rollout_end(self) -> None:
        error_mm = float(np.median(np.concatenate(self._errors))) * 1e3
        reward = sum(self._terms.values()) / self._ticks
        now, (before, steps) = time.monotonic(), self._pace
        rate = (self.num_timesteps - steps) / max(now - before, 1e-9)
        self._pace = (now, self.num_timesteps)
        for name, value in self._terms.items():
            self.logger.record(f"reward/{name.removeprefix('reward_')}", value / self._ticks)
        self.logger.record("error/median_mm", error_mm)
        self.logger.record("time/steps_per_s", rate)
        self.logger.record("time/seconds", self.seconds)
        share = min(self.share(self.model), 1.0)  # type: ignore[arg-type]
        self.on_progress(Progress(share, self.num_timesteps, self.seconds, rate, reward, error_mm))

    def save(self, model: PPO, env: SandMelterVecEnv) -> None:
        """Write the checkpoint that a resume goes on from."""
        self._clock()
        place = self.folder / "checkpoints"
        place.mkdir(exist_ok=True)
        legacy: Any = np.random.get_state()  # noqa: NPY002 (stable-baselines3 shuffles with it)
        kind, key, position, has_gauss, gauss = legacy
        torch_state = {
            "policy": model.policy.state_dict(),
            "optimizer": model.policy.optimizer.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "numpy_rng": {
                "kind": kind,
                "key": torch.from_numpy(key.astype(np.int64)),
                "place": [position, has_gauss, gauss],
            },
            "env": {name: torch.from_numpy(_signed(array)) for name, array in env.env.state().items()},
            "starts": torch.from_numpy(np.asarray(model._last_episode_starts)),  # pyright: ignore[reportPrivateUsage]
            "returns": torch.from_numpy(env.running()),
            "counts": {
                "steps": model.num_timesteps,
                "updates": model._n_updates,  # pyright: ignore[reportPrivateUsage]
                "seconds": self.seconds,
                "contest": self._contest,
            },
        }
        if self.best is not None:
            torch_state |= {"best_score": self.best[0], "best": self.best[1]}
        with replacing(place / "latest.pt") as beside:
            torch.save(torch_state, beside)
        self.save_best(model)
        self._saved = time.monotonic()

    def save_best(self, model: PPO) -> None:
        """Write the best policy so far as the run's model, leaving ``model`` as it is."""
        running = {name: value.clone() for name, value in model.policy.state_dict().items()}
        if self.best is not None:
            model.policy.load_state_dict(self.best[1])
        _save(model, self.request, self.folder)
        model.policy.load_state_dict(running)

    def load(self, model: PPO, env: SandMelterVecEnv) -> None:
        """Go on from the checkpoint; raise ModelFileError where it is damaged."""
        path = self.folder / CHECKPOINT
        try:
            kept = torch.load(path, weights_only=True)
            model.policy.load_state_dict(kept["policy"])
            model.policy.optimizer.load_state_dict(kept["optimizer"])
            env_state = {name: value.numpy() for name, value in kept["env"].items()}
            env_state["keys"] = env_state["keys"].view(np.uint64)
            model._last_obs = env.env.restore(env_state)  # pyright: ignore[reportPrivateUsage]
            model._last_episode_starts = kept["starts"].numpy()  # pyright: ignore[reportPrivateUsage]
            env.go_on(kept["returns"].numpy())
            counts, rng = kept["counts"], kept["numpy_rng"]
            self.best = (kept["best_score"], kept["best"]) if "best" in kept else None
            self._contest = counts["contest"]
        except Exception as error:
            raise ModelFileError(f"{path}: not a checkpoint of this version ({type(error).__name__})") from None
        model.num_timesteps, model._n_updates, self.seconds = counts["steps"], counts["updates"], counts["seconds"]  # pyright: ignore[reportPrivateUsage]
        torch.set_rng_state(kept["torch_rng"])
        position, has_gauss, gauss = rng["place"]
        np.random.set_state((rng["kind"], rng["key"].numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002


def _actor(policy: Any) -> list[torch.nn.Parameter]:
    """The parameters that decide on actions."""
    return [*policy.mlp_extractor.policy_net.parameters(), *policy.action_net.parameters(), policy.log_std]


class CsvLog(KVWriter):
    """One row per update, columns as they come up; goes on with the file of a resumed run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[dict[str, str]] = []
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                self._rows = list(csv.DictReader(file))
        self._names = list(self._rows[0]) if self._rows else []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:  # noqa: ARG002
        row = {"steps": str(step), **{name: str(value) for name, value in key_values.items()}}
        self._rows.append(row)
        if set(row) <= set(self._names):
            with self._path.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, self._names).writerow(row)
            return
        self._names = ["steps", *sorted((set(self._names) | set(row)) - {"steps"})]
        with replacing(self._path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self._names)
            writer.writeheader()
            writer.writerows(self._rows)

    def close(self) -> None:
        """Nothing is kept open."""


def _signed(array: Any) -> Any:
    """Keys as the same bits in a type that torch can save."""
    return array.view(np.int64) if array.dtype == np.uint64 else array


def _save(model: PPO, request: TrainRequest, folder: Path) -> Path:
    """Write ``model.zip``, then the bundle that melter itself loads."""
    path = folder / "model.zip"
    with replacing(path) as beside:
        model.save(beside)
    net = load_policy(path).net
    builder = ObservationBuilder(request.machine)
    save_bundle(folder, net, manifest_for(net, request.machine, builder.table, builder.sha256, "ppo"))
    return path
