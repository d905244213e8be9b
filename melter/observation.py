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
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.geometry.cables import cable_lengths_m, structure_matrix, unwound_lengths_m
from melter.geometry.pose import rotation_facing, sun_direction_world, work_centre_world_m
from melter.geometry.reference import reference_tensions_n, weight_n
from melter.machine import WINCH_COUNT, Machine

Array = NDArray[np.float64]
Status = Literal["ok", "saturated", "occluded", "ambiguous", "lost", "no_markers"]

LOOK_AHEAD_S = (0.1, 0.25, 0.5, 1.0)
"""Times ahead at which the policy is shown the path."""
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
    """Where the light should be: what the loop knows of the path."""

    target_world_m: Array
    """(..., 2) at the moment of the observation."""
    target_at_capture_world_m: Array
    """(..., 2) at the moment the patch was seen."""
    target_ahead_world_m: Array
    """(..., len(LOOK_AHEAD_S), 2) at the look-ahead times."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The lens attitude and cable elongation that belong to a sun; see :meth:`ObservationBuilder.reference`."""

    sun_world: Array
    """(..., 3) unit vector to the sun."""
    rotation: Array
    """(..., 3, 3) lens to world, lens facing the sun."""
    slack_coefficients: Array
    """(..., 8, 6) stress-free length over length under the reference tension, as a quadratic in the spot (see _monomials)."""


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
        Entry("length_error", w, 0.005, 25.0, "m", "reference cable length for the target minus counted cable length"),
        Entry(
            "feed_forward",
            w,
            feed,
            25.0,
            "m/s",
            "cable speeds that move the reference lens along the next 0.1 s of the path",
        ),
        Entry(
            "path_ahead",
            2 * len(LOOK_AHEAD_S),
            0.005,
            25.0,
            "m",
            "path ahead minus target, world x and y, at 0.1, 0.25, 0.5, 1.0 s",
        ),
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
        machine = self.machine
        spots = self._grid_m.reshape(len(self._grid_m), *[1] * (sun.ndim - 1), 2)
        centres = work_centre_world_m(spots, sun, machine.lens.focal_length_m, machine.sand.height_m)
        structure = structure_matrix(self._pulleys, self._attachments, centres, rotation)
        tension = np.clip(
            reference_tensions_n(structure, weight_n(machine.lens.moving_mass_kg), machine.tension_band_n),
            0,
            machine.limits.tension_max_n,
        )
        shares = unwound_lengths_m(1.0, tension, machine.drive.cable_stiffness_n)
        fitted = [sum(weight * share for weight, share in zip(row, shares, strict=True)) for row in self._fit]
        return Reference(sun, rotation, np.stack([np.asarray(column) for column in fitted], axis=-1))

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

    def reference_lengths_m(self, spot_world_m: Array, reference: Reference) -> Array:
        """Return (..., 8) stress-free cable lengths that put focused light on ``spot_world_m`` (..., 2)."""
        lens = self.machine.lens
        centre = work_centre_world_m(spot_world_m, reference.sun_world, lens.focal_length_m, self.machine.sand.height_m)
        monomials = _monomials(spot_world_m / self._half_bed_m)
        coefficients = reference.slack_coefficients
        share = sum(coefficients[..., i] * monomials[i][..., None] for i in range(6))
        return cable_lengths_m(self._pulleys, self._attachments, centre, reference.rotation) * share

    def build(
        self,
        measurement: Measurement,
        plan: Plan,
        commands_m_s: Array,
        reference: Reference,
    ) -> NDArray[np.float32]:
        """Return the (..., size) observation, scaled and clipped.

        ``commands_m_s``: (..., COMMANDS_KEPT, 8) approved cable speeds, newest first, positive pays out.
        """
        batch = measurement.cable_length_m.shape[:-1]
        raw = np.empty((*batch, self.size))
        now = self.reference_lengths_m(plan.target_world_m, reference)
        soon = self.reference_lengths_m(plan.target_ahead_world_m[..., 0, :], reference)
        large, small = measurement.patch_semi_axes_m[..., 0], measurement.patch_semi_axes_m[..., 1]
        flatness = 1 - small / np.maximum(large, 1e-6)
        parts = self._slices
        raw[..., parts["spot_error"]] = plan.target_at_capture_world_m - measurement.patch_centre_world_m
        raw[..., parts["length_error"]] = now - measurement.cable_length_m
        raw[..., parts["feed_forward"]] = (soon - now) / LOOK_AHEAD_S[0]
        ahead = plan.target_ahead_world_m - plan.target_world_m[..., None, :]
        raw[..., parts["path_ahead"]] = ahead.reshape(*batch, -1)
        raw[..., parts["target"]] = plan.target_world_m
        raw[..., parts["semi_axes"]] = measurement.patch_semi_axes_m
        raw[..., parts["angle"].start] = np.cos(2 * measurement.patch_angle_rad) * flatness
        raw[..., parts["angle"].start + 1] = np.sin(2 * measurement.patch_angle_rad) * flatness
        raw[..., parts["commands"]] = commands_m_s.reshape(*batch, -1)
        raw[..., parts["sun"]] = reference.sun_world[..., :2]
        raw[..., parts["patch_age"].start] = measurement.patch_age_s
        raw[..., parts["patch_seen"].start] = measurement.patch_seen
        raw *= self._inverse_scale
        return np.clip(raw, -self.high, self.high).astype(np.float32)


def _monomials(xy: Array) -> tuple[Array, ...]:
    """1, x, y, x², xy, y² of (..., 2), each (...)."""
    x, y = xy[..., 0], xy[..., 1]
    return np.ones_like(x), x, y, x * x, x * y, y * y
