"""The beam is limited like a motor: where its focus may be, and what its light may do to sand, cables and frame.

What the camera sees is checked against the keep-in polygon at every tick. Beside that, and without any camera, the
cable lengths tell where the lens is, and the sun's direction where its light goes: :class:`Beam` follows it along
everything that is sent, including the stretch on which the winches brake.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

from melter.errors import CommandRefused, MachineFileError
from melter.geometry.cables import length_jacobian
from melter.geometry.light import LensOptics, fast_patch, peak_irradiance_w_m2
from melter.geometry.melting import melting_irradiance_w_m2
from melter.geometry.pose import rotation_facing, sun_direction_world, work_centre_world_m
from melter.machine import Machine
from melter.safety.dose import DoseMap
from melter.safety.kinematics import Kinematics, Pose

Array = NDArray[np.float64]

MODEL_M = 0.010
"""What the spot worked out from cable lengths may be off (calibration, stretch, a degree of tilt)."""
STRAY_SPOT_M = 0.060
"""Camera and cables must agree on the spot to this: what is off for longer is a slack cable or a dead winch."""
LOOK_S, LOOK_M = 0.5, 0.015
"""The light is worked out afresh at least this often, and when a cable has gone this far; followed in between."""
MELTS_SHARE = 0.8
"""Share of the melting irradiance from which light counts as melting: the model's error."""
SCATTERED_W_M2 = 35e3
"""What counts where the fast light model has no answer, from a tilt of 38 degrees: some rays are totally reflected, the
rest scatters over metres. The ray trace finds at most 34 kW/m2 there (``melter patch --model traced``)."""
BLUR_RAD = 0.0056
"""Standard deviation of the light's directions about the cone's, by sun, grooves and colours: 6.9 mm at the focus."""
COLOURS = 0.03
"""Share of the focal length by which parts of the spectrum focus nearer or farther."""
HOT = 2.5
"""Brightest over mean in a section of the cone, at most: a lens of many colours fills its rectangle unevenly."""
_TIED_M = 0.15
"""Length next to its attachment where a cable may touch the light: it is tied there."""


def melting_w_m2(machine: Machine) -> float:
    """Return the irradiance below which the machine's sand cannot melt, however long, W/m2."""
    return float(melting_irradiance_w_m2(machine.sand.melting_k, machine.sand.absorptivity))


def spot_speed_ratio(machine: Machine) -> float:
    """Return how much faster than the fastest cable the spot can be, over the bed under the machine's sun.

    With all cables taut the lens's motion is the pseudo-inverse of the Jacobian times the cable speeds, so the
    absolute sum of a row of it bounds that component.
    """
    half = np.array(machine.bed.size_m) / 2
    spots = half * np.array([(0, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)], dtype=float)
    sun = sun_direction_world(machine.sun.zenith_rad, machine.sun.azimuth_rad)
    centres = work_centre_world_m(spots, sun, machine.lens.focal_length_m, machine.sand.height_m)
    rotation = np.broadcast_to(rotation_facing(sun), (len(spots), 3, 3))
    jacobian = length_jacobian(machine.pulleys_world_m, machine.attachments_lens_m, centres, rotation)
    rows = _spot_rows(sun) @ np.linalg.pinv(jacobian)
    return float(np.hypot(*np.abs(rows).sum(axis=2).T).max())


class Region:
    """A polygon that can be asked quickly whether it holds a point."""

    def __init__(self, polygon: shapely.Geometry) -> None:
        self.polygon = polygon
        shapely.prepare(polygon)
        self._sides = _sides(polygon)

    def holds(self, x_m: float, y_m: float) -> bool:
        """Return whether a point is inside; False for what is not finite."""
        if self._sides is None:
            return bool(shapely.contains_xy(self.polygon, x_m, y_m))
        return all(a * x_m + b * y_m < c for a, b, c in self._sides)


class KeepIn:
    """The bed's keep-in polygon, drawn in by what the spot covers until it stops."""

    def __init__(self, machine: Machine, speed_factor: float = 1.0) -> None:
        """``speed_factor``: how many times as fast as approved a driver may turn the winches to make up for delays."""
        limits, control = machine.limits, machine.control
        speed, ratio = min(speed_factor * limits.speed_normal_m_s, limits.speed_max_m_s), spot_speed_ratio(machine)
        unseen_s = control.period_s + control.action_delay_s + control.camera_delay_s + machine.drive.motor_lag_s
        self.margin_m = ratio * (speed * unseen_s + speed**2 / (2 * limits.acceleration_max_m_s2))
        """What the spot covers at the speed of normal work between being measured and standing still."""
        self.polygon = shapely.Polygon(machine.bed.keep_in_polygon_world_m)
        if not self.polygon.is_valid:
            raise MachineFileError("bed.keep_in_world_m: its sides cross, must be a simple polygon")
        self._inner = Region(_drawn_in(self.polygon, self.margin_m))
        self._model = Region(_drawn_in(self.polygon, MODEL_M))

    def holds(self, spot_world_m: ArrayLike) -> bool:
        """Return whether a measured spot (2,) is inside with margin; False for what is not two finite numbers."""
        try:
            x, y = spot_world_m  # pyright: ignore[reportGeneralTypeIssues]
            return self._inner.holds(float(x), float(y))  # pyright: ignore[reportArgumentType]
        except (TypeError, ValueError):
            return False

    def holds_stop(self, x_m: float, y_m: float) -> bool:
        """Return whether a spot worked out for where the winches will have stopped is inside."""
        return self._model.holds(x_m, y_m)

    def contains(self, spot_world_m: ArrayLike) -> bool:
        """Return whether a spot (2,) is inside the polygon itself, margin left aside."""
        spot = np.asarray(spot_world_m, dtype=float)
        return bool(shapely.contains_xy(self.polygon, spot[0], spot[1]))


@dataclass(frozen=True, eq=False)
class Light:
    """What the light does at one moment, worked out from the cable lengths."""

    spot_world_m: tuple[float, float]
    """Centroid on the sand."""
    peak_w_m2: float
    """Brightest on the sand."""
    focus_height_m: float
    """Of the best focus above the sand; below zero it lies under it."""
    focus_w_m2: float
    """There, where it lies above the sand; else as on the sand."""
    cable_w_m2: float
    """Brightest on any cable."""
    frame_w_m2: float
    """Brightest on any pole."""
    dwell_s: float
    """How long light that melts has been on this place without a break."""
    dose_j_m2: float
    """What this place got, less what it has forgotten."""


class Beam:
    """Follows one machine's light along what is sent. The sun stands where :meth:`point_at` last said."""

    def __init__(self, machine: Machine, keep_in: KeepIn) -> None:
        self.light: Light | None = None
        """What was found when the light was last worked out."""
        self._machine, self._keep_in = machine, keep_in
        self._kinematics, self._optics = Kinematics(machine), LensOptics.from_machine(machine)
        self._melting_w_m2 = MELTS_SHARE * melting_w_m2(machine)
        self._dose = DoseMap(*keep_in.polygon.bounds)
        self._pose: Pose | None = None
        self._lengths: list[float] = []
        self._rows: list[list[float]] = []
        self._looked_s = self._booked_s = -math.inf
        poles, heights = np.array(machine.frame.poles_world_m), np.linspace(0.02, 1, 9) * machine.frame.height_m
        self._poles = np.concatenate([np.column_stack([poles, np.full(len(poles), h)]) for h in heights])
        self._sun = sun_direction_world(machine.sun.zenith_rad, machine.sun.azimuth_rad)

    def point_at(self, sun_world: ArrayLike) -> None:
        """Take (3,) as the direction to the sun; raise CommandRefused for what is no unit vector above the horizon."""
        sun = np.asarray(sun_world, dtype=float)
        if sun.shape != (3,) or not abs(float(sun @ sun) - 1) < 1e-3 or not sun[2] > 0.05:
            raise CommandRefused(
                f"sun_world = {sun.tolist()}: must be a unit vector at least 3 degrees above the horizon"
            )
        self._sun, self._looked_s = sun, -math.inf

    @property
    def sun_world(self) -> Array:
        """(3,) unit vector to the sun."""
        return self._sun

    def forget(self) -> None:
        """Start anew: at arming."""
        self.light, self._pose, self._looked_s = None, None, -math.inf

    def due(self, now_host_s: float) -> bool:
        """Return whether the light has to be worked out afresh."""
        return now_host_s - self._looked_s >= LOOK_S

    def look(self, lengths_m: Array, now_host_s: float) -> str | None:
        """Work out the light of (8,) cable lengths; return what is wrong with it, on one line, or None."""
        kinematics, sun, limits = self._kinematics, self._sun, self._machine.limits
        passed_s = min(max(now_host_s - self._booked_s, 0.0), 2 * LOOK_S) if self.light is not None else 0.0
        self._booked_s = now_host_s
        found = kinematics.forward(lengths_m, self._pose or kinematics.park)
        if found is None or found[1] is not None:
            self.light, self._looked_s = None, -math.inf
            which = "" if found is None or found[1] is None else f" (winch {self._machine.winch[found[1]].name} is off)"
            return f"cable lengths fit no pose of the lens{which}: a slack cable, or a counter that lies"
        pose = self._pose = found[0]
        spot, height, peaks = self._irradiance(pose)
        melts = float(peaks[0]) >= self._melting_w_m2
        dwell_s, dose = self._dose.add(*spot, float(peaks[0]), passed_s, now_host_s, melts=melts)
        middle = 2 + 8 * _CABLE_POINTS
        self.light = Light(
            spot, float(peaks[0]), height, float(peaks[1]), float(peaks[2:middle].max()), float(peaks[middle:].max()),
            dwell_s, dose,
        )  # fmt: skip
        self._lengths, self._looked_s = lengths_m.tolist(), now_host_s
        self._rows = (_spot_rows(sun) @ np.linalg.pinv(kinematics.jacobian(pose))).tolist()
        for value, most, what in (
            (self.light.cable_w_m2, limits.stray_max_w_m2, "W/m2 on a cable"),
            (self.light.frame_w_m2, limits.stray_max_w_m2, "W/m2 on the frame"),
            (dwell_s, limits.dwell_max_s, "s on one place"),
            (dose, limits.dose_max_j_m2, "J/m2 on one place"),
        ):
            if not value <= most:
                return f"light: {value:.4g} {what}, at most {most:g}"
        if height > limits.focus_height_max_m and not self.light.focus_w_m2 <= limits.stray_max_w_m2:
            return f"light: focus {height:.3f} m above the sand, at most {limits.focus_height_max_m:g}"
        return None

    def stop_outside(self, lengths_m: Sequence[float], travel_um: Sequence[int]) -> str | None:
        """Return what is wrong where the winches, now sent to ``lengths_m``, stop after ``travel_um``; or None."""
        light = self.light
        if light is None:
            return None
        x, y = light.spot_world_m
        for length, travel, then, gx, gy in zip(lengths_m, travel_um, self._lengths, *self._rows, strict=True):
            ahead = length + travel * 1e-6 - then
            if not -LOOK_M < ahead < LOOK_M:
                self._looked_s = -math.inf
            x += gx * ahead
            y += gy * ahead
        if light.peak_w_m2 < self._melting_w_m2 or self._keep_in.holds_stop(x, y):
            return None
        return f"light: would stop at ({x:.3f}, {y:.3f}) m, outside the keep-in polygon"

    def disagrees(self, spot_world_m: Sequence[float]) -> str | None:
        """Return what is wrong when the camera sees the spot (2,) far from where the cables put it; or None."""
        if self.light is None:
            return None
        apart = math.hypot(spot_world_m[0] - self.light.spot_world_m[0], spot_world_m[1] - self.light.spot_world_m[1])
        if apart <= STRAY_SPOT_M:
            return None
        return f"spot {apart * 1e3:.0f} mm from where the cables put it (limit {STRAY_SPOT_M * 1e3:.0f} mm)"

    def _irradiance(self, pose: Pose) -> tuple[tuple[float, float], float, Array]:
        """Spot on the sand, height of the focus above it, and W/m2 on the sand, at the focus, on cables and poles."""
        sand_m, optics, sun = self._machine.sand.height_m, self._optics, self._sun
        patch = fast_patch(optics, pose.centre_world_m, pose.rotation, sun, sand_m)
        height = -float(patch.defocus_m * sun[2])
        planes = np.array([sand_m, sand_m + max(height, 0.0)])
        each = fast_patch(optics, pose.centre_world_m, pose.rotation, sun, planes)
        found = peak_irradiance_w_m2(optics, each, self._machine.sun.dni_w_m2)
        peaks = np.where(np.isnan(found), SCATTERED_W_M2, found)
        x, y = patch.centre_world_m.tolist()
        spot = (x, y) if math.isfinite(x + y) else (float(pose.centre_world_m[0]), float(pose.centre_world_m[1]))
        return (
            spot,
            height,
            np.concatenate([peaks, self._on(np.concatenate([self._cable_points(pose), self._poles]), pose)]),
        )

    def _on(self, points_world_m: Array, pose: Pose) -> Array:
        """(n,) most light, W/m2, on points (n, 3): the pyramid from the aperture to the focus and beyond, blurred.

        What crosses a section spreads over the section's rectangle and the blur there; :data:`HOT` times the mean
        is taken for its brightest place. Follows sections parallel to the lens along the sun's ray.
        """
        lens, ray = self._machine.lens, self._sun @ pose.rotation
        cosine = max(float(ray[2]), 0.05)
        offset = (points_world_m - pose.centre_world_m) @ pose.rotation
        depth = -offset[:, 2] / cosine
        beyond = np.abs(1 - depth / (lens.focal_length_m * cosine**1.3))
        width = np.maximum(beyond - COLOURS, 0.0)
        blur = BLUR_RAD * np.abs(depth)
        shown, area = np.ones(len(depth), dtype=bool), np.ones(len(depth))
        for axis, edge in ((0, lens.short_edge_m), (1, lens.long_edge_m)):
            shown &= np.abs(offset[:, axis] + depth * ray[axis]) <= beyond * edge / 2 + 3 * blur
            area *= np.sqrt((width * edge) ** 2 + 2 * np.pi * blur**2)
        shown &= (depth > 0) & (points_world_m[:, 2] >= self._machine.sand.height_m)
        power = lens.short_edge_m * lens.long_edge_m * lens.transmission * self._machine.sun.dni_w_m2 * cosine
        return np.where(shown, HOT * power / np.maximum(area, 1e-6), 0.0)

    def _cable_points(self, pose: Pose) -> Array:
        """(8 * points, 3) along the cables, winch by winch, what is next to the attachment left out."""
        ends = pose.centre_world_m + self._machine.attachments_lens_m @ pose.rotation.T
        way = self._machine.pulleys_world_m - ends
        first = np.minimum(_TIED_M / np.sqrt((way * way).sum(axis=1)), 1.0)[:, None]
        share = first + (1 - first) * np.linspace(0, 1, _CABLE_POINTS)
        return (ends[:, None] + share[..., None] * way[:, None]).reshape(-1, 3)


_CABLE_POINTS = 13


def _spot_rows(sun: Array) -> Array:
    """(2, 6): the spot's motion for a motion (centre, rotation) of the lens; a turn hardly moves it."""
    return np.array([[1, 0, -sun[0] / sun[2], 0, 0, 0], [0, 1, -sun[1] / sun[2], 0, 0, 0]])


def _drawn_in(polygon: shapely.Polygon, by_m: float) -> shapely.Geometry:
    inner = polygon.buffer(-by_m)
    if inner.is_empty:
        raise MachineFileError(f"bed.keep_in_world_m: nothing is left of it less the margin of {by_m:.3f} m")
    return inner


def _sides(polygon: shapely.Geometry) -> list[tuple[float, float, float]] | None:
    """Half planes (a, b, c), inside where a x + b y < c, of a convex polygon; None for any other."""
    if not isinstance(polygon, shapely.Polygon) or polygon.interiors or len(polygon.exterior.coords) > 16:
        return None
    if polygon.convex_hull.area - polygon.area > 1e-12:
        return None
    ring = np.array(shapely.geometry.polygon.orient(polygon).exterior.coords).tolist()
    return [(y1 - y0, x0 - x1, (y1 - y0) * x0 + (x0 - x1) * y0) for (x0, y0), (x1, y1) in itertools.pairwise(ring)]
