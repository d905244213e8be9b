"""Finding ArUco markers and their corners to a few hundredths of a pixel.

OpenCV finds which marker is where. Its corners lie inside the true ones wherever the image is gamma encoded or bright,
so each outer edge is located anew in linear light: along lines across the edge, the place of an ideal step with the
same area under it. That place is right for any symmetric blur.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.errors import MachineFileError
from melter.machine import Marker
from melter.vision.calibration import CameraCalibration
from melter.vision.opencv import cv2
from melter.vision.response import Light, Pixels, Response, checked_pixels, linear

Array = NDArray[np.float64]

PROFILE_STEP_PX = 0.25
INTERPOLATION_PX2 = 1 / 6
"""Variance that bilinear interpolation between pixels adds to a profile, on average."""
OTHER_DICTIONARIES = (
    "DICT_4X4_1000",
    "DICT_5X5_1000",
    "DICT_6X6_1000",
    "DICT_7X7_1000",
    "DICT_ARUCO_ORIGINAL",
    "DICT_APRILTAG_36h11",
)
"""The largest of each family; smaller ones are their beginnings."""
MIN_SIDE_PX = 9.0
"""Below this a marker's corners say less than they confuse."""


@dataclass(frozen=True, eq=False)
class SeenMarker:
    """A marker of the machine file as it appears in an image."""

    marker: Marker
    corners_px: Array
    """(4, 2) as seen (distorted), in the order of :func:`marker_corners_m`."""
    corners_undistorted_px: Array
    """(4, 2)"""
    outward_px: Array
    """(4, 2) how each corner moves when all edges move outwards by 1 px."""
    edge_scatter_px: float
    """RMS distance of edge points from their lines: noise and curvature."""
    blur_px: float
    """Standard deviation of the image's blur across these edges."""


def marker_corners_m(marker: Marker) -> Array:
    """Return the (4, 2) corners on the bed, world x and y: OpenCV's order, from top left clockwise as one reads it."""
    h = marker.size_m / 2
    local = np.array([(-h, h), (h, h), (h, -h), (-h, -h)])
    c, s = np.cos(marker.yaw_rad), np.sin(marker.yaw_rad)
    return local @ np.array([(c, s), (-s, c)]) + np.array(marker.centre_m)


def find_markers(
    image: Pixels, markers: Sequence[Marker], calibration: CameraCalibration | None = None, response: Response = "srgb"
) -> tuple[list[SeenMarker], list[str]]:
    """Return the machine's markers that are in the image, refined, and remarks about others."""
    pixels = checked_pixels(image)
    seen: list[SeenMarker] = []
    remarks: list[str] = []
    light: Light | None = None
    for dictionary in sorted({marker.dictionary for marker in markers}):
        wanted = {marker.id: marker for marker in markers if marker.dictionary == dictionary}
        found = _detect(pixels, dictionary)
        for number in sorted({n for n, _ in found}):
            quads = [corners for n, corners in found if n == number]
            if number not in wanted:
                remarks.append(f"marker {dictionary} {number} is in the image but not in the machine file")
            elif len(quads) > 1:
                remarks.append(f"marker {dictionary} {number} appears {len(quads)} times and is not used")
            else:
                light = grey_light(pixels, response) if light is None else light
                one = _refine(light, wanted[number], quads[0], calibration)
                if one is not None:
                    seen.append(one)
    return seen, remarks


def look_for_marker(
    light: Light, marker: Marker, corners_px: Array, calibration: CameraCalibration | None = None
) -> SeenMarker | None:
    """Return a marker near where its corners (4, 2) are expected, or None; cables across it do little harm.

    For markers that the detector missed: their edges are located and their squares compared with what is expected.
    """
    one = _refine(light, marker, corners_px, calibration)
    return one if one is not None and _likeness(light, one) > 0.6 else None


def markers_of_other_dictionaries(image: Pixels, markers: Sequence[Marker]) -> str:
    """Return which markers of dictionaries that the machine file does not name are in the image; empty when none.

    Slow: for messages.
    """
    grey, known = _grey_8bit(checked_pixels(image)), {marker.dictionary for marker in markers}
    best: tuple[str, list[int]] = ("", [])
    for name in OTHER_DICTIONARIES:
        if name in known:
            continue
        ids = sorted({n for n, _ in _detect(grey, name)})
        if len(ids) > len(best[1]):
            best = (name, ids)
    return f"markers of {best[0]} are in the image: {', '.join(map(str, best[1]))}" if best[1] else ""


def _likeness(light: Light, seen: SeenMarker) -> float:
    """Correlation of the squares' brightness with the marker's own picture."""
    dictionary = dictionary_of(seen.marker.dictionary)
    cells = int(dictionary.markerSize) + 2
    picture = np.asarray(cv2.aruco.generateImageMarker(dictionary, seen.marker.id, cells, None, 1), dtype=float)
    side = 4 * cells
    square = np.array([(0, 0), (side, 0), (side, side), (0, side)], dtype=np.float32)
    warp = cv2.getPerspectiveTransform(square, seen.corners_px.astype(np.float32))
    flat = cv2.warpPerspective(light, warp, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    means = np.median(flat.reshape(cells, 4, cells, 4), axis=(1, 3))
    if means.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(means.ravel(), picture.ravel())[0, 1])


def dictionary_of(name: str) -> cv2.aruco.Dictionary:
    """Return OpenCV's marker dictionary with this name. Raises MachineFileError."""
    number = getattr(cv2.aruco, name, None)
    if not name.startswith("DICT_") or number is None:
        raise MachineFileError(f"bed.marker.dictionary = {name!r}: not one of OpenCV's, such as DICT_4X4_50")
    return cv2.aruco.getPredefinedDictionary(number)


def _detect(pixels: Pixels, dictionary: str) -> list[tuple[int, Array]]:
    """Markers of one dictionary: (id, (4, 2) corners px). Dark images are looked at once more, stretched."""
    parameters = cv2.aruco.DetectorParameters()
    parameters.adaptiveThreshWinSizeMin, parameters.adaptiveThreshWinSizeMax, parameters.adaptiveThreshWinSizeStep = (
        5,
        45,
        8,
    )
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    parameters.minMarkerPerimeterRate = 0.015
    detector = cv2.aruco.ArucoDetector(dictionary_of(dictionary), parameters)
    grey = _grey_8bit(pixels)
    corners, ids = _found(detector, grey)
    if ids is None or len(np.ravel(ids)) == 0 or np.percentile(grey[::8, ::8], 90) < 40:
        top = max(float(np.percentile(grey[::4, ::4], 99)), 8.0)
        stretched = cv2.convertScaleAbs(grey, alpha=255.0 / top)
        more, more_ids = _found(detector, stretched)
        if more_ids is not None and (ids is None or len(np.ravel(more_ids)) > len(np.ravel(ids))):
            corners, ids = more, more_ids
    if ids is None:
        return []
    return [(int(n), np.asarray(c, dtype=float).reshape(4, 2)) for n, c in zip(np.ravel(ids), corners, strict=True)]


def _found(detector: Any, grey: Any) -> tuple[Any, Any]:
    corners, ids, _ = detector.detectMarkers(grey)
    return corners, ids


def _grey_8bit(pixels: Pixels) -> NDArray[np.uint8]:
    grey: Any = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY) if pixels.ndim == 3 else pixels
    return np.asarray(grey if grey.dtype == np.uint8 else (grey >> 8).astype(np.uint8), dtype=np.uint8)


def grey_light(pixels: Pixels, response: Response) -> Light:
    """Return (h, w) linear light of the green channel."""
    if pixels.ndim == 3:
        pixels = np.ascontiguousarray(pixels[:, :, 1])
    return linear(pixels, response)


def _refine(
    light: Light, marker: Marker, corners_px: Array, calibration: CameraCalibration | None
) -> SeenMarker | None:
    """Locate the four outer edges in linear light and cross them; None when the marker is too small or not there."""
    corners = corners_px
    lines: list[tuple[Array, Array]] = []
    scatters: list[float] = []
    blurs: list[float] = []
    cells = int(dictionary_of(marker.dictionary).markerSize) + 2
    for _ in range(3):
        sides = np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1)
        if sides.min() < MIN_SIDE_PX:
            return None
        lines, scatters, blurs = [], [], []
        for i in range(4):
            edge = _edge(light, np.roll(corners, -i, axis=0), cells)
            if edge is None:
                return None
            points, blur_px = edge
            line = _line_through(calibration.undistort_px(points) if calibration else points)
            lines.append(line[:2])
            scatters.append(line[2])
            blurs.append(blur_px)
        ideal = np.array([_crossing(lines[i - 1], lines[i]) for i in range(4)])
        new = calibration.distort_px(ideal) if calibration else ideal
        if not np.isfinite(new).all() or np.abs(new - corners).max() > 0.25 * sides.min():
            return None
        corners = new
    ideal = np.array([_crossing(lines[i - 1], lines[i]) for i in range(4)])
    outward = _outward(ideal, lines)
    return SeenMarker(marker, corners, ideal, outward, float(np.mean(scatters)), float(np.median(blurs)))


def _edge(light: Light, corners: Array, cells: int) -> tuple[Array, float] | None:
    """Points on the border along the edge between the first two corners, (n, 2) px, and the blur across (std, px)."""
    start, end = corners[0], corners[1]
    length = float(np.linalg.norm(end - start))
    along = (end - start) / length
    normal = np.array([-along[1], along[0]])
    if normal @ (start - corners[2]) < 0:
        normal = -normal
    half = float(np.clip(0.65 * ((start - corners[2:]) @ normal).min() / cells, 1.25, 5.0))
    margin = max(0.08 * length, min(half, 0.25 * length))
    t = np.linspace(margin, length - margin, int(np.clip(length, 8, 60)))
    steps = round(half / PROFILE_STEP_PX)
    d = np.arange(-steps, steps + 1) * PROFILE_STEP_PX
    grid = start + t[:, None, None] * along + d[None, :, None] * normal
    map_xy = grid.astype(np.float32)
    profile = cv2.remap(
        light, map_xy[..., 0], map_xy[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=-1.0
    )
    inner = 3 if steps > 6 else 2
    black, white = profile[:, :inner].mean(axis=1), profile[:, -inner:].mean(axis=1)
    contrast = white - black
    good = (contrast > 0.5 * np.median(contrast)) & (contrast > 0.004) & (profile.min(axis=1) >= 0)
    if np.count_nonzero(good) < max(5, 0.4 * len(t)):
        return None
    share = (profile[good] - black[good, None]) / contrast[good, None]
    weight = np.full(len(d), PROFILE_STEP_PX)
    weight[[0, -1]] /= 2
    place = d[-1] - share @ weight
    slope = np.diff(np.median(share, axis=0))
    middle = (d[1:] + d[:-1]) / 2
    slope = np.where(slope > 0.05 * slope.max(), slope, 0.0)
    mean = slope @ middle / max(slope.sum(), 1e-9)
    spread = slope @ (middle - mean) ** 2 / max(slope.sum(), 1e-9) - INTERPOLATION_PX2
    blur = np.sqrt(max(spread, 0.09))
    return start + t[good, None] * along + place[:, None] * normal, float(blur)


def _line_through(points: Array) -> tuple[Array, Array, float]:
    """Robust line: a point on it, its direction, RMS distance of the points kept."""
    kept = points
    centre, direction, distance = kept.mean(axis=0), np.zeros(2), np.zeros(len(kept))
    for _ in range(3):
        centre = kept.mean(axis=0)
        direction = np.linalg.svd(kept - centre, full_matrices=False)[2][0]
        normal = np.array([-direction[1], direction[0]])
        distance = np.abs((points - centre) @ normal)
        limit = max(3 * 1.4826 * float(np.median(distance)), 0.02)
        if np.count_nonzero(distance <= limit) < 4:
            break
        kept = points[distance <= limit]
    return centre, direction, float(np.sqrt(np.mean(np.minimum(distance, 1.0) ** 2)))


def _crossing(first: tuple[Array, Array], second: tuple[Array, Array]) -> Array:
    (p, u), (q, v) = first, second
    cross = u[0] * v[1] - u[1] * v[0]
    if abs(cross) < 1e-6:
        return np.full(2, np.nan)
    w = q - p
    return p + u * ((w[0] * v[1] - w[1] * v[0]) / cross)


def _outward(corners: Array, lines: list[tuple[Array, Array]]) -> Array:
    centre = corners.mean(axis=0)
    normals: list[Array] = []
    for point, u in lines:
        n = np.array([-u[1], u[0]])
        normals.append(n if n @ (point - centre) > 0 else -n)
    moved = [np.linalg.solve(np.array([normals[i - 1], normals[i]]), np.ones(2)) for i in range(4)]
    return np.array(moved, dtype=float)


def whole_marker_px(corners_px: Array, grow: float = 1.35) -> Array:
    """Return the (4, 2) outline of a marker with its white margin."""
    centre = corners_px.mean(axis=0)
    return centre + grow * (corners_px - centre)
