"""What ``melter bench cluster`` measures: workers on Ray, one process, fragments by themselves, and RLlib where it is installed."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

import melter.env
from melter.cluster.crew import Crew
from melter.cluster.player import Player, Share, Weights, shares
from melter.cluster.ray_link import Cluster
from melter.cluster.simulations import RaySimulations
from melter.machine import Machine
from melter.policy.config import algo_config
from melter.policy.keeper import Figures
from melter.policy.learners import make_learner
from melter.policy.request import TrainRequest
from melter.timing import Contender

PERIODS = 64
"""Control periods per fragment."""
FRAGMENT_BYTES, FRAGMENTS = 800_000, 16
PLAYED, LEARNT = "control steps/s", "control steps/s, learning included"
RLLIB_ENVS, EPOCHS, BATCH = 16, 4, 4096


@dataclass
class ClusterBench:
    """Contenders, and what is only known when they have been measured."""

    contenders: list[Contender] = field(default_factory=list[Contender])
    crews: list[tuple[str, Crew]] = field(default_factory=list[tuple[str, Crew]])

    def communication(self) -> list[dict[str, Any]]:
        """Return for each number of workers how their time went, and how much came back."""
        told: list[dict[str, Any]] = []
        for name, crew in self.crews:
            waited, workers = max(crew.waited_s, 1e-9), len(crew.workers) or crew.size
            computing = crew.played_s / workers
            told.append(
                {
                    "name": name,
                    "computing_share": min(computing / waited, 1.0),
                    "communication_share": max(1 - computing / waited, 0.0),
                    "mb_per_s": crew.bytes / waited / 1e6,
                }
            )
        return told


def cluster_bench(cluster: Cluster, machine: Machine, counts: list[int], envs: int, seed: int) -> ClusterBench:
    """Return the contenders: workers by ``counts``, ``envs`` simulations each."""
    bench = ClusterBench()
    bench.contenders.append(_alone(machine, envs, seed))
    for count in counts:
        bench.contenders.append(_spread(bench, cluster, machine, count, envs, seed))
    bench.contenders.append(_fragments(cluster))
    bench.contenders.append(_learning(cluster, machine, counts[-1], envs, seed))
    if importlib.util.find_spec("ray.rllib") and importlib.util.find_spec("tree"):
        bench.contenders.append(_rllib(machine.name, counts[-1], seed))
    return bench


def _request(machine: Machine, envs: int, seed: int) -> TrainRequest:
    words = (
        "servo_share=0",
        f"envs={envs}",
        f"n_steps={PERIODS}",
        f"n_epochs={EPOCHS}",
        f"batch_size={min(BATCH, PERIODS * envs)}",
    )
    return TrainRequest(
        machine=machine, settings=algo_config("ppo", "default", (*words, "groups=1")), steps=1, seed=seed
    )


def _alone(machine: Machine, envs: int, seed: int) -> Contender:
    player = Player(_request(machine, envs, seed), Share(0, 0, envs))
    player.begin()
    weights, number = player._model.shared(), 0  # pyright: ignore[reportPrivateUsage]

    def burst() -> int:
        nonlocal number
        number += 1
        return player.play(Weights(weights, 0.9, 0, number, PERIODS)).played.rewards.size

    return Contender(f"one process, {envs} simulations with a policy", PLAYED, burst)


def _spread(bench: ClusterBench, cluster: Cluster, machine: Machine, count: int, envs: int, seed: int) -> Contender:
    request = _request(machine, envs * count, seed)
    crew = Crew(cluster, request, shares(envs * count, count), _say_nothing, cores_each=0)
    crew.begun()
    weights = make_learner(request.settings, _small_env(machine), seed, 1, lambda: 0.9).shared()
    name, number = f"Ray, {count} workers of {envs}", 0
    bench.crews.append((name, crew))

    def burst() -> int:
        nonlocal number
        number += 1
        got = crew.play(Weights(weights, 0.9, 0, number, PERIODS))
        return sum(fragment.played.rewards.size for fragment in got.values())

    return Contender(name, PLAYED, burst, crew.close, tuple(crew.pids()))


def _fragments(cluster: Cluster) -> Contender:
    """Arrays of 800 kB from a worker, each copied once by whoever asked for it, as a learner does."""

    class Giver:
        def __init__(self) -> None:
            self.array = np.ones(FRAGMENT_BYTES // 4, np.float32)

        def give(self) -> Any:
            return self.array

    actor = cluster.ray.remote(Giver).options(num_cpus=0).remote()
    kept = np.zeros((FRAGMENTS, FRAGMENT_BYTES // 4), np.float32)

    def burst() -> int:
        for row, array in zip(kept, cluster.ray.get([actor.give.remote() for _ in range(FRAGMENTS)]), strict=True):
            row[...] = array
        return round(FRAGMENTS * FRAGMENT_BYTES / 1e6)

    return Contender("fragments of 0.8 MB, one worker", "MB/s", burst, lambda: cluster.ray.kill(actor))


def _learning(cluster: Cluster, machine: Machine, count: int, envs: int, seed: int) -> Contender:
    request = _request(machine, envs * count, seed)
    simulations = RaySimulations(cluster, request, count, _say_nothing, cores_each=0)
    model = make_learner(request.settings, simulations, seed, max(count, 1), lambda: 0.5)  # type: ignore[arg-type]
    model._last_obs = simulations.begin()
    watch = Deaf()
    model._setup_learn(1, watch)

    def burst() -> int:
        before = model.num_timesteps
        model.collect_rollouts(simulations, watch, None, PERIODS)
        model.train()
        return model.num_timesteps - before

    pids = tuple(simulations.crew.pids())
    return Contender(f"melter's PPO on Ray, {count} workers of {envs}", LEARNT, burst, simulations.close, pids)


def _rllib(machine: str, count: int, seed: int) -> Contender:
    """RLlib's PPO on the plain environment, with as many workers, the same network, epochs and minibatch."""
    ppo = importlib.import_module("ray.rllib.algorithms.ppo")
    tune = importlib.import_module("ray.tune")
    modules = importlib.import_module("ray.rllib.core.rl_module.default_model_config")

    def make(_: Any) -> Any:
        return gymnasium.make("melter:melter/SandMelter-v0", machine=machine)

    tune.register_env("melter", make)
    config = (
        ppo.PPOConfig()
        .environment("melter")
        .env_runners(num_env_runners=count, num_envs_per_env_runner=RLLIB_ENVS, num_cpus_per_env_runner=0)
        .learners(num_learners=0)
        .training(train_batch_size_per_learner=2 * BATCH, minibatch_size=BATCH, num_epochs=EPOCHS)
        .rl_module(model_config=modules.DefaultModelConfig(fcnet_hiddens=[256, 128], fcnet_activation="tanh"))
        .debugging(seed=seed, log_level="ERROR")
    )
    algorithm = config.build_algo()
    before = 0

    def burst() -> int:
        nonlocal before
        told = algorithm.train()["env_runners"]["num_env_steps_sampled_lifetime"]
        done, before = int(told) - before, int(told)
        return done

    return Contender(f"RLlib's PPO, {count} workers of {RLLIB_ENVS}", LEARNT, burst, algorithm.stop)


class Deaf:
    """A callback that has nothing to do."""

    num_timesteps = 0

    def init_callback(self, model: Any) -> None:
        """Nothing to do."""

    def on_rollout_start(self) -> None:
        """Nothing to do."""

    def on_rollout_end(self) -> None:
        """Nothing to do."""

    def on_step(self) -> bool:
        """Go on."""
        return True

    def take_in(self, figures: Figures) -> None:
        """Nothing to do."""


def _small_env(machine: Machine) -> Any:
    return melter.env.sb3_vec_env(64, machine)


def _say_nothing(_: str) -> None:
    return
