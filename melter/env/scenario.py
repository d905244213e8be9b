"""What an episode asks for: how long it lasts, which machine it meets, which path the light has to follow.

Paths are drawn as targets at every control tick: headings that change at corners, curvature for arcs, folded
back into the working area at its edges; islands with dark moves between them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from melter.env.noise import Keys, uniform
from melter.env.params import BED_SHARE, NOMINAL, Randomisation
from melter.errors import BadInput
from melter.machine import Machine
from melter.observation import DROP_M, LOOK_AHEAD_S

Array = NDArray[np.float64]

KINDS = ("line", "circle", "corners", "islands")
"""Paths: straight, round, with a sharp corner every few seconds, and short tracks with dark moves between them."""
ISLAND_S, HOP_M, RAMP_S = (3.0, 6.0), (0.08, 0.30), 0.5
"""Time on an island, distance to the next one, time to reach the speed of a dark move (the normal cable speed)."""


@dataclass(frozen=True)
class Targets:
    """Where the light should be, for n episodes."""

    kind: NDArray[np.int_]
    """(n,) index into KINDS"""
    path: Array
    """(n, target_count, 3) world x and y of the spot, and how far the lens is to be below focus, at every control tick, metres"""
    melting: NDArray[np.bool_]
    """(n, target_count) False during dark moves"""


@dataclass(frozen=True)
class Scenario:
    """A family of episodes."""

    randomisation: Randomisation = field(default_factory=Randomisation)
    episode_s: float = 12.0
    feed_m_s: tuple[float, float] = (0.0005, 0.030)
    """Slowest and fastest feed, drawn evenly in its logarithm."""
    start_offset_m: float = 0.006
    """Largest known distance of the lens from where it should be when the episode starts, each axis."""
    bed_share: float = BED_SHARE
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


def draw_targets(keys: Keys, machine: Machine, scenario: Scenario) -> Targets:
    """Return where the light should be at every control tick, for simulations with these keys (n,)."""
    count, period_s = target_count(machine, scenario), machine.control.period_s
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
    path = np.stack([_fold(x, half[0]), _fold(y, half[1]), np.zeros_like(x)], axis=-1)
    melting = np.ones((len(keys), count), dtype=bool)
    hops = np.flatnonzero(kind == KINDS.index("islands"))
    if len(hops):
        path[hops], melting[hops] = _islands(keys[hops], machine, scenario, start[hops], feed[hops], half)
    return Targets(kind, path, melting)


def _islands(
    keys: Keys, machine: Machine, scenario: Scenario, start: Array, feed: Array, half: Array
) -> tuple[Array, NDArray[np.bool_]]:
    """Short straight tracks with dark moves between them: lower the lens out of focus, move, raise it again."""
    count, speed = target_count(machine, scenario), machine.limits.speed_normal_m_s
    now = machine.control.period_s * np.arange(count)
    shift_s = 2 * DROP_M / speed
    if scenario.suite is None:  # in training an episode may begin anywhere in its first cycle
        now = now + uniform(keys, 13, 1) * (ISLAND_S[0] + 2 * shift_s)
    now = np.broadcast_to(now, (len(keys), count))
    path = np.zeros((len(keys), count, 3))
    path[:, :, :2] = start[:, None]
    melting = np.ones((len(keys), count), dtype=bool)
    begin, here, number = np.zeros(len(keys)), start, 0
    while begin.min() < now[:, -1].max():
        dice = uniform(keys, 40 + number, 4)
        melt_s = ISLAND_S[0] + dice[:, 0] * (ISLAND_S[1] - ISLAND_S[0])
        heading, way = 2 * np.pi * dice[:, 1], 2 * np.pi * dice[:, 2]
        end = _inside(here + (feed * melt_s)[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=1), half)
        away = (HOP_M[0] + dice[:, 3] * (HOP_M[1] - HOP_M[0]))[:, None] * np.stack([np.cos(way), np.sin(way)], axis=1)
        there = _inside(end + np.where(np.abs(end + away) > half, -away, away), half)
        length = np.sqrt(((there - end) ** 2).sum(axis=1))
        travel_s = length / speed + RAMP_S
        dark = begin + melt_s
        share = np.clip((now - begin[:, None]) / melt_s[:, None], 0, 1)
        moved = _ramped((now - (dark + shift_s)[:, None]) / travel_s[:, None], (RAMP_S / travel_s)[:, None])
        path[:, :, :2] += share[:, :, None] * (end - here)[:, None] + moved[:, :, None] * (there - end)[:, None]
        raised = dark + shift_s + travel_s
        path[:, :, 2] += DROP_M * (
            _smooth((now - dark[:, None]) / shift_s) - _smooth((now - raised[:, None]) / shift_s)
        )
        begin, here, number = raised + shift_s, there, number + 1
        melting &= (now < dark[:, None]) | (now >= begin[:, None])
    return path, melting


def _inside(spot: Array, half: Array) -> Array:
    return np.clip(spot, -half, half)


def _smooth(share: Array) -> Array:
    """Rise from 0 to 1 without a jump in speed."""
    u = np.clip(share, 0, 1)
    return u * u * (3 - 2 * u)


def _ramped(share: Array, ramp: Array) -> Array:
    """Go from 0 to 1 at constant speed, with ``ramp`` of the time spent on getting to it and again on stopping."""
    u, top = np.clip(share, 0, 1), 1 / (1 - ramp)
    rising, falling = np.minimum(u, ramp), np.maximum(u - (1 - ramp), 0)
    return top * (rising * rising / (2 * ramp) + (u - rising) - falling * falling / (2 * ramp))


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

    ``error_m`` spot error; ``defocus_m`` focus above where it should be; ``tension_n`` (n, 8); ``change`` (n, 8) change of
    command as a share of normal speed.
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
