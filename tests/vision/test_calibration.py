"""Calibration files, the distortion model, and intrinsics from synthetic boards."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melter.errors import CameraError
from melter.vision.boards import board_cells, marker_cells, write_print
from melter.vision.calibration import CameraCalibration, load_calibration, save_calibration
from melter.vision.intrinsics import Board, BoardView, calibrate, find_board

MATRIX = np.array([[900.0, 0, 641], [0, 905, 355], [0, 0, 1]])
BENT = np.array([-0.2, 0.06, 0.001, -0.002, 0.01])


@given(st.floats(0, 1279), st.floats(0, 719))
@settings(max_examples=50, deadline=None)
def test_distortion_agrees_with_opencv_and_goes_back(u: float, v: float) -> None:
    calibration = CameraCalibration((1280, 720), MATRIX, BENT)
    ideal = calibration.undistort_px((u, v))
    assert calibration.distort_px(ideal) == pytest.approx((u, v), abs=1e-6)
    ray = np.linalg.inv(MATRIX) @ [*ideal, 1]
    seen = cv2.projectPoints(ray.reshape(1, 1, 3), np.zeros(3), np.zeros(3), MATRIX, BENT)[0].ravel()
    assert seen == pytest.approx((u, v), abs=1e-6)


def test_files_go_round(tmp_path: Path) -> None:
    save_calibration(CameraCalibration((1280, 720), MATRIX, BENT, 0.2), tmp_path / "c.json")
    again = load_calibration(tmp_path / "c.json")
    assert again.image_size_px == (1280, 720)
    assert again.rms_px == 0.2
    assert np.array_equal(again.camera_matrix, MATRIX)
    assert np.array_equal(again.distortion_coefficients, BENT)
    assert list(tmp_path.iterdir()) == [tmp_path / "c.json"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size_px", [1280]),
        ("image_size_px", [0, 720]),
        ("camera_matrix", [[1, 0], [0, 1]]),
        ("camera_matrix", [[1e9, 0, 640], [0, 900, 360], [0, 0, 1]]),
        ("camera_matrix", [[float("nan"), 0, 640], [0, 900, 360], [0, 0, 1]]),
        ("distortion_coefficients", [1, 2]),
        ("distortion_coefficients", "none"),
        ("rms_px", -1),
        ("rms_px", None),
    ],
)
def test_bad_files_are_refused_on_one_line(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "c.json"
    save_calibration(CameraCalibration((1280, 720), MATRIX, BENT, 0.2), path)
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(CameraError) as caught:
        load_calibration(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1]", "{}", "{", "null"])
def test_files_that_are_no_calibration(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(CameraError):
        load_calibration(tmp_path / "c.json")
    with pytest.raises(CameraError):
        load_calibration(tmp_path / "absent.json")


def board_views(rng: np.random.Generator, board: Board, count: int) -> list[BoardView]:
    points = board.corners_m()
    views = []
    for _ in range(count):
        turn, place = rng.normal(0, 0.35, 3), np.array([*rng.uniform(-0.12, 0.0, 2), rng.uniform(0.3, 0.5)])
        px = cv2.projectPoints(points, turn, place, MATRIX, BENT)[0].reshape(-1, 2) + rng.normal(
            0, 0.1, (len(points), 2)
        )
        inside = ((px > 0) & (px < (1280, 720))).all(axis=1)
        if inside.sum() > 8:
            views.append(BoardView(points[inside], px[inside]))
    return views


def test_intrinsics_are_recovered() -> None:
    found = calibrate(board_views(np.random.default_rng(0), Board(), 25), (1280, 720))
    assert found.calibration.camera_matrix == pytest.approx(MATRIX, abs=4)
    assert found.calibration.rms_px < 0.2
    assert 0 < found.coverage <= 1


def test_too_few_views() -> None:
    with pytest.raises(CameraError, match="at least 5"):
        calibrate(board_views(np.random.default_rng(0), Board(), 3), (1280, 720))


@pytest.mark.parametrize("marker_m", [0.022, 0.0])
def test_a_printed_board_is_found_where_it_is(tmp_path: Path, marker_m: float) -> None:
    board = Board(marker_m=marker_m)
    cells, cell_m = board_cells(board)
    scale = round(board.square_m / cell_m)
    picture = np.kron(np.where(cells, 0, 255).astype(np.uint8), np.ones((120 // scale, 120 // scale), np.uint8))
    page = np.pad(cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), 80, constant_values=255)
    view = find_board(page, board)
    assert view is not None
    assert len(view.image_px) == 40
    expected = view.object_m[:, :2] / board.square_m * 60 + 80 - 0.5
    assert np.abs(view.image_px - expected).max() < 0.6 or marker_m == 0.0


def test_prints_have_their_true_size(tmp_path: Path) -> None:
    cells = marker_cells("DICT_4X4_50", 3)
    assert cells.shape == (8, 8)
    assert not cells[0].any()
    write_print(cells, 0.28 / 6, tmp_path / "m.pdf")
    text = (tmp_path / "m.pdf").read_bytes()
    size_points = 0.28 / 6 * 8 / 0.0254 * 72
    assert f"[0 0 {size_points:.4f} {size_points:.4f}]".encode() in text
    write_print(cells, 0.01, tmp_path / "m.png")
    picture = cv2.imread(str(tmp_path / "m.png"), cv2.IMREAD_GRAYSCALE)
    assert picture.shape[0] == pytest.approx(0.08 / 0.0254 * 300, abs=1)
    assert b"pHYs" in (tmp_path / "m.png").read_bytes()[:60]
    with pytest.raises(CameraError, match=r"\.pdf or \.png"):
        write_print(cells, 0.01, tmp_path / "m.gif")
    with pytest.raises(CameraError, match="0 to 49"):
        marker_cells("DICT_4X4_50", 50)
