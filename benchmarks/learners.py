"""Would several learners with averaged gradients pay? What a gradient costs by threads, what averaging costs, and what follows.

python benchmarks/learners.py [--node-cores 16] [--network-gbit 10]

Measured: gradients of PPO minibatches in pieces of 1024 rows by one thread, by two, and by two processes at once; the average of
gradients of that size between two processes over loopback. Worked out from these: how long a round (playing, then learning)
takes with one learner on the cores of its node, and with one learner on each node that averages every minibatch.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import statistics
import time
from typing import Any

import numpy as np
import torch

import melter.env
from melter.machine import load_machine
from melter.policy.actorcritic import Piece
from melter.policy.config import ppo_config
from melter.policy.learners import make_learner
from melter.policy.pieces import PIECE_ROWS, Pieces

PLAYED_US, SIMULATIONS, PERIODS, EPOCHS = 113.0, 64, 32, 8
"""Processor time of a control step with its policy (benchmarks/cluster.py learner); a worker's simulations; a rollout; passes."""
ROWS, ROUNDS, TIMES = 16384, 5, 10
LATENCY_S = 50e-6
"""Of a network between nodes, one way."""


def learner_and_rows() -> tuple[Any, Piece]:
    env = melter.env.sb3_vec_env(64, load_machine())
    model = make_learner(ppo_config("default", ("envs=64", "batch_size=1024")), env, 0, 1, lambda: 0.9)
    rng, width = np.random.default_rng(0), int(np.prod(env.observation_space.shape or (1,)))
    observations, actions = (rng.normal(size=(ROWS, size)).astype(np.float32) for size in (width, 8))
    rows = Piece(observations, actions, *(rng.normal(size=ROWS).astype(np.float32) for _ in range(3)))
    model.networks.log_probabilities(rows)
    env.close()
    return model, rows


def gradient_s(model: Any, rows: Piece, pieces: Pieces, size: int, times: int = TIMES) -> float:
    """Mean time of a minibatch's gradient."""
    begun = time.perf_counter()
    for turn in range(times):
        picked = np.random.default_rng(turn).permutation(ROWS)[:size]
        pieces.ppo(model.networks, rows, picked, 0.2, (0.5, 0.0), actor=True, normalize=True)
    return (time.perf_counter() - begun) / times


def another(go: Any, done: Any) -> None:
    """A second process that works out gradients whenever it is told to."""
    model, rows = learner_and_rows()
    pieces = Pieces(1)
    done.put(0.0)
    while go.get():
        done.put(gradient_s(model, rows, pieces, ROWS))


def speeds() -> tuple[float, float, float]:
    """Return a piece's time on one thread, and how many times as fast two threads and two processes are; medians of rounds."""
    context = multiprocessing.get_context("spawn")
    go, done = context.Queue(), context.Queue()
    other = context.Process(target=another, args=(go, done))
    other.start()
    model, rows = learner_and_rows()
    done.get()
    alone_s, threads, processes = list[float](), list[float](), list[float]()
    one, two = Pieces(1), Pieces(2)
    for _ in range(ROUNDS):
        alone = gradient_s(model, rows, one, ROWS)
        threads.append(alone / gradient_s(model, rows, two, ROWS))
        go.put(1)
        beside = gradient_s(model, rows, one, ROWS)
        processes.append(alone / beside + alone / done.get())
        alone_s.append(alone)
    go.put(0)
    other.join()
    return statistics.median(alone_s) * PIECE_ROWS / ROWS, statistics.median(threads), statistics.median(processes)


def averaging(rank: int, port: int, numbers: int, told: Any) -> None:
    """One of two processes that average arrays."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    gradient, took = torch.zeros(numbers), list[float]()
    for _ in range(300):
        begun = time.perf_counter()
        torch.distributed.all_reduce(gradient)
        took.append(time.perf_counter() - begun)
    torch.distributed.destroy_process_group()
    if rank == 0:
        told.put(statistics.median(took))


def averaging_s(numbers: int) -> float:
    """Median time of one average between two processes over loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    both = [context.Process(target=averaging, args=(rank, port, numbers, told)) for rank in (0, 1)]
    for one in both:
        one.start()
    result = told.get(timeout=120)
    for one in both:
        one.join()
    return result


def rounds(workers: int, size: int, cores: int, piece_s: float, average_s: float) -> tuple[float, float, int]:
    """Return a round's time with one learner, with one on each node, and the number of nodes; a core for each piece at most."""
    total, nodes = workers * SIMULATIONS * PERIODS, -(-workers // cores)
    play_s = PLAYED_US * 1e-6 * SIMULATIONS * PERIODS
    steps, pieces = EPOCHS * total / size, max(size // PIECE_ROWS, 1)
    one = play_s + steps * piece_s * -(-pieces // cores)
    several = play_s + steps * (piece_s * max(-(-pieces // (cores * nodes)), 1) + (average_s if nodes > 1 else 0.0))
    return one, several, nodes


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--node-cores", type=int, default=16)
    words.add_argument("--network-gbit", type=float, default=10.0)
    options = words.parse_args()
    torch.set_num_threads(1)
    piece_s, threads, processes = speeds()
    print(f"{PIECE_ROWS} rows, one thread: {1e3 * piece_s:.2f} ms; two threads {threads:.2f} times as fast, ", end="")
    print(f"two processes {processes:.2f} times, load {os.getloadavg()[0]:.1f}")
    model, _ = learner_and_rows()
    numbers = sum(adam.parameters.value.size for adam in (model.networks.actor_adam, model.networks.critic_adam))
    loop_s, wire_s = averaging_s(numbers), 2 * LATENCY_S + 2 * 4 * numbers / (options.network_gbit * 1e9 / 8)
    print(f"average of {numbers:,} numbers: two processes over loopback {1e3 * loop_s:.2f} ms; ", end="")
    print(f"{options.network_gbit:g} Gbit/s between nodes would add {1e3 * wire_s:.2f} ms")
    for workers in (16, 32, 64, 128, 256):
        for size in (4096, 16384, 65536):
            one, several, nodes = rounds(workers, size, options.node_cores, piece_s, loop_s + wire_s)
            print(f"{workers:3d} workers on {nodes:2d} nodes, minibatches of {size:5d}: ", end="")
            print(f"one learner {one:5.2f} s a round, {nodes:2d} learners {several:5.2f} s, ratio {one / several:.2f}")


if __name__ == "__main__":
    main()
