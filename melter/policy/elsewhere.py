"""Simulations that run in other processes or on other machines, with a copy of the policy in each."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from stable_baselines3.common.vec_env.base_vec_env import VecEnv


class SimulationsElsewhere(VecEnv):
    """What a learner uses in place of simulations of its own: whole rollouts come back, no step is asked for by itself.

    ``env.batch.machine`` is the machine; ``env.state()`` and ``env.restore()`` are those of the native vector environment.
    """

    env: Any
    truth: dict[str, Any]

    @abstractmethod
    def begin(self) -> Any:
        """Begin episodes everywhere, staggered; return the observations (num_envs, observation)."""

    @abstractmethod
    def play(self, model: Any, callback: Any, steps: int) -> bool:
        """Fill ``model.played`` with ``steps`` control periods of every simulation, and tell ``callback``; return True."""

    @abstractmethod
    def running(self) -> Any:
        """Return (num_envs, 2) return and length of the running episodes."""

    @abstractmethod
    def go_on(self, running: Any) -> None:
        """Go on from :meth:`running`."""


def one_thread() -> None:
    """Let torch use one thread in this process: workers share a machine."""
    torch.set_num_threads(1)
