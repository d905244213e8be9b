"""The synthetic webcam: repeatable, and seen rightly by the tracker."""

from __future__ import annotations

import numpy as np
import pytest

from melter.errors import CameraError
from melter.geometry.pose import rotation_facing, work_centre_world_m
from melter.machine import load_machine
from melter.vision.scene import SceneOptions, SceneRenderer
from melter.vision.tracker import PatchTracker, TrackerOptions

OPTIONS = SceneOptions(
    image_size_px=(960, 540),
    camera_jitter_m=0.05,
    camera_jitter_rad=0.02,
    distortion_coefficients=(-0.1, 0.03, 0, 0, 0),
)


def frame_of(scene: SceneRenderer, patch=(0.1, -0.1), exposure=None, **options) -> np.ndarray:
    centre = work_centre_world_m(np.array(patch), scene.sun_world, 1.22)
    covariance = (0.014**2, 0.0, 0.010**2)
    if exposure is None:
        exposure = scene.exposure_for(900 / (2 * np.pi * 0.014 * 0.010))
    return scene.render(
        centre, rotation_facing(scene.sun_world), patch, covariance, 900.0, exposure=exposure, **options
    )


def test_same_seed_same_pictures() -> None:
    pictures = []
    for _ in range(2):
        scene = SceneRenderer(load_machine(), np.random.default_rng(3), OPTIONS)
        pictures.append([frame_of(scene), frame_of(scene, exposure=1.0)])
    assert np.array_equal(pictures[0], pictures[1])
    assert pictures[0][0].shape == (540, 960, 3)
    assert pictures[0][0].dtype == np.uint8


@pytest.mark.parametrize("factor", [1.0, 20.0])
def test_the_tracker_sees_what_was_drawn(factor: float) -> None:
    machine = load_machine()
    scene = SceneRenderer(machine, np.random.default_rng(4), OPTIONS)
    tracker = PatchTracker(machine, scene.calibration, TrackerOptions(relief_m=0.0))
    view = tracker.set_reference(scene.render((0, 0, 0.7), np.eye(3), (0, 0), (0.01, 0, 0.016), 900.0))
    assert view.camera_position_world_m == pytest.approx(scene.position_world_m, abs=0.02)
    exposure = factor * scene.exposure_for(900 / (2 * np.pi * 0.014 * 0.010))
    estimate = tracker.track(frame_of(scene, (0.15, 0.1), exposure), 0.0)
    assert estimate.status == ("ok" if factor == 1 else "saturated")
    assert estimate.centre_world_m == pytest.approx((0.15, 0.1), abs=0.0015)


def test_a_cloud_leaves_no_patch() -> None:
    machine = load_machine()
    scene = SceneRenderer(machine, np.random.default_rng(5), OPTIONS)
    tracker = PatchTracker(machine, scene.calibration)
    tracker.set_reference(scene.render((0, 0, 1.9), np.eye(3), (0, 0), (0.01, 0, 0.016), 0.0))
    assert tracker.track(frame_of(scene, sun_share=0.0, exposure=1.0), 0.0).status == "lost"


def test_motion_lengthens_the_patch_and_exposure_brightens() -> None:
    scene = SceneRenderer(
        load_machine(), np.random.default_rng(6), SceneOptions(image_size_px=(640, 360), noise_codes=0.0)
    )
    still, moved = frame_of(scene), frame_of(scene, motion_m=(0.1, 0.0))
    assert (moved > 40).any(axis=0).sum() > (still > 40).any(axis=0).sum()
    assert frame_of(scene, exposure=0.5).mean() > still.mean()


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(CameraError, match="16 to 8192"):
        SceneRenderer(load_machine(), np.random.default_rng(0), SceneOptions(image_size_px=(4, 4)))
