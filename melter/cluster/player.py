"""What runs on a worker: a native batch of simulations and a copy of the policy. No Ray in here."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections import deque
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import melter
import melter.env
from melter.env.sb3 import SandMelterVecEnv
from melter.policy.config import OffPolicy, PpoConfig, TrpoConfig
from melter.policy.elsewhere import one_thread
from melter.policy.keeper import Figures
from melter.policy.learners import make_learner
from melter.policy.onpolicy import Rollout
from melter.policy.replay import Steps
from melter.policy.request import TrainRequest
from melter.policy.servo import Servo
from melter.policy.stagger import stagger

Array = NDArray[Any]
LEAST_BUFFER = 1000
"""Transitions in the replay buffer of a worker, which nothing is kept in."""
MUST_AGREE = ("melter", "mujoco", "numpy", "gymnasium", "stable-baselines3", "torch")


@dataclass(frozen=True)
class Share:
    """One worker's part of the simulations."""

    number: int
    first: int
    """Index of its first simulation among all."""
    count: int
    generation: int = 0
    """How often this worker has been replaced."""
    of: int = 1
    """Workers in all."""


@dataclass(frozen=True)
class Fragment:
    """What one worker played."""

    played: Rollout | Steps
    observation: Array
    """(count, observation) after the last step."""
    starts: Array
    """(count,) whether an episode began there."""
    figures: Figures
    episodes: list[dict[str, float]]
    """Return and length of the episodes that ended."""
    seconds: float
    """Time spent on playing."""


@dataclass(frozen=True)
class Weights:
    """What workers need to play like the learner."""

    actor: dict[str, Array]
    """What ``shared()`` of the learner gave."""
    used: float
    """Share of the budget that is used up."""
    lessons: int
    """Rollouts that the learner keeps from lessons."""
    steps: int
    """Control steps trained so far; seeds the exploration."""
    periods: int
    """Control periods to play."""


def shares(total: int, workers: int, per_worker_least: int = 1) -> list[Share]:
    """Return how ``total`` simulations are spread over at most ``workers``, as evenly as can be."""
    workers = max(1, min(workers, total // per_worker_least))
    ends = [total * number // workers for number in range(workers + 1)]
    return [Share(number, ends[number], ends[number + 1] - ends[number], of=workers) for number in range(workers)]


@cache
def about() -> dict[str, str]:
    """Return what has to be the same on all machines: versions of libraries, and a hash of this package's files."""
    told = {}
    for name in MUST_AGREE:
        try:
            told[name] = version(name)
        except PackageNotFoundError:
            told[name] = "not installed"
    root, digest = Path(melter.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return told | {"code": digest.hexdigest()[:12]}


class Player:
    """Plays a share of a training's simulations."""

    def __init__(self, request: TrainRequest, share: Share) -> None:
        self._request, self._share, self._used = request, share, 0.0
        self._env: Any = None
        self._model: Any = None

    def about(self) -> dict[str, Any]:
        """Return versions, host and process id, before anything is made."""
        return {"versions": about(), "host": socket.gethostname(), "pid": os.getpid(), "place": melter.__file__}

    def begin(self) -> tuple[Array, Array]:
        """Make the simulations and begin episodes, staggered; return observations and episode starts."""
        one_thread()
        request, share = self._request, self._share
        seed = request.seed + share.first + share.generation * request.settings.envs
        self._env = melter.env.sb3_vec_env(share.count, request.machine, request.scenario, 1, seed)
        settings = replace(request.settings, envs=share.count, **self._small())
        self._watch = _Watch(self._env)
        self._model = model = make_learner(settings, self._env, seed, 1, lambda: self._used)
        model.ep_info_buffer = deque(maxlen=1000)
        model._last_obs = stagger(self._env, Servo(request.machine).act, settings.groups)
        model._last_episode_starts = np.ones(share.count, dtype=bool)
        return np.asarray(model._last_obs), model._last_episode_starts

    def _small(self) -> dict[str, Any]:
        """Settings that only a learner of all simulations could have."""
        settings = self._request.settings
        if isinstance(settings, PpoConfig | TrpoConfig):
            return {"batch_size": min(settings.batch_size, self._share.count * settings.n_steps)}
        return {"buffer_size": LEAST_BUFFER, "priority": 0.0} if isinstance(settings, OffPolicy) else {}

    def play(self, weights: Weights) -> Fragment:
        """Play with the learner's weights."""
        begun, model = time.perf_counter(), self._model
        model.act_like(weights.actor)
        self._used = weights.used
        model.ep_info_buffer.clear()
        self._watch.figures = Figures()
        return Fragment(
            self._play(model, weights),
            np.asarray(model._last_obs),
            np.asarray(model._last_episode_starts),
            self._watch.figures,
            list(model.ep_info_buffer),
            time.perf_counter() - begun,
        )

    def _play(self, model: Any, weights: Weights) -> Rollout | Steps:
        """Play; the exploration depends on seed, worker and steps trained, nothing else."""
        model.lesson_rows = [None] * weights.lessons
        model.rng = self._rng(weights.steps)
        model.collect_rollouts(self._env, self._watch, None, weights.periods)
        return model.played

    def _rng(self, *numbers: int) -> np.random.Generator:
        share = self._share
        return np.random.default_rng([self._request.seed, share.number, share.generation, *numbers])

    def state(self) -> tuple[dict[str, Array], Array, Array, Array]:
        """Return copies of the simulations' state, of return and length of their running episodes, observations and starts."""
        model = self._model
        now = np.array(model._last_obs), np.array(model._last_episode_starts)
        return self._env.env.state(), self._env.running(), *now

    def restore(self, state: dict[str, Array], running: Array, observation: Array, starts: Array) -> None:
        """Go on from :meth:`state`."""
        self._env.env.restore(state)
        self._env.go_on(running)
        self._model._last_obs, self._model._last_episode_starts = observation.copy(), starts.copy()


class _Watch:
    """Stands where a learner's callback does."""

    def __init__(self, env: SandMelterVecEnv) -> None:
        self.figures, self._env = Figures(), env

    def on_rollout_start(self) -> None:
        """Nothing to do."""

    def on_rollout_end(self) -> None:
        """Nothing to do."""

    def on_step(self) -> bool:
        """Count a step."""
        self.figures.add(self._env)
        return True
