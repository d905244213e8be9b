"""How well a policy keeps the spot on the path, over a fixed suite of episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.env.batch import ENDINGS, LOST_M, SandMelterBatch
from melter.env.scenario import KINDS, scenario_named
from melter.machine import Machine

Array = NDArray[np.float64]
Act = Callable[[NDArray[np.float32]], NDArray[np.float32]]
OnShare = Callable[[float], None]

SETTLING_S = 2.0
"""Left out at the start of each episode (the suites' convention)."""
BATCH = 128
"""Episodes played side by side."""
ROUNDS = 1000
"""Of the bootstrap."""


@dataclass(frozen=True, eq=False)
class Episodes:
    """What happened in n episodes of a suite, tick by tick after settling."""

    first: int
    """Number of the first episode; the others follow."""
    errors_mm: Array
    """(n, ticks) spot error; NaN after an episode ended. A diverged simulation counts as a lost spot."""
    melting: NDArray[np.bool_]
    """(n, ticks) whether the light melts, rather than being moved dark."""
    kind: NDArray[np.intp]
    """(n,) index into KINDS."""
    ending: NDArray[np.intp]
    """(n,) index into ENDINGS."""
    tension_min_n: Array
    """(n,) lowest cable tension."""
    tension_max_n: Array
    """(n,) highest cable tension."""

    @property
    def count(self) -> int:
        """Number of episodes."""
        return len(self.kind)

    @property
    def terminated(self) -> NDArray[np.bool_]:
        """(n,) whether an episode ended before its time."""
        return self.ending > 1

    def sums(self) -> tuple[Array, Array]:
        """(n,) sum of squared errors (mm²) while melting, and how many ticks that were."""
        counted = np.where(self.melting & np.isfinite(self.errors_mm), self.errors_mm, np.nan)
        return np.nansum(counted**2, axis=1), np.isfinite(counted).sum(axis=1).astype(float)


@dataclass(frozen=True)
class KindFigures:
    """Figures of the episodes with one kind of path."""

    episodes: int
    rms_mm: float
    p95_mm: float
    terminated: int


@dataclass(frozen=True)
class Evaluation:
    """Figures over all episodes of a suite; errors on the sand, millimetres, while melting."""

    suite: str
    episodes: int
    rms_mm: float
    p50_mm: float
    p95_mm: float
    max_mm: float
    rms_ci_mm: tuple[float, float]
    """95 % interval of rms_mm by bootstrap over episodes."""
    dark_rms_mm: float | None
    """The same figure for moves without melting; None where there are none."""
    tension_min_n: float
    tension_max_n: float
    terminated: int
    endings: dict[str, int]
    """Why episodes were terminated, and how often."""
    by_kind: dict[str, KindFigures]
    """Figures by the kind of path."""

    def table(self) -> dict[str, Any]:
        """The figures as plain values."""
        return asdict(self)

    def text(self) -> str:
        """One line for people."""
        low, high = self.rms_ci_mm
        why = "".join(f"; {ending}: {count}" for ending, count in self.endings.items())
        return (
            f"{self.suite}: rms {self.rms_mm:.3f} mm ({low:.3f} to {high:.3f}), p50 {self.p50_mm:.3f}, p95 {self.p95_mm:.3f}, "
            f"max {self.max_mm:.2f} mm; tension {self.tension_min_n:.0f} to {self.tension_max_n:.0f} N; "
            f"{self.terminated} of {self.episodes} episodes terminated{why}"
        )


def evaluate(
    act: Act, machine: Machine, suite: str, episodes: int = 200, *, first: int = 0, threads: int = 1
) -> Evaluation:
    """Play ``episodes`` of a suite with ``act``: (n, obs) float32 → (n, 8) in [-1, 1].

    ``first``: number of the first episode; the same numbers are the same episodes for every policy.
    """
    scenario = scenario_named(suite)
    played = [
        play(act, SandMelterBatch(machine, min(BATCH, episodes - start), scenario, threads), first + start)
        for start in range(0, episodes, BATCH)
    ]
    return figures(suite, joined(played))


def play(act: Act, batch: SandMelterBatch, first: int, on_share: OnShare = lambda _: None) -> Episodes:
    """Play episodes ``first``, first + 1, … of the batch's suite, one in each simulation."""
    n = batch.count
    batch.reset(np.arange(n), np.zeros(n, dtype=int), first + np.arange(n, dtype=np.int64))
    settling = round(SETTLING_S * batch.machine.control.rate_hz)
    shape = (n, max(1, batch.horizon - settling))
    errors, melting = np.full(shape, np.nan), np.ones(shape, dtype=bool)
    running, endings = np.ones(n, dtype=bool), np.zeros(n, dtype=np.intp)
    low, high = np.full(n, np.inf), np.full(n, -np.inf)
    for tick in range(batch.horizon):
        _, state = batch.step(np.where(running[:, None], act(batch.observe()), 0.0))
        ended = running & (state.ending != 0)
        counted = running if tick >= settling else ended  # what ends while settling counts by its last moment
        if counted.any():
            column = max(tick - settling, 0)
            error_m = np.where(np.isfinite(state.spot_error_m), state.spot_error_m, LOST_M)
            errors[counted, column] = error_m[counted] * 1e3
            melting[:, column] = state.melting | (state.ending > 1)
            low[counted] = np.minimum(low, state.tensions_n.min(axis=1))[counted]
            high[counted] = np.maximum(high, state.tensions_n.max(axis=1))[counted]
        endings[ended] = state.ending[ended]
        running &= ~ended
        on_share((tick + 1) / batch.horizon)
        if not running.any():
            break
    return Episodes(first, errors, melting, np.array(batch.path_kind, dtype=np.intp), endings, low, high)


def joined(parts: list[Episodes]) -> Episodes:
    """Return episodes that follow each other as one."""
    names = ("errors_mm", "melting", "kind", "ending", "tension_min_n", "tension_max_n")
    return Episodes(parts[0].first, *(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def figures(suite: str, played: Episodes) -> Evaluation:
    """Return the figures of episodes that were played."""
    finite = np.isfinite(played.errors_mm)
    values, dark = played.errors_mm[finite & played.melting], played.errors_mm[finite & ~played.melting]
    squares, ticks = played.sums()
    counts = np.bincount(played.ending, minlength=len(ENDINGS))
    spread = resampled_rms(squares[None], ticks[None], np.random.default_rng(0))[:, 0]
    return Evaluation(
        suite=suite,
        episodes=played.count,
        rms_mm=rms(values),
        p50_mm=float(np.median(values)),
        p95_mm=float(np.percentile(values, 95)),
        max_mm=float(values.max()),
        rms_ci_mm=interval(spread),
        dark_rms_mm=rms(dark) if len(dark) else None,
        tension_min_n=float(played.tension_min_n.min()),
        tension_max_n=float(played.tension_max_n.max()),
        terminated=int(played.terminated.sum()),
        endings={ENDINGS[i]: int(n) for i, n in enumerate(counts) if i >= 2 and n},
        by_kind=_by_kind(played),
    )


def rms(values: Array) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(values**2)))


def resampled_rms(squares: Array, ticks: Array, rng: np.random.Generator, rounds: int = ROUNDS) -> Array:
    """Return (rounds, contenders) RMS of episodes drawn with replacement, the same ones for every contender.

    ``squares``, ``ticks``: (contenders, episodes) sum of squared errors and number of ticks of each episode.
    """
    n = squares.shape[1]
    found = np.empty((rounds, len(squares)))
    for i in range(rounds):
        weight = np.bincount(rng.integers(0, n, n), minlength=n).astype(float)
        found[i] = np.sqrt(squares @ weight / np.maximum(ticks @ weight, 1.0))
    return found


def interval(values: Array) -> tuple[float, float]:
    """Return the middle 95 % of bootstrap values."""
    return float(np.percentile(values, 2.5)), float(np.percentile(values, 97.5))


def _by_kind(played: Episodes) -> dict[str, KindFigures]:
    found: dict[str, KindFigures] = {}
    for number, name in enumerate(KINDS):
        rows = played.kind == number
        values = played.errors_mm[rows][np.isfinite(played.errors_mm[rows]) & played.melting[rows]]
        if len(values):
            ended = int(played.terminated[rows].sum())
            found[name] = KindFigures(int(rows.sum()), rms(values), float(np.percentile(values, 95)), ended)
    return found
