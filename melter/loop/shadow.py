"""A shadow of the machine: where the spot should be by the winch counters, and how far from there the camera sees it.

Each tick the counters' spot at the moment of the newest frame (the quasi-static model of ``melter.observation``), moved by a
slowly learned offset, is the prediction. Counters follow what motors were told; a motor that stands, a cable that slips or
breaks show in the light alone. Two gaps are watched: a jump, against what is usual on this machine in this wind, and a
drift, against how far the light has travelled meanwhile. Arrays have any leading batch shape ``...``, so that the bounds
are chosen on thousands of simulated machines by the very code that watches the real one (``benchmarks/shadow.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.errors import Fault
from melter.observation import MEMORY_S, Measurement, Memory

Array = NDArray[np.float64]

USUAL_S, DRIFT_S = 15.0, 30.0
"""Over what time the usual gap is learned, and the offset that a drift is counted from."""
FIRST_S, LEARN_S = 0.5, 4.0
"""Frames of this long are needed before a gap says anything, and before what is usual is known."""
CLIPPED = 3.0
"""What is learned as usual is cut at this many times what was usual before."""


@dataclass(frozen=True)
class ShadowBounds:
    """From where on a gap is a fault: chosen by ``benchmarks/shadow.py`` for less than one false alarm in ten hours."""

    jump: float = 4.5
    """The jump over what is usual."""
    usual_min_m: float = 0.0004
    """The usual gap is taken for at least this."""
    first_m: float = 0.010
    """A jump before what is usual is known."""
    drift_m: float = 0.0035
    drift_per_m: float = 0.02
    """A drift may have this, and so much per metre that the light has travelled in the last half minute."""


class Shadow:
    """Watches the gaps of machines, tick by tick; see the module."""

    def __init__(self, period_s: float, bounds: ShadowBounds | None = None, shape: tuple[int, ...] = ()) -> None:
        self.bounds, self._period_s, self._shape = bounds or ShadowBounds(), period_s, shape
        self._shares = -np.expm1(-period_s / np.array(MEMORY_S))
        self.forget()

    def forget(self) -> None:
        """Start anew: the lens has come into work."""
        shape = self._shape
        self.gap_m: Array = np.zeros(shape)
        """(...) distance between prediction and light, smoothed over 0.2 s."""
        self.drift_m: Array = np.zeros(shape)
        """(...) how far the offset has moved over half a minute."""
        self.usual_m: Array = np.full(shape, self.bounds.usual_min_m)
        """(...) the usual gap."""
        self.jump_share: Array = np.zeros(shape)
        self.drift_share: Array = np.zeros(shape)
        """(...) gap and drift over their bounds: a fault from 1."""
        self._memory = Memory.empty(shape)
        self._frames: Array = np.zeros(shape)
        self._offset_m, self._spot_m = np.zeros((*shape, 2)), np.zeros((*shape, 2))

    def see(self, spot_m: Array, measurement: Measurement) -> dict[str, Any]:
        """Take in one machine's tick; return what is worth recording. Raises Fault when a gap is beyond its bound.

        ``spot_m``: (2,) where the winch counters put the spot now. ``measurement``: as the camera tells it, nothing learnt in it.
        """
        self.step(spot_m, measurement)
        jump, drift = float(self.jump_share), float(self.drift_share)
        if max(jump, drift) >= 1:
            apart, what = (self.gap_m, "jumped away from") if jump >= drift else (self.drift_m, "drifted away from")
            limit_mm = 1e3 * float(apart) / max(jump, drift)
            raise Fault(
                f"shadow: the light {what} where the winch counters put it by {1e3 * float(apart):.1f} mm "
                f"(limit {limit_mm:.1f} mm): a winch that stands, a slack or broken cable, or a tracker misled"
            )
        return {"gap_m": float(self.gap_m), "gap_share": max(jump, drift)}

    def step(self, spot_m: Array, measurement: Measurement) -> None:
        """Take in a tick of all machines: (..., 2) where the counters put the spots, and what the cameras tell."""
        seen, memory = measurement.patch_seen, self._memory
        age_periods = measurement.patch_age_s * (1 / self._period_s)
        memory.add(spot_m, measurement.patch_centre_world_m, seen, age_periods, self._shares)
        bounds, frames = self.bounds, self._frames + seen
        self._frames = frames
        fast, middle, slow = (memory.offset_m[..., i] for i in range(3))
        gap = fast - slow
        square = gap[..., 0] ** 2 + gap[..., 1] ** 2
        share = seen * np.maximum(self._period_s / DRIFT_S, 1 / np.maximum(frames, 1))
        self._offset_m = self._offset_m + share[..., None] * (middle - self._offset_m)
        self._spot_m = self._spot_m + share[..., None] * (spot_m - self._spot_m)
        moved = middle - self._offset_m
        travelled = spot_m - self._spot_m
        self.gap_m, self.drift_m = np.sqrt(square), np.hypot(moved[..., 0], moved[..., 1])
        way_m = np.hypot(travelled[..., 0], travelled[..., 1])
        seen_s = frames * self._period_s
        known = seen & (seen_s > LEARN_S)
        jump_m = np.where(known, bounds.jump * self.usual_m, bounds.first_m)
        self.jump_share = (seen & (seen_s > FIRST_S)) * self.gap_m / jump_m
        self.drift_share = known * self.drift_m / (bounds.drift_m + bounds.drift_per_m * way_m)
        self._learn(square, seen)

    def _learn(self, square_m2: Array, seen: NDArray[np.bool_]) -> None:
        before = self.usual_m**2
        share = seen * np.maximum(self._period_s / USUAL_S, 1 / np.maximum(self._frames, 1))
        after = before + share * (np.minimum(square_m2, CLIPPED**2 * before) - before)
        self.usual_m = np.sqrt(np.maximum(after, self.bounds.usual_min_m**2))
