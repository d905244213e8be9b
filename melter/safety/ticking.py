"""One machine's gate, tick after tick, on an imagined machine: what a tick costs and whether memory grows."""

from __future__ import annotations

import gc
import time
import tracemalloc
from dataclasses import dataclass

import numpy as np

from melter.geometry.pose import sun_direction_world
from melter.machine import Machine
from melter.safety.drill import work_states
from melter.safety.gate import Gate
from melter.safety.kinematics import Kinematics

_BACK_AND_FORTH = 32
_SPEED_M_S = 0.02


@dataclass(frozen=True)
class TickCost:
    """What ticks cost."""

    ticks: int
    median_s: float
    p99_s: float
    grown_bytes: int
    """Memory held after all ticks less what was held after a tenth of them, as Python counts it."""


class Ticking:
    """A lens that goes back and forth over the bed, its gate armed; never the same place twice running."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._period_s = machine, machine.control.period_s
        self._sun = sun_direction_world(machine.sun.zenith_rad, machine.sun.azimuth_rad)
        self._start_m = work_states(machine, np.array([[0.0, 0.0]]), self._sun)[0]
        kinematics = Kinematics(machine)
        found = kinematics.forward(self._start_m, kinematics.park)
        pose = kinematics.park if found is None else found[0]
        self._request = kinematics.jacobian(pose) @ (_SPEED_M_S * np.array([0.8, 0.6, 0, 0, 0, 0]))
        self._now_s = 0.0
        self._begin()

    def _begin(self) -> None:
        self.gate, self._count, self._lengths_m = Gate(self._machine), 0, self._start_m.copy()
        self._now_s += 1.0
        self.gate.arm(self._now_s, self._lengths_m, sun_world=self._sun)

    def tick(self) -> float:
        """Approve one command; return what it took, seconds. A new gate where the light has been long enough."""
        if self._count >= 20 * _BACK_AND_FORTH:
            self._begin()
        way = 1 if self._count // _BACK_AND_FORTH % 2 == 0 else -1
        self._count += 1
        self._now_s += self._period_s
        request, now_s = way * self._request, self._now_s
        started_s = time.perf_counter()
        command = self.gate.approve(request, self._lengths_m, now_s, measured_host_s=now_s)
        took_s = time.perf_counter() - started_s
        self._lengths_m = self._lengths_m + command.counts_um * 1e-6
        return took_s

    def measure(self, ticks: int = 5000) -> TickCost:
        """Return what ``ticks`` ticks cost; memory is watched over as many again."""
        took = np.array([self.tick() for _ in range(ticks)])
        grown = self.grown_bytes(ticks)
        return TickCost(ticks, float(np.median(took)), float(np.percentile(took, 99)), grown)

    def grown_bytes(self, ticks: int) -> int:
        """Return how many bytes more are held after ``ticks`` ticks than after a tenth of them."""
        gc.collect()
        tracemalloc.start()
        try:
            self._begin()
            for _ in range(ticks // 10):
                self.tick()
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(ticks - ticks // 10):
                self.tick()
            gc.collect()
            return tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
