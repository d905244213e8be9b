"""The gate: the last code before the driver and the only maker of approved commands.

In order of the tick: validate, interlock, limits (:mod:`melter.safety.limiter`), beam, post-condition
(:mod:`melter.safety.verify`), approved command. It starts closed; what it does not understand is a latched
fault; after a fault the only way open is :meth:`Gate.go_dark`. It reads no clock and keeps no thread: the
host's monotonic time is handed in.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import InitVar, dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.errors import CommandRefused
from melter.machine import WINCH_COUNT, Machine
from melter.safety.beam import KeepIn
from melter.safety.interlock import Event, State, next_state
from melter.safety.kinematics import Pose
from melter.safety.limiter import LATE_PERIODS, Counts, TickLimits, limit_command
from melter.safety.lowering import Lowering
from melter.safety.verify import violation

Array = NDArray[np.float64]
Mode = Literal["policy", "jog", "transit"]

_KEY = object()
_EVENTS = {"policy": Event.DRIVE, "jog": Event.DRIVE, "transit": Event.MOVE}

EARLY_PERIODS = 0.5
"""How much of a period a single command may come early; on average none may."""
STALE_PERIODS = 5
"""Age from which a measurement is not believed, in control periods beyond the camera's own delay."""
RECKONING_S = 0.5
"""Longest that a board takes to show a command in its counters (grblHAL stops by itself within 0.37 s)."""
JUMP_M = 0.005
"""Difference between counters and commands that is still noise."""
STANDSTILL_M_S = 0.001
"""Slower than this is at rest."""
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

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.limits = TickLimits.from_machine(machine)
        self.interventions: Counter[str] = Counter()
        """How often each stage stepped in: speed, power, acceleration, length (winches); early, refused, dark."""
        self.fault_reason: str | None = "closed at power-up"
        self._state = State.FAULTED
        self._lowering = Lowering(machine, self.limits)
        self._keep_in = KeepIn(machine)
        self._previous = np.zeros(WINCH_COUNT, dtype=np.int64)
        self._expected: Array | None = None
        self._recent: deque[tuple[float, Counts]] = deque()
        self._travel_um = np.zeros(WINCH_COUNT, dtype=np.int64)
        self._due_s = self._last_s = self._measured_s = -np.inf
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

    def parked(self, lengths_m: ArrayLike) -> bool:
        """Return whether (8,) cable lengths are those of park, to 2 mm, and nothing moves."""
        lengths = np.asarray(lengths_m, dtype=float)
        near = np.abs(lengths - self.park_lengths_m) <= PARKED_M
        return bool(near.all() and not self._previous.any())

    def fault(self, reason: str) -> None:
        """Latch a fault; the first reason since arming is kept. Then only :meth:`go_dark` moves anything."""
        if self._state is not State.FAULTED or self.fault_reason is None:
            self.fault_reason = reason
        self._state = next_state(self._state, Event.FAULT)

    def arm(self, now_host_s: float, lengths_m: ArrayLike, *, speeds_m_s: ArrayLike | None = None) -> None:
        """Open the gate; called by a person's act only.

        ``lengths_m``: (8,) known cable lengths. ``speeds_m_s``: (8,) measured cable speeds, needed where the
        last command was not zero. Raises CommandRefused unless all is at rest, known and within limits.
        """
        lengths = np.array(lengths_m, dtype=float)
        speeds = (
            self.limits.counts_to_m_s(self._previous) if speeds_m_s is None else np.asarray(speeds_m_s, dtype=float)
        )
        if not np.isfinite(now_host_s) or now_host_s < self._last_s:
            raise CommandRefused(f"arm: now_host_s = {now_host_s}: must be finite and not before {self._last_s}")
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
        self._state = next_state(self._state, Event.ARM)
        self.fault_reason = None
        self._previous = np.zeros(WINCH_COUNT, dtype=np.int64)
        self._expected, self._recent, self._pose = lengths, deque(), None
        self._travel_um = np.zeros(WINCH_COUNT, dtype=np.int64)
        self._due_s = self._last_s = self._measured_s = float(now_host_s)

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
        known. ``spot_world_m``: (2,) where light that melts falls, None when nothing melts. ``mode``: "policy"
        and "jog" keep the normal speed, "transit" the maximal one.

        Raises CommandRefused: too early (nothing changes), or for good: not armed, not finite, stale, out of
        range, late, beam out of bounds (a latched fault; :meth:`go_dark` is what may follow).
        """
        self._pace(now_host_s)
        if mode not in _EVENTS:
            raise self._refuse(f"mode = {mode!r}: must be one of {', '.join(_EVENTS)}")
        if self._state in (State.FAULTED, State.PARKED):
            self.interventions["refused"] += 1
            raise CommandRefused(f"gate is {self._state.value}: {self.fault_reason or 'not armed'}")
        requested = self._eight("requested_m_s", requested_m_s)
        tension = None if tension_n is None else self._eight("tension_n", tension_n)
        lengths = self._measured(lengths_m, now_host_s, measured_host_s)
        if spot_world_m is not None and not self._keep_in.holds(spot_world_m):
            raise self._refuse(
                f"spot_world_m = {np.asarray(spot_world_m).tolist()}: outside the keep-in polygon less its margin"
            )
        following = next_state(self._state, _EVENTS[mode])
        if following is State.FAULTED:
            raise self._refuse(f"mode {mode}: not while {self._state.value}")
        speed_um = self.limits.speed_max_um if mode == "transit" else self.limits.speed_normal_um
        counts = limit_command(
            requested, self._previous, self.limits.um(lengths), tension, self.limits, speed_um=speed_um
        )
        self._count_interventions(requested, counts, tension, speed_um)
        command = self._make(counts, lengths, tension, speed_um, now_host_s)
        self._state = following
        return command

    def go_dark(
        self, lengths_m: ArrayLike | None, now_host_s: float, *, tension_n: ArrayLike | None = None
    ) -> ApprovedCommand:
        """Return the next command of the layer's own way to park; the state turns PARKED on arrival.

        ``lengths_m``: (8,) cable lengths as far as known; None, or NaN for a winch, and the sum of what was
        sent stands in. Raises CommandRefused when called too early, or when no lengths were ever known.
        """
        self._pace(now_host_s, dark=True)
        if self._expected is None:
            raise CommandRefused("go_dark: cable lengths were never known; arm first")
        lengths = self._best_lengths(lengths_m)
        tension = self._usable_tension(tension_n)
        self._state = next_state(self._state, Event.DARKEN)
        step = self._lowering.step(lengths, self._previous, tension, self._pose)
        self._pose = step.pose
        self.interventions["dark"] += 1
        command = self._make(step.speeds_um, lengths, tension, self.limits.speed_max_um, now_host_s)
        if self.parked(lengths):
            self._state = next_state(self._state, Event.ARRIVE)
        return command

    def _pace(self, now_host_s: float, *, dark: bool = False) -> None:
        """Refuse a command that is early; latch a fault when the clock runs back or a command comes too late."""
        period_s = self.limits.period_s
        if not np.isfinite(now_host_s) or now_host_s < self._last_s:
            raise self._refuse(f"now_host_s = {now_host_s}: must be finite and not before {self._last_s}")
        if now_host_s < self._due_s - EARLY_PERIODS * period_s:
            self.interventions["early"] += 1
            raise CommandRefused(f"too early: next command at {self._due_s:.3f} s, now {now_host_s:.3f} s (host clock)")
        gap_s = now_host_s - self._last_s
        if not dark and self._previous.any() and gap_s > (1 + LATE_PERIODS) * period_s * (1 + 1e-9):
            raise self._refuse(
                f"late: {gap_s:.3f} s since the last one, at most {(1 + LATE_PERIODS) * period_s:.3f} s while moving"
            )

    def _measured(self, lengths_m: ArrayLike, now_host_s: float, measured_host_s: float) -> Array:
        """Return lengths that are finite, in range, fresh, in order and where the commands led."""
        lengths = self._eight("lengths_m", lengths_m)
        oldest_s = now_host_s - STALE_PERIODS * self.limits.period_s - self.machine.control.camera_delay_s
        if not oldest_s <= measured_host_s <= now_host_s:
            raise self._refuse(
                f"measured_host_s = {measured_host_s}: must lie in {oldest_s:.3f} to {now_host_s:.3f} (stale, or early)"
            )
        if measured_host_s < self._measured_s:
            raise self._refuse(f"measured_host_s = {measured_host_s}: out of order, after {self._measured_s}")
        longest_m = self.machine.limits.cable_length_max_m
        if not ((lengths > 0) & (lengths <= longest_m)).all():
            raise self._refuse(f"lengths_m = {lengths.round(4).tolist()}: must lie in 0 to {longest_m} m")
        self._reckon(lengths, now_host_s)
        self._measured_s = measured_host_s
        return lengths

    def _reckon(self, lengths: Array, now_host_s: float) -> None:
        """Compare the counters with the sum of what was sent; a jump is a fault."""
        if self._expected is None:  # cannot be: every open state has been armed
            raise self._refuse("cable lengths unknown")
        unseen = self._unseen_m(now_host_s)
        difference = lengths - self._expected
        if not (np.abs(difference) <= unseen + JUMP_M).all():
            winch = int(np.argmax(np.abs(difference) - unseen))
            raise self._refuse(
                f"winch {self.machine.winch[winch].name}: counter is {difference[winch] * 1e3:.1f} mm off what was sent"
            )
        self._expected = self._expected + difference / 64

    def _unseen_m(self, now_host_s: float) -> Array:
        """(8,) how far the commands of the last half second lead; counters may not show that yet."""
        while self._recent and self._recent[0][0] <= now_host_s - RECKONING_S:
            self._travel_um -= np.abs(self._recent.popleft()[1])
        return self._travel_um.astype(float) * 1e-6

    def _best_lengths(self, lengths_m: ArrayLike | None) -> Array:
        """Measured lengths where they are plausible, else the sum of what was sent."""
        expected = np.asarray(self._expected)
        if lengths_m is None:
            return expected
        lengths = np.asarray(lengths_m, dtype=float)
        if lengths.shape != (WINCH_COUNT,):
            return expected
        unseen = self._unseen_m(self._last_s)
        astray = (
            ~(np.abs(lengths - expected) <= unseen + JUMP_M)
            & (lengths > 0)
            & (lengths <= self.machine.limits.cable_length_max_m)
        )
        return np.where(astray, lengths, expected)

    def _usable_tension(self, tension_n: ArrayLike | None) -> Array | None:
        """Tensions with the largest allowed one for what is not a number."""
        if tension_n is None:
            return None
        tension = np.asarray(tension_n, dtype=float)
        if tension.shape != (WINCH_COUNT,):
            return None
        return np.where(np.isfinite(tension), tension, self.limits.tension_max_n)

    def _make(
        self, counts: Counts, lengths: Array, tension: Array | None, speed_um: int, now_host_s: float
    ) -> ApprovedCommand:
        """Check the post-condition and make the command."""
        limits = self.limits
        tensions = None if tension is None else tension.tolist()
        wrong = violation(
            counts.tolist(), self._previous.tolist(), limits.um(lengths).tolist(), tensions, limits, speed_um
        )
        if wrong:
            raise self._refuse(f"post-condition: {wrong}")
        self._due_s = max(self._due_s, now_host_s) + limits.period_s
        self._last_s = now_host_s
        self._previous = counts
        self._recent.append((now_host_s, counts))
        self._travel_um += np.abs(counts)
        self._expected = self._expected + counts * 1e-6 if self._expected is not None else None
        self._sequence += 1
        return ApprovedCommand(limits.counts_to_m_s(counts), counts, limits.period_s, now_host_s, self._sequence, _KEY)

    def _count_interventions(self, requested: Array, counts: Counts, tension: Array | None, speed_um: int) -> None:
        limits = self.limits
        wanted = requested * (limits.period_s * 1e6)
        changed = np.abs(wanted - counts) > 0.5 + 1e-6
        if not changed.any():
            return
        speed = changed & (np.abs(wanted) > speed_um)
        heaviest = limits.tension_max_n if tension is None else tension
        power = changed & ~speed & (np.abs(wanted) * heaviest > limits.power_n_um)
        acceleration = changed & ~speed & ~power & (np.abs(wanted - self._previous) > limits.acceleration_um)
        length = changed & ~speed & ~power & ~acceleration
        for name, stage in (("speed", speed), ("power", power), ("acceleration", acceleration), ("length", length)):
            self.interventions[name] += int(stage.sum())

    def _eight(self, name: str, values: ArrayLike) -> Array:
        array = np.asarray(values, dtype=float)
        if array.shape != (WINCH_COUNT,) or not np.isfinite(array).all():
            raise self._refuse(f"{name} = {array.tolist()}: must be eight finite numbers")
        return array

    def _refuse(self, reason: str) -> CommandRefused:
        """Latch a fault and return the error to raise."""
        self.interventions["refused"] += 1
        self.fault(reason)
        return CommandRefused(reason)


_ARMABLE = {(State.FAULTED, Event.ARM), (State.PARKED, Event.ARM)}
