"""stable-baselines3's PPO with its inner loops in plain NumPy; what it saves is a plain PPO model.

The update is the same (Schulman et al. 2017, as stable-baselines3 does it: minibatches shuffled anew each epoch, advantages
normalised in each, clipped surrogate). One thing differs when asked for: ``critic_rate`` gives the critic a step size of its
own, gradients are then clipped for each network by itself, and an update that has moved the policy far enough goes on for
the critic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.utils import explained_variance

from melter.policy.actorcritic import Piece
from melter.policy.mlp import Array
from melter.policy.onpolicy import FastOnPolicy


class FastPPO(FastOnPolicy, PPO):
    """PPO with NumPy inner loops."""

    critic_rate: Callable[[float], float] | None = None
    """The critic's learning rate by the share of the budget that is used up; None: the actor's, clipped jointly."""
    critic_alone = 0
    """Updates at the start (after the lessons) in which only the critic learns."""

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "critic_rate", "critic_alone"]

    def train(self) -> None:
        """Update actor and critic from the last rollout, or the actor from the teacher."""
        if self.played is None:
            return
        if self.played.wanted is not None:
            self.learn_lesson()
            return
        rows, values = self.rows()
        used = self.used()
        rate = float(self.lr_schedule(self._current_progress_remaining))
        critic_rate = None if self.critic_rate is None else self.critic_rate(used)
        told = self._epochs(rows, rate, critic_rate, actor=self.critic_alone <= 0)
        self.critic_alone -= 1
        self.networks.share_with(self.policy.optimizer)
        for group in self.policy.optimizer.param_groups:
            group["lr"] = rate
        told |= {"learning_rate": rate, "std": float(np.exp(self.networks.log_std).mean())}
        told["explained_variance"] = float(explained_variance(values, rows.returns))
        for name, value in told.items():
            self.logger.record(f"train/{name}", value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def fit_critic(self) -> None:
        """Fit the critic alone to the last rollout's returns, one pass."""
        rows, values = self.rows()
        rate = self.critic_rate(0.0) if self.critic_rate else float(self.lr_schedule(1.0))
        self._pass(rows, rate, rate, [], actor=False)
        self.logger.record("train/explained_variance", float(explained_variance(values, rows.returns)))

    def _epochs(self, rows: Piece, rate: float, critic_rate: float | None, *, actor: bool) -> dict[str, float]:
        """Pass over the rows ``n_epochs`` times; return means for the log."""
        told: list[Array] = []
        going = actor
        for _ in range(self.n_epochs):
            going = self._pass(rows, rate, critic_rate, told, actor=going)
            self._n_updates += 1
            if actor and not going and critic_rate is None:
                break
        names = ("policy_gradient_loss", "value_loss", "approx_kl", "clip_fraction")
        return dict(zip(names, np.mean(np.array(told), axis=0).tolist(), strict=True))

    def _pass(self, rows: Piece, rate: float, critic_rate: float | None, told: list[Array], *, actor: bool) -> bool:
        """Pass over the rows in minibatches; return whether the actor may go on, the policy not having moved too far."""
        clip = float(self.clip_range(self._current_progress_remaining))  # type: ignore[operator]
        order, coefficients = self.rng.permutation(len(rows.advantages)), (self.vf_coef, self.ent_coef)
        for start in range(0, len(order), self.batch_size):
            picked = order[start : start + self.batch_size]
            gradient = self.pieces.ppo(
                self.networks, rows, picked, clip, coefficients, actor=actor, normalize=self.normalize_advantage
            )
            told.append(gradient.told)
            if actor and self.target_kl is not None and gradient.told[2] > 1.5 * self.target_kl:
                actor, gradient.actor = False, None
                if critic_rate is None:
                    break
            self.networks.step(gradient, self.max_grad_norm, rate, critic_rate)
        return actor

    def set_parameters(self, load_path_or_dict: Any, exact_match: bool = True, device: Any = "auto") -> None:
        """Load parameters; the NumPy side goes on from what was loaded."""
        super().set_parameters(load_path_or_dict, exact_match, device)
        self.networks.take_from(self.policy.optimizer)

    def state(self) -> dict[str, Any]:
        """Return copies of what the NumPy side needs to go on, beside the policy's weights."""
        return {**super().state(), "critic_alone": self.critic_alone}

    def restore(self, kept: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        super().restore(kept)
        self.critic_alone = kept["critic_alone"]
        self.networks.share_with(self.policy.optimizer)
