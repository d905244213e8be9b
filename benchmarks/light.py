"""How far the light models agree with each other and with the machine's known figures, and what they cost.

Usage: python benchmarks/light.py [table|fast|speed] ...   (all three without arguments: about 3 minutes on one core)
"""

import sys
import time

import numpy as np

from melter.geometry.light import LensOptics, fast_patch, peak_irradiance_w_m2, semi_axes_and_angle
from melter.geometry.pose import rotation_about_world_xy, rotation_facing, sun_direction_world, work_centre_world_m
from melter.geometry.trace import trace_patch
from melter.machine import load_machine

MACHINE = load_machine()
DEFOCUS_MW_M2 = {-20: 2.05, 0: 3.1, 20: 2.7, 50: 1.1, 100: 0.16}
TILT_MW_M2 = {5: (2.7, 1.21), 10: (1.8, 1.18), 20: (0.76, 1.11), 30: (0.33, 1.03)}
"""Peak at best focus, and where that lies (metres along the sun's ray), by tilt in degrees."""


def table() -> None:
    """The trace's peak against defocus and tilt, over the known figures (900 W/m2, 6 mrad, 400 000 rays)."""
    lens, sun = LensOptics.from_machine(MACHINE), np.array([0.0, 0.0, 1.0])

    def peak(reach_m: float, rotation: np.ndarray) -> float:
        return trace_patch(lens, [0, 0, reach_m], rotation, sun, rays=400_000).peak_w_m2 / 1e6

    print("defocus mm   known   trace  ratio")
    for defocus, known in DEFOCUS_MW_M2.items():
        found = peak(1.22 - defocus * 1e-3, np.eye(3))
        print(f"{defocus:10d} {known:7.2f} {found:7.3f} {found / known:6.2f}")
    print("tilt deg   known  about short  between  about long   mean   ratios          best focus m (known)")
    for tilt, (known, best) in TILT_MW_M2.items():
        found, where = [], []
        for turn in np.radians([0, 45, 90]):
            rotation = rotation_about_world_xy(np.radians(tilt) * np.cos(turn), np.radians(tilt) * np.sin(turn))
            over = {reach: peak(reach, rotation) for reach in best + np.arange(-0.03, 0.031, 0.01)}
            where.append(max(over, key=over.__getitem__))
            found.append(over[where[-1]])
        mean = (found[0] + 2 * found[1] + found[2]) / 4
        ratios = " ".join(f"{value / known:.2f}" for value in (*found, mean))
        row = f"{tilt:8d} {known:7.2f} {found[0]:12.3f} {found[1]:8.3f} {found[2]:11.3f} {mean:6.3f}   {ratios}"
        print(f"{row} {where[0]:.2f} {where[1]:.2f} {where[2]:.2f} ({best})")


def fast(poses: int = 120) -> None:
    """The fast model against the trace: random lenses over the whole range of the machine page."""
    rng = np.random.default_rng(1)
    print("tilt deg  zenith deg  defocus mm  poses | centroid mm max p95 | axes % large small | peak ratio 5 %..95 %")
    bins = [((0, 5), (0, 40), 150), ((5, 10), (0, 40), 150), ((10, 20), (0, 40), 150), ((20, 30), (0, 40), 150)]
    for tilts, zeniths, defocus in [*bins, ((0, 5), (40, 55), 150), ((0, 5), (0, 40), 400)]:
        rows = np.array([_compare(rng, tilts, zeniths, defocus) for _ in range(poses)])
        away, large, small, peak = rows.T
        low, high = np.quantile(peak, [0.05, 0.95])
        where = f"{tilts[0]:4d}-{tilts[1]:2d}  {zeniths[0]:8d}-{zeniths[1]:2d}  {defocus:9d}  {poses:5d}"
        centroid = f"{away.max() * 1e3:15.2f} {np.quantile(away, 0.95) * 1e3:.2f}"
        print(f"{where} | {centroid} | {np.abs(large).max():9.1%} {np.abs(small).max():.1%} | {low:.2f}..{high:.2f}")


def _compare(
    rng: np.random.Generator, tilts: tuple[int, int], zeniths: tuple[int, int], defocus_mm: int
) -> tuple[float, float, float, float]:
    """Distance of the centroids, both axes' relative errors, and the ratio of the peaks, for one random pose."""
    focal = 1.22 * rng.uniform(0.98, 1.02)
    lens = LensOptics.from_machine(
        MACHINE,
        focal_length_m=focal,
        facet_error_rad=rng.uniform(4e-3, 9e-3),
        circumsolar_ratio=rng.uniform(0.01, 0.2),
    )
    height, away = rng.uniform(-0.01, 0.01), rng.uniform(-min(defocus_mm, 150), defocus_mm) * 1e-3
    sun = sun_direction_world(np.radians(rng.uniform(*zeniths)), rng.uniform(0, 2 * np.pi))
    tilt, turn = np.radians(rng.uniform(*tilts)), rng.uniform(0, 2 * np.pi)
    rotation = rotation_about_world_xy(tilt * np.cos(turn), tilt * np.sin(turn)) @ rotation_facing(sun)
    pulled = focal * np.cos(tilt) ** 1.3
    pose = work_centre_world_m((0.1, -0.2), sun, pulled - away, height), rotation, sun, height
    quick, traced = fast_patch(lens, *pose), trace_patch(lens, *pose, rays=100_000)
    axes = semi_axes_and_angle(*quick.covariance)[0] / traced.semi_axes_and_angle[0] - 1
    peak = float(peak_irradiance_w_m2(lens, quick, 900.0)) / traced.peak_w_m2
    return float(np.hypot(*(quick.centre_world_m - traced.centre_world_m))), float(axes[0]), float(axes[1]), peak


def speed(count: int = 256) -> None:
    """Processor time of one batch: the least of 20 rounds."""
    rng = np.random.default_rng(0)
    sun = sun_direction_world(rng.uniform(0, 0.4, count), rng.uniform(0, 6.28, count))
    rotation = rotation_about_world_xy(*rng.normal(0, 0.02, (2, count))) @ rotation_facing(sun)
    centre = work_centre_world_m(rng.uniform(-0.3, 0.3, (count, 2)), sun, 1.22 + rng.normal(0, 0.02, count))
    height, dni = rng.uniform(-0.01, 0.01, count), rng.uniform(500, 1000, count)
    values = {"focal_length_m": rng.normal(1.22, 0.01, count), "facet_error_rad": rng.uniform(4e-3, 9e-3, count)}
    lens = LensOptics.from_machine(MACHINE, **values)
    patch = fast_patch(lens, centre, rotation, sun, height)

    def new_lens() -> None:
        LensOptics.from_machine(MACHINE, **values).batch((count,))

    for name, call in {
        "fast_patch": lambda: fast_patch(lens, centre, rotation, sun, height),
        "semi_axes_and_angle": lambda: semi_axes_and_angle(*patch.covariance),
        "peak_irradiance_w_m2": lambda: peak_irradiance_w_m2(lens, patch, dni),
        "new optics": new_lens,
    }.items():
        rounds = []
        for _ in range(20):
            start = time.process_time()
            for _ in range(100):
                call()
            rounds.append((time.process_time() - start) / 100)
        print(f"{name:22s} {min(rounds) * 1e6:7.1f} us for {count} lenses")


def main() -> None:
    parts = {"table": table, "fast": fast, "speed": speed}
    for name in sys.argv[1:] or parts:
        parts[name]()


if __name__ == "__main__":
    main()
