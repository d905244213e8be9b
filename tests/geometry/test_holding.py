import importlib.util
import tomllib
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from melter.geometry.cables import cable_lengths_m
from melter.geometry.check import PUSH, STRONG, assess, poses_hold, work_poses
from melter.geometry.clearance import clearances_m, segment_distance_m
from melter.geometry.holding import holds, structure_of, sun_is_held, tensions_nearest_n, violation, wrenches_n
from melter.geometry.improve import smallest_improvement
from melter.geometry.pose import rotation_facing, rotation_from_vector, sun_direction_world
from melter.geometry.shape import MachineShape
from melter.geometry.stiffness import mass_matrix, modes_hz, spot_per_cable, stiffness_matrix
from melter.machine import _models_folder, load_machine, machine_from_table

CORNER8, VITRIFIER = (MachineShape.from_machine(load_machine(name)) for name in ("corner8", "vitrifier"))


@cache
def _report(name: str):
    return assess({"corner8": CORNER8, "vitrifier": VITRIFIER}[name])


def _linear_program(structure, wrench, low, high):
    answer = linprog(np.zeros(8), A_eq=structure, b_eq=-wrench, bounds=[(low, high)] * 8, method="highs")
    return answer.status == 0


def _random_poses(shape, n, seed):
    rng = np.random.default_rng(seed)
    rotation = rotation_from_vector(rng.normal(0, 0.35, (n, 3)))
    centre = rng.uniform([-0.9, -0.9, 0.6], [0.9, 0.9, 1.5], (n, 3))
    return structure_of(shape, centre, rotation), wrenches_n(shape, rotation, 5.0)[0]


@pytest.mark.parametrize("shape", [CORNER8, VITRIFIER], ids=["corner8", "vitrifier"])
def test_polygon_answers_as_an_independent_linear_program(shape) -> None:
    structure, wrench = _random_poses(shape, 300, 4)
    fast = holds(structure, wrench, 15, 300)
    slow = [_linear_program(w, f, 15, 300) for w, f in zip(structure, wrench, strict=True)]
    np.testing.assert_array_equal(fast, slow)
    assert shape is VITRIFIER or 20 < fast.sum() < 280


def test_share_over_the_bed_agrees_with_an_independent_linear_program() -> None:
    work = work_poses(CORNER8, 40, bed_points=4, azimuths=6)
    fast = poses_hold(CORNER8, work.centre_world_m, work.rotation)
    structure = structure_of(CORNER8, work.centre_world_m, work.rotation).reshape(-1, 6, 8)
    winds = wrenches_n(CORNER8, work.rotation, CORNER8.wind_m_s).reshape(2, -1, 6)
    slow = [all(_linear_program(structure[i], winds[k, i], 15, 300) for k in range(2)) for i in range(len(structure))]
    assert fast.mean() == pytest.approx(np.mean(slow), abs=0.01)


def test_structure_that_lost_rank_is_decided_by_the_linear_program() -> None:
    """All cables in one plane: nothing holds a moment about that plane's axes unless none is needed."""
    structure, wrench = _random_poses(CORNER8, 1, 0)
    flat = structure.copy()
    flat[:, 5] = flat[:, 4]
    possible = -flat[0] @ np.full(8, 100.0)
    assert holds(flat, possible[None], 15, 300)[0]
    assert not holds(flat, wrench + np.array([0, 0, 0, 0, 5, -5]), 15, 300)[0]


def test_nearest_tensions_balance_stay_in_the_band_and_are_nearest() -> None:
    structure, wrench = _random_poses(CORNER8, 150, 9)
    tensions = tensions_nearest_n(structure, wrench, 15, 300, 80.0)
    feasible = holds(structure, wrench, 15, 300)
    np.testing.assert_array_equal(np.isfinite(tensions).all(axis=1), feasible)
    checked = 0
    for w, f, t in zip(structure[feasible], wrench[feasible], tensions[feasible], strict=True):
        np.testing.assert_allclose(w @ t, -f, atol=1e-4)
        assert t.min() >= 15
        assert t.max() <= 300
        if checked < 12:
            checked += 1
            best = minimize(
                lambda x: np.square(x - 80).sum(), t, jac=lambda x: 2 * (x - 80), bounds=[(15, 300)] * 8,
                constraints={"type": "eq", "fun": lambda x, w=w, f=f: w @ x + f, "jac": lambda x, w=w: w},
                method="SLSQP", options={"maxiter": 500, "ftol": 1e-12},
            )  # fmt: skip
            assert np.square(t - 80).sum() <= best.fun * (1 + 1e-6) + 1e-6
    assert checked == 12


def test_violation_is_the_widening_with_which_a_pose_just_holds() -> None:
    structure, wrench = _random_poses(VITRIFIER, 20, 2)
    for w, f in zip(structure, wrench, strict=True):
        wider, tensions = violation(w, f, 15, 300)
        np.testing.assert_allclose(w @ tensions, -f, atol=1e-6)
        assert _linear_program(w, f, 15 - wider - 1e-3, 300 + wider + 1e-3)
        assert not _linear_program(w, f, 15 - wider + 1e-3, 300 + wider - 1e-3)


def test_the_known_machines() -> None:
    good, bad = _report("corner8"), _report("vitrifier")
    assert good.holds
    assert all(share == 1 for zenith, share in good.by_zenith_deg.items() if zenith <= 25)
    assert good.by_zenith_deg[40.0] == pytest.approx(0.85, abs=0.06)
    assert good.way_share == 1
    assert good.min_clearance_m > 0.02
    assert good.feasible_share == 1
    assert not bad.holds
    assert bad.feasible_share < 0.05
    assert "a cable would have to push" in bad.limited_by
    assert bad.clearances_m["cable-light"] < 0
    level = np.eye(3)
    assert not poses_hold(VITRIFIER, np.array([0, 0, 1.2]), level)


def test_corner_poles_and_struts_are_found_for_the_first_draft() -> None:
    better = smallest_improvement(VITRIFIER, 25.0)
    assert better is not None
    assert better.enough
    assert "corners" in better.words
    assert "struts" in better.words
    report = assess(better.shape)
    assert report.holds
    assert better.share == report.feasible_share == 1


def test_a_change_that_is_said_to_be_enough_gives_a_machine_file_that_loads_and_holds() -> None:
    zenith_deg = 30.0
    better = smallest_improvement(CORNER8, zenith_deg)
    assert better is not None
    assert better.enough
    table = tomllib.loads((_models_folder() / "corner8.toml").read_text())
    for winch, pulley, tied in zip(
        table["winch"], better.shape.pulleys_world_m, better.shape.attachments_lens_m, strict=True
    ):
        winch |= {"pulley_world_m": pulley.tolist(), "attachment_lens_m": tied.tolist()}
    table["frame"] |= {"poles_world_m": better.shape.poles_world_m.tolist(), "height_m": better.shape.frame_height_m}
    table["limits"]["tension_max_n"] = better.shape.tension_max_n
    table["limits"]["tension_trip_n"] = max(400.0, better.shape.tension_max_n)
    table["sun"]["zenith_deg"] = zenith_deg
    shape = MachineShape.from_machine(machine_from_table(table))
    assert assess(shape).holds
    assert not assess(replace(CORNER8, sun_zenith_deg=zenith_deg)).holds


def test_shares_of_random_machines_agree_with_a_solver_that_shares_no_code() -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "holding.py"
    spec = importlib.util.spec_from_file_location("holding_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    rng, seen = np.random.default_rng(7), []
    for _ in range(4):
        shape = bench.random_machine(rng)
        fast, slow = bench.fast_share(shape, 36.0, 3, 5), bench.slow_share(shape, 36.0, 3, 5)
        assert abs(fast - slow) <= 0.01
        seen.append(fast)
    assert 0.05 < np.mean(seen) < 0.95


def test_margin_and_wind_are_where_the_machine_stops_holding() -> None:
    report = _report("corner8")
    work = [work_poses(CORNER8, zenith) for zenith in (0.0, 10.0, 20.0, 25.0)]
    centre = np.stack([one.centre_world_m for one in work])
    rotation = np.stack([one.rotation for one in work])

    def all_hold(shape: MachineShape) -> bool:
        return bool(poses_hold(shape, centre, rotation).all())

    for step, wanted in ((0.0, True), (1.2, False)):
        low, high = 15 + report.margin_n + step, 300 - report.margin_n - step
        assert all_hold(replace(CORNER8, tension_min_n=low, tension_max_n=high)) is wanted
    for step, wanted in ((0.0, True), (0.13, False)):
        assert all_hold(replace(CORNER8, wind_m_s=report.wind_max_m_s + step)) is wanted
    assert _report("vitrifier").margin_n == _report("vitrifier").wind_max_m_s == 0


def test_what_limits_where_on_the_bed() -> None:
    good, bad = _report("corner8"), _report("vitrifier")
    assert {word for row in good.bed_limit for word in row} == {""}
    assert {word for row in bad.bed_limit for word in row} == {PUSH}
    weak = assess(replace(CORNER8, tension_max_n=60.0))
    assert STRONG in {word for row in weak.bed_limit for word in row}
    for z, share in weak.by_zenith_deg.items():
        assert weak.bed_by_zenith_deg[z].mean() == pytest.approx(share)


def test_wind_from_any_side_is_a_mixture_of_the_extremes() -> None:
    rotation = rotation_facing(sun_direction_world(0.5, 1.0))
    extremes = wrenches_n(CORNER8, rotation, 5.0)
    push = extremes[0] - extremes[1]
    np.testing.assert_allclose(np.cross(push[:3], rotation[:, 2]), 0, atol=1e-12)
    # A plate across a 5 m/s wind carries about 25 N.
    upright = wrenches_n(CORNER8, rotation_from_vector([np.pi / 2, 0, 0]), 5.0)
    assert np.linalg.norm((upright[0] - upright[1])[:3]) / 2 == pytest.approx(25, rel=0.1)
    np.testing.assert_array_equal(*wrenches_n(CORNER8, np.eye(3), 5.0))


def test_modes_and_sensitivity_are_what_is_known() -> None:
    centre, level = np.array([0, 0, 1.22]), np.eye(3)
    assert 5 < modes_hz(CORNER8, centre, level)[0] < 10
    stiffness = stiffness_matrix(CORNER8, centre, level)
    np.testing.assert_allclose(stiffness, stiffness.T, rtol=1e-9, atol=1e-6)
    assert np.linalg.eigvalsh(stiffness).min() > 0
    assert np.linalg.eigvalsh(mass_matrix(CORNER8, level)).min() > 0
    moved = np.hypot(*spot_per_cable(CORNER8, centre, level, [0.0, 0, 1]))
    assert 0.1 < moved.max() < 1.5


def test_spot_per_cable_agrees_with_a_stretched_equilibrium() -> None:
    """Lengthen one cable by 0.1 mm and minimise the elastic energy."""
    centre, rotation = np.array([0.1, 0.0, 1.2]), rotation_from_vector([0.1, 0.2, 0])
    sun = rotation[:, 2]
    rest = cable_lengths_m(CORNER8.pulleys_world_m, CORNER8.attachments_lens_m, centre, rotation)
    longer = rest.copy()
    longer[2] += 1e-4

    def energy(x):
        now = cable_lengths_m(
            CORNER8.pulleys_world_m,
            CORNER8.attachments_lens_m,
            centre + x[:3] * 1e-4,
            rotation_from_vector(x[3:] * 1e-4) @ rotation,
        )
        return float(np.sum((now - longer) ** 2 / rest)) * 1e8

    x = minimize(energy, np.zeros(6), tol=1e-14).x * 1e-4
    spot = x[:2] - sun[:2] / sun[2] * x[2]
    np.testing.assert_allclose(spot / 1e-4, spot_per_cable(CORNER8, centre, rotation, sun)[:, 2], atol=2e-3)


def test_clearances_of_known_pairs() -> None:
    far = segment_distance_m(
        np.array([0.0, 0, 0]), np.array([1.0, 0, 0]), np.array([0.5, -1, 2]), np.array([0.5, 1, 2])
    )
    assert far == pytest.approx(2)
    parallel = segment_distance_m(np.zeros(3), np.array([1.0, 0, 0]), np.array([3.0, 1, 0]), np.array([2.0, 1, 0]))
    assert parallel == pytest.approx(np.sqrt(2))
    rng = np.random.default_rng(0)
    p0, p1, q0, q1 = rng.normal(size=(4, 200, 3))
    t = np.linspace(0, 1, 201)
    a = p0[:, None, None] + t[:, None, None] * (p1 - p0)[:, None, None]
    b = q0[:, None, None] + t[None, :, None] * (q1 - q0)[:, None, None]
    sampled = np.sqrt(np.square(a - b).sum(-1)).min(axis=(1, 2))
    found = segment_distance_m(p0, p1, q0, q1)
    assert (found <= sampled + 1e-12).all()
    np.testing.assert_allclose(found, sampled, atol=0.03)


def test_a_cable_through_the_light_is_negative_and_past_it_positive() -> None:
    centre, sun = np.array([0.0, 0, 1.22]), np.array([0.0, 0, 1.0])
    assert clearances_m(CORNER8, centre, np.eye(3), sun)["cable-light"] > 0.1
    assert clearances_m(VITRIFIER, centre + np.array([0.3, 0, 0]), np.eye(3), sun)["cable-light"] < -0.05


def test_suns_that_are_held_are_those_of_the_linear_program() -> None:
    rng = np.random.default_rng(5)
    zenith, azimuth = rng.uniform(0.5, 1.1, 60), rng.uniform(0, 2 * np.pi, 60)
    spot = rng.uniform(-0.4, 0.4, (60, 2))
    held = sun_is_held(CORNER8, zenith, azimuth, spot)
    sun = sun_direction_world(zenith, azimuth)
    rotation = rotation_facing(sun)
    centre = np.column_stack([spot, np.zeros(60)]) + CORNER8.focal_length_m * sun
    structure, wrench = structure_of(CORNER8, centre, rotation), wrenches_n(CORNER8, rotation)[0]
    slow = [_linear_program(w, f, 15, 300) for w, f in zip(structure, wrench, strict=True)]
    np.testing.assert_array_equal(held, slow)
    assert 5 < held.sum() < 55
    # No spot given: middle and corners of the bed, every one.
    corners = np.array([(0, 0), (1, 1), (-1, 1), (-1, -1), (1, -1)]) * 0.4
    each = sun_is_held(CORNER8, zenith[:, None], azimuth[:, None], corners)
    np.testing.assert_array_equal(sun_is_held(CORNER8, zenith, azimuth), each.all(axis=1))


def test_wind_and_margin_only_take_away_suns() -> None:
    rng = np.random.default_rng(6)
    zenith, azimuth = rng.uniform(0.4, 0.7, 200), rng.uniform(0, 2 * np.pi, 200)
    plain = sun_is_held(CORNER8, zenith, azimuth)
    for less in (
        sun_is_held(CORNER8, zenith, azimuth, wind_m_s=5.0),
        sun_is_held(CORNER8, zenith, azimuth, margin_n=20),
    ):
        assert (plain | ~less).all()
        assert 0 < less.sum() < plain.sum()
    assert sun_is_held(CORNER8, 0.1, 1.0).shape == ()
