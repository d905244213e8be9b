"""What an episode asks for: how long it lasts, which machine it meets, which path the light has to follow.

Paths are drawn as targets at every control tick: headings that change at corners, curvature for arcs, folded
back into the working area at its edges.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from melter.env.noise import Keys, uniform
from melter.env.params import NOMINAL, Randomisation
from melter.errors import BadInput
from melter.machine import Machine
from melter.observation import LOOK_AHEAD_S

Array = NDArray[np.float64]

KINDS = ("line", "circle", "corners")


@dataclass(frozen=True)
class Scenario:
    """A family of episodes."""

    randomisation: Randomisation = field(default_factory=Randomisation)
    episode_s: float = 12.0
    feed_m_s: tuple[float, float] = (0.0005, 0.030)
    """Slowest and fastest feed, drawn evenly in its logarithm."""
    start_offset_m: float = 0.006
    """Largest known distance of the lens from where it should be when the episode starts, each axis."""
    bed_share: float = 0.9
    """Share of the working area that paths use."""
    suite: str | None = None
    """Name, for evaluation suites: fixes which episodes are played, whatever the seed."""

    def __post_init__(self) -> None:
        low, high = self.feed_m_s
        if not 0 < low <= high:
            raise BadInput(f"scenario feed_m_s {self.feed_m_s}: low must be above 0 and not above high")
        if not self.episode_s > 0:
            raise BadInput(f"scenario episode_s {self.episode_s}: must be above 0")

    def ticks(self, machine: Machine) -> int:
        """Control periods of an episode."""
        return max(1, round(self.episode_s * machine.control.rate_hz))


TRAIN = Scenario(Randomisation(share=0.85))
"""What policies are trained on: the whole table of ``params.py``, one episode in seven nominal."""
SUITES = {
    "nominal": Scenario(NOMINAL, episode_s=20.0, feed_m_s=(0.0005, 0.003), start_offset_m=0.002, suite="nominal"),
    "outdoor": Scenario(
        Randomisation(), episode_s=20.0, feed_m_s=(0.0005, 0.003), start_offset_m=0.002, suite="outdoor"
    ),
}


def scenario_named(name: str) -> Scenario:
    """Return the scenario ``train``, ``nominal`` or ``outdoor``; raise BadInput for another name."""
    scenarios = {"train": TRAIN, **SUITES}
    if name not in scenarios:
        raise BadInput(f"scenario {name}: must be one of {', '.join(scenarios)}")
    return scenarios[name]


def look_ahead_ticks(machine: Machine) -> Array:
    """Return the look-ahead times in control periods, not rounded."""
    return np.array(LOOK_AHEAD_S) * machine.control.rate_hz


def target_count(machine: Machine, scenario: Scenario) -> int:
    """Return how many targets an episode needs: one per control tick, and the look-ahead beyond its end."""
    return scenario.ticks(machine) + int(np.ceil(look_ahead_ticks(machine).max())) + 2


def draw_targets(keys: Keys, machine: Machine, scenario: Scenario) -> Array:
    """Return (n, target_count, 2) targets at every control tick, world x and y, metres."""
    count = target_count(machine, scenario)
    period_s = machine.control.period_s
    half = np.array(machine.bed.size_m) / 2 * scenario.bed_share
    choice = uniform(keys, 10, 6)
    low, high = scenario.feed_m_s
    feed = low * np.exp(choice[:, 0] * np.log(high / low))
    kind = (choice[:, 1] * len(KINDS)).astype(int)
    start = (2 * choice[:, 2:4] - 1) * half
    radius = 0.03 + 0.17 * choice[:, 4]
    turn = np.where(kind == 1, feed / radius, 0.0) * np.where(choice[:, 5] < 0.5, 1.0, -1.0)
    heading = _headings(keys, count, period_s, kind) + turn[:, None] * (period_s * np.arange(count))
    step = feed[:, None] * period_s
    x = start[:, :1] + np.cumsum(step * np.cos(heading), axis=1) - step * np.cos(heading[:, :1])
    y = start[:, 1:] + np.cumsum(step * np.sin(heading), axis=1) - step * np.sin(heading[:, :1])
    return np.stack([_fold(x, half[0]), _fold(y, half[1])], axis=-1)


def _headings(keys: Keys, count: int, period_s: float, kind: NDArray[np.int_]) -> Array:
    """(n, count) headings: constant, but for kind 2 with a sharp corner every 4 s or so."""
    corner = uniform(keys, 11, count) < np.where(kind == 2, period_s / 4.0, 0.0)[:, None]
    corner[:, 0] = True
    angle = 2 * np.pi * uniform(keys, 12, count)
    last = np.maximum.accumulate(np.where(corner, np.arange(count), 0), axis=1)
    return np.take_along_axis(angle, last, axis=1)


def _fold(x: Array, half: float) -> Array:
    """Reflect at ±half, as often as needed."""
    return np.abs(np.mod(x - half, 4 * half) - 2 * half) - half


def work_reward(
    error_m: Array, tilt_rad: Array, defocus_m: Array, tension_n: Array, change: Array, machine: Machine
) -> dict[str, Array]:
    """Return the reward's bounded terms by name, each (n,).

    ``error_m`` spot error; ``tension_n`` (n, 8); ``change`` (n, 8) change of command as a share of normal speed.
    Melting wants the spot on the target to a fraction of a bead's width, the lens facing the sun and in focus,
    and every cable inside its band with a margin.
    """
    limits = machine.limits
    low, high = limits.tension_min_n * 1.2, limits.tension_max_n * 0.9
    outside = np.maximum(np.maximum((low - tension_n) / low, (tension_n - high) / (limits.tension_trip_n - high)), 0.0)
    worst = np.minimum(outside.max(axis=1), 1.0)
    return {
        "track": 0.6 / (1 + error_m / 0.0005) + 0.4 / (1 + error_m / 0.004),
        "tilt": -0.1 * np.minimum(tilt_rad / 0.05, 1.0),
        "defocus": -0.1 * np.minimum(np.abs(defocus_m) / 0.03, 1.0),
        "tension": -0.15 * worst,
        "smooth": -0.1 * np.minimum(np.abs(change).mean(axis=1) / 0.2, 1.0),
    }
