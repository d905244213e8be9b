"""Simulated servo motors on a Dynamixel bus (protocol 2), without any I/O: bytes in, bytes out, time passes.

``feed`` takes bytes from the host and returns status packets, ``advance`` turns the motors. A packet with a wrong
checksum is answered by nobody. Registers and units are those of the X series in velocity mode.
Source: ROBOTIS e-Manual, "DYNAMIXEL Protocol 2.0" and the X series' control tables.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

HEADER = b"\xff\xff\xfd\x00"
BROADCAST = 0xFE
PING, READ, WRITE, REBOOT, SYNC_READ, SYNC_WRITE, ANSWER = 0x01, 0x02, 0x03, 0x08, 0x82, 0x83, 0x55
ERROR_RANGE, ERROR_LENGTH, ERROR_ACCESS, ALERT = 4, 5, 7, 0x80

MODE, VELOCITY_LIMIT, TORQUE, HARDWARE_ERROR, WATCHDOG = 11, 44, 64, 70, 98
GOAL_VELOCITY, PROFILE_ACCELERATION, PRESENT_CURRENT, PRESENT_VELOCITY, PRESENT_POSITION = 104, 108, 126, 128, 132
TABLE_BYTES = 147
EEPROM_END = 64
"""Registers below keep their value without power and are locked while the torque is on."""
VELOCITY_MODE = 1
VELOCITY_UNIT_RPM = 0.229
ACCELERATION_UNIT_RPM2 = 214.577
"""Revolutions per minute squared."""
POSITION_UNITS = 4096
"""Per revolution."""
CURRENT_UNIT_A = 0.00269
WATCHDOG_UNIT_S = 0.020
WATCHDOG_BARKED = 0xFF


def crc16(data: bytes) -> int:
    """Return the checksum of a packet: polynomial 0x8005, start 0, most significant bit first."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ 0x8005 if crc & 0x8000 else crc << 1
        crc &= 0xFFFF
    return crc


def packet(number: int, instruction: int, parameters: bytes) -> bytes:
    """Return a packet with header, byte stuffing and checksum."""
    body = (bytes([instruction]) + parameters).replace(b"\xff\xff\xfd", b"\xff\xff\xfd\xfd")
    head = HEADER + struct.pack("<BH", number, len(body) + 2)
    return head + body + struct.pack("<H", crc16(head + body))


@dataclass
class Motor:
    """One motor: its registers and how fast it really turns."""

    number: int
    table: bytearray = field(default_factory=lambda: bytearray(TABLE_BYTES))
    units_s: float = 0.0
    """Position units per second."""
    position: float = 0.0
    blocked: bool = False
    load_a: float = 0.2

    def get(self, address: int, form: str) -> int:
        """Return a register."""
        return struct.unpack_from(form, self.table, address)[0]

    def put(self, address: int, form: str, value: int) -> None:
        """Set a register, whatever it is."""
        struct.pack_into(form, self.table, address, value)

    def advance(self, dt_s: float) -> None:
        """Turn for ``dt_s``."""
        per_unit = VELOCITY_UNIT_RPM / 60 * POSITION_UNITS
        goal = self.get(GOAL_VELOCITY, "<i") * per_unit if self.table[TORQUE] else 0.0
        most = self.get(PROFILE_ACCELERATION, "<I") * ACCELERATION_UNIT_RPM2 / 3600 * POSITION_UNITS
        change = goal - self.units_s
        if most > 0:
            change = max(-most * dt_s, min(most * dt_s, change))
        before, self.units_s = self.units_s, 0.0 if self.blocked else self.units_s + change
        self.position += 0.5 * (before + self.units_s) * dt_s if not self.blocked else 0.0
        self.put(PRESENT_VELOCITY, "<i", round(self.units_s / per_unit))
        self.put(PRESENT_POSITION, "<i", (round(self.position) + 2**31) % 2**32 - 2**31)
        self.put(PRESENT_CURRENT, "<h", round(self.load_a / CURRENT_UNIT_A))


class DynamixelBus:
    """Motors with the given numbers on one bus."""

    def __init__(self, numbers: range = range(1, 9), *, mode: int = VELOCITY_MODE, velocity_limit: int = 330) -> None:
        self.motors = {number: Motor(number) for number in numbers}
        for motor in self.motors.values():
            motor.table[MODE] = mode
            motor.put(VELOCITY_LIMIT, "<I", velocity_limit)
        self._rest = bytearray()
        self._silent_s = 0.0

    def advance(self, dt_s: float) -> bytes:
        """Let ``dt_s`` pass: motors turn, watchdogs bark."""
        self._silent_s += dt_s
        for motor in self.motors.values():
            limit = motor.table[WATCHDOG]
            if 0 < limit < WATCHDOG_BARKED and self._silent_s > limit * WATCHDOG_UNIT_S:
                motor.table[WATCHDOG] = WATCHDOG_BARKED
                motor.put(GOAL_VELOCITY, "<i", 0)
            motor.advance(dt_s)
        return b""

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the host; return what the motors answer."""
        self._rest += data
        out = b""
        while True:
            start = self._rest.find(HEADER)
            if start < 0:
                del self._rest[: max(0, len(self._rest) - len(HEADER) + 1)]
                return out
            del self._rest[:start]
            if len(self._rest) < 7:
                return out
            length = struct.unpack_from("<H", self._rest, 5)[0]
            if not 3 <= length <= 1024:
                del self._rest[:4]
                continue
            if len(self._rest) < 7 + length:
                return out
            whole = bytes(self._rest[: 7 + length])
            if crc16(whole[:-2]) != struct.unpack("<H", whole[-2:])[0]:
                del self._rest[:4]
                continue
            del self._rest[: 7 + length]
            self._silent_s = 0.0
            body = whole[7:-2].replace(b"\xff\xff\xfd\xfd", b"\xff\xff\xfd")
            out += self._run(whole[4], body[0], body[1:])

    def _run(self, number: int, instruction: int, parameters: bytes) -> bytes:
        if instruction == SYNC_WRITE:
            start, length = struct.unpack_from("<HH", parameters)
            for at in range(4, len(parameters) - length, length + 1):
                if parameters[at] in self.motors:
                    self._write(self.motors[parameters[at]], start, parameters[at + 1 : at + 1 + length])
            return b""
        if instruction == SYNC_READ:
            start, length = struct.unpack_from("<HH", parameters)
            named = [self.motors[one] for one in parameters[4:] if one in self.motors]
            return b"".join(self._answer(motor, motor.table[start : start + length]) for motor in named)
        if number not in self.motors:
            return b""
        motor = self.motors[number]
        if instruction == PING:
            return self._answer(motor, struct.pack("<HB", 1020, 46))
        if instruction == READ:
            start, length = struct.unpack("<HH", parameters)
            return self._answer(motor, motor.table[start : start + length])
        if instruction == WRITE:
            return self._answer(motor, b"", self._write(motor, struct.unpack_from("<H", parameters)[0], parameters[2:]))
        if instruction == REBOOT:
            motor.table[TORQUE] = motor.table[HARDWARE_ERROR] = motor.table[WATCHDOG] = 0
            motor.put(GOAL_VELOCITY, "<i", 0)
        return self._answer(motor, b"")

    def _write(self, motor: Motor, start: int, data: bytes) -> int:
        """Set registers; return the error."""
        if start + len(data) > TABLE_BYTES:
            return ERROR_LENGTH
        if start < EEPROM_END and motor.table[TORQUE]:
            return ERROR_ACCESS
        if start == GOAL_VELOCITY:
            goal = abs(struct.unpack_from("<i", data)[0])
            if motor.table[WATCHDOG] == WATCHDOG_BARKED or goal > motor.get(VELOCITY_LIMIT, "<I"):
                return ERROR_RANGE
        if start == TORQUE and data[0] and motor.table[HARDWARE_ERROR]:
            return ERROR_ACCESS
        motor.table[start : start + len(data)] = data
        return 0

    def _answer(self, motor: Motor, data: bytes | bytearray, error: int = 0) -> bytes:
        alert = ALERT if motor.table[HARDWARE_ERROR] else 0
        return packet(motor.number, ANSWER, bytes([error | alert]) + bytes(data))
