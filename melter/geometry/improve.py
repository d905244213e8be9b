"""The smallest change with which a machine would hold its lens: candidates tried in order of effort."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from melter.geometry.check import CLEARANCE_MIN_M, Report, assess, poses_hold, work_poses
from melter.geometry.clearance import clearances_m
from melter.geometry.shape import MachineShape

Array = NDArray[np.float64]

WIDTH = 14
"""Best combinations that go into the next round."""


@dataclass(frozen=True, eq=False)
class Change:
    """One change of a machine."""

    kind: str
    """Two changes of one kind exclude each other."""
    words: str
    """For people."""
    effort: float
    """1: re-tie cables; more: wood and steel."""
    make: Callable[[MachineShape], MachineShape]
    """The changed machine."""


@dataclass(frozen=True, eq=False)
class Improvement:
    """Changes that were tried together and what they give."""

    changes: tuple[Change, ...]
    share: float
    """Share of poses that hold, up to ``zenith_deg``."""
    zenith_deg: float
    """Sun looked at."""
    shape: MachineShape
    """The changed machine."""
    report: Report | None = None
    """The whole assessment of the changed machine, where it was made."""

    @property
    def words(self) -> str:
        """All changes in words."""
        return " and ".join(change.words for change in self.changes)

    @property
    def effort(self) -> float:
        """Of all changes."""
        return sum(change.effort for change in self.changes)

    @property
    def enough(self) -> bool:
        """Whether the changed machine, assessed like any other up to this sun, has no problem."""
        return self.report is not None and self.report.holds


def smallest_improvement(shape: MachineShape, zenith_deg: float) -> Improvement | None:
    """Return the least effort that makes every pose up to ``zenith_deg`` hold with enough clearance, or the best found.

    Single changes first, then pairs, then the best pairs with a third. None if nothing helps.
    """
    single = changes(shape)
    rounds = [_try(shape, (change,), zenith_deg) for change in single]
    found = _first_enough(rounds)
    for _ in range(2):
        if found is not None:
            break
        best = sorted(rounds, key=_rank)[:WIDTH]
        more = [(*one.changes, c) for one in best for c in single if c.kind not in {d.kind for d in one.changes}]
        rounds += [_try(shape, combined, zenith_deg) for combined in more]
        found = _first_enough(rounds)
    best = found or _finely(min(rounds, key=_rank))
    return best if found or best.share > _share(shape, zenith_deg, fine=True) else None


def changes(shape: MachineShape) -> list[Change]:
    """Return the single changes that are tried."""
    strut = float(np.abs(shape.attachments_lens_m[:, 2]).max())
    tried = [
        Change("wiring", "swap the two cables of every pole at the lens", 1.0, _swapped),
        Change("wiring", "tie every cable to the lens corner nearest to its pole", 1.0, _nearest_corner),
    ]
    for more in (0.1, 0.2, 0.3, 0.4):
        words = f"struts of +-{strut + more:.2f} m at the attachments, upper cables to the lower ends (crossed)"
        tried.append(Change("struts", words, 10 * more, partial(_with_struts, length_m=strut + more)))
    for more in (0.25, 0.5, 1.0):
        tried.append(Change("base", f"poles {more:g} m further apart", 8 * more, partial(_wider, more_m=more)))
        tried.append(Change("height", f"upper pulleys {more:g} m higher", 8 * more, partial(_higher, more_m=more)))
    high_n = 1.5 * shape.tension_max_n
    words = f"tension_max_n {high_n:.0f} (stronger cables, winches and frame)"
    tried.append(Change("tension", words, 6.0, partial(replace, tension_max_n=high_n)))
    for side, sign in (("clockwise", -1), ("counterclockwise", 1)):
        words = f"poles at the corners of their square (turned 45 degrees {side}), cables to the nearest lens corners"
        tried.append(Change("wiring", words, 5.0, partial(_at_corners, sign=sign)))
    return tried


def _try(shape: MachineShape, combined: tuple[Change, ...], zenith_deg: float) -> Improvement:
    """What changes give on the coarse grid; wiring is done before struts are set."""
    for change in sorted(combined, key=lambda c: c.kind != "wiring"):
        shape = change.make(shape)
    return Improvement(combined, _share(shape, zenith_deg), zenith_deg, shape)


def _finely(one: Improvement) -> Improvement:
    """The same after the whole assessment of the changed machine."""
    report = assess(replace(one.shape, sun_zenith_deg=one.zenith_deg))
    return replace(one, share=report.feasible_share, report=report)


def _first_enough(tried: list[Improvement]) -> Improvement | None:
    full = sorted((one for one in tried if one.share == 1), key=lambda one: one.effort)
    promising = (
        one for one in full if _clear(one.shape, one.zenith_deg) and _share(one.shape, one.zenith_deg, True) == 1
    )
    return next((fine for fine in map(_finely, promising) if fine.enough), None)


def _rank(one: Improvement) -> tuple[float, float]:
    return -one.share, one.effort


def _share(shape: MachineShape, zenith_deg: float, fine: bool = False) -> float:
    """Share of poses that hold, over a coarse grid or a fine one."""
    zeniths = np.linspace(0, zenith_deg, 4 if fine else 2)
    points, azimuths = (5, 12) if fine else (3, 4)
    work = [work_poses(shape, float(z), points, azimuths) for z in zeniths]
    centre = np.stack([p.centre_world_m for p in work])
    return float(poses_hold(shape, centre, np.stack([p.rotation for p in work])).mean())


def _clear(shape: MachineShape, zenith_deg: float) -> bool:
    work = work_poses(shape, zenith_deg, 3)
    near = clearances_m(shape, work.centre_world_m, work.rotation, work.sun_world)
    return all(float(value.min()) >= CLEARANCE_MIN_M for value in near.values())


def _upper(shape: MachineShape) -> NDArray[np.bool_]:
    """(8,) which cables run over the upper pulleys."""
    z = shape.pulleys_world_m[:, 2]
    return z > 0.5 * (z.min() + z.max())


def _with_struts(shape: MachineShape, length_m: float) -> MachineShape:
    tied = shape.attachments_lens_m.copy()
    tied[:, 2] = np.where(_upper(shape), -length_m, length_m)
    return replace(shape, attachments_lens_m=tied)


def _swapped(shape: MachineShape) -> MachineShape:
    """Attachments exchanged between the two cables of each pole."""
    tied = shape.attachments_lens_m.copy()
    for i, j in combinations(range(8), 2):
        if np.hypot(*(shape.pulleys_world_m[i, :2] - shape.pulleys_world_m[j, :2])) < 0.1:
            tied[[i, j]] = tied[[j, i]]
    return replace(shape, attachments_lens_m=tied)


def _nearest_corner(shape: MachineShape) -> MachineShape:
    """Every cable to the place (seen along the axis) nearest to its pole in direction, at its own height."""
    places = np.unique(shape.attachments_lens_m[:, :2], axis=0)
    tied = shape.attachments_lens_m.copy()
    pole = shape.pulleys_world_m[:, :2] - shape.pulleys_world_m[:, :2].mean(axis=0)
    unit, towards = pole / np.linalg.norm(pole, axis=1)[:, None], places / np.linalg.norm(places, axis=1)[:, None]
    tied[:, :2] = places[np.argmax(unit @ towards.T + 1e-9 * np.arange(len(places)), axis=1)]
    return replace(shape, attachments_lens_m=tied)


def _wider(shape: MachineShape, more_m: float) -> MachineShape:
    extent = np.ptp(shape.poles_world_m, axis=0)
    factor = (extent + more_m) / extent
    pulleys = shape.pulleys_world_m.copy()
    pulleys[:, :2] *= factor
    return replace(shape, pulleys_world_m=pulleys, poles_world_m=shape.poles_world_m * factor)


def _higher(shape: MachineShape, more_m: float) -> MachineShape:
    pulleys = shape.pulleys_world_m.copy()
    pulleys[_upper(shape), 2] += more_m
    return replace(shape, pulleys_world_m=pulleys, frame_height_m=shape.frame_height_m + more_m)


def _at_corners(shape: MachineShape, sign: int) -> MachineShape:
    """Poles turned by 45 degrees about the bed and moved out to the corners of the square they stood on."""
    turn = np.array([[1.0, -sign], [sign, 1.0]])
    pulleys = shape.pulleys_world_m.copy()
    pulleys[:, :2] = pulleys[:, :2] @ turn.T
    return _nearest_corner(replace(shape, pulleys_world_m=pulleys, poles_world_m=shape.poles_world_m @ turn.T))
