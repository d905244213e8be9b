"""The table of ``melter hw monitor``: what the counters tell, and what follows from it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.geometry.cables import structure_matrix
from melter.geometry.kinematics import Pose, forward_pose
from melter.geometry.reference import reference_tensions_n, weight_n
from melter.hw.driver import MotorStatus, Promises
from melter.machine import Machine
from melter.safety.kinematics import Kinematics

Array = NDArray[np.float64]


class Watch:
    """Takes status after status; speeds are differences of the counters."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._park_m = Kinematics(machine).park_lengths_m
        self._pose = Pose(np.array(machine.park.lens_centre_world_m), np.eye(3))
        self._before: MotorStatus | None = None
        self._status: MotorStatus | None = None
        self._ages_s: list[float] = []
        self.speed_m_s, self.tension_n = np.zeros(len(machine.winch)), self._tensions_n()
        self.fastest_m_s, self.most_w = 0.0, 0.0
        self._current_a: Array | None = None

    def promises(self, promises: Promises) -> str:
        """What link and board can promise, in a line."""
        reports = [name for name in ("position", "speed", "current") if getattr(promises, f"reports_{name}")]
        checks = "checks packets" if promises.checks_packets else "checks no packets"
        return f"{checks}; stands {promises.stops_when_silent_s:.2f} s after silence; reports {', '.join(reports)}"

    def take(self, status: MotorStatus, now_s: float, feedback: Any = None) -> None:
        """Look at a status, ``feedback``: a driver's own readings with ``currents`` in its motors' units."""
        before, self._before, self._status = self._before, status, status
        self._ages_s.append(now_s - status.read_host_s)
        if before is not None and status.read_host_s > before.read_host_s:
            gap_s = status.read_host_s - before.read_host_s
            self.speed_m_s = (status.positions_m - before.positions_m) / gap_s
        self.tension_n = self._tensions_n(status.positions_m)
        self.fastest_m_s = max(self.fastest_m_s, float(np.abs(self.speed_m_s).max()))
        self.most_w = max(self.most_w, float(np.abs(self.power_w).max()))
        if feedback is not None:
            from melter.hw.dynamixel_bus import CURRENT_UNIT_A

            self._current_a = np.asarray(feedback.currents, dtype=float) * CURRENT_UNIT_A

    @property
    def power_w(self) -> Array:
        """(8,) mechanical: tension times the speed at which cable is wound in; negative while it is paid out."""
        return -self.tension_n * self.speed_m_s

    def table(self) -> str:
        """The newest as a table."""
        status = self._status
        if status is None:
            return "nothing read yet"
        current = "" if self._current_a is None else f" {'current':>9}"
        queued = f"{status.queue_depth} queued, newest report {self._ages_s[-1] * 1e3:.0f} ms old"
        rows = [
            f"{status.state}, {queued}",
            f"{'winch':<12} {'position':>12} {'speed':>11} {'tension':>8} {'power':>8}{current}",
        ]
        for i, winch in enumerate(self._machine.winch):
            row = f"{winch.name:<12} {status.positions_m[i] * 1e3:9.3f} mm {self.speed_m_s[i] * 1e3:6.2f} mm/s"
            row += f" {self.tension_n[i]:6.0f} N {self.power_w[i]:6.2f} W"
            rows.append(row if self._current_a is None else f"{row} {self._current_a[i]:7.2f} A")
        return "\n".join([*rows, ""])

    def summary(self, status: MotorStatus) -> dict[str, Any]:
        """What is left at the end, for ``--json``."""
        ages_ms = np.array(self._ages_s or [np.nan]) * 1e3
        seen = bool(self._ages_s)
        return {
            "state": status.state,
            "positions_mm": (status.positions_m * 1000).tolist(),
            "speeds_mm_s": (self.speed_m_s * 1000).tolist(),
            "tensions_n": [round(float(value), 1) if np.isfinite(value) else None for value in self.tension_n],
            "powers_w": [round(float(value), 3) if np.isfinite(value) else None for value in self.power_w],
            "fastest_mm_s": self.fastest_m_s * 1000,
            "most_power_w": self.most_w if np.isfinite(self.most_w) else None,
            "report_age_ms": float(np.median(ages_ms)) if seen else None,
            "report_age_worst_ms": float(ages_ms.max()) if seen else None,
            "currents_a": None if self._current_a is None else self._current_a.round(3).tolist(),
        }

    def _tensions_n(self, positions_m: Array | None = None) -> Array:
        """(8,) tensions that hold the lens where the counters say that it hangs; NaN where they fit no pose."""
        machine, pulleys, attachments = self._machine, self._machine.pulleys_world_m, self._machine.attachments_lens_m
        if positions_m is not None:
            fit = forward_pose(pulleys, attachments, self._park_m + positions_m, self._pose)
            if not fit.converged:
                return np.full(len(machine.winch), np.nan)
            self._pose = fit.pose
        structure = structure_matrix(pulleys, attachments, self._pose.centre_world_m, self._pose.rotation)
        return reference_tensions_n(
            structure[None], weight_n(machine.lens.moving_mass_kg)[None], machine.tension_band_n
        )[0]
