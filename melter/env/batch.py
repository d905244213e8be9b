"""The task on many simulated machines at once: one vectorised pass per control step.

The Gymnasium environments, the stable-baselines3 one and the evaluation are thin faces of :class:`SandMelterBatch`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.env.hanging import Hanging, quaternion_from_rotation
from melter.env.mjcf import substeps_for
from melter.env.noise import Keys, keys_of, normal, uniform
from melter.env.params import QUANTITIES, true_sun_world
from melter.env.physics import Ids, MachineBatch
from melter.env.scenario import TRAIN, Scenario, draw_targets, look_ahead_ticks, target_count, work_reward
from melter.env.wind import next_gust, wind_force_world_n
from melter.errors import CommandRefused
from melter.geometry.cables import cable_lengths_m
from melter.geometry.light import LensOptics, fast_patch, semi_axes_and_angle
from melter.geometry.pose import work_centre_world_m
from melter.machine import WINCH_COUNT, Machine
from melter.observation import (
    COMMANDS_KEPT,
    Measurement,
    ObservationBuilder,
    Plan,
    Reference,
)
from melter.safety.kinematics import Kinematics
from melter.safety.limiter import TickLimits, limit_command

Array = NDArray[np.float64]

SUITE_SEED = 20_000_000
"""Evaluation suites draw from here on; training seeds stay below."""
ENDINGS = ("running", "time is up", "tension above the trip limit", "spot lost", "lens tipped", "diverged")
"""Why an episode ended, by code."""
LOST_M, TIPPED_RAD = 0.15, 0.35


@dataclass(slots=True)
class State:
    """What is true of each simulation after a step; arrays (n, ...)."""

    spot_error_m: Array
    spot_world_m: Array
    target_world_m: Array
    tensions_n: Array
    defocus_m: Array
    tilt_rad: Array
    ending: NDArray[np.intp]
    """Index into ENDINGS."""

    def info(self) -> dict[str, Array]:
        """The truth as Gymnasium's ``info``; a policy never sees it."""
        return {
            "spot_error_m": self.spot_error_m,
            "spot_world_m": self.spot_world_m,
            "target_world_m": self.target_world_m,
            "tensions_n": self.tensions_n,
            "defocus_m": self.defocus_m,
            "tilt_rad": self.tilt_rad,
        }


class SandMelterBatch:
    """``count`` machines at work. Same seed and actions, same bits, at any count and thread count."""

    def __init__(self, machine: Machine, count: int, scenario: Scenario = TRAIN, threads: int = 1) -> None:
        self.machine, self.count, self.scenario = machine, count, scenario
        self.builder = ObservationBuilder(machine)
        self.limits = TickLimits.from_machine(machine)
        self._park_lengths_m = Kinematics(machine).park_lengths_m
        ranges = {quantity.name: quantity for quantity in QUANTITIES}
        stiffest = max(ranges["cable_stiffness_n"].high, machine.drive.cable_stiffness_n)
        lightest = machine.lens.moving_mass_kg * ranges["moving_mass_kg"].low
        self.physics = MachineBatch(machine, count, substeps_for(machine, stiffest, lightest), threads)
        self.horizon = scenario.ticks(machine)
        ahead = look_ahead_ticks(machine)
        self._ahead = ahead.astype(np.intp)
        self._ahead_rest = (ahead - self._ahead)[:, None]
        period_s = machine.control.period_s
        self._kept = max(COMMANDS_KEPT, int(np.ceil(ranges["action_delay_s"].high / period_s)) + 2)
        seen = ranges["camera_delay_s"].high + ranges["camera_jitter_s"].high
        self._frames = int(np.ceil(max(seen, machine.control.camera_delay_s) / period_s)) + 2
        self._allocate()

    def _allocate(self) -> None:
        n, w = self.count, WINCH_COUNT
        self.keys: Keys = np.zeros(n, dtype=np.uint64)
        self.tick = np.zeros(n, dtype=np.int64)
        self.values = {quantity.name: np.zeros((n, quantity.size)) for quantity in QUANTITIES}
        self.targets = np.zeros((n, target_count(self.machine, self.scenario), 2))
        self.commands_m_s = np.zeros((n, self._kept, w))
        self.command_um = np.zeros((n, w), dtype=np.int64)
        self.counted_m = np.zeros((n, w))
        self._speed = np.zeros((n, w))
        self._seen = np.zeros((n, self._frames, 5))
        self._measured = np.zeros((n, 5))
        self._age_s = np.zeros(n)
        self._fresh = np.zeros(n, dtype=bool)
        self._gust = np.zeros(n)
        self._true_sun = np.zeros((n, 3))
        self.reference = Reference(np.zeros((n, 3)), np.zeros((n, 3, 3)), np.zeros((n, w, 6)))
        self._sun_rad = np.zeros((n, 2))
        self._ready = np.zeros(n, dtype=bool)
        self._next: dict[str, NDArray[Any]] = {
            "seed": np.full(n, -1, dtype=np.int64),
            "episode": np.zeros(n, dtype=np.int64),
            **{name: np.zeros_like(getattr(self, name)) for name in _PREPARED},
            **{name: np.zeros_like(getattr(self.reference, name)) for name in _REFERENCE},
            "centre": np.zeros((n, 3)),
            "quaternion": np.zeros((n, 4)),
            "unwound": np.zeros((n, w)),
            **{f"value_{name}": np.zeros_like(value) for name, value in self.values.items()},
        }
        """The episode that each simulation plays next, prepared in bulk."""

    # -- reset ------------------------------------------------------------------------------------------------

    def reset(self, ids: Ids, seeds: ArrayLike, episodes: ArrayLike) -> None:
        """Start new episodes in simulations ``ids`` (k,), from seeds and episode numbers (k,)."""
        seed, episode = np.asarray(seeds, dtype=np.int64), np.asarray(episodes, dtype=np.int64)
        unlike = (self._next["seed"][ids] != seed) | (self._next["episode"][ids] != episode)
        self._next["seed"][ids], self._next["episode"][ids] = seed, episode
        self._ready[ids[unlike]] = False
        if not self._ready[ids].all():
            self._prepare(np.flatnonzero(~self._ready & (self._next["seed"] >= 0)))
        chosen = {name: value[ids] for name, value in self._next.items()}
        for name in self.values:
            self.values[name][ids] = chosen[f"value_{name}"]
        self.physics.configure(ids, {name: chosen[f"value_{name}"] for name in self.values})
        self.physics.place(ids, chosen["centre"], chosen["quaternion"], chosen["unwound"])
        for name in _REFERENCE:
            getattr(self.reference, name)[ids] = chosen[name]
        for name in _PREPARED:
            getattr(self, name)[ids] = chosen[name]
        for name in ("tick", "command_um", "commands_m_s", "_speed", "_gust"):
            getattr(self, name)[ids] = 0
        self._first_frame(ids)
        self._next["episode"][ids] += 1
        self._ready[ids] = False

    def _prepare(self, ids: Ids) -> None:
        """Work out the next episodes of simulations ``ids``: in one pass for all that lack one, as it costs as much for one."""
        following = self._next
        keys = self._keys(following["seed"][ids], following["episode"][ids])
        values = self.scenario.randomisation.draw(keys, self.machine)
        for name, value in values.items():
            following[f"value_{name}"][ids] = value
        sun_rad = np.radians(np.concatenate([values["sun_zenith_deg"], values["sun_azimuth_deg"]], axis=1))
        reference = self.builder.reference(sun_rad[:, 0], sun_rad[:, 1])
        targets = draw_targets(keys, self.machine, self.scenario)
        made = {name: getattr(reference, name) for name in _REFERENCE} | {
            "keys": keys,
            "targets": targets,
            "_sun_rad": sun_rad,
            "_true_sun": true_sun_world(values),
        }
        made |= self._hang(keys, values, reference, targets[:, 0])
        for name, value in made.items():
            following[name][ids] = value
        self._ready[ids] = True

    def _keys(self, seeds: ArrayLike, episodes: ArrayLike) -> Keys:
        if self.scenario.suite is not None:
            return keys_of(np.full(np.shape(seeds), SUITE_SEED), np.asarray(seeds) + np.asarray(episodes))
        return keys_of(seeds, episodes)

    def _hang(self, keys: Keys, values: dict[str, Array], reference: Reference, start: Array) -> dict[str, Array]:
        """Hang lenses near ``start`` (k, 2): counted cable lengths, pose and stress-free cable.

        As on the machine: parked, zeroed and tensioned by hand, then moved to work by the counters alone, so that
        whatever the drawing has wrong shows up in pose and tensions. A known offset on top is what a policy sees.
        """
        machine, offset = self.machine, 2 * uniform(keys, 20, 3) - 1
        focus, facing = machine.lens.focal_length_m, reference.rotation
        exact = work_centre_world_m(start, reference.sun_world, focus, machine.sand.height_m)
        known = exact + offset * self.scenario.start_offset_m
        moved = cable_lengths_m(machine.pulleys_world_m, machine.attachments_lens_m, known, facing)
        there = cable_lengths_m(machine.pulleys_world_m, machine.attachments_lens_m, exact, facing)
        counted = self.builder.reference_lengths_m(start, reference) + moved - there
        hanging = Hanging.from_values(values)
        _, _, parked = hanging.zeroed_at_park(machine, values)
        unwound = parked + values["drum_gain"] * (counted - self._park_lengths_m)
        centre, rotation = hanging.rest(unwound, known, facing)
        return {
            "counted_m": counted,
            "centre": centre,
            "quaternion": quaternion_from_rotation(rotation),
            "unwound": unwound,
        }

    def _first_frame(self, ids: Ids) -> None:
        frame, _, _ = self._light()
        self._seen[ids] = frame[ids, None, :]
        self._measured[ids] = frame[ids]
        self._age_s[ids] = self.machine.control.camera_delay_s
        self._fresh[ids] = True

    # -- step -------------------------------------------------------------------------------------------------

    def step(self, actions: ArrayLike) -> tuple[dict[str, Array], State]:
        """Advance every machine by one control period; return the reward's terms and the truth.

        ``actions`` (n, 8): fractions of the normal cable speed, clipped to ±1. They pass the safety layer's rate
        limiter like any command. Raises CommandRefused for what is not finite.
        """
        wanted = np.asarray(actions, dtype=float)
        if not np.isfinite(wanted).all():
            raise CommandRefused("action: holds a number that is not finite; must be eight numbers in [-1, 1]")
        machine = self.machine
        requested = np.clip(wanted, -1.0, 1.0) * machine.limits.speed_normal_m_s
        counted_um = np.rint(self.counted_m * 1e6).astype(np.int64)
        before = self.commands_m_s[:, 0].copy()
        self.command_um = limit_command(requested, self.command_um, counted_um, None, self.limits)
        self.commands_m_s[:, 1:] = self.commands_m_s[:, :-1]
        self.commands_m_s[:, 0] = self.limits.counts_to_m_s(self.command_um)
        self.physics.advance(self._winches(), self._wind_force())
        self.tick += 1
        state = self._film()
        change = (self.commands_m_s[:, 0] - before) * (1 / machine.limits.speed_normal_m_s)
        terms = work_reward(state.spot_error_m, state.tilt_rad, state.defocus_m, state.tensions_n, change, machine)
        return terms, state

    def _winches(self) -> Array:
        """(n, substeps, 8) pay-out speeds: delayed commands through the motors' lag; counts what the counters see."""
        k, period_s = self.physics.substeps, self.machine.control.period_s
        moment = (np.arange(k) + 0.5) / k
        late = np.ceil(self.values["action_delay_s"] / period_s - moment)
        which = np.clip(late, 0, self._kept - 1).astype(np.intp)
        speeds = np.take_along_axis(self.commands_m_s, which[:, :, None], axis=1)
        speeds *= self.values["speed_gain"][:, None, :]
        share = -np.expm1(-period_s / k / np.maximum(self.values["motor_lag_s"], 1e-6))
        speed = self._speed
        for step in range(k):
            speed = speed + (speeds[:, step] - speed) * share
            speeds[:, step] = speed
        self._speed = speed
        self.counted_m += speeds.sum(axis=1) * (period_s / k)
        speeds *= self.values["drum_gain"][:, None, :]
        return speeds

    def _wind_force(self) -> Array:
        """(n, 3) force on the lens, one step of the gusts on."""
        values = self.values
        self._gust = next_gust(
            self._gust, self.machine.control.period_s, normal(self.keys, 1_000_000 + self.tick, 1)[:, 0]
        )
        return wind_force_world_n(
            self.machine,
            values["wind_m_s"][:, 0],
            values["wind_turbulence"][:, 0],
            self._gust,
            np.radians(values["wind_azimuth_deg"][:, 0]),
            self.physics.rotation[:, :, 2],
        )

    def _light(self) -> tuple[Array, Array, Array]:
        """(n, 5) centre and covariance of the patch, (n,) tilt and defocus."""
        values = self.values
        lens = LensOptics.from_machine(
            self.machine,
            focal_length_m=values["focal_length_m"][:, 0],
            facet_error_rad=values["facet_error_mrad"][:, 0] * 1e-3,
            transmission=values["transmission"][:, 0],
            circumsolar_ratio=values["circumsolar_ratio"][:, 0],
        )
        physics = self.physics
        patch = fast_patch(lens, physics.centre_world_m, physics.rotation, self._true_sun, values["bed_height_m"][:, 0])
        frame = np.empty((self.count, 5))
        frame[:, :2] = patch.centre_world_m
        frame[:, 2], frame[:, 3], frame[:, 4] = patch.xx, patch.xy, patch.yy
        return frame, patch.tilt_rad, patch.defocus_m

    def _film(self) -> State:
        """The camera's newest frame: delayed, noisy, sometimes missing; and the truth."""
        finite = self.physics.is_finite()
        frame, tilt, defocus = self._light()
        self._seen[:, 1:] = self._seen[:, :-1]
        self._seen[:, 0] = frame
        values, period_s, n = self.values, self.machine.control.period_s, np.arange(self.count)
        dice = uniform(self.keys, 2_000_000 + self.tick, 2)
        jitter_s = values["camera_jitter_s"][:, 0] * dice[:, 0]
        delay = (values["camera_delay_s"][:, 0] + jitter_s) / period_s
        older = np.minimum(delay.astype(np.intp), self._frames - 2)
        blend = (delay - older)[:, None]
        seen = self._seen[n, older] * (1 - blend) + self._seen[n, older + 1] * blend
        seen[:, :2] += normal(self.keys, 3_000_000 + self.tick, 2) * values["camera_noise_m"]
        self._fresh = dice[:, 1] >= values["camera_loss"][:, 0]
        self._measured = np.where(self._fresh[:, None], seen, self._measured)
        self._age_s = np.where(self._fresh, self.machine.control.camera_delay_s + jitter_s, self._age_s + period_s)
        target = self.targets[n, self.tick]
        error = frame[:, :2] - target
        error_m = np.sqrt(error[:, 0] ** 2 + error[:, 1] ** 2)
        tension = self.physics.tension_n
        ending = np.where(self.tick >= self.horizon, 1, 0)
        ending[tension.max(axis=1) > self.machine.limits.tension_trip_n] = 2
        ending[error_m > LOST_M] = 3
        ending[tilt > TIPPED_RAD] = 4
        ending[~finite] = 5
        return State(error_m, frame[:, :2], target, tension, defocus, tilt, ending)

    # -- observe ----------------------------------------------------------------------------------------------

    def measurement(self) -> Measurement:
        """Return what the machines tell now: as much as a webcam and winch counters can."""
        semi_axes, angle = semi_axes_and_angle(self._measured[:, 2], self._measured[:, 3], self._measured[:, 4])
        return Measurement(
            patch_age_s=self._age_s,
            patch_centre_world_m=self._measured[:, :2],
            patch_semi_axes_m=semi_axes,
            patch_angle_rad=angle,
            patch_seen=self._fresh,
            cable_length_m=self.counted_m,
            sun_zenith_rad=self._sun_rad[:, 0],
            sun_azimuth_rad=self._sun_rad[:, 1],
        )

    @property
    def patch(self) -> Array:
        """(n, 5) the light patch as it truly is: centre x and y, second central moments xx, xy, yy; a live view."""
        return self._seen[:, 0]

    def plan(self) -> Plan:
        """Return where the light should be now, when it was seen, and just ahead."""
        n = np.arange(self.count)
        past = np.maximum(self.tick - self._age_s / self.machine.control.period_s, 0.0)
        whole = past.astype(np.intp)
        blend = (past - whole)[:, None]
        captured = self.targets[n, whole] * (1 - blend) + self.targets[n, whole + 1] * blend
        later = self.tick[:, None] + self._ahead
        ahead = self.targets[n[:, None], later]
        if self._ahead_rest.any():
            ahead = ahead + (self.targets[n[:, None], later + 1] - ahead) * self._ahead_rest
        return Plan(self.targets[n, self.tick], captured, ahead)

    def observe(self) -> NDArray[np.float32]:
        """Return the (n, size) observations."""
        return self.builder.build(self.measurement(), self.plan(), self.commands_m_s[:, :COMMANDS_KEPT], self.reference)

    # -- resume -----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies of everything that a batch of the same size needs to go on from here."""
        arrays = {name: getattr(self, name).copy() for name in _KEPT}
        arrays |= {f"value_{name}": value.copy() for name, value in self.values.items()}
        arrays |= {f"reference_{name}": getattr(self.reference, name).copy() for name in _REFERENCE}
        return arrays | {f"physics_{name}": value for name, value in self.physics.state().items()}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Go on from :meth:`state`, bit for bit."""
        for name in _KEPT:
            setattr(self, name, state[name].copy())
        for name, value in self.values.items():
            value[:] = state[f"value_{name}"]
        for name in _REFERENCE:
            getattr(self.reference, name)[:] = state[f"reference_{name}"]
        self.physics.configure(np.arange(self.count), self.values)
        self.physics.restore({name: state[f"physics_{name}"] for name in ("qpos", "qvel", "act")})


_REFERENCE = ("sun_world", "rotation", "slack_coefficients")
_PREPARED = ("keys", "targets", "counted_m", "_sun_rad", "_true_sun")
"""What an episode starts with."""
_KEPT = (
    *_PREPARED,
    *("tick", "commands_m_s", "command_um", "_speed", "_seen", "_measured", "_age_s", "_fresh", "_gust"),
)
"""What a checkpoint holds."""
