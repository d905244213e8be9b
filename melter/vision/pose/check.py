"""What the pose network is for: a bed's view where no marker is seen, and a second opinion on one solved from markers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.geometry.pose import rotation_from_vector
from melter.machine import Machine
from melter.vision.bed import BedView
from melter.vision.calibration import CameraCalibration
from melter.vision.pose.canonical import calibration_or_guess
from melter.vision.pose.model import PoseEstimate, PoseModel
from melter.vision.response import Pixels, checked_pixels

Array = NDArray[np.float64]

STDS = np.array([0.04, *np.radians([3.5, 3.5, 3.0, 1.2, 1.2])])
"""How well the network knows the camera's distance (share), its azimuth and elevation about the bed's middle, its roll, and
the two angles under which it sees that middle: about the error of two pictures in three."""
ALLOWED_ANGLE_RAD, ALLOWED_DISTANCE = np.radians(12.0), 0.15
"""Differences above this between network and markers are named: rarely the network's own error."""
BLUR_SHARE = 0.7 / 1280
"""Of the image's width: blur assumed where no marker's edge tells it."""
CHECK_EVERY_S = 1.0
IN_A_ROW = 3
"""Checks that must disagree before it is said."""
NO_PICTURE_STD = 6.0
"""Codes: a picture with less contrast shows nothing to go by."""


@dataclass(frozen=True)
class Disagreement:
    """Network against markers."""

    angle_rad: float
    """Between the directions in which the camera stands from the bed's middle, up to a quarter turn."""
    distance: float
    """Relative difference of the camera's distance."""
    quarter: bool
    """Whether the network puts the camera at another side of the bed, and is sure of that."""

    @property
    def large(self) -> bool:
        """Whether one of the two is wrong."""
        return self.angle_rad > ALLOWED_ANGLE_RAD or self.distance > ALLOWED_DISTANCE or self.quarter

    def __str__(self) -> str:
        side = ", at another side of the bed" if self.quarter else ""
        return f"{np.degrees(self.angle_rad):.0f} degrees and {100 * self.distance:.0f} % of the distance apart{side}"


def disagreement(view: BedView, found: PoseEstimate) -> Disagreement | None:
    """Return how far the network's camera is from a view's; None where the view does not know its camera."""
    if view.camera_position_world_m is None:
        return None
    lift = np.array([0.0, 0.0, view.bed_height_m])
    mine, theirs = view.camera_position_world_m - lift, found.camera_position_world_m - lift
    off = float(np.arctan2(theirs[1], theirs[0]) - np.arctan2(mine[1], mine[0]))
    quarters = round(off / (np.pi / 2))
    turn = rotation_from_vector(np.array([0.0, 0.0, -quarters * np.pi / 2]))
    a, b = mine / np.linalg.norm(mine), turn @ theirs / np.linalg.norm(theirs)
    return Disagreement(
        float(np.arccos(np.clip(a @ b, -1, 1))),
        abs(float(np.linalg.norm(theirs) / np.linalg.norm(mine)) - 1),
        quarters % 4 != 0 and found.quarter_margin > 1.0,
    )


def shows_something(image: Pixels) -> bool:
    """Whether a picture has enough contrast for the network: one exposed for the patch alone has not."""
    pixels = checked_pixels(image)
    grey = (pixels[::8, ::8, 1] if pixels.ndim == 3 else pixels[::8, ::8]).astype(np.float32)
    scale = 1.0 if pixels.dtype == np.uint8 else 1 / 257
    low, high = np.percentile(grey * scale, (5, 90))
    return bool(high - low > NO_PICTURE_STD)


def view_without_markers(
    model: PoseModel, image: Pixels, machine: Machine, calibration: CameraCalibration | None = None
) -> BedView | None:
    """Return the bed's view as the network sees it, with the uncertainty that it has; None when it is not sure.

    Of the four sides of the bed that look alike, the machine file's camera chooses where the picture leaves it open.
    """
    pixels = checked_pixels(image)
    size_px = (pixels.shape[1], pixels.shape[0])
    found = model.estimate(pixels, calibration, near_world_m=machine.camera.position_world_m)
    if found is None or not found.sure or not shows_something(pixels):
        return None
    matrix = calibration_or_guess(calibration, machine, size_px).camera_matrix
    height_m = machine.sand.height_m
    return BedView(
        image_size_px=size_px,
        homography=_homography(found, matrix, height_m, np.zeros(len(STDS))),
        parameter_covariance=_covariance(found, matrix, height_m),
        residual_px=found.doubt_rad * float(matrix[0, 0]),
        residual_m=found.doubt_rad * found.distance_m,
        markers_seen=(),
        marker_corners_px=np.zeros((0, 4, 2)),
        blur_px=BLUR_SHARE * size_px[0],
        calibration=calibration,
        camera_position_world_m=found.camera_position_world_m,
        rotation_camera_world=found.rotation_camera_world,
        bed_height_m=height_m,
        remarks=("from the pose network: no marker in view, places on the bed are rough",),
    )


def _homography(found: PoseEstimate, matrix: Array, height_m: float, off: Array) -> Array:
    """Bed metres to undistorted pixels, the camera moved by ``off``: see STDS."""
    place = found.camera_position_world_m - np.array([0, 0, height_m])
    up = np.array([0.0, 0.0, 1.0])
    side = np.cross(up, place) / max(float(np.linalg.norm(np.cross(up, place))), 1e-9)
    about = rotation_from_vector(off[1] * up - off[2] * side)
    turn = rotation_from_vector(np.array([off[4], off[5], off[3]]))
    rotation = turn @ found.rotation_camera_world @ about.T
    h = matrix @ np.column_stack([rotation[:, 0], rotation[:, 1], -rotation @ (about @ place) * (1 + off[0])])
    return h / h[2, 2]


def _covariance(found: PoseEstimate, matrix: Array, height_m: float) -> Array:
    """(8, 8) of the homography's first eight entries."""
    columns: list[Array] = []
    for std in np.diag(STDS):
        change = _homography(found, matrix, height_m, std) - _homography(found, matrix, height_m, -std)
        columns.append(change.ravel()[:8] / 2)
    jacobian = np.stack(columns, axis=1)
    return jacobian @ jacobian.T


class PoseWatch:
    """Looks now and then whether network and view still agree: a camera that was turned, a wrong calibration."""

    def __init__(self, model: PoseModel, calibration: CameraCalibration | None) -> None:
        self._model, self._calibration = model, calibration
        self._checked_s: float | None = None
        self._against = 0
        self._said = ""

    def see(self, image: Pixels, view: BedView, time_s: float) -> str:
        """Return what is wrong, empty when nothing is known to be."""
        if self._checked_s is not None and 0 <= time_s - self._checked_s < CHECK_EVERY_S:
            return self._said
        pixels = checked_pixels(image)
        if (pixels.shape[1], pixels.shape[0]) != view.image_size_px or not shows_something(pixels):
            return self._said
        self._checked_s = time_s
        found = self._model.estimate(pixels, self._calibration, near_world_m=view.camera_position_world_m)
        apart = None if found is None or not found.sure else disagreement(view, found)
        if apart is not None:
            self._against = self._against + 1 if apart.large else 0
            self._said = f"the pose network sees the camera elsewhere: {apart}" if self._against >= IN_A_ROW else ""
        return self._said
