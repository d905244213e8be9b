"""Per-pixel tables of one bed view: where on the bed each pixel looks, how much of it, and where a patch may be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.machine import Machine
from melter.vision.bed import BedView
from melter.vision.markers import marker_corners_m, whole_marker_px
from melter.vision.opencv import cv2

GRID_PX = 4
"""Spacing of exactly mapped pixels; between them cubic interpolation (error below 1 µm on the nominal machine)."""
FAR_M = 50.0
MARGIN = 1.35
"""Markers are left out with a white margin of this relative size."""


@dataclass(frozen=True, eq=False)
class BedMaps:
    """(h, w) float32 tables of one view."""

    x_m: NDArray[np.float32]
    y_m: NDArray[np.float32]
    area_m2: NDArray[np.float32]
    """Bed area that one pixel sees."""
    allowed: NDArray[np.uint8]
    """255 where a patch may be: inside the frame, no marker."""
    sample: NDArray[np.int64]
    """Flat indices of some allowed pixels, evenly spread: for levels."""
    bounds_px: tuple[int, int, int, int]
    """u0, v0, u1, v1 of the allowed region."""


def build_maps(view: BedView, machine: Machine) -> BedMaps:
    """Return the tables of a view."""
    width, height = view.image_size_px
    pad = 2
    u = (np.arange(-pad, width // GRID_PX + pad + 2)) * float(GRID_PX)
    v = (np.arange(-pad, height // GRID_PX + pad + 2)) * float(GRID_PX)
    nodes = np.stack(np.meshgrid(u, v), axis=-1)
    bed = view.to_bed_m(nodes)
    near = _in_front(view, nodes) & (np.abs(bed).max(axis=-1) < FAR_M)
    bed = np.where(near[..., None], bed, FAR_M)
    du = np.gradient(bed, float(GRID_PX), axis=1)
    dv = np.gradient(bed, float(GRID_PX), axis=0)
    area = np.abs(du[..., 0] * dv[..., 1] - du[..., 1] * dv[..., 0])
    map_u, map_v = np.meshgrid(
        (np.arange(width) / GRID_PX + pad).astype(np.float32), (np.arange(height) / GRID_PX + pad).astype(np.float32)
    )
    tables = [
        np.asarray(
            cv2.remap(t.astype(np.float32), map_u, map_v, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE),
            dtype=np.float32,
        )
        for t in (bed[..., 0], bed[..., 1], area)
    ]
    allowed = _allowed(view, machine, tables[0], tables[1])
    rows, columns = np.flatnonzero(allowed.any(axis=1)), np.flatnonzero(allowed.any(axis=0))
    bounds = (
        (0, 0, 0, 0) if len(rows) == 0 else (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    )
    inside = np.flatnonzero(allowed)
    sample = inside[:: max(1, len(inside) // 6000)]
    return BedMaps(tables[0], tables[1], tables[2], allowed, sample, bounds)


def _in_front(view: BedView, nodes: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Whether each undistorted pixel looks down at the bed and not past the horizon."""
    ideal = view.calibration.undistort_px(nodes) if view.calibration else nodes
    inverse = np.linalg.inv(view.homography)
    seen_m = [view.to_bed_m(c).mean(axis=0) for c in view.marker_corners_px]
    middle = view.homography @ np.array([*(np.mean(seen_m, axis=0) if seen_m else (0.0, 0.0)), 1.0])
    sign = np.sign(inverse[2] @ (middle / middle[2]))
    w = inverse[2, 0] * ideal[..., 0] + inverse[2, 1] * ideal[..., 1] + inverse[2, 2]
    return w * sign > 1e-9


def _allowed(view: BedView, machine: Machine, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.uint8]:
    poles = np.concatenate([np.array(machine.frame.poles_world_m), machine.bed.keep_in_polygon_world_m])
    low, high = poles.min(axis=0), poles.max(axis=0)
    allowed = ((x > low[0]) & (x < high[0]) & (y > low[1]) & (y < high[1])).astype(np.uint8) * 255
    for marker in machine.bed.marker:
        corners = view.to_px(marker_corners_m(marker))
        if np.isfinite(corners).all() and np.abs(corners).max() < 1e5:
            cv2.fillConvexPoly(allowed, np.round(whole_marker_px(corners, MARGIN)).astype(np.int32), 0)
    return allowed
