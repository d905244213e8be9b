"""Simulations that do not all begin their episodes at once, so that every rollout shows every part of an episode."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from melter.env.sb3 import SandMelterVecEnv

Observation = NDArray[np.float32]


def stagger(env: SandMelterVecEnv, act: Callable[[Observation], Observation], groups: int) -> Observation:
    """Begin episodes in ``groups`` groups of simulations, spread evenly over one episode's length; return the observation.

    Until the last group begins, ``act`` drives: (n, obs) to (n, 8) in [-1, 1].
    """
    observation = np.asarray(env.reset())
    vector, horizon = env.env, env.env.batch.horizon
    group = np.arange(env.num_envs) * groups // env.num_envs
    for number in range(1, groups):
        for _ in range(horizon * number // groups - horizon * (number - 1) // groups):
            observation = np.asarray(env.step(act(observation))[0])
        begin = group == number
        if begin.any():
            observation, _ = vector.reset(options={"reset_mask": begin})
            env.go_on(np.where(begin[:, None], 0.0, env.running()))
    return observation
