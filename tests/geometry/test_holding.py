import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from melter.geometry.cables import cable_lengths_m
from melter.geometry.check import assess, poses_hold, work_poses
from melter.geometry.clearance import clearances_m, segment_distance_m
from melter.geometry.holding import holds, structure_of, tensions_nearest_n, violation, wrenches_n
from melter.geometry.improve import smallest_improvement
from melter.geometry.kinematics import forward_pose
from melter.geometry.pose import rotation_facing, rotation_from_vector, sun_direction_world
from melter.geometry.shape import MachineShape
from melter.geometry.stiffness import mass_matrix, modes_hz, spot_per_cable, stiffness_matrix
from melter.machine import load_machine

CORNER8, VITRIFIER = (MachineShape.from_machine(load_machine(name)) for name in ("corner8", "vitrifier"))


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
    good, bad = assess(CORNER8), assess(VITRIFIER)
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
    assert assess(better.shape).feasible_share > 0.99


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


@pytest.mark.parametrize("seed", range(5))
def test_forward_pose_finds_the_pose_that_made_the_lengths(seed) -> None:
    rng = np.random.default_rng(seed)
    arrays = CORNER8.pulleys_world_m, CORNER8.attachments_lens_m
    for _ in range(40):
        centre = rng.uniform([-0.6, -0.6, 0.6], [0.6, 0.6, 1.4])
        rotation = rotation_from_vector(rng.normal(0, 0.2, 3))
        lengths = cable_lengths_m(*arrays, centre, rotation)
        start = rotation_from_vector(rng.uniform(-0.15, 0.15, 3)) @ rotation
        found = forward_pose(*arrays, lengths, centre + rng.uniform(-0.15, 0.15, 3), start)
        assert found.converged
        assert found.iterations < 15
        np.testing.assert_allclose(found.centre_world_m, centre, atol=1e-8)
        np.testing.assert_allclose(found.rotation, rotation, atol=1e-8)
        assert np.abs(found.residual_m).max() < 1e-9


def test_forward_pose_fits_wrong_lengths_and_refuses_nan() -> None:
    arrays = CORNER8.pulleys_world_m, CORNER8.attachments_lens_m
    centre = np.array([0.1, 0, 1.0])
    lengths = cable_lengths_m(*arrays, centre, np.eye(3))
    off = forward_pose(*arrays, lengths + 0.004 * np.eye(8)[0], centre, np.eye(3))
    assert off.converged
    assert np.linalg.norm(off.centre_world_m - centre) < 0.01
    assert 1e-4 < np.abs(off.residual_m).max() < 0.004
    lengths[3] = np.nan
    assert not forward_pose(*arrays, lengths, centre, np.eye(3)).converged
