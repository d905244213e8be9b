"""Over time: which of several spots is the patch, and is it where it can be by now?

A track is believed after a few frames that agree. Then a spot must lie where the patch can have moved to and look as it
looked; one that does not is followed only when it stays for a while and the expected one does not come back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.observation import Status
from melter.vision.patch import Spot
from melter.vision.profile import start_from

Array = NDArray[np.float64]

BELIEVED_AFTER = 3
"""Frames that must agree before a track is believed."""
FASTEST_M_S = 0.40
"""No patch moves faster on the sand: three times the fastest cable speed."""
GATE_M = 0.025
"""A patch may always be this far from where it was going: wind, and the uncertainty of shapes that change."""
JUMP_CONFIRMED_S = 0.25
"""A spot elsewhere is followed when it stays this long while the expected one is gone."""
DOUBTFUL_CONFIRMED_S = 2.0
"""The same for a spot that may be a sparkle."""
LIKELY, DOUBTFUL = 0.8, 0.4
"""Likeness from which a spot is taken for the patch sooner, and below which later."""
FIXTURE_M = 0.015
"""A spot this near to one that shone beside the patch is that one."""
MOST_FIXTURES = 20
MEMORY_S = 5.0
"""After this long without a patch the track is forgotten."""
RIVAL_SHARE = 0.15
"""A second spot with this share of the light makes the answer ambiguous."""
SHAPE_CHANGE_PER_S = 0.5
"""Relative change of size or light."""


@dataclass(frozen=True, eq=False)
class Choice:
    """Which spot is the patch in this frame."""

    spot: Spot | None
    status: Status
    reason: str = ""


@dataclass(frozen=True, eq=False)
class _State:
    centre_m: Array
    velocity_m_s: Array
    time_s: float
    frames: int
    profile: Array | None
    """Parameters of the last profile that was whole."""
    profile_time_s: float
    log_area: float


class Track:
    """The memory of one tracker."""

    def __init__(self) -> None:
        self._state: _State | None = None
        self._pending: _State | None = None
        self._pending_since_s = 0.0
        self._fixtures: list[Array] = []

    def shape_at(self, time_s: float) -> tuple[Array, float] | None:
        """Return the last whole profile and how far it may have changed; None without a believed track."""
        s = self._state
        if s is None or s.frames < BELIEVED_AFTER or s.profile is None or not 0 <= time_s - s.profile_time_s < MEMORY_S:
            return None
        return s.profile, 0.06 + SHAPE_CHANGE_PER_S * (time_s - s.profile_time_s)

    def expected_at(self, time_s: float) -> tuple[Array, float] | None:
        """Return where the patch should be and how far from there it may be; None without a believed track."""
        s = self._state
        if s is None or s.frames < BELIEVED_AFTER or not 0 <= time_s - s.time_s < MEMORY_S:
            return None
        return _expected(s, time_s)

    def choose(self, spots: Sequence[Spot], time_s: float) -> Choice:
        """Return the patch among spots of one frame and remember it."""
        s = self._state
        if s is not None and not 0 <= time_s - s.time_s < MEMORY_S:
            s = self._state = None
        ordered = sorted(spots, key=lambda spot: (spot.pointlike, -spot.weight))
        if s is None or s.frames < BELIEVED_AFTER:
            return self._first_sight(ordered, time_s)
        dt = time_s - s.time_s
        expected, reach = _expected(s, time_s)
        near = [spot for spot in ordered if self._may_be(spot, s, expected, reach, dt)]
        if near:
            best = min(
                near,
                key=lambda spot: (
                    _distance(spot, expected)
                    - 0.2 * reach * np.log(max(spot.weight, 1e-12) / max(near[0].weight, 1e-12))
                ),
            )
            self._state, self._pending = _advanced(s, best, time_s), None
            self._remember([spot for spot in ordered if spot is not best], best)
            return self._judge(best, [spot for spot in ordered if spot is not best])
        new = [spot for spot in ordered if not self._known(spot)]
        if new and self._confirmed(new[0], time_s):
            self._state, self._pending = self._pending, None
            return self._judge(new[0], new[1:])
        reason = "a bright spot is not where the patch can be" if ordered else ""
        return Choice(None, "lost", reason)

    def _first_sight(self, ordered: Sequence[Spot], time_s: float) -> Choice:
        if not ordered:
            return Choice(None, "lost")
        best, s = ordered[0], self._state
        if s is not None:
            reach = GATE_M + FASTEST_M_S * min(max(time_s - s.time_s, 0.0), 0.2)
            close = [spot for spot in ordered if _distance(spot, s.centre_m) < reach]
            best = close[0] if close and close[0].weight > 0.3 * best.weight else best
            self._state = _advanced(s, best, time_s) if _distance(best, s.centre_m) < reach else _fresh(best, time_s)
        else:
            self._state = _fresh(best, time_s)
        return self._judge(best, [spot for spot in ordered if spot is not best])

    def _remember(self, others: Sequence[Spot], best: Spot) -> None:
        """Keep the places of spots that shine beside the patch: they are something else, also when it is gone."""
        for spot in others:
            if not self._known(spot):
                self._fixtures = [*self._fixtures[-MOST_FIXTURES:], spot.centre_m]
        self._fixtures = [place for place in self._fixtures if _distance(best, place) > FIXTURE_M]

    def _known(self, spot: Spot) -> bool:
        return any(_distance(spot, place) < FIXTURE_M for place in self._fixtures)

    def _may_be(self, spot: Spot, s: _State, expected: Array, reach: float, dt: float) -> bool:
        """Whether a spot can be the patch: within reach; what looks like a sparkle, or is known to be one, less far."""
        if self._known(spot):
            reach = GATE_M
        elif spot.likeness < DOUBTFUL:
            reach = min(reach, GATE_M + 0.2 * FASTEST_M_S)
        return _distance(spot, expected) < reach and self._similar(spot, s, dt)

    def _similar(self, spot: Spot, s: _State, dt: float) -> bool:
        change = abs(_log_area(spot) - s.log_area)
        return spot.status != "ok" or change < 1.2 + 2 * dt

    def _confirmed(self, spot: Spot, time_s: float) -> bool:
        p = self._pending
        if p is None or _distance(spot, p.centre_m) > GATE_M + FASTEST_M_S * 0.1 or time_s - p.time_s > 0.5:
            self._pending, self._pending_since_s = _fresh(spot, time_s), time_s
            return False
        self._pending = _advanced(p, spot, time_s)
        patience_s = JUMP_CONFIRMED_S if spot.likeness > LIKELY else DOUBTFUL_CONFIRMED_S
        return time_s - self._pending_since_s >= patience_s and self._pending.frames >= BELIEVED_AFTER

    @staticmethod
    def _judge(best: Spot, others: Sequence[Spot]) -> Choice:
        rivals = [
            spot
            for spot in others
            if spot.weight > RIVAL_SHARE * best.weight and not spot.pointlike and not _same(spot, best)
        ]
        if rivals:
            return Choice(best, "ambiguous", f"{len(rivals) + 1} patches of light")
        return Choice(best, best.status)


def _same(one: Spot, other: Spot) -> bool:
    """Whether two spots are parts of one patch with something in front."""
    reach = 2 * float(np.sqrt(np.trace(one.moments_m2)) + np.sqrt(np.trace(other.moments_m2)))
    return "occluded" in (one.status, other.status) and float(np.linalg.norm(one.centre_m - other.centre_m)) < reach


def _distance(spot: Spot, point_m: Array) -> float:
    return float(np.linalg.norm(spot.centre_m - point_m))


def _log_area(spot: Spot) -> float:
    return 0.5 * float(np.log(max(np.linalg.det(spot.moments_m2), 1e-20)))


def _expected(s: _State, time_s: float) -> tuple[Array, float]:
    dt = time_s - s.time_s
    return s.centre_m + s.velocity_m_s * min(dt, 0.3), GATE_M + FASTEST_M_S * min(dt, 1.0)


def _parameters(spot: Spot) -> Array:
    """A profile with the spot's moments and light, for when a part of it is hidden."""
    peak = spot.flux / (2 * np.pi * float(np.sqrt(np.linalg.det(spot.moments_m2))))
    return start_from(spot.centre_m, spot.moments_m2, max(peak, 1e-4))


def _fresh(spot: Spot, time_s: float) -> _State:
    whole = _parameters(spot) if spot.status != "occluded" else None
    return _State(spot.centre_m, np.zeros(2), time_s, 1, whole, time_s, _log_area(spot))


def _advanced(s: _State, spot: Spot, time_s: float) -> _State:
    """Alpha-beta filter of place and speed; the shape is taken over from whole patches only."""
    dt = max(time_s - s.time_s, 1e-3)
    gain = 0.35
    speed = s.velocity_m_s + gain * ((spot.centre_m - s.centre_m) / dt - s.velocity_m_s)
    fastest = float(np.linalg.norm(speed))
    speed = speed * min(1.0, FASTEST_M_S / max(fastest, 1e-9))
    whole = spot.status != "occluded"
    profile = _parameters(spot) if whole else s.profile
    return _State(
        spot.centre_m,
        speed,
        time_s,
        s.frames + 1,
        profile,
        time_s if whole else s.profile_time_s,
        _log_area(spot) if whole else s.log_area,
    )
