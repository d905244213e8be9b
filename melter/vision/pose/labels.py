"""Poses as points of the small camera's picture, and back.

A square frame looks the same from four sides, and a rectangular lens from two. So that neighbouring poses have neighbouring
labels, points are named from the camera: five on the bed (the middle, towards the camera and away, left and right), six
about the lens (centre, along the camera's right and across it in the lens's plane, along the axis). What these leave open
are two angles: the camera's azimuth, given as a vector of four times the angle and one of the angle itself, and the
lens's turn about its own axis, given as a vector of twice the angle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.vision.opencv import cv2
from melter.vision.pose.canonical import FOCAL_PX, MATRIX

Array = NDArray[np.float64]

BED_REACH_M, LENS_REACH_M = 0.8, 0.4
BED_POINTS: Array = BED_REACH_M * np.array([[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]], dtype=float)
"""(5, 3): x towards the camera's foot, z up."""
LENS_POINTS: Array = LENS_REACH_M * np.array(
    [[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1]], dtype=float
)
"""(6, 3): x along the camera's right in the lens's plane, z along the lens's axis."""
POINTS = len(BED_POINTS) + len(LENS_POINTS)
TURNS = 6
"""Numbers for the angles: cosine and sine of 4 azimuth, azimuth, 2 turn."""


@dataclass(frozen=True, eq=False)
class Poses:
    """n true poses, world frame, bed at z = 0."""

    camera_m: Array
    """(n, 3)"""
    rotation: Array
    """(n, 3, 3) world to camera axes (x right, y down, z forward)."""
    lens_m: Array
    """(n, 3)"""
    lens_rotation: Array
    """(n, 3, 3) lens to world."""


def encode(poses: Poses) -> tuple[Array, Array]:
    """Return (n, 11, 2) points in the small picture (NaN behind the camera) and (n, 6) turns."""
    azimuth = np.arctan2(poses.camera_m[:, 1], poses.camera_m[:, 0])
    bed = BED_POINTS @ _about_z(azimuth).transpose(0, 2, 1)
    gauge, turn = _lens_gauge(poses)
    lens = poses.lens_m[:, None] + LENS_POINTS @ gauge.transpose(0, 2, 1)
    world = np.concatenate([bed, lens], axis=1)
    seen: Array = (world - poses.camera_m[:, None]) @ poses.rotation.transpose(0, 2, 1)
    depth = np.where(seen[..., 2] > 0.2, seen[..., 2], np.nan)
    points = FOCAL_PX * seen[..., :2] / depth[..., None] + MATRIX[:2, 2]
    angles = np.stack([4 * azimuth, azimuth, 2 * turn], axis=-1)
    turns = np.stack([np.cos(angles), np.sin(angles)], axis=-1).reshape(-1, TURNS)
    return np.asarray(points, dtype=float), np.asarray(turns, dtype=float)


def _about_z(angle: Array) -> Array:
    c, s, o = np.cos(angle), np.sin(angle), np.zeros_like(angle)
    return np.stack([np.stack([c, -s, o], -1), np.stack([s, c, o], -1), np.stack([o, o, o + 1], -1)], -2)


def _lens_gauge(poses: Poses) -> tuple[Array, Array]:
    """(n, 3, 3) axes named from the camera, to world; and the lens x axis's angle from the first of them."""
    normal = poses.lens_rotation[:, :, 2]
    right = poses.rotation[:, 0]
    along = right - normal * np.sum(right * normal, axis=1, keepdims=True)
    along = along / np.linalg.norm(along, axis=1, keepdims=True)
    across = np.asarray(np.cross(normal, along), dtype=float)
    x = poses.lens_rotation[:, :, 0]
    turn = np.arctan2(np.sum(x * across, axis=1), np.sum(x * along, axis=1))
    return np.stack([along, across, normal], axis=-1), turn


@dataclass(frozen=True, eq=False)
class Seen:
    """One picture's pose but for which of four quarters the camera stands in."""

    camera_m: Array
    """(3,) in the bed's frame turned so that the camera's azimuth is as ``azimuth_rad``, the quarter being 0."""
    rotation: Array
    """(3, 3) world to camera, likewise."""
    azimuth_rad: float
    """About the bed from world x, counterclockwise, within 45 degrees of 0."""
    lens_m: Array
    lens_rotation: Array
    """(3, 3) lens to world; the lens's own half turn is open too."""


def decode(points: Array, turns: Array) -> Seen | None:
    """Return the pose of (11, 2) points and (6,) turns; None when no camera in front of the bed sees them so."""
    bed = _solve(BED_POINTS, points[: len(BED_POINTS)])
    lens = _solve(LENS_POINTS, points[len(BED_POINTS) :])
    if bed is None or lens is None:
        return None
    rotation, shift = bed
    place = -rotation.T @ shift
    if place[2] <= 0.05:
        return None
    quarter = float(np.arctan2(turns[1], turns[0])) / 4
    about = _about_z(np.array(quarter - np.arctan2(place[1], place[0])))
    world_rotation = rotation @ about.T
    camera = about @ place
    lens_camera, lens_shift = lens
    turn = float(np.arctan2(turns[5], turns[4])) / 2
    lens_rotation = world_rotation.T @ lens_camera @ _about_z(np.array(turn))
    return Seen(camera, world_rotation, quarter, world_rotation.T @ lens_shift + camera, lens_rotation)


def turned(seen: Seen, quarters: int) -> Seen:
    """Return the same with the camera (and all that it sees) this many quarter turns further round the bed."""
    about = _about_z(np.array(quarters * np.pi / 2))
    return Seen(
        about @ seen.camera_m,
        seen.rotation @ about.T,
        seen.azimuth_rad + quarters * np.pi / 2,
        about @ seen.lens_m,
        about @ seen.lens_rotation,
    )


def _solve(object_m: Array, px: Array) -> tuple[Array, Array] | None:
    """Rotation object to camera and translation; None where there is no solution in front of the camera."""
    try:
        good, vector, shift = cv2.solvePnP(object_m, px, MATRIX, np.zeros(5), flags=cv2.SOLVEPNP_SQPNP)
        if not good:
            return None
        vector, shift = cv2.solvePnPRefineLM(object_m, px, MATRIX, np.zeros(5), vector, shift)
    except cv2.error:
        return None
    shift = np.asarray(shift, dtype=float).ravel()
    rotation = np.asarray(cv2.Rodrigues(vector)[0], dtype=float)
    return (rotation, shift) if shift[2] > 0.2 and np.isfinite(rotation).all() else None
