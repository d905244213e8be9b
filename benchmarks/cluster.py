"""Training with workers on Ray against training in one process: the same quality at equal steps, and error over time.

python benchmarks/cluster.py quality [--seeds 5] [--steps 150000] [--workers 2]
python benchmarks/cluster.py learner
python benchmarks/cluster.py killed [--workers 3]
python benchmarks/cluster.py convergence --minutes 3 --workers 3 --plot convergence.png
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
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from stable_baselines3.common.logger import Logger

import melter.env
from melter.cluster.contenders import Deaf
from melter.cluster.ray_link import Cluster, join, leave
from melter.cluster.simulations import RaySimulations, simulations_on
from melter.machine import load_machine
from melter.policy import keeper
from melter.policy import train as training
from melter.policy.config import algo_config
from melter.policy.learners import make_learner
from melter.policy.request import TrainRequest


def trained(request: TrainRequest, cluster: Cluster | None, workers: int) -> tuple[Any, list[tuple[float, float]]]:
    """Return the outdoor evaluation of a training, and (seconds, outdoor RMS mm) on the way."""
    make = None if cluster is None else simulations_on(cluster, workers, print)
    with tempfile.TemporaryDirectory() as made:
        result = training.train(request, Path(made), lambda _: None, simulations=make)
        with (Path(made) / "progress.csv").open() as file:
            rows = [(row["time/seconds"], row.get("eval/outdoor_rms_mm") or "") for row in csv.DictReader(file)]
    outdoor = next(one for one in result.evaluations if one.suite == "outdoor")
    return outdoor, [(float(seconds), float(rms)) for seconds, rms in rows if rms]


def request_of(seed: int, **budget: Any) -> TrainRequest:
    return TrainRequest(
        machine=load_machine(), settings=algo_config("ppo"), seed=seed, threads=1, **{"minutes": None} | budget
    )


def quality(options: argparse.Namespace) -> None:
    keeper.CONTESTS = 2
    cluster = join("local", options.workers + 1)
    logs: list[float] = []
    for seed in range(options.seeds):
        alone, _ = trained(request_of(seed, steps=options.steps), None, 0)
        spread, _ = trained(request_of(seed, steps=options.steps), cluster, options.workers)
        logs.append(math.log(spread.rms_mm / alone.rms_mm))
        print(f"seed {seed}: one process {alone.rms_mm:.3f} mm outdoors ({alone.terminated} terminated), ", end="")
        print(f"{options.workers} workers {spread.rms_mm:.3f} mm ({spread.terminated})", flush=True)
    leave(cluster)
    mean, half = statistics.fmean(logs), 0.0
    if len(logs) > 1:
        half = float(stats.t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    low, middle, high = (math.exp(value) for value in (mean - half, mean, mean + half))
    print(
        f"workers / one process: {middle:.3f} ({low:.3f} to {high:.3f}, 95 %, {len(logs)} seeds, {options.steps:,} steps)"
    )


def convergence(options: argparse.Namespace) -> None:
    from melter.cli.curves import empty_figure
    from melter.cli.plots import save

    keeper.CONTEST_EPISODES = 16  # evaluating takes time too
    cluster = join("local", options.workers + 1)
    figure = empty_figure(7.0, 4.5)
    axes = figure.subplots()
    for name, where in ((f"{options.workers} workers", cluster), ("one core", None)):
        _, points = trained(request_of(0, minutes=options.minutes), where, options.workers)
        told = ", ".join(f"{seconds:.0f} s {rms:.3f} mm" for seconds, rms in points)
        print(f"{name}: {told}", flush=True)
        axes.semilogy(*zip(*points, strict=True), "o-", label=name)
    leave(cluster)
    axes.set_xlabel("time (s)")
    axes.set_ylabel("RMS error outdoors (mm)")
    axes.legend()
    save(figure, Path(options.plot))


def learner(_: argparse.Namespace) -> None:
    """Processor time per control step of what only the learner does, on one thread."""
    request = request_of(0, steps=1)
    env = melter.env.sb3_vec_env(request.settings.envs, request.machine)
    model = make_learner(request.settings, env, 0, 1, lambda: 0.99)
    model.critic_alone = 0
    model._last_obs, model._last_episode_starts = env.reset(), np.ones(env.num_envs, dtype=bool)
    model.ep_info_buffer = deque(maxlen=100)
    model.set_logger(Logger(None, []))
    model._current_progress_remaining = 0.01
    count = request.settings.n_steps * request.settings.envs  # type: ignore[attr-defined]
    begun = time.process_time()
    model.collect_rollouts(env, Deaf(), None, request.settings.n_steps)  # type: ignore[attr-defined]
    played = time.process_time()
    for _ in range(5):
        model.train()
    learnt = time.process_time()
    one, two = 1e6 * (played - begun) / count, 1e6 * (learnt - played) / 5 / count
    print(
        f"playing {one:.0f} us, learning {two:.1f} us per control step: a learner on one thread feeds on {one / two:.0f} cores"
    )


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
    words.add_argument("what", choices=["quality", "convergence", "learner", "killed"])
    words.add_argument("--seeds", type=int, default=5)
    words.add_argument("--steps", type=int, default=150_000)
    words.add_argument("--minutes", type=float, default=3.0)
    words.add_argument("--workers", type=int, default=2)
    words.add_argument("--plot", default="convergence.png")
    options = words.parse_args()
    {"quality": quality, "convergence": convergence, "learner": learner, "killed": killed}[options.what](options)


if __name__ == "__main__":
    main()
