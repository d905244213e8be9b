"""The serial line between host and simulated board, as bad as a fault asks for."""

from __future__ import annotations

from collections import deque

import numpy as np


class Line:
    """Passes bytes on, whole and at once, unless told otherwise."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.loss, self.delay_s = 0.0, 0.0
        """Share of bytes lost, and how late answers come."""
        self._rng = rng
        self._late: deque[tuple[float, bytes]] = deque()

    def to_board(self, data: bytes) -> bytes:
        """What of the host's bytes arrives."""
        return self._lossy(data)

    def to_host(self, data: bytes, now_s: float) -> bytes:
        """What arrives at the host now, of these answers and of earlier ones."""
        if data:
            self._late.append((now_s + self.delay_s, self._lossy(data)))
        out = b""
        while self._late and self._late[0][0] <= now_s:
            out += self._late.popleft()[1]
        return out

    def _lossy(self, data: bytes) -> bytes:
        if not data or self.loss <= 0:
            return data
        kept = self._rng.random(len(data)) >= self.loss
        return bytes(byte for byte, keep in zip(data, kept, strict=True) if keep)
