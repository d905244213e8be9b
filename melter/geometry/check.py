"""Does a machine hold its lens where it should: the whole assessment behind ``melter machine check``.

Poses: lens in focus and facing the sun, over a grid of the bed, suns from all sides. A pose holds if tensions inside
the band balance gravity and the design wind from any side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from melter.geometry.cables import cable_lengths_m
from melter.geometry.clearance import clearances_m
from melter.geometry.holding import SLACK_N, holds, structure_of, violation, wrenches_n
from melter.geometry.pose import rotation_facing, sun_direction_world, work_centre_world_m
from melter.geometry.shape import MachineShape
from melter.geometry.stiffness import modes_hz, spot_per_cable

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

ZENITHS_DEG = (0.0, 10.0, 20.0, 25.0, 30.0, 35.0, 40.0)
"""Suns looked at; the machine's own is added."""
BED_POINTS = 9
"""Grid points along each side of the bed."""
AZIMUTHS = 12
"""Suns around the horizon."""
CLEARANCE_MIN_M = 0.020
"""Least distance between things that must not touch: twice what pulleys are placed to."""
UNLIMITED_N = 1e5
"""Tension that stands for no upper limit."""
WIND_MAX_M_S = 15.0
"""Strongest wind that is tried."""
HALVINGS = 7
"""Of the range in which a margin or a wind is looked for."""
PUSH, STRONG = "a cable would have to push", "a cable above tension_max_n"
"""Why a pose does not hold: a cable at the lower end of the band, or one at the upper."""


@dataclass(frozen=True, eq=False)
class Poses:
    """Lenses at work: every array has shape (azimuths, bed x, bed y, ...)."""

    spot_world_m: Array
    """(..., 2)"""
    centre_world_m: Array
    """(..., 3)"""
    rotation: Array
    """(..., 3, 3)"""
    sun_world: Array
    """(..., 3)"""


@dataclass(frozen=True, eq=False)
class Report:
    """What is known of a machine's holding."""

    zenith_deg: float
    """The machine is to work up to this zenith angle."""
    feasible_share: float
    """Share of poses up to ``zenith_deg`` that hold: bed x azimuths x zeniths."""
    by_zenith_deg: dict[float, float]
    """Share of poses that hold, by the sun's zenith angle in degrees."""
    bed_share: Array
    """(bed x, bed y) share of poses up to ``zenith_deg`` that hold."""
    bed_by_zenith_deg: dict[float, Array]
    """(bed x, bed y) share of the sun's azimuths with which poses hold, by zenith angle."""
    bed_x_m: Array
    """Grid along world x."""
    bed_y_m: Array
    """Grid along world y."""
    limited_by: dict[str, float]
    """Share of the failing poses, all zeniths, by reason."""
    limiting_cables: dict[str, int]
    """How often, among some failing poses, a cable stands at the end of the band that it would have to leave."""
    clearances_m: dict[str, float]
    """Least distance by what comes near to what, up to ``zenith_deg``."""
    park_holds: bool
    """Level at park."""
    way_share: float
    """Share of the straight way from park into work that holds: bed middle and corners, all azimuths."""
    lowest_mode_hz: float
    """Slowest swing of the lens on taut cables, up to ``zenith_deg``."""
    spot_per_cable: float
    """Largest move of the spot per length that one cable is out."""
    margin_n: float
    """By how much the band could be narrower at both ends with every pose up to ``zenith_deg`` still held; 0: not even so."""
    wind_max_m_s: float
    """Strongest wind in which every pose up to ``zenith_deg`` holds (looked for up to WIND_MAX_M_S); 0: none."""
    bed_limit: tuple[tuple[str, ...], ...]
    """(bed x, bed y) what most failing poses up to ``zenith_deg`` lack there; empty where all hold."""
    problems: tuple[str, ...]
    """What keeps the machine from working; empty if it holds."""

    @property
    def holds(self) -> bool:
        """Whether nothing keeps the machine from working."""
        return not self.problems

    @property
    def min_clearance_m(self) -> float:
        """Least of all clearances."""
        return min(self.clearances_m.values())


def work_poses(shape: MachineShape, zenith_deg: float, bed_points: int = BED_POINTS, azimuths: int = AZIMUTHS) -> Poses:
    """Return the poses at work for one zenith angle: azimuths all round, a grid over the bed with its edges."""
    azimuth = np.arange(azimuths) * 2 * np.pi / azimuths
    x, y = (np.linspace(-side / 2, side / 2, bed_points) for side in shape.bed_size_m)
    turn, sx, sy = np.meshgrid(azimuth, x, y, indexing="ij")
    sun = sun_direction_world(np.radians(zenith_deg), turn)
    spot = np.stack([sx, sy], axis=-1)
    centre = work_centre_world_m(spot, sun, shape.focal_length_m, shape.sand_height_m)
    return Poses(spot, centre, rotation_facing(sun), sun)


def poses_hold(
    shape: MachineShape, centre_world_m: Array, rotation: Array, tension_max_n: float | None = None
) -> Flags:
    """Return (...) whether poses hold in still air and in the design wind from any side.

    ``tension_max_n``: upper end of the band instead of the machine's.
    """
    high = shape.tension_max_n if tension_max_n is None else tension_max_n
    structure = structure_of(shape, centre_world_m, rotation)
    held = holds(structure, wrenches_n(shape, rotation, shape.wind_m_s), shape.tension_min_n, high)
    return np.asarray(held.all(axis=0))


def assess(shape: MachineShape) -> Report:
    """Return the report on a machine."""
    zeniths = sorted({*ZENITHS_DEG, float(shape.sun_zenith_deg)})
    poses = {zenith: work_poses(shape, zenith) for zenith in zeniths}
    held = {z: poses_hold(shape, p.centre_world_m, p.rotation) for z, p in poses.items()}
    wanted = [z for z in zeniths if z <= shape.sun_zenith_deg]
    inside = np.stack([held[z] for z in wanted])
    limited_by, cables = _limits(shape, poses, held)
    nearest = _nearest(shape, [poses[z] for z in wanted])
    all_centres, all_rotations = (
        np.stack([getattr(poses[z], a) for z in wanted]) for a in ("centre_world_m", "rotation")
    )
    park = bool(poses_hold(shape, shape.park_world_m, np.eye(3)))
    way = _way_share(shape)
    problems = (
        *_holding_problems(shape, float(inside.mean()), limited_by, cables, park, way),
        *_clearance_problems(nearest),
        *_length_problems(shape, [poses[z] for z in wanted]),
    )
    return Report(
        zenith_deg=float(shape.sun_zenith_deg),
        feasible_share=float(inside.mean()),
        by_zenith_deg={z: float(held[z].mean()) for z in zeniths},
        bed_share=inside.mean(axis=(0, 1)),
        bed_by_zenith_deg={z: held[z].mean(axis=0) for z in zeniths},
        bed_x_m=poses[zeniths[0]].spot_world_m[0, :, 0, 0],
        bed_y_m=poses[zeniths[0]].spot_world_m[0, 0, :, 1],
        limited_by=limited_by,
        limiting_cables=cables,
        clearances_m=nearest,
        park_holds=park,
        way_share=way,
        lowest_mode_hz=min(float(modes_hz(shape, poses[z].centre_world_m, poses[z].rotation).min()) for z in wanted),
        spot_per_cable=max(_spot_per_cable(shape, poses[z]) for z in wanted),
        margin_n=_most(
            lambda m: _narrower(shape, m), all_centres, all_rotations, (shape.tension_max_n - shape.tension_min_n) / 2
        ),
        wind_max_m_s=_most(lambda v: replace(shape, wind_m_s=v), all_centres, all_rotations, WIND_MAX_M_S),
        bed_limit=_bed_limit(shape, all_centres, all_rotations, inside),
        problems=tuple(problems),
    )


def _narrower(shape: MachineShape, by_n: float) -> MachineShape:
    return replace(shape, tension_min_n=shape.tension_min_n + by_n, tension_max_n=shape.tension_max_n - by_n)


def _most(changed: Callable[[float], MachineShape], centre: Array, rotation: Array, most: float) -> float:
    """Largest value, up to ``most``, with which the changed machine holds every pose; found by halving, from below."""
    centre, rotation = centre.reshape(-1, 3), rotation.reshape(-1, 3, 3)
    low, high = 0.0, most
    if not poses_hold(changed(low), centre, rotation).all():
        return 0.0
    for _ in range(HALVINGS):
        value = (low + high) / 2
        held = poses_hold(changed(value), centre, rotation)
        if held.all():
            low = value
        else:
            high = value
            centre, rotation = centre[~held], rotation[~held]
    return low


def _bed_limit(shape: MachineShape, centre: Array, rotation: Array, held: Flags) -> tuple[tuple[str, ...], ...]:
    """What most of the failing poses lack, over the bed; poses (zenith, azimuth, bed x, bed y, ...)."""
    pushes = np.zeros(held.shape, dtype=bool)
    pushes[~held] = ~poses_hold(shape, centre[~held], rotation[~held], UNLIMITED_N)
    share, failing = pushes.sum(axis=(0, 1)), (~held).sum(axis=(0, 1))
    words = np.where(failing == 0, "", np.where(2 * share >= failing, PUSH, STRONG))
    return tuple(tuple(str(word) for word in row) for row in words)


def _spot_per_cable(shape: MachineShape, poses: Poses) -> float:
    moved = spot_per_cable(shape, poses.centre_world_m, poses.rotation, poses.sun_world)
    return float(np.hypot(moved[..., 0, :], moved[..., 1, :]).max())


def _nearest(shape: MachineShape, work: list[Poses]) -> dict[str, float]:
    """Least clearances over poses at work and at park."""
    found = [clearances_m(shape, p.centre_world_m, p.rotation, p.sun_world) for p in work]
    sun = work[-1].sun_world[:, 0, 0]
    level = np.broadcast_to(np.eye(3), (len(sun), 3, 3))
    parked = clearances_m(shape, np.broadcast_to(shape.park_world_m, sun.shape), level, sun)
    parked.pop("cable-light")
    return {name: min(float(d[name].min()) for d in (*found, parked) if name in d) for name in found[0]}


def _limits(
    shape: MachineShape, poses: dict[float, Poses], held: dict[float, Flags]
) -> tuple[dict[str, float], dict[str, int]]:
    """Why failing poses fail, and which cables stand at the end of the band in some of them."""
    centre = np.concatenate([p.centre_world_m[~held[z]] for z, p in poses.items()])
    rotation = np.concatenate([p.rotation[~held[z]] for z, p in poses.items()])
    if not len(centre):
        return {}, {}
    strong = poses_hold(shape, centre, rotation, UNLIMITED_N)
    reasons = {
        STRONG: float(strong.mean()),
        PUSH: float((~strong).mean()),
    }
    cables: dict[str, int] = {}
    for i in np.linspace(0, len(centre) - 1, min(16, len(centre))).astype(int):
        structure, wrench = structure_of(shape, centre[i], rotation[i]), wrenches_n(shape, rotation[i])[0]
        excess, tensions = violation(structure, wrench, shape.tension_min_n, shape.tension_max_n)
        edge = max(excess, 0.0) - SLACK_N
        low, high = shape.tension_min_n - edge, shape.tension_max_n + edge
        for k in np.flatnonzero((tensions <= low) | (tensions >= high)) if np.isfinite(excess) else ():
            cables[shape.winches[k]] = cables.get(shape.winches[k], 0) + 1
    ordered = dict(sorted(cables.items(), key=lambda item: -item[1]))
    return {name: share for name, share in reasons.items() if share > 0}, ordered


def _way_share(shape: MachineShape) -> float:
    """Share of poses between park and work, along straight lines and turns, that hold."""
    steps = np.linspace(0, 1, 11)[:, None, None, None]
    azimuth = np.arange(AZIMUTHS) * 2 * np.pi / AZIMUTHS
    work = work_poses(shape, shape.sun_zenith_deg, bed_points=3)
    tilt = steps * np.radians(shape.sun_zenith_deg)
    rotation = rotation_facing(sun_direction_world(tilt, azimuth[:, None, None]))
    rotation = np.broadcast_to(rotation, (11, *work.rotation.shape))
    centre = shape.park_world_m + steps[..., None] * (work.centre_world_m - shape.park_world_m)
    return float(poses_hold(shape, centre, rotation).mean())


def _holding_problems(
    shape: MachineShape, share: float, limited_by: dict[str, float], cables: dict[str, int], park: bool, way: float
) -> list[str]:
    band = f"{shape.tension_min_n:g}-{shape.tension_max_n:g} N"
    found: list[str] = []
    if share < 1:
        why = " and ".join(f"{name} ({part:.0%})" for name, part in limited_by.items())
        names = ", ".join(list(cables)[:4])
        found.append(
            f"holds {share:.1%} of the poses up to {shape.sun_zenith_deg:g} degrees zenith (tension {band}, wind "
            f"{shape.wind_m_s:g} m/s): {why}; first at their limit: {names}"
        )
    if not park:
        found.append(f"park: no tensions within {band} hold the lens level at {_text(shape.park_world_m)} m")
    if way < 1:
        found.append(f"way from park into work: {way:.1%} of it holds")
    return found


_ARTICLES = {"cable": "a cable", "lens": "the lens"}


def _clearance_problems(nearest: dict[str, float]) -> list[str]:
    found: list[str] = []
    for name, value in nearest.items():
        what, other = name.split("-")
        far_mm, need_mm = value * 1e3, CLEARANCE_MIN_M * 1e3
        if value < 0:
            found.append(f"a cable runs {-far_mm:.0f} mm inside the light: it shades it and burns")
        elif value < CLEARANCE_MIN_M:
            one, another = (
                ("two cables come", "each other") if other == "cable" else (f"{_ARTICLES[what]} comes", f"the {other}")
            )
            found.append(f"{one} within {far_mm:.0f} mm of {another}, {need_mm:.0f} mm needed")
    return found


def _length_problems(shape: MachineShape, work: list[Poses]) -> list[str]:
    lengths = np.stack(
        [cable_lengths_m(shape.pulleys_world_m, shape.attachments_lens_m, p.centre_world_m, p.rotation) for p in work]
    )
    found: list[str] = []
    for k, name in enumerate(shape.winches):
        low, high = float(lengths[..., k].min()), float(lengths[..., k].max())
        if low < shape.length_min_m or high > shape.length_max_m:
            found.append(
                f"winch {name}: needs {low:.2f} to {high:.2f} m of cable at work, "
                f"limits are {shape.length_min_m:g} to {shape.length_max_m:g} m"
            )
    return found


def _text(values: Array) -> str:
    return "(" + ", ".join(f"{v:g}" for v in values) + ")"
