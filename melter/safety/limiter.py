"""The rate limiter: one interval of allowed cable speeds per winch and tick, in integers.

A winch's speed is a whole number of micrometres of cable per control period. In these counts the braking
arithmetic is exact, so :mod:`melter.safety.proof` can try every state on the function below, and a batch
gives the same bits as a single machine. Positive pays out.

Admissible is a winch at length x and speed v (both in counts) when braking now, ``v-a, v-2a, ... 0``, ends
within the cable's limits. From an admissible state the interval of :func:`limit_command` is never empty and
every speed in it leads to an admissible state. From any other state the answer is the full brake.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.errors import CommandRefused, MachineFileError
from melter.machine import WINCH_COUNT, Machine

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

UM_PER_M = 1_000_000
"""Counts per metre: one count is one micrometre."""
LATE_PERIODS = 2
"""Periods that a command may come late; what a winch covers meanwhile is part of the margin."""
_POWER_STEPS = 7
"""Halvings of the way to the request that the search for the allowed power takes: to one part in 128."""
_LARGEST_UM = 1 << 53
"""Lengths saturate here (9e9 m), far from where whole numbers of 64 bits end."""
_FASTER_M_S = 1e6
"""Requests saturate here, far from where their counts would end."""
_TABLE_BITS = 20
"""The braking table has at most this power of two entries; beyond, room is rounded down."""


@dataclass(frozen=True, eq=False)
class TickLimits:
    """A machine's limits for one control period, whole micrometres."""

    period_s: float
    speed_normal_um: int
    """Fastest in work, micrometres per period."""
    speed_max_um: int
    """Fastest at all, the way to dark included, micrometres per period."""
    acceleration_um: int
    """Largest change of speed from one period to the next, micrometres per period squared."""
    length_min_um: int
    """Shortest stress-free cable, the margin for lag included."""
    length_max_um: int
    """Longest stress-free cable, the margins for lag and stretch included."""
    margin_um: int
    """What a winch at full speed covers during delay, lag and the late periods allowed."""
    power_n_um: float
    """Largest tension times speed of one winch, newton micrometres per period."""
    power_total_n_um: float
    """The same of all winches together."""
    counts_per_m_s: float
    """Micrometres per period that a metre per second is."""
    tension_max_n: float
    """Taken for a tension that is not known."""
    brake_table: Counts
    """Fastest speed towards an end of the cable, by the room left to it (in units of ``2**brake_shift``)."""
    brake_shift: int

    @property
    def reach_um(self) -> int:
        """What a winch covers from the highest speed to rest: further from its end than this, a cable knows none."""
        return braking_um(self.speed_max_um, self.acceleration_um)

    @property
    def power_is_for_all(self) -> bool:
        """Whether all winches at the highest speed and tension keep the power that they may have together."""
        return self.power_total_n_um >= WINCH_COUNT * self.speed_max_um * self.tension_max_n

    @classmethod
    def from_machine(cls, machine: Machine, speed_factor: float = 1.0) -> TickLimits:
        """Return the limits of ``machine``; raise MachineFileError where they contradict each other.

        ``speed_factor``: a driver that was held up may turn the winches so many times as fast as was approved, never
        above the machine's highest speed. Power that this could exceed is kept back.
        """
        limits, drive, control = machine.limits, machine.drive, machine.control
        period_s = control.period_s
        speed = _floor(limits.speed_max_m_s * period_s)
        acceleration = _floor(limits.acceleration_max_m_s2 * period_s**2)
        _require(min(_floor(limits.speed_normal_m_s * period_s), acceleration) >= 1, _TOO_SLOW.format(control.rate_hz))
        unseen_s = (1 + LATE_PERIODS) * period_s + control.action_delay_s + drive.motor_lag_s
        margin = -_floor(-limits.speed_max_m_s * unseen_s)
        stretch = 1 + limits.tension_max_n / drive.cable_stiffness_n
        shortest = -_floor(-limits.cable_length_min_m) + margin
        longest = _floor(limits.cable_length_max_m / stretch) - margin
        braking = braking_um(speed, acceleration)
        _require(
            2 * braking < longest - shortest,
            f"limits.acceleration_max_m_s2 = {limits.acceleration_max_m_s2}: braking from speed_max_m_s takes "
            f"{braking / UM_PER_M:.3f} m, allowed: half the usable cable of {(longest - shortest) / UM_PER_M:.3f} m",
        )
        power_n_um = limits.power_max_w * period_s * UM_PER_M
        power_total_n_um = limits.power_total_w * period_s * UM_PER_M
        _require(
            power_n_um >= limits.tension_max_n,
            f"limits.power_max_w = {limits.power_max_w}: moves nothing at tension_max_n = {limits.tension_max_n}",
        )
        _require(
            power_total_n_um >= WINCH_COUNT * limits.tension_max_n,
            f"limits.power_total_max_w = {limits.power_total_w}: moves nothing at tension_max_n = {limits.tension_max_n}",
        )
        if power_n_um < speed * limits.tension_max_n:
            power_n_um /= speed_factor
        if power_total_n_um < WINCH_COUNT * speed * limits.tension_max_n:
            power_total_n_um /= speed_factor
        shift = max(0, braking.bit_length() - _TABLE_BITS)
        table = _brake_table(speed, acceleration, (np.arange((braking >> shift) + 1, dtype=np.int64)) << shift)
        table.setflags(write=False)
        return cls(
            period_s=period_s,
            speed_normal_um=_floor(limits.speed_normal_m_s * period_s),
            speed_max_um=speed,
            acceleration_um=acceleration,
            length_min_um=shortest,
            length_max_um=longest,
            margin_um=margin,
            power_n_um=power_n_um,
            power_total_n_um=power_total_n_um,
            counts_per_m_s=period_s * UM_PER_M,
            tension_max_n=limits.tension_max_n,
            brake_table=table,
            brake_shift=shift,
        )

    def counts_to_m_s(self, counts_um: Counts) -> Array:
        """Return cable speeds in metres per second."""
        return counts_um / self.counts_per_m_s

    def um(self, length_m: NDArray[Any]) -> Counts:
        """Return finite lengths in whole micrometres, within ±9e9 m."""
        scaled = np.minimum(
            np.maximum(np.asarray(length_m, dtype=float), -_LARGEST_UM / UM_PER_M), _LARGEST_UM / UM_PER_M
        )
        return np.rint(scaled * UM_PER_M).astype(np.int64)


def limit_command(
    requested_m_s: Array,
    previous_um: Counts,
    length_um: Counts,
    tension_n: Array | None,
    limits: TickLimits,
    *,
    speed_um: int | None = None,
) -> Counts:
    """Return the allowed speeds nearest to ``requested_m_s``, micrometres per period, shape (..., 8).

    ``previous_um``: speeds last approved. ``length_um``: stress-free cable out now. ``tension_n``: cable
    tensions for the power limits; None takes ``limits.tension_max_n``. ``speed_um``: the speed limit, by
    default the normal one. Shapes broadcast. Raises CommandRefused for what is not finite.

    Power limits each winch to ``power / tension``: on the way to the request the command stops at the last
    speed that the power allows; where the previous speed is too much already, the answer is the full brake.
    For the power of all winches together see :func:`share_power`.
    """
    lowest, highest = allowed_interval(previous_um, length_um, tension_n, limits, speed_um=speed_um)
    wanted = np.asarray(requested_m_s, dtype=float)
    if not np.logical_and.reduce(np.isfinite(wanted), axis=None):
        raise CommandRefused(f"requested_m_s = {_first_bad(wanted)}: must be eight finite numbers of m/s")
    counts = np.minimum(np.maximum(_whole_um(wanted, limits), lowest), highest)
    return share_power(counts, previous_um, lowest, highest, tension_n, limits)


def limit_far_from_ends(
    requested_m_s: Sequence[float], previous_um: Sequence[int], limits: TickLimits, speed_um: int
) -> list[int]:
    """Return what :func:`limit_command` does for one machine, far from the ends of all cables and tensions unknown.

    Far: further than :attr:`TickLimits.reach_um`; and :attr:`TickLimits.power_is_for_all` must hold.

    There its answer depends on the request and the previous speed alone: few enough states for
    :mod:`melter.safety.proof` to compare the two on all of them. Plain numbers, for the sake of the tick's time.
    """
    cap, step, per_m_s = _power_cap(None, limits, speed_um), limits.acceleration_um, limits.counts_per_m_s
    counts: list[int] = []
    for requested, previous in zip(requested_m_s, previous_um, strict=True):
        slower, faster = previous - step, previous + step
        highest = slower if cap < slower else (faster if cap > faster else cap)
        lowest = faster if -cap > faster else (slower if -cap < slower else -cap)
        wanted = requested * per_m_s
        counts.append(highest if wanted >= highest else (lowest if wanted <= lowest else round(wanted)))
    return counts


def allowed_interval(
    previous_um: Counts,
    length_um: Counts,
    tension_n: Array | None,
    limits: TickLimits,
    *,
    speed_um: int | None = None,
) -> tuple[Counts, Counts]:
    """Return lowest and highest allowed speeds, micrometres per period; arguments as :func:`limit_command`."""
    cap = _power_cap(tension_n, limits, limits.speed_normal_um if speed_um is None else speed_um)
    slower, faster = previous_um - limits.acceleration_um, previous_um + limits.acceleration_um
    highest = np.minimum(_fastest_towards_end(limits.length_max_um - length_um, limits), cap)
    lowest = -np.minimum(_fastest_towards_end(length_um - limits.length_min_um, limits), cap)
    return np.minimum(np.maximum(lowest, slower), faster), np.maximum(np.minimum(highest, faster), slower)


def share_power(
    counts_um: Counts,
    previous_um: Counts,
    lowest_um: Counts,
    highest_um: Counts,
    tension_n: Array | None,
    limits: TickLimits,
) -> Counts:
    """Return ``counts_um`` (..., 8) drawn towards the previous command until all winches together keep the power.

    Between the two bounds all the way, because both ends are: ``previous_um`` itself, or the bound next to it for
    a winch that has to brake. Where even that end takes too much power, the answer is the full brake of all eight.
    """
    if tension_n is None and limits.power_is_for_all:
        return counts_um
    tension = limits.tension_max_n if tension_n is None else np.maximum(tension_n, 0.0)
    over = _power_n_um(counts_um, tension) > limits.power_total_n_um
    if not over.any():
        return counts_um
    start = np.minimum(np.maximum(previous_um, lowest_um), highest_um)
    too_fast = (_power_n_um(start, tension) > limits.power_total_n_um)[..., None]
    braked = np.clip(0, previous_um - limits.acceleration_um, previous_um + limits.acceleration_um)
    shared = np.where(too_fast, braked, start)
    way = np.where(too_fast, 0, counts_um - start)
    for half in range(1, _POWER_STEPS + 1):
        trial = shared + _part(way, half)
        fits = _power_n_um(trial, tension) <= limits.power_total_n_um
        shared = np.where(fits[..., None], trial, shared)
    return np.where(over[..., None], shared, counts_um)


def _power_n_um(counts_um: Counts, tension_n: Any) -> Array:
    """(...) power of all eight winches together, newton micrometres per period."""
    return np.add.reduce(np.abs(counts_um) * tension_n, axis=-1)


def _part(way_um: Counts, halved: int) -> Counts:
    """``way_um`` halved so many times, rounded towards zero: all parts together never exceed the whole."""
    return np.sign(way_um) * (np.abs(way_um) >> halved)


def _whole_um(speeds_m_s: Array, limits: TickLimits) -> Counts:
    """Speeds in whole micrometres per period: rounded before they are clamped between whole numbers, or after, is one."""
    within = np.minimum(np.maximum(speeds_m_s, -_FASTER_M_S), _FASTER_M_S)
    return np.rint(within * limits.counts_per_m_s).astype(np.int64)


def braking_um(speed_um: int, acceleration_um: int) -> int:
    """Return what a winch covers from ``speed_um`` to rest, the period at that speed included, micrometres."""
    whole = speed_um // acceleration_um
    return speed_um * (whole + 1) - acceleration_um * whole * (whole + 1) // 2


def _power_cap(tension_n: Array | None, limits: TickLimits, speed_um: int) -> Any:
    """Fastest speed that the power limit and ``speed_um`` allow, micrometres per period, scalar or (..., 8)."""
    if tension_n is None:
        return min(speed_um, int(limits.power_n_um / limits.tension_max_n))
    tension = np.asarray(tension_n, dtype=float)
    if not np.isfinite(tension).all():
        raise CommandRefused(f"tension_n = {_first_bad(tension)}: must be finite")
    never_binding_n = limits.power_n_um / (2 * limits.speed_max_um)
    fastest = limits.power_n_um / np.maximum(tension, never_binding_n)
    return np.minimum(fastest.astype(np.int64), speed_um)


def _fastest_towards_end(room_um: Counts, limits: TickLimits) -> Counts:
    """Fastest speed from which braking still ends within ``room_um``; 0 where there is no room."""
    index = room_um >> limits.brake_shift if limits.brake_shift else room_um
    return limits.brake_table.take(index, mode="clip")


def _brake_table(speed_um: int, acceleration_um: int, room_um: Counts) -> Counts:
    """Largest u <= speed with ``braking_um(u) <= room``: braking is convex and linear between multiples of a."""
    best = np.full(room_um.shape, speed_um, dtype=np.int64)
    for steps in range(speed_um // acceleration_um + 1):
        np.minimum(best, (room_um + acceleration_um * steps * (steps + 1) // 2) // (steps + 1), out=best)
    return best


def _first_bad(values: Array) -> float:
    return float(values[~np.isfinite(values)].flat[0])


def _floor(value: float) -> int:
    """Whole micrometres in ``value`` metres, forgiving the last bits of a product of decimals."""
    return int(np.floor(value * UM_PER_M + 1e-6))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise MachineFileError(message)


_TOO_SLOW = (
    "limits: speed_normal_m_s or acceleration_max_m_s2 is below one micrometre per period at control.rate_hz = {}"
)
