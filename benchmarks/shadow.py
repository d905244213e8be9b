"""The shadow's bounds: false alarms and what is found, on simulated machines over the whole randomisation table.

Usage: python benchmarks/shadow.py [--hours H] [--machines N] [--feed LOW HIGH] [--seed S]

Machines of the `outdoor` suite (whole table, feed 0.5 to 3 mm/s, lines, circles and corners; no dark hops) under the servo. First
H hours without faults: the largest share of each bound in every minute, and from these how often an alarm is to be expected (the
tail of the minutes' maxima fitted by an exponential, where none was seen). Then N machines each with a cable that slips by 30 mm, a
cable that breaks, a winch that stands: how many are found, and how soon. The shadow is the one of `melter.loop.shadow`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from melter.env.batch import SandMelterBatch
from melter.env.params import Randomisation
from melter.env.scenario import KINDS, Scenario
from melter.loop.shadow import Shadow
from melter.machine import load_machine
from melter.policy.servo import Servo

MACHINE = load_machine()
MINUTE_S, STRIKE_S, AFTER_S, BATCH = 60.0, 15.0, 20.0, 128
FEED_M_S = (0.0005, 0.003)
ISLANDS = KINDS.index("islands")
Strike = Callable[[SandMelterBatch, NDArray[np.intp]], None]


def slip(batch: SandMelterBatch, winch: NDArray[np.intp]) -> None:
    batch.physics.unwound_m[np.arange(batch.count), winch] += 0.030


def snap(batch: SandMelterBatch, winch: NDArray[np.intp]) -> None:
    batch.physics.unwound_m[np.arange(batch.count), winch] = 2 * MACHINE.limits.cable_length_max_m
    batch.winches.jammed[np.arange(batch.count), winch] = True


def stand(batch: SandMelterBatch, winch: NDArray[np.intp]) -> None:
    batch.winches.jammed[np.arange(batch.count), winch] = True


def shares(first: int, seconds: float, strike: Strike | None = None) -> Iterator[tuple[Shadow, NDArray[np.bool_]]]:
    """Yield the shadow after each tick, and which machines count: on a path without dark hops, and still at work."""
    scenario = Scenario(Randomisation(), episode_s=seconds, feed_m_s=FEED_M_S, start_offset_m=0.002, suite="outdoor")
    batch, act = SandMelterBatch(MACHINE, BATCH, scenario), Servo(MACHINE).act
    batch.reset(np.arange(BATCH), np.zeros(BATCH, dtype=int), first + np.arange(BATCH, dtype=np.int64))
    shadow = Shadow(MACHINE.control.period_s, shape=(BATCH,))
    counts = batch.path_kind != ISLANDS
    winch = np.random.default_rng(first).integers(0, 8, BATCH)
    for tick in range(batch.horizon - 1):
        if strike is not None and tick == round(STRIKE_S * MACHINE.control.rate_hz):
            strike(batch, winch)
        _, state = batch.step(np.nan_to_num(act(batch.observe())))
        counts = counts & (state.ending < 2)
        shadow.step(batch.memory.spots_m[:, 0], batch.measurement())
        yield shadow, counts


def quiet(hours: float) -> None:
    """False alarms."""
    minutes: list[NDArray[np.float64]] = []
    started_s = time.monotonic()
    while 60 * hours > sum(len(m) for m in minutes):
        jump, drift = np.zeros(BATCH), np.zeros(BATCH)
        counts = np.ones(BATCH, dtype=bool)
        for shadow, counts in shares(1000 * len(minutes), MINUTE_S):
            jump = np.maximum(jump, np.where(counts, shadow.jump_share, 0.0))
            drift = np.maximum(drift, np.where(counts, shadow.drift_share, 0.0))
        minutes.append(np.stack([jump, drift], axis=1)[counts])
        done = sum(len(m) for m in minutes)
        print(f"\r{done / 60:.1f} of {hours:g} h, {time.monotonic() - started_s:.0f} s", end="", flush=True)
    found = np.concatenate(minutes)
    print(f"\n{len(found) / 60:.1f} hours of machines without a fault")
    for name, column in zip(("jump", "drift"), found.T, strict=True):
        alarms = int((column >= 1).sum())
        threshold = np.quantile(column, 0.9)
        tail = column[column > threshold] - threshold
        expected = 600 * 0.1 * np.exp(-(1 - threshold) / tail.mean())
        p = np.percentile(column, [50, 90, 99, 100])
        print(
            f"{name:6} share of its bound per minute: p50 {p[0]:.2f}, p90 {p[1]:.2f}, p99 {p[2]:.2f}, largest {p[3]:.2f}; "
            f"{alarms} alarms; expected in 10 h by the tail: {expected:.3f}"
        )


def struck(machines: int, first: int) -> None:
    """What is found."""
    for name, strike in (("cable slips 30 mm", slip), ("cable breaks", snap), ("winch stands", stand)):
        after: list[NDArray[np.float64]] = []
        while machines > sum(len(a) for a in after):
            soonest = np.full(BATCH, np.inf)
            before = np.zeros(BATCH, dtype=bool)
            whole = np.zeros(BATCH, dtype=bool)
            for tick, (shadow, counts) in enumerate(shares(first + 1000 * len(after), STRIKE_S + AFTER_S, strike)):
                alarm = (shadow.jump_share >= 1) | (shadow.drift_share >= 1)
                at_s = tick * MACHINE.control.period_s - STRIKE_S
                if at_s < 0:
                    before |= alarm
                    whole = counts
                else:
                    soonest = np.minimum(soonest, np.where(alarm, at_s, np.inf))
            after.append(soonest[whole & ~before])
        found = np.concatenate(after)
        parts = ", ".join(f"{(found <= t).mean():.0%} within {t:g} s" for t in (0.3, 0.5, 1.0, 5.0, AFTER_S))
        print(f"{name:18} {len(found)} machines: found {parts}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=12.0)
    parser.add_argument("--machines", type=int, default=300)
    parser.add_argument("--feed", type=float, nargs=2, default=(0.5, 3.0), help="slowest and fastest feed, mm/s")
    parser.add_argument("--seed", type=int, default=0, help="number of the first episode, in millions")
    options = parser.parse_args()
    global FEED_M_S
    FEED_M_S = options.feed[0] * 1e-3, options.feed[1] * 1e-3
    quiet(options.hours)
    if options.machines > 0:
        struck(options.machines, 1_000_000 * (options.seed + 1))


if __name__ == "__main__":
    main()
