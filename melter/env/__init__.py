"""The simulated robot: physics, randomised world, task, and its Gymnasium and stable-baselines3 faces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melter.env.sb3 import SandMelterVecEnv
    from melter.env.scenario import Scenario
    from melter.machine import Machine


def sb3_vec_env(
    num_envs: int,
    machine: Machine | str | Path = "corner8",
    scenario: Scenario | str = "train",
    threads: int = 1,
    seed: int | None = None,
) -> SandMelterVecEnv:
    """Return the native batch as a stable-baselines3 ``VecEnv`` of ``num_envs`` machines, no process per environment."""
    from melter.env.sb3 import SandMelterVecEnv

    env = SandMelterVecEnv(num_envs, machine, scenario, threads)
    if seed is not None:
        env.seed(seed)
    return env
