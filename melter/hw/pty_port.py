"""A pseudo-terminal that a device simulation serves, as if it were a board on a serial port."""

from __future__ import annotations

import contextlib
import errno
import os
import time
import tty
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from melter.errors import PortError

READ_SIZE = 4096
BITS_PER_BYTE = 10
"""Start bit, eight data bits, stop bit."""


class Pacer:
    """Lets bytes through no faster than a serial line of ``baud`` would; None lets all through at once."""

    def __init__(self, baud: int | None) -> None:
        self._byte_s = BITS_PER_BYTE / baud if baud else 0.0
        self._waiting = bytearray()
        self._free_s = 0.0

    def put(self, data: bytes, now_s: float) -> None:
        """Queue bytes at ``now_s``."""
        if not self._waiting:
            self._free_s = max(self._free_s, now_s)
        self._waiting += data

    def take(self, now_s: float) -> bytes:
        """Return the bytes whose last bit has arrived by ``now_s``."""
        count = len(self._waiting)
        if self._byte_s:
            count = min(count, max(0, int((now_s - self._free_s) / self._byte_s)))
        out = bytes(self._waiting[:count])
        del self._waiting[:count]
        self._free_s += count * self._byte_s
        return out


class PtyPort:
    """The device's end of a pseudo-terminal; ``path`` is what a host opens. Opened here, closed by ``close``.

    ``link``: a symbolic link to keep pointing to it, so that its name is stable. ``baud`` paces both directions.
    Raises PortError where no pseudo-terminal can be had or the link's place is taken.
    """

    def __init__(
        self, link: str | Path | None = None, baud: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._to_host, self._from_host = Pacer(baud), Pacer(baud)
        self._link = Path(link) if link is not None else None
        try:
            self._device_fd, self._host_fd = os.openpty()
        except OSError as error:
            raise PortError(f"pseudo-terminal: cannot be opened: {error.strerror}") from None
        # The host's end stays open here too: hosts come and go without the device's end hanging up.
        tty.setraw(self._host_fd)
        os.set_blocking(self._device_fd, False)
        self._path = os.ttyname(self._host_fd)
        self._open = True
        try:
            self._make_link()
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> str:
        """What a host opens: the link where there is one."""
        return str(self._link) if self._link is not None else self._path

    def read(self) -> bytes:
        """Return the bytes that arrived from the host; never blocks."""
        now_s = self._clock()
        while True:
            try:
                data = os.read(self._device_fd, READ_SIZE)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.EIO and self._open:  # not when hung up meanwhile from another thread
                    raise
                break
            if not data:
                break
            self._from_host.put(data, now_s)
            if len(data) < READ_SIZE:
                break
        self._flush(now_s)
        return self._from_host.take(now_s)

    def write(self, data: bytes) -> None:
        """Send bytes to the host; what the line or a host that does not read holds back goes out with later calls."""
        now_s = self._clock()
        self._to_host.put(data, now_s)
        self._flush(now_s)

    def close(self) -> None:
        """Hang up: a host that still has the port open sees it gone. May be called twice."""
        if not self._open:
            return
        self._open = False
        for fd in (self._host_fd, self._device_fd):
            with contextlib.suppress(OSError):
                os.close(fd)
        if self._link is not None and self._link.is_symlink() and str(self._link.readlink()) == self._path:
            self._link.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _flush(self, now_s: float) -> None:
        """Write what the line's speed allows; with a full terminal buffer (a host that never reads) bytes are lost."""
        data = self._to_host.take(now_s)
        while data:
            try:
                data = data[os.write(self._device_fd, data) :]
            except OSError:
                return

    def _make_link(self) -> None:
        if self._link is None:
            return
        if self._link.is_symlink():
            self._link.unlink()
        elif self._link.exists():
            raise PortError(f"port link {self._link}: a file stands there that is not a link; choose another name")
        try:
            self._link.symlink_to(self._path)
        except OSError as error:
            raise PortError(f"port link {self._link}: cannot be made: {error.strerror}") from None
