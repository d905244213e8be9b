"""Every algorithm, made ready for a run: stable-baselines3's own class, with faster inner loops where there are some."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from stable_baselines3 import A2C

from melter.env.sb3 import SandMelterVecEnv
from melter.errors import BadInput
from melter.policy.config import (
    ALGORITHMS,
    Config,
    CrossqConfig,
    DdpgConfig,
    Entropic,
    OffPolicy,
    PpoConfig,
    Taught,
    Td3Config,
    TqcConfig,
    TrpoConfig,
    falling,
)
from melter.policy.fastppo import FastPPO
from melter.policy.offpolicy import FastDDPG, FastOffPolicy, FastSAC, FastTD3
from melter.policy.onpolicy import FastOnPolicy, Lessons
from melter.policy.pieces import Pieces
from melter.policy.servo import Servo
from melter.policy.teacher import Teacher, TeacherGains

LAST_LESSON_RATE = 0.02
"""Learning rate at the end of the lessons, as a share of that at their start."""


class FastA2C(FastOnPolicy, A2C):
    """A2C on bulk rollouts."""

    def train(self) -> None:
        """Update from the last rollout."""
        _train_from_buffer(self, super().train)


def require_installed(algo: str) -> None:
    """Raise BadInput, telling what to install, where an algorithm's package is missing."""
    if ALGORITHMS[algo].needs_contrib:
        _contrib(algo)


def _contrib(algo: str) -> Any:
    try:
        return importlib.import_module("sb3_contrib")
    except ImportError:
        raise BadInput(f"--algo {algo}: needs the package sb3-contrib; pip install sb3-contrib") from None


def algorithm_class(algo: str) -> type[Any]:
    """Return the class that trains ``algo``; what it saves loads with the algorithm's own class. Raises BadInput."""
    made: dict[str, Callable[[], type[Any]]] = {
        "ppo": lambda: FastPPO,
        "a2c": lambda: FastA2C,
        "trpo": lambda: _fast_trpo(_contrib("trpo").TRPO),
        "sac": lambda: FastSAC,
        "td3": lambda: FastTD3,
        "ddpg": lambda: FastDDPG,
        "tqc": lambda: type("FastTQC", (FastOffPolicy, _contrib("tqc").TQC), {}),
        "crossq": lambda: type("FastCrossQ", (FastOffPolicy, _contrib("crossq").CrossQ), {}),
    }
    return made[algo]()


def _fast_trpo(base: type[Any]) -> type[Any]:
    class FastTRPO(FastOnPolicy, base):  # type: ignore[misc,valid-type]
        """TRPO on bulk rollouts."""

        def train(self) -> None:
            """Update from the last rollout; its line search puts new tensors in place of the parameters' own."""
            _train_from_buffer(self, super().train)
            for adam in (self.networks.actor_adam, self.networks.critic_adam):
                adam.parameters.bind()

    return FastTRPO


def make_learner(config: Config, env: SandMelterVecEnv, seed: int, threads: int, share: Callable[[], float]) -> Any:
    """Return the algorithm of ``config`` on ``env``, its schedules following ``share`` of the budget. Raises BadInput."""
    kind = algorithm_class(config.algo)
    if isinstance(config, Taught):
        model = _on_policy(kind, config, env, seed, threads, share)
    elif isinstance(config, OffPolicy):
        model = _off_policy(kind, config, env, seed, share)
    else:
        raise BadInput(f"--algo {config.algo}: cannot be trained")
    model.observation_space.seed(seed)  # the model file holds its generator
    return model


def _on_policy(
    kind: type[Any], config: Taught, env: SandMelterVecEnv, seed: int, threads: int, share: Callable[[], float]
) -> Any:
    model = kind(
        "MlpPolicy",
        env,
        learning_rate=config.learning_rate,
        n_steps=config.n_steps,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        policy_kwargs=_networks(config) | {"log_std_init": config.log_std_init},
        seed=seed,
        device="cpu",
        **_own(config),
    )
    until = config.servo_share + config.teacher_share
    after = _after(until)

    def rate(used: float) -> float:
        return config.rate_at(after(used))

    model.follow(share, rate)
    model.pieces = Pieces(threads)
    if until > 0:
        model.lessons = _lessons(config, env)
    if isinstance(config, PpoConfig):
        model.critic_alone = config.critic_updates
        if config.critic_learning_rate > 0:
            first_rate = config.critic_learning_rate

            def critic_rate(used: float) -> float:
                return first_rate * falling(config.schedule, config.final_rate, after(used))

            model.critic_rate = critic_rate
    return model


def _lessons(config: Taught, env: SandMelterVecEnv) -> Lessons:
    """First the servo teaches, then the teacher; each time the learning rate falls."""
    batch, switch, until = env.env.batch, config.servo_share, config.servo_share + config.teacher_share
    servo, teacher = Servo(batch.machine), Teacher(TeacherGains(spot_share=config.teacher_gain))

    def wanted(observation: Any, used: float) -> Any:
        return servo.act(observation) if used < switch else teacher.act(batch)

    def rate(used: float) -> float:
        if used < switch:
            return config.servo_learning_rate * falling("cosine", LAST_LESSON_RATE, used / switch)
        share = (used - switch) / max(until - switch, 1e-9)
        return config.teacher_learning_rate * falling("cosine", LAST_LESSON_RATE, share)

    return Lessons(wanted, rate, until, config.lesson_batch_size, config.lesson_epochs, config.lesson_rollouts)


def _after(until: float) -> Callable[[float], float]:
    """Share of what comes after ``until`` of the budget, by share of the whole."""
    return lambda used: max(used - until, 0.0) / max(1 - until, 1e-9)


def _own(config: Taught) -> dict[str, Any]:
    """What only one on-policy algorithm takes."""
    common = {"ent_coef": config.ent_coef, "vf_coef": config.vf_coef, "max_grad_norm": config.max_grad_norm}
    if isinstance(config, PpoConfig):
        names = ("batch_size", "n_epochs", "clip_range", "target_kl")
        return common | {name: getattr(config, name) for name in names}
    if isinstance(config, TrpoConfig):
        names = ("batch_size", "n_critic_updates", "target_kl", "sub_sampling_factor")
        return {name: getattr(config, name) for name in names}
    return common


def _off_policy(
    kind: type[Any], config: OffPolicy, env: SandMelterVecEnv, seed: int, share: Callable[[], float]
) -> Any:
    given: dict[str, Any] = {}
    if isinstance(config, Entropic):
        given |= {"target_entropy": config.target_entropy, "ent_coef": f"auto_{config.ent_coef_init}"}
    if isinstance(config, TqcConfig):
        given |= {"top_quantiles_to_drop_per_net": config.top_quantiles_to_drop_per_net}
    if isinstance(config, Td3Config):
        names = ("policy_delay", "target_policy_noise", "target_noise_clip")
        given |= {name: getattr(config, name) for name in names}
    optimizer: dict[str, Any] = {"fused": True}
    if isinstance(config, CrossqConfig):
        given |= {"policy_delay": config.policy_delay}
        optimizer |= {"betas": (0.5, 0.999)}
    else:
        given |= {"tau": config.tau}
    model = kind(
        "MlpPolicy",
        env,
        learning_rate=config.learning_rate,
        buffer_size=config.buffer_size,
        learning_starts=max(
            config.learning_starts, config.envs
        ),  # what the first step leads to is known after the second
        batch_size=config.batch_size,
        gamma=config.gamma,
        train_freq=1,
        gradient_steps=config.gradient_steps,
        policy_kwargs=_networks(config) | {"optimizer_kwargs": optimizer},
        seed=seed,
        device="cpu",
        **given,
    )
    model.follow(share, config.rate_at)
    model.use_replay(config.buffer_size, config.n_step_return, config.priority, config.priority_correction)
    model.starter, model.start_noise = Servo(env.env.batch.machine).act, config.start_noise
    if isinstance(config, DdpgConfig):
        model.explore_noise = config.action_noise
    return model


def _networks(config: Config) -> dict[str, Any]:
    activation = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[config.activation]
    return {"net_arch": list(config.net_arch), "activation_fn": activation}


def _train_from_buffer(model: Any, train: Callable[[], None]) -> None:
    """Hand the last rollout to stable-baselines3's own update, or learn from the teacher."""
    played = model.played
    if played is None:
        return
    if played.wanted is not None:
        model.learn_lesson()
        return
    rows, values = model.rows()
    buffer, shape = model.rollout_buffer, played.rewards.shape
    buffer.reset()
    buffer.observations, buffer.actions = played.observations.copy(), played.actions.copy()
    flat = (values, rows.log_probabilities, rows.advantages, rows.returns)
    for name, array in zip(("values", "log_probs", "advantages", "returns"), flat, strict=True):
        setattr(buffer, name, np.array(array).reshape(shape))
    buffer.pos, buffer.full = shape[0], True
    train()
