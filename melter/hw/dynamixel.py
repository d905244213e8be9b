"""The motor driver for eight Dynamixel servo motors (protocol 2) on one bus, in velocity mode.

Motors have the numbers 1 to 8 in winch order and pay out when they turn forward (set each motor's Drive Mode so).
One packet sets all speeds, one asks for all currents, speeds and positions; packets carry a checksum, and the
motors stop by themselves when the bus falls silent. Needs the package ``dynamixel-sdk`` (``melter[dynamixel]``).
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from melter.errors import LinkFault, PortError
from melter.hw.driver import MotorStatus, Promises
from melter.hw.dynamixel_bus import (
    ACCELERATION_UNIT_RPM2,
    GOAL_VELOCITY,
    HARDWARE_ERROR,
    MODE,
    POSITION_UNITS,
    PROFILE_ACCELERATION,
    TORQUE,
    VELOCITY_LIMIT,
    VELOCITY_MODE,
    VELOCITY_UNIT_RPM,
    WATCHDOG,
    WATCHDOG_UNIT_S,
)
from melter.hw.dynamixel_wire import Feedback, Wire
from melter.hw.serial_port import OnBytes
from melter.machine import WINCH_COUNT, Machine
from melter.safety.gate import ApprovedCommand

Array = NDArray[np.float64]

BAUD = 1_000_000
POLL_S = 0.02
SILENT_UNITS = 5
"""The bus watchdog: 100 ms."""
HELD_PERIODS = 2.0
"""A speed stands this long; when no further command comes, the motors are told to stand."""
LOST_MAX = 3
"""So many answers in a row may be lost."""
JUMP_M = 0.005
STALL_S, STALL_M = 0.5, 0.002
"""A winch that should have moved this far and has not within this time stalls."""
LIMIT_EXCESS = 1.25
RECOVER_S = 2.5
"""How long a vanished port is waited for, over all attempts."""


class DynamixelDriver:
    """Eight winches on the bus behind ``port``; opens nothing until ``connect``."""

    def __init__(
        self,
        port: str,
        machine: Machine,
        *,
        on_bytes: OnBytes | None = None,
        clock: Callable[[], float] = time.monotonic,
        baud: int = BAUD,
    ) -> None:
        self._machine, self._clock = machine, clock
        self._wire = Wire(port, baud, on_bytes, clock)
        self._name = port
        around_m = 2 * math.pi * machine.drive.drum_radius_m
        self._speed_unit_m_s = around_m * VELOCITY_UNIT_RPM / 60
        self._position_unit_m = around_m / POSITION_UNITS
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._live = False
        self._faults: list[str] = []
        self._past: tuple[str, ...] = ()
        self._giving_up_s: float | None = None
        self._trusted = True
        self._raw: NDArray[np.int64] | None = None
        self._positions_m, self._zero_m = np.zeros(WINCH_COUNT), np.zeros(WINCH_COUNT)
        self._read_s = -np.inf
        self._lost = 0
        self._units = np.zeros(WINCH_COUNT, dtype=np.int64)
        self._sent_s, self._period_s = -np.inf, machine.control.period_s
        self._target_m, self._reckoned_m = np.zeros(WINCH_COUNT), np.zeros(WINCH_COUNT)
        self._stalled_m, self._stalled_s = np.zeros(WINCH_COUNT), 0.0
        self._travel_m = np.zeros(WINCH_COUNT)
        self.feedback: Feedback | None = None
        """The newest speeds and currents."""

    @property
    def promises(self) -> Promises:
        """Checksums; motors that stop by themselves when the bus is silent."""
        limits = self._machine.limits
        return Promises(
            checks_packets=True,
            stops_when_silent_s=SILENT_UNITS * WATCHDOG_UNIT_S + limits.speed_max_m_s / limits.acceleration_max_m_s2,
            reports_position=True,
            reports_speed=True,
            reports_current=True,
            speed_factor=LIMIT_EXCESS,
        )

    def connect(self) -> None:
        """Open the port, make sure of eight motors, their mode and limits. Raises PortError; nothing has moved."""
        try:
            self._wire.open()
            self._refuse_unsuitable()
            self._begin()
        except LinkFault as error:
            self.close()
            raise PortError(str(error)) from None
        except BaseException:
            self.close()
            raise

    def set_up(self) -> list[str]:
        """Open the port, put modes and limits right, close it; return what was changed. Raises PortError."""
        try:
            self._wire.open()
            listed = self._differences()
            for number in range(1, WINCH_COUNT + 1):
                if any(f"motor {number} " in text for text in listed):
                    self._wire.write(number, TORQUE, 1, 0)
                    self._wire.write(number, MODE, 1, VELOCITY_MODE)
                    self._wire.write(number, VELOCITY_LIMIT, 4, self._limit_units)
            left = self._differences()
            if left:
                raise PortError(f"port {self._name}: {left[0]}: written, but the motor does not keep it")
            return listed
        except LinkFault as error:
            raise PortError(str(error)) from None
        finally:
            self._wire.close()

    def send(self, command: ApprovedCommand) -> ApprovedCommand:
        """Set one period's speeds. Raises LinkFault when a fault is latched."""
        if not isinstance(command, ApprovedCommand):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"send: {type(command).__name__}, must be an ApprovedCommand from the gate")
        with self._lock:
            self._raise_fault()
            now_s = self._clock()
            self._reckon(now_s)
            self._period_s = command.period_s
            moved_m = np.asarray(command.counts_um, dtype=float) * 1e-6
            self._target_m = self._target_m + moved_m
            wanted = (self._target_m - self._reckoned_m) / command.period_s
            most = np.minimum(
                np.abs(moved_m) / command.period_s * LIMIT_EXCESS + self._speed_unit_m_s,
                self._machine.limits.speed_max_m_s,
            )
            self._set(np.trunc(np.clip(wanted, -most, most) / self._speed_unit_m_s + np.sign(wanted) * 0.5), now_s)
            self._raise_fault()
        return command

    def poll(self) -> MotorStatus:
        """Return the newest status."""
        with self._lock:
            state = "unknown" if not self._live or self._faults else "jog" if self._units.any() else "idle"
            return MotorStatus(
                positions_m=self._positions_m - self._zero_m,
                state=state,
                read_host_s=self._read_s,
                queue_depth=int(bool(self._units.any())),
                faults=(*self._past, *self._faults),
                position_trusted=self._trusted,
            )

    def stop(self) -> None:
        """Let all motors brake; what was approved and not done is dropped."""
        with self._lock:
            if not self._live:
                raise LinkFault(f"hangup: port {self._name}: not connected")
            self._reckon(self._clock())
            self._target_m = self._reckoned_m.copy()
            self._set(np.zeros(WINCH_COUNT), self._clock())

    def zero(self) -> None:
        """Let the present position be zero: the lens is parked, a person says so."""
        with self._lock:
            self._zero_m = self._positions_m.copy()

    def recover(self) -> None:
        """Bring the bus back for the way to dark; faults stay latched. Raises LinkFault."""
        self._past = tuple(dict.fromkeys((*self._past, *self._faults)))
        before_m, raw = self._positions_m, self._raw
        self._shut()
        deadline_s = self._giving_up_s = self._giving_up_s or self._clock() + RECOVER_S
        while True:
            if self._clock() > deadline_s:
                raise LinkFault(f"port {self._name}: not back within {RECOVER_S:g} s")
            try:
                self._wire.open()
                self._begin()
                break
            except (PortError, LinkFault):
                self._wire.close()
                time.sleep(0.1)
        self._giving_up_s = None
        turned = np.abs(self._raw - raw) if raw is not None and self._raw is not None else np.zeros(1)
        if (turned * self._position_unit_m).max() > self._machine.limits.speed_max_m_s * RECOVER_S:
            self._trusted = False  # motors that lost power forget their turns
        self._positions_m = before_m if not self._trusted else self._positions_m

    def close(self) -> None:
        """Stop, take the torque off nothing (cables would go slack), let go of the port."""
        with contextlib.suppress(LinkFault):
            if self._live:
                self.stop()
        self._shut()

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _limit_units(self) -> int:
        return math.ceil(self._machine.limits.speed_max_m_s / self._speed_unit_m_s)

    def _differences(self) -> list[str]:
        """What does not suit the machine, motor by motor. Raises PortError when one is missing."""
        listed: list[str] = []
        for number, winch in enumerate(self._machine.winch, start=1):
            self._wire.ping(number, winch.name)
            mode, limit = self._wire.read(number, MODE, 1), self._wire.read(number, VELOCITY_LIMIT, 4)
            if mode != VELOCITY_MODE:
                listed.append(
                    f"motor {number} ({winch.name}) operating mode {mode}, must be {VELOCITY_MODE} (velocity)"
                )
            if not self._limit_units <= limit <= self._limit_units * LIMIT_EXCESS:
                low, high = self._limit_units, int(self._limit_units * LIMIT_EXCESS)
                listed.append(f"motor {number} ({winch.name}) velocity limit {limit}, must be {low} to {high}")
        return listed

    def _refuse_unsuitable(self) -> None:
        listed = self._differences()
        if listed:
            more = f" and {len(listed) - 2} more" if len(listed) > 2 else ""
            raise PortError(f"port {self._name}: {'; '.join(listed[:2])}{more}; see melter hw setup")

    def _begin(self) -> None:
        """Torque on at standstill, watchdog on, first reading, thread started."""
        acceleration = self._machine.limits.acceleration_max_m_s2 / (self._speed_unit_m_s / VELOCITY_UNIT_RPM) * 60
        for number in range(1, WINCH_COUNT + 1):
            self._wire.write(number, WATCHDOG, 1, 0)  # also clears one that has barked
            self._wire.write(number, PROFILE_ACCELERATION, 4, round(acceleration / ACCELERATION_UNIT_RPM2))
            self._wire.write(number, GOAL_VELOCITY, 4, 0)
            self._wire.write(number, TORQUE, 1, 1)
            self._wire.write(number, WATCHDOG, 1, SILENT_UNITS)
        self._faults, self._lost, self._live = [], 0, True
        self._units = np.zeros(WINCH_COUNT, dtype=np.int64)
        self._look()
        self._target_m, self._reckoned_m = np.zeros(WINCH_COUNT), np.zeros(WINCH_COUNT)
        self._closing.clear()
        self._thread = threading.Thread(target=self._run, name=f"dynamixel {self._name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        """Background: read, watch, and stand when no further command comes."""
        while not self._closing.wait(POLL_S):
            with self._lock:
                try:
                    self._look()
                    now_s = self._clock()
                    if self._units.any() and (self._faults or now_s - self._sent_s > HELD_PERIODS * self._period_s):
                        self._reckon(now_s)
                        self._set(np.zeros(WINCH_COUNT), now_s)
                except LinkFault as error:
                    self._latch(str(error))
                    if str(error).startswith("hangup"):
                        return

    def _look(self) -> None:
        """Read all motors at once; raise or latch what is wrong."""
        feedback = self._wire.read_all(WINCH_COUNT)
        now_s = self._clock()
        if feedback is None:
            self._lost += 1
            if self._lost >= LOST_MAX:
                self._latch(f"silence: {self._lost} readings in a row without all eight answers")
            return
        self._lost = 0
        if feedback.alerts:
            number = feedback.alerts[0]
            self._trusted = False
            code = self._wire.read(number, HARDWARE_ERROR, 1)
            self._latch(f"alarm: motor {number} reports hardware error {code:#x}")
        turned = feedback.positions - self._raw if self._raw is not None else np.zeros(WINCH_COUNT, dtype=np.int64)
        turned = (turned + 2**31) % 2**32 - 2**31  # the register wraps
        moved_m: Array = turned.astype(np.float64) * self._position_unit_m
        self._watch(moved_m, now_s)
        self._raw, self._positions_m = feedback.positions, self._positions_m + moved_m
        self._read_s, self.feedback = now_s, feedback

    def _watch(self, moved_m: Array, now_s: float) -> None:
        """Latch a position that jumps and a winch that does not turn."""
        if not np.isfinite(self._read_s) or self._faults:
            return
        reach_m = self._machine.limits.speed_max_m_s * LIMIT_EXCESS * (now_s - self._read_s) + JUMP_M
        worst = int(np.abs(moved_m).argmax())
        if abs(moved_m[worst]) > reach_m:
            self._trusted = False
            self._latch(f"jump: winch {self._winch(worst)} is {moved_m[worst] * 1e3:.1f} mm from where it was")
        self._travel_m += moved_m
        self._stalled_m += self._units * self._speed_unit_m_s * min(now_s - self._read_s, 0.1)
        if now_s - self._stalled_s > STALL_S:
            asked, turned = self._stalled_m, self._travel_m
            still = (np.abs(asked) > STALL_M) & (np.abs(turned) < 0.2 * np.abs(asked))
            if still.any():
                worst = int(np.argmax(still))
                self._latch(f"stall: winch {self._winch(worst)} was to move {asked[worst] * 1e3:.1f} mm and does not")
            self._stalled_m, self._travel_m, self._stalled_s = np.zeros(WINCH_COUNT), np.zeros(WINCH_COUNT), now_s

    def _reckon(self, now_s: float) -> None:
        """Add up what the speeds set last have made of the time since."""
        if np.isfinite(self._sent_s):
            passed_s = min(now_s - self._sent_s, HELD_PERIODS * self._period_s + POLL_S)
            self._reckoned_m = self._reckoned_m + self._units * (self._speed_unit_m_s * passed_s)

    def _set(self, units: Array, now_s: float) -> None:
        try:
            self._wire.set_speeds([int(one) for one in units])
        except LinkFault as error:
            self._latch(str(error))
            raise
        self._units, self._sent_s = units.astype(np.int64), now_s

    def _winch(self, index: int) -> str:
        return self._machine.winch[index].name

    def _latch(self, fault: str) -> None:
        name = fault.split(":")[0]
        if not any(known.startswith(f"{name}:") for known in self._faults):
            self._faults.append(fault)

    def _raise_fault(self) -> None:
        if not self._live:
            raise LinkFault(f"hangup: port {self._name}: not connected")
        if self._faults:
            raise LinkFault(f"port {self._name}: {self._faults[0]}")

    def _shut(self) -> None:
        self._closing.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        self._wire.close()
        self._live = False
