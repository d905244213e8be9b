"""One session: from park into work, along the path under a policy, and back to dark, whatever happens.

Every command goes through the gate. A fault anywhere ends in the gate's own way to dark; only when the link
itself is gone is that out of reach, and then the session says so.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from melter.errors import CommandRefused, Fault, VisionFault
from melter.geometry.paths import SandPath
from melter.geometry.pose import sun_direction_world
from melter.loop.recorder import Recorder
from melter.loop.transit import Transit
from melter.machine import WINCH_COUNT, Machine
from melter.observation import COMMANDS_KEPT, LOOK_AHEAD_S, Memory, ObservationBuilder, Plan
from melter.robot import Reading, Robot
from melter.safety.gate import ApprovedCommand, Gate
from melter.safety.interlock import State

Array = NDArray[np.float64]
Act = Callable[[NDArray[np.float32]], NDArray[np.float32]]

SETTLE_S = 3.0
"""Time at the path's start before it begins."""
UNSEEN_S = 0.6
"""Without a patch for this long in work: a fault."""
DARK_TIMEOUT_S = 60.0
LINK_TRIES = 5
FIRST_REPORT_S = 1.0
"""Longest wait for new counters before and after arming."""
LATE_SHARE = 0.3
"""The schedule moves back when a command comes later than this share of a period, or the next would be early."""
STRAY_M = 0.040
"""Counted cable lengths this far from the reference for the target: the policy has lost its way."""


class Clock(Protocol):
    """Time for the loop; tests and fast rehearsals bring their own."""

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    def sleep_until(self, at_s: float) -> None:
        """Return at ``at_s`` or at once when it has passed."""
        ...


class HostClock:
    """The host's monotonic clock."""

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def sleep_until(self, at_s: float) -> None:
        """Sleep till then."""
        time.sleep(max(0.0, at_s - time.monotonic()))


@dataclass
class Result:
    """What a session gave."""

    errors_mm: list[float] = field(default_factory=list)
    """Spot against target at the same instant, as the camera saw it, after settling."""
    ticks: int = 0
    late: int = 0
    faults: list[str] = field(default_factory=list)
    dark: bool = False
    """Whether the lens was brought to park."""
    finished: bool = False
    """Whether the path was travelled to its end, or the time was up."""


class Session:
    """Drives one robot along one path."""

    def __init__(
        self,
        machine: Machine,
        robot: Robot,
        gate: Gate,
        act: Act,
        path: SandPath,
        recorder: Recorder,
        *,
        sun_rad: tuple[float, float],
        clock: Clock | None = None,
        on_tick: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        self.machine, self.robot, self.gate, self.path, self.recorder = machine, robot, gate, path, recorder
        self._act, self._clock, self._on_tick, self._sun_rad = act, clock or HostClock(), on_tick, sun_rad
        self._builder = ObservationBuilder(machine)
        self._reference = self._builder.reference(np.array(sun_rad[0]), np.array(sun_rad[1]))
        self._commands = np.zeros((COMMANDS_KEPT, WINCH_COUNT))
        self._memory = Memory.empty()
        self._commanded_m = gate.park_lengths_m.copy()
        self._next_s = 0.0
        self._unseen_since_s: float | None = None
        self.result = Result()

    def run(self, max_s: float | None = None) -> Result:
        """Arm, work, go dark. Whatever goes wrong is a fault that ends in the dark; so does KeyboardInterrupt, raised again."""
        try:
            self._begin()
            self._go_to_work()
            self._follow(max_s)
            self.result.finished = True
        except (Fault, CommandRefused) as error:
            self._note_fault(error)
        except Exception as error:  # a policy, a disk, a terminal: no reason to leave the light where it is
            self._note_fault(error)
            self._record("event", event="unexpected", traceback=traceback.format_exc())
        except BaseException:
            self._record("event", event="interrupted")
            self._go_dark()
            raise
        self._go_dark()
        return self.result

    # -- phases ---------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        first = self.robot.measure()
        reading = self._newer_than(first.lengths_host_s)
        moved_m, passed_s = reading.lengths_m - first.lengths_m, reading.lengths_host_s - first.lengths_host_s
        if not self.gate.parked(reading.lengths_m):
            raise CommandRefused("not at park, where a session begins; bring the lens there (melter hw jog)")
        speeds = moved_m / passed_s if passed_s > 0 else np.full(WINCH_COUNT, np.nan)
        self._next_s = self._clock.now()
        sun = sun_direction_world(*self._sun_rad)
        self.gate.arm(self._next_s, reading.lengths_m, speeds_m_s=speeds, sun_world=sun)
        self.recorder.write("event", event="armed", lengths_m=reading.lengths_m)
        self._newer_than(self._next_s)
        self._next_s = self._clock.now()

    def _newer_than(self, host_s: float) -> Reading:
        """Return a reading whose counters were read after ``host_s``, or the newest one when none comes in time."""
        give_up_s = self._clock.now() + FIRST_REPORT_S
        reading = self.robot.measure()
        while reading.lengths_host_s <= host_s and self._clock.now() < give_up_s:
            self._clock.sleep_until(self._clock.now() + 0.1 * self.machine.control.period_s)
            reading = self.robot.measure()
        return reading

    def _go_to_work(self) -> None:
        transit = Transit(self.machine, self._sun_rad, self.path.points_world_m[0], self.gate.park_lengths_m)
        self.recorder.write("event", event="transit", duration_s=transit.duration_s)
        period_s, start_s = self.machine.control.period_s, self._next_s
        while self._next_s - start_s < transit.duration_s + 0.5:
            wanted = transit.lengths_m(self._next_s + period_s - start_s)
            self._tick("transit", lambda _, __, wanted=wanted: (wanted - self._commanded_m) / period_s)

    def _follow(self, max_s: float | None) -> None:
        self.recorder.write("event", event="work")
        begin_s = self._next_s + SETTLE_S
        end_s = begin_s + min(self.path.duration_s, np.inf if max_s is None else max_s)
        self._unseen_since_s = None
        while self._next_s < end_s:
            self._tick("policy", lambda reading, now_s: self._policy(reading, now_s - begin_s))

    def _policy(self, reading: Reading, t_s: float) -> Array:
        plan = self._plan(t_s, float(reading.measurement.patch_age_s))
        self._require_near(reading, plan)
        observation = self._builder.build(reading.measurement, plan, self._commands, self._reference, self._memory)
        action = self._act(observation[None])[0].astype(float)
        if reading.measurement.patch_seen and t_s > 0:
            error = plan.target_at_capture_world_m - reading.measurement.patch_centre_world_m
            self.result.errors_mm.append(float(np.hypot(*error)) * 1e3)
        self._extra = {"t_s": t_s, "target_world_m": plan.target_world_m, "observation": observation, "action": action}
        return action * self.machine.limits.speed_normal_m_s

    def _plan(self, t_s: float, age_s: float) -> Plan:
        times = np.array([t_s, t_s - age_s, *(t_s + ahead for ahead in LOOK_AHEAD_S)])
        targets = self.path.target_world_m(times)
        return Plan(targets[0], targets[1], targets[2:])

    def _go_dark(self) -> None:
        """The gate's own way to park; tried again through broken links, given up when they stay broken."""
        if self.gate.state is State.FAULTED and self.result.ticks == 0:
            lengths = self.robot.lengths_m()
            self.result.dark = lengths is None or self.gate.parked(lengths)  # nothing has moved
            return
        self._record("event", event="dark")
        period_s, tries = self.machine.control.period_s, 0
        give_up_s = self._clock.now() + DARK_TIMEOUT_S
        self._next_s = self._clock.now()
        while self.gate.state is not State.PARKED and self._clock.now() < give_up_s and tries < LINK_TRIES:
            try:
                self._next_s = max(self._next_s + period_s, self._clock.now())
                self._clock.sleep_until(self._next_s)
                command = self.gate.go_dark(self.robot.lengths_m(), self._clock.now())
                self._send(command, {"mode": "dark"})
            except (CommandRefused, KeyboardInterrupt):  # asked again to stop: the way to dark is how it stops
                continue
            except Fault as error:
                tries += 1
                self._note_fault(error)
                try:
                    self.robot.recover()
                except Fault as worse:
                    self._note_fault(worse)
        self.result.dark = self.gate.state is State.PARKED
        try:
            self.robot.stop()
        except Fault as error:
            self._note_fault(error)
        self._record("event", event="parked" if self.result.dark else "not dark")

    # -- one tick -------------------------------------------------------------------------------------------------

    def _tick(self, mode: Any, request: Callable[[Reading, float], Array]) -> None:
        """Wait for the next tick, then measure, observe, act, approve, send."""
        self._clock.sleep_until(self._next_s)
        now_s, period_s = self._clock.now(), self.machine.control.period_s
        if now_s - self._next_s > 0.5 * period_s:
            self.result.late += 1
            self._next_s = now_s
        reading = self.robot.measure()
        self._extra: dict[str, Any] = {}
        requested = request(reading, now_s)
        melting = mode == "policy" and bool(reading.measurement.patch_seen)
        if mode == "policy":
            self._require_sight(melting, now_s)
        spot = reading.measurement.patch_centre_world_m if melting else None
        try:
            command = self.gate.approve(
                requested,
                reading.lengths_m,
                self._clock.now(),
                measured_host_s=reading.lengths_host_s,
                spot_world_m=spot,
                mode=mode,
            )
        except CommandRefused:
            if self.gate.state is State.FAULTED:
                raise
            self.result.late += 1  # the gate asks for the next tick
            self._next_s += period_s
            return
        self._next_s = max(self._next_s, command.approved_host_s - LATE_SHARE * period_s)
        self._send(command, {"mode": mode, "requested_m_s": requested, **_seen(reading), **self._extra})
        self.result.ticks += 1
        self._next_s += period_s

    def _send(self, command: ApprovedCommand, fields: dict[str, Any]) -> None:
        """Record the approval, then send: what reaches the port has its approval before it."""
        dark = fields["mode"] == "dark"
        (self._record if dark else self.recorder.write)(
            "tick",
            sequence=command.sequence,
            approved_host_s=command.approved_host_s,
            approved_m_s=command.speeds_m_s,
            **fields,
        )
        self.robot.send(command)
        self._commands = np.concatenate([command.speeds_m_s[None], self._commands[:-1]])
        self._commanded_m = self._commanded_m + command.counts_um * 1e-6
        try:
            self._on_tick({"state": self.gate.state.value, "errors_mm": self.result.errors_mm, **fields})
        except Exception:
            if not dark:
                raise

    def _record(self, kind: str, **fields: Any) -> None:
        """Record where it can be: the way to dark does not wait for a disk."""
        with contextlib.suppress(OSError):
            self.recorder.write(kind, **fields)

    def _require_sight(self, seen: bool, now_s: float) -> None:
        if seen:
            self._unseen_since_s = None
        elif self._unseen_since_s is None:
            self._unseen_since_s = now_s
        elif now_s - self._unseen_since_s > UNSEEN_S:
            raise VisionFault(f"light patch not seen for {now_s - self._unseen_since_s:.1f} s (limit {UNSEEN_S} s)")

    def _require_near(self, reading: Reading, plan: Plan) -> None:
        astray = reading.measurement.cable_length_m - self._builder.reference_lengths_m(
            plan.target_world_m, self._reference
        )
        if np.abs(astray).max() > STRAY_M:
            winch = self.machine.winch[int(np.abs(astray).argmax())].name
            raise CommandRefused(
                f"winch {winch}: cable {np.abs(astray).max() * 1e3:.0f} mm from its reference for the target (limit {STRAY_M * 1e3:.0f} mm)"
            )

    def _note_fault(self, error: Exception) -> None:
        self.gate.fault(str(error))
        self.result.faults.append(f"{type(error).__name__}: {error}")
        self._record("fault", fault=type(error).__name__, reason=str(error))


def _seen(reading: Reading) -> dict[str, Any]:
    """What a recording keeps of a reading."""
    fields: dict[str, Any] = {"lengths_m": reading.lengths_m, "lengths_host_s": reading.lengths_host_s}
    patch = reading.patch
    if patch is not None:
        fields |= {
            "patch_status": patch.status,
            "patch_captured_host_s": patch.captured_host_s,
            "patch_centre_m": patch.centre_world_m,
            "patch_semi_axes_m": patch.semi_axes_m,
            "patch_angle_rad": patch.angle_rad,
            "frame": patch.frame,
        }
    return fields
