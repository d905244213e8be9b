"""When a command may come: once per control period of the host's monotonic clock, on average and in every window."""

from __future__ import annotations

import math

EARLY_PERIODS = 0.5
"""How much of a period a single command may come early; on average none may."""
LATE_SLOWLY_PERIODS = 10
"""What moves slowly may be left alone for longer, until it has gone the same way, but no longer than this."""
LATEST_HOST_S = 1e10
"""A clock beyond this (three centuries) no longer tells one control period from the next."""


class Pace:
    """Counts periods, not calls."""

    def __init__(self, period_s: float, late_periods: int) -> None:
        self.last_s = -math.inf
        """When the last command was approved, or the gate armed."""
        self._period_s, self._longest_s = period_s, (1 + late_periods) * period_s * (1 + 1e-9)
        self._due_s = -math.inf

    def start(self, now_host_s: float) -> None:
        """Start anew; never earlier than what was due before."""
        self.last_s = float(now_host_s)
        self._due_s = max(self._due_s, self.last_s)

    def runs_back(self, now_host_s: float) -> bool:
        """Return whether the clock tells nothing: not finite, before the last command, or too far on."""
        return not self.last_s <= now_host_s <= LATEST_HOST_S

    def rebase(self, now_host_s: float) -> bool:
        """Go on from a clock that ran back, the next command a whole period later; False where that is no time.

        The way to dark must not hang on one reading that was wrong.
        """
        if not -LATEST_HOST_S <= now_host_s <= LATEST_HOST_S:
            return False
        self.last_s, self._due_s = float(now_host_s), now_host_s + (1 + EARLY_PERIODS) * self._period_s
        return True

    def early(self, now_host_s: float) -> str | None:
        """Return when the next command may come where ``now_host_s`` is too early; or None."""
        if now_host_s >= self._due_s - EARLY_PERIODS * self._period_s:
            return None
        return f"too early: next command at {self._due_s:.3f} s, now {now_host_s:.3f} s (host clock)"

    def late(self, now_host_s: float, speed_share: float = 1.0) -> str | None:
        """Return how late ``now_host_s`` is for something that moves; or None.

        ``speed_share``: of the machine's highest speed, that the fastest winch was given last. The cable that the margins keep for
        winches at full speed during two late periods lasts longer at less.
        """
        gap_s, longest_s = now_host_s - self.last_s, self._longest_s
        if gap_s > longest_s:
            longest_s = max(longest_s, min(longest_s / max(speed_share, 1e-9), LATE_SLOWLY_PERIODS * self._period_s))
        if gap_s <= longest_s:
            return None
        return f"late: {gap_s:.3f} s since the last one, at most {longest_s:.3f} s at this speed"

    def sent(self, now_host_s: float) -> None:
        """Book a command."""
        self._due_s = max(self._due_s, now_host_s) + self._period_s
        self.last_s = now_host_s
