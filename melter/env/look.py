"""What a picture of the machine shows, as plain values: poses, light, tensions, paths. No drawing here."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.env.batch import SandMelterBatch
from melter.geometry.cables import structure_matrix
from melter.geometry.light import LensOptics, fast_patch, semi_axes_and_angle
from melter.geometry.pose import apply, rotation_facing, sun_direction_world, work_centre_world_m
from melter.geometry.reference import reference_tensions_n, weight_n
from melter.machine import WINCH_COUNT, Machine

Array = NDArray[np.float64]
Colour = tuple[float, float, float, float]

NO_PATH = np.zeros((0, 2))
AHEAD_S = 60.0
"""How much of the path ahead is shown."""
TENSION_COLOURS = ((0.16, 0.42, 1.0), (0.20, 0.72, 0.55), (0.25, 0.78, 0.25), (0.95, 0.75, 0.10), (0.95, 0.12, 0.08))
"""Slack, lowest allowed, in the middle of the band, near its top, above it."""


@dataclass(frozen=True, eq=False)
class Look:
    """One moment of one machine. World frame, metres; arrays are not written to."""

    machine: Machine
    centre_world_m: Array
    """(3,) lens centre."""
    rotation: Array
    """(3, 3) lens to world."""
    sun_world: Array
    """(3,) unit vector to the sun."""
    tensions_n: Array
    """(8,)."""
    pulleys_world_m: Array
    """(8, 3) where the pulleys really are."""
    attachments_lens_m: Array
    """(8, 3)."""
    focal_length_m: float
    spot_world_m: Array
    """(2,) centroid of the light on the sand."""
    moments_m2: Array
    """(3,) second central moments of the light: xx, xy, yy."""
    target_world_m: Array | None = None
    """(2,) where the spot should be now."""
    path_ahead_world_m: Array = field(default_factory=lambda: NO_PATH)
    """(k, 2)."""
    trace_world_m: Array = field(default_factory=lambda: NO_PATH)
    """(m, 2) where the spot has melted; NaN between separate tracks."""
    caption: tuple[str, ...] = ()
    sand_height_m: float = 0.0

    @property
    def drawable(self) -> bool:
        """Whether every number that places something is finite (a diverged simulation's are not)."""
        parts = (self.centre_world_m, self.rotation, self.spot_world_m, self.moments_m2)
        return all(bool(np.isfinite(part).all() and np.abs(part).max() < 1e3) for part in parts)

    @property
    def lens_corners_world_m(self) -> Array:
        """(4, 3) corners of the lens."""
        lens = self.machine.lens
        half = np.array([lens.short_edge_m, lens.long_edge_m, 0.0]) / 2
        signs = np.array([(1, 1, 0), (-1, 1, 0), (-1, -1, 0), (1, -1, 0)])
        return self.centre_world_m + apply(self.rotation[None], signs * half)

    @property
    def attachments_world_m(self) -> Array:
        """(8, 3) where the cables hold the lens frame."""
        return self.centre_world_m + apply(self.rotation[None], self.attachments_lens_m)

    @property
    def shadow_world_m(self) -> Array:
        """(4, 3) the lens's outline along the sun's rays on the sand."""
        return self._on_sand(self.lens_corners_world_m)

    @property
    def cone_foot_world_m(self) -> Array:
        """(4, 3) where the light of the lens's corners meets the sand (an ideal lens, no blur)."""
        reach = (self.centre_world_m[2] - self.sand_height_m) / max(self.sun_world[2], 1e-3)
        middle = self._on_sand(self.centre_world_m)
        return middle + (self.shadow_world_m - middle) * (1 - reach / self.focal_length_m)

    def ellipse_world_m(self, count: int = 48) -> Array:
        """(count, 2) the patch's ellipse (semi-axes: twice the roots of the moments' eigenvalues)."""
        axes, angle = semi_axes_and_angle(*self.moments_m2)
        turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
        c, s = np.cos(angle), np.sin(angle)
        x, y = axes[0] * np.cos(turn), axes[1] * np.sin(turn)
        return self.spot_world_m + np.stack([c * x - s * y, s * x + c * y], axis=-1)

    def on_sand_world_m(self, points_world_m: Array) -> Array:
        """(k, 3) points of the sand's surface for (k, 2) world x and y."""
        return np.concatenate([points_world_m, np.full((len(points_world_m), 1), self.sand_height_m)], axis=1)

    def _on_sand(self, points: Array) -> Array:
        down = (points[..., 2:] - self.sand_height_m) / max(self.sun_world[2], 1e-3)
        return points - down * self.sun_world


def look_of(batch: SandMelterBatch, index: int, trace_world_m: Array, title: str = "") -> Look:
    """Return what simulation ``index`` looks like now; ``trace_world_m`` (m, 2) is where its spot has melted."""
    machine, physics, values, tick = batch.machine, batch.physics, batch.values, int(batch.tick[index])
    patch, target = batch.patch[index].copy(), batch.targets[index, tick, :2].copy()
    ahead = batch.targets[index, tick : min(batch.horizon, tick + round(AHEAD_S * machine.control.rate_hz)) + 1, :2]
    tensions = physics.tension_n[index].copy()
    return Look(
        machine=machine,
        centre_world_m=physics.centre_world_m[index].copy(),
        rotation=physics.rotation[index],
        sun_world=batch.reference.sun_world[index].copy(),
        tensions_n=tensions,
        pulleys_world_m=values["pulley_m"][index].reshape(WINCH_COUNT, 3),
        attachments_lens_m=values["attachment_m"][index].reshape(WINCH_COUNT, 3),
        focal_length_m=float(values["focal_length_m"][index, 0]),
        spot_world_m=patch[:2],
        moments_m2=patch[2:],
        target_world_m=target,
        path_ahead_world_m=ahead.copy(),
        trace_world_m=trace_world_m,
        caption=((title,) if title else ())
        + _caption(machine, tick * machine.control.period_s, patch[:2] - target, tensions),
        sand_height_m=float(values["bed_height_m"][index, 0]),
    )


def look_at(machine: Machine, spot_world_m: ArrayLike | None, path_world_m: Array = NO_PATH) -> Look:
    """Return the machine as drawn, balanced, no wind: at work on ``spot_world_m`` (2,), or parked for None."""
    sun = sun_direction_world(machine.sun.zenith_rad, machine.sun.azimuth_rad)
    if spot_world_m is None:
        centre, rotation = np.array(machine.park.lens_centre_world_m), np.eye(3)
    else:
        focal, height = machine.lens.focal_length_m, machine.sand.height_m
        centre, rotation = work_centre_world_m(spot_world_m, sun, focal, height), rotation_facing(sun)
    patch = fast_patch(LensOptics.from_machine(machine), centre, rotation, sun, machine.sand.height_m)
    structure = structure_matrix(machine.pulleys_world_m, machine.attachments_lens_m, centre, rotation)
    tensions = reference_tensions_n(structure, weight_n(machine.lens.moving_mass_kg), machine.tension_band_n)
    return Look(
        machine=machine,
        centre_world_m=centre,
        rotation=rotation,
        sun_world=sun,
        tensions_n=tensions,
        pulleys_world_m=machine.pulleys_world_m,
        attachments_lens_m=machine.attachments_lens_m,
        focal_length_m=machine.lens.focal_length_m,
        spot_world_m=patch.centre_world_m,
        moments_m2=np.array([patch.xx, patch.xy, patch.yy]),
        path_ahead_world_m=path_world_m,
        caption=(machine.name, f"sun {machine.sun.zenith_deg:.0f}° from zenith", *_tension_lines(machine, tensions)),
        sand_height_m=machine.sand.height_m,
    )


def tension_colour(tension_n: float, machine: Machine) -> Colour:
    """Return the colour of a cable: blue when slack, green inside the allowed band, red above it."""
    low, high = machine.limits.tension_min_n, machine.limits.tension_max_n
    stops = (0.5 * low, low + 1e-9, (low + high) / 2, 0.93 * high, max(high, 0.93 * high + 1e-9))
    red, green, blue = (float(np.interp(tension_n, stops, column)) for column in zip(*TENSION_COLOURS, strict=True))
    return red, green, blue, 1.0


def _caption(machine: Machine, t_s: float, error_m: Array, tensions_n: Array) -> tuple[str, ...]:
    error_mm = 1e3 * float(np.hypot(error_m[0], error_m[1]))
    return f"t {t_s:.1f} s", f"spot error {error_mm:.2f} mm", *_tension_lines(machine, tensions_n)


def _tension_lines(machine: Machine, tensions_n: Array) -> tuple[str, str]:
    limits = machine.limits
    return (
        f"tension {tensions_n.min():.0f} to {tensions_n.max():.0f} N",
        f"(band {limits.tension_min_n:.0f} to {limits.tension_max_n:.0f} N)",
    )
