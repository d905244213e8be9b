"""The limiter for many machines at once, where some of what comes in is broken."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.safety.limiter import UM_PER_M, Counts, TickLimits, limit_command

Array = NDArray[np.float64]


def limit_each(
    requested_m_s: Array,
    previous_um: Counts,
    lengths_m: Array,
    tension_n: Array | None,
    limits: TickLimits,
    *,
    speed_um: int | None = None,
) -> tuple[Counts, NDArray[np.bool_]]:
    """Return allowed speeds (n, 8), micrometres per period, and which machines (n,) were refused and brake fully.

    ``requested_m_s``, ``lengths_m`` and ``tension_n`` (n, 8) may hold anything. A machine is refused for a number
    that is not finite, and for a cable length that no cable has.
    """
    longest_m = 2 * limits.length_max_um / UM_PER_M
    given: Any = np.isfinite(requested_m_s).all(axis=1) & ((lengths_m > 0) & (lengths_m < longest_m)).all(axis=1)
    good: NDArray[np.bool_] = given
    if tension_n is not None:
        good = good & np.isfinite(tension_n).all(axis=1)
    row = good[:, None]
    tension = None if tension_n is None else np.where(row, tension_n, limits.tension_max_n)
    requested = np.where(row, requested_m_s, 0.0)
    length_um = limits.um(np.where(row, lengths_m, 0.5 * (limits.length_min_um + limits.length_max_um) / UM_PER_M))
    counts = limit_command(requested, previous_um, length_um, tension, limits, speed_um=speed_um)
    braked = np.minimum(np.maximum(0, previous_um - limits.acceleration_um), previous_um + limits.acceleration_um)
    return np.where(row, counts, braked), ~good
