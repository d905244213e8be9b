"""Learning on the machine: where the light really is, beside where the winch counters put it.

While the machine runs, a Kalman filter fits the offset of the light from the counters' spot: a smooth function of the place
(pulleys, drums, attitude), a lag behind the counters, a part that turns with the direction of motion (backlash, friction), and
the error of the camera's delay. The policy itself stays as it is and goes on correcting what is left: target, measured spot and
its age are handed to it as the map says, so that it steers to where the light will be on the target.

A lag of the winches and a late camera look the same in every frame; only what is known of either beforehand tells them apart.
Taken for a lag, a late camera would put the light ahead of its target.

What makes it safe: the map is bounded, enters slowly, always passes the gate behind the policy, and is used only while it
explains the light better than the policy's own running means do; as soon as it does not, it fades out within a second.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from melter.errors import BadInput
from melter.machine import Machine
from melter.observation import LOOK_AHEAD_S, Measurement, Memory, Plan

Array = NDArray[np.float64]

FORMAT = 1
PLACE = 6
"""Functions of the place for each axis: 1, x, y, x², xy, y² in half bed widths."""
LAG, LATE, TURN = 2 * PLACE, 2 * PLACE + 1, 2 * PLACE + 2
"""Where the filter's state holds the winches' lag (s), the camera's further delay (s), the offset against the motion (m)."""
STATES = 2 * PLACE + 3
TURNING_M_S = 0.001
"""Speed from which the direction of motion counts in full."""
JUMPED = 8.0
"""A frame this many times farther off than usual is not learnt from."""
POLICY_LAGS_S = 1.5
"""How far the policy's own estimate lags behind an offset that changes along the path, about."""
QUICK_S, SLOW_S = 1.0, 5.0
"""Running means of the offset whose distance tells how far the policy's own estimate lags."""


@dataclass(frozen=True, kw_only=True)
class AdaptSettings:
    """How fast and how far the map may learn. Chosen with ``benchmarks/rehearsals.py``."""

    offset_m: float = 0.003
    """How large offset and slope over half the bed may well be."""
    curve_m: float = 0.001
    """The same of the quadratic part."""
    lag_s: tuple[float, float] = (0.03, 0.012)
    """What is known of the winches' lag behind their counters: mean and standard deviation."""
    late_s: tuple[float, float] = (0.0, 0.03)
    """What is known of the camera's delay beyond the machine file's."""
    turn_m: float = 0.0002
    """Offset against the direction of motion that may well be."""
    correlated_s: float = 2.0
    """Wind and creep make frames within this time err alike."""
    forget_s: float = 600.0
    """What was learnt this long ago counts for a third."""
    watch_s: float = 10.0
    """Frames of this long are needed before the map is used at all."""
    judge_s: float = 20.0
    """Over what time the map is judged."""
    better: float = 0.95
    """The map is taken up where the squared lag that it leaves is below this share of that without it."""
    worth_m: float = 0.0002
    """The map is taken up where it would move the light by this much; below, its own errors of 0.1 to 0.2 mm outweigh that."""
    fade_s: float = 1.0
    """Time to take the map up or to let it go."""
    most_m: float = 0.010
    """The map never moves the target by more than this."""


class Adapter:
    """The learned map of one machine; see the module. One call of ``move`` and ``learn`` per tick."""

    def __init__(self, machine: Machine, settings: AdaptSettings | None = None) -> None:
        self.machine, self.settings = machine, settings or AdaptSettings()
        s, self._period_s = self.settings, machine.control.period_s
        self._half_bed_m = np.array(machine.bed.size_m) / 2
        place = [s.offset_m] * 3 + [s.curve_m] * 3
        self._prior = np.diag(np.square([*place, *place, s.lag_s[1], s.late_s[1], s.turn_m]))
        self.state, self.covariance = np.zeros(STATES), self._prior.copy()
        self.state[LAG], self.state[LATE] = s.lag_s[0], s.late_s[0]
        self.share = 0.0
        """How far the map is used now, 0 to 1."""
        self.frames = 0
        self.allowed = True
        """Whether the map may be used; it learns in any case."""
        self._quick, self._slow = np.zeros((2, 2)), np.zeros((2, 2))
        self._lags_m2 = np.zeros(2)
        self._worth_m2 = 0.0
        self._spread_m2 = s.offset_m**2
        self._captured_s = -np.inf

    # -- use ------------------------------------------------------------------------------------------------------

    def offset_m(self, spot_world_m: Array, velocity_m_s: Array) -> Array:
        """Return the map's (..., 2) offset of the light from the counters' spot, for both (..., 2); bounded."""
        place = self._place(spot_world_m) @ self.state[: 2 * PLACE].reshape(2, PLACE).T
        offset = place - self.state[LAG] * velocity_m_s - self.state[TURN] * _direction(velocity_m_s)
        length = np.sqrt((offset * offset).sum(axis=-1, keepdims=True))
        return offset * np.minimum(1.0, self.settings.most_m / np.maximum(length, 1e-9))

    def move(self, plan: Plan, measurement: Measurement) -> tuple[Plan, Measurement]:
        """Return plan and measurement as the policy is to see them: in the counters' world, the camera's delay put right."""
        late_s = self.share * float(self.state[LATE])
        age_s = max(float(measurement.patch_age_s), 1e-3)
        times = np.array([-age_s, 0.0, *LOOK_AHEAD_S])
        points = np.stack([plan.target_at_capture_world_m, plan.target_world_m, *plan.target_ahead_world_m])
        velocity = np.gradient(points, times, axis=0)
        points[0] -= velocity[0] * late_s
        offset = self.share * self.offset_m(points, velocity)
        moved = points - offset
        plan = replace(
            plan, target_at_capture_world_m=moved[0], target_world_m=moved[1], target_ahead_world_m=moved[2:]
        )
        seen, age = measurement.patch_centre_world_m - offset[0], np.maximum(measurement.patch_age_s + late_s, 0.0)
        return plan, replace(measurement, patch_centre_world_m=seen, patch_age_s=age)

    def _place(self, spot_world_m: Array) -> Array:
        u, v = (np.clip(spot_world_m[..., i] / self._half_bed_m[i], -1.5, 1.5) for i in range(2))
        return np.stack([np.ones_like(u), u, v, u * u - 1 / 3, u * v, v * v - 1 / 3], axis=-1)

    # -- learning -------------------------------------------------------------------------------------------------

    def learn(self, memory: Memory, measurement: Measurement, captured_s: float) -> None:
        """Take in a tick: the observation's memory after it, the measurement as it was made, and when its frame was taken."""
        fresh, self._captured_s = captured_s != self._captured_s, captured_s
        if fresh and bool(measurement.patch_seen):
            self._take(memory, measurement)
        step = self._period_s / self.settings.fade_s
        self.share = float(np.clip(self.share + (step if self.allowed and self._better() else -step), 0.0, 1.0))

    def _take(self, memory: Memory, measurement: Measurement) -> None:
        """One frame: compare, judge, learn."""
        periods = float(np.clip(measurement.patch_age_s / self._period_s, 1, len(memory.spots_m) - 2 - 1e-6))
        whole, part = int(periods), periods - int(periods)
        after, at, before = memory.spots_m[whole - 1], memory.spots_m[whole], memory.spots_m[whole + 1]
        if not np.isfinite(before).all():
            return
        spot, velocity = at + (before - at) * part, (after - before) / (2 * self._period_s)
        offset = measurement.patch_centre_world_m - spot
        rows = self._rows(spot, velocity)
        wrong = offset - rows @ self.state
        self.frames += 1
        away = offset - self._quick[0]
        if self.frames * self._period_s > self.settings.watch_s and away @ away > JUMPED**2 * self._spread_m2:
            return
        self._judge(np.stack([offset, wrong]))
        self._weigh(spot, velocity)
        noise_m2 = (1 + 2 * self.settings.correlated_s / self._period_s) * self._spread_m2 / 2
        spread = self.covariance @ rows.T
        gain = spread @ np.linalg.inv(rows @ spread + noise_m2 * np.eye(2))
        self.state = self.state + gain @ wrong
        covariance = self.covariance - gain @ spread.T
        kept = np.exp(-self._period_s / self.settings.forget_s)
        self.covariance = kept * (covariance + covariance.T) / 2 + (1 - kept) * self._prior

    def _rows(self, spot_m: Array, velocity_m_s: Array) -> Array:
        """(2, STATES): how the offset follows from the state."""
        rows = np.zeros((2, STATES))
        rows[0, :PLACE] = rows[1, PLACE : 2 * PLACE] = self._place(spot_m)
        rows[:, LAG] = rows[:, LATE] = -velocity_m_s
        rows[:, TURN] = -_direction(velocity_m_s)
        return rows

    def _judge(self, offsets_m: Array) -> None:
        """Offset (0) as it is and (1) less the map's: how far does a slow mean of it lag behind a quick one?"""
        seconds = self.frames * self._period_s
        shares = [max(self._period_s / span_s, 1 / self.frames) for span_s in (QUICK_S, SLOW_S, self.settings.judge_s)]
        away = offsets_m - self._quick
        self._spread_m2 = max((1 - shares[2]) * self._spread_m2 + shares[2] * float(away[0] @ away[0]), 1e-10)
        self._quick += shares[0] * away
        self._slow += shares[1] * (offsets_m - self._slow)
        if seconds > SLOW_S:
            self._lags_m2 += shares[2] * (np.square(self._quick - self._slow).sum(axis=1) - self._lags_m2)

    def _weigh(self, spot_m: Array, velocity_m_s: Array) -> None:
        """What the map is worth at this feed: at a slow one the policy's own means keep up with what changes along the path."""
        soon = self.offset_m(spot_m + POLICY_LAGS_S * velocity_m_s, velocity_m_s) - self.offset_m(spot_m, velocity_m_s)
        late = self.late_s * velocity_m_s
        share = max(self._period_s / self.settings.judge_s, 1 / self.frames)
        self._worth_m2 += share * (float(soon @ soon + late @ late) - self._worth_m2)

    def _better(self) -> bool:
        if self.frames * self._period_s < self.settings.watch_s:
            return False
        new, least_m = self.share == 0, self.settings.worth_m
        explains = self._lags_m2[1] < (self.settings.better if new else 1.0) * self._lags_m2[0]
        return bool(explains and self._worth_m2 > (1.0 if new else 0.7) * least_m**2)

    @property
    def late_s(self) -> float:
        """By how much the camera is later than the machine file says, as far as known."""
        return float(self.state[LATE])

    # -- records --------------------------------------------------------------------------------------------------

    @property
    def lags_mm(self) -> tuple[float, float]:
        """RMS distance of a slow mean of the offset from a quick one, without the map and with it (mm)."""
        without, left = np.sqrt(self._lags_m2) * 1e3
        return float(without), float(left)

    def as_table(self) -> dict[str, Any]:
        """Return what was learnt, for a file."""
        return {
            "format": FORMAT,
            "machine_sha256": self.machine.sha256,
            "state": self.state.tolist(),
            "covariance": self.covariance.tolist(),
            "lag_s": float(self.state[LAG]),
            "camera_late_s": float(self.state[LATE]),
            "against_motion_m": float(self.state[TURN]),
            "frames": self.frames,
            "share": self.share,
            "lags_mm": self.lags_mm,
            "worth_mm": 1e3 * self._worth_m2**0.5,
        }

    def take_up(self, path: Path) -> None:
        """Go on from what an earlier run learnt. Raises BadInput for another machine's, or what is no such file."""
        try:
            table = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
            state, covariance = np.array(table["state"], float), np.array(table["covariance"], float)
            machine = table["machine_sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            raise BadInput(f"learned {path}: is not what a run learnt on a machine (learned.json)") from None
        if machine != self.machine.sha256:
            raise BadInput(f"learned {path}: belongs to another machine file, not to {self.machine.name}")
        if state.shape != (STATES,) or covariance.shape != (STATES, STATES):
            raise BadInput(f"learned {path}: state {state.shape}, must be ({STATES},)")
        if not (np.isfinite(state).all() and np.isfinite(covariance).all()):
            raise BadInput(f"learned {path}: holds numbers that are not finite")
        covariance = (covariance + covariance.T) / 2
        if (np.linalg.eigvalsh(covariance) < -1e-12).any():
            raise BadInput(f"learned {path}: its covariance is none")
        self.state, self.covariance = state, covariance


def _direction(velocity_m_s: Array) -> Array:
    speed = np.sqrt((velocity_m_s * velocity_m_s).sum(axis=-1, keepdims=True))
    return velocity_m_s / np.maximum(speed, TURNING_M_S)
