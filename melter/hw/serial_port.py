"""Opening a serial port, with a plain word for each way it can fail; bytes with their times for the recording."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import serial
from serial.tools import list_ports

from melter.errors import LinkFault, PortError
from melter.hw.grbl import BAUD

OnBytes = Callable[[Literal["rx", "tx"], float, bytes], None]
"""Called with direction (as the host sees it), monotonic time and the bytes."""

READ_BYTES = 4096
GATHER_S = 0.003
"""Bytes that come in a trickle are taken together: at 115200 baud 35 of them, for an eighth of the waking up."""
WRITE_TIMEOUT_S = 0.25
"""A board that takes no bytes for so long has hung."""


class SerialPort:
    """An exclusively opened port. Opened by ``open``, closed by ``close``; every byte is told to ``on_bytes``."""

    def __init__(
        self,
        device: str,
        on_bytes: OnBytes | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        baud: int = BAUD,
    ) -> None:
        self.device, self.baud = device, baud
        self._on_bytes = on_bytes
        self._clock = clock
        self._serial: serial.Serial | None = None

    def open(self) -> None:
        """Open the port; raises PortError."""
        try:
            port = serial.Serial(self.device, self.baud, timeout=0, write_timeout=WRITE_TIMEOUT_S, exclusive=True)
        except (OSError, ValueError) as error:  # SerialException is an OSError
            raise PortError(_why(self.device, error)) from None
        with contextlib.suppress(OSError, ValueError, AttributeError, NotImplementedError):
            port.set_low_latency_mode(True)  # FTDI adapters otherwise hold bytes for 16 ms
        self._serial = port

    def read(self, timeout_s: float, gather_s: float = GATHER_S) -> bytes:
        """Return what has arrived, waiting ``timeout_s`` at most for a first byte. Raises LinkFault (port gone)."""
        fd: int = self._port().fileno()
        try:
            ready, _, _ = select.select([fd], [], [], timeout_s)
            if not ready:
                return b""
            if gather_s:
                time.sleep(gather_s)
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return b""
        except (OSError, ValueError) as error:
            raise LinkFault(f"hangup: port {self.device} is gone: {_reason(error)}") from None
        if not data:
            raise LinkFault(f"hangup: port {self.device} is gone: it was unplugged or the other end was closed")
        if self._on_bytes is not None:
            self._on_bytes("rx", self._clock(), data)
        return data

    def write(self, data: bytes) -> None:
        """Send all of ``data``. Raises LinkFault when the port is gone or takes no bytes."""
        port = self._port()
        try:
            port.write(data)
        except (OSError, TypeError, ValueError) as error:
            raise LinkFault(f"hangup: port {self.device} takes no bytes: {_reason(error)}") from None
        if self._on_bytes is not None:
            self._on_bytes("tx", self._clock(), data)

    def close(self) -> None:
        """Let go of the port; may be called twice."""
        port, self._serial = self._serial, None
        if port is not None:
            with contextlib.suppress(OSError):
                port.close()

    def _port(self) -> serial.Serial:
        if self._serial is None:
            raise LinkFault(f"hangup: port {self.device} is not open")
        return self._serial


def serial_number(device: str) -> str | None:
    """Return the USB serial number of the adapter behind ``device``, where it has one."""
    real = os.path.realpath(device)
    return next((port.serial_number for port in list_ports.comports() if os.path.realpath(port.device) == real), None)


def device_of(serial_number: str) -> str | None:
    """Return the device name that the adapter with this USB serial number has now."""
    return next((port.device for port in list_ports.comports() if port.serial_number == serial_number), None)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _why(device: str, error: OSError | ValueError) -> str:
    path = Path(device)
    number = getattr(error, "errno", None)
    if not path.exists():
        known = ", ".join(sorted(port.device for port in list_ports.comports())) or "none"
        return f"port {device}: no such device; serial ports here: {known}"
    if number in (errno.EACCES, errno.EPERM):
        group = _group(path)
        return f"port {device}: no permission; join the group {group} (usermod -a -G {group} USER) and log in again"
    if number in (errno.EBUSY, errno.EWOULDBLOCK) or "exclusively lock" in str(error):
        return f"port {device}: busy, another program has it open"
    if number in (errno.ENOTTY, errno.EINVAL) or "configure" in str(error) or not path.is_char_device():
        return f"port {device}: not a serial port"
    return f"port {device}: cannot be opened: {_reason(error)}"


def _group(path: Path) -> str:
    try:
        number = path.stat().st_gid
        return grp.getgrgid(number).gr_name
    except (OSError, KeyError):
        return "dialout"
