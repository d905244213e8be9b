"""What ``melter bench env`` measures: the native batch, its physics alone, and one process per environment."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from melter.env.gym_env import SandMelterVectorEnv
from melter.machine import WINCH_COUNT
from melter.timing import Contender

UNIT = "control steps/s"
ACTION_SIZE = 0.05
"""Standard deviation of the random actions: small enough that episodes last."""


def env_contenders(machine: str, envs: int, threads: int, workers: int, seed: int) -> list[Contender]:
    """Return the contenders; ``workers``: environments of the two stable-baselines3 ones."""
    contenders = [_native(machine, envs, threads, seed)]
    if threads > 1:
        contenders.append(_native(machine, envs, 1, seed))
    return [
        *contenders,
        _physics(machine, envs, threads, seed),
        _subprocesses(machine, workers, seed),
        _one_after_another(machine, workers, seed),
    ]


def _native(machine: str, envs: int, threads: int, seed: int) -> Contender:
    env = SandMelterVectorEnv(envs, machine, "train", threads, AutoresetMode.SAME_STEP)
    env.reset(seed=seed)
    actions = _actions(envs, seed)

    def burst() -> int:
        env.step(next(actions))
        return envs

    return Contender(f"native batch of {envs}, {_threads(threads)}", UNIT, burst, env.close)


def _physics(machine: str, envs: int, threads: int, seed: int) -> Contender:
    """The same simulations, stepped by MuJoCo and nothing else."""
    env = SandMelterVectorEnv(envs, machine, "train", threads)
    env.reset(seed=seed)
    physics = env.batch.physics
    still, calm = np.zeros((envs, physics.substeps, WINCH_COUNT)), np.zeros((envs, 3))

    def burst() -> int:
        physics.advance(still, calm)
        return envs

    return Contender(
        f"physics alone of {envs}, {_threads(threads)}, {physics.substeps} substeps", UNIT, burst, env.close
    )


def _subprocesses(machine: str, workers: int, seed: int) -> Contender:
    from stable_baselines3.common.vec_env import SubprocVecEnv

    env = SubprocVecEnv(_makers(machine, workers))
    pids = tuple(int(process.pid or 0) for process in env.processes)
    return _stable_baselines("SubprocVecEnv", env, workers, seed, pids)


def _one_after_another(machine: str, workers: int, seed: int) -> Contender:
    from stable_baselines3.common.vec_env import DummyVecEnv

    return _stable_baselines("DummyVecEnv", DummyVecEnv(_makers(machine, workers)), workers, seed, ())


def _stable_baselines(name: str, env: Any, workers: int, seed: int, pids: tuple[int, ...]) -> Contender:
    env.seed(seed)
    env.reset()
    actions = _actions(workers, seed)

    def burst() -> int:
        env.step(next(actions))
        return workers

    return Contender(f"{name} of {workers}", UNIT, burst, env.close, pids)


def _makers(machine: str, workers: int) -> list[Callable[[], Any]]:
    def make() -> Any:
        return gymnasium.make("melter:melter/SandMelter-v0", machine=machine)

    return [make] * workers


def _actions(count: int, seed: int) -> cycle[Any]:
    rng = np.random.default_rng(seed)
    return cycle(np.clip(rng.normal(0, ACTION_SIZE, (16, count, WINCH_COUNT)), -1, 1).astype(np.float32))


def _threads(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"
