"""Labelled pictures: cameras, suns, sands, lenses and exposures drawn at random over one machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.geometry.pose import rotation_about_world_xy, rotation_facing, sun_direction_world, work_centre_world_m
from melter.machine import Machine, Marker
from melter.vision.opencv import cv2
from melter.vision.pose.canonical import Small, to_canonical
from melter.vision.scene import SceneOptions, SceneRenderer

Array = NDArray[np.float64]

FRAMES_A_SCENE = 4
"""Pictures from one camera, which differ in sun, lens, clouds and exposure."""
RENDERED_PX = (320, 180)
DISTANCE_M = (2.4, 5.0)
ELEVATION_RAD = (0.30, 1.10)
FOV_DEG = (56.0, 80.0)
NEAR_BED_SHARE = 0.7
"""Of the lenses is at work, facing the sun; the rest is parked or on its way."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """A picture of the small camera and the truth about it; world frame, bed at z = 0."""

    picture: Small
    camera_m: Array
    rotation: Array
    """(3, 3) world to camera."""
    lens_m: Array
    lens_rotation: Array
    """(3, 3) lens to world."""
    sun: Array
    """(3,) towards it."""
    markers: int
    """How many lie on the bed, in view or not."""


def draw_scene(machine: Machine, rng: np.random.Generator) -> list[Labelled]:
    """Return FRAMES_A_SCENE pictures from one random camera."""
    varied = _varied(machine, rng)
    options = SceneOptions(
        camera_jitter_rad=0.03,
        image_size_px=RENDERED_PX,
        sand_level=float(rng.uniform(0.15, 0.45)),
        sand_texture=float(rng.uniform(0.03, 0.25)),
        noise_codes=float(rng.uniform(0.3, 4.0)),
        blur_px=float(rng.uniform(0.3, 1.2)),
        bloom_share=float(rng.uniform(0, 0.05)),
        bloom_px=float(rng.uniform(2, 8)),
    )
    scene = SceneRenderer(varied, rng, options)
    return [_frame(scene, varied, rng) for _ in range(FRAMES_A_SCENE)]


def _varied(machine: Machine, rng: np.random.Generator) -> Machine:
    """The machine with another camera, pulleys as well as they are known, and all, some or none of its markers."""
    distance = float(np.exp(rng.uniform(*np.log(DISTANCE_M))))
    elevation, azimuth = rng.uniform(*ELEVATION_RAD), rng.uniform(-np.pi, np.pi)
    place = distance * np.array(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
    )
    target = rng.normal(0, (0.15, 0.15, 0.05))
    camera = machine.camera.model_copy(
        update={
            "position_world_m": tuple(map(float, place)),
            "look_at_world_m": tuple(map(float, target)),
            "horizontal_fov_deg": float(rng.uniform(*FOV_DEG)),
        }
    )
    kept: tuple[Marker, ...] = machine.bed.marker
    if rng.random() < 0.4:
        share = float(rng.choice([0.0, rng.random()]))
        kept = tuple(marker for marker in kept if rng.random() < share)
    sand = machine.sand.model_copy(update={"height_m": 0.0})
    bed = machine.bed.model_copy(update={"marker": kept})
    return machine.model_copy(update={"camera": camera, "bed": bed, "sand": sand})


def _frame(scene: SceneRenderer, machine: Machine, rng: np.random.Generator) -> Labelled:
    zenith, azimuth = rng.uniform(0, np.radians(45)), rng.uniform(0, 2 * np.pi)
    scene.sun_world = sun_direction_world(zenith, azimuth)
    spot = rng.uniform(-0.42, 0.42, 2)
    if rng.random() < NEAR_BED_SHARE:
        lens_m = work_centre_world_m(spot, scene.sun_world, machine.lens.focal_length_m - rng.uniform(-0.1, 0.35))
        attitude = rotation_facing(scene.sun_world)
        size = float(np.exp(rng.uniform(np.log(0.008), np.log(0.05))))
    else:
        park = np.array(machine.park.lens_centre_world_m)
        lens_m = park + rng.normal(0, (0.1, 0.1, 0.08))
        attitude = rotation_facing(sun_direction_world(rng.random() * zenith, azimuth))
        spot, size = lens_m[:2], float(rng.uniform(0.08, 0.2))
    attitude = rotation_about_world_xy(*rng.normal(0, 0.05, 2)) @ attitude
    picture = scene.render(
        lens_m,
        attitude,
        spot,
        (size**2, 0.0, (size * rng.uniform(0.7, 1.3)) ** 2),
        900.0,
        exposure=float(np.exp(rng.uniform(np.log(0.12), np.log(2.2)))),
        sun_share=float(rng.choice([1.0, rng.uniform(0.05, 1.0)])),
    )
    picture = _in_the_way(picture, rng)
    return Labelled(
        to_canonical(picture, scene.calibration),
        scene.position_world_m,
        scene.rotation_camera_world,
        np.asarray(lens_m, dtype=float),
        np.asarray(attitude, dtype=float),
        scene.sun_world,
        len(machine.bed.marker),
    )


def _in_the_way(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Sometimes a person, a bucket or a tool: a blob of any brightness, but not in the middle of everything."""
    if rng.random() > 0.35:
        return picture
    height, width = picture.shape[:2]
    canvas = np.ascontiguousarray(picture)
    for _ in range(int(rng.integers(1, 4))):
        at = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
        axes = (int(rng.uniform(2, 0.08 * width)), int(rng.uniform(4, 0.2 * height)))
        colour = tuple(float(c) for c in rng.uniform(5, 220, 3))
        cv2.ellipse(canvas, at, axes, float(rng.normal(0, 20)), 0, 360, colour, -1, cv2.LINE_AA)
    return canvas
