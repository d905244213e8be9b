"""The simulated machine behind the twin's firmware: hidden parameters, weather, winches, and what the light does."""

from __future__ import annotations

import difflib
import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.env.hanging import Hanging, quaternion_from_rotation
from melter.env.mjcf import substeps_for
from melter.env.noise import keys_of
from melter.env.params import NAMES, Randomisation, nominal_values, sun_motion_per_s, true_sun_world
from melter.env.physics import MachineBatch
from melter.env.transmission import STEPS_PER_BLOCK, Transmission, blocks_for, drum_gains
from melter.env.wind import SLOPE_RAD, VEER_RAD, gust_shape, sun_through_cloud, weather_step, wind_on_lens
from melter.errors import BadInput
from melter.geometry.light import LensOptics, fast_patch, peak_irradiance_w_m2, power_w
from melter.geometry.pose import rotation_from_quaternion, work_centre_world_m
from melter.machine import WINCH_COUNT, Machine
from melter.observation import ObservationBuilder
from melter.safety.kinematics import Kinematics

Array = NDArray[np.float64]

STEP_S = 0.010
"""The machine moves on in pieces of at most this length."""
LINK_S = 0.08
"""Delay of serial link and jog queue; only what ``action_delay_s`` has beyond it is added behind the board."""
SLIPPED_M = 0.030
"""Cable that a fastening lets go when a cable goes slack."""
KNOWN = ("sun_zenith_deg", "sun_azimuth_deg", "speed_gain")
"""Not hidden here: who works outdoors knows about where the sun stands, and steps are carried out or lost, not scaled."""


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
    sun_share: float = 1.0
    """Of the direct sun that passes the clouds."""


def hidden_values(machine: Machine, seed: int, fixed: dict[str, object] | None = None) -> dict[str, Array]:
    """Return the hidden parameters, (1, size) each: drawn from ``seed``, ``fixed`` ones given by name.

    The sun stands where the machine file says, but for a small error. Raises BadInput for unknown names and wrong sizes.
    """
    drawn = Randomisation(only=tuple(name for name in NAMES if name not in KNOWN)).draw(keys_of([seed], [0]), machine)
    nominal = nominal_values(machine)
    for name, value in (fixed or {}).items():
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(NAMES)}"
            raise BadInput(f"hidden parameter {name}: unknown; {hint}")
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

    def __init__(self, machine: Machine, values: dict[str, Array], rng: np.random.Generator, *, seed: int = 0) -> None:
        self.machine, self.values, self._rng = machine, values, rng
        stiffness, mass = float(values["cable_stiffness_n"][0, 0]), float(values["moving_mass_kg"][0, 0])
        blocks = max(blocks_for(substeps_for(machine, stiffness, mass)), math.ceil(machine.control.period_s / STEP_S))
        self.step_s = machine.control.period_s / blocks
        """How far :meth:`advance` goes."""
        self.physics = MachineBatch(machine, 1, blocks * STEPS_PER_BLOCK, threads=1)
        self.winches = Transmission(machine, self.physics, self.step_s)
        self.sun_share, self.gust = 1.0, 0.0
        """Faults of the weather: what an own cloud lets pass, and how much faster an own gust blows (1: twice)."""
        self.dead = np.zeros(WINCH_COUNT, dtype=bool)
        """Winches whose motors no longer turn."""
        self._keys, self._weather = keys_of([seed], [1]), np.asarray(rng.standard_normal((1, 4)))
        self._asked, self.t_s = np.zeros(WINCH_COUNT), 0.0
        late = max(0, round((float(values["action_delay_s"][0, 0]) - LINK_S) / self.step_s))
        self._steps: deque[Array] = deque([np.zeros(WINCH_COUNT)] * (late + 1), maxlen=late + 2)
        self._sun = true_sun_world(values)
        self._lens = LensOptics.from_machine(
            machine,
            focal_length_m=values["focal_length_m"][0, 0],
            facet_error_rad=values["facet_error_mrad"][0, 0] * 1e-3,
            transmission=values["transmission"][0, 0],
            circumsolar_ratio=values["circumsolar_ratio"][0, 0],
        )
        self._park()

    def _park(self) -> None:
        """Hang as on the machine: trimmed by its owner over the bed's middle, then moved to park by the counters alone."""
        machine, values, one = self.machine, self.values, np.array([0])
        builder, hanging = ObservationBuilder(machine), Hanging.from_values(machine, values)
        park_m = Kinematics(machine).park_lengths_m
        sun = np.radians([machine.sun.zenith_deg, machine.sun.azimuth_deg])
        reference = builder.reference(sun[:1], sun[1:])
        middle = np.zeros((1, 2))
        work_m = work_centre_world_m(middle, reference.sun_world, machine.lens.focal_length_m, machine.sand.height_m)
        trim = hanging.trimmed(machine, values, work_m, reference.rotation)
        trimmed_m = builder.reference_lengths_m(middle, reference)
        wound_m = 0.5 * (trimmed_m - park_m)
        gain = drum_gains(values) * (1 - values["drum_build_up_per_m"] * wound_m)
        guess = np.array(machine.park.lens_centre_world_m)[None]
        rest = hanging.moved(trim, (park_m - trimmed_m) * gain, guess, np.eye(3)[None])
        self.physics.configure(one, values)
        self.winches.configure(one, values, park_m)
        self.physics.place(one, rest.centre_world_m, quaternion_from_rotation(rest.rotation), rest.unwound_m)
        self.winches.start(one, park_m[None], rest.tension_n, rest.drum_tension_n)

    def advance(self, position_m: Array) -> None:
        """Go ``step_s`` on while the board's counters go to (8,) ``position_m`` of cable paid out since park."""
        dt = self.step_s
        self._steps.append(position_m.copy())
        self._asked = np.where(self.dead, 0.0, (self._steps[1] - self._steps[0]) / dt)
        self._blow(dt)
        self.winches.advance(self._asked[None, None])
        self._sun = self._sun + sun_motion_per_s(self._sun, self.values) * dt
        self.t_s += dt

    def forget_step(self, moved_m: Array) -> None:
        """Let the board's counters jump by (8,) ``moved_m`` without any motor turning."""
        self._steps = deque((position + moved_m for position in self._steps), maxlen=self._steps.maxlen)

    def _blow(self, dt: float) -> None:
        values = self.values
        self._weather = weather_step(self._weather, dt, self._rng.standard_normal((1, 4)))
        gust = self.gust + (values["wind_gust"][:, 0] - 1) * gust_shape(self._keys, np.array([self.t_s]))
        mean_m_s = np.maximum(values["wind_m_s"][:, 0], 3.0) if self.gust else values["wind_m_s"][:, 0]
        speed = mean_m_s * np.maximum(1 + values["wind_turbulence"][:, 0] * self._weather[:, 0] + gust, 0)
        veered = np.radians(values["wind_azimuth_deg"][:, 0]) + VEER_RAD * self._weather[:, 1]
        axis = self.physics.rotation[:, :, 2]
        slope = SLOPE_RAD * self._weather[:, 2]
        self.physics.begin_period(*wind_on_lens(self.machine, speed, veered, slope, axis))

    def snap(self, cable: int = 0) -> None:
        """Break one cable: it pulls no more."""
        self.physics.unwound_m[0, cable] = 2 * self.machine.limits.cable_length_max_m
        self.winches.jammed[0, cable] = True

    def slacken(self, cable: int = 0) -> None:
        """Let one cable's fastening slip."""
        self.physics.unwound_m[0, cable] += SLIPPED_M

    def snapshot(self) -> Snapshot:
        """Return the truth now."""
        physics, values = self.physics, self.values
        rotation = rotation_from_quaternion(physics.quaternion_wxyz[0])
        centre = physics.centre_world_m[0].copy()
        patch = fast_patch(self._lens, centre, rotation, self._sun[0], values["bed_height_m"][0, 0])
        share = self.sun_share * float(sun_through_cloud(self._weather[:, 3], values["cloud_share"][:, 0])[0])
        dni = float(values["dni_w_m2"][0, 0]) * share
        speed = self.winches.speed_m_s[0] * drum_gains(values)[0]
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
            cable_speed_m_s=np.where(self.winches.jammed[0], 0.0, speed),
            sun_share=share,
        )
