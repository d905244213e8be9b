"""How well a policy keeps the spot on the path, over a fixed suite of episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.env.batch import ENDINGS, SandMelterBatch
from melter.env.scenario import scenario_named
from melter.machine import Machine

Array = NDArray[np.float64]
Act = Callable[[NDArray[np.float32]], NDArray[np.float32]]

SETTLING_S = 2.0
"""Left out at the start of each episode (the suites' convention)."""
BATCH = 128


@dataclass(frozen=True)
class Evaluation:
    """Figures over all episodes of a suite; errors on the sand, millimetres."""

    suite: str
    episodes: int
    rms_mm: float
    p50_mm: float
    p95_mm: float
    max_mm: float
    rms_ci_mm: tuple[float, float]
    """95 % interval of rms_mm by bootstrap over episodes."""
    tension_min_n: float
    tension_max_n: float
    terminated: int
    endings: dict[str, int]
    """Why episodes were terminated, and how often."""

    def table(self) -> dict[str, Any]:
        """The figures as plain values."""
        return {**self.__dict__}

    def text(self) -> str:
        """One line for people."""
        low, high = self.rms_ci_mm
        return (
            f"{self.suite}: rms {self.rms_mm:.3f} mm ({low:.3f} to {high:.3f}), p50 {self.p50_mm:.3f}, p95 {self.p95_mm:.3f}, "
            f"max {self.max_mm:.2f} mm; tension {self.tension_min_n:.0f} to {self.tension_max_n:.0f} N; "
            f"{self.terminated} of {self.episodes} episodes terminated"
        )


def evaluate(
    act: Act, machine: Machine, suite: str, episodes: int = 200, *, first: int = 0, threads: int = 1
) -> Evaluation:
    """Play ``episodes`` of a suite with ``act``: (n, obs) float32 → (n, 8) in [-1, 1].

    ``first``: number of the first episode; the same numbers are the same episodes for every policy.
    """
    errors: list[Array] = []
    lows, highs, endings = [], [], np.zeros(len(ENDINGS), dtype=np.int64)
    for start in range(0, episodes, BATCH):
        count = min(BATCH, episodes - start)
        batch = SandMelterBatch(machine, count, scenario_named(suite), threads)
        error, low, high, ending = _play(batch, act, first + start)
        errors.append(error)
        lows.append(low)
        highs.append(high)
        endings += np.bincount(ending, minlength=len(ENDINGS))
    per_episode = np.concatenate(errors)
    squares = np.nanmean(per_episode**2, axis=1)
    values = per_episode[np.isfinite(per_episode)]
    return Evaluation(
        suite=suite,
        episodes=episodes,
        rms_mm=float(np.sqrt(np.mean(values**2))),
        p50_mm=float(np.median(values)),
        p95_mm=float(np.percentile(values, 95)),
        max_mm=float(values.max()),
        rms_ci_mm=_interval(squares),
        tension_min_n=float(min(lows)),
        tension_max_n=float(max(highs)),
        terminated=int(endings[2:].sum()),
        endings={ENDINGS[i]: int(n) for i, n in enumerate(endings) if i >= 2 and n},
    )


def _play(batch: SandMelterBatch, act: Act, first: int) -> tuple[Array, float, float, NDArray[np.intp]]:
    """Errors (n, ticks after settling) in mm, NaN after an episode ended; tension extremes; ending codes."""
    n = batch.count
    batch.reset(np.arange(n), np.zeros(n, dtype=int), _episode_numbers(first, n))
    settling = round(SETTLING_S * batch.machine.control.rate_hz)
    errors = np.full((n, max(1, batch.horizon - settling)), np.nan)
    running = np.ones(n, dtype=bool)
    endings = np.zeros(n, dtype=np.intp)
    low, high = np.inf, -np.inf
    for tick in range(batch.horizon):
        _, state = batch.step(np.where(running[:, None], act(batch.observe()), 0.0))
        ended = running & (state.ending != 0)
        counted = running if tick >= settling else ended  # what ends while settling counts by its last moment
        if counted.any():
            errors[counted, max(tick - settling, 0)] = state.spot_error_m[counted] * 1e3
            tension = state.tensions_n[counted]
            low, high = min(low, float(tension.min())), max(high, float(tension.max()))
        endings[ended] = state.ending[ended]
        running &= ~ended
        if not running.any():
            break
    return errors, low, high, endings


def _episode_numbers(first: int, count: int) -> NDArray[np.int64]:
    return first + np.arange(count, dtype=np.int64)


def _interval(squares: Array, rounds: int = 400) -> tuple[float, float]:
    """95 % bootstrap interval of the RMS over episodes."""
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(squares), (rounds, len(squares)))
    rms = np.sqrt(squares[picks].mean(axis=1))
    return float(np.percentile(rms, 2.5)), float(np.percentile(rms, 97.5))
