"""How far a pose network is off, on pictures that it has not seen: its own renderer's, and the trial's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.machine import Machine
from melter.vision.calibration import CameraCalibration
from melter.vision.pose.canonical import to_canonical
from melter.vision.pose.draw import FRAMES_A_SCENE, Labelled, draw_scene
from melter.vision.pose.model import PoseEstimate, PoseModel, read_out
from melter.vision.trial.light import lens_for, trace
from melter.vision.trial.scenes import Place, make_place
from melter.vision.trial.stage import Bar, Moment

Array = NDArray[np.float64]

UNSEEN_SEED = 1_000_003
"""Added to a seed, so that no picture is one of a dataset's."""
TRIAL_SIZE_PX = (640, 360)
DISTANCE_BAR, ANGLE_BAR_RAD = 0.03, np.radians(2.0)
"""Medians that a good network stays within."""


@dataclass(frozen=True, kw_only=True)
class Miss:
    """One picture's errors; NaN where the network gave no pose."""

    markers: bool
    """Whether some lay on the bed."""
    sure: bool
    quarter_right: bool
    distance: float = float("nan")
    """Relative error of the camera's distance from the bed's middle."""
    azimuth_rad: float = float("nan")
    """Within the quarter that is nearest."""
    elevation_rad: float = float("nan")
    attitude_rad: float = float("nan")
    """Of the camera: how far it would have to be turned, the azimuth's quarter aside."""
    lens_m: float = float("nan")
    """Distance of the lens's centre from where it is, seen from the true camera."""
    lens_axis_rad: float = float("nan")
    lens_turn_rad: float = float("nan")
    """About its axis, half turns aside."""


def miss_of(found: PoseEstimate | None, truth: Labelled) -> Miss:
    """Return how far an estimate is off."""
    if found is None:
        return Miss(markers=truth.markers > 0, sure=False, quarter_right=False)
    true_azimuth = float(np.arctan2(truth.camera_m[1], truth.camera_m[0]))
    off = _wrapped(found.azimuth_rad - true_azimuth, 2 * np.pi)
    quarters = round(off / (np.pi / 2))
    back = _about_z(-quarters * np.pi / 2)
    camera, rotation = back @ found.camera_position_world_m, found.rotation_camera_world @ back.T
    lens, lens_rotation = back @ found.lens_centre_world_m, back @ found.lens_rotation_world
    true_distance = float(np.linalg.norm(truth.camera_m))
    elevation = float(np.arcsin(truth.camera_m[2] / true_distance))
    seen, meant = rotation @ (lens - camera), truth.rotation @ (truth.lens_m - truth.camera_m)
    axis, true_axis = rotation @ lens_rotation, truth.rotation @ truth.lens_rotation
    across = axis[:, 0] - axis[:, 2] * (axis[:, 0] @ axis[:, 2])
    return Miss(
        markers=truth.markers > 0,
        sure=found.sure,
        quarter_right=quarters % 4 == 0,
        distance=abs(found.distance_m / true_distance - 1),
        azimuth_rad=abs(_wrapped(off, np.pi / 2)),
        elevation_rad=abs(found.elevation_rad - elevation),
        attitude_rad=_angle(rotation @ truth.rotation.T),
        lens_m=float(np.linalg.norm(seen - meant)),
        lens_axis_rad=float(np.arccos(np.clip(axis[:, 2] @ true_axis[:, 2], -1, 1))),
        lens_turn_rad=abs(_wrapped(float(np.arctan2(across @ true_axis[:, 1], across @ true_axis[:, 0])), np.pi)),
    )


def unseen(machine: Machine, images: int, seed: int) -> Iterator[Labelled]:
    """Yield pictures like a dataset's, but none of them."""
    rng = np.random.default_rng((seed + UNSEEN_SEED, 0))
    for _ in range(-(-images // FRAMES_A_SCENE)):
        yield from draw_scene(machine, rng)


def trial_pictures(machine: Machine, places: int, seed: int) -> Iterator[Labelled]:
    """Yield pictures of the trial's renderer, well exposed: the lens parked, and at work."""
    for n in range(places):
        place = make_place(machine, seed + UNSEEN_SEED + n, TRIAL_SIZE_PX)
        park = np.array(machine.park.lens_centre_world_m)
        yield _of_place(place, place.reference, park, np.eye(3))
        yield _at_work(place, np.random.default_rng((seed, n)))


def _at_work(place: Place, rng: np.random.Generator) -> Labelled:
    sheet, sand = place.machine.lens, place.stage.sand
    lens = lens_for(
        rng.uniform(-0.35, 0.35, 2), place.sun, rng.normal(0, 0.03, 2), float(rng.uniform(-0.05, 0.2)),
        size_m=(sheet.short_edge_m, sheet.long_edge_m), focal_m=sheet.focal_length_m,
        facet_error_rad=6e-3, transmission=0.65,
    )  # fmt: skip
    patch = trace(lens, place.sun, 900.0, 0.03, sand.height_m, rng, 60_000)
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]) * (lens.short_m / 2, lens.long_m / 2)
    world = lens.centre_m + corners @ lens.axes[:, :2].T
    bars = tuple(Bar(start_m=tuple(a), end_m=tuple(b), width_m=0.03, light=0.08) for a, b in pairwise(world))
    moment = Moment(sun=place.sun, dni_w_m2=900.0, patches=(patch,), lens=lens, bars=bars)
    spread = place.sensor.spread(place.stage.light(moment)[0])
    picture = place.sensor.expose(spread, float(rng.uniform(0.8, 1.8)), rng)
    return _of_place(place, picture, lens.centre_m, lens.axes)


def _of_place(place: Place, picture: NDArray[np.uint8], lens_m: Array, lens_rotation: Array) -> Labelled:
    camera = place.stage.camera
    size = (camera.width_px, camera.height_px)
    small = to_canonical(picture, CameraCalibration(size, camera.matrix, np.array(camera.bend)))
    return Labelled(
        small, np.array(camera.position_m), camera.axes, lens_m, lens_rotation, place.sun, len(place.machine.bed.marker)
    )


def run(model: PoseModel, pictures: Iterator[Labelled], count: int, done: Callable[[float], None]) -> list[Miss]:
    """Return the errors on some pictures; the sun is told, where the camera stands is not."""
    misses: list[Miss] = []
    for truth in pictures:
        misses.append(miss_of(read_out(model.steady(truth.picture), truth.sun), truth))
        done(min(len(misses) / count, 1.0))
    return misses


def summary(misses: Sequence[Miss]) -> dict[str, Any]:
    """Return medians and 95th percentiles; angles in degrees, lengths in millimetres."""

    def of(name: str, factor: float) -> list[float | None]:
        values = np.array([getattr(miss, name) for miss in misses], dtype=float)
        values = values[np.isfinite(values)]
        return [float(np.quantile(values, q)) * factor if values.size else None for q in (0.5, 0.95)]

    degrees = 180 / np.pi
    names = {
        "distance_percent": ("distance", 100.0),
        "azimuth_deg": ("azimuth_rad", degrees),
        "elevation_deg": ("elevation_rad", degrees),
        "attitude_deg": ("attitude_rad", degrees),
        "lens_mm": ("lens_m", 1000.0),
        "lens_axis_deg": ("lens_axis_rad", degrees),
        "lens_turn_deg": ("lens_turn_rad", degrees),
    }
    table: dict[str, Any] = {"n": len(misses)}
    for name, (key, factor) in names.items():
        table[f"{name}_p50"], table[f"{name}_p95"] = of(key, factor)
    for name in ("sure", "quarter_right"):
        table[f"{name}_share"] = sum(getattr(miss, name) for miss in misses) / len(misses) if misses else None
    return table


def good_enough(table: dict[str, Any]) -> bool:
    """Whether the camera's medians are within the bar: distance 3 %, azimuth and elevation 2 degrees."""
    angles = ("azimuth_deg_p50", "elevation_deg_p50")
    values = [table[name] for name in angles]
    if table["distance_percent_p50"] is None or any(value is None for value in values):
        return False
    return table["distance_percent_p50"] <= 100 * DISTANCE_BAR and max(values) <= np.degrees(ANGLE_BAR_RAD)


def _wrapped(angle: float, period: float) -> float:
    return (angle + period / 2) % period - period / 2


def _about_z(angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def _angle(rotation: Array) -> float:
    return float(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1)))
