"""The exhaustive proof of the limiter, run on the function that ships.

A winch's state is its speed (whole micrometres per period) and the room left to an end of its cable. Further
from both ends than the longest braking distance the limiter's answer does not depend on the length, so every
speed with every room up to that distance, at either end, is every state there is. For each admissible state
the two outermost requests are put to :func:`melter.safety.limiter.limit_command`; what they give bounds what
any request gives, because the limiter clamps the request between them (sampled on the way). Each bound is
then checked against the limits with sums of its own:

- the interval of allowed speeds is not empty;
- its ends change the speed by no more than the acceleration;
- its ends keep the mode's speed limit, or are a full brake from a faster mode;
- after its ends the winch can still stop before the cable's end: the next state is admissible again.

Where no end is near the gate uses the limiter's short form: it
is compared with the limiter on every speed.

All four are intervals of speeds, so what holds for both ends holds in between. Winches depend on each
other by their power together only, and that stage (:func:`melter.safety.limiter.share_power`, left out here) moves
speeds between the two ends. By induction no sequence of requests, from any admissible state, breaks a limit.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from melter.machine import WINCH_COUNT
from melter.safety.limiter import Counts, TickLimits, limit_command, limit_far_from_ends

_CHUNK = 1 << 17
"""States at a time: stays in the processor's cache."""
MOST_STATES = 1 << 32
"""About a minute's worth. Above this, rooms are taken in steps; the result says so and proves nothing."""
_HUGE_M_S = 1e6
_TOP, _BOTTOM = 1, -1


@dataclass(frozen=True)
class ProofResult:
    """What the proof counted."""

    states: int
    """Admissible states tried, over both ends of the cable and both speed limits."""
    transitions: int
    """Allowed next speeds of all these states together."""
    violations: int
    empty_intervals: int
    room_step_um: int
    """1: every room was tried; above: every so many micrometres (limits too large to try all)."""
    counterexample: str | None
    seconds: float
    """Processor time, one core."""

    @property
    def proven(self) -> bool:
        """Whether every state was tried and none failed."""
        return self.violations == 0 and self.empty_intervals == 0 and self.room_step_um == 1 and self.states > 0


def prove(
    limits: TickLimits,
    *,
    limit: Callable[..., Counts] = limit_command,
    most_states: int = MOST_STATES,
    progress: Callable[[float], None] | None = None,
) -> ProofResult:
    """Try every state of a winch under ``limits``; ``progress`` is told the share that is done.

    ``limit`` is there for tests, which hand in broken limiters.
    """
    started_s = time.thread_time()
    limits = replace(limits, power_total_n_um=np.inf)
    count = _short_form(limits, limit)
    fastest, longest_braking = limits.speed_max_um, _travel(limits)[-1]
    speeds = np.arange(-fastest, fastest + 1, dtype=np.int64)
    runs = [(side, cap) for side in (_TOP, _BOTTOM) for cap in sorted({limits.speed_normal_um, fastest})]
    step = -(-len(runs) * len(speeds) * int(longest_braking + 1) // most_states)
    rooms = np.arange(0, longest_braking + 1, step)
    far = -len(rooms) % WINCH_COUNT + WINCH_COUNT
    rooms = np.append(rooms, longest_braking + fastest + np.arange(far)).reshape(-1, WINCH_COUNT)
    rows = max(1, _CHUNK // rooms.size)
    _keep_memory()
    for done, (side, cap) in enumerate(runs):
        for first in range(0, len(speeds), rows):
            _try(limits, limit, side, cap, speeds[first : first + rows], rooms, count)
            if progress is not None and first % (64 * rows) == 0:
                progress((done + first / len(speeds)) / len(runs))
    seconds = time.thread_time() - started_s
    return ProofResult(count.states, count.transitions, count.violations, count.empty, step, count.first, seconds)


class ProofAhead:
    """A proof that runs in a thread of its own while the caller does something else; ``result`` waits for it.

    numpy lets go of the interpreter's lock in every step of it. The thread dies with the program.
    """

    def __init__(self, run: Callable[[], ProofResult]) -> None:
        self._found: ProofResult | None = None
        self._wrong: Exception | None = None
        self._thread = threading.Thread(target=self._keep, args=(run,), name="proof", daemon=True)
        self._thread.start()

    def result(self) -> ProofResult:
        """Return what the proof counted; raise what it raised."""
        self._thread.join()
        if self._wrong is not None or self._found is None:
            raise self._wrong or RuntimeError("proof: ended without a result")
        return self._found

    def _keep(self, run: Callable[[], ProofResult]) -> None:
        try:
            self._found = run()
        except Exception as error:  # carried over to whoever waits
            self._wrong = error


@dataclass
class _Count:
    states: int = 0
    transitions: int = 0
    violations: int = 0
    empty: int = 0
    first: str | None = None


def _short_form(limits: TickLimits, limit: Callable[..., Counts]) -> _Count:
    """Compare the limiter's short form with it: every speed, both modes, outermost requests and some between."""
    count, fastest = _Count(), limits.speed_max_um
    previous = np.arange(-fastest, fastest + 1, dtype=np.int64)
    length = np.full(previous.shape, (limits.length_min_um + limits.length_max_um) // 2)
    if 2 * limits.reach_um + 2 >= limits.length_max_um - limits.length_min_um:
        return count  # no cable is ever far from its ends, and the short form never used
    for cap in sorted({limits.speed_normal_um, fastest}):
        for share in (-np.inf, -0.7, -0.013, 0.0, 0.013, 0.7, np.inf):
            request = float(np.clip(share * limits.counts_to_m_s(np.asarray(fastest)), -_HUGE_M_S, _HUGE_M_S))
            whole = limit(request, previous, length, None, limits, speed_um=cap)
            short = limit_far_from_ends([request] * len(previous), previous.tolist(), limits, cap)
            differ = np.flatnonzero(whole != np.array(short))
            count.violations += len(differ)
            if len(differ) and count.first is None:
                speed, found = previous[differ[0]], (short[differ[0]], whole[differ[0]])
                count.first = (
                    f"speed {speed} um per period, request {request:g} m/s: short form {found[0]}, limiter {found[1]}"
                )
    return count


def _try(
    limits: TickLimits,
    limit: Callable[..., Counts],
    side: int,
    cap: int,
    speeds: Counts,
    rooms: Counts,
    count: _Count,
) -> None:
    """Put all pairs of ``speeds`` and ``rooms`` at one end of the cable to the limiter and check what comes out."""
    travel = _travel(limits)
    outward = np.maximum(side * speeds, 0)
    stopping = (travel[outward] - outward).reshape(-1, 1, 1)
    rooms = rooms[int(np.searchsorted(rooms[:, -1], stopping.min())) :]
    before = speeds.reshape(-1, 1, 1)
    lengths = limits.length_max_um - rooms if side == _TOP else limits.length_min_um + rooms
    low = limit(-_HUGE_M_S, before, lengths, None, limits, speed_um=cap)
    high = limit(_HUGE_M_S, before, lengths, None, limits, speed_um=cap)
    fastest = np.maximum(cap, np.abs(before) - limits.acceleration_um)
    ceiling = np.minimum(before + limits.acceleration_um, np.where(before > 0, fastest, cap))
    floor = np.maximum(before - limits.acceleration_um, np.where(before < 0, -fastest, -cap))
    stops = _fastest_that_stops(travel, rooms)
    right = high <= stops if side == _TOP else low >= -stops
    right &= high <= ceiling
    right &= low >= floor
    some = low <= high
    inadmissible = stopping > rooms[: int(np.searchsorted(rooms[:, -1], stopping.max())) + 1]
    head = high[:, : inadmissible.shape[1]] - low[:, : inadmissible.shape[1]] + 1
    count.states += high.size - int(np.count_nonzero(inadmissible))
    count.transitions += int(high.sum()) - int(low.sum()) + high.size - int(head[inadmissible].sum())
    right[:, : inadmissible.shape[1]] |= inadmissible
    some[:, : inadmissible.shape[1]] |= inadmissible
    if not right.all() or not some.all():
        count.violations += int(np.count_nonzero(~right))
        count.empty += int(np.count_nonzero(~some))
        count.first = count.first or _describe(np.argwhere(~right | ~some)[0], speeds, lengths, low, high)


def _fastest_that_stops(travel: Counts, rooms: Counts) -> Counts:
    """(...) the largest speed whose whole way to rest is no longer than each of ``rooms``; more speed, more way."""
    return np.searchsorted(travel, rooms, side="right") - 1


def _describe(index: NDArray[np.intp], speeds: Counts, lengths: Counts, low: Counts, high: Counts) -> str:
    row, place, winch = (int(i) for i in index)
    allowed = f"{low[row, place, winch]} to {high[row, place, winch]}"
    return f"speed {speeds[row]} um per period at length {lengths[place, winch]} um: allows {allowed} um per period"


def _keep_memory() -> None:
    """Make the C library keep freed arrays of a chunk's size (its threshold follows the largest block freed).

    Otherwise each temporary array is fresh zeroed memory from the kernel, which takes longer than the sums.
    """
    np.empty(24 << 20, dtype=np.uint8)


@functools.cache
def _travel(limits: TickLimits) -> Counts:
    """(speed_max + 1) what a winch covers from each speed to rest, that period included: summed step by step."""
    total = np.zeros(limits.speed_max_um + 1, dtype=np.int64)
    speed = np.arange(limits.speed_max_um + 1, dtype=np.int64)
    while speed.any():
        total += speed
        speed = np.maximum(speed - limits.acceleration_um, 0)
    return total
