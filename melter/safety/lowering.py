"""The way to dark: cable speeds that lower the lens to park, whatever drove it before.

Pure functions of cable lengths. The gate passes what comes out of here through the same limits as any
other command.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.machine import Machine
from melter.safety.kinematics import Kinematics, Pose, towards
from melter.safety.limiter import Counts, TickLimits, allowed_interval, share_power

Array = NDArray[np.float64]


APPROACH_S = 0.5
"""Time constant of the last stretch: counters that are a quarter of a second late still lead to rest."""
SPEED_SHARE = 0.90
"""Of the highest speed, that the way to dark uses: what is left is for drums that wind more than they count, and for a
board that makes up what it falls behind."""
ARRIVED_M = 0.0005
"""Closer than this is there."""
DARK_SHARE = 0.42
"""Defocus over focal length where the light counts as spread: its cone is a sixth of the area of the lens there."""


CLEARANCE_M = 0.08
"""What stays between sand and the lowest part of the lens, where it goes lower than park to be dark."""


@dataclass(frozen=True, eq=False)
class LoweringStep:
    """One tick on the way to dark."""

    speeds_um: Counts
    """(8,) allowed cable speeds, micrometres per period."""
    pose: Pose | None
    """Where the lens was taken to be; None when the lengths fit no pose."""
    slack_winch: int | None
    """The winch whose cable was left out."""


class Lowering:
    """The lowering path of one machine."""

    def __init__(self, machine: Machine, limits: TickLimits) -> None:
        self._limits = limits
        self.kinematics = Kinematics(machine)
        self._focal_m, self._sand_m = machine.lens.focal_length_m, machine.sand.height_m
        self._dark_m = DARK_SHARE * machine.lens.focal_length_m
        edges = 0.5 * np.array([machine.lens.short_edge_m, machine.lens.long_edge_m, 0.0])
        signs = np.array([(i, j, 0) for i in (-1, 1) for j in (-1, 1)])
        self._corners = np.concatenate([edges * signs, machine.attachments_lens_m])

    def step(self, lengths_m: Array, previous_um: Counts, tension_n: Array | None, guess: Pose | None) -> LoweringStep:
        """Return the speeds of one tick towards park, as fast as the limits allow.

        ``lengths_m`` (8,) stress-free cable out. One common factor slows all winches down together, so that
        the lens stays on its line; where the limits around ``previous_um`` leave no factor, each winch does
        the nearest allowed speed.
        """
        limits, park = self._limits, self.kinematics.park_lengths_m
        found = self.kinematics.forward(lengths_m, guess or self.kinematics.park)
        pose, slack = found if found else (None, None)
        way = park - lengths_m if pose is None else self._way(lengths_m, pose, slack)
        used = np.arange(len(way)) != slack
        remaining_m = float(np.abs(park - lengths_m)[used].max())
        if slack is not None and remaining_m < ARRIVED_M:  # there; only the slack cable is left to wind
            used = ~used
            remaining_m = float(abs(park - lengths_m)[slack])
        wanted = way * 1e6
        fastest = min(_fastest_to_stop(remaining_m, limits), SPEED_SHARE * limits.speed_max_um)
        size = float(np.abs(wanted[used]).max())
        wanted = wanted * (fastest / size) if size > fastest else wanted
        lowest, highest = allowed_interval(
            previous_um, limits.um(lengths_m), tension_n, limits, speed_um=limits.speed_max_um
        )
        counts = np.rint(wanted * _common_factor(wanted, lowest, highest)).astype(np.int64)
        counts = np.minimum(np.maximum(counts, lowest), highest)
        return LoweringStep(share_power(counts, previous_um, lowest, highest, tension_n, limits), pose, slack)

    def _way(self, lengths_m: Array, pose: Pose, slack: int | None) -> Array:
        """Change of the cable lengths for the next stretch of the way, metres.

        First down the lens's own axis, which in work points at the sun: the light spreads where it is. Once
        dark, or as low as park and its own corners allow, straight to park. What the lengths differ from the model's at ``pose``
        (calibration, stretch) fades linearly on the line to park, so that it ends at the park lengths. A slack
        cable is wound to where it would be taut.
        """
        kinematics, stretch = self.kinematics, self._limits.speed_max_um * 1e-6
        here = kinematics.lengths_m(pose)
        offset = lengths_m - here
        if slack is not None:
            offset[slack] = 0.0
        down = self._below(pose)
        if down is not None:
            ahead = kinematics.lengths_m(towards(pose, down, min(1.0, stretch / self._dark_m)))
            way = ahead - here
        else:
            size = float(np.abs(kinematics.park_lengths_m - here - offset).max())
            share = min(1.0, stretch / max(size, 1e-9))
            ahead = kinematics.lengths_m(towards(pose, kinematics.park, share))
            way = ahead - here - share * offset
        if slack is not None:
            way[slack] = np.clip(ahead[slack] - lengths_m[slack], -stretch, stretch)
        return way

    def _below(self, pose: Pose) -> Pose | None:
        """The end of the way down the lens's axis; None where the light is spread already."""
        axis = pose.rotation[:, 2]
        height = pose.centre_world_m[2] - self._sand_m
        defocus = self._focal_m - height / max(float(axis[2]), 0.1)
        deepest = float((self._corners @ pose.rotation[2]).min())
        lowest = min(self._sand_m + CLEARANCE_M - deepest, float(self.kinematics.park.centre_world_m[2]))
        if defocus >= self._dark_m or pose.centre_world_m[2] <= lowest:
            return None
        return Pose(pose.centre_world_m - self._dark_m * axis, pose.rotation)


def _fastest_to_stop(remaining_m: float, limits: TickLimits) -> float:
    """Fastest speed from which a winch comes to rest within ``remaining_m``, micrometres per period.

    By braking, and by an approach slow enough for counters that tell the lengths late.
    """
    if remaining_m < ARRIVED_M:
        return 0.0
    table = limits.brake_table
    index = int(remaining_m * 1e6) >> limits.brake_shift
    braking = float(table[min(max(index, 0), len(table) - 1)])
    return min(braking, remaining_m * 1e6 * limits.period_s / APPROACH_S)


def _common_factor(wanted: Array, lowest: Counts, highest: Counts) -> float:
    """Largest factor in [0, 1] that brings all of ``wanted`` between the bounds; 1 where there is none."""
    floor, ceiling = 0.0, 1.0
    for speed, low, high in zip(wanted.tolist(), lowest.tolist(), highest.tolist(), strict=True):
        if abs(speed) < 1e-9:
            continue
        near, far = sorted((low / speed, high / speed))
        floor, ceiling = max(floor, near), min(ceiling, far)
    return ceiling if floor <= ceiling else 1.0
