"""The gate: the last code before the driver and the only maker of approved commands.

In order of the tick: validate, interlock, limits (:mod:`melter.safety.limiter`), beam (:mod:`melter.safety.beam`),
post-condition (:mod:`melter.safety.verify`), approved command. It starts closed; what it does not understand is a latched
fault; after a fault the only way open is :meth:`Gate.go_dark`. It reads no clock and keeps no thread: the
host's monotonic time is handed in.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import InitVar, dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.errors import BadInput, CommandRefused
from melter.geometry.sun import SKY_RAD_S
from melter.machine import WINCH_COUNT, Machine
from melter.safety.beam import Beam, KeepIn, Light
from melter.safety.interlock import Event, State, next_state
from melter.safety.kinematics import Pose
from melter.safety.limiter import (
    LATE_PERIODS,
    UM_PER_M,
    Counts,
    TickLimits,
    braking_um,
    limit_command,
    limit_far_from_ends,
)
from melter.safety.lowering import Lowering
from melter.safety.pace import Pace
from melter.safety.reckoning import Reckoning
from melter.safety.verify import violation

Array = NDArray[np.float64]
Mode = Literal["policy", "jog", "transit"]

_KEY = object()
_EVENTS = {"policy": Event.DRIVE, "jog": Event.DRIVE, "transit": Event.MOVE}

STALE_PERIODS = 5
"""Age from which a measurement is not believed, in control periods beyond the camera's own delay."""
STANDSTILL_M_S = 0.001
"""Slower than this is at rest."""
_FASTEST_FACTOR = 4.0
"""No driver that makes up for delays faster than this is trusted."""
SUN_FASTER, SUN_OFF_RAD = 1.33, math.radians(0.25)
"""How much faster than the sky, and how far off, the sun may be said to go after arming."""
PARKED_M = 0.002
"""Cable lengths within this of park are parked."""


@dataclass(frozen=True, eq=False)
class ApprovedCommand:
    """Eight cable speeds that passed the gate. Only the gate can make one."""

    speeds_m_s: Array
    """(8,) cable speeds, positive pays out; read only."""
    counts_um: Counts
    """(8,) the same in whole micrometres per period; read only."""
    period_s: float
    """How long the command is meant to act."""
    approved_host_s: float
    """Host's monotonic clock."""
    sequence: int
    """Counts up with each command of one gate."""
    key: InitVar[object] = None

    def __post_init__(self, key: object) -> None:
        if key is not _KEY:
            raise CommandRefused("ApprovedCommand: only the gate makes one")
        for array in (self.speeds_m_s, self.counts_um):
            array.setflags(write=False)


class Gate:
    """One machine's gate. Not safe for use from several threads."""

    def __init__(self, machine: Machine, *, speed_factor: float = 1.0) -> None:
        """``speed_factor``: the motor driver's promise, how many times as fast as approved it may turn a winch to make
        up for delays. Raises MachineFileError for limits that contradict each other, BadInput for no such factor.
        """
        if not 1.0 <= speed_factor <= _FASTEST_FACTOR:
            raise BadInput(f"speed_factor = {speed_factor}: must lie in 1 to {_FASTEST_FACTOR:g}")
        self.machine = machine
        self.limits = TickLimits.from_machine(machine, speed_factor)
        self.interventions: Counter[str] = Counter()
        """How often each stage stepped in: speed, power, total power, acceleration, length (winches); early, beam,
        refused, dark."""
        self.fault_reason: str | None = "closed at power-up"
        self._state = State.FAULTED
        self._lowering = Lowering(machine, self.limits)
        reach_um = self.limits.reach_um if self.limits.power_is_for_all else self.limits.length_max_um
        self._far_um = self.limits.length_min_um + reach_um, self.limits.length_max_um - reach_um
        self._keep_in = KeepIn(machine, speed_factor)
        self._beam = Beam(machine, self._keep_in)
        self._armed_s, self._armed_sun = -math.inf, self._beam.sun_world
        self._previous = np.zeros(WINCH_COUNT, dtype=np.int64)
        self._moving = False
        self._reckoning: Reckoning | None = None
        self._pace, self._measured_s = Pace(self.limits.period_s, LATE_PERIODS), -math.inf
        self._pose: Pose | None = None
        self._sequence = 0

    @property
    def state(self) -> State:
        """Where the interlock stands."""
        return self._state

    @property
    def park_lengths_m(self) -> Array:
        """(8,) stress-free cable lengths at park, where the controller's counters are zero; read only."""
        return self._lowering.kinematics.park_lengths_m

    @property
    def light(self) -> Light | None:
        """What the light does, as last worked out from the cable lengths; None before, and where they fit no pose."""
        return self._beam.light

    def parked(self, lengths_m: ArrayLike) -> bool:
        """Return whether (8,) cable lengths are those of park, to 2 mm, and nothing moves."""
        lengths = np.asarray(lengths_m, dtype=float)
        near = np.abs(lengths - self.park_lengths_m) <= PARKED_M
        return bool(near.all()) and not self._moving

    def fault(self, reason: str) -> None:
        """Latch a fault; the first reason since arming is kept. Then only :meth:`go_dark` moves anything."""
        if self.fault_reason is None:
            self.fault_reason = reason
        self._state = next_state(self._state, Event.FAULT)

    def arm(
        self,
        now_host_s: float,
        lengths_m: ArrayLike,
        *,
        speeds_m_s: ArrayLike | None = None,
        sun_world: ArrayLike | None = None,
    ) -> None:
        """Open the gate; called by a person's act only.

        ``lengths_m``: (8,) known cable lengths. ``speeds_m_s``: (8,) measured cable speeds, needed where the
        last command was not zero. ``sun_world``: (3,) unit vector to the sun; without it, the machine file's.
        Raises CommandRefused unless all is at rest, known and within limits.
        """
        lengths = np.array(lengths_m, dtype=float)
        speeds = (
            self.limits.counts_to_m_s(self._previous) if speeds_m_s is None else np.asarray(speeds_m_s, dtype=float)
        )
        if self._pace.runs_back(now_host_s):
            raise CommandRefused(f"arm: now_host_s = {now_host_s}: must be finite and not before {self._pace.last_s}")
        if lengths.shape != (WINCH_COUNT,) or not np.isfinite(lengths).all():
            raise CommandRefused("arm: lengths_m must be eight finite numbers of metres")
        if speeds.shape != (WINCH_COUNT,) or not (np.abs(speeds) <= STANDSTILL_M_S).all():
            raise CommandRefused(
                f"arm: speeds_m_s = {speeds.tolist()}: must be eight within ±{STANDSTILL_M_S} (at rest)"
            )
        counts = self.limits.um(lengths)
        if not ((counts >= self.limits.length_min_um) & (counts <= self.limits.length_max_um)).all():
            low, high = self.limits.length_min_um * 1e-6, self.limits.length_max_um * 1e-6
            raise CommandRefused(f"arm: lengths_m = {lengths.round(4).tolist()}: must lie in {low:.4f} to {high:.4f} m")
        if (self._state, Event.ARM) not in _ARMABLE:
            raise CommandRefused(f"arm: the gate is {self._state.value}, must be faulted or parked")
        if sun_world is not None:
            self._beam.point_at(sun_world)
        self._beam.forget()
        self._state = next_state(self._state, Event.ARM)
        self.fault_reason = None
        self._previous, self._moving, self._pose = np.zeros(WINCH_COUNT, dtype=np.int64), False, None
        self._reckoning = Reckoning(self.machine, lengths)
        self._pace.start(now_host_s)
        self._measured_s = self._armed_s = self._pace.last_s
        self._armed_sun = self._beam.sun_world

    def follow_sun(self, sun_world: ArrayLike, now_host_s: float) -> None:
        """Take (3,) as the direction to the sun from now on. Raises CommandRefused, and latches it, for one that cannot have got there.

        Since the gate was armed the sun has gone no faster than the sky turns; what is asked for may be a third faster, and a
        quarter of a degree off.
        """
        sun, passed_s = np.asarray(sun_world, dtype=float), max(now_host_s - self._armed_s, 0.0)
        most_rad = SUN_FASTER * SKY_RAD_S * passed_s + SUN_OFF_RAD
        if sun.shape != (3,) or not float(np.linalg.norm(sun - self._armed_sun)) <= most_rad:
            raise self._refuse(
                f"sun_world = {sun.round(4).tolist()}: more than {math.degrees(most_rad):.2f} deg from where it was at arming"
            )
        self._beam.point_at(sun)

    def approve(
        self,
        requested_m_s: ArrayLike,
        lengths_m: ArrayLike,
        now_host_s: float,
        *,
        measured_host_s: float,
        tension_n: ArrayLike | None = None,
        spot_world_m: ArrayLike | None = None,
        mode: Mode = "policy",
    ) -> ApprovedCommand:
        """Return the command nearest to (8,) ``requested_m_s`` that keeps every limit.

        ``lengths_m``: (8,) stress-free cable out, measured at ``measured_host_s``. ``tension_n``: (8,) where
        known. ``spot_world_m``: (2,) where light that melts is seen, None when none is. ``mode``: "policy"
        and "jog" keep the normal speed, "transit" the maximal one; in "jog" a lens whose pose the cable lengths do
        not tell may be moved too.

        Raises CommandRefused: too early (nothing changes), or for good: not armed, not finite, stale, out of
        range, late, beam out of bounds (a latched fault; :meth:`go_dark` is what may follow).
        """
        self._keep_pace(now_host_s, dark=False)
        event = _EVENTS.get(mode)
        if event is None:
            raise self._refuse(f"mode = {mode!r}: must be one of {', '.join(_EVENTS)}")
        reckoning = self._reckoning
        if self._state in _CLOSED or reckoning is None:
            self.interventions["refused"] += 1
            raise CommandRefused(f"gate is {self._state.value}: {self.fault_reason or 'not armed'}")
        requested = self._eight("requested_m_s", requested_m_s)
        tension = None if tension_n is None else self._tension(tension_n)
        lengths = self._measured(lengths_m, now_host_s, measured_host_s, reckoning)
        following = next_state(self._state, event)
        if following is State.FAULTED:
            raise self._refuse(f"mode {mode}: not while {self._state.value}")
        self._look(lengths, now_host_s, spot_world_m, mode)
        speed_um = self.limits.speed_max_um if mode == "transit" else self.limits.speed_normal_um
        length_um = [round(length * UM_PER_M) for length in lengths.tolist()]
        counts = self._limited(requested, length_um, tension, speed_um)
        listed = counts.tolist()
        self._count_interventions(requested.tolist(), listed, tension, speed_um)
        self._require_beam(self._beam.stop_outside(reckoning.sent_m, self._stopping(listed)))
        command = self._make(counts, listed, length_um, tension, speed_um, now_host_s, reckoning)
        self._state = following
        return command

    def go_dark(
        self, lengths_m: ArrayLike | None, now_host_s: float, *, tension_n: ArrayLike | None = None
    ) -> ApprovedCommand:
        """Return the next command of the layer's own way to park; the state turns PARKED on arrival.

        ``lengths_m``: (8,) cable lengths as far as known; None, or NaN for a winch, and the sum of what was
        sent stands in. Raises CommandRefused when called too early, or when no lengths were ever known.
        """
        self._keep_pace(now_host_s, dark=True)
        if self._reckoning is None:
            raise CommandRefused("go_dark: cable lengths were never known; arm first")
        lengths = self._reckoning.best_m(lengths_m, now_host_s)
        tension = self._usable_tension(tension_n)
        self._state = next_state(self._state, Event.DARKEN)
        step = self._lowering.step(lengths, self._previous, tension, self._pose)
        self._pose = step.pose
        self.interventions["dark"] += 1
        counts, length_um = step.speeds_um, self.limits.um(lengths).tolist()
        command = self._make(
            counts, counts.tolist(), length_um, tension, self.limits.speed_max_um, now_host_s, self._reckoning
        )
        if self.parked(lengths):
            self._state = next_state(self._state, Event.ARRIVE)
        return command

    def _keep_pace(self, now_host_s: float, *, dark: bool) -> None:
        """Refuse a command that is early; latch a fault when the clock runs back or a command comes too late."""
        pace = self._pace
        if pace.runs_back(now_host_s):
            reason = f"now_host_s = {now_host_s}: must be finite and not before {pace.last_s}"
            if pace.rebase(now_host_s) and self._reckoning is not None:
                self._reckoning.rebase(pace.last_s)
            raise self._refuse(reason)
        if (early := pace.early(now_host_s)) is not None:
            self.interventions["early"] += 1
            raise CommandRefused(early)
        if not dark and self._moving and pace.late(now_host_s) is not None:
            share = float(np.abs(self._previous).max()) / self.limits.speed_max_um
            if (late := pace.late(now_host_s, share)) is not None:
                raise self._refuse(late)

    def _measured(self, lengths_m: ArrayLike, now_host_s: float, measured_host_s: float, reckoning: Reckoning) -> Array:
        """Return lengths that are finite, in range, fresh, in order and where the commands led."""
        lengths = self._eight("lengths_m", lengths_m)
        oldest_s = now_host_s - STALE_PERIODS * self.limits.period_s - self.machine.control.camera_delay_s
        if not oldest_s <= measured_host_s <= now_host_s:
            raise self._refuse(
                f"measured_host_s = {measured_host_s}: must lie in {oldest_s:.3f} to {now_host_s:.3f} (stale, or early)"
            )
        if measured_host_s < self._measured_s:
            raise self._refuse(f"measured_host_s = {measured_host_s}: out of order, after {self._measured_s}")
        listed, longest_m = lengths.tolist(), self.machine.limits.cable_length_max_m
        if not (min(listed) > 0 and max(listed) <= longest_m):
            raise self._refuse(f"lengths_m = {lengths.round(4).tolist()}: must lie in 0 to {longest_m} m")
        wrong = reckoning.compare(listed, now_host_s)
        if wrong is not None:
            raise self._refuse(wrong)
        self._measured_s = measured_host_s
        return lengths

    def _limited(self, requested: Array, length_um: list[int], tension: Array | None, speed_um: int) -> Counts:
        """The limiter, in its short form where that gives the same."""
        shortest, longest = self._far_um
        if tension is None and shortest < min(length_um) and max(length_um) < longest:
            return np.array(limit_far_from_ends(requested.tolist(), self._previous.tolist(), self.limits, speed_um))
        lengths = np.array(length_um, dtype=np.int64)
        return limit_command(requested, self._previous, lengths, tension, self.limits, speed_um=speed_um)

    def _look(self, lengths: Array, now_host_s: float, spot_world_m: ArrayLike | None, mode: Mode) -> None:
        """Refuse a beam out of bounds, as the camera sees it and as the cable lengths tell it."""
        if self._beam.due(now_host_s):
            wrong = self._beam.look(lengths, now_host_s)
            self._require_beam(None if mode == "jog" and self._beam.light is None else wrong)
            if spot_world_m is not None and self._keep_in.holds(spot_world_m):
                self._require_beam(self._beam.disagrees(np.asarray(spot_world_m).tolist()))
        if spot_world_m is not None and not self._keep_in.holds(spot_world_m):
            spot = np.asarray(spot_world_m).tolist()
            self._require_beam(f"spot_world_m = {spot}: outside the keep-in polygon less its margin")

    def _require_beam(self, wrong: str | None) -> None:
        if wrong is not None:
            self.interventions["beam"] += 1
            raise self._refuse(wrong)

    def _stopping(self, counts: list[int]) -> list[int]:
        """What each winch covers from these speeds to rest, the period at them included, micrometres."""
        step = self.limits.acceleration_um
        if max(counts) <= step and min(counts) >= -step:
            return counts
        return [braking_um(abs(c), step) * (1 if c > 0 else -1) for c in counts]

    def _tension(self, tension_n: ArrayLike) -> Array:
        """Tensions that are finite and within the trip limit."""
        tension = self._eight("tension_n", tension_n)
        trip_n = self.machine.limits.tension_trip_n
        if not (np.abs(tension) <= trip_n).all():
            winch = int(np.argmax(np.abs(tension)))
            raise self._refuse(
                f"tension_n of winch {self._name(winch)} = {tension[winch]:.0f} N: trips at {trip_n:g} N"
            )
        return tension

    def _usable_tension(self, tension_n: ArrayLike | None) -> Array | None:
        """Tensions with the largest allowed one for what is not a number."""
        if tension_n is None:
            return None
        tension = np.asarray(tension_n, dtype=float)
        if tension.shape != (WINCH_COUNT,):
            return None
        return np.where(np.isfinite(tension), tension, self.limits.tension_max_n)

    def _make(
        self,
        counts: Counts,
        listed: list[int],
        length_um: list[int],
        tension: Array | None,
        speed_um: int,
        now_host_s: float,
        reckoning: Reckoning,
    ) -> ApprovedCommand:
        """Check the post-condition and make the command."""
        limits = self.limits
        tensions = None if tension is None else tension.tolist()
        wrong = violation(listed, self._previous.tolist(), length_um, tensions, limits, speed_um)
        if wrong:
            raise self._refuse(f"post-condition: {wrong}")
        self._pace.sent(now_host_s)
        self._previous, self._moving = counts, any(listed)
        reckoning.add(counts, listed, now_host_s)
        self._sequence += 1
        return ApprovedCommand(limits.counts_to_m_s(counts), counts, limits.period_s, now_host_s, self._sequence, _KEY)

    def _count_interventions(
        self, requested: list[float], counts: list[int], tension: Array | None, speed_um: int
    ) -> None:
        """Book each winch whose request was changed on the first stage that explains it."""
        limits, step = self.limits, self.limits.acceleration_um
        tensions = [limits.tension_max_n] * WINCH_COUNT if tension is None else tension.tolist()
        total: bool | None = None
        for winch, (request, count, previous) in enumerate(
            zip(requested, counts, self._previous.tolist(), strict=True)
        ):
            wanted = request * limits.counts_per_m_s
            if -0.500001 <= wanted - count <= 0.500001:
                continue
            if total is None:
                total = (
                    sum(abs(r) * t for r, t in zip(requested, tensions, strict=True))
                    > self.machine.limits.power_total_w
                )
            if abs(wanted) > speed_um:
                stage = "speed"
            elif abs(wanted) * tensions[winch] > limits.power_n_um:
                stage = "power"
            elif abs(wanted - previous) > step:
                stage = "acceleration"
            else:
                stage = "total power" if total else "length"
            self.interventions[stage] += 1

    def _name(self, winch: int) -> str:
        return self.machine.winch[winch].name

    def _eight(self, name: str, values: ArrayLike) -> Array:
        array = np.asarray(values, dtype=float)
        if array.shape != (WINCH_COUNT,) or not all(map(math.isfinite, array.tolist())):
            raise self._refuse(f"{name} = {array.tolist()}: must be eight finite numbers")
        return array

    def _refuse(self, reason: str) -> CommandRefused:
        """Latch a fault and return the error to raise."""
        self.interventions["refused"] += 1
        self.fault(reason)
        return CommandRefused(reason)


_ARMABLE = {(State.FAULTED, Event.ARM), (State.PARKED, Event.ARM)}
_CLOSED = (State.FAULTED, State.PARKED)
