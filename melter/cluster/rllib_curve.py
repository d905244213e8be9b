"""RLlib's PPO on the plain environment: a line of JSON on stdout for each look at its error. Run by ``melter bench cluster``.

python -m melter.cluster.rllib_curve --machine=corner8 --minutes=3 --workers=2 --seed=0
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import time
from typing import Any

import gymnasium
import numpy as np

from melter.machine import load_machine
from melter.policy.evaluate import evaluate
from melter.policy.keeper import CONTEST_EPISODES, CONTEST_FIRST, CONTESTS


def configured(machine: str, workers: int, seed: int) -> Any:
    """Return RLlib's PPO with settings that learn this task from its reward; it has no teacher."""
    ppo = importlib.import_module("ray.rllib.algorithms.ppo")
    models = importlib.import_module("ray.rllib.core.rl_module.default_model_config")

    def make(_: Any) -> Any:
        return gymnasium.make("melter:melter/SandMelter-v0", machine=machine)

    importlib.import_module("ray.tune").register_env("melter", make)
    layers = {"fcnet_hiddens": [128, 128], "fcnet_activation": "tanh", "free_log_std": True, "vf_share_layers": False}
    steps = {"train_batch_size_per_learner": 4000, "minibatch_size": 500, "num_epochs": 10}
    return (
        ppo.PPOConfig()
        .environment("melter", clip_actions=True, normalize_actions=False)
        .env_runners(num_env_runners=workers, num_envs_per_env_runner=8)
        .learners(num_learners=0)
        .training(lr=3e-4, gamma=0.9, lambda_=0.95, vf_clip_param=100.0, grad_clip=0.5, **steps)
        .rl_module(model_config=models.DefaultModelConfig(**layers))
        .debugging(seed=seed, log_level="ERROR")
    )


def actor_of(algorithm: Any) -> Any:
    """Return what the policy does without noise: (n, observation) to (n, 8)."""
    torch, module = importlib.import_module("torch"), algorithm.get_module()

    def act(observation: Any) -> Any:
        with torch.no_grad():
            out = module.forward_inference({"obs": torch.as_tensor(np.asarray(observation, np.float32))})
        return np.clip(out["action_dist_inputs"][:, :8].numpy(), -1, 1)

    return act


def _end(number: int, frame: object) -> None:
    """Leave as from an error, so that Ray is shut down."""
    del frame
    sys.exit(128 + number)


def main(argv: list[str] | None = None) -> int:
    """Train; tell the error before, and as often on the way as a training of melter's own tells it."""
    words = argparse.ArgumentParser()
    words.add_argument("--machine", default="corner8")
    words.add_argument("--minutes", type=float, default=3.0)
    words.add_argument("--workers", type=int, default=2)
    words.add_argument("--seed", type=int, default=0)
    options = words.parse_args(argv)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    signal.signal(signal.SIGTERM, _end)
    ray = importlib.import_module("ray")
    ray.init(num_cpus=options.workers + 1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    machine, algorithm = load_machine(options.machine), None
    try:
        algorithm = configured(options.machine, options.workers, options.seed).build_algo()
        began, steps, looks = time.monotonic(), 0, 0
        while True:
            seconds = time.monotonic() - began
            if seconds >= looks * 60 * options.minutes / CONTESTS:
                looks += 1
                found = evaluate(actor_of(algorithm), machine, "outdoor", CONTEST_EPISODES, first=CONTEST_FIRST)
                told = {"seconds": seconds, "rms_mm": found.rms_mm, "steps": steps}
                sys.stdout.write(json.dumps(told) + "\n")
                sys.stdout.flush()
            if seconds >= 60 * options.minutes:
                return 0
            steps = int(algorithm.train()["env_runners"]["num_env_steps_sampled_lifetime"])
    finally:
        if algorithm is not None:
            algorithm.stop()
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
