"""Where the light falls when the winches' counters move as recorded, for many machines at once.

The simulation of :mod:`melter.env` without commands, camera and weather: the counters are given. What a motor does
after its counter has counted (lag), what a drum winds up, how cable passes pulleys, stretches and creeps, and how
the lens swings, are simulated; between two looks the lens is followed with its velocity (cubic).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.calibration.track import Track
from melter.env.hanging import Hanging, quaternion_from_rotation
from melter.env.mjcf import substeps_for
from melter.env.params import QUANTITIES, true_sun_world
from melter.env.physics import MachineBatch
from melter.env.transmission import STEPS_PER_BLOCK, Transmission, blocks_for, drum_gains
from melter.geometry.light import LensOptics, fast_patch
from melter.geometry.pose import rotation_from_quaternion, work_centre_world_m
from melter.geometry.reference import reference_unwound_m
from melter.machine import Machine
from melter.observation import ObservationBuilder
from melter.safety.kinematics import Kinematics

Array = NDArray[np.float64]
Values = dict[str, Array]

LOOK_S = 1 / 60
"""The lens is looked at, and cable passes pulleys, at least this often."""
WIND_BLOCKS = 8
"""Blocks after which the wind is turned with the lens."""


@dataclass(frozen=True, eq=False)
class Motion:
    """How (n) machines moved along one track."""

    poses: Array
    """(steps, 10, n) centre (3), quaternion wxyz (4), velocity (3), world frame."""
    first_s: float
    """Time of the first step, the host's clock."""
    zeros_m: Array
    """(n, 8) stress-free cable out where the counters are zero, less what the machine's own geometry says of park."""
    tension_n: Array
    """(n, 2, 8) lowest and highest tension of each cable."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What a camera without noise would have seen of (n) machines, at the frames (k) of a track."""

    centre_world_m: Array
    """(n, k, 2)"""
    moments_m2: Array
    """(n, k, 3) second central moments xx, xy, yy."""


class Forward:
    """One machine's drawing and the recorded tracks of it."""

    def __init__(self, machine: Machine, threads: int = 1) -> None:
        self.machine, self.threads = machine, threads
        self._builder, self.park_m = ObservationBuilder(machine), Kinematics(machine).park_lengths_m
        ranges = {quantity.name: quantity for quantity in QUANTITIES}
        stiffest = 1.5 * max(ranges["cable_stiffness_n"].high, machine.drive.cable_stiffness_n)
        lightest = 0.9 * machine.lens.moving_mass_kg * ranges["moving_mass_kg"].low
        finest = math.ceil(machine.control.period_s / LOOK_S)
        self._blocks = max(blocks_for(substeps_for(machine, stiffest, lightest)), finest)
        self.step_s = machine.control.period_s / self._blocks
        """The lens is looked at this often."""

    def motion(self, values: Values, track: Track) -> Motion:
        """Return how machines ``values`` (n, size) move when the counters go as along one track."""
        count = len(values["cable_stiffness_n"])
        physics = MachineBatch(self.machine, count, self._blocks * STEPS_PER_BLOCK, self.threads)
        winches = Transmission(self.machine, physics, self.step_s)
        zeros_m = self._park(physics, winches, values)
        first_s = float(track.counter_s[0]) - 4 * self.step_s
        steps = math.ceil((float(max(track.frame_s[-1], track.counter_s[-1])) - first_s) / self.step_s) + 1
        poses = np.empty((steps + 1, 10, count))
        tension = np.stack([physics.tension_n, physics.tension_n], axis=1)
        counted = (
            track.counted_m(np.asarray(first_s + self.step_s * np.arange(steps + 1), dtype=np.float64)) + self.park_m
        )
        for step in range(steps):
            _note(poses[step], physics)
            if step % WIND_BLOCKS == 0:
                _blow(physics, values)
                np.minimum(tension[:, 0], physics.tension_n, out=tension[:, 0])
                np.maximum(tension[:, 1], physics.tension_n, out=tension[:, 1])
            asked = (counted[step + 1] - counted[step]) / self.step_s
            winches.advance(np.broadcast_to(asked, (count, 1, len(asked))))
        _note(poses[steps], physics)
        return Motion(poses, first_s, zeros_m, tension)

    def _park(self, physics: MachineBatch, winches: Transmission, values: Values) -> Array:
        """Hang the lenses as their owner trimmed them, moved to park by the counters; return the (n, 8) cables' zeros."""
        machine, count = self.machine, physics.count
        every, hanging = np.arange(count), Hanging.from_values(machine, values)
        sun = np.full(count, machine.sun.zenith_rad), np.full(count, machine.sun.azimuth_rad)
        reference, middle = self._builder.reference(*sun), np.zeros((count, 2))
        work_m = work_centre_world_m(middle, reference.sun_world, machine.lens.focal_length_m, machine.sand.height_m)
        trim = hanging.trimmed(machine, values, work_m, reference.rotation)
        trimmed_m = self._builder.reference_lengths_m(middle, reference)
        gain = drum_gains(values) * (1 - values["drum_build_up_per_m"] * 0.5 * (trimmed_m - self.park_m))
        level = np.broadcast_to(np.eye(3), (count, 3, 3))
        guess = np.broadcast_to(np.array(machine.park.lens_centre_world_m), (count, 3))
        rest = hanging.moved(trim, (self.park_m - trimmed_m) * gain, guess, level)
        physics.configure(every, values)
        winches.configure(every, values, np.broadcast_to(self.park_m, (count, 8)))
        physics.place(every, rest.centre_world_m, quaternion_from_rotation(rest.rotation), rest.unwound_m)
        winches.start(every, np.broadcast_to(self.park_m, (count, 8)), rest.tension_n, rest.drum_tension_n)
        return rest.unwound_m - np.stack([self._drawn_m(values, lane) for lane in range(count)])

    def _drawn_m(self, values: Values, lane: int) -> Array:
        """(8,) stress-free cable out at park, as a machine file with this geometry has it."""
        pulleys, attachments = (values[name][lane].reshape(-1, 3) for name in ("pulley_m", "attachment_m"))
        centre, level = np.array(self.machine.park.lens_centre_world_m), np.eye(3)
        mass, stiffness = (float(values[name][lane, 0]) for name in ("moving_mass_kg", "cable_stiffness_n"))
        band = self.machine.tension_band_n
        return reference_unwound_m(pulleys, attachments, centre, level, mass, band, stiffness)

    def seen(self, motion: Motion, values: Values, track: Track, lanes: NDArray[np.intp] | None = None) -> Seen:
        """Return what is seen of machines ``values`` (n, size) that move as ``lanes`` (n,) of a motion; None: one by one."""
        count = len(values["cable_stiffness_n"])
        chosen = np.arange(count) if lanes is None else lanes
        said = np.degrees(track.sun_rad)[:, None, None] * np.ones((2, count, 1))
        start = true_sun_world(values | {"sun_zenith_deg": said[0], "sun_azimuth_deg": said[1]})
        frames = len(track.frame_s)
        centre, moments = np.empty((count, frames, 2)), np.empty((count, frames, 3))
        for lane in range(count):
            at = (track.frame_s - values["seen_delay_s"][lane, 0] - motion.first_s) / self.step_s
            lens_m, rotation = _between(motion.poses[:, :, chosen[lane]], at, self.step_s)
            sun = start[lane] + (track.frame_s[:, None] - track.counter_s[0]) * [*values["sun_rate"][lane], 0.0]
            sun /= np.linalg.norm(sun, axis=1, keepdims=True)
            optics = LensOptics.from_machine(
                self.machine,
                focal_length_m=values["focal_length_m"][lane, 0],
                facet_error_rad=values["facet_error_mrad"][lane, 0] * 1e-3,
                circumsolar_ratio=max(float(values["circumsolar_ratio"][lane, 0]), 0.0),
            )
            patch = fast_patch(optics, lens_m, rotation, sun, values["bed_height_m"][lane, 0])
            shift, scale = values["view_offset_m"][lane], values["view_scale"][lane].reshape(2, 2)
            spot = patch.centre_world_m
            centre[lane] = spot + shift + spot @ scale.T
            moments[lane] = np.stack([patch.xx, patch.xy, patch.yy], axis=1)
        return Seen(centre, moments)


def _note(row: Array, physics: MachineBatch) -> None:
    """Keep centre, attitude and velocity, (10, n)."""
    row[:3], row[3:7], row[7:] = physics.centre_world_m.T, physics.quaternion_wxyz.T, physics.velocity[:, :3].T


def _blow(physics: MachineBatch, values: Values) -> None:
    rotation = physics.rotation
    turn = values["wind_turn_n_m"]
    torque = rotation[:, :, 0] * turn[:, :1] + rotation[:, :, 1] * turn[:, 1:]
    physics.begin_period(rotation[:, :, 2] * values["wind_push_n"], torque)


def _between(poses: Array, at: Array, step_s: float) -> tuple[Array, Array]:
    """(k, 3) centres and (k, 3, 3) attitudes at fractional steps (k,), of poses (steps, 10) with their velocities."""
    at = np.clip(at, 0.0, len(poses) - 1 - 1e-9)
    before = at.astype(np.intp)
    x = (at - before)[:, None]
    a, b = poses[before], poses[before + 1]
    h00, h01 = (1 + 2 * x) * (1 - x) ** 2, x * x * (3 - 2 * x)
    h10, h11 = x * (1 - x) ** 2 * step_s, x * x * (x - 1) * step_s
    centre = h00 * a[:, :3] + h01 * b[:, :3] + h10 * a[:, 7:] + h11 * b[:, 7:]
    turned = a[:, 3:7] * (1 - x) + b[:, 3:7] * x
    return centre, rotation_from_quaternion(turned / np.linalg.norm(turned, axis=1, keepdims=True))
