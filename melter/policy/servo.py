"""The classical controller: a visual servo that sees exactly what a policy sees.

Path feed-forward through the drawing's inverse kinematics; the measured spot corrects the lens in the plane, with the
motion still in flight predicted; the counters hold everything that the spot does not tell (height, attitude,
tension distribution). It is what a careful engineer would run instead of a policy, and where training starts from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.geometry.cables import cable_vectors_world_m
from melter.geometry.pose import rotation_facing, work_centre_world_m
from melter.machine import WINCH_COUNT, Machine
from melter.observation import COMMANDS_KEPT, ObservationBuilder

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ServoGains:
    """Gains of the servo; the defaults were tuned on the outdoor suite (``benchmarks/servo.py``)."""

    spot_per_s: float = 1.6
    """Share of the predicted spot error taken back per second."""
    length_per_s: float = 1.0
    """Share of the other cable length errors taken back per second."""
    commands_in_flight: float = 2.5
    """Commands, newest first, whose motion the newest frame does not show yet."""


class Servo:
    """Observation (n, obs) to action (n, 8); no state."""

    def __init__(self, machine: Machine, gains: ServoGains | None = None) -> None:
        self.machine, self.gains = machine, gains or ServoGains()
        self._builder = ObservationBuilder(machine)
        self._scales = {entry.name: entry.scale for entry in self._builder.table}

    def act(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (n, 8) actions in [-1, 1]."""
        limits, gains = self.machine.limits, self.gains
        period_s = self.machine.control.period_s
        ahead, spot_error = self._entry(observation, "feed_forward"), self._entry(observation, "spot_error")
        length_error = self._entry(observation, "length_error")
        commands = self._entry(observation, "commands").reshape(-1, COMMANDS_KEPT, WINCH_COUNT)
        share = np.clip(gains.commands_in_flight - np.arange(COMMANDS_KEPT), 0, 1)[:, None] * period_s
        in_flight = ((ahead[:, None] - commands) * share).sum(axis=1)
        plane = self._plane(observation)
        error = spot_error + _explained(plane, in_flight)
        rest = length_error - _through(plane, _explained(plane, length_error))
        speed = ahead + gains.spot_per_s * _through(plane, error) + gains.length_per_s * rest
        return np.clip(speed / limits.speed_normal_m_s, -1, 1).astype(np.float32)

    def _entry(self, observation: NDArray[np.float32], name: str) -> Array:
        return observation[:, self._builder.slice_of(name)].astype(float) * self._scales[name]

    def _plane(self, observation: NDArray[np.float32]) -> Array:
        """(n, 8, 2) cable lengths per metre that the lens moves along world x and y, at the target."""
        machine = self.machine
        xy = self._entry(observation, "sun")
        up = np.sqrt(np.maximum(1 - (xy * xy).sum(axis=1, keepdims=True), 1e-3))
        sun = np.concatenate([xy, up], axis=1)
        centre = work_centre_world_m(
            self._entry(observation, "target"), sun, machine.lens.focal_length_m, machine.sand.height_m
        )
        towards, _ = cable_vectors_world_m(
            machine.pulleys_world_m, machine.attachments_lens_m, centre, rotation_facing(sun)
        )
        return -towards[..., :2] / np.sqrt((towards * towards).sum(axis=-1, keepdims=True))


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
