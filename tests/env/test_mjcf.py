"""The MuJoCo model says what the machine file says, and its cables only pull."""

from __future__ import annotations

import copy
from typing import Any

import mujoco
import numpy as np
import pytest

from melter.env.mjcf import build_model, lens_inertia_kg_m2, substeps_for
from melter.geometry.cables import cable_lengths_m
from melter.geometry.pose import rotation_from_vector
from melter.machine import Machine, load_machine, machine_from_table


@pytest.fixture(params=["corner8", "vitrifier"])
def machine(request: pytest.FixtureRequest) -> Machine:
    return load_machine(request.param)


@pytest.fixture
def model(machine: Machine) -> mujoco.MjModel:
    return build_model(machine, 0.005)


def test_sites_masses_and_time(machine: Machine, model: mujoco.MjModel) -> None:
    for i, winch in enumerate(machine.winch):
        np.testing.assert_array_equal(model.site(f"pulley {winch.name}").pos, winch.pulley_world_m)
        np.testing.assert_array_equal(model.site(f"attachment {winch.name}").pos, winch.attachment_lens_m)
        assert model.actuator(i).name == winch.name  # actuators in winch order
        assert model.actuator(i).trnid[0] == model.tendon(winch.name).id
    lens = model.body("lens")
    assert lens.mass[0] == machine.lens.moving_mass_kg
    assert model.body_mass.sum() == machine.lens.moving_mass_kg  # nothing else weighs anything
    np.testing.assert_allclose(lens.inertia, lens_inertia_kg_m2(machine, machine.lens.moving_mass_kg))
    np.testing.assert_array_equal(lens.ipos, machine.lens.centre_of_mass_lens_m)
    np.testing.assert_array_equal(lens.pos, machine.park.lens_centre_world_m)
    assert model.opt.timestep == 0.005
    np.testing.assert_array_equal(model.opt.gravity, [0, 0, -9.80665])
    assert model.nq == 7
    assert model.nu == model.na == 8


def test_inertia_of_a_plate() -> None:
    """6 kg, 1.05 m x 1.40 m: m b²/12, m a²/12, and their sum about the axis."""
    np.testing.assert_allclose(lens_inertia_kg_m2(load_machine(), 6.0), (0.98, 0.55125, 1.53125))


def test_tendon_lengths_are_the_geometrys(machine: Machine, model: mujoco.MjModel) -> None:
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    for _ in range(20):
        centre, vector = rng.normal([0, 0, 1], 0.2), rng.normal(0, 0.3, 3)
        angle = np.linalg.norm(vector)
        data.qpos[:3] = centre
        data.qpos[3:] = [np.cos(angle / 2), *(np.sin(angle / 2) * vector / angle)]
        mujoco.mj_forward(model, data)
        expected = cable_lengths_m(
            machine.pulleys_world_m, machine.attachments_lens_m, centre, rotation_from_vector(vector)
        )
        np.testing.assert_allclose(data.ten_length, expected, atol=1e-12)


def test_cables_only_pull(machine: Machine, model: mujoco.MjModel) -> None:
    assert (model.actuator_forcerange[:, 1] == 0).all()
    assert (model.actuator_forcerange[:, 0] < -machine.limits.tension_trip_n).all()
    assert model.actuator_forcelimited.all()
    data = mujoco.MjData(model)
    model.actuator_gainprm[:, 0], model.actuator_biasprm[:, 1] = 3e4, -3e4
    mujoco.mj_forward(model, data)
    for slack, pulls in ((0.01, False), (-0.001, True)):
        data.act[:] = data.ten_length + slack
        mujoco.mj_forward(model, data)
        expected = 30.0 if pulls else 0.0
        np.testing.assert_allclose(-data.actuator_force, expected, rtol=1e-9)


def test_positive_control_pays_out(model: mujoco.MjModel) -> None:
    data = mujoco.MjData(model)
    data.act[:], data.ctrl[:] = 2.0, 0.05
    mujoco.mj_step(model, data)
    np.testing.assert_allclose(data.act, 2.0 + 0.05 * 0.005)


def test_a_centre_of_mass_beside_the_middle(corner8_table: dict[str, Any]) -> None:
    table = copy.deepcopy(corner8_table)
    table["lens"]["centre_of_mass_lens_m"] = [0.01, -0.02, 0.03]
    model = build_model(machine_from_table(table), 0.005)
    np.testing.assert_array_equal(model.body("lens").ipos, [0.01, -0.02, 0.03])


def test_the_centre_of_mass_can_be_moved_after_compiling(model: mujoco.MjModel) -> None:
    """Weight beside the middle turns the lens: MuJoCo must not have compiled the offset away."""
    data = mujoco.MjData(model)
    model.body_ipos[model.body("lens").id] = [0.02, 0, 0]
    data.act[:] = 100.0
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(data.body("lens").xipos - data.body("lens").xpos, [0.02, 0, 0], atol=1e-12)


def test_names_that_xml_would_not_like(corner8_table: dict[str, Any]) -> None:
    corner8_table["winch"][0]["name"] = "NE <\"&'> oben"
    model = build_model(machine_from_table(corner8_table), 0.005)
    assert model.actuator(0).name == "NE <\"&'> oben"


def test_stiffer_and_lighter_needs_finer_steps(corner8: Machine) -> None:
    assert (
        substeps_for(corner8, 120e3, 5.0) >= substeps_for(corner8, 60e3, 6.0) >= substeps_for(corner8, 25e3, 8.0) >= 4
    )
