"""What ``melter bench env`` measures: the native batch, its physics alone, and one process per environment."""

from __future__ import annotations

import tracemalloc
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
    counts = [threads] if threads == 1 else [threads, 1]
    return [
        *(_native(machine, envs, count, seed) for count in counts),
        *(_physics(machine, envs, count, seed) for count in counts),
        _subprocesses(machine, workers, seed),
        _one_after_another(machine, workers, seed),
    ]


def native_contenders(machine: str, envs: int, counts: list[int], seed: int) -> list[Contender]:
    """Return the native batch on each of ``counts`` threads, and MuJoCo alone on as many."""
    return [make(machine, envs, count, seed) for make in (_native, _physics) for count in counts]


def memory_per_simulation_bytes(machine: str, envs: int) -> int:
    """Return what one simulation takes beside MuJoCo's own state: everything that NumPy allocates, over ``envs``."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        env = SandMelterVectorEnv(envs, machine, "train")
        env.reset(seed=0)
        env.step(np.zeros((envs, WINCH_COUNT)))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (after - before) // envs


def _native(machine: str, envs: int, threads: int, seed: int) -> Contender:
    env = SandMelterVectorEnv(envs, machine, "train", threads, AutoresetMode.SAME_STEP)
    env.reset(seed=seed)
    actions = _actions(envs, seed)

    def burst() -> int:
        env.step(next(actions))
        return envs

    return Contender(f"native batch of {envs}, {_threads(threads)}", UNIT, burst, env.close)


def _physics(machine: str, envs: int, threads: int, seed: int) -> Contender:
    """The same simulations, stepped by MuJoCo and nothing else: the rate of its ``mj_step``."""
    env = SandMelterVectorEnv(envs, machine, "train", threads)
    env.reset(seed=seed)
    physics = env.batch.physics
    physics.pay_out_m_s[:] = 0.0

    def burst() -> int:
        physics.run(physics.substeps)
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
