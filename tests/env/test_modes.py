"""Stiffness and natural frequencies of the lens on its cables, against finite differences and against MuJoCo."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from melter.geometry.cables import cable_lengths_m
from melter.geometry.pose import quaternion_facing, rotation_facing, rotation_from_vector, sun_direction_world
from melter.geometry.shape import MachineShape
from melter.geometry.stiffness import mass_matrix, modes_hz, stiffness_matrix
from melter.machine import load_machine

SHAPES = {name: MachineShape.from_machine(load_machine(name)) for name in ("corner8", "vitrifier")}
POSES = [(0.0, 0.0, (0.0, 0.0, 1.22)), (0.4, 2.0, (0.3, -0.4, 1.1)), (0.6, 5.0, (-0.5, 0.2, 1.0))]
STEP = 1e-5


@pytest.mark.parametrize("pose", POSES)
@pytest.mark.parametrize("name", SHAPES)
def test_stiffness_is_the_second_derivative_of_the_elastic_energy(name: str, pose: tuple) -> None:
    shape = SHAPES[name]
    zenith, azimuth, centre = pose
    rotation = rotation_facing(sun_direction_world(zenith, azimuth))
    cables = shape.pulleys_world_m, shape.attachments_lens_m
    rest = cable_lengths_m(*cables, centre, rotation)

    def energy(x: np.ndarray) -> float:
        now = cable_lengths_m(*cables, centre + x[:3], rotation_from_vector(x[3:]) @ rotation)
        return float(np.sum(shape.stiffness_n / rest * (now - rest) ** 2) / 2)

    eye, hessian = np.eye(6) * 1e-4, np.empty((6, 6))
    for i in range(6):
        for j in range(6):
            signs = ((1, 1), (1, -1), (-1, 1), (-1, -1))
            hessian[i, j] = sum(a * b * energy(a * eye[i] + b * eye[j]) for a, b in signs) / 4e-8
    stiffness = stiffness_matrix(shape, centre, rotation)
    np.testing.assert_allclose(stiffness, hessian, atol=1e-5 * np.abs(stiffness).max())


def hung(shape: MachineShape, centre: tuple, rotation: np.ndarray, quaternion: np.ndarray) -> mujoco.MjModel:
    """The lens as a free body on eight springs that are just taut at a pose."""
    inertia = np.diag(mass_matrix(shape, np.eye(3)))[3:]
    stiffness = shape.stiffness_n / cable_lengths_m(shape.pulleys_world_m, shape.attachments_lens_m, centre, rotation)
    text = " ".join
    pulleys = text(f'<site name="p{i}" pos="{text(map(str, p))}"/>' for i, p in enumerate(shape.pulleys_world_m))
    tied = text(f'<site name="a{i}" pos="{text(map(str, a))}"/>' for i, a in enumerate(shape.attachments_lens_m))
    springs = text(
        f'<spatial stiffness="{k}" springlength="-1"><site site="p{i}"/><site site="a{i}"/></spatial>'
        for i, k in enumerate(stiffness)
    )
    return mujoco.MjModel.from_xml_string(
        f"""<mujoco><option gravity="0 0 0"/><worldbody>{pulleys}
        <body pos="{text(map(str, centre))}" quat="{text(map(str, quaternion))}"><freejoint/>
        <inertial pos="0 0 0" mass="{shape.mass_kg}" diaginertia="{text(map(str, inertia))}"/>{tied}</body>
        </worldbody><tendon>{springs}</tendon></mujoco>"""
    )


@pytest.mark.parametrize("pose", POSES)
@pytest.mark.parametrize("name", SHAPES)
def test_modes_are_mujocos(name: str, pose: tuple) -> None:
    shape = SHAPES[name]
    zenith, azimuth, centre = pose
    sun = sun_direction_world(zenith, azimuth)
    model = hung(shape, centre, rotation_facing(sun), quaternion_facing(sun))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    start, mass = data.qpos.copy(), np.empty((6, 6))
    mujoco.mj_fullM(model, data, mass)
    columns = []
    for axis in np.eye(6):
        forces = []
        for sign in (1, -1):
            data.qpos[:] = start
            mujoco.mj_integratePos(model, data.qpos, sign * axis, STEP)
            mujoco.mj_forward(model, data)
            forces.append(data.qfrc_passive.copy())
        columns.append((forces[1] - forces[0]) / (2 * STEP))
    squares = np.sort(np.linalg.eigvals(np.linalg.solve(mass, np.array(columns).T)).real)
    theirs = np.sqrt(np.maximum(squares, 0)) / (2 * np.pi)
    ours = modes_hz(shape, centre, rotation_facing(sun))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-3 * theirs.max())
    assert ours[0] > 0
