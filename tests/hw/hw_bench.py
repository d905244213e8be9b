"""A simulated board on a pseudo-terminal, run in real time by a thread, with handles for every kind of trouble."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from melter.hw.board import settings_for
from melter.hw.firmware import Firmware
from melter.hw.pty_port import PtyPort
from melter.machine import load_machine
from melter.safety import gate
from melter.safety.gate import ApprovedCommand

MACHINE = load_machine()
SETTINGS = settings_for(MACHINE)


def command(speeds_m_s, period_s: float = 0.02) -> ApprovedCommand:
    counts = np.rint(np.asarray(speeds_m_s, dtype=float) * period_s * 1e6).astype(np.int64)
    return ApprovedCommand(counts / (period_s * 1e6), counts, period_s, time.monotonic(), 0, gate._KEY)


class Bench:
    """``to_board`` and ``to_host`` may be replaced to damage bytes under way; ``frozen`` stops the board dead."""

    def __init__(self, firmware=None, *, link=None, baud=115200, start: bool = True) -> None:
        self.firmware: Firmware = firmware or Firmware(SETTINGS)
        self.port = PtyPort(link, baud=baud)
        self.to_board: Callable[[bytes], bytes] = lambda data: data
        self.to_host: Callable[[bytes], bytes] = lambda data: data
        self.frozen = False
        self.seen = bytearray()
        self.trace: list[tuple[float, np.ndarray]] = []
        self.deepest = 0
        self._lock = threading.RLock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bench board", daemon=True)
        if start:
            self._thread.start()

    @property
    def path(self) -> str:
        return self.port.path

    def say(self, data: bytes) -> None:
        with self._lock:
            self.port.write(data)

    def do(self, action: Callable[[Firmware], bytes | None]) -> None:
        with self._lock:
            out = action(self.firmware)
            if out:
                self.port.write(out)

    def hang_up(self) -> None:
        self._end.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
        self.port.close()

    def _run(self) -> None:
        last_s = time.monotonic()
        while not self._end.is_set():
            now_s = time.monotonic()
            with self._lock, suppress(OSError):
                data = self.to_board(self.port.read())
                self.seen += data
                out = b""
                if not self.frozen:
                    out = self.firmware.feed(data) if data else b""
                    out += self.firmware.advance(now_s - last_s)
                    if isinstance(self.firmware, Firmware):
                        self.trace.append((now_s, self.firmware.position_m))
                        self.deepest = max(self.deepest, self.firmware.queued)
                self.port.write(self.to_host(out))
            last_s = now_s
            time.sleep(0.001)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.hang_up()


def drive(driver, speeds_of_t, seconds: float, period_s: float = 0.02) -> np.ndarray:
    """Send speeds every period; return the (8,) sum of the counts."""
    total = np.zeros(8, dtype=np.int64)
    start_s = time.monotonic()
    for tick in range(round(seconds / period_s)):
        sent = driver.send(command(speeds_of_t(tick * period_s), period_s))
        total += sent.counts_um
        time.sleep(max(0.0, start_s + (tick + 1) * period_s - time.monotonic()))
    return total


def wait_until(condition: Callable[[], bool], timeout_s: float = 3.0) -> bool:
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if condition():
            return True
        time.sleep(0.002)
    return condition()
