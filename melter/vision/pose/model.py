"""A pose network from its ONNX file, run by OpenCV: one picture in, camera pose and lens pose out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.errors import BadInput
from melter.geometry.pose import rotation_facing, rotation_from_vector, sun_direction_world
from melter.machine import Machine, packaged_path
from melter.vision.calibration import CameraCalibration
from melter.vision.opencv import cv2
from melter.vision.pose.canonical import (
    FOCAL_PX,
    MATRIX,
    WIDTH_PX,
    Small,
    calibration_or_guess,
    normalised,
    to_canonical,
)
from melter.vision.pose.labels import POINTS, Seen, decode, turned
from melter.vision.response import Pixels, checked_pixels

Array = NDArray[np.float64]

FORMAT = 1
PACKAGED = "packaged"
"""Stands for the network that comes with the machine."""
LARGEST_FILE = 64 * 2**20
OTHER_MACHINE_M = 0.05
"""Pulleys, attachments or lens edges further off than this belong to another machine."""
DOUBT_ALLOWED_PX = 3.0
"""Mean error of the bed's points, as the network itself judges, above which it says that it does not know."""
LOOKS_RAD = ((0.03, 0.0, 0.02), (-0.03, 0.0, -0.02), (0.0, 0.03, -0.02), (0.0, -0.03, 0.02))
"""Turns of the camera's axes for further looks at the same picture, whose mean is steadier than one look."""
MIRRORED_LOOKS = 2
"""Of these are looked at in a mirror too."""
MIRRORED = [0, 1, 2, 4, 3, 5, 7, 6, 8, 9, 10]
"""Points in a mirror: left and right on the bed, and along the lens, change places."""
SUN_TELLS, TWIST_TELLS, PRIOR_TELLS = 1.0, 0.4, 0.5
"""How much the lens's lean towards the sun, its long edge and where the camera was said to stand count for the quarter,
against 1 for what the network says itself."""


@dataclass(frozen=True, eq=False)
class PoseEstimate:
    """What one picture says; world frame, the bed's sand at z = bed height."""

    camera_position_world_m: Array
    """(3,)"""
    rotation_camera_world: Array
    """(3, 3) world to camera axes (x right, y down, z forward)."""
    lens_centre_world_m: Array
    """(3,)"""
    lens_rotation_world: Array
    """(3, 3) lens to world; the half turn about the axis that looks the same is chosen nearest to level and square."""
    doubt_px: float
    """Mean error of the bed's points that the network expects, pixels of its small picture."""
    doubt_rad: float
    """The same as an angle from the camera."""
    quarter_margin: float
    """How much better the chosen quarter of the bed fits than the next: below about 0.3 it is a guess."""

    @property
    def sure(self) -> bool:
        """Whether the network thinks that it knows."""
        return self.doubt_px < DOUBT_ALLOWED_PX

    @property
    def distance_m(self) -> float:
        """From the camera to the bed's middle."""
        return float(np.linalg.norm(self.camera_position_world_m))

    @property
    def azimuth_rad(self) -> float:
        """Of the camera about the bed's middle, from world x, counterclockwise."""
        return float(np.arctan2(self.camera_position_world_m[1], self.camera_position_world_m[0]))

    @property
    def elevation_rad(self) -> float:
        """Of the camera over the bed, seen from its middle."""
        return float(np.arcsin(self.camera_position_world_m[2] / max(self.distance_m, 1e-9)))


class PoseModel:
    """A network and the machine it was trained for."""

    def __init__(self, path: str | Path, machine: Machine) -> None:
        """Load a file that ``melter vision train`` wrote. Raises BadInput, also where it is for another machine."""
        self.path, self._machine = Path(path), machine
        content, self.facts = _read(self.path)
        _require_machine(self.path, self.facts, machine)
        try:
            self._net: Any = cv2.dnn.readNetFromONNX(np.frombuffer(content, dtype=np.uint8))
        except cv2.error as error:
            raise BadInput(f"pose model {path}: OpenCV cannot run it ({_short(error)})") from None

    def raw(self, small: Small) -> Array:
        """Return the network's (39,) output for one (96, 160) picture of the small camera."""
        self._net.setInput(normalised(small)[None])
        return np.asarray(self._net.forward(), dtype=float).ravel()

    def mirrored(self, small: Small) -> Array:
        """Return what :meth:`raw` would, seen in a mirror and mirrored back; the azimuth itself is unknown there: NaN."""
        out = self.raw(np.ascontiguousarray(small[:, ::-1]))
        points, doubts, turns = (
            out[: 2 * POINTS].reshape(POINTS, 2)[MIRRORED],
            out[2 * POINTS : 3 * POINTS][MIRRORED],
            out[3 * POINTS :],
        )
        points = points * (-1, 1) + (WIDTH_PX - 1, 0)
        return np.concatenate([points.ravel(), doubts, turns * (1, -1, np.nan, np.nan, 1, -1)])

    def steady(self, small: Small) -> Array:
        """Return the mean of several outputs: the picture as it is, turned a little about the camera, and mirrored."""
        fill, size = float(np.median(small)), (small.shape[1], small.shape[0])
        outs = [self.raw(small), self.mirrored(small)]
        for n, turn in enumerate(LOOKS_RAD):
            warp = MATRIX @ rotation_from_vector(np.array(turn)) @ np.linalg.inv(MATRIX)
            seen = np.asarray(cv2.warpPerspective(small, warp, size, borderValue=fill), dtype=np.uint8)
            for out in (self.raw(seen), *([self.mirrored(seen)] if n < MIRRORED_LOOKS else [])):
                points = np.column_stack([out[: 2 * POINTS].reshape(POINTS, 2), np.ones(POINTS)])
                points = points @ np.linalg.inv(warp).T
                outs.append(np.concatenate([(points[:, :2] / points[:, 2:]).ravel(), out[2 * POINTS :]]))
        return np.nanmean(outs, axis=0)

    def estimate(
        self,
        image: Pixels,
        calibration: CameraCalibration | None = None,
        *,
        sun_world: ArrayLike | None = None,
        near_world_m: ArrayLike | None = None,
    ) -> PoseEstimate | None:
        """Return the poses in one picture; None when no camera over the bed could see what the network says.

        Without a calibration the machine file's field of view is used. ``sun_world`` (3,), by default the machine
        file's, and ``near_world_m`` (3,), where the camera is known to stand roughly, help to choose among the four
        quarters of the bed that look alike.
        """
        pixels = checked_pixels(image)
        known = calibration_or_guess(calibration, self._machine, (pixels.shape[1], pixels.shape[0]))
        sun = sun_direction_world(self._machine.sun.zenith_rad, self._machine.sun.azimuth_rad)
        sun = sun if sun_world is None else np.asarray(sun_world, dtype=float)
        near = None if near_world_m is None else np.asarray(near_world_m, dtype=float)
        found = read_out(self.steady(to_canonical(pixels, known)), sun, near)
        lift = np.array([0.0, 0.0, self._machine.sand.height_m])
        return None if found is None else _lifted(found, lift)


def read_out(raw: Array, sun_world: Array, near_world_m: Array | None = None) -> PoseEstimate | None:
    """Return the poses of a network's (39,) output, bed at z = 0; None when they make no sense."""
    points, doubts = raw[: 2 * POINTS].reshape(POINTS, 2), raw[2 * POINTS : 3 * POINTS]
    turns = raw[3 * POINTS :]
    seen = decode(points, turns)
    if seen is None:
        return None
    ways = [turned(seen, k) for k in range(4)]
    scores = np.array([_quarter_score(way, turns[2:4], sun_world, near_world_m) for way in ways])
    best, margin = ways[int(np.argmax(scores))], float(np.sort(scores)[-1] - np.sort(scores)[-2])
    doubt_px = float(np.exp(doubts[:5]).mean())
    return PoseEstimate(
        best.camera_m,
        best.rotation,
        best.lens_m,
        _squared(best.lens_rotation),
        doubt_px,
        doubt_px / FOCAL_PX,
        margin,
    )


def _quarter_score(seen: Seen, azimuth: Array, sun: Array, near: Array | None) -> float:
    """How well one of the four quarters fits: the network's own azimuth, the sun, the lens's long edge, the prior."""
    way = np.array([np.cos(seen.azimuth_rad), np.sin(seen.azimuth_rad)])
    score = float(way @ azimuth)
    normal = seen.lens_rotation[:, 2]
    lean = float(np.linalg.norm(normal[:2]))
    if lean > 0.1 and np.linalg.norm(sun[:2]) > 0.1:
        score += SUN_TELLS * float(normal[:2] @ sun[:2]) / (lean * float(np.linalg.norm(sun[:2])))
    level = rotation_facing(normal).T @ seen.lens_rotation if normal[2] > -0.5 else np.eye(3)
    score += TWIST_TELLS * float(2 * level[0, 0] ** 2 - 1)
    if near is not None and np.linalg.norm(near[:2]) > 0.1:
        score += PRIOR_TELLS * float(way @ near[:2]) / float(np.linalg.norm(near[:2]))
    return score


def _squared(rotation: Array) -> Array:
    """The half turn about the axis that puts the lens's x axis on world x's side."""
    return rotation if rotation[0, 0] >= 0 else rotation @ np.diag([-1.0, -1.0, 1.0])


def _lifted(found: PoseEstimate, lift: Array) -> PoseEstimate:
    return PoseEstimate(
        found.camera_position_world_m + lift,
        found.rotation_camera_world,
        found.lens_centre_world_m + lift,
        found.lens_rotation_world,
        found.doubt_px,
        found.doubt_rad,
        found.quarter_margin,
    )


def load_pose_model(source: str | Path | None, machine: Machine) -> PoseModel:
    """Return the network of a file; None or ``packaged`` is the one that comes with the machine. Raises BadInput."""
    return PoseModel(packaged_model(machine) if source is None or source == PACKAGED else source, machine)


def packaged_model(machine: Machine) -> Path:
    """Return the file of the network that comes with a machine. Raises BadInput where none does."""
    path = packaged_path(f"pose-{machine.name}.onnx")
    if not path.is_file():
        raise BadInput(f"machine {machine.name}: no pose network comes with it; make one with 'melter vision train'")
    return path


def machine_facts(machine: Machine) -> dict[str, Any]:
    """Return what of a machine a pose network depends on."""
    return {
        "format": FORMAT,
        "machine": machine.name,
        "pulleys_world_m": machine.pulleys_world_m.tolist(),
        "attachments_lens_m": machine.attachments_lens_m.tolist(),
        "lens_edges_m": [machine.lens.short_edge_m, machine.lens.long_edge_m],
    }


def _read(path: Path) -> tuple[bytes, dict[str, Any]]:
    """The file and its metadata."""
    import onnx

    try:
        if path.stat().st_size > LARGEST_FILE:
            raise BadInput(f"pose model {path}: {path.stat().st_size} bytes, must be {LARGEST_FILE} or fewer")
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"pose model {path}: cannot be read: {error.strerror}") from None
    try:
        facts = {p.key: json.loads(p.value) for p in onnx.load_model_from_string(content).metadata_props}
    except Exception as error:  # protobuf raises whatever its parser met
        raise BadInput(
            f"pose model {path}: not an ONNX file of 'melter vision train' ({type(error).__name__})"
        ) from None
    if facts.get("format") != FORMAT:
        raise BadInput(f"pose model {path}: format {facts.get('format')}, must be {FORMAT}")
    return content, facts


def _require_machine(path: Path, facts: dict[str, Any], machine: Machine) -> None:
    """Raise BadInput unless the network was trained for (about) this machine."""
    mine = machine_facts(machine)
    for key in ("pulleys_world_m", "attachments_lens_m", "lens_edges_m"):
        try:
            theirs = np.array(facts[key], dtype=float)
            off = float(np.abs(theirs - np.array(mine[key])).max())
        except (KeyError, ValueError, TypeError):
            raise BadInput(f"pose model {path}: {key} is missing or damaged") from None
        if not off <= OTHER_MACHINE_M:
            raise BadInput(
                f"pose model {path}: was trained for machine {facts.get('machine')}, whose {key} differ by {off:.2f} m "
                f"from {machine.name}'s (allowed {OTHER_MACHINE_M} m)"
            )


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
