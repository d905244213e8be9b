"""What ``melter bench learner`` measures: the learners beside stable-baselines3's own, on the same task and cores."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import SubprocVecEnv

from melter.env.sb3 import SandMelterVecEnv
from melter.machine import Machine
from melter.policy.config import Config, algo_config
from melter.policy.evaluate import evaluate
from melter.policy.learners import make_learner
from melter.policy.offpolicy import FastSAC, FastTD3
from melter.timing import Contender

STEPS = "control steps/s, learning included"
ROLLOUT = 128
"""Control periods between updates of the contenders with stable-baselines3's settings. It would be 2048, but a turn would
take a minute; what a step costs is the same."""
OFF_BATCH, OFF_ARCH, OFF_STEPS = 256, [256, 256], 10
"""stable-baselines3's defaults for SAC; gradient steps in a burst."""
NO_LESSONS = ("servo_share=0", "teacher_share=0")
CHECK_EPISODES, CHECK_FIRST = 32, 500_000
"""Nominal episodes that tell whether a learner has reached its target."""


def learner_contenders(machine: Machine, envs: int, threads: int, workers: int, seed: int) -> list[Contender]:
    """Return PPO end to end, then gradient steps of TD3 and SAC, each beside stable-baselines3's."""
    torch.set_num_threads(1)
    batch = f"native batch of {envs}"
    own = algo_config("ppo", "default", NO_LESSONS)
    size = min(own.table()["batch_size"], envs * own.table()["n_steps"])
    own = algo_config("ppo", "default", (*NO_LESSONS, f"envs={envs}", f"batch_size={size}"))
    steps = max(1, ROLLOUT * workers // envs)
    alike = algo_config("ppo", "stock", (f"envs={envs}", f"n_steps={steps}", f"batch_size={min(64, envs * steps)}"))
    return [
        _fast_ppo(f"melter's PPO, {batch}, own settings", own, machine, threads, seed),
        _fast_ppo(f"melter's PPO, {batch}, minibatch 64 and 10 epochs", alike, machine, threads, seed),
        _stock_ppo(machine, workers, seed),
        *_gradient_steps(FastTD3, TD3, "TD3"),
        *_gradient_steps(FastSAC, SAC, "SAC"),
    ]


def _learning(name: str, model: Any, close: Callable[[], None], pids: tuple[int, ...] = ()) -> Contender:
    """One rollout and one update to a burst."""
    model.set_logger(Logger(None, []))
    size = model.n_steps * model.n_envs

    def burst() -> int:
        model.learn(size, reset_num_timesteps=False, log_interval=None)
        return size

    return Contender(name, STEPS, burst, close, pids)


def _fast_ppo(name: str, config: Config, machine: Machine, threads: int, seed: int) -> Contender:
    env = SandMelterVecEnv(config.envs, machine, "train", threads)
    model = make_learner(config, env, seed, threads, lambda: 0.0)
    model.critic_alone = 0
    return _learning(name, model, env.close)


def _stock_env(machine: Machine, workers: int, seed: int) -> Any:
    """As stable-baselines3's guide makes it."""

    def make() -> gymnasium.Env[Any, Any]:
        return gymnasium.make("melter:melter/SandMelter-v0", machine=machine)

    return make_vec_env(make, n_envs=workers, seed=seed, vec_env_cls=SubprocVecEnv)  # type: ignore[arg-type]


def _stock_ppo(machine: Machine, workers: int, seed: int) -> Contender:
    env = _stock_env(machine, workers, seed)
    pids = tuple(int(process.pid or 0) for process in env.processes)
    model = PPO("MlpPolicy", env, n_steps=ROLLOUT, seed=seed, device="cpu")
    return _learning(f"stable-baselines3's PPO, SubprocVecEnv of {workers}, its settings", model, env.close, pids)


class _NoEnv(gymnasium.Env[Any, Any]):
    """Spaces of the task's size, for learners that only learn."""

    def __init__(self, width: int = 100) -> None:
        self.observation_space = gymnasium.spaces.Box(-1, 1, (width,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (8,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed, options=options)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, False, {"action": action}


def _gradient_steps(fast: type[Any], stock: type[Any], name: str) -> list[Contender]:
    """The same batch size, networks and number of transitions; torch on one thread, float32."""
    made: list[Contender] = []
    for kind, whose in ((fast, "melter's"), (stock, "stable-baselines3's")):
        kwargs: dict[str, Any] = {"net_arch": OFF_ARCH}
        if kind is fast:
            kwargs["optimizer_kwargs"] = {"fused": True}
        settings: dict[str, Any] = {"batch_size": OFF_BATCH, "seed": 0, "device": "cpu", "policy_kwargs": kwargs}
        model = kind("MlpPolicy", _NoEnv(), buffer_size=20_000, **settings)
        model.set_logger(Logger(None, []))
        if kind is fast:
            model.use_replay(20_000, 1)
        _fill(model, kind is fast)
        made.append(_training(f"{whose} {name}, gradient steps of {OFF_BATCH}", f"{name} gradient steps/s", model))
    return made


def _training(name: str, unit: str, model: Any) -> Contender:
    def burst() -> int:
        model.train(gradient_steps=OFF_STEPS, batch_size=OFF_BATCH)
        return OFF_STEPS

    return Contender(name, unit, burst)


def _fill(model: Any, fast: bool) -> None:
    """Put 2,000 transitions into the replay buffer."""
    rng, buffer = np.random.default_rng(0), model.replay_buffer
    for _ in range(2_000):
        one, other = rng.normal(size=(2, 1, 100)).astype(np.float32)
        action, reward = rng.uniform(-1, 1, (1, 8)).astype(np.float32), rng.normal(size=1).astype(np.float32)
        over, infos = np.zeros(1, dtype=bool), [{}]
        if fast:
            buffer.put(one, action, reward, over, infos)
        else:
            buffer.add(one, other, action, reward, over, infos)


def seconds_to_target(
    machine: Machine, target_mm: float, most_minutes: float, threads: int, workers: int, seed: int
) -> list[tuple[str, float | None, float]]:
    """Return (name, seconds of training until the nominal RMS error is at most ``target_mm``, or None; last RMS).

    melter's default settings, then stable-baselines3's PPO as its guide shows it; time spent on checks does not count.
    """
    torch.set_num_threads(1)
    config = algo_config("ppo")
    env = SandMelterVecEnv(config.envs, machine, "train", threads)
    clock = _Checks(machine, target_mm, most_minutes, threads)
    whole_s = 60 * min(most_minutes, 3.3)
    fast = make_learner(config, env, seed, threads, lambda: min(clock.trained_s() / whole_s, 1.0))
    found = [("melter's PPO, own settings", *clock.run(fast))]
    env.close()
    stock_env = _stock_env(machine, workers, seed)
    stock = PPO("MlpPolicy", stock_env, seed=seed, device="cpu")
    clock = _Checks(machine, target_mm, most_minutes, threads)
    found.append((f"stable-baselines3's PPO, SubprocVecEnv of {workers}", *clock.run(stock)))
    stock_env.close()
    return found


class _Checks(BaseCallback):
    """Stops a training when the nominal error is low enough, or when it has taken too long."""

    def __init__(
        self, machine: Machine, target_mm: float, most_minutes: float, threads: int, every_s: float = 5.0
    ) -> None:
        super().__init__()
        self._machine, self._target_mm, self._most_s = machine, target_mm, 60 * most_minutes
        self._threads, self._every_s = threads, every_s
        self._begun, self._checking_s, self._next_s, self._last_mm = time.monotonic(), 0.0, every_s, float("inf")

    def run(self, model: Any) -> tuple[float | None, float]:
        """Train; return the time it took to the target, or None, and the last error (mm)."""
        model.set_logger(Logger(None, []))
        self._begun = time.monotonic()
        model.learn(1 << 60, callback=self, log_interval=None)
        return (self.trained_s() if self._last_mm <= self._target_mm else None), self._last_mm

    def trained_s(self) -> float:
        """Time since the start, without the checks."""
        return time.monotonic() - self._begun - self._checking_s

    def _on_step(self) -> bool:
        if self.trained_s() < self._next_s:
            return True
        before = time.monotonic()
        model: Any = self.model
        found = evaluate(
            lambda observation: model.predict(observation, deterministic=True)[0],
            self._machine,
            "nominal",
            CHECK_EPISODES,
            first=CHECK_FIRST,
            threads=self._threads,
        )
        self._last_mm = found.rms_mm if not found.terminated else float("inf")
        self._checking_s += time.monotonic() - before
        self._next_s = self.trained_s() + max(self._every_s, 0.05 * self.trained_s())
        return self._last_mm > self._target_mm and self.trained_s() < self._most_s
