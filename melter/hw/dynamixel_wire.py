# pyright: reportUnknownParameterType=false
"""Dynamixel packets over our own serial port: the package makes and checks the packets, this moves the bytes.

The package's own port would poll without sleeping, open ports that are in use and keep wall time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.errors import BadInput, LinkFault, PortError
from melter.hw.dynamixel_bus import ALERT, GOAL_VELOCITY, PRESENT_CURRENT
from melter.hw.serial_port import OnBytes, SerialPort

ANSWER_S = 0.02
"""Longest wait for an answer; motors answer within 1 ms, adapters may hold bytes back for 16 ms."""
FEEDBACK_BYTES = 10
"""Current (2), velocity (4), position (4)."""


@dataclass(frozen=True)
class Feedback:
    """One reading of all motors, (8,) each, in the motors' units."""

    currents: NDArray[np.int64]
    velocities: NDArray[np.int64]
    positions: NDArray[np.int64]
    alerts: tuple[int, ...]
    """Numbers of motors that report a hardware error."""


class Wire:
    """One bus. Every method raises LinkFault when the port is gone or a motor does not answer."""

    def __init__(self, port: str, baud: int, on_bytes: OnBytes | None, clock: Callable[[], float]) -> None:
        self._port = SerialPort(port, on_bytes, clock, baud=baud)
        self._clock = clock
        self._packets: Any = None
        self._group: Any = None
        self._name = port
        self._waiting = b""
        self._until_s = 0.0
        self.is_using = False
        """The package's mark of a packet under way."""

    def open(self) -> None:
        """Open the port. Raises PortError, and BadInput without the package."""
        try:
            from dynamixel_sdk import GroupSyncRead, PacketHandler
        except ImportError:
            raise BadInput(
                "driver dynamixel: the package dynamixel-sdk is missing; pip install melter[dynamixel]"
            ) from None
        self._packets, self._group = PacketHandler(2.0), GroupSyncRead
        self._waiting, self.is_using = b"", False
        self._port.open()

    def close(self) -> None:
        """Let go of the port."""
        self._port.close()

    def ping(self, number: int, winch: str) -> None:
        """Raise PortError unless the motor answers."""
        for _ in range(3):
            _, result, _ = self._packets.ping(self, number)
            if result == 0:
                return
        raise PortError(f"port {self._name}: motor {number} ({winch}) does not answer; are power and baud rate right?")

    def read(self, number: int, address: int, size: int) -> int:
        """Return a register."""
        for _ in range(3):
            data, result, _ = self._packets.readTxRx(self, number, address, size)
            if result == 0 and len(data) == size:
                return int.from_bytes(bytes(data), "little")
        raise LinkFault(f"silence: port {self._name}: motor {number} does not tell register {address}")

    def write(self, number: int, address: int, size: int, value: int) -> None:
        """Set a register and make sure that it was taken."""
        error = 0
        for _ in range(3):
            result, error = self._packets.writeTxRx(self, number, address, size, list(value.to_bytes(size, "little")))
            if result == 0 and not error & ~ALERT:
                return
        told = f"answers error {error}" if error else "does not answer"
        raise LinkFault(f"refused: port {self._name}: motor {number}, register {address} = {value}: it {told}")

    def set_speeds(self, units: list[int]) -> None:
        """Set all goal velocities with one packet."""
        parameters: list[int] = []
        for number, value in enumerate(units, start=1):
            parameters += [number, *value.to_bytes(4, "little", signed=True)]
        self._packets.syncWriteTxOnly(self, GOAL_VELOCITY, 4, parameters, len(parameters))

    def read_all(self, count: int) -> Feedback | None:
        """Return the newest of all motors; None when an answer is missing or damaged."""
        numbers = list(range(1, count + 1))
        request = self._group(self, self._packets, PRESENT_CURRENT, FEEDBACK_BYTES)
        for number in numbers:
            request.addParam(number)
        request.txPacket()
        rows, alerts = np.zeros((count, 3), dtype=np.int64), list[int]()
        for number in numbers:
            data, result, error = self._packets.readRx(self, number, FEEDBACK_BYTES)
            if result != 0 or len(data) != FEEDBACK_BYTES:
                return None
            told = bytes(data)
            parts = told[:2], told[2:6], told[6:]
            rows[number - 1] = [int.from_bytes(part, "little", signed=True) for part in parts]
            if error & ALERT:
                alerts.append(number)
        return Feedback(rows[:, 0], rows[:, 1], rows[:, 2], tuple(alerts))

    # what the package asks of a port

    def clearPort(self) -> None:
        """Forget answers that came too late."""
        self._waiting = b""
        while self._port.read(0.0, gather_s=0.0):
            pass

    def writePort(self, packet: list[int]) -> int:
        """Send."""
        self._port.write(bytes(packet))
        return len(packet)

    def readPort(self, length: int) -> bytes:
        """Return up to ``length`` bytes, waiting for the first until the packet's time is over."""
        if not self._waiting:
            self._waiting = self._port.read(max(0.0, self._until_s - self._clock()), gather_s=0.0)
        taken, self._waiting = self._waiting[:length], self._waiting[length:]
        return taken

    def setPacketTimeout(self, _length: int) -> None:
        """Begin to wait."""
        self._until_s = self._clock() + ANSWER_S

    def setPacketTimeoutMillis(self, milliseconds: float) -> None:
        """Begin to wait."""
        self._until_s = self._clock() + milliseconds * 1e-3

    def isPacketTimeout(self) -> bool:
        """Whether the wait is over."""
        return self._clock() > self._until_s

    def getBaudRate(self) -> int:
        """Bits per second."""
        return self._port.baud
