# pyright: reportAttributeAccessIssue=false, reportUnknownParameterType=false, reportUnknownVariableType=false
# (MuJoCo's compiled modules have no stubs)
"""Many machines at once: MuJoCo's native batch with per-simulation cables, masses and geometry.

Knows nothing of tasks, observations or delays: cable speeds in, lens pose and tensions out.
"""

from __future__ import annotations

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from melter.env.mjcf import build_model, lens_inertia_kg_m2
from melter.geometry.pose import rotation_from_quaternion
from melter.machine import WINCH_COUNT, Machine

Array = NDArray[np.float64]
Ids = NDArray[np.intp]


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
        self._push = self._batch.bind("xfrc_applied")[:, self.model.body("lens").id]
        self._force = self._batch.bind("actuator_force")
        self._gain = self._batch.expand("actuator_gainprm")
        self._bias = self._batch.expand("actuator_biasprm")
        self._mass, self._inertia = self._batch.expand("body_mass"), self._batch.expand("body_inertia")
        self._com, self._sites = self._batch.expand("body_ipos"), self._batch.expand("site_pos")
        self._lens = self.model.body("lens").id
        self._pulley_sites = [self.model.site(f"pulley {winch.name}").id for winch in machine.winch]
        self._attachment_sites = [self.model.site(f"attachment {winch.name}").id for winch in machine.winch]
        self._unit_inertia = np.array(lens_inertia_kg_m2(machine, 1.0))
        self._stiffness_n = np.full((count, 1), machine.drive.cable_stiffness_n)
        self._damping = np.full((count, 1), machine.drive.cable_damping_ratio)
        self._share_kg = np.full((count, 1), machine.lens.moving_mass_kg / 4)
        self._control_spec = int(mujoco.mjtState.mjSTATE_CTRL)

    def configure(self, ids: Ids, values: dict[str, Array]) -> None:
        """Give simulations ``ids`` (k,) their own machine; ``values`` as drawn by ``melter.env.params``, (k, size)."""
        mass = values["moving_mass_kg"][:, 0]
        self._mass[ids, self._lens] = mass
        self._inertia[ids, self._lens] = mass[:, None] * self._unit_inertia
        self._com[ids, self._lens] = values["centre_of_mass_m"]
        self._sites[np.ix_(ids, self._pulley_sites)] = values["pulley_m"].reshape(-1, WINCH_COUNT, 3)
        self._sites[np.ix_(ids, self._attachment_sites)] = values["attachment_m"].reshape(-1, WINCH_COUNT, 3)
        self._stiffness_n[ids] = values["cable_stiffness_n"]
        self._damping[ids] = values["cable_damping_ratio"]
        self._share_kg[ids] = mass[:, None] / 4

    def place(self, ids: Ids, centre_world_m: Array, quaternion_wxyz: Array, unwound_m: Array) -> None:
        """Put simulations ``ids`` (k,) at rest: lens centre (k, 3), attitude (k, 4), stress-free cable (k, 8)."""
        self._batch.reset(ids, stage=int(mujoco.mjtStage.mjSTAGE_NONE))
        self._qpos[ids, :3] = centre_world_m
        self._qpos[ids, 3:] = quaternion_wxyz
        self._qvel[ids] = 0.0
        self._act[ids] = unwound_m
        self._update_springs()
        self._batch.forward(ids)

    def advance(self, speeds_m_s: Array, wind_force_world_n: Array) -> None:
        """Run one control period: pay-out speeds (count, substeps, 8), wind force on the lens centre (count, 3)."""
        self._push[:, :3] = wind_force_world_n
        self._update_springs()
        self._batch.rollout(speeds_m_s.shape[1], speeds_m_s, self._control_spec, record=())

    def _update_springs(self) -> None:
        """Stiffness EA / stress-free length; damping as a share of critical for the lens's part of the mass."""
        spring = self._stiffness_n / np.maximum(self._act, 0.05)
        self._gain[:, :, 0] = spring
        self._bias[:, :, 1] = -spring
        self._bias[:, :, 2] = -2 * self._damping * np.sqrt(spring * self._share_kg)

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
    def rotation(self) -> Array:
        """(count, 3, 3) lens to world."""
        return rotation_from_quaternion(self._qpos[:, 3:7])

    @property
    def tension_n(self) -> Array:
        """(count, 8) cable tensions, never negative."""
        return 0.0 - self._force

    @property
    def unwound_m(self) -> Array:
        """(count, 8) stress-free cable out, a live view."""
        return self._act

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
        return {"qpos": self._qpos.copy(), "qvel": self._qvel.copy(), "act": self._act.copy()}

    def restore(self, state: dict[str, Array]) -> None:
        """Go on from :meth:`state`; configure the simulations first."""
        everything = np.arange(self.count)
        self.place(everything, state["qpos"][:, :3], state["qpos"][:, 3:], state["act"])
        self._qvel[:] = state["qvel"]
        self._batch.forward(everything)
