"""Markers to the bed: where the camera stands and how pixels and metres on the bed belong together.

All corners of all markers in view are solved together. What bloom, defocus and clipped whites do to a marker is to move
all its edges the same way, so one edge shift in pixels is solved along with the pose. With a calibration the unknowns
are the camera's six; without one the eight of a homography. Bed metres are world x and y on the bed's level.
Source: Hartley and Zisserman, Multiple View Geometry (2004), ch. 4 and 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.errors import CameraError
from melter.machine import Machine
from melter.vision.calibration import CameraCalibration
from melter.vision.markers import SeenMarker, find_markers, grey_light, look_for_marker, marker_corners_m
from melter.vision.opencv import cv2
from melter.vision.response import Pixels, Response, checked_pixels

Array = NDArray[np.float64]

CORNER_FLOOR_PX = 0.05
"""No corner is trusted better than this."""
LONE_FLOOR_PX = 0.15
"""The same where one marker is all there is, and how far optics and exposure move its edges cannot be told."""
RESIDUAL_ALLOWED_PX = 1.5
"""RMS of corners about the solution above which the markers contradict each other or the machine file."""
EDGE_SHIFT_PRIOR_PX = 0.3
EDGE_SHIFT_ALLOWED_PX = 1.5
"""More than this no optics do: the markers have another size than the machine file says."""
SIZE_TOLERANCE = 0.04
"""Relative difference of a marker's size that is called a contradiction."""


@dataclass(frozen=True, eq=False)
class BedView:
    """The bed as one fixed camera sees it."""

    image_size_px: tuple[int, int]
    """Width and height."""
    homography: Array
    """(3, 3) bed metres (x, y, 1) to undistorted pixels."""
    parameter_covariance: Array
    """(8, 8) of the homography's first eight entries, its last being 1."""
    residual_px: float
    """RMS distance of marker corners from the solution."""
    residual_m: float
    """The same on the bed."""
    markers_seen: tuple[int, ...]
    """Identifiers of the markers used."""
    marker_corners_px: Array
    """(n, 4, 2) of the markers used, as seen."""
    blur_px: float
    """Standard deviation of the image's blur at the markers' edges."""
    calibration: CameraCalibration | None
    camera_position_world_m: Array | None
    """(3,), bed level added; from the calibration, or from a principal point assumed at the image's middle."""
    rotation_camera_world: Array | None
    """(3, 3) world to camera axes (x right, y down, z forward)."""
    bed_height_m: float
    """World z of the level on which markers and sand lie."""
    remarks: tuple[str, ...] = ()

    def to_px(self, points_m: ArrayLike) -> Array:
        """Return (..., 2) pixels as seen (distorted) of (..., 2) bed metres."""
        ideal = _project(self.homography, np.asarray(points_m, dtype=float))
        return self.calibration.distort_px(ideal) if self.calibration else ideal

    def to_bed_m(self, points_px: ArrayLike) -> Array:
        """Return (..., 2) bed metres of (..., 2) pixels as seen."""
        points = np.asarray(points_px, dtype=float)
        ideal = self.calibration.undistort_px(points) if self.calibration else points
        return _project(_inverse(self.homography), ideal)

    def jacobian_m_per_px(self, point_px: ArrayLike) -> Array:
        """Return (2, 2) d(bed metres)/d(pixels as seen) at one pixel."""
        p, step = np.asarray(point_px, dtype=float), 0.5
        around = p + step * np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])
        x = self.to_bed_m(around)
        return np.stack([(x[0] - x[1]) / (2 * step), (x[2] - x[3]) / (2 * step)], axis=-1)

    def covariance_m2(self, point_m: ArrayLike) -> Array:
        """Return (2, 2) uncertainty on the bed that the marker solution brings to a measured point."""
        p = np.asarray(point_m, dtype=float)
        h = self.homography / self.homography[2, 2]
        w = h[2, 0] * p[0] + h[2, 1] * p[1] + 1
        u, v = _project(h, p)
        d = np.zeros((2, 8))
        d[0, 0:3], d[1, 3:6] = (p[0] / w, p[1] / w, 1 / w), (p[0] / w, p[1] / w, 1 / w)
        d[0, 6:8], d[1, 6:8] = (-u * p[0] / w, -u * p[1] / w), (-v * p[0] / w, -v * p[1] / w)
        along = (
            np.array([[h[0, 0] - u * h[2, 0], h[0, 1] - u * h[2, 1]], [h[1, 0] - v * h[2, 0], h[1, 1] - v * h[2, 1]]])
            / w
        )
        back = np.linalg.inv(along) @ d
        return back @ self.parameter_covariance @ back.T

    def sight_on_bed(self, point_m: ArrayLike) -> Array:
        """Return (2,) how a point seen at ``point_m`` moves on the bed per metre that the sand there is higher.

        Towards the camera, 1/tan(elevation) long; zero when the camera's place is unknown.
        """
        if self.camera_position_world_m is None:
            return np.zeros(2)
        away = self.camera_position_world_m[:2] - np.asarray(point_m, dtype=float)
        return away / max(float(self.camera_position_world_m[2]) - self.bed_height_m, 0.05)


def solve_bed(
    image: Pixels, machine: Machine, calibration: CameraCalibration | None = None, response: Response = "srgb"
) -> BedView:
    """Return the bed's view from the markers in one image.

    Raises CameraError when no marker is in view or the markers contradict the machine file, and names them.
    """
    pixels = checked_pixels(image)
    size = (pixels.shape[1], pixels.shape[0])
    require_calibration_fits(calibration, size)
    if not machine.bed.marker:
        raise CameraError(
            f"machine {machine.name}: bed.marker is empty; the tracker needs markers to know where the bed is"
        )
    seen, remarks = find_markers(pixels, machine.bed.marker, calibration, response)
    if not seen:
        wanted = ", ".join(f"{m.dictionary} {m.id}" for m in machine.bed.marker)
        raise CameraError(
            f"no marker in view; the machine file names {wanted}" + ("; " + "; ".join(remarks) if remarks else "")
        )
    view = bed_from_markers(seen, size, machine.sand.height_m, calibration, remarks)
    more = _missed(view, machine, pixels, response)
    if not more:
        return view
    try:
        together = sorted([*seen, *more], key=lambda s: s.marker.id)
        fuller = bed_from_markers(together, size, machine.sand.height_m, calibration, remarks)
    except CameraError:
        return view
    return fuller if len(fuller.markers_seen) > len(view.markers_seen) else view


def _missed(view: BedView, machine: Machine, pixels: Pixels, response: Response) -> list[SeenMarker]:
    """Markers that the detector missed, found where the others say they are."""
    light = None
    found: list[SeenMarker] = []
    for marker in machine.bed.marker:
        corners = view.to_px(marker_corners_m(marker))
        inside = (
            np.isfinite(corners).all() and (corners >= 2).all() and (corners <= np.array(view.image_size_px) - 3).all()
        )
        if marker.id in view.markers_seen or not inside:
            continue
        light = grey_light(pixels, response) if light is None else light
        one = look_for_marker(light, marker, corners, view.calibration)
        found += [one] if one is not None else []
    return found


def marker_shift_px(
    view: BedView, machine: Machine, pixels: Pixels, response: Response = "srgb", *, everywhere: bool = True
) -> float | None:
    """Return the median distance of marker corners from where a view has them, pixels; None when no marker is found.

    Looks where the markers were; ``everywhere``: when fewer than half of them are there, in the whole image.
    """
    light = grey_light(pixels, response)
    markers = {marker.id: marker for marker in machine.bed.marker}
    here = dict(zip(view.markers_seen, view.marker_corners_px, strict=True))
    found = {n: look_for_marker(light, markers[n], corners, view.calibration) for n, corners in here.items()}
    seen = [one for one in found.values() if one is not None]
    if everywhere and 2 * len(seen) < len(here):
        seen = [
            s for s in find_markers(pixels, machine.bed.marker, view.calibration, response)[0] if s.marker.id in here
        ]
    if not seen:
        return None
    return float(np.median([np.median(np.linalg.norm(s.corners_px - here[s.marker.id], axis=1)) for s in seen]))


def require_calibration_fits(calibration: CameraCalibration | None, size_px: tuple[int, int]) -> None:
    """Raise CameraError unless the calibration was made at this image size."""
    if calibration is not None and calibration.image_size_px != size_px:
        have, need = calibration.image_size_px, size_px
        raise CameraError(f"calibration is for {have[0]} x {have[1]} px, the image has {need[0]} x {need[1]} px")


def bed_from_markers(
    seen: Sequence[SeenMarker],
    size_px: tuple[int, int],
    bed_height_m: float = 0.0,
    calibration: CameraCalibration | None = None,
    remarks: Sequence[str] = (),
) -> BedView:
    """Return the bed's view from markers already found; one that contradicts the others is left out and named.

    Raises CameraError when they contradict each other and no single one is to blame.
    """
    notes = list(remarks)
    solution = _solve(seen, calibration)
    allowed_px = _allowed_px(seen)
    kept = [s for s, distance in zip(seen, solution.marker_distance_px, strict=True) if distance <= allowed_px]
    if len(kept) < len(seen):
        if len(seen) < 3 or len(kept) < 2:
            raise CameraError(_contradiction(seen, max(solution.marker_distance_px)))
        for left_out in (s for s in seen if s not in kept):
            notes.append(
                f"marker {left_out.marker.id} is not where or not as large as the machine file says, and is not used"
            )
        seen, solution = kept, _solve(kept, calibration)
    if solution.rms_px > allowed_px or abs(solution.edge_shift_px) > EDGE_SHIFT_ALLOWED_PX:
        raise CameraError(_contradiction(seen, solution.rms_px))
    return _view(seen, solution, size_px, bed_height_m, calibration, notes)


def _allowed_px(seen: Sequence[SeenMarker]) -> float:
    """What distortion that nobody corrected may do is a few thousandths of the markers' spread."""
    corners = np.concatenate([s.corners_px for s in seen])
    return RESIDUAL_ALLOWED_PX + 0.002 * float(np.ptp(corners, axis=0).max())


@dataclass(frozen=True, eq=False)
class _Solution:
    homography: Array
    rms_px: float
    parameter_covariance: Array
    pose: tuple[Array, Array] | None
    """Rotation world to camera and translation, bed frame."""
    marker_distance_px: tuple[float, ...]
    """Median distance of each marker's corners from the solution."""
    edge_shift_px: float
    """Outwards, common to all edges."""


def _solve(seen: Sequence[SeenMarker], calibration: CameraCalibration | None) -> _Solution:
    bed = np.concatenate([marker_corners_m(s.marker) for s in seen])
    px = np.concatenate([s.corners_undistorted_px for s in seen])
    outward = np.concatenate([s.outward_px for s in seen])
    start = _direct_homography(bed, px)
    if calibration is not None:
        pose = _pose_from(start, calibration.camera_matrix)
        matrix = calibration.camera_matrix

        def homography(p: Array) -> Array:
            r = cv2.Rodrigues(p[:3])[0]
            return matrix @ np.column_stack([r[:, 0], r[:, 1], p[3:6]])

        first = np.concatenate([np.ravel(cv2.Rodrigues(pose[0])[0]), pose[1]])
    else:
        scale = np.abs(start[:2, 2]).max() + 1.0

        def homography(p: Array) -> Array:
            return np.array([[p[0], p[1], p[2]], [p[3], p[4], p[5]], [p[6], p[7], 1.0]]) * np.array(
                [[scale], [scale], [1.0]]
            )

        first = (start / start[2, 2] / np.array([[scale], [scale], [1.0]])).ravel()[:8]
    free_edges = len(seen) >= 2

    weight = np.ones(len(bed))

    def raw(q: Array) -> Array:
        return _project(homography(q[:-1]), bed) + q[-1] * outward - px

    def residuals(q: Array) -> Array:
        return np.append((raw(q) * weight[:, None]).ravel(), q[-1] / EDGE_SHIFT_PRIOR_PX * 0.1)

    q, normal = _gauss_newton(residuals, np.append(first, 0.0), free_last=free_edges)
    for _ in range(5 if len(seen) > 1 else 0):
        distance = np.linalg.norm(raw(q), axis=1)
        limit_px = max(2.0 * float(np.median(distance)), 0.1)
        weight[:] = 1 / (1 + (distance / limit_px) ** 2)
        q, normal = _gauss_newton(residuals, q, free_last=free_edges)
    distance = np.linalg.norm(raw(q), axis=1)
    unknowns = len(first) + free_edges
    sigma2 = max(
        float(np.sum((weight * distance) ** 2)) / max(2 * float(np.sum(weight)) - unknowns, 4),
        (CORNER_FLOOR_PX if len(seen) > 1 else LONE_FLOOR_PX) ** 2,
    )
    h = homography(q[:-1])
    h = h / h[2, 2]
    jac = _numeric_jacobian(lambda p: (homography(p) / homography(p)[2, 2]).ravel()[:8], q[:-1])
    covariance = np.linalg.pinv(normal)[: len(first), : len(first)] * sigma2
    rms = float(np.sqrt(np.average(distance**2, weights=weight**2)))
    pose = (np.asarray(cv2.Rodrigues(q[:3])[0], dtype=float), q[3:6]) if calibration is not None else None
    by_marker = tuple(np.median(distance.reshape(-1, 4), axis=1))
    return _Solution(h, rms, jac @ covariance @ jac.T, pose, by_marker, float(q[-1]))


def _gauss_newton(residuals: Callable[[Array], Array], start: Array, *, free_last: bool) -> tuple[Array, Array]:
    """Least squares by Levenberg and Marquardt; returns the solution and its normal matrix."""
    free = np.arange(len(start) if free_last else len(start) - 1)
    q, damping = start.copy(), 1e-4
    r = residuals(q)
    jac = np.zeros((len(r), len(start)))
    for _ in range(40):
        jac = _numeric_jacobian(residuals, q)
        a = jac[:, free].T @ jac[:, free]
        step = np.linalg.solve(a + damping * np.diag(np.diag(a) + 1e-12), -jac[:, free].T @ r)
        new = q.copy()
        new[free] += step
        r_new = residuals(new)
        if np.isfinite(r_new).all() and r_new @ r_new <= r @ r:
            done = r @ r - r_new @ r_new < 1e-9 * (r @ r) + 1e-14
            q, r, damping = new, r_new, damping * 0.2
            if done:
                break
        else:
            damping *= 10
            if damping > 1e8:
                break
    jac = _numeric_jacobian(residuals, q)
    return q, jac.T @ jac


def _numeric_jacobian(function: Callable[[Array], Array], q: Array) -> Array:
    columns: list[Array] = []
    for i in range(len(q)):
        step = 1e-6 * max(1.0, abs(float(q[i])))
        up, down = q.copy(), q.copy()
        up[i] += step
        down[i] -= step
        columns.append((function(up) - function(down)) / (2 * step))
    return np.stack(columns, axis=-1)


def _inverse(matrix: Array) -> Array:
    return np.asarray(np.linalg.inv(matrix), dtype=float)


def _project(homography: Array, points: Array) -> Array:
    """(..., 2) points through a homography."""
    h = homography
    x, y = points[..., 0], points[..., 1]
    w = h[2, 0] * x + h[2, 1] * y + h[2, 2]
    u = (h[0, 0] * x + h[0, 1] * y + h[0, 2]) / w
    return np.stack([u, (h[1, 0] * x + h[1, 1] * y + h[1, 2]) / w], axis=-1)


def _direct_homography(bed: Array, px: Array) -> Array:
    """Least squares on normalised coordinates (direct linear transform)."""
    tb, tp = _normaliser(bed), _normaliser(px)
    b, p = _project(tb, bed), _project(tp, px)
    one, zero = np.ones(len(b)), np.zeros(len(b))
    x, y, u, v = b[:, 0], b[:, 1], p[:, 0], p[:, 1]
    upper = np.stack([x, y, one, zero, zero, zero, -u * x, -u * y, -u], axis=-1)
    lower = np.stack([zero, zero, zero, x, y, one, -v * x, -v * y, -v], axis=-1)
    h = np.linalg.svd(np.concatenate([upper, lower]))[2][-1].reshape(3, 3)
    out = np.linalg.inv(tp) @ h @ tb
    return out / out[2, 2]


def _normaliser(points: Array) -> Array:
    centre, spread = points.mean(axis=0), points.std() + 1e-12
    return np.array([[1 / spread, 0, -centre[0] / spread], [0, 1 / spread, -centre[1] / spread], [0, 0, 1]])


def _pose_from(homography: Array, matrix: Array) -> tuple[Array, Array]:
    """Rotation world to camera and translation of the bed frame, from a homography; the bed in front of the camera."""
    b = np.linalg.inv(matrix) @ homography
    b = b / np.sqrt(np.linalg.norm(b[:, 0]) * np.linalg.norm(b[:, 1]))
    b = b if b[2, 2] > 0 else -b
    raw = np.column_stack([b[:, 0], b[:, 1], np.cross(b[:, 0], b[:, 1])])
    u, _, vt = np.linalg.svd(raw)
    return u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt, b[:, 2]


def _assumed_matrix(homography: Array, size_px: tuple[int, int]) -> Array | None:
    """Camera matrix with square pixels and a centred principal point, from one homography; None when undetermined."""
    cx, cy = (size_px[0] - 1) / 2, (size_px[1] - 1) / 2
    g = np.array([[1, 0, -cx], [0, 1, -cy], [0, 0, 1]]) @ homography
    g = g / np.linalg.norm(g)
    (a, b), (c, d), (e, f) = g[0, :2], g[1, :2], g[2, :2]
    rows = np.array([[a * b + c * d, e * f], [a * a + c * c - b * b - d * d, e * e - f * f]])
    denominator = rows[:, 0] @ rows[:, 0]
    inverse_f2 = -(rows[:, 0] @ rows[:, 1]) / denominator if denominator > 0 else 0.0
    if inverse_f2 <= 0:
        return None
    focal = 1 / np.sqrt(inverse_f2)
    if not 0.2 * size_px[0] < focal < 20 * size_px[0]:
        return None
    return np.array([[focal, 0, cx], [0, focal, cy], [0, 0, 1]])


def _view(
    seen: Sequence[SeenMarker],
    solution: _Solution,
    size_px: tuple[int, int],
    bed_height_m: float,
    calibration: CameraCalibration | None,
    remarks: Sequence[str],
) -> BedView:
    pose = solution.pose
    if pose is None:
        matrix = _assumed_matrix(solution.homography, size_px)
        pose = _pose_from(solution.homography, matrix) if matrix is not None else None
    position = -pose[0].T @ pose[1] + np.array([0, 0, bed_height_m]) if pose is not None else None
    view = BedView(
        image_size_px=size_px,
        homography=solution.homography,
        parameter_covariance=solution.parameter_covariance,
        residual_px=solution.rms_px,
        residual_m=0.0,
        markers_seen=tuple(s.marker.id for s in seen),
        marker_corners_px=np.array([s.corners_px for s in seen]),
        blur_px=float(np.median([s.blur_px for s in seen])),
        calibration=calibration,
        camera_position_world_m=position,
        rotation_camera_world=pose[0] if pose is not None else None,
        bed_height_m=bed_height_m,
        remarks=tuple(remarks),
    )
    scale = [np.sqrt(abs(np.linalg.det(view.jacobian_m_per_px(s.corners_px.mean(axis=0))))) for s in seen]
    object.__setattr__(view, "residual_m", solution.rms_px * float(np.mean(scale)))
    return view


def _contradiction(seen: Sequence[SeenMarker], rms_px: float) -> str:
    """Say what is wrong when the markers fit neither each other nor the machine file: sizes, if they explain it."""
    sizes = _apparent_sizes_m(seen)
    start = f"markers contradict the machine file ({rms_px:.1f} px RMS)"
    if sizes is not None:
        wrong = [
            (s, size) for s, size in zip(seen, sizes, strict=True) if abs(size / s.marker.size_m - 1) > SIZE_TOLERANCE
        ]
        if wrong:
            listed = ", ".join(f"{s.marker.id}: {size:.3f} m, file {s.marker.size_m:.3f} m" for s, size in wrong)
            return f"{start}: seen from their centres' places, the size_m of markers is not as written ({listed})"
    names = ", ".join(str(s.marker.id) for s in seen)
    return f"{start}: check centre_m, yaw_rad and size_m of markers {names}"


def _apparent_sizes_m(seen: Sequence[SeenMarker]) -> list[float] | None:
    """Sizes of four or more markers on the bed that their centres alone span; None when those do not fit either."""
    if len(seen) < 4:
        return None
    centres_px = np.array([_diagonals_cross(s.corners_undistorted_px) for s in seen])
    centres_m = np.array([s.marker.centre_m for s in seen])
    if np.linalg.matrix_rank(centres_m - centres_m.mean(axis=0), tol=0.01) < 2:
        return None
    inverse = _inverse(_direct_homography(centres_m, centres_px))
    corners = [_project(inverse, s.corners_undistorted_px) for s in seen]
    sides = [np.linalg.norm(np.roll(c, -1, axis=0) - c, axis=1) for c in corners]
    if max(float(side.max() / side.min()) for side in sides) > 1.15:
        return None
    return [float(side.mean()) for side in sides]


def _diagonals_cross(corners: Array) -> Array:
    a, b, c, d = corners
    t = np.linalg.solve(np.column_stack([c - a, b - d]), b - a)[0]
    return a + t * (c - a)
