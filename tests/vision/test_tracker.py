"""The tracker on pictures from a renderer of its own kind (``ray_scene``): accuracy, honesty, and what is no patch."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
import ray_scene as ray

from melter.machine import Machine, load_machine
from melter.observation import PatchEstimate
from melter.vision.calibration import CameraCalibration
from melter.vision.tracker import PatchTracker, TrackerOptions

POWER_W = 900.0
SIZE = (960, 540)


def marker_bits(number: int) -> np.ndarray:
    dictionary = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50)
    return (cv2.aruco.generateImageMarker(dictionary, number, 6, None, 1) > 0).astype(int)


def scene_of(machine: Machine, rng: np.random.Generator, size=SIZE, distortion=(0.0,) * 5, **camera) -> ray.Scene:
    azimuth, elevation, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.45, 0.75), rng.uniform(3.2, 3.7)
    place = distance * np.array(
        [np.cos(elevation) * np.sin(azimuth), np.cos(elevation) * np.cos(azimuth), np.sin(elevation)]
    )
    cam = ray.Cam(tuple(place), size=size, distortion=distortion, fov_deg=66, roll=rng.uniform(-0.05, 0.05), **camera)
    markers = tuple((marker_bits(k.id), k.size_m, k.centre_m, k.yaw_rad) for k in machine.bed.marker)
    lens = np.array([(-0.525, -0.7), (0.525, -0.7), (0.525, 0.7), (-0.525, 0.7)]) + rng.uniform(-0.2, 0.2, 2)
    return ray.Scene(cam, markers, shadow=tuple(map(tuple, lens)), seed=int(rng.integers(1e6)))


def calibration_of(cam: ray.Cam) -> CameraCalibration:
    return CameraCalibration(cam.size, cam.matrix, np.array(cam.distortion), 0.1)


def random_covariance(rng: np.random.Generator, low=0.0065, high=0.025) -> np.ndarray:
    angle, large = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(low), np.log(high)))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return turn @ np.diag([large**2, max(large * rng.uniform(0.5, 1), 0.0055) ** 2]) @ turn.T


@dataclass
class Bench:
    """A camera over the bed, its tracker, and frames with known patches."""

    machine: Machine
    scene: ray.Scene
    base: np.ndarray
    tracker: PatchTracker
    rng: np.random.Generator

    @classmethod
    def make(cls, seed: int, size=SIZE, distortion=(0.0,) * 5, calibrated=True) -> Bench:
        rng, machine = np.random.default_rng(seed), load_machine()
        scene = scene_of(machine, rng, size, distortion)
        base = ray.base_light(scene)
        calibration = calibration_of(scene.cam) if calibrated else None
        tracker = PatchTracker(machine, calibration, TrackerOptions(relief_m=0.0))
        tracker.set_reference(ray.render(scene, base, None, exposure=0.8, rng=rng))
        return cls(machine, scene, base, tracker, rng)

    def frame(self, field, at, *, exposure, reach=0.15, **options) -> np.ndarray:
        return ray.render(
            self.scene,
            self.base,
            field,
            patch_at=tuple(at),
            patch_reach_m=reach,
            exposure=exposure,
            rng=self.rng,
            **options,
        )

    def fresh(self) -> PatchTracker:
        """The tracker without memory of frames."""
        assert self.tracker.view is not None
        self.tracker.use_view(self.tracker.view)
        return self.tracker

    def shot(self, level=0.6, **options) -> tuple[PatchEstimate, np.ndarray, np.ndarray]:
        """A Gaussian patch anywhere, its peak at ``level`` of full scale."""
        centre, covariance = self.rng.uniform(-0.35, 0.35, 2), random_covariance(self.rng)
        peak = POWER_W / (2 * np.pi * np.sqrt(np.linalg.det(covariance)))
        exposure = level / (self.scene.sand * peak / self.scene.sunlit)
        reach = 6 * float(np.sqrt(np.linalg.eigvalsh(covariance)[-1]))
        field = ray.gaussian_patch(centre, covariance, POWER_W)
        return (
            self.fresh().track(self.frame(field, centre, exposure=exposure, reach=reach, **options), 0.0),
            centre,
            covariance,
        )

    def px(self, centre, truth) -> float:
        project = self.scene.cam.project
        return float(np.linalg.norm(project(np.array([*centre, 0.0])) - project(np.array([*truth, 0.0]))))


def axes_of(covariance: np.ndarray) -> np.ndarray:
    return 2 * np.sqrt(np.linalg.eigvalsh(covariance)[::-1])


@pytest.fixture(scope="module")
def benches() -> list[Bench]:
    bent = (-0.12, 0.05, 0.001, -0.001, 0.0)
    return [Bench.make(seed, SIZE, bent if seed % 2 else (0.0,) * 5) for seed in range(3)]


@pytest.fixture(autouse=True)
def same_numbers_in_any_order(benches: list[Bench], request: pytest.FixtureRequest) -> None:
    """Each test draws its own random numbers, whichever tests ran before it."""
    for number, bench in enumerate(benches):
        bench.rng = np.random.default_rng(zlib.crc32(request.node.name.encode()) + number)


def test_unsaturated_patches_are_found_to_a_tenth_of_a_pixel(benches: list[Bench]) -> None:
    px, sigmas, axes, angles = [], [], [], []
    for bench in benches:
        for _ in range(8):
            estimate, centre, covariance = bench.shot(level=bench.rng.uniform(0.3, 0.8))
            assert estimate.status in ("ok", "ambiguous"), bench.tracker.last_details.reason
            d = estimate.centre_world_m - centre
            px.append(bench.px(estimate.centre_world_m, centre))
            sigmas.append(np.sqrt(d @ np.linalg.solve(estimate.covariance_m2, d)))
            true_axes = axes_of(covariance)
            axes.append(np.abs(estimate.semi_axes_m / true_axes - 1))
            if true_axes[0] > 1.2 * true_axes[1]:
                large = np.linalg.eigh(covariance)[1][:, 1]
                angles.append(
                    np.degrees(np.arccos(min(1, abs(large @ [np.cos(estimate.angle_rad), np.sin(estimate.angle_rad)]))))
                )
    assert np.median(px) <= 0.10
    assert np.percentile(px, 95) <= 0.35
    assert np.mean(np.array(sigmas) < 2) >= 0.90
    assert np.median(sigmas) > 0.15, "the uncertainty is exaggerated"
    assert np.median(axes) < 0.05
    assert np.median(angles) < 5


def test_saturated_patches_are_found_and_say_so(benches: list[Bench]) -> None:
    px, axes, inside, lost = [], [], [], 0
    for bench in benches:
        for factor in (3.0, 10.0, 30.0, 300.0) * 2:
            estimate, centre, covariance = bench.shot(level=factor)
            if estimate.centre_world_m is None:  # as small as the sun's image and long along the line of sight
                assert np.linalg.eigvalsh(covariance)[0] < 0.0075**2, bench.tracker.last_details.reason
                lost += 1
                continue
            assert estimate.status in ("saturated", "occluded", "ambiguous"), bench.tracker.last_details.reason
            d = estimate.centre_world_m - centre
            px.append(bench.px(estimate.centre_world_m, centre))
            inside.append(np.sqrt(d @ np.linalg.solve(estimate.covariance_m2, d)) < 2)
            axes.append(np.abs(estimate.semi_axes_m / axes_of(covariance) - 1))
    assert lost <= 2
    assert np.median(px) <= 0.20
    assert np.percentile(px, 95) <= 0.70
    assert np.mean(inside) >= 0.9
    assert np.median(axes) < 0.15


def test_covariance_grows_with_saturation_and_hiding(benches: list[Bench]) -> None:
    bench = benches[0]
    areas = [
        np.mean([np.sqrt(np.linalg.det(bench.shot(level=x)[0].covariance_m2)) for _ in range(4)]) for x in (0.6, 30.0)
    ]
    assert areas[1] > 1.5 * areas[0]


def test_uniform_ellipse_has_its_own_semi_axes(benches: list[Bench]) -> None:
    bench, centre, axes, angle = benches[1], np.array([0.1, -0.2]), np.array([0.06, 0.035]), 0.7
    field = ray.uniform_patch(centre, axes, angle, POWER_W)
    exposure = 0.6 / (bench.scene.sand * POWER_W / (np.pi * axes[0] * axes[1]) / bench.scene.sunlit)
    estimate = bench.fresh().track(bench.frame(field, centre, exposure=exposure), 0.0)
    assert estimate.semi_axes_m == pytest.approx(axes, rel=0.05)
    assert estimate.angle_rad == pytest.approx(angle, abs=0.1)
    assert np.linalg.norm(estimate.centre_world_m - centre) < 0.002


def test_a_patch_half_hidden_is_called_occluded_and_completed(benches: list[Bench]) -> None:
    errors, statuses = [], []
    for bench in benches:
        for angle in (0.3, 2.0, 4.0):
            centre, covariance = bench.rng.uniform(-0.3, 0.3, 2), np.diag([0.015, 0.012]) ** 2
            at = bench.scene.cam.project(np.array([*centre, 0.0]))
            n = np.array([np.cos(angle), np.sin(angle)])
            peak = POWER_W / (2 * np.pi * np.sqrt(np.linalg.det(covariance)))
            exposure = 0.6 / (bench.scene.sand * peak / bench.scene.sunlit)
            field = ray.gaussian_patch(centre, covariance, POWER_W)
            image = bench.frame(
                field, centre, exposure=exposure, hide=lambda u, v, a=at, n=n: (u - a[0]) * n[0] + (v - a[1]) * n[1] > 0
            )
            estimate = bench.fresh().track(image, 0.0)
            assert estimate.centre_world_m is not None, bench.tracker.last_details.reason
            statuses.append(estimate.status)
            errors.append(np.linalg.norm(estimate.centre_world_m - centre))
    assert statuses.count("occluded") >= 0.7 * len(statuses)
    assert np.median(errors) < 0.008


@pytest.mark.parametrize("exposure", [0.003, 0.05, 0.4, 0.8, 1.5])
def test_scenes_without_a_patch_are_lost(benches: list[Bench], exposure: float) -> None:
    for bench in benches:
        estimate = bench.fresh().track(bench.frame(None, (0, 0), exposure=exposure), 0.0)
        assert estimate.status == "lost"
        assert estimate.centre_world_m is None
        assert estimate.covariance_m2 is None
        assert estimate.semi_axes_m is None


@pytest.mark.parametrize("peak", [0.5, 2.0, 10.0])
def test_glints_are_no_patch(benches: list[Bench], peak: float) -> None:
    for bench in benches:
        points = bench.scene.cam.project(np.column_stack([bench.rng.uniform(-0.4, 0.4, (4, 2)), np.zeros(4)]))
        glints = tuple((u, v, peak, 0.5) for u, v in points)
        for exposure in (0.05, 0.5):
            estimate = bench.fresh().track(bench.frame(None, (0, 0), exposure=exposure, glints=glints), 0.0)
            assert estimate.status == "lost", bench.tracker.last_details


def test_uniform_brightness_is_no_patch(benches: list[Bench]) -> None:
    tracker = benches[0].fresh()
    for code in (0, 30, 128, 200, 255):
        assert tracker.track(np.full((SIZE[1], SIZE[0], 3), code, np.uint8), 0.0).status == "lost"
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    assert tracker.track(noise, 0.1).status == "lost"


def test_grey_colour_and_16_bit_images_agree(benches: list[Bench]) -> None:
    bench, centre, covariance = benches[2], np.array([0.05, 0.1]), np.diag([0.012, 0.01]) ** 2
    peak = POWER_W / (2 * np.pi * np.sqrt(np.linalg.det(covariance)))
    exposure = 0.6 / (bench.scene.sand * peak / bench.scene.sunlit)
    grey = bench.frame(ray.gaussian_patch(centre, covariance, POWER_W), centre, exposure=exposure)
    images = [grey, np.dstack([grey] * 3), grey.astype(np.uint16) * 257, np.dstack([grey] * 4)]
    results = [bench.fresh().track(image, 0.0) for image in images]
    for estimate in results:
        assert estimate.status == "ok"
        assert estimate.centre_world_m == pytest.approx(results[0].centre_world_m, abs=2e-4)
        assert np.linalg.norm(estimate.centre_world_m - centre) < 0.001


def test_linear_response_is_an_option(benches: list[Bench]) -> None:
    bench, centre, covariance = benches[0], np.array([-0.1, 0.1]), np.diag([0.02, 0.01]) ** 2
    tracker = PatchTracker(bench.machine, bench.tracker.calibration, TrackerOptions(response="linear", relief_m=0.0))
    tracker.set_reference(ray.render(bench.scene, bench.base, None, exposure=0.8, rng=bench.rng, response="linear"))
    peak = POWER_W / (2 * np.pi * np.sqrt(np.linalg.det(covariance)))
    exposure = 0.6 / (bench.scene.sand * peak / bench.scene.sunlit)
    image = bench.frame(ray.gaussian_patch(centre, covariance, POWER_W), centre, exposure=exposure, response="linear")
    estimate = tracker.track(image, 0.0)
    assert np.linalg.norm(estimate.centre_world_m - centre) < 0.001
    assert estimate.semi_axes_m == pytest.approx(axes_of(covariance), rel=0.08)


@pytest.mark.parametrize("size", [(640, 480), (1280, 720), (1920, 1080)])
def test_all_usual_image_sizes(size: tuple[int, int]) -> None:
    bench = Bench.make(7, size)
    for _ in range(2):
        estimate, centre, _ = bench.shot()
        assert estimate.centre_world_m is not None, bench.tracker.last_details.reason
        assert bench.px(estimate.centre_world_m, centre) < 0.4


def test_without_calibration_the_markers_alone_will_do() -> None:
    bench = Bench.make(8, calibrated=False)
    estimate, centre, _ = bench.shot()
    assert bench.px(estimate.centre_world_m, centre) < 0.5


def test_no_markers_is_a_status_and_not_an_error() -> None:
    tracker = PatchTracker(load_machine())
    estimate = tracker.track(np.full((480, 640, 3), 90, np.uint8), 0.0)
    assert estimate.status == "no_markers"
    assert estimate.centre_world_m is None
    assert "DICT_4X4_50" in tracker.last_details.reason


def test_another_image_size_than_the_reference_is_lost_and_says_why(benches: list[Bench]) -> None:
    tracker = benches[0].fresh()
    assert tracker.track(np.zeros((480, 640, 3), np.uint8), 0.0).status == "lost"
    assert "640 x 480" in tracker.last_details.reason


def test_a_nudge_is_noticed_in_a_picture_exposed_for_the_patch(benches: list[Bench]) -> None:
    """Sand at a hundredth of full scale: the markers are still found where they were."""
    bench = benches[0]
    tracker = bench.fresh()
    image = bench.frame(None, (0, 0), exposure=0.03)
    tracker.track(image, 0.0)
    assert tracker.moved_px < 1.0
    tracker.track(np.roll(image, 4, axis=1), 1.0)
    assert tracker.moved_px > 2.5
    assert "camera has moved" in tracker.last_details.reason


def test_sharp_things_are_no_patch_however_many(benches: list[Bench]) -> None:
    bench = benches[1]
    points = bench.scene.cam.project(np.column_stack([bench.rng.uniform(-0.1, 0.1, (25, 2)), np.zeros(25)]))
    glints = tuple((u, v, bench.rng.uniform(0.2, 30.0), 0.6) for u, v in points)
    estimate = bench.fresh().track(bench.frame(None, (0, 0), exposure=0.01, glints=glints), 0.0)
    assert estimate.status == "lost", bench.tracker.last_details


def test_a_sparkle_on_the_patch_does_not_move_it(benches: list[Bench]) -> None:
    bench, centre, covariance = benches[2], np.array([0.05, 0.1]), np.diag([0.05, 0.045]) ** 2
    peak = POWER_W / (2 * np.pi * np.sqrt(np.linalg.det(covariance)))
    exposure = 0.5 / (bench.scene.sand * peak / bench.scene.sunlit)
    u, v = bench.scene.cam.project(np.array([centre[0] + 0.06, centre[1] + 0.03, 0.0]))
    field = ray.gaussian_patch(centre, covariance, POWER_W)
    image = bench.frame(field, centre, exposure=exposure, reach=0.3, glints=((u, v, 8.0, 0.6),))
    estimate = bench.fresh().track(image, 0.0)
    assert estimate.status == "ok", bench.tracker.last_details
    assert np.linalg.norm(estimate.centre_world_m - centre) < 0.0025


class Film:
    """A patch that walks along x at 30 frames/s."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.covariance = bench, np.diag([0.012, 0.010]) ** 2
        peak = POWER_W / (2 * np.pi * np.sqrt(np.linalg.det(self.covariance)))
        self.exposure = 0.6 / (bench.scene.sand * peak / bench.scene.sunlit)
        self.tracker = bench.fresh()

    def at(self, t: float) -> np.ndarray:
        return np.array([-0.1 + 0.05 * t, 0.05])

    def step(self, n: int, patch=True, **options) -> PatchEstimate:
        centre = self.at(n / 30)
        field = ray.gaussian_patch(centre, self.covariance, POWER_W) if patch else None
        return self.tracker.track(
            self.bench.frame(field, centre, exposure=self.exposure, reach=0.06, **options), n / 30, n
        )


def test_the_track_is_back_at_once_after_a_second_of_nothing(benches: list[Bench]) -> None:
    film = Film(benches[2])
    assert all(film.step(n).status == "ok" for n in range(6))
    for n in (6, 12, 20, 35):
        assert film.step(n, patch=False).status == "lost"
    estimate = film.step(36)
    assert estimate.status == "ok"
    assert np.linalg.norm(estimate.centre_world_m - film.at(36 / 30)) < 0.001


def test_a_brighter_glint_does_not_take_the_track_over(benches: list[Bench]) -> None:
    film = Film(benches[0])
    for n in range(5):
        film.step(n)
    u, v = film.bench.scene.cam.project(np.array([0.25, -0.2, 0.0]))
    for n in range(5, 15):
        patch = n < 10
        estimate = film.step(n, patch=patch, glints=((u, v, 60.0, 2.0),))
        if patch:
            assert np.linalg.norm(estimate.centre_world_m - film.at(n / 30)) < 0.002
        else:
            assert estimate.centre_world_m is None, "the glint was taken for the patch"


def test_a_patch_that_was_moved_elsewhere_is_found_again(benches: list[Bench]) -> None:
    film = Film(benches[0])
    for n in range(5):
        film.step(n)
    film.at = lambda t: np.array([0.3, -0.3])
    found = [film.step(n).centre_world_m is not None for n in range(5, 20)]
    assert not found[0]
    assert found[-1]


def test_a_nudged_camera_is_noticed(benches: list[Bench]) -> None:
    bench = benches[0]
    tracker = bench.fresh()
    image = bench.frame(None, (0, 0), exposure=0.8)
    for n in range(3):
        tracker.track(image, n * 1.0)
    assert tracker.moved_px < 0.5
    for pixels, low, high in ((4, 3.5, 4.5), (40, 35, 45)):
        tracker.track(np.roll(image, pixels, axis=1), 10.0 + pixels)
        assert low < tracker.moved_px < high
        assert "camera has moved" in tracker.last_details.reason
