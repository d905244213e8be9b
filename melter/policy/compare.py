"""Several policies, and the classical servo, on the same episodes: ratios with intervals, and what each disturbance costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from melter.env.batch import ENDINGS, SandMelterBatch
from melter.env.scenario import KINDS, SUITES, Scenario
from melter.machine import Machine
from melter.policy.evaluate import (
    BATCH,
    Act,
    Array,
    Episodes,
    Evaluation,
    OnShare,
    figures,
    interval,
    joined,
    play,
    resampled_rms,
)


@dataclass(frozen=True)
class Contender:
    """Somebody who steers."""

    name: str
    act: Act
    controller: str = "policy"
    model: str | None = None
    model_sha256: str | None = None


@dataclass(frozen=True)
class Ratio:
    """RMS error over that of the yardstick, on the same episodes."""

    value: float
    ci: tuple[float, float]
    """95 % interval by bootstrap over episodes (over models too, where several are taken together)."""

    @classmethod
    def of(cls, value: float, resampled: Array) -> Ratio:
        """Return ``value`` with the interval of its bootstrap values."""
        return cls(value, interval(resampled))


@dataclass(frozen=True)
class Together:
    """Models taken as draws of one training: their mean RMS, over models and episodes."""

    models: int
    rms_mm: float
    rms_ci_mm: tuple[float, float]
    ratio: Ratio | None


@dataclass(frozen=True)
class Comparison:
    """Every contender's figures, in the order they were given."""

    suite: str
    evaluations: dict[str, Evaluation]
    yardstick: str | None
    """Name of the contender that ratios are taken to."""
    ratios: dict[str, Ratio]
    together: Together | None


class Match:
    """Plays contenders against the same episodes, a block of episodes at a time, so that it can be stopped at any block."""

    def __init__(
        self,
        contenders: Sequence[Contender],
        machine: Machine,
        scenario: Scenario,
        *,
        first: int = 0,
        threads: int = 1,
    ) -> None:
        """``scenario`` must fix its episodes (``Scenario.suite``)."""
        self.contenders, self.machine, self.scenario = tuple(contenders), machine, scenario
        self.first, self.threads = first, threads
        self._blocks: list[dict[str, Episodes]] = []

    def play(self, episodes: int, on_share: OnShare = lambda _: None) -> None:
        """Play ``episodes``; on_share tells the share that is done."""
        done, total = 0, episodes * len(self.contenders)
        for start in range(0, episodes, BATCH):
            count = min(BATCH, episodes - start)
            batch = SandMelterBatch(self.machine, count, self.scenario, self.threads)
            block: dict[str, Episodes] = {}
            for contender in self.contenders:

                def tell(share: float, done: int = done, count: int = count) -> None:
                    on_share((done + share * count) / total)

                block[contender.name] = play(contender.act, batch, self.first + start, tell)
                done += count
            self._blocks.append(block)

    @property
    def played(self) -> dict[str, Episodes]:
        """Each contender's episodes, of the blocks that all have played; empty before the first."""
        if not self._blocks:
            return {}
        return {one.name: joined([block[one.name] for block in self._blocks]) for one in self.contenders}


def comparison(suite: str, played: dict[str, Episodes], yardstick: str | None, models: Sequence[str]) -> Comparison:
    """Return all figures; ``models`` names the contenders that are taken together where there are several."""
    names = list(played)
    squares, ticks = (np.array(column) for column in zip(*(played[name].sums() for name in names), strict=True))
    resampled = resampled_rms(squares, ticks, np.random.default_rng(0))
    evaluations = {name: figures(suite, played[name]) for name in names}
    ratios: dict[str, Ratio] = {}
    if yardstick is not None:
        base = resampled[:, names.index(yardstick)]
        for i, name in enumerate(names):
            if name != yardstick:
                value = evaluations[name].rms_mm / evaluations[yardstick].rms_mm
                ratios[name] = Ratio.of(value, resampled[:, i] / base)
    return Comparison(suite, evaluations, yardstick, ratios, _together(evaluations, resampled, yardstick, models))


def _together(
    evaluations: dict[str, Evaluation], resampled: Array, yardstick: str | None, models: Sequence[str]
) -> Together | None:
    if len(models) < 2:
        return None
    names = list(evaluations)
    rng = np.random.default_rng(1)
    columns = np.array([names.index(name) for name in models])
    picks = columns[rng.integers(0, len(columns), (len(resampled), len(columns)))]
    means = np.take_along_axis(resampled, picks, axis=1).mean(axis=1)
    value = float(np.mean([evaluations[name].rms_mm for name in models]))
    ratio = None
    if yardstick is not None:
        ratio = Ratio.of(value / evaluations[yardstick].rms_mm, means / resampled[:, names.index(yardstick)])
    return Together(len(models), value, interval(means), ratio)


@dataclass(frozen=True)
class Cost:
    """What one quantity costs when it alone varies."""

    rms_mm: float
    cost_mm: float
    """RMS error minus that of the same episodes with nothing varied."""
    cost_ci_mm: tuple[float, float]
    terminated: int


def alone(quantity: str | None) -> Scenario:
    """Return the outdoor suite with one quantity varied, or none: the same paths and seeds."""
    outdoor = SUITES["outdoor"]
    return replace(outdoor, randomisation=replace(outdoor.randomisation, only=() if quantity is None else (quantity,)))


def disturbances() -> tuple[str, ...]:
    """Return the names of all quantities that the outdoor suite varies."""
    return SUITES["outdoor"].randomisation.only


def costs(calm: dict[str, Episodes], disturbed: dict[str, Episodes]) -> dict[str, Cost]:
    """Return each contender's cost of a disturbance, from the same episodes without and with it."""
    found: dict[str, Cost] = {}
    for name, before in calm.items():
        after = disturbed[name]
        (squares_0, ticks_0), (squares_1, ticks_1) = before.sums(), after.sums()
        pair = np.array([squares_0, squares_1]), np.array([ticks_0, ticks_1])
        resampled = resampled_rms(*pair, np.random.default_rng(0))
        without, with_it = (float(np.sqrt(s.sum() / max(t.sum(), 1.0))) for s, t in zip(*pair, strict=True))
        cost_ci_mm = interval(resampled[:, 1] - resampled[:, 0])
        found[name] = Cost(with_it, with_it - without, cost_ci_mm, int(after.terminated.sum()))
    return found


def episode_rows(played: dict[str, Episodes]) -> list[dict[str, Any]]:
    """Return one row per contender and episode, for a CSV file."""
    rows: list[dict[str, Any]] = []
    for name, episodes in played.items():
        squares, ticks = episodes.sums()
        for i in range(episodes.count):
            values = episodes.errors_mm[i][np.isfinite(episodes.errors_mm[i]) & episodes.melting[i]]
            rows.append(
                {
                    "contender": name,
                    "episode": episodes.first + i,
                    "path": KINDS[episodes.kind[i]],
                    "rms_mm": float(np.sqrt(squares[i] / max(ticks[i], 1.0))),
                    "max_mm": float(values.max()) if len(values) else None,
                    "tension_min_n": float(episodes.tension_min_n[i]),
                    "tension_max_n": float(episodes.tension_max_n[i]),
                    "ending": ENDINGS[episodes.ending[i]],
                }
            )
    return rows


def plain_ratio(ratio: Ratio | None) -> dict[str, Any]:
    """Return a ratio's fields for JSON."""
    return {"ratio": None, "ratio_ci": None} if ratio is None else {"ratio": ratio.value, "ratio_ci": ratio.ci}


def plain_costs(by_quantity: dict[str, dict[str, Cost]], contender: str) -> dict[str, Any]:
    """Return one contender's costs by quantity for JSON."""
    return {quantity: asdict(found[contender]) for quantity, found in by_quantity.items()}
