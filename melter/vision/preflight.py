"""The picture before a run: what the camera sees, with the markers, the keep-in polygon and the path drawn in."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.errors import CameraError
from melter.vision.bed import BedView
from melter.vision.opencv import cv2
from melter.vision.response import checked_pixels

MARKERS, KEEP_IN, PATH = (255, 200, 0), (60, 60, 255), (80, 220, 80)
"""BGR."""
_STEPS = 40


def draw_preflight(
    image: NDArray[Any], view: BedView, keep_in_world_m: NDArray[np.float64], path_world_m: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Return an 8-bit BGR copy; the polygon (n, 2) is closed, the path (m, 2) open, both world x and y in metres."""
    pixels = checked_pixels(image)
    shown = pixels.copy() if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    canvas: Any = cv2.cvtColor(shown, cv2.COLOR_GRAY2BGR) if shown.ndim == 2 else np.ascontiguousarray(shown)
    for corners in view.marker_corners_px:
        _line(canvas, np.concatenate([corners, corners[:1]]), MARKERS)
    closed = np.concatenate([keep_in_world_m, keep_in_world_m[:1]])
    _line(canvas, view.to_px(_dense(closed)), KEEP_IN)
    _line(canvas, view.to_px(_dense(path_world_m)), PATH)
    for row, (words, colour) in enumerate((("markers", MARKERS), ("beam stays inside", KEEP_IN), ("path", PATH))):
        cv2.putText(canvas, words, (12, 24 + 22 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.55, colour, 1, cv2.LINE_AA)
    return np.asarray(canvas, dtype=np.uint8)


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture beside its name and rename it; the suffix tells the format. Raises CameraError."""
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    good, coded = cv2.imencode(path.suffix, picture)
    if not good:
        raise CameraError(f"picture {path}: no encoder for {path.suffix}")
    part.write_bytes(coded.tobytes())
    part.replace(path)


def _dense(points_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points along the polyline: a straight line on the sand is bent by the camera's lens."""
    share = np.linspace(0, 1, _STEPS, endpoint=False)[:, None]
    parts = [a + share * (b - a) for a, b in itertools.pairwise(points_m)]
    return np.concatenate([*parts, points_m[-1:]])


def _line(canvas: Any, points_px: NDArray[np.float64], colour: tuple[int, int, int]) -> None:
    near = np.isfinite(points_px).all(axis=1) & (np.abs(points_px) < 2e4).all(axis=1)
    if near.all():
        cv2.polylines(canvas, [np.round(points_px * 16).astype(np.int32)], False, colour, 1, cv2.LINE_AA, 4)
