"""The share of poses that hold, against a solver that shares no code, and four known geometries again.

Usage: python benchmarks/holding.py [MACHINES]   (about 25 s of one core for the default of 12)

First table: packaged and random plausible machines; `melter.geometry` against scipy's HiGHS, one linear program per pose
and wind, over poses, cables and forces worked out here anew. Second: four geometries at three tilts of the lens, in a
level wind of 5 m/s, with the lens at work facing the sun.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace

import numpy as np
from scipy.optimize import linprog

from melter.geometry.check import poses_hold, work_poses
from melter.geometry.shape import MachineShape
from melter.machine import load_machine


def balanced(tied, pulleys, centre, turn, force, moment, low, high) -> bool:
    """Whether tensions in [low, high] balance a force and a moment, by a linear program."""
    columns = []
    for a, p in zip(tied, pulleys, strict=True):
        arm = turn @ a
        pull = p - (centre + arm)
        pull = pull / math.sqrt(pull @ pull)
        columns.append([*pull, arm[1] * pull[2] - arm[2] * pull[1], arm[2] * pull[0] - arm[0] * pull[2],
                        arm[0] * pull[1] - arm[1] * pull[0]])  # fmt: skip
    wanted = [-f for f in (*force, *moment)]
    return linprog([0.0] * 8, A_eq=np.array(columns).T, b_eq=wanted, bounds=(low, high), method="highs").status == 0


def turn_towards(sun):
    """Rotation about the level axis across the sun (Rodrigues), by the zenith angle."""
    axis, angle = np.cross([0, 0, 1], sun), math.acos(min(1.0, sun[2]))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = axis / math.sqrt(axis @ axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * k + (1 - math.cos(angle)) * (k @ k)


def slow_share(shape: MachineShape, zenith_deg: float, points: int, azimuths: int) -> float:
    """The share of poses that hold, the slow way."""
    held = []
    for k in range(azimuths):
        zenith, azimuth = math.radians(zenith_deg), 2 * math.pi * k / azimuths
        sun = np.array([math.sin(zenith) * math.sin(azimuth), math.sin(zenith) * math.cos(azimuth), math.cos(zenith)])
        turn = turn_towards(sun)
        arm = turn @ shape.centre_of_mass_lens_m
        weight = np.array([0, 0, -9.80665 * shape.mass_kg])
        area = shape.short_edge_m * shape.long_edge_m
        winds = []
        for side in np.linspace(0, 2 * math.pi, 8, endpoint=False) - math.pi / 2 + azimuth:
            along = np.array([math.sin(side), math.cos(side), 0]) @ sun * shape.wind_m_s
            winds.append(0.5 * 1.2 * 1.2 * area * along * abs(along) * sun)
        extremes = [max(winds, key=lambda w: w @ sun), min(winds, key=lambda w: w @ sun)]
        for x in np.linspace(-0.5, 0.5, points) * shape.bed_size_m[0]:
            for y in np.linspace(-0.5, 0.5, points) * shape.bed_size_m[1]:
                centre = np.array([x, y, shape.sand_height_m]) + shape.focal_length_m * sun
                held.append(
                    all(
                        balanced(shape.attachments_lens_m, shape.pulleys_world_m, centre, turn, weight + wind,
                                 np.cross(arm, weight), shape.tension_min_n, shape.tension_max_n)
                        for wind in extremes
                    )
                )  # fmt: skip
    return float(np.mean(held))


def fast_share(shape: MachineShape, zenith_deg: float, points: int, azimuths: int) -> float:
    """The same by melter.geometry."""
    work = work_poses(shape, zenith_deg, points, azimuths)
    return float(poses_hold(shape, work.centre_world_m, work.rotation).mean())


def random_machine(rng: np.random.Generator) -> MachineShape:
    """A plausible machine: other frame, struts, lens, mass, centre of mass, band, wind."""
    half_x, half_y = rng.uniform(1.4, 2.2, 2)
    height, strut = rng.uniform(1.7, 2.6), rng.uniform(0.1, 0.45)
    short, long = rng.uniform(0.8, 1.1), rng.uniform(1.1, 1.45)
    pulleys, tied = [], []
    for i, j in ((1, 1), (-1, 1), (-1, -1), (1, -1)):
        for upper in (True, False):
            pulleys.append(np.array([i * half_x, j * half_y, height if upper else 0.0]) + rng.normal(0, 0.03, 3))
            tied.append([i * short / 2, j * long / 2, -strut if upper else strut])
    return replace(
        MachineShape.from_machine(load_machine()),
        pulleys_world_m=np.array(pulleys), attachments_lens_m=np.array(tied), frame_height_m=height,
        short_edge_m=short, long_edge_m=long, focal_length_m=rng.uniform(0.9, 1.3), mass_kg=rng.uniform(3, 9),
        centre_of_mass_lens_m=rng.uniform(-0.02, 0.02, 3), tension_min_n=rng.uniform(5, 25),
        tension_max_n=rng.uniform(150, 400), wind_m_s=rng.uniform(0, 8), sand_height_m=rng.uniform(-0.05, 0.05),
    )  # fmt: skip


def geometry(half_m: float, strut_m: float, high_n: float) -> MachineShape:
    """Corner poles 2 m tall around the nominal lens."""
    nominal = MachineShape.from_machine(load_machine())
    pulleys, tied = nominal.pulleys_world_m.copy(), nominal.attachments_lens_m.copy()
    pulleys[:, :2] *= half_m / 1.75
    tied[:, 2] *= strut_m / 0.30
    return replace(nominal, pulleys_world_m=pulleys, attachments_lens_m=tied, tension_max_n=high_n)


TABLE = {
    "3 x 3 x 2 m, flat attachments, 400 N": (geometry(1.5, 0.0, 400), (60, 0, 0)),
    "the same with 0.15 m struts": (geometry(1.5, 0.15, 400), (96, 78, 30)),
    "0.30 m struts, 300 N": (geometry(1.5, 0.30, 300), (100, 73, 46)),
    "0.30 m struts, 3.5 m base, 300 N": (geometry(1.75, 0.30, 300), (100, 100, 85)),
}
"""Geometry, and the shares known for it in per cent at 20, 30 and 40 degrees."""


def against_the_slow_way(count: int) -> float:
    """Print the comparison; return the largest difference."""
    rng = np.random.default_rng(0)
    machines = {name: MachineShape.from_machine(load_machine(name)) for name in ("corner8", "vitrifier")}
    machines |= {f"random {n}": random_machine(rng) for n in range(count)}
    worst = 0.0
    print(f"{'machine':12} {'zenith':>6} {'melter':>8} {'HiGHS':>8}")
    for name, shape in machines.items():
        for zenith in (15.0, 38.0):
            fast, slow = fast_share(shape, zenith, 4, 7), slow_share(shape, zenith, 4, 7)
            worst = max(worst, abs(fast - slow))
            print(f"{name:12} {zenith:6g} {fast:8.1%} {slow:8.1%}", flush=True)
    return worst


def main() -> None:
    start = time.process_time()
    worst = against_the_slow_way(int(sys.argv[1]) if len(sys.argv) > 1 else 12)
    print(f"largest difference: {worst * 100:.2f} percentage points\n")
    print(f"{'geometry, wind 5 m/s':38} {'20 deg':>14} {'30 deg':>14} {'40 deg':>14}   melter (known)")
    for name, (shape, known) in TABLE.items():
        got = [fast_share(shape, z, 9, 24) for z in (20.0, 30.0, 40.0)]
        print(f"{name:38} " + " ".join(f"{g:7.0%} ({k:3d} %)" for g, k in zip(got, known, strict=True)))
    print(f"\n{time.process_time() - start:.1f} s of processor time")


if __name__ == "__main__":
    main()
