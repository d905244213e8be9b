"""Broken requests, broken measurements and bad timing through the limiter, many machines at once, by the hundred million.

What comes out is checked by code that shares nothing with the limiter: limits are taken from the machine file in
metres and seconds, braking distances are worked out in closed form, and a simple winch follows what was approved.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.machine import WINCH_COUNT, Machine
from melter.safety.batch import limit_each
from melter.safety.limiter import LATE_PERIODS, Counts, TickLimits
from melter.safety.verify import violation

Array = NDArray[np.float64]

MACHINES = 8192
"""At a time."""
_EPISODE = 48
"""Ticks until all machines start anew, from states that one may be in."""
_ODD = np.array([np.nan, np.inf, -np.inf, 1e300, -1e300, 5e-324, -5e-324, 1e17, -0.0, 0.12, -0.12])
_WALKED = 8
"""Machines of each tick that the gate's own post-condition looks at too."""


@dataclass
class FuzzResult:
    """What a run counted. A tick is one command for the eight winches of one machine."""

    ticks: int = 0
    refused: int = 0
    """Ticks in which a machine was refused and braked."""
    checked: dict[str, int] = field(default_factory=dict[str, int])
    """Ticks looked at, by what looked."""
    broken: dict[str, int] = field(default_factory=dict[str, int])
    """Ticks in which a limit was broken, by limit."""
    first: str | None = None
    seconds: float = 0.0


def fuzz(
    machine: Machine, ticks: int, rng: np.random.Generator, progress: Callable[[float, float], None] | None = None
) -> FuzzResult:
    """Run about ``ticks`` fuzzed ticks; ``progress`` is told the share done and the seconds left."""
    started_s, result = time.monotonic(), FuzzResult()
    while result.ticks < ticks:
        _episode(machine, rng, result)
        done = result.ticks / ticks
        if progress is not None:
            progress(done, max(0.0, (time.monotonic() - started_s) * (1 / done - 1)))
    result.seconds = time.monotonic() - started_s
    return result


def _episode(machine: Machine, rng: np.random.Generator, result: FuzzResult) -> None:
    limits, checker = TickLimits.from_machine(machine), _Checker(machine)
    speed, length = _start(limits, rng)
    told = np.stack([length, length, length])
    lied = np.zeros(MACHINES, dtype=bool)
    for _ in range(_EPISODE):
        late = rng.integers(1, LATE_PERIODS + 1, MACHINES) * (rng.random(MACHINES) < 0.02)
        length = length + late[:, None] * speed
        told = np.concatenate([length[None], told[:-1]])
        seen: Array = np.asarray(
            told[rng.integers(0, 2, MACHINES), np.arange(MACHINES)] * 1e-6, dtype=float
        )  # late, twice, or before an older one
        lied |= _lie(seen, rng)
        request, tension = _requests(rng), _tensions(machine, rng)
        cap = limits.speed_max_um if rng.random() < 0.5 else limits.speed_normal_um
        counts, refused = limit_each(request, speed, seen, tension, limits, speed_um=cap)
        checker.check(counts, speed, seen, tension, cap, refused, result)
        _walk(counts, speed, seen, tension, refused, limits, cap, rng, result)
        length = length + counts
        checker.check_cables(length, ~lied, result)
        speed = counts
        result.ticks += MACHINES
        result.refused += int(refused.sum())


def _start(limits: TickLimits, rng: np.random.Generator) -> tuple[Counts, Counts]:
    """Speeds and lengths from which braking at once ends within the limits; half of them next to a limit."""
    shape = (MACHINES, WINCH_COUNT)
    speed = rng.integers(-limits.speed_max_um, limits.speed_max_um + 1, shape)
    speed *= rng.random((MACHINES, 1)) < 0.7
    spare = np.where(rng.random(shape) < 0.5, rng.integers(0, 30_000, shape), rng.integers(0, 2_000_000, shape))
    spare = np.minimum(spare, (limits.length_max_um - limits.length_min_um) // 4)
    ahead = _stop_um(np.maximum(np.abs(speed) - limits.acceleration_um, 0), limits.acceleration_um)
    late = LATE_PERIODS * np.abs(speed)
    top = limits.length_max_um - ahead - spare - late
    return speed, np.where(speed > 0, top, np.where(speed < 0, limits.length_min_um + ahead + spare + late, top))


def _requests(rng: np.random.Generator) -> Array:
    scale = rng.choice([0.002, 0.05, 0.2, 3.0])
    request = rng.uniform(-scale, scale, (MACHINES, WINCH_COUNT))
    if rng.random() < 0.3:
        request = np.sign(request) * scale
    return _spoil(request, rng, 1 / 40)


def _tensions(machine: Machine, rng: np.random.Generator) -> Array | None:
    if rng.random() < 0.5:
        return None
    most = machine.limits.tension_trip_n * rng.choice([0.3, 1.0, 20.0])
    return _spoil(rng.uniform(-10, most, (MACHINES, WINCH_COUNT)), rng, 1 / 200)


def _spoil(values: Array, rng: np.random.Generator, share: float) -> Array:
    count = int(share * len(values))
    values[rng.integers(0, len(values), count), rng.integers(0, WINCH_COUNT, count)] = rng.choice(_ODD, count)
    return values


def _lie(seen_m: Array, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Make some measurements lie, a little or wildly; return which machines were lied to."""
    lied = rng.random(len(seen_m)) < 0.002
    rows = np.flatnonzero(lied)
    offset = rng.choice([-3.0, -0.3, -0.005, 0.005, 0.3, 3.0], (len(rows), WINCH_COUNT))
    seen_m[rows] = np.where(rng.random((len(rows), 1)) < 0.7, seen_m[rows] + offset, rng.choice(_ODD, (len(rows), 1)))
    return lied


class _Checker:
    """The limits once more, from the machine file, in metres and seconds."""

    def __init__(self, machine: Machine) -> None:
        self._machine, limits = machine, machine.limits
        per = machine.control.period_s * 1e6
        self._speed, self._normal = limits.speed_max_m_s * per, limits.speed_normal_m_s * per
        self._step = limits.acceleration_max_m_s2 * machine.control.period_s * per
        self._watt = 1 / per
        stretch = 1 + limits.tension_max_n / machine.drive.cable_stiffness_n
        self._low, self._high = limits.cable_length_min_m * 1e6, limits.cable_length_max_m / stretch * 1e6
        self._fast = TickLimits.from_machine(machine).speed_max_um

    def check(
        self, counts: Counts, before: Counts, seen_m: Array, tension: Array | None, cap: int,
        refused: NDArray[np.bool_], result: FuzzResult,
    ) -> None:  # fmt: skip
        """Speed, acceleration, power of each and of all, and room to stop, for (n, 8) approved commands."""
        limits, size = self._machine.limits, np.abs(counts)
        braked = counts == before - np.sign(before) * np.minimum(np.abs(before), np.floor(self._step + 1e-6))
        mode = self._speed if cap == self._fast else self._normal
        pull = limits.tension_max_n if tension is None else np.maximum(tension, 0.0)
        with np.errstate(invalid="ignore", over="ignore"):
            watt = size * pull * self._watt
            together = watt.sum(axis=1) > limits.power_total_w * (1 + 1e-9)
            room_up, room_down = self._high - seen_m * 1e6, seen_m * 1e6 - self._low
            stop = _stop_um(size, int(self._step + 1e-6))
            short = ((counts > 0) & (stop > room_up + 1)) | ((counts < 0) & (stop > room_down + 1))
            found: dict[str, Any] = {
                "speed": (size > self._speed + 1e-6).any(axis=1),
                "speed of the mode": ((size > mode + 1e-6) & ~braked).any(axis=1),
                "acceleration": (np.abs(counts - before) > self._step + 1e-6).any(axis=1),
                "winch power": ~refused & ((watt > limits.power_max_w * (1 + 1e-9)) & ~braked).any(axis=1),
                "total power": ~refused & together & ~braked.all(axis=1),
                "room to stop": ~refused & (short & ~braked).any(axis=1),
                "full brake when refused": refused & ~braked.all(axis=1),
            }
        self._book(found, counts, before, result)

    def check_cables(self, length_um: Counts, honest: NDArray[np.bool_], result: FuzzResult) -> None:
        """The cable itself, where measurements were late, doubled or out of order but true."""
        found = {"cable length": honest & ((length_um < self._low) | (length_um > self._high)).any(axis=1)}
        self._book(found, length_um, length_um, result)

    def _book(self, found: dict[str, Any], counts: Counts, before: Counts, result: FuzzResult) -> None:
        for name, wrong in found.items():
            result.checked[name] = result.checked.get(name, 0) + len(wrong)
            number = int(np.count_nonzero(wrong))
            result.broken[name] = result.broken.get(name, 0) + number
            if number and result.first is None:
                row = int(np.argmax(wrong))
                result.first = f"{name}: {counts[row].tolist()} after {before[row].tolist()}"


def _walk(
    counts: Counts, before: Counts, seen_m: Array, tension: Array | None, refused: NDArray[np.bool_],
    limits: TickLimits, cap: int, rng: np.random.Generator, result: FuzzResult,
) -> None:  # fmt: skip
    """Some machines of the tick through the gate's post-condition, in plain Python."""
    name = "post-condition of the gate"
    for row in rng.integers(0, len(counts), _WALKED):
        if refused[row]:
            continue
        pulls = None if tension is None else tension[row].tolist()
        length = limits.um(seen_m[row]).tolist()
        wrong = violation(counts[row].tolist(), before[row].tolist(), length, pulls, limits, cap)
        result.checked[name] = result.checked.get(name, 0) + 1
        result.broken[name] = result.broken.get(name, 0) + (wrong is not None)
        result.first = result.first or wrong


def _stop_um(speed_um: Counts, step_um: int) -> Counts:
    """What a winch covers from (...) speeds >= 0 to rest: the sum of an arithmetic series, in closed form."""
    terms = speed_um // step_um + 1
    return terms * (2 * speed_um - (terms - 1) * step_um) // 2
