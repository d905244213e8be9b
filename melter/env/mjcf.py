# pyright: reportAttributeAccessIssue=false, reportUnknownParameterType=false, reportUnknownVariableType=false
# (MuJoCo's compiled modules have no stubs)
"""The machine file as a MuJoCo model: a lens on eight pull-only elastic cables.

Each cable is one spatial tendon from pulley to attachment with an ``intvelocity`` actuator on it: its activation is the
stress-free length of cable, its control the speed at which the winch pays out, and its force is clamped to pulling.
"""

from __future__ import annotations

import math
from xml.sax.saxutils import quoteattr

import mujoco
import numpy as np
from numpy.typing import NDArray

from melter.geometry.cables import cable_lengths_m, structure_matrix
from melter.geometry.shape import GRAVITY_M_S2
from melter.machine import Machine

FORCE_MAX_N = 5_000.0
"""Cables never pull more than this in simulation; far beyond every trip limit."""


def bend_share(machine: Machine) -> NDArray[np.float64]:
    """Return (8,) how much of a pole's flexibility each pulley feels: all at the top, none at the foot."""
    return np.clip(machine.pulleys_world_m[:, 2] / machine.frame.height_m, 0, None) ** 2


def lens_inertia_kg_m2(machine: Machine, mass_kg: float) -> tuple[float, float, float]:
    """Return the principal moments of a uniform plate of the lens's size, lens frame."""
    a, b = machine.lens.short_edge_m, machine.lens.long_edge_m
    x, y = mass_kg * b * b / 12, mass_kg * a * a / 12
    return x, y, x + y  # summed up: rounded by itself, the third can exceed the sum, which MuJoCo refuses


def substeps_for(machine: Machine, stiffest_n: float, lightest_kg: float) -> int:
    """Return the physics steps per control period that simulate the stiffest, lightest variant truly.

    Semi-implicit Euler is stable while angular frequency × step < 2; this keeps the fastest mode at park below 1.32, so that
    halving the step changes a swing by about a hundredth of itself.
    """
    centre, level = np.array(machine.park.lens_centre_world_m), np.eye(3)
    pulleys, attachments = machine.pulleys_world_m, machine.attachments_lens_m
    structure = structure_matrix(pulleys, attachments, centre, level)
    lengths = cable_lengths_m(pulleys, attachments, centre, level)
    inertia = np.concatenate([np.full(3, lightest_kg), lens_inertia_kg_m2(machine, lightest_kg)])
    stiffness = structure @ np.diag(stiffest_n / lengths) @ structure.T
    fastest_rad_s = math.sqrt(np.linalg.eigvals(stiffness / inertia[:, None]).real.max())
    return max(4, math.ceil(machine.control.period_s * fastest_rad_s / 1.32))


def machine_xml(machine: Machine, timestep_s: float) -> str:
    """Return the MJCF of a machine, lens parked."""
    poles = "\n".join(
        f'<geom type="capsule" size="0.03" fromto="{x} {y} 0 {x} {y} {machine.frame.height_m}" rgba=".45 .45 .5 1"/>'
        for x, y in machine.frame.poles_world_m
    )
    pulleys, attachments, tendons, actuators = [], [], [], []
    for winch in machine.winch:
        name = quoteattr(winch.name)
        pulleys.append(
            f'<site name={quoteattr("pulley " + winch.name)} pos="{_text(winch.pulley_world_m)}" size="0.03"/>'
        )
        attachments.append(
            f'<site name={quoteattr("attachment " + winch.name)} pos="{_text(winch.attachment_lens_m)}" size="0.015"/>'
        )
        tendons.append(
            f'<spatial name={name} width="0.004" rgba=".1 .1 .1 1"><site site={quoteattr("pulley " + winch.name)}/>'
            f"<site site={quoteattr('attachment ' + winch.name)}/></spatial>"
        )
        actuators.append(
            f'<intvelocity name={name} tendon={name} kp="1" kv="0" forcerange="{-FORCE_MAX_N} 0" '
            f'ctrlrange="-10 10" actrange="0 {2 * machine.limits.cable_length_max_m}"/>'
        )
    lens = machine.lens
    half_x, half_y = lens.short_edge_m / 2, lens.long_edge_m / 2
    inertia = lens_inertia_kg_m2(machine, lens.moving_mass_kg)
    bed_x, bed_y = machine.bed.size_m
    return f"""<mujoco model={quoteattr(machine.name)}>
  <compiler autolimits="true"/>
  <option timestep="{timestep_s!r}" integrator="implicitfast" gravity="0 0 {-GRAVITY_M_S2}">
    <flag contact="disable" constraint="disable" autoreset="disable"/>
  </option>
  <visual><global offwidth="1280" offheight="720"/><headlight diffuse=".5 .5 .5"/></visual>
  <asset>
    <texture name="sand" type="2d" builtin="flat" rgb1=".76 .68 .50" width="64" height="64"/>
    <material name="sand" texture="sand"/>
  </asset>
  <worldbody>
    <light pos="0 0 4" dir="0 0 -1"/>
    <geom name="ground" type="plane" size="3 3 .1" pos="0 0 {machine.sand.height_m - 0.002}" rgba=".55 .52 .47 1"/>
    <geom name="bed" type="box" size="{bed_x / 2} {bed_y / 2} .001" pos="0 0 {machine.sand.height_m - 0.001}" material="sand"/>
    {poles}
    {"".join(pulleys)}
    <body name="lens" pos="{_text(machine.park.lens_centre_world_m)}">
      <freejoint name="lens"/>
      <inertial pos="{_text(lens.centre_of_mass_lens_m)}" mass="{lens.moving_mass_kg}" diaginertia="{_text(inertia)}"/>
      <geom name="lens" type="box" size="{half_x} {half_y} .004" rgba=".6 .8 1 .45" mass="0"/>
      {_struts(machine)}
      {"".join(attachments)}
    </body>
  </worldbody>
  <tendon>{"".join(tendons)}</tendon>
  <actuator>{"".join(actuators)}</actuator>
</mujoco>"""


def build_model(machine: Machine, timestep_s: float) -> mujoco.MjModel:
    """Return the compiled model of a machine, its centre of mass free to be moved.

    A body compiled with its mass centred is marked so, and MuJoCo then ignores another ``body_ipos``.
    """
    spec = mujoco.MjSpec.from_string(machine_xml(machine, timestep_s))  # pyright: ignore[reportAttributeAccessIssue]
    centre = np.array(machine.lens.centre_of_mass_lens_m)
    spec.body("lens").ipos = centre + 0.01
    model = spec.compile()
    model.body_ipos[model.body("lens").id] = centre
    return model


def _struts(machine: Machine) -> str:
    """The posts between lens corners and attachments, drawn only."""
    parts: list[str] = []
    for winch in machine.winch:
        x, y, z = winch.attachment_lens_m
        if abs(z) > 0.01:
            parts.append(
                f'<geom type="capsule" size="0.012" fromto="{x} {y} 0 {x} {y} {z}" rgba=".3 .3 .3 1" mass="0"/>'
            )
    return "".join(parts)


def _text(values: tuple[float, ...]) -> str:
    return " ".join(repr(float(value)) for value in values)
