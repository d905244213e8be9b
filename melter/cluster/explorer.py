"""A worker that plays for an off-policy learner: transitions come back, each worker explores on a scale of its own. No Ray in here."""

from __future__ import annotations

from typing import Any

import numpy as np

from melter.cluster.player import Array, Player, Share, Weights
from melter.policy.config import Config, OffPolicy
from melter.policy.replay import Steps

WIDEST = 2.0
"""Factor on the exploration of the worker that explores most; the one that explores least has its inverse, the others lie
between them in equal ratios (Horgan et al. 2018 spread theirs likewise)."""


class Explorer(Player):
    """Plays a share of an off-policy training's simulations."""

    _turn = 0

    def begin(self) -> tuple[Array, Array]:
        """Make the simulations and begin episodes, staggered; return observations and episode starts."""
        out = super().begin()
        self._model.explore_scale = scale(self._share)
        return out

    def _play(self, model: Any, weights: Weights) -> Steps:
        model.num_timesteps, self._turn = weights.steps, self._turn + 1
        model.rng = self._rng(weights.steps, self._turn)
        envs, width = np.asarray(model._last_obs).shape
        note = _Note(Steps.empty(weights.periods, envs, width, model.replay_buffer.action_dim))
        often = model.train_freq._replace(frequency=weights.periods)
        model.collect_rollouts(self._env, self._watch, often, note, learning_starts=model.learning_starts)
        note.steps.close(np.asarray(model._last_obs))
        return note.steps


class _Note:
    """Stands where a learner's replay buffer does."""

    def __init__(self, steps: Steps) -> None:
        self.steps, self._time = steps, 0

    def put(self, *step: Any) -> None:
        """Note one step of all simulations."""
        self.steps.write(self._time, *step)
        self._time += 1


def scale(share: Share) -> float:
    """Return the factor on a worker's exploration."""
    return 1.0 if share.of == 1 else WIDEST ** (2 * share.number / (share.of - 1) - 1)


def player_for(settings: Config) -> type[Player]:
    """Return what plays for a learner with these settings."""
    return Explorer if isinstance(settings, OffPolicy) else Player
