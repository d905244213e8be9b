"""``melter calibrate``: boards, camera, bed."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from melter.cli.main import main
from melter.machine import load_machine
from melter.vision.boards import board_cells
from melter.vision.calibration import load_calibration
from melter.vision.intrinsics import Board
from melter.vision.scene import SceneOptions, SceneRenderer

SIZE, FOCAL = (640, 480), 600.0
MATRIX = np.array([[FOCAL, 0, 322], [0, FOCAL, 238], [0, 0, 1]])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ChArUco board seen from many sides by a camera without distortion."""
    root, rng, board = tmp_path_factory.mktemp("boards"), np.random.default_rng(1), Board()
    cells, cell_m = board_cells(board)
    print_ = np.pad(np.where(cells, 30, 230).astype(np.uint8), 60, constant_values=230)
    print_ = cv2.GaussianBlur(print_, (0, 0), 3)
    for n in range(14):
        turn = cv2.Rodrigues(rng.normal(0, 0.3, 3))[0]
        place = np.array([*rng.uniform(-0.19, -0.08, 2), rng.uniform(0.32, 0.45)])
        to_image = MATRIX @ np.column_stack([turn[:, 0], turn[:, 1], place])
        to_board = np.array([[cell_m, 0, -59.5 * cell_m], [0, cell_m, -59.5 * cell_m], [0, 0, 1]])
        view = cv2.warpPerspective(print_, to_image @ to_board, SIZE, flags=cv2.INTER_AREA, borderValue=120)
        cv2.imwrite(str(root / f"v{n:02d}.png"), view)
    (root / "v99.png").write_bytes(b"broken")
    return root


def test_camera(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "c.json"
    assert main(["calibrate", "camera", str(pictures), "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"file", "residual", "confidence", "coverage", "views"} <= set(result)
    found = load_calibration(out)
    assert found.camera_matrix[0, 0] == pytest.approx(FOCAL, rel=0.02)
    assert found.rms_px < 0.5
    assert main(["calibrate", "camera", str(pictures), "--out", str(out)]) == 2
    assert "exists" in capsys.readouterr().err


def test_bed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = load_machine()
    scene = SceneRenderer(machine, np.random.default_rng(2), SceneOptions(image_size_px=(960, 540)))
    image = scene.render((0, 0, 1.9), np.eye(3), (0, 0), (0.01, 0, 0.01), 0.0, cables=False)
    cv2.imwrite(str(tmp_path / "bed.png"), image)
    out = tmp_path / "bed.json"
    assert main(["calibrate", "bed", str(tmp_path / "bed.png"), "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["residual"] < 0.3
    homography = np.array(json.loads(out.read_text())["homography"])
    seen = homography @ [0.2, -0.1, 1]
    assert seen[:2] / seen[2] == pytest.approx(scene.project_px((0.2, -0.1, 0.0)), abs=0.2)


@pytest.mark.parametrize("name", ["b.pdf", "b.png"])
@pytest.mark.parametrize("which", [[], ["--marker", "2"], ["--marker-mm", "0"]])
def test_boards_are_written(tmp_path: Path, name: str, which: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "board", "--out", str(tmp_path / name), *which, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["width_m"] == pytest.approx(0.28 * 8 / 6 if "2" in which else 0.27)
    assert (tmp_path / name).stat().st_size > 300


@pytest.mark.parametrize(
    "bad",
    [
        ["sky"],
        ["camera"],
        ["camera", "/nowhere"],
        ["bed", "/nowhere.png"],
        ["board", "--out", "x.gif"],
        ["board", "--marker", "77"],
        ["board", "--columns", "1"],
        ["board", "--marker-mm", "99"],
        ["board", "--dictionary", "DICT_NONE"],
        ["machine", "x"],
    ],
)
def test_bad_input(
    bad: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["calibrate", *bad]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--help"]) == 0
    assert "camera SOURCE" in capsys.readouterr().out


def test_a_bad_fit_is_refused_with_exit_1_and_nothing_written(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "c.json"
    arguments = ["calibrate", "camera", str(pictures), "--out", str(out), "--max-rms-px", "0.01", "--json"]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["file"] is None
    assert "--max-rms-px" in captured.err
    assert not out.exists()


def test_markers_of_another_dictionary_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_6X6_250)
    image = np.full((480, 640), 220, np.uint8)
    image[100:260, 200:360] = cv2.aruco.generateImageMarker(book, 7, 160)
    cv2.imwrite(str(tmp_path / "other.png"), image)
    for command in (
        ["calibrate", "bed", str(tmp_path / "other.png"), "--out", str(tmp_path / "bed.json")],
        ["track", str(tmp_path / "other.png"), "--reference", str(tmp_path / "other.png")],
    ):
        assert main(command) == 2
        message = capsys.readouterr().err
        assert "DICT_6X6" in message
        assert "7" in message
        assert len(message.splitlines()) == 1
