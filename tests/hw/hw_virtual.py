"""Session and simulated board joined by a virtual serial line and clock: deterministic, and faster than real time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hw_bench import MACHINE, SETTINGS

from melter.hw.firmware import Firmware
from melter.hw.pty_port import Pacer
from melter.hw.session import BoardFacts, Session

STEP_S = 0.001


class Virtual:
    """``to_board``/``to_host`` damage bytes under way; ``remedy`` may change what the session sends."""

    def __init__(
        self, firmware: Firmware | None = None, *, baud=115200, buffers: bool = True, latency_s: float = 0.002
    ) -> None:
        self.firmware = firmware or Firmware(SETTINGS)
        self.now_s = 0.0
        self.facts = BoardFacts(np.full(8, 100.0), 1.0, 100 if buffers else None, 1024)
        self.session = Session(MACHINE, self.facts, np.rint(self.firmware.position_m * 1e6).astype(np.int64), 0.0)
        self.to_board: Callable[[bytes], bytes] = lambda data: data
        self.to_host: Callable[[bytes], bytes] = lambda data: data
        self.sent = bytearray()
        self.deepest = 0
        self.positions: list[np.ndarray] = []
        self._down, self._up = Pacer(baud), Pacer(baud)
        self._latency_s = latency_s
        self._late: list[tuple[float, bytes]] = []

    def say(self, data: bytes) -> None:
        if data:
            self.sent += data
            self._down.put(self.to_board(data), self.now_s)

    def hear(self, data: bytes) -> None:
        if data:
            self._up.put(self.to_host(data), self.now_s)

    def step(self) -> None:
        self.now_s += STEP_S
        data = self._down.take(self.now_s)
        if data:
            self._late.append((self.now_s + self._latency_s, data))
        while self._late and self._late[0][0] <= self.now_s:
            self.hear(self.firmware.feed(self._late.pop(0)[1]))
        self.hear(self.firmware.advance(STEP_S))
        heard = self._up.take(self.now_s)
        if heard:
            self.say(self.session.receive(heard, self.now_s))
        self.say(self.session.tick(self.now_s))
        self.deepest = max(self.deepest, self.firmware.queued)
        self.positions.append(self.firmware.position_m)

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> float:
        start_s = self.now_s
        while self.now_s < start_s + seconds - 1e-9:
            self.step()
            if until is not None and until():
                break
        return self.now_s - start_s

    def drive(self, speeds_of_t, seconds: float, period_s: float = 0.02) -> np.ndarray:
        total = np.zeros(8, dtype=np.int64)
        for tick in range(round(seconds / period_s)):
            counts = np.rint(np.asarray(speeds_of_t(tick * period_s)) * period_s * 1e6).astype(np.int64)
            self.say(self.session.push(counts, period_s, self.now_s))
            total += counts
            self.run(period_s)
        return total

    def settle(self, seconds: float = 2.0) -> None:
        self.run(0.05)
        self.run(
            seconds,
            lambda: self.session.stream.at_rest and self.firmware.state == "Idle" and self.session.state == "idle",
        )
        self.run(0.1)

    def error_mm(self, total_um) -> float:
        return float(np.abs(self.firmware.position_m * 1e3 - total_um / 1e3).max())
