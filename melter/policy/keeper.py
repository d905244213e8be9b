"""Keeps a training: its budget, its checkpoints, its best policy, and the figures that people watch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from melter.env.sb3 import SandMelterVecEnv
from melter.machine import WINCH_COUNT
from melter.policy.checkpoint import load_checkpoint, save_checkpoint, save_model
from melter.policy.evaluate import evaluate
from melter.policy.request import CHECKPOINT, Progress, TrainRequest

CHECKPOINT_S = 20.0
"""Time between checkpoints; at most this much is lost."""
CHECKPOINT_COST = 0.05
"""Largest share of the time that is spent on writing them."""
CONTESTS = 8
"""How often in a run the policy is compared with the best one so far."""
CONTEST_EPISODES = 64
CONTEST_FIRST = 100_000
"""Episodes of the outdoor suite that choose the best policy; others than those that are reported."""
TERMINATED_MM = 10.0
"""What a terminated episode adds to a policy's score, shared out over all episodes."""
REPORT_STEPS = 8192
"""Control steps between reports."""
ALTERED_M_S = 1e-4
"""A command further than this from what was asked for was altered by the safety layer; counts are rounded to less."""


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
        self.contest = 1
        """Number of the next contest; they are spread evenly over the budget."""
        self.best: tuple[float, dict[str, torch.Tensor]] | None = None
        """Score and weights of the best policy so far."""
        self._since = time.monotonic()
        self._saved, self._cost_s = -math.inf, 0.0
        self._figures = Figures()
        self._pace = (time.monotonic(), 0)

    def share(self) -> float:
        """Share of the budget that is used up."""
        self._clock()
        steps, minutes = self.request.steps, self.request.minutes
        by_steps = self.model.num_timesteps / steps if steps else 0.0
        return max(by_steps, self.seconds / (60 * minutes) if minutes else 0.0)

    def _clock(self) -> None:
        now = time.monotonic()
        self.seconds += now - self._since
        self._since = now

    def _on_training_start(self) -> None:
        self._pace = (time.monotonic(), self.model.num_timesteps)

    def _on_rollout_start(self) -> None:
        if self._figures.steps >= REPORT_STEPS:
            self._report()
        share = self.share()
        if share * CONTESTS >= self.contest:
            self.compete()
        if share >= 1 or self._met():
            raise BudgetSpent
        if time.monotonic() - self._saved > max(CHECKPOINT_S, self._cost_s / CHECKPOINT_COST):
            self.save()

    def _met(self) -> bool:
        """Whether the error aimed at is reached."""
        target_mm = self.request.target_mm
        return target_mm is not None and self.best is not None and self.best[0] <= target_mm

    def compete(self) -> None:
        """Keep the weights if they are the best so far, by outdoor error."""
        self.contest = int(self.share() * CONTESTS) + 1
        request, model = self.request, self.model
        found = evaluate(
            lambda observation: model.predict(observation, deterministic=True)[0],  # type: ignore[arg-type,return-value]
            request.machine,
            "outdoor",
            CONTEST_EPISODES,
            first=CONTEST_FIRST,
            threads=request.threads,
        )
        score = found.rms_mm + TERMINATED_MM * found.terminated / found.episodes
        self.logger.record("eval/outdoor_rms_mm", found.rms_mm)
        self.logger.record("eval/outdoor_p95_mm", found.p95_mm)
        self.logger.record("eval/outdoor_terminated", found.terminated)
        better = self.best is None or score < self.best[0]
        if better:
            self.best = score, {name: value.clone() for name, value in model.policy.state_dict().items()}
        self.on_remark(f"validation: {found.text()}{'; the best so far' if better else ''}")

    def _on_step(self) -> bool:
        self._figures.add(self.training_env)  # type: ignore[arg-type]
        return True

    def take_in(self, figures: Figures) -> None:
        """Count what was seen of simulations that run elsewhere."""
        self.num_timesteps = self.model.num_timesteps
        self._figures.merge(figures)

    def _report(self) -> None:
        """Tell what was seen since the last report."""
        now, (before, steps) = time.monotonic(), self._pace
        rate = (self.num_timesteps - steps) / max(now - before, 1e-9)
        self._pace = (now, self.num_timesteps)
        told = self._figures.told() | {"time/steps_per_s": rate, "time/seconds": self.seconds}
        self._figures = Figures()
        for name, value in told.items():
            self.logger.record(name, value)
        self.logger.dump(self.num_timesteps)
        share, reward, error_mm = min(self.share(), 1.0), told["reward/total"], told["error/median_mm"]
        self.on_progress(Progress(share, self.num_timesteps, self.seconds, rate, reward, error_mm))

    def finish(self) -> None:
        """Report and save at the end of the budget."""
        if self._figures.steps:
            self._report()
        self.save()

    def save(self) -> None:
        """Write the checkpoint that a resume goes on from, and the best policy so far."""
        self._clock()
        begun = time.monotonic()
        counts = {"seconds": self.seconds, "contest": self.contest}
        save_checkpoint(self.folder / CHECKPOINT, self.model, self._env, counts, self.best)
        self.save_best()
        self._saved = time.monotonic()
        self._cost_s = self._saved - begun

    def save_best(self) -> None:
        """Write the best policy so far as the run's model, leaving the learner as it is."""
        policy = self.model.policy
        running = {name: value.clone() for name, value in policy.state_dict().items()}
        if self.best is not None:
            policy.load_state_dict(self.best[1])
        save_model(self.model, self.request, self.folder)
        policy.load_state_dict(running)

    def load(self) -> None:
        """Go on from the checkpoint; raise ModelFileError where it is damaged."""
        counts, self.best = load_checkpoint(self.folder / CHECKPOINT, self.model, self._env)
        self.seconds, self.contest = counts["seconds"], counts["contest"]
        self._since = time.monotonic()

    @property
    def _env(self) -> SandMelterVecEnv:
        return self.model.env  # type: ignore[return-value]


class Figures:
    """What people watch, gathered over some steps of all simulations."""

    def __init__(self) -> None:
        self.steps = 0
        self._ticks = 0
        self._errors: list[Any] = []
        self._terms: dict[str, float] = {}
        self._low_n, self._high_n, self._altered = math.inf, -math.inf, 0.0

    def add(self, env: SandMelterVecEnv) -> None:
        """Take in one step."""
        truth, batch = env.truth, env.env.batch
        self.steps += env.num_envs
        self._ticks += 1
        self._errors.append(np.asarray(truth["spot_error_m"]))
        for name, value in truth.items():
            if name.startswith("reward_"):
                self._terms[name] = self._terms.get(name, 0.0) + float(value.mean())
        self._low_n = min(self._low_n, float(truth["tensions_n"].min()))
        self._high_n = max(self._high_n, float(truth["tensions_n"].max()))
        going = truth["ending"] == 0
        if going.any():
            asked = np.clip(env.asked[going], -1, 1) * batch.machine.limits.speed_normal_m_s
            off = np.abs(batch.commands_m_s[going, 0] - asked).reshape(-1, WINCH_COUNT).max(axis=1)
            self._altered += float((off > ALTERED_M_S).mean())

    def merge(self, other: Figures) -> None:
        """Take in what was gathered of other simulations."""
        self.steps += other.steps
        self._ticks += other._ticks
        self._errors += other._errors
        for name, value in other._terms.items():
            self._terms[name] = self._terms.get(name, 0.0) + value
        self._low_n, self._high_n = min(self._low_n, other._low_n), max(self._high_n, other._high_n)
        self._altered += other._altered

    def told(self) -> dict[str, float]:
        """Return the figures by name."""
        errors_mm = np.concatenate(self._errors) * 1e3
        terms = {name.removeprefix("reward_"): value / self._ticks for name, value in self._terms.items()}
        return {f"reward/{name}": value for name, value in terms.items()} | {
            "reward/total": sum(terms.values()),
            "error/median_mm": float(np.median(errors_mm)),
            "error/p95_mm": float(np.percentile(errors_mm, 95)),
            "tension/lowest_n": self._low_n,
            "tension/highest_n": self._high_n,
            "gate/altered_share": self._altered / self._ticks,
        }
