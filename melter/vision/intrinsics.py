"""Camera calibration from pictures of a board: a ChArUco board or a plain chessboard.

Views are taken while they add something (a new part of the image, another tilt); the ones that fit badly are left
out once. Source: Zhang, PAMI 22 (2000); OpenCV's calibrateCamera.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.errors import CameraError
from melter.vision.calibration import CameraCalibration
from melter.vision.markers import dictionary_of
from melter.vision.opencv import cv2
from melter.vision.response import Pixels, checked_pixels

Array = NDArray[np.float64]

LEAST_VIEWS = 5
LEAST_CORNERS = 8
"""In one view."""
COVERAGE_GRID = (8, 6)
"""Cells of the image that corners should reach."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """A calibration board."""

    columns: int = 9
    """Squares across."""
    rows: int = 6
    """Squares down."""
    square_m: float = 0.03
    marker_m: float = 0.022
    """Of a ChArUco board's markers; 0 for a plain chessboard."""
    dictionary: str = "DICT_5X5_250"

    def __post_init__(self) -> None:
        if not (3 <= self.columns <= 60 and 3 <= self.rows <= 60):
            raise CameraError(f"board: {self.columns} x {self.rows} squares, must be 3 to 60 each")
        if not (
            0.001 <= self.square_m <= 1 and (self.marker_m == 0 or 0.2 * self.square_m < self.marker_m < self.square_m)
        ):
            raise CameraError(
                f"board: square {self.square_m} m, marker {self.marker_m} m; "
                "the marker must be smaller than its square (0: chessboard)"
            )

    def charuco(self) -> Any:
        """Return OpenCV's board."""
        return cv2.aruco.CharucoBoard(
            (self.columns, self.rows), self.square_m, self.marker_m, dictionary_of(self.dictionary)
        )

    def corners_m(self) -> Array:
        """Return the (n, 3) inner corners, row by row, on the board's own plane."""
        x, y = np.meshgrid(np.arange(1, self.columns) * self.square_m, np.arange(1, self.rows) * self.square_m)
        return np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=-1).astype(float)


@dataclass(frozen=True, eq=False)
class BoardView:
    """Corners of the board in one picture."""

    object_m: Array
    """(n, 3)"""
    image_px: Array
    """(n, 2)"""


@dataclass(frozen=True, eq=False)
class Intrinsics:
    """A calibration and how much it is worth."""

    calibration: CameraCalibration
    coverage: float
    """Share of the image's cells with corners in some view."""
    views: int
    left_out: int
    per_view_rms_px: tuple[float, ...]
    focal_std_px: float


def find_board(image: Pixels, board: Board) -> BoardView | None:
    """Return the board's corners in a picture, refined; None when fewer than 8 are seen."""
    pixels = checked_pixels(image)
    grey = pixels[:, :, 1] if pixels.ndim == 3 else pixels
    grey = np.ascontiguousarray(grey if grey.dtype == np.uint8 else (grey >> 8).astype(np.uint8))
    if board.marker_m > 0:
        answer: Any = cv2.aruco.CharucoDetector(board.charuco()).detectBoard(grey)
        corners, ids = answer[0], answer[1]
        if ids is None or len(np.ravel(ids)) < LEAST_CORNERS:
            return None
        picked, points = board.corners_m()[np.ravel(ids)], np.asarray(corners, dtype=np.float32).reshape(-1, 2)
    else:
        good, corners = cv2.findChessboardCorners(grey, (board.columns - 1, board.rows - 1))
        if not good:
            return None
        picked, points = board.corners_m(), np.asarray(corners, dtype=np.float32).reshape(-1, 2)
    spacing = np.linalg.norm(points[:, None] - points[None], axis=-1)
    spacing[spacing == 0] = np.inf
    window = int(np.clip(0.3 * np.median(spacing.min(axis=1)), 2, 8))
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 40, 1e-3)
    refined = cv2.cornerSubPix(grey, points.reshape(-1, 1, 2).copy(), (window, window), (-1, -1), criteria)
    return BoardView(picked, np.asarray(refined, dtype=float).reshape(-1, 2))


def coverage_of(views: list[BoardView], size_px: tuple[int, int]) -> float:
    """Return the share of the image's 8 x 6 cells that hold a corner of some view."""
    if not views:
        return 0.0
    points = np.concatenate([v.image_px for v in views])
    cells = np.floor(points / size_px * COVERAGE_GRID).astype(int)
    cells = np.clip(cells, 0, np.array(COVERAGE_GRID) - 1)
    return len({(int(a), int(b)) for a, b in cells}) / (COVERAGE_GRID[0] * COVERAGE_GRID[1])


def adds_something(view: BoardView, views: list[BoardView], size_px: tuple[int, int]) -> bool:
    """Return whether a view differs from all so far by more than 3 % of the image's width in its corners."""
    for other in views:
        if len(other.image_px) == len(view.image_px):
            distance = np.linalg.norm(other.image_px - view.image_px, axis=1).mean()
        else:
            distance = np.linalg.norm(other.image_px.mean(axis=0) - view.image_px.mean(axis=0))
        if distance < 0.03 * size_px[0]:
            return False
    return True


def calibrate(views: list[BoardView], size_px: tuple[int, int]) -> Intrinsics:
    """Return the camera's intrinsics from at least 5 views. Raises CameraError."""
    if len(views) < LEAST_VIEWS:
        raise CameraError(
            f"calibration: the board was found in {len(views)} different views, at least {LEAST_VIEWS} are needed"
        )
    kept, result = list(views), _solve(views, size_px)
    limit = 2.5 * float(np.median(result[3]))
    good = [v for v, rms in zip(views, result[3], strict=True) if rms <= max(limit, 0.2)]
    if LEAST_VIEWS <= len(good) < len(views):
        kept, result = good, _solve(good, size_px)
    rms, matrix, coefficients, per_view, focal_std = result
    calibration = CameraCalibration(size_px, matrix, coefficients, rms)
    return Intrinsics(
        calibration, coverage_of(kept, size_px), len(kept), len(views) - len(kept), tuple(per_view), focal_std
    )


def _solve(views: list[BoardView], size_px: tuple[int, int]) -> tuple[float, Array, Array, list[float], float]:
    objects = [v.object_m.astype(np.float32).reshape(-1, 1, 3) for v in views]
    points = [v.image_px.astype(np.float32).reshape(-1, 1, 2) for v in views]
    try:
        answer = cv2.calibrateCameraExtended(objects, points, size_px, np.eye(3), np.zeros(5))
    except cv2.error as error:
        raise CameraError(
            f"calibration: the views do not determine a camera ({str(error).splitlines()[0][:80]})"
        ) from None
    rms, matrix, coefficients, std, per_view = answer[0], answer[1], answer[2], answer[5], answer[7]
    if not np.isfinite(rms) or not np.isfinite(matrix).all():
        raise CameraError(
            "calibration: the views do not determine a camera; show the board tilted, in all parts of the image"
        )
    return (
        float(rms),
        np.asarray(matrix, dtype=float),
        np.ravel(coefficients)[:5].astype(float),
        [float(p) for p in np.ravel(per_view)],
        float(np.ravel(std)[0]),
    )
