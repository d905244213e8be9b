"""``melter track``: lines, formats, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from melter.cli.main import main
from melter.geometry.pose import rotation_facing, work_centre_world_m
from melter.machine import load_machine
from melter.vision.calibration import CameraCalibration, save_calibration
from melter.vision.scene import SceneOptions, SceneRenderer

FIELDS = {"frame", "source", "t_s", "status", "centre_m", "semi_axes_m", "angle_rad", "covariance_m2"}
CENTRE = (0.1, 0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference, its calibration, and a folder of frames, one of them broken."""
    root = tmp_path_factory.mktemp("track")
    machine = load_machine()
    scene = SceneRenderer(machine, np.random.default_rng(0), SceneOptions(image_size_px=(960, 540)))
    park = scene.render(machine.park.lens_centre_world_m, np.eye(3), (0, 0), (0.1**2, 0, 0.13**2), 900.0)
    cv2.imwrite(str(root / "reference.png"), park)
    save_calibration(scene.calibration, root / "calibration.json")
    rotation = rotation_facing(scene.sun_world)
    (root / "frames").mkdir()
    for n in range(3):
        patch = (CENTRE[0] + 0.001 * n, CENTRE[1])
        centre = work_centre_world_m(np.array(patch), scene.sun_world, 1.22)
        frame = scene.render(
            centre, rotation, patch, (0.012**2, 0, 0.009**2), 900.0, exposure=scene.exposure_for(1.33e6)
        )
        cv2.imwrite(str(root / "frames" / f"f{n}.png"), frame)
    (root / "frames" / "f3.png").write_bytes(b"not a picture")
    return root


def options(folder: Path) -> list[str]:
    return ["--reference", str(folder / "reference.png"), "--calibration", str(folder / "calibration.json")]


def test_a_line_per_frame(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["track", str(folder / "frames"), *options(folder)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["status"] for line in lines] == ["ok", "ok", "ok", "lost"]
    assert all(set(line) >= FIELDS for line in lines)
    for n, line in enumerate(lines[:3]):
        assert line["frame"] == n
        assert line["centre_m"] == pytest.approx((CENTRE[0] + 0.001 * n, CENTRE[1]), abs=0.002)
        assert line["semi_axes_m"] == pytest.approx((0.024, 0.018), rel=0.15)
        assert -np.pi / 2 < line["angle_rad"] <= np.pi / 2
        assert np.linalg.eigvalsh(line["covariance_m2"]).min() > 0
    assert lines[3]["centre_m"] is None
    assert "not a picture" in lines[3]["reason"]


def test_files_and_one_json_object(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, overlay = tmp_path / "lines.jsonl", tmp_path / "seen.png"
    source = str(folder / "frames" / "f1.png")
    arguments = ["track", source, *options(folder), "--jsonl", str(lines), "--overlay", str(overlay), "--json"]
    assert main(arguments) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["frames"] == 1
    assert out["status"] == "ok"
    assert set(json.loads(lines.read_text())) >= FIELDS
    assert cv2.imread(str(overlay)).shape == (540, 960, 3)


def test_overlay_video(folder: Path, tmp_path: Path) -> None:
    film = tmp_path / "seen.avi"
    main(["track", str(folder / "frames"), *options(folder), "--overlay", str(film), "--jsonl", str(tmp_path / "l")])
    assert film.stat().st_size > 1000


def test_a_reference_is_as_good_as_markers_in_view(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["track", str(folder / "frames" / "f0.png")]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["status"] == "no_markers"
    assert line["centre_m"] is None


@pytest.mark.parametrize(
    "bad",
    [
        ["/nowhere.png"],
        ["http://127.0.0.1:9/x"],
        ["{frame}", "--reference", "/nowhere.png"],
        ["{frame}", "--reference", "{frame}"],
        ["{frame}", "--calibration", "/nowhere.json"],
        ["{frame}", "--calibration", "{other}", "--reference", "{reference}"],
        ["{frame}", "--machine", "nothing"],
        ["{frame}", "--response", "log"],
        ["{frame}", "--rate-hz", "0"],
        ["{frame}", "--overlay", "x.txt"],
        ["{frame}", "--jsonl", "/nowhere/at/all/x.jsonl"],
        ["{frame}", "--no-such-option"],
        [],
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    folder: Path, tmp_path: Path, bad: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.json"
    save_calibration(
        CameraCalibration((640, 480), np.array([[500, 0, 320], [0, 500, 240], [0, 0, 1.0]]), np.zeros(5)), other
    )
    names = {"frame": folder / "frames" / "f0.png", "reference": folder / "reference.png", "other": other}
    assert main(["track", *(part.format(**names) for part in bad)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith("melter: ")
