"""How long each stage of a tick takes, how evenly ticks come, and how late light becomes a command. Bounded memory.

Times go into bins of 2 % width, so that a percentile costs a few kilobytes whatever the length of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

STAGES = ("capture", "track", "observe", "act", "approve", "send")
"""capture: age of the newest frame when its tick began; track: frame's arrival to its patch; the others: this tick's own work."""
SHORTEST_S, LONGEST_S, STEP = 1e-6, 100.0, 1.02
_BINS = math.ceil(math.log(LONGEST_S / SHORTEST_S, STEP)) + 1


class Spread:
    """Count, mean, largest and percentiles of non-negative numbers, in bins of 2 % width."""

    def __init__(self) -> None:
        self.count, self.largest = 0, 0.0
        self._sum = 0.0
        self._bins: NDArray[np.int64] = np.zeros(_BINS, dtype=np.int64)

    def add(self, value_s: float) -> None:
        """Take in one number; what is not finite is left out, what is below 1 µs counts as that."""
        if not math.isfinite(value_s):
            return
        value_s = max(value_s, 0.0)
        self.count += 1
        self._sum += value_s
        self.largest = max(self.largest, value_s)
        place = math.log(max(value_s, SHORTEST_S) / SHORTEST_S, STEP)
        self._bins[min(int(place), _BINS - 1)] += 1

    def percentile(self, share: float) -> float | None:
        """Return the number that ``share`` (0 to 1) of all lie at or below, 2 % exact; None of nothing."""
        if not self.count:
            return None
        rank = max(1, math.ceil(share * self.count))
        place = int(np.searchsorted(np.cumsum(self._bins), rank))
        return min(SHORTEST_S * STEP ** (place + 1), self.largest)

    def table_ms(self) -> dict[str, float | int | None]:
        """The figures in milliseconds."""
        if not self.count:
            return {"count": 0, "mean": None, "p50": None, "p99": None, "max": None}
        p50, p99 = (round(1e3 * (self.percentile(share) or 0.0), 3) for share in (0.5, 0.99))
        mean = round(1e3 * self._sum / self.count, 3)
        return {"count": self.count, "mean": mean, "p50": p50, "p99": p99, "max": round(1e3 * self.largest, 3)}


class Timing:
    """A loop's stop watch. Monotonic host seconds in; :meth:`table` gives milliseconds."""

    def __init__(self, period_s: float, track_s: Callable[[], float] = lambda: math.nan) -> None:
        """``track_s``: tells how long the newest frame took from its arrival to its patch."""
        self._track_s = track_s
        self.stages = {name: Spread() for name in STAGES}
        self.jitter, self.work, self.reaction = Spread(), Spread(), Spread()
        self.late = 0
        """Ticks that began more than half a period after their time."""
        self._period_s = period_s
        self._due_s = self._begun_s = self._mark_s = math.nan
        self._frame_s = self._looked_s = -math.inf

    def begin(self, due_s: float, now_s: float) -> None:
        """A tick that was due at ``due_s`` begins."""
        self._due_s, self._begun_s, self._mark_s = due_s, now_s, now_s
        self.jitter.add(abs(now_s - due_s))
        self.late += now_s - due_s > 0.5 * self._period_s

    def frame(self, captured_host_s: float | None) -> None:
        """The newest patch of this tick is of a frame that arrived at ``captured_host_s``. Each frame counts once."""
        if captured_host_s is not None and captured_host_s > self._looked_s:
            self._looked_s = captured_host_s
            self.stages["capture"].add(self._begun_s - captured_host_s)
            self.stages["track"].add(self._track_s())

    def mark(self, stage: str, now_s: float) -> None:
        """What was done since the last mark of this tick was ``stage``."""
        self.stages[stage].add(now_s - self._mark_s)
        self._mark_s = now_s

    def sent(self, now_s: float, captured_host_s: float | None) -> None:
        """A command went out; ``captured_host_s``: arrival of the frame behind it. The first command after each frame counts."""
        self.mark("send", now_s)
        self.work.add(now_s - self._begun_s)
        if captured_host_s is not None and captured_host_s > self._frame_s:
            self._frame_s = captured_host_s
            self.reaction.add(now_s - captured_host_s)

    @property
    def reaction_p50_ms(self) -> float | None:
        """Median from a frame's arrival to the first command that used it."""
        found = self.reaction.percentile(0.5)
        return None if found is None else 1e3 * found

    def table(self) -> dict[str, Any]:
        """Every stage, the work of a whole tick, the ticks' jitter, and light to command, in milliseconds."""
        return {
            "stages_ms": {name: spread.table_ms() for name, spread in self.stages.items()},
            "tick_ms": self.work.table_ms(),
            "jitter_ms": self.jitter.table_ms(),
            "light_to_command_ms": self.reaction.table_ms(),
            "late": self.late,
        }
