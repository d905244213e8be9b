"""What the parts of a machine file must be to each other: a machine that can exist.

Every function takes a whole ``melter.machine.Machine`` and raises ValueError, on one line, with the keys' names, their
values and what is allowed. World and lens frames, metres; see ``docs/frames.md``. Numpy alone, without the geometry
room, which stands beside the machine file and not below it. Whether a possible machine holds its lens is another
question: ``melter machine check``. Rules for limits: ``melter.machine_limits``.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from melter.machine import Machine

Array = NDArray[np.float64]

AXES = ("X", "Y", "Z", "A", "B", "C", "U", "V")
"""Of the controller, in winch order."""
PULLEY_OUTSIDE_M = 0.5
"""How far a pulley may stand outside the poles, or above them: brackets."""
PULLEY_BELOW_M = 1.0
"""How far below the sand it may stand: a bed in a raised box."""
EDGE_M = 1e-4
"""Nearer to the edge of the lens than this a cable passes outside: it is tied there."""
DICTIONARIES = {
    **{f"DICT_{n}X{n}_{count}": count for n in (4, 5, 6, 7) for count in (50, 100, 250, 1000)},
    "DICT_ARUCO_ORIGINAL": 1024,
    "DICT_APRILTAG_16H5": 30,
    "DICT_APRILTAG_25H9": 35,
    "DICT_APRILTAG_36H10": 2320,
    "DICT_APRILTAG_36H11": 587,
    "DICT_ARUCO_MIP_36H12": 250,
}
"""Markers in each of OpenCV's dictionaries."""


def require(condition: bool, message: str) -> None:
    """Raise ValueError with ``message`` unless ``condition``."""
    if not condition:
        raise ValueError(message)


def require_winches(machine: Machine) -> None:
    """Refuse winches that share a name or are not in the controller's order."""
    names = [winch.name for winch in machine.winch]
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, f"winch.name: {', '.join(twice)} given more than once (duplicates); every name must differ")
    axes = tuple(winch.axis for winch in machine.winch)
    require(axes == AXES, f"winch.axis = {' '.join(axes)}: must be {' '.join(AXES)}, in this order, none twice")


def require_markers(machine: Machine) -> None:
    """Refuse markers that no dictionary has, that are there twice, or that lie on each other."""
    for number, marker in enumerate(machine.bed.marker):
        count = DICTIONARIES.get(marker.dictionary.upper())
        where = f"bed.marker.{number}"
        known = ", ".join(DICTIONARIES)
        if count is None:
            raise ValueError(f"{where}.dictionary = {marker.dictionary!r}: must be one of {known}")
        require(marker.id < count, f"{where}.id = {marker.id}: {marker.dictionary} has 0 to {count - 1}")
    for (i, a), (j, b) in combinations(enumerate(machine.bed.marker), 2):
        same = (a.dictionary.upper(), a.id) == (b.dictionary.upper(), b.id)
        require(not same, f"bed.marker.{j}.id = {b.id}: bed.marker.{i} is the same marker; every one must differ")
        apart_m = math.dist(a.centre_m, b.centre_m)
        need_m = (a.size_m + b.size_m) / 2
        require(
            apart_m >= need_m,
            f"bed.marker.{j}.centre_m = {list(b.centre_m)}: lies on bed.marker.{i}, {apart_m:.3f} m away; "
            f"with their size_m they must be at least {need_m:.3f} m apart",
        )


def require_frame(machine: Machine) -> None:
    """Refuse poles that enclose nothing, or not the bed."""
    poles = np.array(machine.frame.poles_world_m)
    hull = _hull(poles)
    require(
        len(hull) >= 3 and _area_m2(hull) > 0.01,
        f"frame.poles_world_m = {poles.tolist()}: the poles enclose no area; they must stand around the bed",
    )
    half_x, half_y = machine.bed.size_m[0] / 2, machine.bed.size_m[1] / 2
    corners = np.array([(x, y) for x in (-half_x, half_x) for y in (-half_y, half_y)])
    require(
        float(_outside_m(corners, hull).max()) <= 0,
        f"bed.size_m = {list(machine.bed.size_m)}: the working area reaches outside the poles of the frame; "
        "must lie between frame.poles_world_m",
    )


def require_lens(machine: Machine) -> None:
    """Refuse a lens outside its frame, in the sand, or whose focus cannot come to the sand from above the park pose."""
    lens, frame, sand_m = machine.lens, machine.frame, machine.sand.height_m
    hull = _hull(np.array(frame.poles_world_m))
    x, y, z = machine.park.lens_centre_world_m
    park = f"park.lens_centre_world_m = {[x, y, z]}"
    require(sand_m < z, f"{park}: the lens is outside its frame, under the sand; z must be above {sand_m:g} m")
    require(
        z < frame.height_m,
        f"{park}: the lens is outside its frame, above it; z must be below frame.height_m = {frame.height_m:g} m",
    )
    half_x, half_y = lens.short_edge_m / 2, lens.long_edge_m / 2
    centre = np.array([[x, y]])
    require(
        float(_outside_m(centre, hull)[0]) < 0,
        f"{park}: the lens is outside its frame; x and y must lie between frame.poles_world_m",
    )
    edges = centre + np.array([(i * half_x, j * half_y) for i in (-1, 1) for j in (-1, 1)])
    over_m = float(_outside_m(edges, hull).max())
    require(
        over_m < 0,
        f"lens.short_edge_m = {lens.short_edge_m}, lens.long_edge_m = {lens.long_edge_m}: the lens is outside its frame, "
        f"{over_m:.3f} m beyond frame.poles_world_m at park; must fit between them",
    )
    for number, winch in enumerate(machine.winch):
        at = np.array(winch.attachment_lens_m)
        where = f"winch.{number}.attachment_lens_m = {list(winch.attachment_lens_m)} ({winch.name})"
        out = float(_outside_m(centre + at[:2], hull)[0])
        require(out < 0, f"{where}: {out:.3f} m outside the frame at park, must lie between frame.poles_world_m")
        low_m = z + float(at[2])
        require(low_m > sand_m, f"{where}: at z = {low_m:.3f} m at park, must be above the sand at {sand_m:g} m")
    _require_focus(machine)


def _require_focus(machine: Machine) -> None:
    """Park below work, work below the top of the frame, and cables from above."""
    lens, frame, sand_m, z = machine.lens, machine.frame, machine.sand.height_m, machine.park.lens_centre_world_m[2]
    work_m = lens.focal_length_m * math.cos(machine.sun.zenith_rad) + sand_m
    require(
        z < work_m,
        f"park.lens_centre_world_m z = {z} m: not below the work height {work_m:.3f} m (lens.focal_length_m = "
        f"{lens.focal_length_m}, sun.zenith_deg = {machine.sun.zenith_deg}), where the light is in focus",
    )
    require(
        lens.focal_length_m + sand_m < frame.height_m,
        f"lens.focal_length_m = {lens.focal_length_m}: its focus would lie under the sand for a lens below the top of the frame; "
        f"with the sand at {sand_m:g} m must be below {frame.height_m - sand_m:g} m (frame.height_m = {frame.height_m})",
    )
    sun = sun_world(machine)
    centre = sun * lens.focal_length_m
    require(
        float(_outside_m(centre[None, :2], _hull(np.array(frame.poles_world_m)))[0]) < 0,
        f"lens.focal_length_m = {lens.focal_length_m}: under the sun at {machine.sun.zenith_deg:g} degrees zenith the lens "
        f"is outside its frame (at {centre[0]:.2f}, {centre[1]:.2f} m) while it works over the middle of the bed",
    )
    pulleys, tied = machine.pulleys_world_m, machine.attachments_lens_m
    for pose, at_m, rotation in named_poses(machine):
        rise_m = float((pulleys[:, 2] - (at_m + tied @ rotation.T)[:, 2]).max())
        require(
            rise_m > 0,
            f"winch.pulley_world_m: every pulley is below where its cable holds the lens {pose} (the highest by "
            f"{-rise_m:.3f} m); at least one must be above, to carry the weight",
        )


def require_pulleys(machine: Machine) -> None:
    """Refuse pulleys that no pole of the frame could carry."""
    hull = _hull(np.array(machine.frame.poles_world_m))
    low_m, high_m = machine.sand.height_m - PULLEY_BELOW_M, machine.frame.height_m + PULLEY_OUTSIDE_M
    for number, winch in enumerate(machine.winch):
        where = f"winch.{number}.pulley_world_m = {list(winch.pulley_world_m)} ({winch.name})"
        x, y, z = winch.pulley_world_m
        require(
            z <= high_m,
            f"{where}: above the frame; z must be at most {high_m:g} m (frame.height_m = {machine.frame.height_m:g} and brackets)",
        )
        require(z >= low_m, f"{where}: too far below the sand; z must be at least {low_m:g} m")
        away_m = float(_outside_m(np.array([(x, y)]), hull)[0])
        require(
            away_m <= PULLEY_OUTSIDE_M,
            f"{where}: {away_m:.2f} m outside the poles of the frame, must be at most {PULLEY_OUTSIDE_M:g} m",
        )


def require_free_lens(machine: Machine) -> None:
    """Refuse cables that cross the lens sheet, at park or at work over the middle of the bed."""
    half = np.array([machine.lens.short_edge_m, machine.lens.long_edge_m]) / 2 - EDGE_M
    tied = machine.attachments_lens_m
    for pose, centre, rotation in named_poses(machine):
        pulleys = (machine.pulleys_world_m - centre) @ rotation
        for number, winch in enumerate(machine.winch):
            start, end = tied[number], pulleys[number]
            if start[2] * end[2] >= 0:
                continue
            crossing = start[:2] + start[2] / (start[2] - end[2]) * (end - start)[:2]
            require(
                bool((np.abs(crossing) >= half).any()),
                f"winch.{number}.attachment_lens_m = {list(winch.attachment_lens_m)} ({winch.name}): {pose} its cable crosses "
                f"the lens at x = {crossing[0]:.3f}, y = {crossing[1]:.3f} m, must pass outside its edges at "
                f"±{half[0] + EDGE_M:g} and ±{half[1] + EDGE_M:g} m",
            )


def require_camera(machine: Machine) -> None:
    """Refuse a camera that looks at itself or from under the sand."""
    camera = machine.camera
    away_m = math.dist(camera.position_world_m, camera.look_at_world_m)
    require(
        away_m > 0.01, f"camera.look_at_world_m = {list(camera.look_at_world_m)}: must differ from position_world_m"
    )
    z, sand_m = camera.position_world_m[2], machine.sand.height_m
    require(z > sand_m, f"camera.position_world_m z = {z} m: under the sand, must be above {sand_m:g} m")


GEOMETRY = (
    require_winches,
    require_markers,
    require_frame,
    require_lens,
    require_pulleys,
    require_free_lens,
    require_camera,
)
"""Every rule of this file, in the order in which they are asked."""


def sun_world(machine: Machine) -> Array:
    """(3,) unit vector from the sand to the machine's sun."""
    zenith, azimuth = machine.sun.zenith_rad, machine.sun.azimuth_rad
    level = math.sin(zenith)
    return np.array([level * math.sin(azimuth), level * math.cos(azimuth), math.cos(zenith)])


def named_poses(machine: Machine) -> list[tuple[str, Array, Array]]:
    """Name, lens centre (3,) and rotation (3, 3), lens to world: at park, and at work over the middle of the bed."""
    x, y, z = sun = sun_world(machine)
    work = np.array([0, 0, machine.sand.height_m]) + machine.lens.focal_length_m * sun
    k = 1 / (1 + z)
    facing = np.array([[1 - k * x * x, -k * x * y, x], [-k * x * y, 1 - k * y * y, y], [-x, -y, z]])
    park = np.array(machine.park.lens_centre_world_m)
    return [("at park", park, np.eye(3)), ("at work over the middle of the bed", work, facing)]


def _hull(points: Array) -> Array:
    """(n, 2) convex hull, counterclockwise (monotone chain; Andrew, Information Processing Letters 9 (1979))."""
    ordered = [(float(x), float(y)) for x, y in sorted({(float(x), float(y)) for x, y in points})]

    def half(way: list[tuple[float, float]]) -> list[tuple[float, float]]:
        chain: list[tuple[float, float]] = []
        for p in way:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], p) <= 0:
                chain.pop()
            chain.append(p)
        return chain[:-1]

    return np.array(half(ordered) + half(ordered[::-1]))


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _area_m2(hull: Array) -> float:
    x, y = hull.T
    return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2)


def _outside_m(points: Array, hull: Array) -> Array:
    """(n,) how far points (n, 2) lie beyond the sides of a convex polygon; negative inside."""
    way = np.roll(hull, -1, axis=0) - hull
    normal = np.stack([way[:, 1], -way[:, 0]], axis=1) / np.linalg.norm(way, axis=1)[:, None]
    return ((points[:, None] - hull) * normal).sum(axis=-1).max(axis=1)
