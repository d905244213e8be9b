"""Going dark in the randomised simulator: from states at work, with one fault each, by the safety layer's own way.

The drill of :mod:`melter.safety.drill` is kinematic; here lenses swing, cables stretch, commands arrive late and the
weather goes on. Everything the layer knows is what was sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from melter.env.batch import SandMelterBatch
from melter.env.scenario import TRAIN
from melter.machine import WINCH_COUNT, Machine
from melter.observation import COMMANDS_KEPT
from melter.safety.beam import SCATTERED_W_M2, KeepIn, melting_w_m2
from melter.safety.drill import SAFE_W_M2, DarkDrill
from melter.safety.kinematics import Pose
from melter.safety.limiter import Counts, limit_command
from melter.safety.lowering import Lowering

Array = NDArray[np.float64]
Act = Callable[[NDArray[np.float32]], NDArray[np.float32]]

FAULTS = ("dead winch", "frozen camera", "slack cable", "cut serial line")
"""What strikes: a drum that no longer turns while its counter goes on; the picture stands still; a cable gains 50 to
300 mm that nobody counted; no byte arrives any more."""
WARM_S = (1.0, 3.0)
"""The policy drives for this long before a fault strikes."""
UNSEEN_S = 0.6
"""The policy drives on for this long after it: the longest that the session lets an unseen light pass."""
BOARD_S = 0.37
"""What the board still does after its line is cut."""
NO_LINE = "a cut line: nothing reaches the winches, the light stays until a shutter falls"
HELD_UP = "an upper winch that stands still: its cable holds a corner of the lens up"
DARK_S = 5.5
"""Simulated after the way to dark began."""


def dark_drill(
    machine: Machine,
    act: Act,
    count: int,
    rng: np.random.Generator,
    *,
    threads: int = 1,
    progress: Callable[[float], None] = lambda _: None,
) -> DarkDrill:
    """Drive ``count`` machines of the randomised simulator with ``act``, strike each with a fault, and go dark."""
    scenario = replace(TRAIN, episode_s=WARM_S[1] + UNSEEN_S + DARK_S + 1.0)
    batch = SandMelterBatch(machine, count, scenario, threads)
    seed = int(rng.integers(2**31))
    batch.reset(np.arange(count), np.full(count, seed), np.arange(count))
    drill = _Drill(batch, act, rng, progress)
    return drill.run()


@dataclass(eq=False)
class _Lane:
    """What the layer knows of one machine on its way to dark."""

    pose: Pose | None = None
    ticks_dark: int = 0


class _Drill:
    def __init__(
        self, batch: SandMelterBatch, act: Act, rng: np.random.Generator, progress: Callable[[float], None]
    ) -> None:
        self.batch, self.act, self.progress = batch, act, progress
        machine, count = batch.machine, batch.count
        self.lowering, self.limits = Lowering(machine, batch.limits), batch.limits
        self.keep_in, self.melting = KeepIn(machine), melting_w_m2(machine)
        rate = machine.control.rate_hz
        self.strike = rng.integers(round(WARM_S[0] * rate), round(WARM_S[1] * rate) + 1, count)
        self.fault = rng.permutation(np.arange(count) % len(FAULTS))
        self.winch = rng.integers(0, WINCH_COUNT, count)
        self.slack_m = rng.uniform(0.05, 0.30, count)
        self.dark = self.strike + round(UNSEEN_S * rate)
        self.ticks = round((WARM_S[1] + UNSEEN_S + DARK_S) * rate)
        self.board = round(BOARD_S * rate)
        self.lanes = [_Lane() for _ in range(count)]
        self.sent_m = batch.counted_m.copy()
        self.frozen: NDArray[np.float32] | None = None

    def run(self) -> DarkDrill:
        """Run all ticks; return what came out."""
        batch, count = self.batch, self.batch.count
        peaks, outside = np.zeros((count, self.ticks)), np.zeros((count, self.ticks), dtype=bool)
        held = np.ones(count, dtype=bool)
        for tick in range(self.ticks):
            self._strike(np.flatnonzero(self.strike == tick))
            state = batch.drive(self._commands(tick))
            peaks[:, tick] = np.nan_to_num(state.peak_w_m2, nan=SCATTERED_W_M2, posinf=np.inf)
            spots = state.spot_world_m
            for row in np.flatnonzero(peaks[:, tick] >= self.melting):
                outside[row, tick] = not self.keep_in.contains(spots[row])
            held &= (tick >= self.strike) | (state.tensions_n.max(axis=1) < batch.machine.limits.tension_trip_n)
            self.lit = peaks[:, tick] >= 0.5 * SAFE_W_M2
            self.progress((tick + 1) / self.ticks)
        return self._result(peaks, outside, held)

    def _strike(self, rows: NDArray[np.intp]) -> None:
        for row in rows:
            name, winch = FAULTS[self.fault[row]], self.winch[row]
            if name == "dead winch":
                self.batch.winches.jammed[row, winch] = True
            elif name == "slack cable":
                self.batch.physics.unwound_m[row, winch] += self.slack_m[row]

    def _commands(self, tick: int) -> Counts:
        """(n, 8) what every machine is sent: by its policy, or by the layer on the way to dark."""
        batch, limits = self.batch, self.limits
        seen = batch.builder.build(
            batch.measurement(), batch.plan(), batch.commands_m_s[:, :COMMANDS_KEPT], batch.reference, batch.memory
        )
        if self.frozen is None:
            self.frozen = seen.copy()
        self.frozen = np.where((tick < self.strike)[:, None], seen, self.frozen)
        still = (self.fault == FAULTS.index("frozen camera"))[:, None] & (tick >= self.strike)[:, None]
        action = self.act(np.where(still, self.frozen, seen).astype(np.float32)).astype(float)
        requested = np.clip(action, -1, 1) * batch.machine.limits.speed_normal_m_s
        counts = limit_command(requested, batch.command_um, limits.um(self.sent_m), None, limits)
        for row in np.flatnonzero(tick >= self.dark):
            counts[row] = self._lower(int(row))
        cut = (self.fault == FAULTS.index("cut serial line")) & (tick >= self.strike + self.board)
        counts[cut] = 0  # whatever is sent, the board has stopped
        self.sent_m += counts * 1e-6
        return counts

    def _lower(self, row: int) -> Counts:
        lane, previous = self.lanes[row], self.batch.command_um[row]
        if self.fault[row] == FAULTS.index("cut serial line"):
            return previous
        lane.ticks_dark = 0 if self.lit[row] else lane.ticks_dark + 1
        if lane.ticks_dark > round(0.5 * self.batch.machine.control.rate_hz):  # dark for good: it may stop here
            step = self.limits.acceleration_um // 4
            return np.clip(0, previous - step, previous + step)
        step = self.lowering.step(self.sent_m[row], previous, None, lane.pose)
        lane.pose = step.pose
        return step.speeds_um

    def _result(self, peaks: Array, outside: NDArray[np.bool_], held: NDArray[np.bool_]) -> DarkDrill:
        period_s = self.batch.machine.control.period_s
        n = np.arange(self.batch.count)
        after = np.arange(self.ticks) >= self.dark[:, None]
        start = self.dark
        return DarkDrill(
            fault=np.array(FAULTS)[self.fault],
            winch=self.winch,
            zenith_rad=self.batch.measurement().sun_zenith_rad.copy(),
            excused=self._excuses(),
            bright_before=peaks[n, self.strike] >= self.melting,
            held=held,
            melting_s=_last(peaks >= self.melting, start) * period_s,
            bright_s=_last(peaks >= SAFE_W_M2, start) * period_s,
            outside=np.asarray((outside & after).any(axis=1)),
            reported_s=UNSEEN_S,
            peaks_w_m2=np.stack([peaks[i, s : s + round(DARK_S / period_s)] for i, s in enumerate(start)]),
            period_s=period_s,
        )

    def _excuses(self) -> NDArray[np.str_]:
        """What the safety layer cannot help, by machine."""
        machine = self.batch.machine
        upper = machine.pulleys_world_m[self.winch, 2] > machine.park.lens_centre_world_m[2]
        held_up = (self.fault == FAULTS.index("dead winch")) & upper
        cut = self.fault == FAULTS.index("cut serial line")
        return np.where(cut, NO_LINE, np.where(held_up, HELD_UP, ""))


def _last(above: NDArray[np.bool_], start: NDArray[np.int_]) -> Array:
    """Ticks from ``start`` until nothing is above any more; infinite where the end still is."""
    ticks = above.shape[1]
    after = above & (np.arange(ticks) >= start[:, None])
    last = ticks - np.argmax(after[:, ::-1], axis=1)
    found = np.where(after.any(axis=1), last - start, 0).astype(float)
    return np.where(above[:, -1], np.inf, found)
