"""Speed of several things side by side: interleaved and repeated, so that a busy computer treats all alike."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Contender:
    """Something whose speed is measured."""

    name: str
    unit: str
    """What is counted, such as "control steps/s"."""
    burst: Callable[[], int]
    """Does a little work (milliseconds) and returns how many units it was."""
    close: Callable[[], None] = lambda: None
    processes: tuple[int, ...] = ()
    """Other processes that work for it; their processor time counts."""


@dataclass(frozen=True)
class Row:
    """What was measured of one contender: medians over the rounds."""

    name: str
    rate: float
    unit: str
    cpu_us: float
    """Processor time per unit, all threads and processes, microseconds."""
    spread: float
    """Fastest over slowest round, minus one."""
    ratio_to: dict[str, float] = field(default_factory=dict[str, float])
    """This rate over that of others, by name; the median of the rounds' ratios."""
    cpu_ratio_to: dict[str, float] = field(default_factory=dict[str, float])
    """The same by processor time, which a busy computer does not decide: their cost per unit over this one's."""

    def table(self) -> dict[str, Any]:
        """Return the row as plain values."""
        return {
            "name": self.name,
            "rate": self.rate,
            "unit": self.unit,
            "ratio_to": self.ratio_to,
            "cpu_ratio_to": self.cpu_ratio_to,
            "cpu_us_per_unit": self.cpu_us,
            "spread": self.spread,
        }


def measure(
    contenders: Sequence[Contender], seconds: float, rounds: int, said: Callable[[str], None] = lambda _: None
) -> list[Row]:
    """Return a row for each contender, timed for ``seconds`` in ``rounds`` turns; ratios among those of one unit.

    Contenders are closed at the end, whatever happens.
    """
    try:
        for contender in contenders:
            contender.burst()
        rates: list[list[float]] = [[] for _ in contenders]
        costs: list[list[float]] = [[] for _ in contenders]
        for turn in range(rounds):
            said(
                f"round {turn + 1} of {rounds}, about {(rounds - turn) * len(contenders) * seconds / rounds:.0f} s left"
            )
            for i in range(len(contenders)):
                which = (i + turn) % len(contenders)
                rate, cost = _turn(contenders[which], seconds / rounds)
                rates[which].append(rate)
                costs[which].append(cost)
    finally:
        for contender in contenders:
            contender.close()
    return [_row(contenders, i, rates, costs) for i in range(len(contenders))]


def _turn(contender: Contender, seconds: float) -> tuple[float, float]:
    """Units per second, and processor microseconds per unit."""
    contender.burst()
    cpu_s, start_s, count = _cpu_s(contender.processes), time.perf_counter(), 0
    while True:
        count += contender.burst()
        spent_s = time.perf_counter() - start_s
        if spent_s >= seconds:
            return count / spent_s, 1e6 * (_cpu_s(contender.processes) - cpu_s) / count


def _row(contenders: Sequence[Contender], index: int, rates: list[list[float]], costs: list[list[float]]) -> Row:
    mine, contender = rates[index], contenders[index]
    peers = {o.name: i for i, o in enumerate(contenders) if i != index and o.unit == contender.unit}
    ratios = {name: statistics.median(a / b for a, b in zip(mine, rates[i], strict=True)) for name, i in peers.items()}
    cheaper = {
        name: statistics.median(b / a for a, b in zip(costs[index], costs[i], strict=True) if a > 0)
        for name, i in peers.items()
        if max(costs[index]) > 0
    }
    spread, cost = max(mine) / min(mine) - 1, statistics.median(costs[index])
    return Row(contender.name, statistics.median(mine), contender.unit, cost, spread, ratios, cheaper)


def _cpu_s(processes: tuple[int, ...]) -> float:
    """Processor time of this process and of others (Linux only; elsewhere this process alone)."""
    return time.process_time() + sum(_cpu_of_s(pid) for pid in processes)


def _cpu_of_s(pid: int) -> float:
    """User and system time of one process: fields 14 and 15 of proc(5)'s stat."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
