"""Markers to the bed: accuracy, hidden and contradicting markers, distortion."""

from __future__ import annotations

import numpy as np
import pytest
import ray_scene as ray
from test_tracker import calibration_of, marker_bits, scene_of

from melter.errors import CameraError
from melter.machine import Machine, load_machine, machine_from_table
from melter.vision.bed import solve_bed
from melter.vision.calibration import CameraCalibration

GRID = np.stack(np.meshgrid([-0.4, 0.0, 0.4], [-0.4, 0.0, 0.4]), axis=-1).reshape(-1, 2)


@pytest.fixture(scope="module")
def machine() -> Machine:
    return load_machine()


def changed(machine: Machine, number: int | None, **values) -> Machine:
    table = machine.model_dump()
    for marker in table["bed"]["marker"]:
        if number is None or marker["id"] == number:
            marker.update(values)
    return machine_from_table(table)


def picture(scene: ray.Scene, rng: np.random.Generator, hide=None) -> np.ndarray:
    return ray.render(scene, ray.base_light(scene), None, exposure=0.8, rng=rng, hide=hide)


def visible(scene: ray.Scene, machine: Machine) -> tuple[int, ...]:
    """Markers whose white margin lies inside the image."""
    inside = []
    for marker in machine.bed.marker:
        reach = 0.95 * marker.size_m
        ring = np.array(
            [[marker.centre_m[0] + a * reach, marker.centre_m[1] + b * reach, 0] for a in (-1, 1) for b in (-1, 1)]
        )
        px = scene.cam.project(ring)
        if (px > 0).all() and (px < scene.cam.size).all():
            inside.append(marker.id)
    return tuple(inside)


def with_all_in_view(machine: Machine, rng: np.random.Generator, **options) -> ray.Scene:
    for _ in range(100):
        scene = scene_of(machine, rng, **options)
        if visible(scene, machine) == (0, 1, 2, 3):
            return scene
    raise AssertionError("no such camera")


def error_px(view, scene: ray.Scene) -> float:
    truth = scene.cam.project(np.column_stack([GRID, np.zeros(len(GRID))]))
    return float(np.abs(view.to_px(GRID) - truth).max())


@pytest.mark.parametrize("seed", range(3))
def test_any_azimuth(machine: Machine, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = scene_of(machine, rng)
    view = solve_bed(picture(scene, rng), machine, calibration_of(scene.cam))
    assert set(view.markers_seen) >= set(visible(scene, machine))
    assert error_px(view, scene) < 0.10
    assert view.camera_position_world_m == pytest.approx(scene.cam.position, abs=0.01)
    assert view.residual_px < 0.2
    assert view.residual_m < 0.001
    assert view.to_bed_m(view.to_px(GRID)) == pytest.approx(GRID, abs=1e-9)


def test_distortion_is_corrected(machine: Machine) -> None:
    rng = np.random.default_rng(3)
    scene = scene_of(machine, rng, distortion=(-0.2, 0.05, 0.001, -0.002, 0.0))
    image = picture(scene, rng)
    assert error_px(solve_bed(image, machine, calibration_of(scene.cam)), scene) < 0.12
    assert error_px(solve_bed(image, machine), scene) > 0.5


def test_one_marker_hidden(machine: Machine) -> None:
    rng = np.random.default_rng(4)
    scene = with_all_in_view(machine, rng)
    at = scene.cam.project(np.array([*machine.bed.marker[1].centre_m, 0.0]))
    view = solve_bed(
        picture(scene, rng, lambda u, v: np.hypot(u - at[0], v - at[1]) < 60), machine, calibration_of(scene.cam)
    )
    assert 1 not in view.markers_seen
    assert len(view.markers_seen) == 3
    assert error_px(view, scene) < 0.15


def test_a_cable_across_a_marker_does_little(machine: Machine) -> None:
    rng = np.random.default_rng(5)
    scene = with_all_in_view(machine, rng)
    at = scene.cam.project(np.array([*machine.bed.marker[0].centre_m, 0.0]))
    view = solve_bed(
        picture(scene, rng, lambda u, v: np.abs((u - at[0]) + 0.6 * (v - at[1])) < 1.2),
        machine,
        calibration_of(scene.cam),
    )
    assert 0 in view.markers_seen
    assert error_px(view, scene) < 0.15


def test_a_marker_that_is_elsewhere_is_named_and_left_out(machine: Machine) -> None:
    rng = np.random.default_rng(6)
    scene = with_all_in_view(machine, rng)
    image, calibration = picture(scene, rng), calibration_of(scene.cam)
    view = solve_bed(image, changed(machine, 2, centre_m=[-1.25, -1.15]), calibration)
    assert 2 not in view.markers_seen
    assert any("marker 2" in remark for remark in view.remarks)
    assert error_px(view, scene) < 0.15


@pytest.mark.parametrize("calibrated", [True, False])
def test_markers_of_another_size_are_noticed_and_named(machine: Machine, calibrated: bool) -> None:
    rng = np.random.default_rng(7)
    scene = with_all_in_view(machine, rng)
    with pytest.raises(CameraError, match=r"0\.2[78]\d? m, file 0\.200 m|size_m"):
        solve_bed(
            picture(scene, rng), changed(machine, None, size_m=0.20), calibration_of(scene.cam) if calibrated else None
        )


def test_turned_markers(machine: Machine) -> None:
    rng = np.random.default_rng(8)
    turned = changed(machine, 3, yaw_rad=2.0)
    scene = with_all_in_view(turned, rng)
    view = solve_bed(picture(scene, rng), turned, calibration_of(scene.cam))
    assert view.markers_seen == visible(scene, turned)
    assert error_px(view, scene) < 0.10


def test_no_markers_wrong_dictionary_and_wrong_size(machine: Machine) -> None:
    rng = np.random.default_rng(9)
    scene = with_all_in_view(machine, rng)
    image = picture(scene, rng)
    with pytest.raises(CameraError, match="no marker in view"):
        solve_bed(np.full((480, 640), 100, np.uint8), machine)
    with pytest.raises(CameraError, match="no marker in view"):
        solve_bed(image, changed(machine, None, dictionary="DICT_7X7_50"))
    with pytest.raises(CameraError, match="640 x 480 px, the image has 960 x 540 px"):
        solve_bed(
            image,
            machine,
            CameraCalibration((640, 480), np.array([[500, 0, 320], [0, 500, 240], [0, 0, 1.0]]), np.zeros(5)),
        )


def test_covariance_is_honest(machine: Machine) -> None:
    rng, distances = np.random.default_rng(10), []
    for _ in range(6):
        scene = scene_of(machine, rng, size=(640, 360))
        view = solve_bed(picture(scene, rng), machine, calibration_of(scene.cam))
        for point in GRID[::4]:
            truth = scene.cam.project(np.array([*point, 0.0]))
            d = view.to_bed_m(truth) - point
            distances.append(np.sqrt(d @ np.linalg.solve(view.covariance_m2(point), d)))
    assert np.mean(np.array(distances) < 3) > 0.7


def test_bits_are_a_marker() -> None:
    assert marker_bits(0).shape == (6, 6)
    assert marker_bits(0)[0].sum() == 0
