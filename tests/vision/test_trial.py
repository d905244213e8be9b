"""The trial scenes: that they share nothing with the tracker, that their truth is true, and that the tracker passes."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import melter.vision.trial as trial
from melter.machine import load_machine
from melter.vision.trial.camera import Pinhole
from melter.vision.trial.light import lens_for, trace
from melter.vision.trial.scenes import EMPTY_KINDS, KINDS, Place, make_place
from melter.vision.trial.score import Shot, back_after_s, run_film, run_stills, summary
from melter.vision.trial.sensor import Sensor

FOLDER = Path(str(trial.__file__)).parent


@pytest.mark.parametrize("name", ["light", "camera", "stage", "sensor", "scenes"])
def test_scenes_share_no_code_with_the_tracker(name: str) -> None:
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    ours = {module for module in imported if module.startswith("melter")}
    assert all(m.startswith("melter.vision.trial") or m == "melter.machine" for m in ours), ours


def flat(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.zeros_like(x)


SHEET = {"focal_m": 1.22, "facet_error_rad": 6e-3, "transmission": 0.68}
SUN = np.array([0.0, -np.sin(0.4), np.cos(0.4)])


def test_light_in_focus_is_what_was_computed_for_this_lens() -> None:
    """Computed for this machine: some 900 W, half of it within 8.3 mm, 3 MW/m² at the peak."""
    up = np.array([0.0, 0.0, 1.0])
    lens = lens_for(np.zeros(2), up, np.zeros(2), 0.0, size_m=(1.05, 1.40), **SHEET)
    patch = trace(lens, up, 900.0, 0.03, flat, np.random.default_rng(0), 200_000)
    assert patch.power_w == pytest.approx(900 * 1.05 * 1.40 * 0.68, rel=0.02)
    assert np.linalg.norm(patch.centre_m) < 3e-4
    x = patch.low_m[0] + np.arange(patch.grid_w_m2.shape[0]) * patch.cell_m
    near = np.hypot(*np.meshgrid(x, x)) < 0.0083
    assert 0.4 < float(patch.grid_w_m2[near].sum()) * patch.cell_m**2 / patch.power_w < 0.65
    assert 2e6 < patch.peak_w_m2 < 4.5e6


def test_patch_lies_where_the_sun_ray_through_the_lens_ends_and_grows_with_defocus() -> None:
    sizes = []
    for defocus in (0.0, 0.1, 0.2):
        lens = lens_for(np.array([0.1, -0.2]), SUN, np.zeros(2), defocus, size_m=(1.05, 1.40), **SHEET)
        patch = trace(lens, SUN, 900.0, 0.03, flat, np.random.default_rng(1))
        assert np.linalg.norm(patch.centre_m - (0.1, -0.2)) < 0.03
        sizes.append(float(np.sqrt(np.trace(patch.moments_m2))))
    assert sizes[0] < sizes[1] < sizes[2]


def test_higher_sand_catches_the_light_earlier() -> None:
    lens = lens_for(np.zeros(2), SUN, np.zeros(2), 0.0, size_m=(1.05, 1.40), **SHEET)
    low, high = (
        trace(lens, SUN, 900.0, 0.03, lambda x, y, h=h: np.full_like(x, h), np.random.default_rng(2)).centre_m
        for h in (0.0, 0.01)
    )
    assert high - low == pytest.approx(0.01 * SUN[:2] / SUN[2], abs=1e-3)  # the cone's near side counts more


def test_camera_goes_there_and_back() -> None:
    camera = Pinhole(
        position_m=(0.5, 2.5, 1.8),
        target_m=(0.0, 0.1, 0.0),
        roll_rad=0.03,
        width_px=1280,
        height_px=720,
        focal_px=900.0,
        shift_px=(5.0, -3.0),
        bend=(-0.2, 0.04, 0.001, -0.001, 0.0),
    )
    points = np.array([[0.0, 0.0], [0.4, -0.3], [-0.8, 0.9]])
    px = camera.pixels(np.column_stack([points, np.zeros(3)]))
    x, y = camera.ground(px[:, 0], px[:, 1])
    assert np.stack([x, y], axis=1) == pytest.approx(points, abs=1e-6)


def test_sensor_clips_adds_noise_and_smears() -> None:
    rng, light = np.random.default_rng(0), np.zeros((60, 80, 3), dtype=np.float32)
    light[30, 40] = 50.0
    sensor = Sensor(jpeg=None, vignette=0.0)
    whole = sensor.spread(light)
    assert float(whole.sum()) == pytest.approx(150.0, rel=0.03)
    assert sensor.expose(whole, 1.0, rng).max() == 255
    assert sensor.expose(np.zeros_like(light), 1.0, rng).std() > 0
    smeared = sensor.spread(light, (6.0, 0.0))
    assert smeared.max() < 0.6 * whole.max()


@pytest.fixture(scope="module")
def places() -> list[Place]:
    return [make_place(load_machine(), seed) for seed in (1, 2)]


def test_the_tracker_passes_a_small_trial(places: list[Place]) -> None:
    shots: list[Shot] = []
    for place in places:
        shots += run_stills(place, ("clear", "saturated", "dim", *EMPTY_KINDS), 3, 3)
        shots += run_stills(place, ("hidden",), 6, 4)
    by = {kind: summary([shot for shot in shots if shot.kind == kind]) for kind in (*KINDS, *EMPTY_KINDS)}
    for kind in ("clear", "dim"):
        assert by[kind]["lost_share"] == 0
        assert by[kind]["centre_mm_p50"] < 2.5
        assert by[kind]["centre_mm_p95"] < 8
        assert by[kind]["axes_off_p50"] < 0.08
    assert by["saturated"]["lost_share"] <= 0.13
    assert by["saturated"]["centre_mm_p50"] < 6
    assert by["hidden"]["centre_mm_p50"] < 20
    empty = summary([shot for shot in shots if not shot.seen])
    assert empty["false_share"] <= 0.2
    inside = [shot.sigmas < 2 for shot in shots if shot.seen and shot.reported]
    assert np.mean(inside) > 0.75


def test_a_film_with_a_second_of_nothing_and_a_brighter_sparkle(places: list[Place]) -> None:
    reel = run_film(places[0], 5, 10.0)
    assert back_after_s(reel) <= 0.1
    hidden = [shot for shot in reel if not shot.seen]
    assert len(hidden) >= 8
    assert not any(shot.reported for shot in hidden)
    assert summary(reel)["stray_share"] == 0
