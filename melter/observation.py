"""What a policy sees: the one place where a measurement becomes an observation.

Only what a webcam, the winch counters, the clock and the plan can tell goes in. The simulation, the
rehearsal machine and the real one all build their observation here, so that a policy cannot tell them
apart. Every quantity is scaled to about one and clipped to its bound; the table's hash travels with each
saved policy.

Shapes: any leading batch shape ``...``; 8 winches in winch order. Elementwise arithmetic only, so that an
observation has the same bits alone and in a batch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.geometry.cables import cable_lengths_m, structure_matrix, unwound_lengths_m
from melter.geometry.pose import apply, rotation_facing, sun_direction_world, work_centre_world_m
from melter.geometry.reference import reference_tensions_n, weight_n
from melter.machine import WINCH_COUNT, Machine

Array = NDArray[np.float64]
Status = Literal["ok", "saturated", "occluded", "ambiguous", "lost", "no_markers"]

LOOK_AHEAD_S = (0.1, 0.25, 0.5, 1.0)
"""Times ahead at which the policy is shown the path."""
DROP_M = 0.10
"""How far the lens goes down its own axis for a dark move: the light then no longer melts."""
MEMORY_S = (0.2, 1.0, 5.0)
"""Time constants of what an observation remembers."""
SPOTS_KEPT = 8
"""Ticks back to which a frame can be compared with the counters."""
TURNING_M_S = 0.0001
"""Cable speed at which friction is taken for half."""
COMMANDS_KEPT = 3
"""Approved commands a policy is shown, newest first."""


@dataclass(frozen=True, slots=True)
class PatchEstimate:
    """The light patch on the sand as a tracker reports it for one frame (``docs/glossary.md``: patch)."""

    status: Status
    captured_host_s: float
    """Monotonic host clock when the frame was captured."""
    centre_world_m: Array | None = None
    """(2,) centroid of the irradiance on the sand, world x and y; None when lost."""
    semi_axes_m: Array | None = None
    """(2,) large and small: twice the roots of the eigenvalues of the second central moments."""
    angle_rad: float | None = None
    """Large axis from world x, counterclockwise, in (-pi/2, pi/2]."""
    covariance_m2: Array | None = None
    """(2, 2) uncertainty of the centre."""
    frame: int = 0
    """Running number of the frame in its source."""
    sunless: bool = False
    """Whether there is no patch because the sun is hidden: the sand shows no shadows."""


@dataclass(slots=True)
class Measurement:
    """What a machine tells at one tick. Arrays have any leading batch shape ``...``."""

    patch_age_s: Array
    """(...) since the light of this patch fell on the sand, as far as the robot knows."""
    patch_centre_world_m: Array
    """(..., 2) newest centroid; the last one known while the patch is lost."""
    patch_semi_axes_m: Array
    """(..., 2) large, small."""
    patch_angle_rad: Array
    """(...) large axis from world x."""
    patch_seen: NDArray[np.bool_]
    """(...) whether the centre comes from a frame of this tick or the one before."""
    cable_length_m: Array
    """(..., 8) stress-free cable out, from the winch counters."""
    sun_zenith_rad: Array
    """(...) where the sun is said to stand."""
    sun_azimuth_rad: Array
    """(...) clockwise from north."""


@dataclass(slots=True)
class Plan:
    """Where the light should be: what the loop knows of the path. ``drop``: how far the lens is to hang below focus, down its axis."""

    target_world_m: Array
    """(..., 2) at the moment of the observation."""
    target_at_capture_world_m: Array
    """(..., 2) at the moment the patch was seen."""
    target_ahead_world_m: Array
    """(..., len(LOOK_AHEAD_S), 2) at the look-ahead times."""
    drop_m: Array = field(default_factory=lambda: np.zeros(()))
    """(...) at the moment of the observation; 0 in focus."""
    drop_soon_m: Array = field(default_factory=lambda: np.zeros(()))
    """(...) at the first look-ahead time."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The lens attitude and cable elongation that belong to a sun; see :meth:`ObservationBuilder.reference`."""

    sun_world: Array
    """(..., 3) unit vector to the sun."""
    rotation: Array
    """(..., 3, 3) lens to world, lens facing the sun."""
    anchors_m: Array
    """(..., 3, 8) pulleys less the attachments' arms, so that a cable's vector is this less the lens's centre; world frame."""
    slack_coefficients: Array
    """(..., 8, 12) counted length over length under the reference tension: a quadratic in the spot (see _monomials) in
    focus, and what DROP_M below focus adds to it."""
    held_back_m: Array
    """(..., 8) cable to count more than that while paying out, and less while winding in: what friction at the pulley takes off the
    stretch between pulley and drum."""


@dataclass(slots=True)
class Memory:
    """What an observation remembers: how far the camera's spot lies from the one that the winch counters tell.

    The counters follow every motion at once but not the machine's errors; the camera sees those, late and noisily. Their
    difference changes slowly, so its running means, over short times and long, tell both where the spot is and how well.
    """

    seen: Array
    """(...) frames so far."""
    offset_m: Array
    """(..., 2, len(MEMORY_S)) running means of camera spot less counter spot, world x and y."""
    spread_m2: Array
    """(...) running mean of the squared distance of new offsets from the middle one."""
    spots_m: Array
    """(..., SPOTS_KEPT, 2) counter spots of the last ticks, newest first."""

    @classmethod
    def empty(cls, shape: tuple[int, ...] = ()) -> Memory:
        """Return the memory of a robot that has seen nothing yet."""
        return cls(
            np.zeros(shape),
            np.zeros((*shape, 2, len(MEMORY_S))),
            np.zeros(shape),
            np.full((*shape, SPOTS_KEPT, 2), np.nan),
        )

    def rows(self, ids: NDArray[np.intp]) -> Memory:
        """Return a copy of some simulations' memory."""
        return Memory(self.seen[ids], self.offset_m[ids], self.spread_m2[ids], self.spots_m[ids])

    def put(self, ids: NDArray[np.intp], other: Memory) -> None:
        """Replace some simulations' memory."""
        self.seen[ids], self.offset_m[ids] = other.seen, other.offset_m
        self.spread_m2[ids], self.spots_m[ids] = other.spread_m2, other.spots_m

    def add(self, spot_m: Array, patch_m: Array, seen: NDArray[np.bool_], age_periods: Array, shares: Array) -> None:
        """Take in one tick: counter spot and camera spot (..., 2), the camera's age in control periods (...).

        ``shares`` (len(MEMORY_S)): how much of a new frame enters each mean in the long run.
        """
        spots = self.spots_m
        new = np.isnan(spots[..., 0, 0])
        spots[..., 1:, :] = spots[..., :-1, :]
        if new.any():
            spots[new] = spot_m[new][..., None, :]
        spots[..., 0, :] = spot_m
        late = np.minimum(np.maximum(age_periods, 0.0), SPOTS_KEPT - 1 - 1e-6)
        older = np.asarray(late).astype(np.intp)
        rows, at = spots.reshape(-1, 2), np.arange(older.size).reshape(older.shape) * SPOTS_KEPT + older
        first = rows[at]
        offset = patch_m - (first + (rows[at + 1] - first) * (late - older)[..., None])
        self.seen = self.seen + seen
        weight = np.maximum(shares, 1 / np.maximum(self.seen, 1)[..., None]) * seen[..., None]
        news = offset[..., None] - self.offset_m
        middle = news[..., len(MEMORY_S) // 2]
        known = weight[..., -1] * (self.seen > 1)
        off2 = middle[..., 0] * middle[..., 0] + middle[..., 1] * middle[..., 1]
        self.spread_m2 = self.spread_m2 + known * (off2 - self.spread_m2)
        self.offset_m = self.offset_m + weight[..., None, :] * news


@dataclass(frozen=True)
class Entry:
    """One line of the observation table."""

    name: str
    size: int
    scale: float
    """Value that becomes 1 in the observation."""
    bound: float
    """Observation is clipped to ± this."""
    unit: str
    meaning: str


def observation_table(machine: Machine) -> tuple[Entry, ...]:
    """Return the observation table: each entry's name, size, scale, bound, unit and meaning, in order."""
    w = WINCH_COUNT
    feed = 0.1 * machine.limits.speed_normal_m_s
    half_bed = max(machine.bed.size_m) / 2
    return (
        Entry(
            "spot_error", 2, 0.002, 25.0, "m", "target minus patch centre, both when the patch was seen, world x and y"
        ),
        Entry(
            "counter_error", 2, 0.002, 25.0, "m", "target minus the spot that the winch counters tell, world x and y"
        ),
        Entry(
            "spot_estimate",
            2 * len(MEMORY_S),
            0.002,
            25.0,
            "m",
            "target minus the counters' spot moved by its mean distance from the camera's over 0.2, 1 and 5 s: x thrice, y thrice",
        ),
        Entry("offset_spread", 1, 0.0005, 25.0, "m", "how much camera and counters disagree from frame to frame"),
        Entry(
            "estimate_in_lengths",
            len(MEMORY_S) * w,
            0.002,
            25.0,
            "m",
            "cable to pay out for each of the three spot estimates to vanish, winch by winch",
        ),
        Entry("rest_error", w, 0.005, 25.0, "m", "length_error less what counter_error explains of it"),
        Entry(
            "length_error",
            w,
            0.005,
            25.0,
            "m",
            "reference cable length for the target and the direction of motion minus counted cable length",
        ),
        Entry(
            "feed_forward",
            w,
            feed,
            25.0,
            "m/s",
            "cable speeds that move the reference lens along the next 0.1 s of the path",
        ),
        Entry(
            "feed_forward_next",
            w,
            feed,
            25.0,
            "m/s",
            "how much more, for the path from 0.1 to 0.25 s ahead",
        ),
        Entry(
            "path_ahead",
            2 * len(LOOK_AHEAD_S),
            0.005,
            25.0,
            "m",
            "path ahead minus target, world x and y, at 0.1, 0.25, 0.5, 1.0 s",
        ),
        Entry("drop", 1, 0.1, 5.0, "m", "how far the lens is to hang below focus"),
        Entry("target", 2, half_bed, 2.0, "m", "target, world x and y"),
        Entry("semi_axes", 2, 0.02, 25.0, "m", "patch semi-axes, large and small"),
        Entry("angle", 2, 1.0, 1.0, "1", "cosine and sine of twice the patch angle, times one minus the axis ratio"),
        Entry("commands", COMMANDS_KEPT * w, feed, 25.0, "m/s", "approved cable speeds, newest first"),
        Entry("sun", 2, 1.0, 1.0, "1", "unit vector to the sun, world x and y"),
        Entry("patch_age", 1, 0.2, 10.0, "s", "age of the patch"),
        Entry("patch_seen", 1, 1.0, 1.0, "1", "1 when the patch is fresh, else 0"),
    )


def table_sha256(table: tuple[Entry, ...]) -> str:
    """Return the fingerprint of an observation table; a policy fits only the table it was trained with."""
    return hashlib.sha256(repr(table).encode()).hexdigest()


class ObservationBuilder:
    """Builds observations for one machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.table = observation_table(machine)
        self.sha256 = table_sha256(self.table)
        self.size = sum(entry.size for entry in self.table)
        self.high = np.concatenate([np.full(entry.size, entry.bound) for entry in self.table]).astype(np.float32)
        self._inverse_scale = np.concatenate([np.full(entry.size, 1 / entry.scale) for entry in self.table])
        ends = np.cumsum([entry.size for entry in self.table])
        self._slices = {e.name: slice(int(end) - e.size, int(end)) for e, end in zip(self.table, ends, strict=True)}
        self._pulleys, self._attachments = machine.pulleys_world_m, machine.attachments_lens_m
        self._shares = -np.expm1(-machine.control.period_s / np.array(MEMORY_S))
        park_m, level = np.array(machine.park.lens_centre_world_m), np.eye(3)
        structure = structure_matrix(self._pulleys, self._attachments, park_m, level)
        self._park_tension_n = self._tension_n(structure)
        self._half_bed_m = np.array(machine.bed.size_m) / 2
        grid = np.array([(x, y) for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0)])
        self._grid_m = grid * self._half_bed_m
        self._fit = np.linalg.pinv(np.stack(_monomials(grid), axis=-1))

    def slice_of(self, name: str) -> slice:
        """Return where the entry ``name`` stands in the observation."""
        return self._slices[name]

    def reference(self, zenith_rad: ArrayLike, azimuth_rad: ArrayLike) -> Reference:
        """Return attitude and elongation for suns (...): the lens faces the sun, its cables tensioned inside the band."""
        sun = sun_direction_world(zenith_rad, azimuth_rad)
        rotation = rotation_facing(sun)
        focused, dropped = (self._slack_coefficients(sun, rotation, drop_m) for drop_m in (0.0, DROP_M))
        slack = np.concatenate([focused, dropped - focused], axis=-1)
        return Reference(sun, rotation, self.anchors_m(rotation), slack, self._held_back_m(sun, rotation))

    def _held_back_m(self, sun: Array, rotation: Array) -> Array:
        """(..., 8) cable to count more while paying out, and less while winding in, over the middle of the bed."""
        machine, drive = self.machine, self.machine.drive
        centre = work_centre_world_m(np.zeros(2), sun, machine.lens.focal_length_m, machine.sand.height_m)
        tension = self._tension_n(structure_matrix(self._pulleys, self._attachments, centre, rotation))
        friction_n = drive.pulley_loss * tension + drive.pulley_friction_n
        return friction_n * machine.drum_side_m / drive.cable_stiffness_n

    def _slack_coefficients(self, sun: Array, rotation: Array, drop_m: float) -> Array:
        """(..., 8, 6) quadratic in the spot of counted length over length, ``drop_m`` below focus."""
        machine = self.machine
        spots = self._grid_m.reshape(len(self._grid_m), *[1] * (sun.ndim - 1), 2)
        centres = work_centre_world_m(spots, sun, machine.lens.focal_length_m - drop_m, machine.sand.height_m)
        structure = structure_matrix(self._pulleys, self._attachments, centres, rotation)
        tension = self._tension_n(structure)
        lengths = cable_lengths_m(self._pulleys, self._attachments, centres, rotation)
        stretch_m = machine.drum_side_m * (tension - self._park_tension_n) / machine.drive.cable_stiffness_n
        shares = unwound_lengths_m(1.0, tension, machine.drive.cable_stiffness_n) - stretch_m / lengths
        fitted = [sum(weight * share for weight, share in zip(row, shares, strict=True)) for row in self._fit]
        return np.stack([np.asarray(column) for column in fitted], axis=-1)

    def _tension_n(self, structure: Array) -> Array:
        """(..., 8) tensions to hold the lens with."""
        machine = self.machine
        weight = weight_n(machine.lens.moving_mass_kg)
        tension = reference_tensions_n(structure, weight, machine.tension_band_n)
        return np.clip(tension, 0, machine.limits.tension_max_n)

    def why_not_held(self) -> str | None:
        """Return why the lens cannot be held at work over the middle of the bed under the machine file's sun, or None."""
        machine = self.machine
        sun = sun_direction_world(machine.sun.zenith_rad, machine.sun.azimuth_rad)
        centre = work_centre_world_m(np.zeros(2), sun, machine.lens.focal_length_m, machine.sand.height_m)
        structure = structure_matrix(self._pulleys, self._attachments, centre, rotation_facing(sun))
        if np.linalg.matrix_rank(structure, tol=1e-6) < 6:
            return "its cables cannot hold the lens in all six directions at work over the middle of the bed"
        tension = reference_tensions_n(structure, weight_n(machine.lens.moving_mass_kg), machine.tension_band_n)
        if tension.min() < 0 or tension.max() > machine.limits.tension_trip_n:
            best = f"{tension.min():.0f} to {tension.max():.0f} N"
            return f"no cable tensions found that hold the lens at work over the middle of the bed (best: {best})"
        return None

    def anchors_m(self, rotation: Array) -> Array:
        """Return (..., 3, 8) pulleys less the attachments' arms, for lens attitudes (..., 3, 3)."""
        arms = apply(rotation[..., None, :, :], self._attachments)
        return np.swapaxes(self._pulleys - arms, -1, -2)

    def reference_lengths_m(self, spot_world_m: Array, reference: Reference, drop_m: ArrayLike = 0.0) -> Array:
        """Return the (..., 8) cable lengths to count that put light on ``spot_world_m`` (..., 2), ``drop_m`` (...) below focus.

        Counted is stress-free cable between pulley and lens, and what passed the pulley since park because the cable behind
        it, down to the drum, is stretched more or less than there.
        """
        _, lengths = self._cables(spot_world_m, reference, drop_m)
        return lengths * self._share(spot_world_m, reference.slack_coefficients, drop_m)

    def _cables(self, spot_world_m: Array, reference: Reference, drop_m: ArrayLike) -> tuple[list[Array], Array]:
        """Three (..., 8) components of the cables' vectors, lens to pulley, and their (..., 8) lengths."""
        lens, sun, anchors = self.machine.lens, reference.sun_world, reference.anchors_m
        up_m = lens.focal_length_m - np.asarray(drop_m)
        centre = (
            spot_world_m[..., 0] + up_m * sun[..., 0],
            spot_world_m[..., 1] + up_m * sun[..., 1],
            self.machine.sand.height_m + up_m * sun[..., 2],
        )
        vectors = [anchors[..., i, :] - centre[i][..., None] for i in range(3)]
        squares = vectors[0] * vectors[0]
        squares += vectors[1] * vectors[1]
        squares += vectors[2] * vectors[2]
        return vectors, np.sqrt(squares)

    def _share(self, spot_world_m: Array, coefficients: Array, drop_m: ArrayLike) -> Array:
        """(..., 8) counted length over length."""
        u, v = ((spot_world_m[..., i] / self._half_bed_m[i])[..., None] for i in range(2))
        share, drop = _quadratic(coefficients, u, v), np.asarray(drop_m)
        if drop.any():
            share += _quadratic(coefficients[..., 6:], u, v) * (drop * (1 / DROP_M))[..., None]
        return share

    def _follow(self, plan: Plan, reference: Reference) -> tuple[Array, Array, Array, Array]:
        """(..., 8) counted lengths for the target now, and cable speeds that follow the path's next moments.

        With them the change of lengths per metre that the lens moves along world x and y, (..., 8) each.
        """
        spot, k, sun = plan.target_world_m, reference.slack_coefficients, reference.sun_world
        vectors, lengths = self._cables(spot, reference, plan.drop_m)
        share = self._share(spot, k, plan.drop_m)
        along = [np.divide(vector, -lengths, out=vector) for vector in vectors]
        going = (plan.target_ahead_world_m[..., 0, :] - spot) / LOOK_AHEAD_S[0]
        u, v = ((spot[..., i] / self._half_bed_m[i])[..., None] for i in range(2))
        steeper_u = (k[..., 1] + 2 * u * k[..., 3] + v * k[..., 4]) * (going[..., :1] / self._half_bed_m[0])
        steeper_v = (k[..., 2] + u * k[..., 4] + 2 * v * k[..., 5]) * (going[..., 1:] / self._half_bed_m[1])
        speeds = (along[0] * going[..., :1] + along[1] * going[..., 1:]) * share
        speeds += (steeper_u + steeper_v) * lengths
        falling = (np.asarray(plan.drop_soon_m) - plan.drop_m) / LOOK_AHEAD_S[0]
        if falling.any():
            down = along[0] * -sun[..., :1] - along[1] * sun[..., 1:2] - along[2] * sun[..., 2:]
            down *= share
            down += _quadratic(k[..., 6:], u, v) * lengths * (1 / DROP_M)
            speeds += down * falling[..., None]
        return lengths * share, speeds, along[0], along[1]

    def build(
        self,
        measurement: Measurement,
        plan: Plan,
        commands_m_s: Array,
        reference: Reference,
        memory: Memory,
    ) -> NDArray[np.float32]:
        """Return the (..., size) observation, scaled and clipped; call once per tick: the memory takes the tick in.

        ``commands_m_s``: (..., COMMANDS_KEPT, 8) approved cable speeds, newest first, positive pays out.
        """
        batch = measurement.cable_length_m.shape[:-1]
        raw = np.empty((*batch, self.size))
        now, speeds, along_x, along_y = self._follow(plan, reference)
        now = now + reference.held_back_m * (speeds / (np.abs(speeds) + TURNING_M_S))
        large, small = measurement.patch_semi_axes_m[..., 0], measurement.patch_semi_axes_m[..., 1]
        flatness = 1 - small / np.maximum(large, 1e-6)
        parts = self._slices
        length_error = now - measurement.cable_length_m
        counter_error = _explained(along_x, along_y, length_error)
        memory.add(
            plan.target_world_m - counter_error,
            measurement.patch_centre_world_m,
            measurement.patch_seen,
            measurement.patch_age_s * (1 / self.machine.control.period_s),
            self._shares,
        )
        raw[..., parts["spot_error"]] = plan.target_at_capture_world_m - measurement.patch_centre_world_m
        raw[..., parts["counter_error"]] = counter_error
        estimate = counter_error[..., None] - memory.offset_m
        raw[..., parts["spot_estimate"]] = estimate.reshape(*batch, -1)
        raw[..., parts["offset_spread"].start] = np.sqrt(memory.spread_m2)
        lengths = raw[..., parts["estimate_in_lengths"]].reshape(*batch, len(MEMORY_S), WINCH_COUNT)
        for i in range(len(MEMORY_S)):
            lengths[..., i, :] = along_x * estimate[..., :1, i] + along_y * estimate[..., 1:, i]
        raw[..., parts["estimate_in_lengths"]] = lengths.reshape(*batch, -1)
        explained = along_x * counter_error[..., :1] + along_y * counter_error[..., 1:]
        raw[..., parts["rest_error"]] = length_error - explained
        raw[..., parts["length_error"]] = length_error
        raw[..., parts["feed_forward"]] = speeds
        ahead = plan.target_ahead_world_m - plan.target_world_m[..., None, :]
        raw[..., parts["path_ahead"]] = ahead.reshape(*batch, -1)
        turn = (ahead[..., 1, :] - ahead[..., 0, :]) / (LOOK_AHEAD_S[1] - LOOK_AHEAD_S[0])
        turn -= ahead[..., 0, :] / LOOK_AHEAD_S[0]
        raw[..., parts["feed_forward_next"]] = along_x * turn[..., :1] + along_y * turn[..., 1:]
        raw[..., parts["drop"].start] = plan.drop_m
        raw[..., parts["target"]] = plan.target_world_m
        raw[..., parts["semi_axes"]] = measurement.patch_semi_axes_m
        raw[..., parts["angle"].start] = np.cos(2 * measurement.patch_angle_rad) * flatness
        raw[..., parts["angle"].start + 1] = np.sin(2 * measurement.patch_angle_rad) * flatness
        raw[..., parts["commands"]] = commands_m_s.reshape(*batch, -1)
        raw[..., parts["sun"]] = reference.sun_world[..., :2]
        raw[..., parts["patch_age"].start] = measurement.patch_age_s
        raw[..., parts["patch_seen"].start] = measurement.patch_seen
        raw *= self._inverse_scale
        np.maximum(raw, -self.high, out=raw)
        np.minimum(raw, self.high, out=raw)
        return raw.astype(np.float32)


def _quadratic(k: Array, u: Array, v: Array) -> Array:
    """(..., 8) quadratics (..., 8, 6 or more) at (..., 1) u and v; see _monomials."""
    return k[..., 0] + u * (k[..., 1] + u * k[..., 3] + v * k[..., 4]) + v * (k[..., 2] + v * k[..., 5])


def _explained(along_x: Array, along_y: Array, lengths_m: Array) -> Array:
    """(..., 2) the level move of the lens that explains (..., 8) length changes best."""
    pairs = ((along_x, along_x), (along_x, along_y), (along_y, along_y), (along_x, lengths_m), (along_y, lengths_m))
    aa, ab, bb, al, bl = (np.einsum("...i,...i->...", first, second) for first, second in pairs)
    scale = 1 / (aa * bb - ab * ab)
    return np.stack([(bb * al - ab * bl) * scale, (aa * bl - ab * al) * scale], axis=-1)


def _monomials(xy: Array) -> tuple[Array, ...]:
    """1, x, y, x², xy, y² of (..., 2), each (...)."""
    x, y = xy[..., 0], xy[..., 1]
    return np.ones_like(x), x, y, x * x, x * y, y * y
