"""Fit how far a saturated patch's irradiance centroid lies from its outlines, on ray traces of the machine's lens.

    python benchmarks/saturation.py [traces]

Prints the coefficients that ``melter/vision/outline.py`` holds and, on other traces than those fitted, the error that
remains, by how many times the peak is brighter than full scale. 1000 traces take some two minutes on one core.
"""

from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np

from melter.geometry.light import LensOptics
from melter.geometry.pose import rotation_about_world_xy, rotation_facing, sun_direction_world
from melter.geometry.trace import trace_patch
from melter.machine import Machine, load_machine

LEVELS = (1.0, 0.3, 0.1)
BANDS = ((1, 2), (2, 4), (4, 10), (10, 30), (30, 100), (100, 600))


def traced(machine: Machine, rng: np.random.Generator) -> tuple[np.ndarray, float, np.ndarray, np.ndarray, np.ndarray]:
    """Irradiance on a raster of the bed with blur and flare, cell size, x, y, and the true centre and moments."""
    sun = sun_direction_world(rng.uniform(0, np.radians(40)), rng.uniform(0, 2 * np.pi))
    defocus = rng.choice([rng.uniform(-0.06, 0.06), rng.uniform(-0.05, 0.2)])
    tilt = np.radians(rng.normal(0, 5, 2).clip(-12, 12))
    focal = machine.lens.focal_length_m
    optics = LensOptics.from_machine(
        machine,
        facet_error_rad=rng.uniform(4e-3, 9e-3),
        focal_length_m=focal * rng.uniform(0.98, 1.02),
        circumsolar_ratio=float(np.exp(rng.uniform(np.log(0.01), np.log(0.2)))),
    )
    rotation = rotation_about_world_xy(*tilt) @ rotation_facing(sun)
    patch = trace_patch(optics, sun * (focal - defocus), rotation, sun, rays=120_000, rng=rng)
    hits, centre = patch.hits_world_m, patch.centre_world_m
    half = float(np.quantile(np.abs(hits - centre).max(axis=1), 0.998)) * 1.1
    cell = max(0.0015, half / 100)
    n = int(2 * half / cell)
    edges = [c - half + np.arange(n + 1) * cell for c in centre]
    grid = np.histogram2d(hits[:, 1], hits[:, 0], bins=[edges[1], edges[0]], weights=patch.ray_power_w)[0]
    pad = int(0.06 / cell)
    light = cv2.GaussianBlur(np.pad(grid, pad).astype(np.float32), (0, 0), max(0.003 / cell, 0.8))
    flare = rng.choice([0.0, rng.uniform(0, 0.03)])
    near = cv2.GaussianBlur(light, (0, 0), 0.03 / cell)
    far = cv2.GaussianBlur(light, (0, 0), min(0.08 / cell, len(light) / 6))
    light = (1 - flare) * light + flare * (2 * near + far) / 3
    xx, xy, yy = patch.covariance_m2
    axes = [c - half + cell / 2 + (np.arange(len(light)) - pad) * cell for c in centre]
    return light, cell, np.stack(np.meshgrid(*axes)), centre, np.array([[xx, xy], [xy, yy]])


def region(over: np.ndarray, place: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """Cells, centre and moments of the largest connected region."""
    labels, stats = cv2.connectedComponentsWithStats(over.astype(np.uint8))[1:3]
    points = place[:, labels == 1 + np.argmax(stats[1:, 4])]
    centre = points.mean(axis=1)
    off = points - centre[:, None]
    return points.shape[1], centre, off @ off.T / points.shape[1]


def sample(machine: Machine, rng: np.random.Generator) -> list[dict[str, Any]]:
    light, _cell, place, centre, moments = traced(machine, rng)
    rows: list[dict[str, Any]] = []
    for level in np.exp(rng.uniform(np.log(1.2), np.log(600), 6)):
        scaled = light / light.max() * level
        found = [region(scaled > threshold, place) for threshold in LEVELS]
        areas, centres = [f[0] for f in found], [f[1] for f in found]
        size = float(np.sqrt(np.trace(found[1][2]) / 2))
        g1 = float(np.clip(np.log(areas[1] / areas[0]), 0.15, 1.8))
        g2 = float(np.clip(np.log(areas[2] / areas[1]), 0.12, 0.9))
        m = float(np.log(scaled.sum() / areas[0])) + 0.2 * rng.normal()
        rows.append(
            {
                "level": level,
                "size": size,
                "off": centre - centres[0],
                "steps": [centres[0] - centres[1], centres[1] - centres[2]],
                "plain": np.array([1, g1, g2, g1 * g1, g2 * g2, g1 * g2]),
                "lit": np.array([1, g1, g2, m, g1 * g1, g2 * g2, g1 * g2, m * g1, m * g2, m * m]),
                "grown": np.log(np.linalg.det(moments) / np.linalg.det(found[1][2])) / 4,
            }
        )
    return rows


def fit(rows: list[dict[str, Any]], terms: str) -> tuple[np.ndarray, np.ndarray]:
    """Least distances (not squares) for the centre, least squares for the size."""
    a = [np.concatenate([np.outer(step, row[terms]) for step in row["steps"]], axis=1) for row in rows]
    weight = [1 / (row["size"] + 2e-3) for row in rows]
    left = np.concatenate([m * w for m, w in zip(a, weight, strict=True)])
    right = np.concatenate([row["off"] * w for row, w in zip(rows, weight, strict=True)])
    again, c = np.ones(len(right)), np.zeros(left.shape[1])
    for _ in range(20):
        scaled = left * again[:, None]
        c = np.linalg.solve(scaled.T @ left + 3e-3 * np.eye(left.shape[1]), scaled.T @ right)
        rest = left @ c - right
        again = 1 / np.maximum(np.repeat(np.hypot(rest[::2], rest[1::2]), 2), 0.02)
    size = np.linalg.lstsq(np.array([row[terms] for row in rows]), np.array([row["grown"] for row in rows]), rcond=None)
    return c.reshape(2, -1), size[0]


def main(traces: int) -> None:
    machine, rng = load_machine(), np.random.default_rng(1)
    rows = [row for _ in range(traces) for row in sample(machine, rng)]
    half = len(rows) // 2
    for terms in ("plain", "lit"):
        centre, size = fit(rows[:half], terms)
        print(f"{terms}: centre {np.round(centre, 3).tolist()} size {np.round(size, 3).tolist()}")
        for low, high in BANDS:
            some = [row for row in rows[half:] if low < row["level"] <= high]
            rest = [
                np.linalg.norm(row["off"] - sum(f @ row[terms] * s for f, s in zip(centre, row["steps"], strict=True)))
                for row in some
            ]
            before = [np.linalg.norm(row["off"]) for row in some]
            growth = np.std([size @ row[terms] - row["grown"] for row in some])
            print(
                f"  {low:3d} to {high:3d} times full scale: centre off {1000 * np.median(rest):.1f} mm median, "
                f"{1000 * np.quantile(rest, 0.9):.0f} mm p90 (bright region: {1000 * np.median(before):.1f}, "
                f"{1000 * np.quantile(before, 0.9):.0f}); size {100 * growth:.0f} %"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
