"""Where the cables are by what was sent, and whether the counters agree."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.machine import WINCH_COUNT, Machine
from melter.safety.limiter import Counts

Array = NDArray[np.float64]

RECKONING_S = 0.5
"""Longest that a board takes to show a command in its counters (grblHAL stops by itself within 0.37 s)."""
JUMP_M = 0.005
"""Difference between counters and commands that is still noise."""
FOLLOWED = 1 / 64
"""Share of that difference that the sum of what was sent follows the counters by, each tick."""
DRIFT_M, DRIFT_SHARE = 0.020, 0.05
"""What it may have followed them since arming, and beside that what share of the way gone: a counter may be off
in gain, but does not wander by itself."""


class Reckoning:
    """The sum of what was sent since arming at known (8,) lengths, kept near the counters."""

    def __init__(self, machine: Machine, lengths_m: Array) -> None:
        self.sent_m: list[float] = lengths_m.tolist()
        """Where the commands lead, by winch."""
        self._names, self._longest_m = [winch.name for winch in machine.winch], machine.limits.cable_length_max_m
        self._drift_m = [0.0] * WINCH_COUNT
        self._recent: deque[tuple[float, Counts]] = deque()
        self._travel_um, self._walked_um = np.zeros((2, WINCH_COUNT), dtype=np.int64)

    def add(self, counts_um: Counts, listed_um: Sequence[int], now_host_s: float) -> None:
        """Book one command, micrometres by winch."""
        travel = np.abs(counts_um)
        self._recent.append((now_host_s, travel))
        self._travel_um += travel
        self._walked_um += travel
        self.sent_m = [a + b * 1e-6 for a, b in zip(self.sent_m, listed_um, strict=True)]

    def compare(self, lengths_m: Sequence[float], now_host_s: float) -> str | None:
        """Return what is wrong with counters of (8,) lengths, a jump or a long drift; or None, and follow them."""
        unseen_um, followed = self._unseen_um(now_host_s), list[float]()
        for winch, (length, sent) in enumerate(zip(lengths_m, self.sent_m, strict=True)):
            off = length - sent
            if not -JUMP_M <= off <= JUMP_M and not abs(off) <= unseen_um[winch] * 1e-6 + JUMP_M:
                return f"winch {self._names[winch]}: counter is {off * 1e3:.1f} mm off what was sent"
            drift = self._drift_m[winch] + off * FOLLOWED
            if not -DRIFT_M <= drift <= DRIFT_M and abs(drift) > DRIFT_M + DRIFT_SHARE * self._walked_um[winch] * 1e-6:
                return f"winch {self._names[winch]}: counter has drifted {drift * 1e3:.1f} mm since arming"
            self._drift_m[winch] = drift
            followed.append(sent + off * FOLLOWED)
        self.sent_m = followed
        return None

    def best_m(self, lengths_m: ArrayLike | None, now_host_s: float) -> Array:
        """Return (8,) measured lengths where they tell of something unexpected, else the sum of what was sent.

        From the unexpected the sum goes on: commands that a broken link swallowed must not be reckoned with for good.
        """
        sent = np.array(self.sent_m)
        lengths = sent if lengths_m is None else np.asarray(lengths_m, dtype=float)
        if lengths.shape != (WINCH_COUNT,):
            return sent
        expected = np.abs(lengths - sent) <= self._unseen_um(now_host_s) * 1e-6 + JUMP_M
        best = np.where(~expected & (lengths > 0) & (lengths <= self._longest_m), lengths, sent)
        self.sent_m = best.tolist()
        return best

    def rebase(self, now_host_s: float) -> None:
        """Take what was sent lately as sent at ``now_host_s``: the clock has run back."""
        self._recent = deque((now_host_s, travel) for _, travel in self._recent)

    def _unseen_um(self, now_host_s: float) -> Counts:
        """(8,) how far the commands of the last half second lead; counters may not show that yet."""
        recent = self._recent
        while recent and recent[0][0] <= now_host_s - RECKONING_S:
            self._travel_um -= recent.popleft()[1]
        return self._travel_um
