"""Clearances against brute force: points everywhere on both things, and the least distance between any two."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree

from melter.geometry.clearance import NEAR_M, clearances_m, frame_bars_world_m, sheet_distance_m
from melter.geometry.pose import rotation_facing, rotation_from_vector, sun_direction_world, work_centre_world_m
from melter.geometry.shape import MachineShape
from melter.machine import load_machine

CORNER8, VITRIFIER = (MachineShape.from_machine(load_machine(name)) for name in ("corner8", "vitrifier"))


def line(p: np.ndarray, q: np.ndarray, n: int = 400) -> np.ndarray:
    return p + np.linspace(0, 1, n)[:, None] * (q - p)


def least(a: np.ndarray, b: np.ndarray) -> float:
    return float(cKDTree(b).query(a)[0].min())


def at_work(shape: MachineShape, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sun = sun_direction_world(rng.uniform(0, 0.6), rng.uniform(0, 2 * np.pi))
    spot = rng.uniform(-0.5, 0.5, 2) * shape.bed_size_m
    return work_centre_world_m(spot, sun, shape.focal_length_m), rotation_facing(sun), sun


def cables(shape: MachineShape, centre: np.ndarray, rotation: np.ndarray, untied_m: float = 0.0) -> list[np.ndarray]:
    """400 points along each cable from its pulley, without its last stretch at the lens."""
    found = []
    for pulley, tied in zip(shape.pulleys_world_m, shape.attachments_lens_m, strict=True):
        end = centre + rotation @ tied
        end = end + untied_m * (pulley - end) / np.linalg.norm(pulley - end)
        found.append(line(pulley, end))
    return found


def sheet(shape: MachineShape, n: int = 61) -> np.ndarray:
    u = np.linspace(-0.5, 0.5, n)
    x, y = np.meshgrid(u * shape.short_edge_m, u * shape.long_edge_m)
    return np.stack([x.ravel(), y.ravel(), np.zeros(n * n)], axis=1)


@pytest.mark.parametrize("shape", [CORNER8, VITRIFIER], ids=["corner8", "vitrifier"])
@pytest.mark.parametrize("seed", range(4))
def test_cable_to_lens_and_frame(shape: MachineShape, seed: int) -> None:
    centre, rotation, sun = at_work(shape, np.random.default_rng(seed))
    found = clearances_m(shape, centre, rotation, sun)
    world = centre + sheet(shape) @ rotation.T
    free = cables(shape, centre, rotation, NEAR_M)
    assert found["cable-lens"] == pytest.approx(min(least(c, world) for c in free), abs=0.012)
    bars = [line(*bar) for bar in frame_bars_world_m(shape)]
    assert len(bars) == 2 * len(shape.poles_world_m)
    coarse = centre + sheet(shape, 31) @ rotation.T
    assert found["lens-frame"] == pytest.approx(min(least(coarse, bar) for bar in bars), abs=0.03)
    far = np.inf
    for cable in cables(shape, centre, rotation):
        for bar in bars:
            if np.hypot(*(bar - cable[0])[:, :2].T).min() > 0.2:
                far = min(far, least(cable, bar))
    assert found["cable-frame"] <= far + 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_cable_to_light(seed: int) -> None:
    """Distance to the four planes of the pyramid by way of points on them; inside, by whether the lens is seen."""
    rng = np.random.default_rng(seed)
    for shape in (
        CORNER8,
        VITRIFIER,
        replace(CORNER8, attachments_lens_m=CORNER8.attachments_lens_m * [1.05, 1.05, 1]),
    ):
        centre, rotation, sun = at_work(shape, rng)
        found = float(clearances_m(shape, centre, rotation, sun)["cable-light"])
        focus = centre - shape.focal_length_m * sun
        corners = centre + np.array([(i, j, 0) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]) * [
            shape.short_edge_m / 2, shape.long_edge_m / 2, 0.0,
        ] @ rotation.T  # fmt: skip
        sides = [line(line(a, b, 2)[0], b, 60) for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)]
        surface = np.concatenate([(focus + s * (side - focus)) for side in sides for s in np.linspace(0, 1, 60)])
        inside_m, outside_m = 0.0, np.inf
        for cable in cables(shape, centre, rotation, NEAR_M):
            cable = cable[cable[:, 2] > 0]
            lens = (cable - centre) @ rotation
            below = lens[:, 2] < 0
            if not below.any():
                continue
            lens, cable = lens[below], cable[below]
            reach = np.abs(lens[:, :2]) / (1 + lens[:, 2:] / shape.focal_length_m)
            lit = (reach < [shape.short_edge_m / 2, shape.long_edge_m / 2]).all(axis=1) & (
                lens[:, 2] > -shape.focal_length_m
            )
            if lit.any():
                inside_m = max(inside_m, float(cKDTree(surface).query(cable[lit])[0].max()))
            outside_m = min(outside_m, least(cable, surface))
        if inside_m > 0.03:
            assert found == pytest.approx(-inside_m, abs=0.02)
        elif found > 0.03:
            assert found <= outside_m * 1.05 + 0.02
            assert found >= 0.75 * outside_m - 0.02
        else:
            assert inside_m < 0.05


def test_what_goes_through_the_sheet_is_at_zero() -> None:
    up, down = np.array([0.1, -0.2, 0.5]), np.array([0.15, -0.1, -0.5])
    assert sheet_distance_m(CORNER8, up, down) == 0
    assert sheet_distance_m(CORNER8, up, up + np.array([0, 0, 1])) == pytest.approx(0.5)
    beside = np.array([0.7, 0, 0.0])
    assert sheet_distance_m(CORNER8, beside + np.array([0, 0, 1]), beside - np.array([0, 0, 1])) == pytest.approx(0.175)


def test_segments_to_sheet_against_points() -> None:
    rng = np.random.default_rng(3)
    points = sheet(CORNER8)
    for p, q in rng.uniform(-1.2, 1.2, (40, 2, 3)):
        found = float(sheet_distance_m(CORNER8, p, q))
        brute = least(line(p, q, 300), points)
        assert found <= brute + 1e-12
        assert found >= brute - 0.025


def test_a_pole_through_the_lens_is_a_crossing_not_a_distance() -> None:
    """A lens whose middle stands on a pole: all its edges are far from it."""
    centre = np.array([*VITRIFIER.poles_world_m[0], 1.0])
    found = clearances_m(VITRIFIER, centre, np.eye(3), np.array([0.0, 0, 1]))
    assert found["lens-frame"] == 0


def test_the_frame_has_a_ring_in_order_around_whatever_the_order_in_the_file() -> None:
    shuffled = replace(CORNER8, poles_world_m=CORNER8.poles_world_m[[0, 2, 1, 3]])
    lengths = [float(np.linalg.norm(a - b)) for a, b in frame_bars_world_m(shuffled)]
    assert sorted(lengths) == pytest.approx([2.0] * 4 + [3.5] * 4)


def test_batches_give_what_single_poses_give() -> None:
    rng = np.random.default_rng(0)
    poses = [at_work(CORNER8, rng) for _ in range(5)]
    batch = clearances_m(CORNER8, *(np.stack(part) for part in zip(*poses, strict=True)))
    for i, pose in enumerate(poses):
        for name, value in clearances_m(CORNER8, *pose).items():
            assert batch[name][i] == pytest.approx(float(value), abs=1e-12)


def test_a_tilted_lens_near_a_pole() -> None:
    """Turned about z until a corner comes near: the corner's distance."""
    turn = rotation_from_vector([0, 0, 0.9273])
    found = clearances_m(CORNER8, np.array([1.0, 1.0, 1.0]), turn, np.array([0.0, 0, 1]))
    corner = np.array([1, 1]) + (turn @ np.array([0.525, -0.70, 0]))[:2]
    assert found["lens-frame"] <= np.hypot(*(np.array([1.75, 1.75]) - corner)) + 1e-9
