"""How a Grbl-like controller moves: a queue of straight blocks, acceleration ramps, and steps prepared ahead.

Pure and deterministic; part of the simulated firmware. Each block is one straight line in the space of all
axes. Block entry speeds are planned backward and forward so that the queue always ends at rest, corners are
slowed by the junction deviation, and short segments of motion are handed to the step generator a little ahead
of time: what is handed over is carried out, whatever comes next. Millimetres, seconds, steps.
Source: the description of the planner in Grbl's and grblHAL's own documentation (planner and stepper modules).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Steps = NDArray[np.int64]

SEGMENT_S = 0.010
"""Length of one prepared segment (grblHAL: 100 segments per second)."""
MINIMUM_JUNCTION_MM_S = 0.0
"""Grbl's MINIMUM_JUNCTION_SPEED."""
MINIMUM_FEED_MM_S = 1.0 / 60.0
"""Grbl's MINIMUM_FEED_RATE, 1 mm/min."""


@dataclass(frozen=True)
class AxisLimits:
    """What the board's settings say of its axes, each (n,)."""

    steps_per_mm: Array
    rate_mm_s: Array
    acceleration_mm_s2: Array
    junction_deviation_mm: float


@dataclass
class Block:
    """One straight line: what is left of it and how fast it may be entered."""

    per_mm: Array
    """(n,) steps per millimetre along the line, signed."""
    unit: Array
    """(n,) direction in millimetres."""
    target: Steps
    """(n,) where it ends."""
    left_mm: float
    acceleration: float
    nominal: float
    max_entry: float
    entry: float = 0.0


@dataclass
class Segment:
    """Up to SEGMENT_S of motion that is carried out whatever comes next."""

    left_s: float
    rate: Array
    """(n,) steps per second."""
    speed: float
    end: Steps | None
    """(n,) exact position at its end, where it ends a block."""


class Motion:
    """The planner queue, the prepared segments and the step counters of ``axes`` axes."""

    def __init__(self, axes: int, blocks: int, prepared_s: float) -> None:
        self.capacity = blocks
        self._segments_max = max(1, round(prepared_s / SEGMENT_S))
        self._blocks: deque[Block] = deque()
        self._segments: deque[Segment] = deque()
        self._exact = np.zeros(axes)
        self._planned: Steps = np.zeros(axes, dtype=np.int64)
        self._unit: Array | None = None
        self._nominal = 0.0
        self._speed = 0.0
        self._holding = False

    @property
    def steps(self) -> Steps:
        """(n,) step counters."""
        return np.rint(self._exact).astype(np.int64)

    @property
    def planned(self) -> Steps:
        """(n,) where the queue ends, steps."""
        return self._planned

    @property
    def queued(self) -> int:
        """Blocks in the planner queue; what the segments hold alone does not count (as in the board's report)."""
        return len(self._blocks)

    @property
    def free(self) -> int:
        """Blocks that the queue still takes."""
        return self.capacity - len(self._blocks)

    @property
    def moving(self) -> bool:
        """Whether steps are still to be made; a finished hold does not count."""
        return bool(self._segments) or (bool(self._blocks) and not self._held)

    @property
    def _held(self) -> bool:
        return self._holding and self._speed == 0.0

    @property
    def speed_mm_s(self) -> float:
        """Speed along the line now."""
        return self._segments[0].speed if self._segments else 0.0

    def add(self, target: Steps, feed_mm_s: float, limits: AxisLimits) -> bool:
        """Queue a line to ``target`` (n,) steps; False when it is no step long."""
        delta = (target - self._planned).astype(float)
        if not delta.any():
            return False
        unit = delta / limits.steps_per_mm
        length = float(np.sqrt((unit * unit).sum()))
        unit /= length
        acceleration = _within(limits.acceleration_mm_s2, unit)
        nominal = max(min(feed_mm_s, _within(limits.rate_mm_s, unit)), MINIMUM_FEED_MM_S)
        block = Block(
            delta / length, unit, target.copy(), length, acceleration, nominal, self._junction(unit, nominal, limits)
        )
        self._blocks.append(block)
        self._planned, self._unit, self._nominal = block.target, unit, nominal
        self._plan()
        return True

    def brake(self) -> None:
        """Decelerate to rest along the queued lines."""
        self._holding = True

    def resume(self) -> None:
        """Go on after :meth:`brake`."""
        self._holding = False
        self._plan()

    def drop(self) -> None:
        """Forget the queue and stand where the counters are, at once."""
        self._blocks.clear()
        self._segments.clear()
        self._exact = np.rint(self._exact)
        self._planned = self.steps
        self._unit, self._speed, self._holding = None, 0.0, False

    def set_position(self, steps: Steps) -> None:
        """Set the counters; only at rest."""
        self._exact = steps.astype(float)
        self._planned = steps.astype(np.int64)

    def slip(self, steps: Steps) -> None:
        """Add to the counters, and to all that is queued: nothing moves for it."""
        self._exact = self._exact + steps
        self._planned = self._planned + steps
        for block in self._blocks:
            block.target = block.target + steps
        for segment in self._segments:
            segment.end = None if segment.end is None else segment.end + steps

    def advance(self, dt_s: float) -> None:
        """Let ``dt_s`` pass."""
        left_s = dt_s
        while left_s > 0.0:
            self._prepare()
            if not self._segments:
                return
            segment = self._segments[0]
            step_s = min(left_s, segment.left_s)
            self._exact += segment.rate * step_s
            segment.left_s -= step_s
            left_s -= step_s
            if segment.left_s <= 1e-12:
                if segment.end is not None:
                    self._exact = segment.end.astype(float)
                self._segments.popleft()

    def _junction(self, unit: Array, nominal: float, limits: AxisLimits) -> float:
        """Highest speed at the corner between the last line and this one."""
        if self._unit is None or not self._blocks:
            return 0.0
        cosine = float(-(self._unit * unit).sum())
        entry = min(nominal, self._nominal)
        if cosine > 0.999999:
            return MINIMUM_JUNCTION_MM_S
        if cosine < -0.999999:
            return entry
        corner = unit - self._unit
        corner /= np.sqrt((corner * corner).sum())
        sine = math.sqrt(0.5 * (1.0 - cosine))
        acceleration = _within(limits.acceleration_mm_s2, corner)
        return min(entry, math.sqrt(acceleration * limits.junction_deviation_mm * sine / (1.0 - sine)))

    def _plan(self) -> None:
        """Entry speeds: backward so that the queue can end at rest, forward so that they can be reached."""
        exit_speed2 = 0.0
        blocks = list(self._blocks)
        for block in reversed(blocks[1:]):
            block.entry = math.sqrt(min(block.max_entry**2, exit_speed2 + 2 * block.acceleration * block.left_mm))
            exit_speed2 = block.entry**2
        speed2 = self._speed**2
        for before, block in pairwise(blocks):
            speed2 += 2 * before.acceleration * before.left_mm
            speed2 = min(speed2, block.entry**2)
            block.entry = math.sqrt(speed2)

    def _prepare(self) -> None:
        while self._blocks and len(self._segments) < self._segments_max and not self._held:
            self._segments.append(self._next_segment(self._blocks[0]))

    def _next_segment(self, block: Block) -> Segment:
        """Cut the next segment off the first block."""
        exit_speed = 0.0 if self._holding else self._blocks[1].entry if len(self._blocks) > 1 else 0.0
        v, a, dt, left = self._speed, block.acceleration, SEGMENT_S, block.left_mm
        if self._holding:
            after = max(0.0, v - a * dt)
        else:
            root = a * a * dt * dt + 4 * (exit_speed**2 + 2 * a * left - a * v * dt)
            braking = 0.5 * (math.sqrt(root) - a * dt) if root > 0 else 0.0
            after = min(v + a * dt, max(block.nominal, v - a * dt), max(braking, v - a * dt, 0.0))
        duration = v / a if self._holding and after == 0.0 and v > 0 else dt
        length = 0.5 * (v + after) * duration
        ends = length >= left - 1e-9 or (after <= 1e-9 and not self._holding)
        if ends:
            length = left
            mean = max(0.5 * (v + after), 0.5 * math.sqrt(a * left), MINIMUM_FEED_MM_S)
            duration = left / mean
            after = min(after, exit_speed) if not self._holding else after
        segment = Segment(
            duration, block.per_mm * (length / duration), length / duration, block.target if ends else None
        )
        block.left_mm -= length
        self._speed = after
        if ends:
            self._blocks.popleft()
        return segment


def _within(limit: Array, unit: Array) -> float:
    """How much of a per-axis limit a direction allows along the line."""
    share = np.abs(unit)
    used = share > 0
    return float((limit[used] / share[used]).min())
