"""The pose network's room: labels, the small camera, dataset, training, file, second opinion."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from melter.cli.main import main
from melter.errors import BadInput
from melter.geometry.pose import rotation_about_world_xy, rotation_facing, sun_direction_world, work_centre_world_m
from melter.machine import Machine, load_machine, machine_from_table, packaged_path
from melter.vision.bed import solve_bed
from melter.vision.calibration import CameraCalibration
from melter.vision.pose import dataset as dataset_module
from melter.vision.pose.canonical import FOCAL_PX, MATRIX, calibration_or_guess, normalised, to_canonical
from melter.vision.pose.check import PoseWatch, disagreement, shows_something, view_without_markers
from melter.vision.pose.dataset import load_dataset, write_dataset
from melter.vision.pose.draw import FRAMES_A_SCENE, Labelled, draw_scene
from melter.vision.pose.export import pose_onnx, write_pose_onnx
from melter.vision.pose.labels import POINTS, Poses, decode, encode, turned
from melter.vision.pose.model import PoseModel, load_pose_model, machine_facts, read_out
from melter.vision.pose.network import PoseNet
from melter.vision.pose.score import good_enough, miss_of, summary, unseen
from melter.vision.pose.train import Settings, Training, shaken
from melter.vision.scene import SceneOptions, SceneRenderer


@pytest.fixture(scope="module")
def machine() -> Machine:
    return load_machine()


def looking(place, target=(0.0, 0.0, 0.0), roll=0.0) -> np.ndarray:
    forward = np.subtract(target, place) / np.linalg.norm(np.subtract(target, place))
    right = np.cross(forward, (0, 0, 1.0))
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    return np.array([c * right + s * down, c * down - s * right, forward])


def around(distance, azimuth, elevation) -> np.ndarray:
    flat = distance * np.cos(elevation)
    return np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), distance * np.sin(elevation)])


def angle_between(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.arccos(np.clip((np.trace(a @ b.T) - 1) / 2, -1, 1)))


def truth_of(azimuth: float, elevation: float = 0.6, distance: float = 3.4, zenith: float = 0.4) -> Labelled:
    place = around(distance, azimuth, elevation)
    sun = sun_direction_world(zenith, np.pi)
    lens = rotation_about_world_xy(0.03, -0.02) @ rotation_facing(sun)
    centre = work_centre_world_m((0.1, -0.1), sun, 1.2)
    return Labelled(np.zeros((96, 160), np.uint8), place, looking(place, roll=0.03), centre, lens, sun, 4)


def poses_of(*truths: Labelled) -> Poses:
    names = ("camera_m", "rotation", "lens_m", "lens_rotation")
    return Poses(*(np.array([getattr(t, name) for t in truths]) for name in names))


def output_of(truth: Labelled, doubt: float = 0.0) -> np.ndarray:
    points, turns = encode(poses_of(truth))
    return np.concatenate([points[0].ravel(), np.full(POINTS, doubt), turns[0]])


@settings(max_examples=60, deadline=None)
@given(
    azimuth=st.floats(-3.14, 3.14),
    elevation=st.floats(0.3, 1.2),
    distance=st.floats(2.3, 5.0),
    lens_turn=st.floats(-0.3, 0.3),
    tilt=st.floats(-0.5, 0.5),
)
def test_labels_go_there_and_back(azimuth, elevation, distance, lens_turn, tilt) -> None:
    place = around(distance, azimuth, elevation)
    c, s = np.cos(lens_turn), np.sin(lens_turn)
    lens = rotation_about_world_xy(tilt, 0.2) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    truth = Labelled(np.zeros((96, 160), np.uint8), place, looking(place), np.array([0.1, 0.2, 1.0]), lens, place, 0)
    points, turns = encode(poses_of(truth))
    if not np.isfinite(points).all():
        return
    seen = decode(points[0], turns[0])
    assert seen is not None
    ways = [turned(seen, k) for k in range(4)]
    best = min(ways, key=lambda way: float(np.linalg.norm(way.camera_m - place)))
    assert best.camera_m == pytest.approx(place, abs=1e-4)
    assert angle_between(best.rotation, truth.rotation) < 1e-3
    assert best.lens_m == pytest.approx(truth.lens_m, abs=1e-4)
    half = np.diag([-1.0, -1.0, 1.0])
    assert min(angle_between(best.lens_rotation, lens), angle_between(best.lens_rotation @ half, lens)) < 1e-3


def test_neighbouring_cameras_have_neighbouring_labels_all_round() -> None:
    steps = np.linspace(-np.pi, np.pi, 721)
    points, turns = encode(poses_of(*(truth_of(azimuth) for azimuth in steps)))
    assert np.abs(np.diff(points, axis=0)).max() < 1.0
    assert np.abs(np.diff(turns, axis=0)).max() < 0.06


@pytest.mark.parametrize("azimuth", [0.2, 1.5, 2.9, -2.0, -0.7])
def test_the_quarter_is_told_by_the_network_the_sun_and_the_lens(azimuth: float) -> None:
    truth = truth_of(azimuth)
    raw = output_of(truth)
    found = read_out(raw, truth.sun)
    assert found is not None
    assert miss_of(found, truth).quarter_right
    assert found.distance_m == pytest.approx(3.4, rel=1e-4)
    assert found.elevation_rad == pytest.approx(0.6, abs=1e-4)
    assert found.azimuth_rad == pytest.approx(azimuth, abs=1e-4)
    raw[3 * POINTS + 2 : 3 * POINTS + 4] = 0
    blind = read_out(raw, truth.sun)
    assert blind is not None
    assert miss_of(blind, truth).quarter_right
    assert blind.quarter_margin < found.quarter_margin
    assert not read_out(output_of(truth, doubt=2.0), truth.sun).sure


def test_a_prior_tells_the_quarter_where_nothing_else_does() -> None:
    truth = truth_of(2.0, zenith=0.0)
    raw = output_of(truth)
    raw[3 * POINTS + 2 : 3 * POINTS + 4] = 0
    near = around(3.0, 1.7, 0.5)
    assert read_out(raw, truth.sun, near).azimuth_rad == pytest.approx(2.0, abs=1e-3)


def test_nonsense_is_no_pose() -> None:
    raw = output_of(truth_of(0.3))
    raw[:2] = np.nan
    assert read_out(raw, np.array([0, 0, 1.0])) is None
    assert np.isnan(miss_of(None, truth_of(0.3)).distance)


@pytest.mark.parametrize("bend", [(0.0, 0.0, 0.0, 0.0, 0.0), (-0.2, 0.04, 0.001, -0.001, 0.0)])
@pytest.mark.parametrize("size", [(1280, 720), (640, 480)])
def test_any_camera_becomes_the_small_one(bend, size) -> None:
    focal = 0.7 * size[0]
    matrix = np.array([[focal, 0, size[0] / 2 + 7], [0, focal, size[1] / 2 - 5], [0, 0, 1]])
    calibration = CameraCalibration(size, matrix, np.array(bend))
    for direction in ((0.0, 0.0), (0.3, -0.15), (-0.4, 0.2)):
        ideal = matrix[:2, :2] @ direction + matrix[:2, 2]
        at = calibration.distort_px(ideal)
        v, u = np.mgrid[0 : size[1], 0 : size[0]]
        width = size[0] / 100
        picture = (20 + 200 * np.exp(-((u - at[0]) ** 2 + (v - at[1]) ** 2) / (2 * width**2))).astype(np.uint8)
        small = to_canonical(picture, calibration).astype(float) - 20
        v, u = np.mgrid[0:96, 0:160]
        seen = np.array([(small * u).sum(), (small * v).sum()]) / small.sum()
        assert seen == pytest.approx(FOCAL_PX * np.array(direction) + MATRIX[:2, 2], abs=0.1)


def test_grey_and_16_bit_pictures_become_the_same(machine: Machine) -> None:
    rng = np.random.default_rng(0)
    grey = cv2.GaussianBlur(rng.integers(0, 255, (360, 640), dtype=np.uint8), (0, 0), 3)
    known = calibration_or_guess(None, machine, (640, 360))
    first = to_canonical(grey, known)
    assert np.abs(to_canonical(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), known).astype(int) - first).max() <= 1
    assert np.abs(to_canonical(grey.astype(np.uint16) * 257, known).astype(int) - first).max() <= 1
    assert normalised(first).shape == (1, 96, 160)


def test_drawn_pictures_and_truths_belong_together(machine: Machine) -> None:
    """Whatever is drawn at the bed's middle is where the label says: found with markers, from another picture."""
    shots = [shot for seed in (3, 4) for shot in draw_scene(machine, np.random.default_rng(seed))]
    assert len(shots) == 2 * FRAMES_A_SCENE
    for shot in shots:
        assert shot.picture.shape == (96, 160)
        assert shot.rotation @ shot.rotation.T == pytest.approx(np.eye(3), abs=1e-9)
        assert shot.camera_m[2] > 0.5
        points, _ = encode(poses_of(shot))
        assert (points[0, 0] > 0).all()
        assert (points[0, 0] < (160, 96)).all()


@pytest.fixture(scope="module")
def folder(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight parts of four pictures."""
    path = tmp_path_factory.mktemp("pose") / "poses"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset_module, "SCENES_A_PART", 1)
        patch.setattr(dataset_module, "IMAGES_A_PART", FRAMES_A_SCENE)
        assert write_dataset(machine, path, 30, 5, 1, lambda _: None) == 32
    return path


def test_a_dataset_goes_on_where_it_stopped_and_is_the_same(
    machine: Machine, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_module, "SCENES_A_PART", 1)
    monkeypatch.setattr(dataset_module, "IMAGES_A_PART", FRAMES_A_SCENE)
    other = tmp_path / "again"

    def stop(share: float) -> None:
        if share > 0.2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(machine, other, 12, 5, 1, stop)
    assert len(list(other.glob("part-*.npz"))) == 1
    write_dataset(machine, other, 12, 5, 1, lambda _: None)
    few, many = load_dataset(other), load_dataset(folder)
    assert len(few.pictures) == 12
    assert len(many.pictures) == 32
    assert np.array_equal(few.pictures, many.pictures[:12])
    assert np.array_equal(few.poses.lens_m, many.poses.lens_m[:12])


def test_folders_that_are_no_dataset_are_refused(machine: Machine, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="seed"):
        write_dataset(machine, folder, 4, 6, 1, lambda _: None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x.txt").write_text("keep me")
    with pytest.raises(BadInput, match="no dataset"):
        write_dataset(machine, tmp_path / "mine", 4, 6, 1, lambda _: None)
    with pytest.raises(BadInput, match=r"dataset\.json"):
        load_dataset(tmp_path / "nothing")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "dataset.json").write_text((folder / "dataset.json").read_text())
    with pytest.raises(BadInput, match="no part"):
        load_dataset(broken)
    (broken / "part-00000.npz").write_bytes(b"PK nothing")
    with pytest.raises(BadInput, match="damaged"):
        load_dataset(broken)


def small_settings(**changes) -> Settings:
    return Settings(**{"epochs": 3, "batch": 8, "threads": 1, "rate": 1e-3, **changes})


def test_training_learns_and_goes_on_to_the_same_weights(folder: Path, tmp_path: Path) -> None:
    data = load_dataset(folder)
    straight = Training(data, tmp_path, small_settings())
    losses = [straight.run_epoch(lambda _: None).loss for _ in range(3)]
    assert losses[-1] < losses[0]
    assert straight.done
    (tmp_path / "checkpoint.pt").unlink()
    for epoch in range(3):
        again = Training(data, tmp_path, small_settings())
        assert again.epoch == epoch
        again.run_epoch(lambda _: None)
    for a, b in zip(straight.net.state_dict().values(), again.net.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    with pytest.raises(BadInput, match="epochs = 3, now it is 4"):
        Training(data, tmp_path, small_settings(epochs=4))
    (tmp_path / "checkpoint.pt").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="cannot be read"):
        Training(data, tmp_path, small_settings())


def test_nothing_to_keep_before_the_first_epoch_and_too_few_pictures(folder: Path, tmp_path: Path) -> None:
    data = load_dataset(folder)
    with pytest.raises(BadInput, match="nothing to keep"):
        Training(data, tmp_path, small_settings()).best_net()
    with pytest.raises(BadInput, match="32 pictures"):
        Training(data, tmp_path, small_settings(batch=64))


def test_shaken_pictures_keep_their_labels(folder: Path) -> None:
    data = load_dataset(folder)
    which = np.arange(8)
    pictures, points, turns = shaken(data, which, np.random.default_rng(0))
    plain, plain_turns = encode(Poses(*(getattr(data.poses, n)[which] for n in data.poses.__dataclass_fields__)))
    assert pictures.shape == (8, 1, 96, 160)
    moved = np.abs(points - plain)
    assert 0.2 < np.nanmedian(moved) < 20
    assert turns[:, :4] == pytest.approx(plain_turns[:, :4], abs=1e-5)


@pytest.fixture(scope="module")
def net() -> PoseNet:
    torch.manual_seed(0)
    net = PoseNet()
    with torch.no_grad():
        for parameter in (net.here, net.there):
            parameter.normal_()
        net.train()
        for _ in range(5):
            net(torch.randn(4, 1, 96, 160))
    return net.eval()


def test_opencv_gives_what_torch_gives(net: PoseNet, machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    size = write_pose_onnx(net, machine_facts(machine), path)
    assert size < 1_000_000
    model = PoseModel(path, machine)
    picture = np.random.default_rng(0).integers(0, 255, (96, 160), dtype=np.uint8)
    with torch.no_grad():
        wanted = net(torch.from_numpy(normalised(picture)[None])).numpy().ravel()
    assert model.raw(picture) == pytest.approx(wanted, abs=0.05)
    assert model.steady(picture).shape == wanted.shape


def test_a_mirror_changes_sides_and_nothing_else() -> None:
    """The labels of a mirrored world, as the network's mirrored output is read."""
    truth = truth_of(0.5)
    flip = np.diag([-1.0, 1.0, 1.0])
    mirror = np.diag([1.0, -1.0, 1.0])
    lens = mirror @ truth.lens_rotation @ np.diag([1.0, -1.0, 1.0])
    other = Labelled(
        truth.picture,
        mirror @ truth.camera_m,
        flip @ truth.rotation @ mirror,
        mirror @ truth.lens_m,
        lens,
        truth.sun,
        4,
    )
    wanted, turns = encode(poses_of(truth))
    seen, seen_turns = encode(poses_of(other))
    model = PoseModel.__new__(PoseModel)
    model.raw = lambda small: np.concatenate([seen[0].ravel(), np.zeros(POINTS), seen_turns[0]])
    out = model.mirrored(np.zeros((96, 160), np.uint8))
    assert out[: 2 * POINTS].reshape(POINTS, 2) == pytest.approx(wanted[0], abs=1e-6)
    assert out[3 * POINTS :][[0, 1, 4, 5]] == pytest.approx(turns[0][[0, 1, 4, 5]], abs=1e-6)
    assert np.isnan(out[3 * POINTS + 2])


def test_files_that_are_no_pose_network_are_refused(net: PoseNet, machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        PoseModel(tmp_path / "nothing.onnx", machine)
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(BadInput, match=r"not an ONNX file|format None"):
        PoseModel(tmp_path / "text.onnx", machine)
    (tmp_path / "bare.onnx").write_bytes(pose_onnx(net, {}))
    with pytest.raises(BadInput, match="format None"):
        PoseModel(tmp_path / "bare.onnx", machine)
    (tmp_path / "other.onnx").write_bytes(pose_onnx(net, machine_facts(load_machine("vitrifier"))))
    with pytest.raises(BadInput, match="vitrifier"):
        PoseModel(tmp_path / "other.onnx", machine)
    with pytest.raises(BadInput, match="no pose network comes with it"):
        load_pose_model(None, load_machine("vitrifier"))


@pytest.fixture(scope="module")
def packaged(machine: Machine) -> PoseModel:
    return load_pose_model("packaged", machine)


def test_the_packaged_network_is_small_and_knows_about_the_bar(packaged: PoseModel, machine: Machine) -> None:
    assert packaged_path("pose-corner8.onnx").stat().st_size < 1_000_000
    misses = [miss_of(read_out(packaged.steady(t.picture), t.sun), t) for t in unseen(machine, 40, 7)]
    table = summary(misses)
    assert table["n"] == 40
    assert table["distance_percent_p50"] < 4
    assert table["azimuth_deg_p50"] < 3
    assert table["elevation_deg_p50"] < 3
    assert table["quarter_right_share"] > 0.8


def test_good_enough_has_two_sides() -> None:
    names = ("azimuth_deg_p50", "elevation_deg_p50")
    good = {"distance_percent_p50": 3.0, **dict.fromkeys(names, 2.0)}
    assert good_enough(good)
    for name, value in (("distance_percent_p50", 3.01), ("azimuth_deg_p50", 2.01), ("elevation_deg_p50", None)):
        assert not good_enough({**good, name: value})


def scene(machine: Machine, *, markers: bool, seed: int = 3) -> tuple[SceneRenderer, np.ndarray]:
    shown = machine if markers else machine.model_copy(update={"bed": machine.bed.model_copy(update={"marker": ()})})
    renderer = SceneRenderer(shown, np.random.default_rng(seed), SceneOptions(image_size_px=(960, 540)))
    centre = work_centre_world_m((0.1, 0.05), renderer.sun_world, 1.2)
    rotation = rotation_facing(renderer.sun_world)
    return renderer, renderer.render(centre, rotation, (0.1, 0.05), (4e-4, 0, 4e-4), 900.0, exposure=0.8)


def test_a_bed_without_markers_and_its_doubt(packaged: PoseModel, machine: Machine) -> None:
    renderer, picture = scene(machine, markers=False)
    view = view_without_markers(packaged, picture, machine, renderer.calibration)
    assert view is not None
    assert view.markers_seen == ()
    assert view.camera_position_world_m == pytest.approx(renderer.position_world_m, abs=0.35)
    grid = np.array([(0.0, 0.0), (0.3, 0.2), (-0.3, -0.2), (0.2, -0.3)])
    seen = view.to_bed_m(renderer.project_px(np.column_stack([grid, np.zeros(4)])))
    for off, place in zip(seen - grid, grid, strict=True):
        assert np.linalg.norm(off) < 0.3
        assert off @ np.linalg.solve(view.covariance_m2(place), off) < 9
    dark = (picture * 0.01).astype(np.uint8)
    assert not shows_something(dark)
    assert view_without_markers(packaged, dark, machine) is None


def test_network_and_markers_agree_until_the_calibration_is_wrong(packaged: PoseModel, machine: Machine) -> None:
    renderer, picture = scene(machine, markers=True)
    view = solve_bed(picture, machine, renderer.calibration)
    apart = disagreement(view, packaged.estimate(picture, renderer.calibration))
    assert apart is not None
    assert not apart.large
    watch = PoseWatch(packaged, renderer.calibration)
    assert all(watch.see(picture, view, float(t)) == "" for t in range(5))
    matrix = renderer.calibration.camera_matrix.copy()
    matrix[0, 0], matrix[1, 1] = 1.5 * matrix[0, 0], 1.5 * matrix[1, 1]
    wrong = CameraCalibration((960, 540), matrix, np.zeros(5))
    table = machine.model_dump()
    table["bed"]["marker"] = [dict(m, centre_m=(0.6 * m["centre_m"][0], 0.6 * m["centre_m"][1]), size_m=0.6 * m["size_m"])
                              for m in table["bed"]["marker"]]  # fmt: skip
    shrunk = solve_bed(picture, machine_from_table(table), renderer.calibration)
    far = disagreement(shrunk, packaged.estimate(picture, renderer.calibration))
    assert far is not None
    assert far.large
    assert far.distance > 0.3
    said = [PoseWatch(packaged, wrong), PoseWatch(packaged, renderer.calibration)][1]
    assert [bool(said.see(picture, shrunk, float(t))) for t in range(4)] == [False, False, True, True]


def test_the_commands(machine: Machine, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pose.onnx"
    data = tmp_path / "poses"
    data.mkdir()
    for file in folder.iterdir():
        (data / file.name).write_bytes(file.read_bytes())
    arguments = ["vision", "train", str(data), "--out", str(out), "--epochs", "1", "--threads", "1", "--json"]
    with pytest.MonkeyPatch.context() as patch:
        import melter.vision.pose.train as train_module

        patch.setattr(train_module, "Settings", lambda **k: small_settings(epochs=k["epochs"]))
        assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 32
    assert result["bytes"] == out.stat().st_size
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["vision", "eval", str(out), "--images", "4", "--trial", "1", "--json"]) == 1
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["all"]["n"] == 4
    assert rows["trial"]["n"] == 2


def test_a_training_that_is_stopped_keeps_the_best(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import melter.vision.pose.train as train_module

    data, out = tmp_path / "poses", tmp_path / "pose.onnx"
    data.mkdir()
    for file in folder.iterdir():
        (data / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(train_module, "Settings", lambda **k: small_settings(epochs=k["epochs"]))
    run_epoch = Training.run_epoch

    def stopped(self, progress):
        if self.epoch == 1:
            raise KeyboardInterrupt
        return run_epoch(self, progress)

    monkeypatch.setattr(Training, "run_epoch", stopped)
    arguments = ["vision", "train", str(data), "--out", str(out), "--epochs", "2", "--threads", "1"]
    assert main(arguments) == 130
    assert out.exists()
    assert "best so far" in capsys.readouterr().err
    monkeypatch.setattr(Training, "run_epoch", run_epoch)
    assert main([*arguments, "--force"]) == 0
    assert "going on after epoch 1 of 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    "bad",
    [
        ["dataset", "--images", "1"],
        ["dataset", "--workers", "-1"],
        ["dataset", "--out", "/proc/nothing"],
        ["train", "/nowhere"],
        ["train"],
        ["train", "/nowhere", "--out", "pose.bin"],
        ["train", "/nowhere", "--out", "/nowhere/at/all/pose.onnx"],
        ["train", "/nowhere", "--epochs", "0"],
        ["eval", "/nowhere.onnx"],
        ["eval", "--images", "0"],
        ["eval", "--machine", "vitrifier"],
    ],
)
def test_bad_input_is_one_line_and_exit_2(bad: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vision", *bad]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
