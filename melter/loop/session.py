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
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from melter.errors import CommandRefused, Fault
from melter.geometry.paths import SandPath
from melter.loop.pole import ANYWHERE_WORLD, PoleFinder
from melter.loop.recorder import Recorder
from melter.loop.shadow import Shadow
from melter.loop.sight import Sight
from melter.loop.sun import Sun
from melter.loop.timing import Timing
from melter.loop.transit import Transit
from melter.machine import WINCH_COUNT, Machine
from melter.observation import COMMANDS_KEPT, LOOK_AHEAD_S, Measurement, Memory, ObservationBuilder, Plan
from melter.robot import Reading, Robot
from melter.safety.gate import ApprovedCommand, Gate
from melter.safety.interlock import State

Array = NDArray[np.float64]
Act = Callable[[NDArray[np.float32]], NDArray[np.float32]]

SETTLE_S = 3.0
"""Time at the path's start before it begins."""
DARK_TIMEOUT_S = 60.0
LINK_TRIES = 5
ARRIVE_S, ARRIVED_M = 1.0, 0.0005
"""After the last command to park, the winches are given so long to get there, and count as there from here on."""
FIRST_REPORT_S = 1.0
"""Longest wait for new counters before and after arming."""
LATE_SHARE = 0.3
"""The schedule moves back when a command comes later than this share of a period, or the next would be early."""
OVERSLEPT_PERIODS = 2
"""Where the computer stood still for longer, counters from before that are too old, and new ones are waited for."""
SUN_TOLD_S = 5.0
"""The gate is told this often where the sun is."""
STRAY_M = 0.040
"""Counted cable lengths this far from the reference for the target: the policy has lost its way."""


ERRORS_KEPT = 72_000
"""An hour at 20 Hz; beyond it the older half is forgotten."""
Word = Literal["pause", "resume", "stop", "mark"]


class Hands(Protocol):
    """Whoever may ask for something while the session runs."""

    def ask(self) -> Word | None:
        """Return the next word asked for, or None; never waits."""
        ...


class Learner(Protocol):
    """Whoever learns while the session runs; both calls are part of the tick and must be quick."""

    share: float
    """How far what was learnt is used now, 0 to 1."""

    def move(self, plan: Plan, measurement: Measurement) -> tuple[Plan, Measurement]:
        """Return plan and measurement as the policy is to see them."""
        ...

    def learn(self, memory: Memory, measurement: Measurement, captured_s: float) -> None:
        """Take in a tick: the observation's memory, the measurement as it was, and when its frame was captured."""
        ...


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
    """Spot against target at the same instant, as the camera saw it, after settling; the newest :data:`ERRORS_KEPT`."""
    ticks: int = 0
    late: int = 0
    faults: list[str] = field(default_factory=list)
    dark: bool = False
    """Whether the lens was brought to park."""
    finished: bool = False
    """Whether the path was travelled to its end, or the time was up."""
    stopped: bool = False
    """Whether a person asked to stop before."""
    pauses: int = 0

    errors_xy_mm: list[tuple[float, float]] = field(default_factory=list)
    """The same along world x and y."""
    speeds_mm_s: list[tuple[float, float]] = field(default_factory=list)
    """Velocity of the target at each of them, world x and y: what an error of the camera's delay has to do with it."""

    def note_error(self, error_m: Array, velocity_m_s: Array) -> None:
        """Take in one more error (2,) and the target's velocity (2,), forgetting the oldest."""
        self.speeds_mm_s.append((float(velocity_m_s[0]) * 1e3, float(velocity_m_s[1]) * 1e3))
        x_mm, y_mm = float(error_m[0]) * 1e3, float(error_m[1]) * 1e3
        self.errors_mm.append(float(np.hypot(x_mm, y_mm)))
        self.errors_xy_mm.append((x_mm, y_mm))
        if len(self.errors_mm) > ERRORS_KEPT:
            for kept in (self.errors_mm, self.errors_xy_mm, self.speeds_mm_s):
                del kept[: ERRORS_KEPT // 2]


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
        latitude_rad: float | None = None,
        clock: Clock | None = None,
        on_tick: Callable[[dict[str, Any]], None] = lambda _: None,
        shadow: Shadow | None = None,
        timing: Timing | None = None,
        hands: Hands | None = None,
        learner: Learner | None = None,
    ) -> None:
        """``latitude_rad``: of the machine, for the sun's motion; None: taken for anywhere, and found out with a learner.

        ``on_tick`` must not wait for anything.
        """
        self.machine, self.robot, self.gate, self.path, self.recorder = machine, robot, gate, path, recorder
        self._act, self._clock, self.on_tick = act, clock or HostClock(), on_tick
        self._shadow, self._hands, self._learner = shadow, hands, learner
        self.timing = timing or Timing(machine.control.period_s)
        self._builder = ObservationBuilder(machine)
        self.sun, self._sun_since_s = Sun(self._builder, sun_rad, latitude_rad), self._clock.now()
        self._reference = self.sun.reference(0.0)
        self.pole: PoleFinder | None = None
        """Who finds out how the sun moves, where nobody has told."""
        if latitude_rad is None:
            self.sun.pole_world = ANYWHERE_WORLD
            self.pole = None if learner is None else PoleFinder(machine, self._reference.sun_world)
        self._commands = np.zeros((COMMANDS_KEPT, WINCH_COUNT))
        self._memory = Memory.empty()
        self._commanded_m = gate.park_lengths_m.copy()
        self._next_s = 0.0
        self.learning_from: int | None = None
        """Place in the result's errors where what was learnt was first used."""
        self.sight = Sight()
        self._sun_told_s = -np.inf
        self._apart_m: Array | None = None
        self._asked: Word | None = None
        self._path_from_s = 0.0
        self.result = Result()

    def run(self, max_s: float | None = None) -> Result:
        """Arm, work, go dark. Whatever goes wrong is a fault that ends in the dark; so does KeyboardInterrupt, raised again."""
        try:
            self._work(max_s)
            while self._asked == "pause":
                if self._paused():
                    self._work(max_s)
            self.result.stopped = self._asked == "stop"
            self.result.finished = not self.result.stopped
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

    def bring_to_park(self) -> Result:
        """Arm wherever the lens is, at rest, and lower it to park by the gate's own way: after a power cut."""
        try:
            self._arm(self._rested())
        except (Fault, CommandRefused) as error:
            self._note_fault(error)
            return self.result
        self._go_dark()
        self.result.finished = self.result.dark
        return self.result

    # -- phases ---------------------------------------------------------------------------------------------------

    def _work(self, max_s: float | None) -> None:
        """From park into work and along the path, until its end or until a person asks for the dark."""
        self._begin()
        self._go_to_work()
        if self._asked is None:
            self._follow(max_s)

    def _paused(self) -> bool:
        """Dark at park until a person arms again, or stops; return whether to go on."""
        self._go_dark()
        self.result.pauses += 1
        self._commands = np.zeros_like(self._commands)
        self._commanded_m = self.gate.park_lengths_m.copy()
        self._record("event", event="paused")
        while self._asked == "pause" and not self.result.faults:
            self._clock.sleep_until(self._clock.now() + self.machine.control.period_s)
            self._heed()
            self.on_tick({"state": "paused", "mode": "paused", "errors_mm": self.result.errors_mm})
        if self.result.faults:
            self._asked = "stop"
        return self._asked is None

    def _heed(self) -> None:
        """Take in what a person asks for."""
        word = None if self._hands is None else self._hands.ask()
        if word is None or (word == "resume" and self._asked != "pause"):
            return
        self._record("event", event=word)
        if word != "mark":
            self._asked = None if word == "resume" else word

    def _begin(self) -> None:
        rested = self._rested()
        if not self.gate.parked(rested[0].lengths_m):
            raise CommandRefused("not at park, where a session begins; bring the lens there (melter hw jog)")
        self._arm(rested)

    def _rested(self) -> tuple[Reading, Array]:
        """A reading, and the (8,) cable speeds that it and the one before tell."""
        first = self.robot.measure()
        reading = self._newer_than(first.lengths_host_s)
        moved_m, passed_s = reading.lengths_m - first.lengths_m, reading.lengths_host_s - first.lengths_host_s
        return reading, moved_m / passed_s if passed_s > 0 else np.full(WINCH_COUNT, np.nan)

    def _arm(self, rested: tuple[Reading, Array]) -> None:
        reading, speeds = rested
        self._next_s = self._clock.now()
        self._reference = self.sun.reference(self._next_s - self._sun_since_s)
        self.gate.arm(self._next_s, reading.lengths_m, speeds_m_s=speeds, sun_world=self._reference.sun_world)
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
        sun_rad = self.sun.angles_rad(self._next_s - self._sun_since_s)
        start = self.path.target_world_m(self._path_from_s)
        transit = Transit(self.machine, sun_rad, start, self.gate.park_lengths_m)
        self.recorder.write("event", event="transit", duration_s=transit.duration_s)
        period_s, start_s = self.machine.control.period_s, self._next_s
        while self._asked is None and self._next_s - start_s < transit.duration_s + 0.5:
            wanted = transit.lengths_m(self._next_s + period_s - start_s)
            self._tick("transit", lambda _, __, wanted=wanted: (wanted - self._commanded_m) / period_s)

    def _follow(self, max_s: float | None) -> None:
        self.recorder.write("event", event="work")
        period_s = self.machine.control.period_s
        begin_s = self._next_s + SETTLE_S - self._path_from_s
        end_s = begin_s + min(self.path.duration_s, np.inf if max_s is None else max_s)
        self._memory = Memory.empty()
        self.sight.forget()
        if self._shadow is not None:
            self._shadow.forget()
        while self._asked is None and self._next_s < end_s:
            if self.sight.waiting:
                t_s = self._next_s - begin_s
                self._tick("transit", lambda reading, now_s, t_s=t_s: self._wait(reading, now_s, t_s))
                begin_s, end_s = begin_s + period_s, end_s + period_s
            else:
                if self._apart_m is not None and self._shadow is not None:
                    self._shadow.forget()  # nothing was compared while the lens waited
                self._apart_m = None
                self._tick("policy", lambda reading, now_s, b=begin_s: self._policy(reading, now_s, now_s - b))
        self._path_from_s = max(self._path_from_s, self._next_s - begin_s)

    def _wait(self, reading: Reading, now_s: float, t_s: float) -> Array:
        """Below focus over the target of ``t_s``, as far from the drawing as before, until the patch is seen again."""
        period_s = self.machine.control.period_s
        self.sight.see(reading, now_s, period_s)
        target = self.path.target_world_m(max(t_s, self._path_from_s))
        focused_m, lowered_m = (
            self._builder.reference_lengths_m(target, self._reference, drop_m) for drop_m in (0.0, self.sight.drop_m)
        )
        if self._apart_m is None:
            self._apart_m = self._commanded_m - focused_m
        self._extra = {"waiting_drop_m": self.sight.drop_m, "target_world_m": target}
        return (lowered_m + self._apart_m - self._commanded_m) / period_s

    def _policy(self, reading: Reading, now_s: float, t_s: float) -> Array:
        self.sight.see(reading, now_s, self.machine.control.period_s)
        plan = self._plan(t_s, float(reading.measurement.patch_age_s))
        self._require_near(reading, plan)
        moved, measurement = plan, reading.measurement
        if self._learner is not None:
            moved, measurement = self._learner.move(plan, measurement)
        observation = self._builder.build(measurement, moved, self._commands, self._reference, self._memory)
        if self._learner is not None:
            captured_s = -np.inf if reading.patch is None else reading.patch.captured_host_s
            self._learner.learn(self._memory, reading.measurement, captured_s)
            self._note_learning(self._learner.share)
        self._follow_sun(now_s, reading)
        self.timing.mark("observe", self._clock.now())
        action = self._act(observation[None])[0].astype(float)
        self.timing.mark("act", self._clock.now())
        if reading.measurement.patch_seen and t_s > self._path_from_s:
            error = plan.target_at_capture_world_m - reading.measurement.patch_centre_world_m
            velocity = (plan.target_ahead_world_m[0] - plan.target_world_m) / LOOK_AHEAD_S[0]
            self.result.note_error(error, velocity)
        self._extra = {"t_s": t_s, "target_world_m": plan.target_world_m, "observation": observation, "action": action}
        if self._learner is not None:
            self._extra["learned_share"] = self._learner.share
        if self._shadow is not None:
            self._extra |= self._shadow.see(self._memory.spots_m[0], reading.measurement)
        return action * self.machine.limits.speed_normal_m_s

    def _follow_sun(self, now_s: float, reading: Reading) -> None:
        """Let what the camera sees tell how the sun moves."""
        if self.pole is None or not reading.measurement.patch_seen or np.isnan(self._memory.spots_m[0]).any():
            return
        t_s = now_s - self._sun_since_s - float(reading.measurement.patch_age_s)
        self.pole.see(t_s, self._memory.spots_m[0], self._memory.offset_m[:, 0], self._reference.sun_world)
        self.sun.pole_world = self.pole.pole_world

    def _note_learning(self, share: float) -> None:
        if share > 0 and self.learning_from is None:
            self.learning_from = len(self.result.errors_mm)
            self.recorder.write("event", event="what was learnt is taken up")

    def _plan(self, t_s: float, age_s: float) -> Plan:
        times = np.array([t_s, t_s - age_s, *(t_s + ahead for ahead in LOOK_AHEAD_S)])
        targets = self.path.target_world_m(np.maximum(times, self._path_from_s))
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
                lengths_m = self.robot.lengths_m()
                command = self.gate.go_dark(lengths_m, self._clock.now())
                self._send(command, {"mode": "dark", "lengths_m": lengths_m})
                tries = 0
            except (CommandRefused, KeyboardInterrupt):  # asked again to stop: the way to dark is how it stops
                continue
            except Exception as error:
                tries += 1
                self._note_fault(error)
                self._recover()
        self.result.dark = self.gate.state is State.PARKED
        with contextlib.suppress(KeyboardInterrupt):
            self._let_arrive()
        try:
            self.robot.stop()
        except Fault as error:
            self._note_fault(error)
        self._record("event", event="parked" if self.result.dark else "not dark")

    def _let_arrive(self) -> None:
        """Wait for counters that are a moment late: a stop right away would cut off the last stretch, and its length."""
        give_up_s = self._clock.now() + ARRIVE_S
        while self.result.dark and self._clock.now() < give_up_s:
            lengths_m = self.robot.lengths_m()
            if lengths_m is None or np.abs(lengths_m - self.gate.park_lengths_m).max() < ARRIVED_M:
                return
            self._clock.sleep_until(self._clock.now() + self.machine.control.period_s)

    def _recover(self) -> None:
        """Bring the link back if that can be; the way to dark goes on in any case."""
        try:
            self.robot.recover()
        except (Exception, KeyboardInterrupt) as error:
            self._note_fault(error)

    # -- one tick -------------------------------------------------------------------------------------------------

    def _tick(self, mode: Any, request: Callable[[Reading, float], Array]) -> None:
        """Wait for the next tick, then measure, observe, act, approve, send."""
        self._clock.sleep_until(self._next_s)
        now_s, period_s = self._clock.now(), self.machine.control.period_s
        self.timing.begin(self._next_s, now_s)
        overslept_s = now_s - self._next_s
        if overslept_s > 0.5 * period_s:
            self.result.late += 1
            self._next_s = now_s
        self._heed()
        self._reference = self.sun.reference(now_s - self._sun_since_s)
        if now_s - self._sun_told_s > SUN_TOLD_S:
            self._sun_told_s = now_s
            self.gate.follow_sun(self._reference.sun_world, now_s)
        reading = self._newer_than(now_s) if overslept_s > OVERSLEPT_PERIODS * period_s else self.robot.measure()
        seen_s = None if reading.patch is None else reading.patch.captured_host_s
        self.timing.frame(seen_s)
        self._extra: dict[str, Any] = {}
        requested = request(reading, now_s)
        melting = mode == "policy" and bool(reading.measurement.patch_seen)
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
        self.timing.mark("approve", self._clock.now())
        self._next_s = max(self._next_s, command.approved_host_s - LATE_SHARE * period_s)
        self._send(command, {"mode": mode, "requested_m_s": requested, **_seen(reading), **self._extra})
        self.timing.sent(self._clock.now(), seen_s if mode == "policy" else None)
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
            told = {"state": self.gate.state.value, "approved_m_s": command.speeds_m_s}
            self.on_tick({**told, "errors_mm": self.result.errors_mm, **fields})
        except Exception:
            if not dark:
                raise

    def _record(self, kind: str, **fields: Any) -> None:
        """Record where it can be: the way to dark does not wait for a disk."""
        with contextlib.suppress(OSError):
            self.recorder.write(kind, **fields)

    def _require_near(self, reading: Reading, plan: Plan) -> None:
        astray = reading.measurement.cable_length_m - self._builder.reference_lengths_m(
            plan.target_world_m, self._reference
        )
        if np.abs(astray).max() > STRAY_M:
            winch = self.machine.winch[int(np.abs(astray).argmax())].name
            raise CommandRefused(
                f"winch {winch}: cable {np.abs(astray).max() * 1e3:.0f} mm from its reference for the target (limit {STRAY_M * 1e3:.0f} mm)"
            )

    def _note_fault(self, error: BaseException) -> None:
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
