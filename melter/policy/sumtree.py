"""Numbers that are changed, summed and drawn from in bulk: a tree of sums with sixteen branches to a node."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
FAN = 16
_BRANCH = np.arange(FAN)


class SumTree:
    """``size`` numbers, zero at first, none below zero, drawn from in proportion (Schaul et al. 2016, appendix B.2.1).

    Every sum is worked out from its parts whenever one of them changes, so that rounding never adds up.
    """

    def __init__(self, size: int) -> None:
        self.size, self._levels = size, list[Array]()
        while True:
            self._levels.append(np.zeros(-(-size // FAN) * FAN))
            size = len(self._levels[-1]) // FAN
            if size == 1:
                break

    @property
    def values(self) -> Array:
        """(size,) the numbers."""
        return self._levels[0][: self.size]

    @property
    def total(self) -> float:
        """Their sum."""
        return float(self._levels[-1].sum())

    def put(self, where: NDArray[np.intp], values: Array | float) -> None:
        """Set the numbers at ``where``; of a place that is named more than once, the last counts."""
        self._levels[0][where] = values
        for lower, upper in zip(self._levels, self._levels[1:], strict=False):
            where = np.unique(where // FAN)
            upper[where] = lower.reshape(-1, FAN)[where].sum(axis=1)

    def find(self, amounts: Array) -> NDArray[np.intp]:
        """Return for each amount, from 0 to below the total, the place where the running sum passes it; never that of a zero."""
        left, node = amounts.copy(), np.zeros(len(amounts), np.intp)
        every = np.arange(len(amounts))
        for level in reversed(self._levels):
            parts = level.reshape(-1, FAN)[node]
            sums = parts.cumsum(axis=1)
            last = FAN - 1 - (parts[:, ::-1] > 0).argmax(axis=1)
            branch = np.minimum((sums <= left[:, None]).sum(axis=1), last)
            left -= sums[every, branch] - parts[every, branch]
            node = node * FAN + _BRANCH[branch]
        return node
