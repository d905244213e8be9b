"""The going-dark drill: the layer's lowering path run from given states, and the light on the sand on the way.

Kinematic: the lens is where its cables put it. What the winches lag behind and the command's delay are added
to the times. Stretch, wind and swing are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.geometry.light import LensOptics, fast_patch, peak_irradiance_w_m2
from melter.geometry.pose import rotation_facing, work_centre_world_m
from melter.machine import Machine
from melter.safety.beam import KeepIn, melting_w_m2
from melter.safety.kinematics import Pose
from melter.safety.limiter import Counts, TickLimits
from melter.safety.lowering import Lowering

Array = NDArray[np.float64]

COOL_WITHIN_S, COOL_ABOVE_S = 1.5, 5.0
"""Below melting within the first, below :data:`SAFE_W_M2` within the second."""
SAFE_W_M2 = 10e3


@dataclass(frozen=True, eq=False)
class Drill:
    """What one drill found over all its starts; times from the fault, seconds."""

    starts: int
    melting_s: Array
    """(starts,) until the peak is below melting for good; infinite where it never is."""
    bright_s: Array
    """(starts,) until the peak is below 10 kW/m2 for good."""
    outside: NDArray[np.bool_]
    """(starts,) whether the spot left the keep-in polygon while it could melt."""
    lost: NDArray[np.bool_]
    """(starts,) whether the cable lengths fitted no pose somewhere on the way."""
    times_s: Array
    """(ticks,) of the peaks below."""
    peaks_w_m2: Array
    """(starts, ticks) brightest irradiance on the sand."""


@dataclass(frozen=True, eq=False)
class DarkDrill:
    """Going dark in a simulator with dynamics, one fault to a machine; times from the beginning of the way, seconds."""

    fault: NDArray[np.str_]
    """(n,) what struck."""
    winch: NDArray[np.int_]
    """(n,) at which winch, where it was one winch's fault."""
    zenith_rad: Array
    """(n,) where the sun stood."""
    excused: NDArray[np.str_]
    """(n,) what physics forbids here, in words; empty where nothing excuses a machine that does not go dark."""
    bright_before: NDArray[np.bool_]
    """(n,) whether the light melted when it did."""
    held: NDArray[np.bool_]
    """(n,) whether the machine held its lens until then: no cable above the trip tension."""
    melting_s: Array
    """(n,) until the peak is below melting for good; infinite where it never is."""
    bright_s: Array
    """(n,) until the peak is below 10 kW/m2 for good."""
    outside: NDArray[np.bool_]
    """(n,) whether the spot left the keep-in polygon while it could melt."""
    reported_s: float
    """From the fault to the beginning of the way, the time taken for its detection: the policy drove on."""
    peaks_w_m2: Array
    """(n, ticks) brightest irradiance on the sand, from the beginning of the way."""
    period_s: float

    def since_fault(self, times_s: Array) -> Array:
        """``melting_s`` or ``bright_s``, from the fault instead; 0 where the light was dark when the way began."""
        return np.where(times_s > 0, times_s + self.reported_s, 0.0)


def work_states(machine: Machine, spots_world_m: Array, sun_world: Array) -> Array:
    """Return (n, 8) cable lengths with the lens facing (3,) ``sun_world``, in focus on (n, 2) spots."""
    lowering = Lowering(machine, TickLimits.from_machine(machine))
    rotation = rotation_facing(sun_world)
    centres = work_centre_world_m(spots_world_m, sun_world, machine.lens.focal_length_m, machine.sand.height_m)
    return np.stack([lowering.kinematics.lengths_m(Pose(centre, rotation)) for centre in centres])


def run_drill(
    machine: Machine, lengths_m: Array, sun_world: Array, previous_um: Counts | None = None, *, seconds: float = 8.0
) -> Drill:
    """Go dark from (n, 8) cable lengths under (n, 3) suns, moving at (n, 8) ``previous_um``; see :class:`Drill`."""
    limits = TickLimits.from_machine(machine)
    lowering, keep_in, optics = Lowering(machine, limits), KeepIn(machine), LensOptics.from_machine(machine)
    delay_s = machine.control.action_delay_s + machine.drive.motor_lag_s
    ticks = int(np.ceil(seconds / limits.period_s))
    times: Array = np.arange(ticks, dtype=float) * limits.period_s + delay_s
    n, threshold = len(lengths_m), melting_w_m2(machine)
    peaks, outside, lost = np.zeros((n, ticks)), np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    for start in range(n):
        centres, rotations, fits = _descend(lowering, lengths_m[start], _row(previous_um, start), ticks)
        suns = np.broadcast_to(sun_world[start], centres.shape)
        patch = fast_patch(optics, centres, rotations, suns, machine.sand.height_m)
        peaks[start] = peak_irradiance_w_m2(optics, patch, machine.sun.dni_w_m2)
        hot = peaks[start] >= threshold
        outside[start] = any(hot[i] and not keep_in.contains(patch.centre_world_m[i]) for i in range(ticks))
        lost[start] = not fits
    return Drill(
        n, _last_above(peaks, threshold, times), _last_above(peaks, SAFE_W_M2, times), outside, lost, times, peaks
    )


def _descend(lowering: Lowering, lengths_m: Array, previous: Counts, ticks: int) -> tuple[Array, Array, bool]:
    centres, rotations = np.zeros((ticks, 3)), np.zeros((ticks, 3, 3))
    pose, fits, lengths = None, True, lengths_m.copy()
    for tick in range(ticks):
        step = lowering.step(lengths, previous, None, pose)
        fits = fits and step.pose is not None
        pose = step.pose or pose or lowering.kinematics.park
        centres[tick], rotations[tick] = pose.centre_world_m, pose.rotation
        previous = step.speeds_um
        lengths = lengths + previous * 1e-6
    return centres, rotations, fits


def _row(previous_um: Counts | None, row: int) -> Counts:
    return np.zeros(8, dtype=np.int64) if previous_um is None else previous_um[row]


def _last_above(peaks: Array, threshold: float, times: Array) -> Array:
    """Per row, the first time after which all is below ``threshold``."""
    above = peaks >= threshold
    last = peaks.shape[1] - 1 - np.argmax(above[:, ::-1], axis=1)
    after = np.append(times, np.inf)[last + 1]
    return np.where(above.any(axis=1), after, 0.0)
