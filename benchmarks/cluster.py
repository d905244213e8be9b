"""Training with workers on Ray against training in one process: quality at equal steps or time.

python benchmarks/cluster.py quality [--seeds 5] [--steps 150000] [--workers 2] [--algo td3] [--set KEY=VALUE] [--ray-set ahead=4]
python benchmarks/cluster.py learner [--algo td3] [--set KEY=VALUE]
python benchmarks/cluster.py killed [--workers 3]
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import signal
import statistics
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from stable_baselines3.common.logger import Logger

import melter.env
from melter.cluster.contenders import Deaf
from melter.cluster.ray_link import Cluster, join, leave
from melter.cluster.simulations import RaySimulations
from melter.cluster.streamed import simulations_on
from melter.machine import load_machine
from melter.policy import keeper
from melter.policy import train as training
from melter.policy.config import OffPolicy, algo_config
from melter.policy.learners import make_learner
from melter.policy.request import TrainRequest

TURNS = 5
"""How often a learner's update is timed."""


@dataclass(frozen=True)
class Training:
    """What a training gave."""

    outdoor: Any
    """Evaluation on the outdoor suite."""
    points: list[tuple[float, float]]
    """(seconds, outdoor RMS mm) on the way."""
    steps_per_s: float
    reward: float
    """Per control step, exploration included, mean over the last tenth."""

    def text(self) -> str:
        outdoor = self.outdoor
        return f"{outdoor.rms_mm:.3f} mm outdoors ({outdoor.terminated} terminated), reward {self.reward:+.3f}, {self.steps_per_s:.0f} steps/s"


def trained(request: TrainRequest, cluster: Cluster | None, workers: int) -> Training:
    make = None if cluster is None else simulations_on(cluster, workers, print)
    with tempfile.TemporaryDirectory() as made:
        result = training.train(request, Path(made), lambda _: None, simulations=make)
        with (Path(made) / "progress.csv").open() as file:
            rows = list(csv.DictReader(file))
    points = [
        (float(row["time/seconds"]), float(row["eval/outdoor_rms_mm"]))
        for row in rows
        if row.get("eval/outdoor_rms_mm")
    ]
    rewards = [float(row["reward/total"]) for row in rows if row["reward/total"]]
    outdoor = next(one for one in result.evaluations if one.suite == "outdoor")
    last = statistics.fmean(rewards[-max(len(rewards) // 10, 1) :])
    return Training(outdoor, points, result.steps / result.seconds, last)


def request_of(
    seed: int, algo: str = "ppo", words: tuple[str, ...] = (), steps: int | None = None, minutes: float | None = None
) -> TrainRequest:
    settings = algo_config(algo, "default", words)
    return TrainRequest(machine=load_machine(), settings=settings, seed=seed, threads=1, steps=steps, minutes=minutes)


def quality(options: argparse.Namespace) -> None:
    keeper.CONTESTS = 2
    cluster = join("local", options.workers + 1)
    logs: list[float] = []
    both, only_ray = tuple(options.set), (*options.set, *options.ray_set)
    budget: dict[str, Any] = {"minutes": options.minutes} if options.minutes else {"steps": options.steps}
    for seed in range(options.seeds):
        alone = trained(request_of(seed, options.algo, both, **budget), None, 0)
        print(f"seed {seed}: one process {alone.text()}", flush=True)
        spread = trained(request_of(seed, options.algo, only_ray, **budget), cluster, options.workers)
        print(f"seed {seed}: {options.workers} workers {spread.text()}", flush=True)
        logs.append(math.log(spread.outdoor.rms_mm / alone.outdoor.rms_mm))
    leave(cluster)
    mean, half = statistics.fmean(logs), 0.0
    if len(logs) > 1:
        half = float(stats.t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    low, middle, high = (math.exp(value) for value in (mean - half, mean, mean + half))
    print(f"workers / one process: {middle:.3f} ({low:.3f} to {high:.3f}, 95 %, {len(logs)} seeds, {budget})")


def learner(options: argparse.Namespace) -> None:
    """Processor time per control step of playing, and of what only the learner does, on one thread."""
    request = request_of(0, options.algo, tuple(options.set), steps=1)
    settings: Any = request.settings
    env = melter.env.sb3_vec_env(settings.envs, request.machine)
    model = make_learner(settings, env, 0, 1, lambda: 0.99)
    model._last_obs, model._last_episode_starts = env.reset(), np.ones(env.num_envs, dtype=bool)
    model.ep_info_buffer = deque(maxlen=100)
    model.set_logger(Logger(None, []))
    model._current_progress_remaining = 0.01
    play, learn, count = (_off_policy if isinstance(settings, OffPolicy) else _on_policy)(model, env, settings)
    begun = time.process_time()
    play()
    played = time.process_time()
    for _turn in range(TURNS):
        learn()
    learnt = time.process_time()
    one, two = 1e6 * (played - begun) / count, 1e6 * (learnt - played) / TURNS / count
    print(
        f"playing {one:.0f} us, learning {two:.1f} us per control step: a learner on one thread feeds on {one / two:.1f} cores"
    )


Turns = tuple[Callable[[], Any], Callable[[], Any], int]
"""What plays, what learns from as many control steps, and how many those are."""


def _on_policy(model: Any, env: Any, settings: Any) -> Turns:
    model.critic_alone = 0
    play = lambda: model.collect_rollouts(env, Deaf(), None, settings.n_steps)  # noqa: E731
    return play, model.train, settings.n_steps * settings.envs


def _off_policy(model: Any, env: Any, settings: Any) -> Turns:
    often = model.train_freq._replace(frequency=TURNS)
    play = lambda: model.collect_rollouts(env, Deaf(), often, model.replay_buffer)  # noqa: E731
    learn = lambda: model.train(TURNS * settings.gradient_steps, settings.batch_size)  # noqa: E731
    play()
    learn()
    return play, learn, TURNS * settings.envs


def killed(options: argparse.Namespace) -> None:
    """Kill a worker while all play; how long that fragment took, and when the new worker played again."""
    cluster = join("local", options.workers + 1)
    request = request_of(0, steps=1)
    made = RaySimulations(
        cluster, request, options.workers, lambda text: print(f"{time.monotonic() - begun:5.1f} s: {text}")
    )
    begun = time.monotonic()
    model = make_learner(request.settings, made, 0, 1, lambda: 0.99)  # type: ignore[arg-type]
    model._last_obs = made.begin()
    model.ep_info_buffer = deque(maxlen=100)
    victim, took, rows = made.crew.pids()[-1], [], []
    threading.Timer(5.0, os.kill, (victim, signal.SIGKILL)).start()
    begun = time.monotonic()
    while time.monotonic() - begun < 60 and (len(rows) < 5 or rows[-1] < rows[0] or min(rows) == rows[0]):
        before = time.monotonic()
        model.collect_rollouts(made, Deaf(), None, request.settings.n_steps)  # type: ignore[attr-defined]
        took.append(time.monotonic() - before)
        rows.append(model.played.rewards.size)
    leave(cluster)
    print(f"fragments: median {statistics.median(took):.2f} s, longest {max(took):.2f} s; ", end="")
    print(
        f"{rows.count(min(rows))} of {len(rows)} without the lost worker; its part of one fragment is all that was lost"
    )


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("what", choices=["quality", "learner", "killed"])
    words.add_argument("--seeds", type=int, default=5)
    words.add_argument("--steps", type=int, default=150_000)
    words.add_argument("--minutes", type=float)
    words.add_argument("--algo", default="ppo")
    words.add_argument("--set", action="append", default=[])
    words.add_argument("--ray-set", action="append", default=[])
    words.add_argument("--workers", type=int, default=2)
    options = words.parse_args()
    {"quality": quality, "learner": learner, "killed": killed}[options.what](options)


if __name__ == "__main__":
    main()
