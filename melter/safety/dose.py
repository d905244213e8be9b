"""How long and how much light each place of the bed got: cells of 10 mm, forgotten as the sand cools."""

from __future__ import annotations

import math

import numpy as np

CELL_M = 0.010
"""A place is a block of three by three cells: what is brighter than half the peak is smaller than that."""
COOLING_S = 600.0
"""Time constant with which a dose is forgotten; a bead of glass is dull after a minute or two."""
BREAK_S = 1.0
"""Light that stays away for longer than this interrupts a dwell."""
_OUTSIDE_M = 0.2
"""The map reaches this far beyond the polygon; what is further out is booked on its rim."""


class DoseMap:
    """Booked on all nine cells around the spot, so that no walk within one cell's width escapes the sum."""

    def __init__(self, left_m: float, bottom_m: float, right_m: float, top_m: float) -> None:
        self._left_m, self._bottom_m = left_m - _OUTSIDE_M, bottom_m - _OUTSIDE_M
        shape = (
            max(3, math.ceil((right_m - left_m + 2 * _OUTSIDE_M) / CELL_M)),
            max(3, math.ceil((top_m - bottom_m + 2 * _OUTSIDE_M) / CELL_M)),
        )
        self._dose_j_m2, self._dwell_s = np.zeros(shape), np.zeros(shape)
        self._lit_s, self._melted_s = np.full(shape, -np.inf), np.full(shape, -np.inf)

    def add(
        self, x_m: float, y_m: float, peak_w_m2: float, passed_s: float, now_s: float, *, melts: bool
    ) -> tuple[float, float]:
        """Book ``passed_s`` of ``peak_w_m2`` at a spot; return the longest dwell (s) and largest dose (J/m2) there."""
        i, j = self._index(x_m, self._left_m, 0), self._index(y_m, self._bottom_m, 1)
        here = np.s_[i - 1 : i + 2, j - 1 : j + 2]
        forgotten = np.exp(-np.maximum(now_s - self._lit_s[here], 0.0) / COOLING_S)
        self._dose_j_m2[here] = self._dose_j_m2[here] * forgotten + peak_w_m2 * passed_s
        self._lit_s[here] = now_s
        if not melts:
            return 0.0, float(self._dose_j_m2[here].max())
        stayed = now_s - self._melted_s[here] <= passed_s + BREAK_S
        self._dwell_s[here] = np.where(stayed, self._dwell_s[here] + passed_s, passed_s)
        self._melted_s[here] = now_s
        return float(self._dwell_s[here].max()), float(self._dose_j_m2[here].max())

    def _index(self, at_m: float, from_m: float, axis: int) -> int:
        """Index of the cell, such that it has neighbours on both sides."""
        most = self._dose_j_m2.shape[axis] - 2
        return int(min(max((at_m - from_m) / CELL_M, 1), most)) if math.isfinite(at_m) else 1
