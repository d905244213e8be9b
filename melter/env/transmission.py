"""From the commanded cable speed to the cable that holds the lens: motors, drums, pulleys, and what they lose.

Each winch: a motor with lag, gain error and limited power turns a drum (radius error, build-up, backlash); the cable runs
from the drum, at the foot of the pole, over a pulley with friction to the lens. Drum side and lens side each have their own
tension; cable passes the pulley only while the difference exceeds the friction, so reversals show hysteresis. The lens side
is what MuJoCo simulates. Creep and the cable's wrap on the pulley change its length slowly.

Arrays (n, 8), winch order; positive pays cable out. Elementwise only: the same bits alone and in a batch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from melter.env.physics import Ids, MachineBatch
from melter.machine import WINCH_COUNT, Machine

Array = NDArray[np.float64]

CREEP_TIME_S = 120.0
CREEP_TENSION_N = 100.0
"""``cable_creep`` is the strain that this tension adds in the long run."""
BACKLASH_TENSION_N = 2.0
"""Cable tension that holds a gear against one flank."""
SLIP_TIME_S, FELT_TIME_S = 0.050, 0.020
"""How long cable takes to slip over a pulley when the lens pulls, and over what time a pulley feels tension."""
STEPS_PER_BLOCK = 10
"""Physics steps between two looks at the pulleys' friction."""


def blocks_for(substeps: int) -> int:
    """Return how many blocks of STEPS_PER_BLOCK physics steps make up at least ``substeps``."""
    return -(-substeps // STEPS_PER_BLOCK)


class Transmission:
    """The winches of ``physics``. Arrays hold the state; ``KEPT`` names what a checkpoint needs."""

    KEPT = (
        *("speed_m_s", "counted_m", "tension_n", "felt_n", "drum_tension_n"),
        *("creep", "wrap_m", "play_m", "_leave_rad"),
    )

    def __init__(self, machine: Machine, physics: MachineBatch, block_s: float) -> None:
        self.machine, self.physics, self.block_s = machine, physics, block_s
        n, shape = physics.count, (physics.count, WINCH_COUNT)
        self.speed_m_s = np.zeros(shape)
        """Motor speed."""
        self.counted_m = np.zeros(shape)
        """What the counters say is out."""
        self.drum_tension_n = np.zeros(shape)
        self.tension_n, self.felt_n = np.zeros(shape), np.zeros(shape)
        """At the lens: now, and as the pulleys feel it, smoothed."""
        self._felt_share = -np.expm1(-block_s / FELT_TIME_S)
        self.creep, self.wrap_m, self.play_m = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self.jammed = np.zeros(shape, dtype=bool)
        """Winches whose drums no longer turn, whatever the motor does."""
        self._drum_side_m = machine.drum_side_m
        self._gain, self._build_up = np.ones(shape), np.zeros((n, 1))
        self._speed_gain = np.ones(shape)
        self._lag = np.zeros((n, 1)), np.zeros((n, 1))
        self._loss, self._friction_n = np.zeros((n, 1)), np.zeros((n, 1))
        self._stretch, self._per_stretch, self._slip = np.ones(shape), np.ones(shape), np.ones(shape)
        self._scratch = np.zeros((3, *shape))
        self._drum_spring, self._creep_max, self._backlash_m = np.zeros(shape), np.zeros((n, 1)), np.zeros((n, 1))
        self._radius_m, self._zero_m, self._leave_rad = np.zeros((n, 1)), np.zeros(shape), np.zeros(shape)
        self._side = np.where(machine.pulleys_world_m[:, 2] > machine.park.lens_centre_world_m[2], -1.0, 1.0)

    def configure(self, ids: Ids, values: dict[str, Array], park_lengths_m: Array) -> None:
        """Give the winches of simulations ``ids`` (k,) their own parameters (``melter.env.params``)."""
        self._gain[ids] = drum_gains(values)
        self._build_up[ids], self._speed_gain[ids] = values["drum_build_up_per_m"], values["speed_gain"]
        lag_s = np.maximum(values["motor_lag_s"], 1e-6)
        share = -np.expm1(-self.block_s / lag_s)
        self._lag[0][ids], self._lag[1][ids] = share, share * lag_s / self.block_s
        self._loss[ids], self._friction_n[ids] = values["pulley_loss"], values["pulley_friction_n"]
        spring = values["cable_stiffness_n"] / self._drum_side_m
        self._drum_spring[ids], self._stretch[ids] = spring, spring * self.block_s
        self._per_stretch[ids] = 1 / (spring * self.block_s)
        lens_side = values["cable_stiffness_n"] / np.maximum(park_lengths_m, 0.1)
        self._slip[ids] = spring / (spring + lens_side) * -np.expm1(-self.block_s / SLIP_TIME_S)
        self._creep_max[ids] = values["cable_creep"] / CREEP_TENSION_N
        self._backlash_m[ids], self._radius_m[ids] = values["backlash_m"], values["pulley_radius_m"]
        self._zero_m[ids] = park_lengths_m
        self.jammed[ids] = False

    def start(self, ids: Ids, counted_m: Array, tension_n: Array, drum_tension_n: Array) -> None:
        """Begin at rest: counters (k, 8), tension at the lens and at the drum (k, 8); settled, so nothing creeps or plays."""
        self.speed_m_s[ids], self.counted_m[ids] = 0.0, counted_m
        self.drum_tension_n[ids], self.tension_n[ids], self.felt_n[ids] = drum_tension_n, tension_n, tension_n
        self.creep[ids] = self._creep_max[ids] * tension_n
        self.play_m[ids] = self._backlash_m[ids] * np.minimum(tension_n / BACKLASH_TENSION_N, 1.0)
        self._leave_rad[ids] = self._elevation()[ids]
        self.wrap_m[ids] = 0.0

    def advance(self, asked_m_s: Array) -> None:
        """Run all blocks of one period: asked speeds (n, blocks, 8), averages over each block."""
        physics, dt = self.physics, self.block_s
        period_s = dt * asked_m_s.shape[1]
        slow = self._slow_changes(period_s) * (1 / period_s)
        gain = self._gain * (1 - self._build_up * (self.counted_m - self._zero_m))
        if self.jammed.any():
            gain[self.jammed] = 0.0
        physics.set_springs()
        power_w = self.machine.limits.power_max_w
        for block in range(asked_m_s.shape[1]):
            motor = asked_m_s[:, block] * self._speed_gain
            change = motor - self.speed_m_s
            self.speed_m_s += change * self._lag[0]
            motor -= change * self._lag[1]
            np.maximum(motor, -power_w / np.maximum(self.tension_n, 1.0), out=motor)
            self.counted_m += motor * dt
            motor *= gain
            np.add(self._pass_pulleys(motor), slow, out=physics.pay_out_m_s)
            physics.run(STEPS_PER_BLOCK)
            self.tension_n = physics.tension_n
            self.felt_n += (self.tension_n - self.felt_n) * self._felt_share

    def _pass_pulleys(self, turning_m_s: Array) -> Array:
        """(n, 8) speed at which cable passes the pulleys in the coming block, the drums turning at ``turning_m_s``.

        A pulley holds a difference of tension up to its friction. What a drum turns beyond that passes at once; what a change
        of the lens's pull is beyond that passes within about SLIP_TIME_S, slower than the cables swing.
        """
        drum, (hold, fall, over) = self.drum_tension_n, self._scratch
        np.multiply(self.felt_n, self._loss, out=hold)
        hold += self._friction_n
        low = -hold
        apart = self.felt_n - drum
        before = apart - np.minimum(np.maximum(apart, low), hold)
        np.multiply(turning_m_s, self._stretch, out=fall)
        apart += fall
        np.subtract(apart, np.minimum(np.maximum(apart, low), hold), out=over)
        over -= before
        before *= self._slip
        before += over  # newtons on the drum's side
        drum += before
        drum -= fall
        before *= self._per_stretch
        return before

    def _slow_changes(self, period_s: float) -> Array:
        """Lens-side cable gained this period by creep, wrap on the pulley, and play in the gears."""
        tension = self.tension_n
        creep = (self._creep_max * tension - self.creep) * -np.expm1(-period_s / CREEP_TIME_S)
        self.creep += creep
        play = self._backlash_m * np.minimum(tension * (1 / BACKLASH_TENSION_N), 1.0)
        turned = self._elevation() - self._leave_rad
        wrap = turned * turned * turned * (1 / 6) * self._radius_m * self._side
        gained = creep * self.physics.unwound_m + (play - self.play_m) - (wrap - self.wrap_m)
        self.play_m, self.wrap_m = play, wrap
        return gained

    def _elevation(self) -> Array:
        """(n, 8) angle at which cables leave their pulleys, up from level."""
        sine = self.physics.rise_m
        sine /= np.maximum(self.physics.unwound_m, 0.1)
        return np.arcsin(np.minimum(np.maximum(sine, -1.0), 1.0))


def drum_gains(values: dict[str, Array]) -> Array:
    """Return (n, 8) cable per counted cable: what all drums share, times each one's own."""
    return values["drum_gain"] * (1 + values["drum_spread"])
