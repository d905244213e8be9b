"""The simulated machine behind the twin's firmware: hidden parameters, wind, and what the light does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.env.hanging import Hanging, quaternion_from_rotation
from melter.env.mjcf import substeps_for
from melter.env.noise import keys_of
from melter.env.params import NAMES, Randomisation, nominal_values, true_sun_world
from melter.env.physics import MachineBatch
from melter.env.wind import next_gust, wind_force_world_n
from melter.errors import BadInput
from melter.geometry.light import LensOptics, fast_patch, peak_irradiance_w_m2, power_w
from melter.geometry.pose import rotation_from_quaternion
from melter.machine import WINCH_COUNT, Machine

Array = NDArray[np.float64]

STEP_S = 0.010
"""The machine moves on in pieces of this length."""


@dataclass(frozen=True)
class Snapshot:
    """The truth at one moment; world frame."""

    t_s: float
    centre_world_m: Array
    quaternion_wxyz: Array
    rotation: Array
    spot_world_m: Array
    covariance_m2: Array
    """(3,) xx, xy, yy of the irradiance."""
    peak_w_m2: float
    power_w: float
    tensions_n: Array
    cable_speed_m_s: Array


def hidden_values(machine: Machine, seed: int, fixed: dict[str, object] | None = None) -> dict[str, Array]:
    """Return the hidden parameters, (1, size) each: drawn from ``seed``, ``fixed`` ones given by name.

    The sun stands where the machine file says, but for a small error: who works outdoors knows where the sun is.
    Raises BadInput for unknown names and wrong sizes.
    """
    drawn = Randomisation().draw(keys_of([seed], [0]), machine)
    nominal = nominal_values(machine)
    for name in ("sun_zenith_deg", "sun_azimuth_deg"):
        drawn[name] = nominal[name][None].copy()
    for name, value in (fixed or {}).items():
        if name not in NAMES:
            raise BadInput(f"hidden parameter {name}: unknown; known: {', '.join(NAMES)}")
        try:
            array = np.atleast_1d(np.asarray(value, dtype=float)).ravel()
        except (TypeError, ValueError):
            raise BadInput(f"hidden parameter {name}: {value!r}, must be {nominal[name].size} finite numbers") from None
        if array.shape != nominal[name].shape or not np.isfinite(array).all():
            raise BadInput(f"hidden parameter {name}: {array.size} numbers, must be {nominal[name].size} finite ones")
        drawn[name] = array[None]
    return drawn


class TwinMachine:
    """One parked machine; winch positions in, truth out."""

    def __init__(self, machine: Machine, values: dict[str, Array], rng: np.random.Generator) -> None:
        self.machine, self.values, self._rng = machine, values, rng
        stiffness, mass = float(values["cable_stiffness_n"][0, 0]), float(values["moving_mass_kg"][0, 0])
        self.physics = MachineBatch(machine, 1, substeps_for(machine, stiffness, mass), threads=1)
        self._substeps = max(1, round(STEP_S / self.physics.timestep_s))
        self.step_s = self._substeps * self.physics.timestep_s
        """How far :meth:`advance` goes."""
        self.wind_m_s, self.sun_share = float(values["wind_m_s"][0, 0]), 1.0
        self.dead = np.zeros(WINCH_COUNT, dtype=bool)
        """Winches that no longer turn."""
        self._gust, self._speed, self.t_s = np.zeros(1), np.zeros(WINCH_COUNT), 0.0
        self._last_m = np.zeros(WINCH_COUNT)
        self._sun = true_sun_world(values)[0]
        self._lens = LensOptics.from_machine(
            machine,
            focal_length_m=values["focal_length_m"][0, 0],
            facet_error_rad=values["facet_error_mrad"][0, 0] * 1e-3,
            transmission=values["transmission"][0, 0],
            circumsolar_ratio=values["circumsolar_ratio"][0, 0],
        )
        self._park()

    def _park(self) -> None:
        """Hang at park, off by what its owner does not know, cables tensioned by hand."""
        centre, rotation, unwound = Hanging.from_values(self.values).zeroed_at_park(self.machine, self.values)
        everything = np.array([0])
        self.physics.configure(everything, self.values)
        self.physics.place(everything, centre, quaternion_from_rotation(rotation), unwound)

    def advance(self, position_m: Array) -> None:
        """Go ``step_s`` on while the motors turn to (8,) ``position_m`` of cable paid out since park."""
        dt = self.step_s
        wanted = (position_m - self._last_m) / dt
        self._last_m = position_m.copy()
        lag_s = float(self.values["motor_lag_s"][0, 0])
        self._speed = self._speed + (wanted - self._speed) * -np.expm1(-dt / max(lag_s, 1e-6))
        turning = np.where(self.dead, 0.0, self._speed * self.values["drum_gain"][0])
        speeds = np.broadcast_to(turning, (1, self._substeps, WINCH_COUNT)).copy()
        self.physics.advance(speeds, self._wind_force(dt))
        self.t_s += dt

    def _wind_force(self, dt: float) -> Array:
        values = self.values
        self._gust = next_gust(self._gust, dt, self._rng.standard_normal(1))
        azimuth = np.radians(values["wind_azimuth_deg"][:, 0])
        turbulence = values["wind_turbulence"][:, 0]
        axis = self.physics.rotation[:, :, 2]
        return wind_force_world_n(self.machine, self.wind_m_s, turbulence, self._gust, azimuth, axis)

    def snap(self, cable: int | None = None) -> None:
        """Break one cable: it pulls no more."""
        index = 0 if cable is None else cable
        self.physics.unwound_m[0, index] = 2 * self.machine.limits.cable_length_max_m
        self.dead[index] = True

    def snapshot(self) -> Snapshot:
        """Return the truth now."""
        physics = self.physics
        rotation = rotation_from_quaternion(physics.quaternion_wxyz[0])
        centre = physics.centre_world_m[0].copy()
        patch = fast_patch(self._lens, centre, rotation, self._sun, self.values["bed_height_m"][0, 0])
        dni = float(self.values["dni_w_m2"][0, 0]) * self.sun_share
        return Snapshot(
            t_s=self.t_s,
            centre_world_m=centre,
            quaternion_wxyz=physics.quaternion_wxyz[0].copy(),
            rotation=rotation,
            spot_world_m=patch.centre_world_m,
            covariance_m2=np.array([patch.xx, patch.xy, patch.yy]),
            peak_w_m2=float(peak_irradiance_w_m2(self._lens, patch, dni)),
            power_w=float(power_w(self._lens, patch.tilt_rad, dni)),
            tensions_n=physics.tension_n[0].copy(),
            cable_speed_m_s=np.where(self.dead, 0.0, self._speed * self.values["drum_gain"][0]),
        )
