"""The classical controller: a visual servo that sees exactly what a policy sees.

Path feed-forward through the drawing's inverse kinematics and tension distribution. The spot is estimated from the winch
counters, moved by a running mean of how far the camera's spot lay from theirs: that mean is the integral action, as quick
as the camera's noise allows, and as the counters are never late the camera's delay costs no stability. Commands that the
counters do not show yet are predicted. The counters hold everything that the spot does not tell (height, attitude, tension
distribution). It is what a careful engineer would run instead of a policy, and where training starts from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.geometry.cables import cable_vectors_world_m
from melter.geometry.pose import rotation_facing, work_centre_world_m
from melter.machine import WINCH_COUNT, Machine
from melter.observation import COMMANDS_KEPT, LOOK_AHEAD_S, MEMORY_S, ObservationBuilder

Array = NDArray[np.float64]


Knots = tuple[float, float, float]

DISAGREEMENT_M = (0.0003, 0.001, 0.003)
"""Disagreement of camera and counters from frame to frame at which the scheduled gains are given."""


@dataclass(frozen=True)
class ServoGains:
    """Gains of the servo; the defaults were found by ``benchmarks/servo.py``.

    Three numbers: for a quiet, a middling and a noisy camera (:data:`DISAGREEMENT_M`), interpolated between them.
    """

    spot_per_s: Knots = (7.5, 9.0, 6.5)
    """Share of the predicted spot error taken back per second."""
    fast_weight: Knots = (0.55, 0.5, 0.0)
    """Weight of the offset's shortest mean; the middle one has the rest."""
    slow_weight: Knots = (0.4, 0.85, 0.9)
    """Weight of the offset's longest mean; below zero it leads a drift."""
    jump: tuple[float, float] = (1.8, 2.4)
    """The offset is taken to have moved where the shortest mean lies this many times its noise from the middle one, and
    the middle one from the longest: half of the way at that distance."""
    moved_weight: float = 1.25
    """Weight of the shortest mean where the offset has moved; at 1.25 a steady drift leaves no error."""
    length_per_s: float = 6.0
    """Share of the other cable length errors taken back per second."""
    commands_in_flight: float = 1.4
    """Commands, newest first, whose motion the counters do not show yet."""
    lead: float = 0.9
    """How far the feed-forward looks from the next 0.1 s of path to the 0.15 s after it, 0 to 1."""


class Servo:
    """Observation (n, obs) to action (n, 8); no state of its own: the observation remembers."""

    def __init__(self, machine: Machine, gains: ServoGains | None = None) -> None:
        self.machine, self.gains = machine, gains or ServoGains()
        self._builder = ObservationBuilder(machine)
        self._scales = {entry.name: entry.scale for entry in self._builder.table}
        self._noise = np.sqrt(machine.control.period_s / 2 / np.array(MEMORY_S))
        """Noise of each mean over that of one frame."""

    def act(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (n, 8) actions in [-1, 1]."""
        gains, plane = self.gains, self._plane(observation)
        disagree = self._entry(observation, "offset_spread")
        noisy = _noisy(disagree)
        ahead = self._feed_forward(observation, plane)
        in_flight = self._in_flight(observation, ahead)
        length_error = self._entry(observation, "length_error") + in_flight
        error = self._spot_error(observation, disagree, noisy) + _explained(plane, in_flight)
        rest = length_error - _through(plane, _explained(plane, length_error))
        speed = ahead + _between(gains.spot_per_s, noisy) * _through(plane, error) + gains.length_per_s * rest
        return np.clip(speed / self.machine.limits.speed_normal_m_s, -1, 1).astype(np.float32)

    def _spot_error(self, observation: NDArray[np.float32], disagree: Array, noisy: Array) -> Array:
        """(n, 2) target minus where the spot is: the counters' spot, moved by a mean of how far the camera's lay from it."""
        gains, noise = self.gains, disagree * self._noise
        fast, middle, slow = np.moveaxis(self._entry(observation, "spot_estimate").reshape(-1, 2, len(MEMORY_S)), 2, 0)
        weight = _between(gains.fast_weight, noisy)
        moved = _moved(fast - middle, gains.jump[0] * noise[:, :1])
        recent = middle + (weight + (gains.moved_weight - weight) * moved) * (fast - middle)
        still = 1 - _moved(recent - slow, gains.jump[1] * noise[:, 1:2])
        return recent + _between(gains.slow_weight, noisy) * still * (slow - recent)

    def _feed_forward(self, observation: NDArray[np.float32], plane: Array) -> Array:
        """(n, 8) cable speeds that follow the path."""
        path = self._entry(observation, "path_ahead").reshape(-1, len(LOOK_AHEAD_S), 2)
        first, second = LOOK_AHEAD_S[:2]
        turn = (path[:, 1] - path[:, 0]) / (second - first) - path[:, 0] / first
        return self._entry(observation, "feed_forward") + self.gains.lead * _through(plane, turn)

    def _in_flight(self, observation: NDArray[np.float32], ahead: Array) -> Array:
        """(n, 8) how much further the cables' errors will have grown when the newest commands have come to pass."""
        commands = self._entry(observation, "commands").reshape(-1, COMMANDS_KEPT, WINCH_COUNT)
        share = np.clip(self.gains.commands_in_flight - np.arange(COMMANDS_KEPT), 0, 1)[:, None]
        return ((ahead[:, None] - commands) * share).sum(axis=1) * self.machine.control.period_s

    def _entry(self, observation: NDArray[np.float32], name: str) -> Array:
        return observation[:, self._builder.slice_of(name)].astype(float) * self._scales[name]

    def _plane(self, observation: NDArray[np.float32]) -> Array:
        """(n, 8, 2) cable lengths per metre that the lens moves along world x and y, at the target."""
        machine = self.machine
        xy = self._entry(observation, "sun")
        up = np.sqrt(np.maximum(1 - (xy * xy).sum(axis=1, keepdims=True), 1e-3))
        sun = np.concatenate([xy, up], axis=1)
        distance_m = machine.lens.focal_length_m - self._entry(observation, "drop")[:, 0]
        centre = work_centre_world_m(self._entry(observation, "target"), sun, distance_m, machine.sand.height_m)
        towards, _ = cable_vectors_world_m(
            machine.pulleys_world_m, machine.attachments_lens_m, centre, rotation_facing(sun)
        )
        return -towards[..., :2] / np.sqrt((towards * towards).sum(axis=-1, keepdims=True))


def _noisy(disagree_m: Array) -> Array:
    """(n, 1) place between the knots: 0 quiet, 1 middling, 2 noisy."""
    return np.interp(np.log(np.maximum(disagree_m, 1e-9)), np.log(DISAGREEMENT_M), (0.0, 1.0, 2.0))


def _between(knots: Knots, place: Array) -> Array:
    return np.interp(place, (0.0, 1.0, 2.0), knots)


def _moved(apart_m: Array, noise_m: Array) -> Array:
    """(n, 1) how surely a distance (n, 2) is more than noise (n, 1): 0 to 1."""
    square = (apart_m * apart_m).sum(axis=1, keepdims=True) / (noise_m * noise_m + 1e-12)
    return square * square / (1 + square * square)


def _through(plane: Array, xy_m: Array) -> Array:
    """(n, 8) length changes for (n, 2) moves."""
    return plane[..., 0] * xy_m[:, :1] + plane[..., 1] * xy_m[:, 1:]


def _explained(plane: Array, lengths_m: Array) -> Array:
    """(n, 2) the move in the plane that explains (n, 8) length changes best."""
    a, b = plane[..., 0], plane[..., 1]
    aa, ab, bb = (a * a).sum(axis=1), (a * b).sum(axis=1), (b * b).sum(axis=1)
    al, bl = (a * lengths_m).sum(axis=1), (b * lengths_m).sum(axis=1)
    scale = 1 / (aa * bb - ab * ab)
    return np.stack([(bb * al - ab * bl) * scale, (aa * bl - ab * al) * scale], axis=1)
