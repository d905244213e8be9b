"""The simulated motor controller: what a board with grblHAL answers and does, byte for byte, without any I/O.

``feed`` takes bytes from the host, ``advance`` lets time pass; both return the bytes that go back. The step
counters drive whatever hangs on the motors. The surprises of real firmware are part of it: a jog without axis
words runs every axis to zero, a feed hold does not stop a jog, settings take any number, a cancel leaves the
tail of a cut line, a reset in motion loses the position.

Sources: Grbl 1.1's documentation of its interface, commands, jogging and settings; grblHAL's documentation of
its additions; and what real firmware was seen to do on a pseudo-terminal.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from melter.hw.gcode import LineError, parse_jog
from melter.hw.motion import AxisLimits, Motion

Array = NDArray[np.float64]
Steps = NDArray[np.int64]

BANNER = "GrblHAL 1.1f ['$' or '$HELP' for help]"
AXIS_LETTERS = "XYZABCUV"
EOL = b"\r\n"
RX_BYTES = 1024
LINE_CHARACTERS = 256
PLANNER_BLOCKS = 100
PREPARED_S = 0.03
"""How far ahead steps are fixed; measured: jog cancel from 60 mm/s at 1000 mm/s2 takes 89 ms."""

RESET, STOP, STATUS, STATUS_FULL, JOG_CANCEL = 0x18, 0x19, 0x80, 0x87, 0x85
DOOR = 0x84

ERROR_LETTER, ERROR_SETTING_NUMBER, ERROR_NEGATIVE, ERROR_IDLE = 1, 3, 4, 8
ERROR_HOMING_OFF, ERROR_LOCKED, ERROR_OVERFLOW, ERROR_UNSUPPORTED = 5, 9, 11, 20
ERROR_HOMING_REQUIRED, ERROR_ESTOP = 46, 50
ALARM_RESET_IN_MOTION, ALARM_ESTOP, ALARM_HOMING_REQUIRED = 3, 10, 11
CRITICAL_ALARMS = (1, 2, 10, 17)
"""Hard and soft limit, emergency stop, motor fault: from then on nothing but reports until a reset."""


def default_settings(axes: int = 8) -> dict[int, float]:
    """Return what a freshly flashed board starts with: nothing that suits this machine."""
    settings = {
        0: 10.0,
        1: 25,
        2: 0,
        3: 0,
        4: 0,
        5: 0,
        6: 0,
        10: 511,
        11: 0.01,
        12: 0.002,
        13: 0,
        20: 0,
        21: 0,
        22: 0,
        40: 0,
    }
    for start, value in ((100, 250.0), (110, 500.0), (120, 10.0), (130, 200.0)):
        settings |= {start + axis: value for axis in range(axes)}
    if axes > 3:
        settings[376] = 1
    return {number: float(value) for number, value in sorted(settings.items())}


class Firmware:
    """A board with ``axes`` axes. ``settings`` override the defaults, by number."""

    def __init__(
        self,
        settings: Mapping[int, float] | None = None,
        *,
        axes: int = 8,
        banner: str = BANNER,
        prepared_s: float = PREPARED_S,
        blocks: int = PLANNER_BLOCKS,
        letters: str = AXIS_LETTERS,
        offset_mm: float = 0.0,
    ) -> None:
        """``letters``: the axes in the board's order. ``offset_mm``: of every axis's work position."""
        self.settings = default_settings(axes) | dict(settings or {})
        self.banner = banner
        self.alarm = 0
        self.estop = False
        """Whether the emergency stop is pressed."""
        self._deaf = False
        self._axes, self._letters, self._offset_mm = axes, letters[:axes], offset_mm
        self._motion = Motion(axes, blocks, prepared_s)
        self._program_mm = np.zeros(axes, dtype=np.float32)
        self._rx = bytearray()
        self._line = bytearray()
        self._overflow = False
        self._waiting: tuple[Array, float] | None = None
        self._state = "Idle"
        self._cancelling = False
        self._last_error = 0
        self._reports = 0
        self._out = bytearray()
        self._limits = self._axis_limits()

    @property
    def steps(self) -> Steps:
        """(axes,) step counters."""
        return self._motion.steps

    @property
    def position_m(self) -> Array:
        """(axes,) the counters in metres of cable paid out."""
        return self._motion.steps / self._limits.steps_per_mm * 1e-3

    @property
    def state(self) -> str:
        """The word in the status report."""
        return self._state

    @property
    def queued(self) -> int:
        """Blocks in the planner."""
        return self._motion.queued

    def power_up(self) -> bytes:
        """Return what the board says when it starts; counters are zero and the queue empty afterwards."""
        self._motion.drop()
        self._motion.set_position(np.zeros(self._axes, dtype=np.int64))
        self.alarm, self._state, self._deaf = 0, "Idle", False
        self._restart()
        return self._take()

    def press_stop(self) -> bytes:
        """Press the emergency stop; it stays pressed until ``estop`` is set to False."""
        self.estop = True
        return self.raise_alarm(ALARM_ESTOP)

    def raise_alarm(self, code: int) -> bytes:
        """Stop dead in alarm ``code`` (a hard limit, a motor fault) and return what the board says."""
        self._motion.drop()
        self._enter_alarm(code)
        self._deaf = code in CRITICAL_ALARMS
        return self._take()

    def slip(self, moved_m: Array) -> Array:
        """Let counters jump by about (axes,) ``moved_m`` without any motor turning; return by how much they did."""
        steps = np.rint(moved_m * 1e3 * self._limits.steps_per_mm).astype(np.int64)
        self._motion.slip(steps)
        self._program_mm = (self._program_mm + steps / self._limits.steps_per_mm).astype(np.float32)
        return steps / self._limits.steps_per_mm * 1e-3

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the host; return the answers there are at once."""
        for byte in data:
            if not self._realtime(byte) and len(self._rx) < RX_BYTES - 1:
                self._rx.append(byte)
            if byte in b"\n\r":
                self._run_lines()
        return self._take()

    def advance(self, dt_s: float) -> bytes:
        """Let ``dt_s`` pass: motion goes on, what waited is answered."""
        if self._motion.moving:
            self._motion.advance(dt_s)
        self._settle()
        if self._rx or self._waiting:
            self._run_lines()
        return self._take()

    def _take(self) -> bytes:
        out = bytes(self._out)
        self._out.clear()
        return out

    def _say(self, text: str) -> None:
        self._out += text.encode("ascii") + EOL

    def _answer(self, error: int) -> None:
        self._last_error = error
        self._say(f"error:{error}" if error else "ok")

    # realtime bytes

    def _realtime(self, byte: int) -> bool:
        """Act on a realtime byte; False when it belongs to a line."""
        if byte in (0x3F, STATUS, 0x05):
            self._report(full=False)
        elif byte == STATUS_FULL:
            self._report(full=True)
        elif byte == JOG_CANCEL:
            self._cancel_jog()
        elif byte == RESET:
            self._reset()
        elif byte == STOP:
            self._stop_at_once()
        elif byte in (0x21, 0x7E, DOOR):
            self._hold(byte)
        else:
            return byte >= 0x7F or (byte < 0x20 and byte not in b"\n\r\t")
        return True

    def _drop_input(self) -> None:
        self._rx.clear()
        self._line.clear()
        self._overflow = False
        self._waiting = None

    def _cancel_jog(self) -> None:
        """Decelerate out of a jog. Lines not yet read are lost unanswered; a line cut in two leaves its tail."""
        if self._waiting is not None:
            self._answer(0)
        self._drop_input()
        self._last_error = 0
        if self._state == "Jog":
            self._cancelling = True
            self._motion.brake()

    def _reset(self) -> None:
        if self.estop:
            return
        moving, self._deaf = self._motion.moving, False
        self._motion.drop()
        if moving:
            self._enter_alarm(ALARM_RESET_IN_MOTION)
        self._restart()

    def _restart(self) -> None:
        self._drop_input()
        self._cancelling, self._last_error, self._reports = False, 0, 0
        self._sync_program()
        self._out += EOL
        self._say(self.banner)
        if self.estop or int(self.settings[22]) & 1:
            self._enter_alarm(ALARM_ESTOP if self.estop else ALARM_HOMING_REQUIRED)
        if self.alarm:
            self._say("[MSG:'$H'|'$X' to unlock]")
        else:
            self._state = "Idle"

    def _stop_at_once(self) -> None:
        self._drop_input()
        self._motion.drop()
        self._cancelling = False
        self._sync_program()
        if not self.alarm:
            self._state = "Idle"

    def _hold(self, byte: int) -> None:
        """``!``, ``~`` and the door: a hold stands only where no jog runs, the door always."""
        if byte == 0x7E:
            if self._state in ("Hold:0", "Door:0"):
                self._state = "Idle"
        elif byte == DOOR and not self.alarm:
            self._motion.drop()
            self._sync_program()
            self._state, self._cancelling = "Door:0", False
        elif self._state == "Idle":
            self._state = "Hold:0"

    def _enter_alarm(self, code: int) -> None:
        self.alarm, self._state, self._cancelling = code, "Alarm", False
        self._drop_input()
        self._sync_program()
        self._say(f"ALARM:{code}")

    # motion

    def _settle(self) -> None:
        if self._state == "Jog" and not self._motion.moving:
            if self._cancelling:
                self._motion.drop()
                self._sync_program()
                self._cancelling = False
            self._state = "Idle"

    def _sync_program(self) -> None:
        self._program_mm = (self._motion.steps / self._axis_limits().steps_per_mm).astype(np.float32)

    def _axis_limits(self) -> AxisLimits:
        steps, rate, acceleration = (
            np.array([self.settings[s + i] for i in range(self._axes)]) for s in (100, 110, 120)
        )
        self._limits = AxisLimits(steps, rate / 60.0, acceleration, self.settings.get(11, 0.01))
        return self._limits

    # lines

    def _run_lines(self) -> None:
        """Read lines for as long as nothing holds up the reader."""
        while not self._cancelling and not self._deaf:
            if self._waiting is not None:
                if not self._motion.free:
                    return
                target, feed = self._waiting
                self._waiting = None
                self._queue(target, feed)
                self._answer(0)
            if not self._rx:
                return
            byte = self._rx.pop(0)
            if byte in b"\n\r":
                if byte == 0x0A or self._line:
                    self._run_line(self._line.decode("ascii", "replace"))
            elif byte > 0x20:
                self._overflow |= len(self._line) >= LINE_CHARACTERS - 1
                if not self._overflow:
                    self._line.append(byte)

    def _run_line(self, line: str) -> None:
        overflow, self._overflow = self._overflow, False
        self._line.clear()
        if overflow:
            self._answer(ERROR_OVERFLOW)
        elif not line:
            self._answer(0)
        elif line.startswith("$"):
            self._command(line.upper())
        elif self.alarm or self._state == "Jog":
            self._answer(ERROR_LOCKED)
        elif self._last_error:
            self._answer(self._last_error)
        else:
            self._answer(ERROR_UNSUPPORTED if line[0].isalpha() else ERROR_LETTER)

    def _command(self, line: str) -> None:
        if line.startswith("$J="):
            self._jog(line[3:])
        elif line == "$X":
            self._unlock()
        elif line == "$G":
            self._say("[GC:G0 G54 G17 G21 G90 G94 G49 G98 G50 M5 M9 T0 F0 S0.]")
            self._answer(0)
        elif self._state not in ("Idle", "Alarm"):
            self._answer(ERROR_IDLE)
        elif line == "$$":
            for number in sorted(self.settings):
                self._say(self._setting(number))
            self._answer(0)
        elif line == "$I":
            self._build_info()
        elif line.startswith("$H"):
            self._answer(ERROR_HOMING_OFF)
        else:
            self._answer(self._change_setting(line))

    def _unlock(self) -> None:
        if self.alarm and (self.estop or int(self.settings[22]) & 1):
            return self._answer(ERROR_ESTOP if self.estop else ERROR_HOMING_REQUIRED)
        if self.alarm:
            self.alarm, self._state = 0, "Idle"
            self._say("[MSG:Caution: Unlocked]")
        return self._answer(0)

    def _build_info(self) -> None:
        letters = self._letters
        lines = ["[VER:1.1f.20240101:]", f"[OPT:VNMSL,{self._motion.capacity},{RX_BYTES},{self._axes},0]"]
        lines += [f"[AXS:{self._axes}:{letters}]", "[NEWOPT:ENUMS,RT+]", "[FIRMWARE:grblHAL]", "[DRIVER:Simulator]"]
        for text in lines:
            self._say(text)
        self._answer(0)

    def _setting(self, number: int) -> str:
        decimals = number in (11, 12) or (number >= 100 and number != 376)
        value = self.settings[number]
        return f"${number}={value:.3f}" if decimals else f"${number}={value:g}"

    def _change_setting(self, line: str) -> int:
        name, equals, text = line[1:].partition("=")
        if not name.isdigit():
            return ERROR_SETTING_NUMBER
        number = int(name)
        if number not in self.settings:
            return ERROR_SETTING_NUMBER
        if not equals:
            self._say(self._setting(number))
            return 0
        try:
            value = float(text)
        except ValueError:
            return 2
        if not 0 <= value < 1e9:
            return ERROR_NEGATIVE
        self.settings[number] = value
        self._axis_limits()
        return 0

    def _jog(self, words: str) -> None:
        if self._state not in ("Idle", "Jog"):
            return self._answer(ERROR_IDLE)
        try:
            jog = parse_jog(words, self._letters)
        except LineError as error:
            return self._answer(error.code)
        target = np.zeros(self._axes, dtype=np.float32)
        if jog.axes_mm:
            target = self._program_mm.copy()
            for letter, value in jog.axes_mm.items():
                axis = self._letters.index(letter)
                base = self._program_mm[axis] if jog.relative else np.float32(0)
                target[axis] = np.float32(base + np.float32(value))
        self._program_mm = target
        if not self._motion.free:
            self._waiting = (target.astype(float), jog.feed_mm_min / 60.0)
            return None
        self._queue(target.astype(float), jog.feed_mm_min / 60.0)
        return self._answer(0)

    def _queue(self, target_mm: Array, feed_mm_s: float) -> None:
        limits = self._limits
        target = np.rint(target_mm * limits.steps_per_mm).astype(np.int64)
        if self._motion.add(target, feed_mm_s, limits) and self._state == "Idle":
            self._state = "Jog"

    # reports

    def _report(self, full: bool) -> None:
        mask = int(self.settings[10])
        position = self._motion.steps / self._limits.steps_per_mm - (0.0 if mask & 1 else self._offset_mm)
        fields = [self._state if self._state != "Alarm" or not full else f"Alarm:{self.alarm}"]
        fields.append(("MPos:" if mask & 1 else "WPos:") + ",".join(f"{value:.3f}" for value in position))
        if mask & 2:
            fields.append(f"Bf:{self._motion.free},{RX_BYTES - 1 - len(self._rx)}")
        fields.append(f"FS:{self._motion.speed_mm_s * 60:.0f},0")
        if full or self._reports % 30 == 0:
            fields.append("WCO:" + ",".join([f"{self._offset_mm:.3f}"] * self._axes))
        elif self._reports % 30 == 1:
            fields.append("Ov:100,100,100")
        if full:
            fields.append("FW:grblHAL")
        self._reports += 1
        self._say("<" + "|".join(fields) + ">")
