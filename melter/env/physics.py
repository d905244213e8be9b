# pyright: reportAttributeAccessIssue=false, reportUnknownParameterType=false, reportUnknownVariableType=false
# (MuJoCo's compiled modules have no stubs)
"""Many machines at once: MuJoCo's native batch with per-simulation cables, masses and geometry.

Knows nothing of tasks, observations or delays: cable passing the pulleys in, lens pose and tensions out.
"""

from __future__ import annotations

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from melter.env.mjcf import bend_share, build_model, lens_inertia_kg_m2
from melter.geometry.pose import rotation_from_quaternion
from melter.machine import WINCH_COUNT, Machine

Array = NDArray[np.float64]
Ids = NDArray[np.intp]
EVERY = slice(None)


class MachineBatch:
    """``count`` simulated machines, stepped together on native threads.

    The same speeds give the same bits at every count and thread count.
    """

    def __init__(self, machine: Machine, count: int, substeps: int, threads: int = 1) -> None:
        self.machine, self.count, self.substeps = machine, count, substeps
        self.timestep_s = machine.control.period_s / substeps
        self.model = build_model(machine, self.timestep_s)
        self._batch = Batch(self.model, count, threads)
        self._qpos, self._qvel, self._act = (self._batch.bind(name) for name in ("qpos", "qvel", "act"))
        self._qacc = self._batch.bind("qacc")
        self._push = self._batch.bind("xfrc_applied")[:, self.model.body("lens").id]
        self._force = self._batch.bind("actuator_force")
        self.pay_out_m_s = self._batch.bind("ctrl")
        """(count, 8) speed at which cable passes the pulleys towards the lens; write it, then :meth:`run`."""
        self._gain = self._batch.expand("actuator_gainprm")
        self._bias = self._batch.expand("actuator_biasprm")
        self._mass, self._inertia = self._batch.expand("body_mass"), self._batch.expand("body_inertia")
        self._com, self._sites = self._batch.expand("body_ipos"), self._batch.expand("site_pos")
        self._lens = self.model.body("lens").id
        self._pulley_sites = [self.model.site(f"pulley {winch.name}").id for winch in machine.winch]
        self._attachment_sites = [self.model.site(f"attachment {winch.name}").id for winch in machine.winch]
        self._unit_inertia = np.array(lens_inertia_kg_m2(machine, 1.0))
        self._stiffness_n = np.full((count, 1), machine.drive.cable_stiffness_n)
        share_kg = machine.lens.moving_mass_kg / 4
        self._damping = np.full((count, 1), -2 * machine.drive.cable_damping_ratio * np.sqrt(share_kg))
        self._flex_m = np.zeros((count, WINCH_COUNT))
        self._pulley_z, self._attachment = np.zeros((count, WINCH_COUNT)), np.zeros((count, 3, WINCH_COUNT))
        self._bend_share = bend_share(machine)

    def configure(self, ids: Ids, values: dict[str, Array]) -> None:
        """Give simulations ``ids`` (k,) their own machine; ``values`` as drawn by ``melter.env.params``, (k, size)."""
        mass = values["moving_mass_kg"][:, 0]
        self._mass[ids, self._lens] = mass
        self._inertia[ids, self._lens] = mass[:, None] * self._unit_inertia
        self._com[ids, self._lens] = values["centre_of_mass_m"]
        self._sites[np.ix_(ids, self._pulley_sites)] = values["pulley_m"].reshape(-1, WINCH_COUNT, 3)
        self._sites[np.ix_(ids, self._attachment_sites)] = values["attachment_m"].reshape(-1, WINCH_COUNT, 3)
        self._stiffness_n[ids] = values["cable_stiffness_n"]
        self._damping[ids] = -2 * values["cable_damping_ratio"] * np.sqrt(mass[:, None] / 4)
        self._flex_m[ids] = values["cable_stiffness_n"] * values["pole_flex_m_per_n"] * self._bend_share
        self._pulley_z[ids] = values["pulley_m"].reshape(-1, WINCH_COUNT, 3)[..., 2]
        self._attachment[ids] = np.swapaxes(values["attachment_m"].reshape(-1, WINCH_COUNT, 3), 1, 2)

    def place(self, ids: Ids, centre_world_m: Array, quaternion_wxyz: Array, unwound_m: Array) -> None:
        """Put simulations ``ids`` (k,) at rest: lens centre (k, 3), attitude (k, 4), stress-free cable (k, 8)."""
        self._batch.reset(ids, stage=int(mujoco.mjtStage.mjSTAGE_NONE))
        self._qpos[ids, :3] = centre_world_m
        self._qpos[ids, 3:] = quaternion_wxyz
        self._qvel[ids] = 0.0
        self._act[ids] = unwound_m
        self.set_springs(ids)
        self._batch.forward(ids)

    def begin_period(self, wind_force_world_n: Array, wind_torque_world_n_m: Array | None = None) -> None:
        """Set wind force on the lens and its torque, (count, 3) each, world frame."""
        self._push[:, :3] = wind_force_world_n
        if wind_torque_world_n_m is not None:
            self._push[:, 3:] = wind_torque_world_n_m

    def run(self, steps: int) -> None:
        """Simulate ``steps`` time steps at the speeds in ``pay_out_m_s``."""
        self._batch.step(nstep=steps)

    def set_springs(self, ids: Ids | slice = EVERY) -> None:
        """Bring the cables' springs up to date: EA / stress-free length, pole in series.

        Damping is a share of critical for the lens's part of the mass.
        """
        spring = self._stiffness_n[ids] / np.maximum(self._act[ids] + self._flex_m[ids], 0.05)
        self._gain[ids, :, 0] = spring
        self._bias[ids, :, 1] = -spring
        self._bias[ids, :, 2] = self._damping[ids] * np.sqrt(spring)

    @property
    def centre_world_m(self) -> Array:
        """(count, 3) lens centres, a live view."""
        return self._qpos[:, :3]

    @property
    def quaternion_wxyz(self) -> Array:
        """(count, 4) lens attitudes, a live view."""
        return self._qpos[:, 3:7]

    @property
    def velocity(self) -> Array:
        """(count, 6) lens velocity (world frame, m/s) and angular velocity (lens frame, rad/s), a live view."""
        return self._qvel

    @property
    def acceleration(self) -> Array:
        """(count, 6) as ``velocity``, per second, at the start of the last time step or where it was placed; a live view."""
        return self._qacc

    @property
    def rotation(self) -> Array:
        """(count, 3, 3) lens to world."""
        return rotation_from_quaternion(self._qpos[:, 3:7])

    @property
    def tension_n(self) -> Array:
        """(count, 8) cable tensions, never negative."""
        return 0.0 - self._force

    @property
    def unwound_m(self) -> Array:
        """(count, 8) stress-free cable between pulley and lens, a live view."""
        return self._act

    @property
    def rise_m(self) -> Array:
        """(count, 8) how much higher than its pulley each attachment is."""
        q, r = self._qpos, self._attachment
        w, x, y, z = (q[:, i, None] for i in range(3, 7))
        turned = 2 * (x * z - w * y) * r[:, 0] + 2 * (y * z + w * x) * r[:, 1] + (1 - 2 * (x * x + y * y)) * r[:, 2]
        return turned + q[:, 2, None] - self._pulley_z

    def is_finite(self) -> NDArray[np.bool_]:
        """(count,) whether a simulation is still within the finite numbers."""
        return np.isfinite(self._qpos.sum(axis=1) + self._qvel.sum(axis=1)) & (
            np.abs(self._qpos[:, :3]).max(axis=1) < 100
        )

    def data_of(self, index: int) -> mujoco.MjData:
        """Return a MuJoCo data of one simulation, kinematics computed, for drawing."""
        data = self._batch.get_data(index)
        mujoco.mj_forward(self._batch.get_model(index), data)
        return data

    def state(self) -> dict[str, Array]:
        """Return copies of what the simulations need to go on from here, with their configuration given again."""
        return {name: getattr(self, f"_{name}").copy() for name in ("qpos", "qvel", "act")}

    def restore(self, state: dict[str, Array]) -> None:
        """Go on from :meth:`state`; configure the simulations first."""
        everything = np.arange(self.count)
        self.place(everything, state["qpos"][:, :3], state["qpos"][:, 3:], state["act"])
        self._qvel[:] = state["qvel"]
        self._batch.forward(everything)
