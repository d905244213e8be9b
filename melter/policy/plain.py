"""Any other Gymnasium environment, trained with stable-baselines3's algorithm as it is: what a rented machine is also good for."""

from __future__ import annotations

import importlib
import inspect
import json
import math
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import CSVOutputFormat, Logger, TensorBoardOutputFormat

from melter.errors import BadInput
from melter.policy.files import replacing, surroundings, write_json

CHECKPOINT_S = 60.0
EVAL_EPISODES = 20
NOT_SETTINGS = frozenset({"self", "policy", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"})
CLASSES = {
    "ppo": "PPO",
    "a2c": "A2C",
    "sac": "SAC",
    "td3": "TD3",
    "ddpg": "DDPG",
    "trpo": "TRPO",
    "tqc": "TQC",
    "crossq": "CrossQ",
}


@dataclass(frozen=True, kw_only=True)
class PlainRequest:
    """A training of another environment, resolved."""

    env_id: str
    algo: str
    settings: dict[str, Any]
    """What the algorithm's class is made with, over its own values."""
    envs: int
    steps: int | None
    minutes: float | None
    seed: int


@dataclass(frozen=True)
class PlainProgress:
    """Where such a training stands."""

    share: float
    steps: int
    seconds: float
    episode_return: float
    """Mean of the last hundred episodes; NaN before the first one ends."""


def plain_request(
    env_id: str,
    algo: str,
    overrides: tuple[str, ...],
    envs: int | None,
    budget: tuple[int | None, float | None],
    seed: int,
) -> PlainRequest:
    """Return a training of ``env_id``, checked: the environment is made once. ``budget``: steps, minutes. Raises BadInput."""
    kind = algorithm(algo)
    own = {name: one.default for name, one in inspect.signature(kind.__init__).parameters.items()}
    known = set(own) - NOT_SETTINGS
    settings: dict[str, Any] = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or name not in known:
            raise BadInput(
                f"--set {override}: must be KEY=VALUE with a KEY of {kind.__name__}: {', '.join(sorted(known))}"
            )
        settings[name] = value = _value(text)
        if isinstance(own[name], int | float) and not isinstance(value, int | float):
            raise BadInput(f"--set {override}: must be like {own[name]}")
    steps, minutes = budget
    if (steps is not None and steps < 1) or (minutes is not None and not (math.isfinite(minutes) and minutes > 0)):
        raise BadInput(f"--steps {steps}, --minutes {minutes}: must be above 0")
    if envs is not None and not 1 <= envs <= 4096:
        raise BadInput(f"--envs {envs}: must lie between 1 and 4096")
    request = PlainRequest(
        env_id=env_id, algo=algo, settings=settings, envs=envs or 1, steps=steps, minutes=minutes, seed=seed
    )
    try:
        env = make_vec_env(env_id, 1, seed=seed)
    except Exception as error:
        raise BadInput(f"--env {env_id}: cannot be made: {_line(error)}") from None
    try:
        make_model(request, env)
    except Exception as error:
        raise BadInput(f"--env {env_id}: does not go with --algo {algo}: {_line(error)}") from None
    finally:
        env.close()
    return request


def algorithm(algo: str) -> type[Any]:
    """Return stable-baselines3's or sb3-contrib's class; raise BadInput for another name or a missing package."""
    if algo not in CLASSES:
        raise BadInput(f"--algo {algo}: must be one of {', '.join(CLASSES)}")
    name = CLASSES[algo]
    if hasattr(sb3, name):
        return cast("type[Any]", getattr(sb3, name))
    try:
        return cast("type[Any]", getattr(importlib.import_module("sb3_contrib"), name))
    except ImportError:
        raise BadInput(f"--algo {algo}: needs the package sb3-contrib; pip install sb3-contrib") from None


def make_model(request: PlainRequest, env: Any) -> Any:
    """Return the algorithm on ``env``, with the policy network that suits its observations."""
    space = env.observation_space
    network = "MultiInputPolicy" if isinstance(space, gym.spaces.Dict) else "MlpPolicy"
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 3 and space.dtype == np.uint8:
        network = "CnnPolicy"
    return algorithm(request.algo)(network, env, seed=request.seed, device="cpu", **request.settings)


def train_plain(request: PlainRequest, folder: Path, on_progress: Callable[[PlainProgress], None]) -> dict[str, Any]:
    """Train into ``folder``: config.json, model.zip, progress.csv, TensorBoard events, eval.json; return the last one's content.

    On KeyboardInterrupt the model is saved, then it is raised again.
    """
    write_json(folder / "config.json", {**request.__dict__, **surroundings()})
    env = make_vec_env(request.env_id, request.envs, seed=request.seed)
    model = make_model(request, env)
    model.set_logger(
        Logger(str(folder), [CSVOutputFormat(str(folder / "progress.csv")), TensorBoardOutputFormat(str(folder))])
    )
    budget = _Budget(request, folder, on_progress)
    try:
        model.learn(request.steps or 1 << 40, callback=budget, log_interval=1)
    finally:
        save(model, folder)
        model.logger.close()
    mean, spread = evaluate_policy(model, env, n_eval_episodes=EVAL_EPISODES)
    env.close()
    found = {
        "env": request.env_id,
        "episodes": EVAL_EPISODES,
        "return_mean": mean,
        "return_std": spread,
        "steps": model.num_timesteps,
        "seconds": budget.seconds,
    }
    write_json(folder / "eval.json", found)
    return found


def save(model: Any, folder: Path) -> None:
    """Write ``model.zip``."""
    with replacing(folder / "model.zip") as beside:
        model.save(beside)
        if not zipfile.is_zipfile(beside):
            raise OSError("model.zip was not written whole")


class _Budget(BaseCallback):
    """Ends a training in time, saves it now and then, tells how it goes."""

    def __init__(self, request: PlainRequest, folder: Path, on_progress: Callable[[PlainProgress], None]) -> None:
        super().__init__()
        self._request, self._folder, self._on_progress = request, folder, on_progress
        self._began = self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since the beginning."""
        return time.monotonic() - self._began

    def _on_step(self) -> bool:
        steps, minutes, now = self._request.steps, self._request.minutes, time.monotonic()
        share = max(self.num_timesteps / steps if steps else 0.0, self.seconds / (60 * minutes) if minutes else 0.0)
        if now - self._saved > CHECKPOINT_S:
            self._saved = now
            save(self.model, self._folder)
        episodes = [one["r"] for one in self.model.ep_info_buffer or ()]
        mean = float(np.mean(episodes)) if episodes else math.nan
        self._on_progress(PlainProgress(min(share, 1.0), self.num_timesteps, self.seconds, mean))
        return share < 1


def _value(text: str) -> Any:
    """A setting's value: JSON where it is that, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
