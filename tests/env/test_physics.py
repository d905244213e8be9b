"""The batch physics: rest, energy, time step, slack and neighbours."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from melter.env.hanging import Hanging, quaternion_from_rotation
from melter.env.mjcf import lens_inertia_kg_m2, substeps_for
from melter.env.noise import keys_of
from melter.env.params import Randomisation
from melter.env.physics import MachineBatch
from melter.env.transmission import Transmission, blocks_for
from melter.geometry.cables import cable_lengths_m, length_jacobian, structure_matrix
from melter.geometry.pose import rotation_facing, rotation_from_vector, sun_direction_world, work_centre_world_m
from melter.geometry.reference import GRAVITY_M_S2, reference_tensions_n, reference_unwound_m, weight_n
from melter.machine import Machine, load_machine

MACHINE = load_machine()
SUBSTEPS = substeps_for(MACHINE, 120e3, 5.0)
EA = MACHINE.drive.cable_stiffness_n
CABLES = (MACHINE.pulleys_world_m, MACHINE.attachments_lens_m)
SUN = sun_direction_world(MACHINE.sun.zenith_rad, MACHINE.sun.azimuth_rad)
FACING = rotation_facing(SUN)


def work_pose(spot=(0.0, 0.0)):
    return work_centre_world_m(np.array(spot), SUN, MACHINE.lens.focal_length_m), FACING


def unwound(centre, rotation):
    return reference_unwound_m(*CABLES, centre, rotation, MACHINE.lens.moving_mass_kg, MACHINE.tension_band_n, EA)


def hung(centre, rotation, free, substeps=SUBSTEPS) -> MachineBatch:
    physics = MachineBatch(MACHINE, 1, substeps)
    physics.place(np.array([0]), centre[None], quaternion_from_rotation(rotation[None]), free[None])
    return physics


def advance(physics: MachineBatch, speeds=0.0, force=0.0) -> None:
    """One control period at constant speeds and force."""
    physics.begin_period(np.broadcast_to(force, (physics.count, 3)), np.zeros((physics.count, 3)))
    physics.set_springs()
    physics.pay_out_m_s[:] = speeds
    physics.run(physics.substeps)


def run(physics: MachineBatch, ticks: int, speeds=lambda _: np.zeros(8)) -> np.ndarray:
    seen = [physics.centre_world_m[0].copy()]
    for tick in range(ticks):
        advance(physics, speeds(tick))
        seen.append(physics.centre_world_m[0].copy())
    return np.array(seen)


@pytest.mark.parametrize("spot", [(0.0, 0.0), (0.3, -0.2), (-0.36, 0.36)])
def test_tensions_at_rest_are_those_of_the_static_analysis(spot) -> None:
    centre, rotation = work_pose(spot)
    physics = hung(centre + np.array([0.001, 0.002, -0.001]), rotation, unwound(centre, rotation))
    run(physics, 100)
    structure = structure_matrix(*CABLES, centre, rotation)
    expected = reference_tensions_n(structure, weight_n(MACHINE.lens.moving_mass_kg), MACHINE.tension_band_n)
    np.testing.assert_allclose(physics.tension_n[0], expected, rtol=0.02)
    np.testing.assert_allclose(physics.centre_world_m[0], centre, atol=1e-4)


def test_at_rest_by_the_solver_is_at_rest_in_the_simulation() -> None:
    """Randomised machines moved to where the static solver says they hang do not move when time begins."""
    n = 16
    values = Randomisation().draw(keys_of(np.arange(n), np.zeros(n, dtype=int)), MACHINE)
    values["cable_creep"][:] = 0
    hanging, everything = Hanging.from_values(MACHINE, values), np.arange(n)
    start, aside = (work_pose(spot)[0] for spot in ((0.0, 0.0), (0.2, -0.1)))
    trim = hanging.trimmed(MACHINE, values, np.tile(start, (n, 1)), np.tile(FACING, (n, 1, 1)))
    paid = cable_lengths_m(*CABLES, aside, FACING) - cable_lengths_m(*CABLES, start, FACING)
    rest = hanging.moved(trim, np.tile(paid, (n, 1)), np.tile(aside, (n, 1)), np.tile(FACING, (n, 1, 1)))
    physics = MachineBatch(MACHINE, n, SUBSTEPS)
    winches = Transmission(MACHINE, physics, MACHINE.control.period_s / blocks_for(SUBSTEPS))
    physics.configure(everything, values)
    winches.configure(everything, values, np.zeros(8))
    physics.place(everything, rest.centre_world_m, quaternion_from_rotation(rest.rotation), rest.unwound_m)
    winches.start(everything, np.zeros((n, 8)), rest.tension_n, rest.drum_tension_n)
    np.testing.assert_allclose(physics.tension_n, rest.tension_n, atol=0.2)
    for _ in range(20):
        physics.begin_period(np.zeros((n, 3)), np.zeros((n, 3)))
        winches.advance(np.zeros((n, blocks_for(SUBSTEPS), 8)))
    assert np.abs(physics.centre_world_m - rest.centre_world_m).max() < 1e-5
    np.testing.assert_allclose(physics.tension_n, rest.tension_n, atol=0.3)
    # and the tensions balance the weight of each machine, by the geometry room's own sums
    structure = structure_matrix(
        hanging.pulleys_world_m, hanging.attachments_lens_m, physics.centre_world_m, physics.rotation
    )
    missing = np.squeeze(structure @ physics.tension_n[..., None], -1) + hanging.weight(physics.rotation)
    assert np.abs(missing).max() < 0.05


def energy_j(physics: MachineBatch) -> float:
    """Kinetic, of height and elastic, from the definition."""
    velocity, mass = physics.velocity[0], MACHINE.lens.moving_mass_kg
    inertia = np.array(lens_inertia_kg_m2(MACHINE, mass))
    moving = 0.5 * mass * velocity[:3] @ velocity[:3] + 0.5 * (inertia * velocity[3:]) @ velocity[3:]
    lengths = cable_lengths_m(*CABLES, physics.centre_world_m[0], physics.rotation[0])
    stretch = np.maximum(lengths - physics.unwound_m[0], 0)
    return moving + mass * GRAVITY_M_S2 * physics.centre_world_m[0, 2] + 0.5 * (EA / physics.unwound_m[0]) @ stretch**2


@pytest.mark.parametrize("push", [(0.004, 0, 0), (0, 0.004, 0.002), (0, 0, -0.003)])
def test_without_wind_and_motors_a_swing_only_loses_energy(push) -> None:
    centre, rotation = work_pose()
    free = unwound(centre, rotation)
    physics = hung(centre + push, rotation_from_vector(np.array([0.003, 0, 0])) @ rotation, free)
    seen = [energy_j(physics)]
    for _ in range(60):
        advance(physics)
        seen.append(energy_j(physics))
    rest = energy_j(hung(centre, rotation, free))
    above = np.array(seen) - rest
    assert above[0] > 0.01
    assert (np.diff(above) < 0.002 * above[0]).all()
    assert above[-1] < 0.01 * above[0]


def test_halving_the_time_step_hardly_changes_ten_seconds_of_work() -> None:
    """A lens driven round by its winches for 10 s."""
    centre, rotation = work_pose()
    free, jacobian = unwound(centre, rotation), length_jacobian(*CABLES, centre, rotation)[:, :3]

    def round_and_round(tick: int):
        angle = 0.6 * tick * MACHINE.control.period_s
        return jacobian @ (0.03 * np.array([np.cos(angle), np.sin(angle), 0]))

    coarse, fine = (run(hung(centre, rotation, free, n), 200, round_and_round) for n in (SUBSTEPS, 2 * SUBSTEPS))
    extent = np.ptp(coarse, axis=0).max()
    assert extent > 0.09
    assert np.abs(coarse - fine).max() < 0.01 * extent


def test_halving_the_time_step_changes_a_free_swing_by_less_than_a_hundredth() -> None:
    """Semi-implicit steps keep velocities half a step beside positions, so each swing starts with that half step."""
    centre, rotation = work_pose()
    free, push = unwound(centre, rotation), np.array([0.003, 0.002, 0.001])

    def swing(substeps: int) -> np.ndarray:
        physics = hung(centre + push, rotation, free, substeps)
        physics.velocity[:] -= 0.5 * physics.timestep_s * physics.acceleration
        return run(physics, 200)

    coarse, fine = swing(SUBSTEPS), swing(2 * SUBSTEPS)
    away = np.linalg.norm(fine - centre, axis=1)
    assert away[1:20].max() > 0.001
    assert np.linalg.norm(coarse - fine, axis=1).max() < 0.01 * away.max()


def test_it_falls_freely_on_slack_cables_and_is_caught_again() -> None:
    centre, rotation = work_pose()
    lengths = cable_lengths_m(*CABLES, centre, rotation)
    physics = hung(centre, rotation, lengths + 0.05)
    fallen = run(physics, 2)
    assert fallen[2, 2] - fallen[0, 2] == pytest.approx(-0.5 * GRAVITY_M_S2 * 0.1**2, rel=0.15)
    assert physics.tension_n.min() >= 0
    seen = []
    for _ in range(100):
        advance(physics)
        seen.append(physics.tension_n[0].copy())
    assert np.min(seen) >= 0
    assert np.max(seen) > 15
    assert physics.is_finite().all()
    assert 0.5 < physics.centre_world_m[0, 2] < centre[2]


def test_wind_pushes_the_way_it_blows() -> None:
    centre, rotation = work_pose()
    physics = hung(centre, rotation, unwound(centre, rotation))
    for _ in range(60):
        advance(physics, force=[20.0, 0, 0])
    moved = physics.centre_world_m[0] - centre
    assert 1e-5 < moved[0] < 0.01
    assert abs(moved[1]) < 0.2 * moved[0]


def test_a_simulation_that_diverges_leaves_its_neighbours_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log where it stands
    centre, rotation = work_pose()
    free = unwound(centre, rotation)

    def trio(spoil: bool) -> MachineBatch:
        physics = MachineBatch(MACHINE, 3, SUBSTEPS)
        everything = np.arange(3)
        place = (
            np.tile(centre, (3, 1)),
            np.tile(quaternion_from_rotation(rotation[None]), (3, 1)),
            np.tile(free, (3, 1)),
        )
        physics.place(everything, *place)
        if spoil:
            physics.velocity[1] = np.nan
        for _ in range(5):
            advance(physics, 0.001)
        return physics

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spoilt, whole = trio(spoil=True), trio(spoil=False)
    assert spoilt.is_finite().tolist() == [True, False, True]
    for i in (0, 2):
        np.testing.assert_array_equal(spoilt.centre_world_m[i], whole.centre_world_m[i])
        np.testing.assert_array_equal(spoilt.tension_n[i], whole.tension_n[i])


@pytest.mark.parametrize("name", ["corner8", "vitrifier"])
def test_thread_counts_give_the_same_bits(name: str) -> None:
    machine: Machine = load_machine(name)
    values = Randomisation().draw(keys_of(np.arange(7), np.zeros(7, dtype=int)), machine)
    seen = []
    for threads in (1, 3):
        physics = MachineBatch(machine, 7, 12, threads)
        everything = np.arange(7)
        physics.configure(everything, values)
        centre = np.tile(machine.park.lens_centre_world_m, (7, 1))
        lengths = cable_lengths_m(machine.pulleys_world_m, machine.attachments_lens_m, centre[0], np.eye(3))
        physics.place(everything, centre, np.tile([1.0, 0, 0, 0], (7, 1)), np.tile(lengths * 0.999, (7, 1)))
        rng = np.random.default_rng(0)
        for _ in range(20):
            advance(physics, rng.normal(0, 0.02, (7, 8)), rng.normal(0, 5, (7, 3)))
        seen.append((physics.centre_world_m.copy(), physics.quaternion_wxyz.copy(), physics.tension_n.copy()))
    for one, other in zip(*seen, strict=True):
        np.testing.assert_array_equal(one, other)
