"""The task on many simulated machines at once: one vectorised pass per control step.

The Gymnasium environments, the stable-baselines3 one and the evaluation are thin faces of :class:`SandMelterBatch`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.env.camera import DIMMEST_W_M2, Camera
from melter.env.hanging import Hanging, quaternion_from_rotation
from melter.env.mjcf import substeps_for
from melter.env.noise import Keys, keys_of, normal, uniform
from melter.env.params import QUANTITIES, sun_motion_per_s, true_sun_world
from melter.env.physics import Ids, MachineBatch
from melter.env.scenario import TRAIN, Scenario, draw_targets, look_ahead_ticks, target_count, work_reward
from melter.env.transmission import STEPS_PER_BLOCK, Transmission, blocks_for, drum_gains
from melter.env.wind import SLOPE_RAD, VEER_RAD, gust_shape, sun_through_cloud, weather_step, wind_on_lens
from melter.errors import CommandRefused
from melter.geometry.cables import cable_lengths_m
from melter.geometry.light import FastPatch, LensOptics, fast_patch, peak_irradiance_w_m2, semi_axes_and_angle
from melter.geometry.pose import rotation_facing, work_centre_world_m
from melter.machine import WINCH_COUNT, Machine
from melter.observation import COMMANDS_KEPT, Measurement, Memory, ObservationBuilder, Plan, Reference
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
    peak_w_m2: Array
    melting: NDArray[np.bool_]
    """Whether light is meant to melt and there is any: False during dark moves and under thick cloud."""
    ending: NDArray[np.intp]
    """Index into ENDINGS."""

    def info(self) -> dict[str, NDArray[Any]]:
        """The truth as Gymnasium's ``info``; a policy never sees it."""
        return {
            "spot_error_m": self.spot_error_m,
            "spot_world_m": self.spot_world_m,
            "target_world_m": self.target_world_m,
            "tensions_n": self.tensions_n,
            "defocus_m": self.defocus_m,
            "tilt_rad": self.tilt_rad,
            "peak_w_m2": self.peak_w_m2,
            "melting": self.melting,
        }


class SandMelterBatch:
    """``count`` machines at work. Same seed and actions, same bits, at any count and thread count."""

    def __init__(self, machine: Machine, count: int, scenario: Scenario = TRAIN, threads: int = 1) -> None:
        self.machine, self.count, self.scenario = machine, count, scenario
        self.builder = ObservationBuilder(machine)
        self.limits = TickLimits.from_machine(machine)
        self._park_lengths_m = Kinematics(machine).park_lengths_m
        ranges = {quantity.name: quantity for quantity in (*QUANTITIES, *scenario.randomisation.quantities)}
        stiffest = max(ranges["cable_stiffness_n"].high, machine.drive.cable_stiffness_n)
        lightest = machine.lens.moving_mass_kg * min(ranges["moving_mass_kg"].low, 1.0)
        self.blocks = blocks_for(substeps_for(machine, stiffest, lightest))
        period_s = machine.control.period_s
        self.physics = MachineBatch(machine, count, self.blocks * STEPS_PER_BLOCK, threads)
        self.winches = Transmission(machine, self.physics, period_s / self.blocks)
        seen = ranges["camera_delay_s"].high + ranges["camera_jitter_s"].high
        self.camera = Camera(machine, count, seen)
        self.horizon = scenario.ticks(machine)
        ahead = look_ahead_ticks(machine)
        self._ahead = ahead.astype(np.intp)
        self._ahead_rest = (ahead - self._ahead)[:, None]
        delay_s = max(ranges["action_delay_s"].high, machine.control.action_delay_s)
        self._kept = max(COMMANDS_KEPT, int(np.ceil(delay_s / period_s)) + 2)
        self._allocate()

    def _allocate(self) -> None:
        n, w = self.count, WINCH_COUNT
        self._all = np.arange(n)
        self.keys: Keys = np.zeros(n, dtype=np.uint64)
        self.tick = np.zeros(n, dtype=np.int64)
        self._drawn = np.zeros((n, _ENDS[-1]))
        self.values = _views(self._drawn)
        self.path_kind = np.zeros(n, dtype=np.int64)
        """(n,) index into ``scenario.KINDS``."""
        self.targets = np.zeros((n, target_count(self.machine, self.scenario), 3))
        self._melting = np.zeros(self.targets.shape[:2], dtype=bool)
        self.commands_m_s = np.zeros((n, self._kept, w))
        self.command_um = np.zeros((n, w), dtype=np.int64)
        self._arrival = np.zeros((2, n, self.blocks), dtype=np.intp), np.zeros((n, self.blocks, 1))
        self._weather = np.zeros((n, 4))
        self._true_sun, self._sun_motion = np.zeros((n, 3)), np.zeros((n, 3))
        anchors = np.zeros((n, 3, w))
        self.reference = Reference(
            np.zeros((n, 3)), np.zeros((n, 3, 3)), anchors, np.zeros((n, w, 12)), np.zeros((n, w))
        )
        self._anchor_motion = np.zeros_like(anchors)
        self._sun_rad = np.zeros((n, 2))
        self._lens: LensOptics | None = None
        self.memory = Memory.empty((n,))
        self._observation = np.zeros((n, self.builder.size), dtype=np.float32)
        self._rotation = np.zeros((n, 3, 3))
        self._ready = np.zeros(n, dtype=bool)
        self._next: dict[str, NDArray[Any]] = {
            "seed": np.full(n, -1, dtype=np.int64),
            "episode": np.zeros(n, dtype=np.int64),
            **{name: np.zeros_like(getattr(self, name)) for name in _PREPARED},
            **{name: np.zeros_like(getattr(self.reference, name)) for name in _REFERENCE},
            "centre": np.zeros((n, 3)),
            "quaternion": np.zeros((n, 4)),
            **{name: np.zeros((n, w)) for name in ("counted", "unwound", "tension", "drum_tension")},
            "patch": np.zeros((n, 5)),
            "drawn": np.zeros_like(self._drawn),
        }
        """The episode that each simulation plays next, prepared in bulk."""
        self._next_memory = Memory.empty((n,))

    @property
    def counted_m(self) -> Array:
        """(n, 8) stress-free cable out, as the winch counters tell; a live view."""
        return self.winches.counted_m

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
        self._drawn[ids] = chosen["drawn"]
        for name in _REFERENCE:
            getattr(self.reference, name)[ids] = chosen[name]
        for name in _PREPARED:
            getattr(self, name)[ids] = chosen[name]
        self._configure(ids)
        self.physics.place(ids, chosen["centre"], chosen["quaternion"], chosen["unwound"])
        self.winches.start(ids, chosen["counted"], chosen["tension"], chosen["drum_tension"])
        for name in ("tick", "command_um", "commands_m_s"):
            getattr(self, name)[ids] = 0
        self.camera.start(ids, chosen["patch"])
        self.memory.put(ids, self._next_memory.rows(ids))
        self._next["episode"][ids] += 1
        self._ready[ids] = False

    def _configure(self, ids: Ids) -> None:
        """Bring everything that depends on an episode's parameters alone up to date."""
        values = _views(self._drawn[ids])
        self.physics.configure(ids, values)
        self.winches.configure(ids, values, self._park_lengths_m)
        late = values["action_delay_s"] * (1 / self.machine.control.period_s)
        edges = np.arange(self.blocks + 1) / self.blocks
        oldest = np.clip(np.ceil(late - edges[:-1]), 0, self._kept - 1)
        newest = np.clip(np.ceil(late - edges[1:]), 0, self._kept - 1)
        rows = (ids * self._kept)[:, None]
        self._arrival[0][0][ids], self._arrival[0][1][ids] = (
            rows + oldest.astype(np.intp),
            rows + newest.astype(np.intp),
        )
        until = np.clip((late - newest - edges[:-1]) * self.blocks, 0.0, 1.0)
        self._arrival[1][ids] = np.where(oldest > newest, 1 - until, 0.0)[:, :, None]
        self._lens = None

    def _prepare(self, ids: Ids) -> None:
        """Work out the next episodes of simulations ``ids``: in one pass for all that lack one, as it costs as much for one."""
        following = self._next
        keys = self._keys(following["seed"][ids], following["episode"][ids])
        values = self.scenario.randomisation.draw(keys, self.machine)
        following["drawn"][ids] = np.concatenate([values[name] for name in self.values], axis=1)
        sun_rad = np.radians(np.concatenate([values["sun_zenith_deg"], values["sun_azimuth_deg"]], axis=1))
        reference = self.builder.reference(sun_rad[:, 0], sun_rad[:, 1])
        targets = draw_targets(keys, self.machine, self.scenario)
        motion = sun_motion_per_s(reference.sun_world, values) * self.machine.control.period_s
        turned = rotation_facing(reference.sun_world + motion)
        made: dict[str, NDArray[Any]] = {name: getattr(reference, name) for name in _REFERENCE} | {
            "keys": keys,
            "path_kind": targets.kind,
            "targets": targets.path,
            "_melting": targets.melting,
            "_sun_rad": sun_rad,
            "_true_sun": true_sun_world(values),
            "_weather": normal(keys, 1, 4),
            "_sun_motion": motion,
            "_anchor_motion": self.builder.anchors_m(turned) - reference.anchors_m,
        }
        hung = self._hang(keys, values, reference, targets.path[:, 0])
        made |= hung
        height = values["bed_height_m"][:, 0]
        patch = fast_patch(self._optics(values), hung["centre"], hung["_rotation"], true_sun_world(values), height)
        made["patch"], memory = _rows_of(patch), Memory.empty(ids.shape)
        age_s = np.full(len(ids), self.machine.control.camera_delay_s)
        measurement = self._measurement(made["patch"], age_s, np.ones(len(ids), dtype=bool), hung["counted"], sun_rad)
        plan = self._plan(targets.path, np.arange(len(ids)), np.zeros(len(ids), dtype=np.intp), age_s)
        still = np.zeros((len(ids), COMMANDS_KEPT, WINCH_COUNT))
        made["_observation"] = self.builder.build(measurement, plan, still, reference, memory)
        self._next_memory.put(ids, memory)
        for name, value in made.items():
            following[name][ids] = value
        self._ready[ids] = True

    def _keys(self, seeds: ArrayLike, episodes: ArrayLike) -> Keys:
        if self.scenario.suite is not None:
            return keys_of(np.full(np.shape(seeds), SUITE_SEED), np.asarray(seeds) + np.asarray(episodes))
        return keys_of(seeds, episodes)

    def _hang(self, keys: Keys, values: dict[str, Array], reference: Reference, start: Array) -> dict[str, Array]:
        """Hang lenses at the path's ``start`` (k, 3): counted cable lengths, pose, cable and tensions.

        As on the machine: trimmed by its owner over the middle of the bed, lens covered, then moved by the counters alone,
        so that whatever the drawing has wrong shows up in pose and tensions. A known offset on top is what a policy sees.
        """
        machine, offset, builder = self.machine, 2 * uniform(keys, 20, 3) - 1, self.builder
        focus, facing = machine.lens.focal_length_m, reference.rotation
        sand_m, middle = machine.sand.height_m, np.zeros((len(keys), 2))
        exact = work_centre_world_m(start[:, :2], reference.sun_world, focus - start[:, 2], sand_m)
        known = exact + offset * self.scenario.start_offset_m
        moved = cable_lengths_m(machine.pulleys_world_m, machine.attachments_lens_m, known, facing)
        there = cable_lengths_m(machine.pulleys_world_m, machine.attachments_lens_m, exact, facing)
        counted = builder.reference_lengths_m(start[:, :2], reference, start[:, 2]) + moved - there
        hanging = Hanging.from_values(machine, values)
        middle_m = work_centre_world_m(middle, reference.sun_world, focus, sand_m)
        trim = hanging.trimmed(machine, values, middle_m, facing)
        trimmed = builder.reference_lengths_m(middle, reference)
        wound = 0.5 * (counted + trimmed) - self._park_lengths_m
        gain = drum_gains(values) * (1 - values["drum_build_up_per_m"] * wound)
        rest = hanging.moved(trim, (counted - trimmed) * gain, known, facing)
        return {
            "counted": counted,
            "centre": rest.centre_world_m,
            "_rotation": rest.rotation,
            "quaternion": quaternion_from_rotation(rest.rotation),
            "unwound": rest.unwound_m,
            "tension": rest.tension_n,
            "drum_tension": rest.drum_tension_n,
        }

    # -- step -------------------------------------------------------------------------------------------------

    def step(self, actions: ArrayLike) -> tuple[dict[str, Array], State]:
        """Advance every machine by one control period; return the reward's terms and the truth.

        ``actions`` (n, 8): fractions of the normal cable speed, clipped to ±1. They pass the safety layer's rate
        limiter like any command. Raises CommandRefused for what is not finite.
        """
        wanted = np.asarray(actions, dtype=float)
        if not np.isfinite(wanted).all():
            raise CommandRefused("action: holds a number that is not finite; must be eight numbers in [-1, 1]")
        machine, commands = self.machine, self.commands_m_s
        requested = np.clip(wanted, -1.0, 1.0) * machine.limits.speed_normal_m_s
        counted_um = np.rint(self.counted_m * 1e6).astype(np.int64)
        state = self.drive(limit_command(requested, self.command_um, counted_um, None, self.limits))
        change = (commands[:, 0] - commands[:, 1]) * (1 / machine.limits.speed_normal_m_s)
        amiss = state.defocus_m - self.targets[self._all, self.tick, 2]
        terms = work_reward(state.spot_error_m, state.tilt_rad, amiss, state.tensions_n, change, machine)
        seen = self.commands_m_s[:, :COMMANDS_KEPT]
        self._observation = self.builder.build(self.measurement(), self.plan(), seen, self.reference, self.memory)
        return terms, state

    def drive(self, command_um: NDArray[np.int64]) -> State:
        """Advance every machine by one control period at approved speeds (n, 8), micrometres per period; return the truth.

        No new observation is built: whoever drives like this does not ask a policy.
        """
        commands = self.commands_m_s
        self.command_um = command_um
        commands[:, 1:] = commands[:, :-1]
        commands[:, 0] = self.limits.counts_to_m_s(self.command_um)
        self._blow()
        self.winches.advance(self._asked())
        self.tick += 1
        for moving, by in (
            (self._true_sun, self._sun_motion),
            (self.reference.sun_world, self._sun_motion),
            (self.reference.anchors_m, self._anchor_motion),
        ):
            moving += by
        return self._look()

    def _asked(self) -> Array:
        """(n, blocks, 8) speeds that reach the motors: commands, delayed."""
        commands = self.commands_m_s.reshape(-1, WINCH_COUNT)
        (oldest, newest), share = self._arrival
        before = commands[oldest]
        return before + (commands[newest] - before) * share

    def _blow(self) -> None:
        """Wind on the lens, one period on."""
        values, period_s = self.values, self.machine.control.period_s
        self._weather = weather_step(self._weather, period_s, normal(self.keys, 1_000_000 + self.tick, 4))
        gust = (values["wind_gust"][:, 0] - 1) * gust_shape(
            self.keys, np.asarray(self.tick * period_s, dtype=np.float64)
        )
        speed = values["wind_m_s"][:, 0] * np.maximum(
            1 + values["wind_turbulence"][:, 0] * self._weather[:, 0] + gust, 0
        )
        veered = np.radians(values["wind_azimuth_deg"][:, 0]) + VEER_RAD * self._weather[:, 1]
        slope = SLOPE_RAD * self._weather[:, 2]
        self.physics.begin_period(*wind_on_lens(self.machine, speed, veered, slope, self._rotation[:, :, 2]))

    def _light(self) -> FastPatch:
        """Light patches as they are now."""
        physics = self.physics
        self._rotation = physics.rotation
        self._lens = self._lens or self._optics(self.values)
        height = self.values["bed_height_m"][:, 0]
        return fast_patch(self._lens, physics.centre_world_m, self._rotation, self._true_sun, height)

    def _optics(self, values: dict[str, Array]) -> LensOptics:
        return LensOptics.from_machine(
            self.machine,
            focal_length_m=values["focal_length_m"][:, 0],
            facet_error_rad=values["facet_error_mrad"][:, 0] * 1e-3,
            transmission=values["transmission"][:, 0],
            circumsolar_ratio=values["circumsolar_ratio"][:, 0],
        )

    def _look(self) -> State:
        """The truth now; the camera takes its picture of it."""
        finite, n = self.physics.is_finite(), self._all
        patch = self._light()
        passed = sun_through_cloud(self._weather[:, 3], self.values["cloud_share"][:, 0])
        sun_w_m2 = self.values["dni_w_m2"][:, 0] * passed
        lens = self._lens or self._optics(self.values)
        peak_w_m2 = np.asarray(peak_irradiance_w_m2(lens, patch, sun_w_m2))
        self.camera.film(_rows_of(patch), peak_w_m2, patch.tilt_rad, sun_w_m2, self.values, self.keys, self.tick)
        target = self.targets[n, self.tick, :2]
        error = patch.centre_world_m - target
        error_m = np.sqrt(error[:, 0] ** 2 + error[:, 1] ** 2)
        tension = self.winches.tension_n
        ending = np.where(self.tick >= self.horizon, 1, 0)
        ending[tension.max(axis=1) > self.machine.limits.tension_trip_n] = 2
        ending[error_m > LOST_M] = 3
        ending[patch.tilt_rad > TIPPED_RAD] = 4
        ending[~(finite & np.isfinite(error_m))] = 5
        return State(
            error_m,
            patch.centre_world_m,
            target,
            tension,
            patch.defocus_m,
            patch.tilt_rad,
            peak_w_m2,
            self.melting & (sun_w_m2 > DIMMEST_W_M2),
            ending,
        )

    # -- observe ----------------------------------------------------------------------------------------------

    def measurement(self) -> Measurement:
        """Return what the machines tell now: as much as a webcam and winch counters can."""
        camera = self.camera
        return self._measurement(camera.measured, camera.age_s, camera.fresh, self.counted_m, self._sun_rad)

    @staticmethod
    def _measurement(
        patch: Array, age_s: Array, seen: NDArray[np.bool_], counted_m: Array, sun_rad: Array
    ) -> Measurement:
        semi_axes, angle = semi_axes_and_angle(patch[:, 2], patch[:, 3], patch[:, 4])
        return Measurement(age_s, patch[:, :2], semi_axes, angle, seen, counted_m, sun_rad[:, 0], sun_rad[:, 1])

    @property
    def melting(self) -> NDArray[np.bool_]:
        """(n,) whether the light is meant to melt now: False during dark moves."""
        return self._melting[self._all, self.tick]

    @property
    def patch(self) -> Array:
        """(n, 5) the light patch as it truly is: centre x and y, second central moments xx, xy, yy; a live view."""
        return self.camera.seen[:, 0]

    def plan(self) -> Plan:
        """Return where the light should be now, when it was seen, and just ahead."""
        return self._plan(self.targets, self._all, self.tick, self.camera.age_s)

    def _plan(self, targets: Array, n: Ids, tick: NDArray[np.int64], age_s: Array) -> Plan:
        path, rows = targets.reshape(-1, 3), n * targets.shape[1]
        past = np.maximum(tick - age_s * (1 / self.machine.control.period_s), 0.0)
        whole = past.astype(np.intp)
        blend = (past - whole)[:, None]
        earlier = path[rows + whole, :2]
        captured = earlier + (path[rows + whole + 1, :2] - earlier) * blend
        later = (rows + tick)[:, None] + self._ahead
        ahead, now = path[later], path[rows + tick]
        if self._ahead_rest.any():
            ahead = ahead + (path[later + 1] - ahead) * self._ahead_rest
        return Plan(now[:, :2], captured, ahead[..., :2], now[:, 2], ahead[:, 0, 2])

    def observe(self) -> NDArray[np.float32]:
        """Return the (n, size) observations after the last step or reset."""
        return self._observation.copy()

    # -- resume -----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies of everything that a batch of the same size needs to go on from here."""
        arrays = {name: getattr(self, name).copy() for name in _KEPT}
        arrays |= {f"reference_{name}": getattr(self.reference, name).copy() for name in _REFERENCE}
        for part, names in self._parts():
            arrays |= {f"{type(part).__name__}.{name}": getattr(part, name).copy() for name in names}
        return arrays | {f"physics_{name}": value for name, value in self.physics.state().items()}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Go on from :meth:`state`, bit for bit."""
        for name in _KEPT:
            getattr(self, name)[...] = state[name]
        self._configure(self._all)
        for name in _REFERENCE:
            getattr(self.reference, name)[...] = state[f"reference_{name}"]
        for part, names in self._parts():
            for name in names:
                setattr(part, name, state[f"{type(part).__name__}.{name}"].copy())
        self.physics.restore({name: state[f"physics_{name}"] for name in ("qpos", "qvel", "act")})

    def _parts(self) -> tuple[tuple[Any, tuple[str, ...]], ...]:
        memory = ("seen", "offset_m", "spread_m2", "spots_m")
        return (
            (self.winches, Transmission.KEPT),
            (self.camera, Camera.KEPT),
            (self.memory, memory),
        )


_ENDS = np.cumsum([quantity.size for quantity in QUANTITIES]).tolist()


def _views(drawn: Array) -> dict[str, Array]:
    """Drawn values (k, all) by quantity, (k, size) each, as views."""
    return {q.name: drawn[:, end - q.size : end] for q, end in zip(QUANTITIES, _ENDS, strict=True)}


def _rows_of(patch: FastPatch) -> Array:
    """(n, 5) centre and second central moments."""
    rows = np.empty((len(patch.xx), 5))
    rows[:, :2] = patch.centre_world_m
    rows[:, 2], rows[:, 3], rows[:, 4] = patch.xx, patch.xy, patch.yy
    return rows


_REFERENCE = ("sun_world", "rotation", "anchors_m", "slack_coefficients", "held_back_m")
_PREPARED = (
    *("keys", "path_kind", "targets", "_melting", "_sun_rad", "_true_sun", "_sun_motion", "_anchor_motion"),
    *("_weather", "_rotation", "_observation"),
)
"""What an episode starts with."""
_KEPT = (*_PREPARED, "_drawn", "tick", "commands_m_s", "command_um")
"""What a checkpoint holds, beside the parts' own."""
