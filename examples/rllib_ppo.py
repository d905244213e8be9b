"""Train melter's environment with Ray's RLlib, and tell how far the error fell.

    pip install "ray[rllib]==2.60.0" "gymnasium==1.2.2"    # in an environment of its own: RLlib wants that Gymnasium
    python examples/rllib_ppo.py --minutes 5

The environment is the plain one, with no teacher: what RLlib's PPO learns here, it learns from the reward.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

import gymnasium
import numpy as np

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
MACHINE, SCENARIO, TICKS, EPISODES = "corner8", "nominal", 200, 4


def make(_: Any = None) -> gymnasium.Env[Any, Any]:
    """Return one environment; RLlib makes as many as it wants."""
    env = gymnasium.make("melter:melter/SandMelter-v0", machine=MACHINE, scenario=SCENARIO)
    return gymnasium.wrappers.TransformReward(gymnasium.wrappers.TimeLimit(env, TICKS), lambda reward: float(reward))


def error_mm(act: Any, seed: int = 1000) -> float:
    """Return the median spot error (mm) of ``act`` over a few episodes, the first two seconds left out."""
    errors: list[float] = []
    env = make()
    for episode in range(EPISODES):
        observation, _ = env.reset(seed=seed + episode)
        for tick in range(TICKS):
            observation, _, over, late, info = env.step(act(observation))
            if tick >= 40:
                errors.append(1e3 * info["spot_error_m"])
            if over or late:
                break
    env.close()
    return float(np.median(errors)) if errors else float("inf")


def actor_of(algorithm: Any) -> Any:
    """Return what the trained policy does, without noise."""
    import torch

    module = algorithm.get_module()

    def act(observation: Any) -> Any:
        with torch.no_grad():
            out = module.forward_inference({"obs": torch.as_tensor(observation[None])})
        mean = out["action_dist_inputs"][0, :8].numpy()
        return np.clip(mean, -1, 1)

    return act


def configured(workers: int, seed: int) -> Any:
    """Return RLlib's PPO for this task: small actions at first, few simultaneous environments per worker."""
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.tune import register_env

    register_env("melter", make)
    return (
        PPOConfig()
        .environment("melter", clip_actions=True, normalize_actions=False)
        .env_runners(num_env_runners=workers, num_envs_per_env_runner=8)
        .learners(num_learners=0)
        .training(
            lr=3e-4,
            gamma=0.9,
            lambda_=0.95,
            train_batch_size_per_learner=4000,
            minibatch_size=500,
            num_epochs=10,
            vf_clip_param=100.0,
            grad_clip=0.5,
        )
        .rl_module(
            model_config=DefaultModelConfig(
                fcnet_hiddens=[128, 128], fcnet_activation="tanh", free_log_std=True, vf_share_layers=False
            )
        )
        .debugging(seed=seed, log_level="ERROR")
    )


def main() -> int:
    """Train for some minutes; 0 where the error fell to half of the untrained policy's or less."""
    words = argparse.ArgumentParser(description="Train melter's environment with RLlib.")
    words.add_argument("--minutes", type=float, default=5.0, help="training time (min)")
    words.add_argument(
        "--workers", type=int, default=2, help="environment runners, one core each; 0: none but the learner"
    )
    words.add_argument("--seed", type=int, default=0)
    words.add_argument(
        "--ratio", type=float, default=0.5, help="stop when the error is this share of the untrained one's"
    )
    options = words.parse_args()
    import ray

    ray.init(num_cpus=options.workers + 1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    algorithm = configured(options.workers, options.seed).build_algo()
    untrained = error_mm(actor_of(algorithm))
    print(f"untrained: {untrained:.2f} mm", flush=True)
    began, now = time.monotonic(), untrained
    while time.monotonic() - began < 60 * options.minutes and now > options.ratio * untrained:
        told = algorithm.train()
        now = error_mm(actor_of(algorithm))
        steps = told["env_runners"]["num_env_steps_sampled_lifetime"]
        print(f"{time.monotonic() - began:4.0f} s, {steps:,.0f} steps: {now:.2f} mm", flush=True)
    algorithm.stop()
    ray.shutdown()
    return 0 if now <= options.ratio * untrained else 1


if __name__ == "__main__":
    sys.exit(main())
