"""Paths on the sand: where the light should be at each moment.

A path is a polyline on the sand (world x and y, metres) travelled at a constant feed. Closed shapes are
polylines that end where they start. Nothing here knows of machines or robots.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path as FilePath

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.errors import BadInput

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SandPath:
    """A polyline on the sand with a feed."""

    points_world_m: Array
    """(n, 2) corners, world x and y."""
    feed_m_s: float
    """Speed along the path."""

    def __post_init__(self) -> None:
        points = np.array(self.points_world_m, dtype=float)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2 or not np.isfinite(points).all():
            raise BadInput(f"path: {points.shape} array, must be at least 2 finite points of x and y in metres")
        if not (np.isfinite(self.feed_m_s) and self.feed_m_s > 0):
            raise BadInput(f"path: feed {self.feed_m_s} m/s, must be above 0")
        points.setflags(write=False)
        object.__setattr__(self, "points_world_m", points)

    @property
    def length_m(self) -> float:
        """Length of the polyline."""
        return float(np.linalg.norm(np.diff(self.points_world_m, axis=0), axis=1).sum())

    @property
    def duration_s(self) -> float:
        """Time to travel it once."""
        return self.length_m / self.feed_m_s

    def going_round(self, seconds: float) -> SandPath:
        """Return the path travelled round after round until ``seconds`` are over; one that is not closed ends at its end."""
        points, rounds = self.points_world_m, int(np.ceil(seconds / max(self.duration_s, 1e-9)))
        if rounds <= 1 or not np.array_equal(points[0], points[-1]):
            return self
        return SandPath(np.concatenate([points, *[points[1:]] * (rounds - 1)]), self.feed_m_s)

    def target_world_m(self, t_s: ArrayLike) -> Array:
        """Return the (..., 2) target at times since the start, held at both ends, world x and y, metres."""
        steps = np.linalg.norm(np.diff(self.points_world_m, axis=0), axis=1)
        distance = np.concatenate([[0.0], np.cumsum(steps)])
        s = np.asarray(t_s, dtype=float) * self.feed_m_s
        return np.stack([np.interp(s, distance, self.points_world_m[:, i]) for i in range(2)], axis=-1)


def parse_path(text: str, feed_m_s: float) -> SandPath:
    """Return the path of ``square:SIDE``, ``circle:DIAMETER``, ``line:LENGTH`` or a CSV file of x,y, all in metres.

    Shapes are centred on the bed. Raises BadInput.
    """
    kind, _, size = text.partition(":")
    if kind in _SHAPES and size:
        try:
            size_m = float(size)
        except ValueError:
            raise BadInput(f"path {text}: size {size!r} is not a number of metres") from None
        if not (np.isfinite(size_m) and 0 < size_m < 50):
            raise BadInput(f"path {text}: size {size_m} m, must be above 0 and below 50")
        return SandPath(_SHAPES[kind](size_m), feed_m_s)
    file = FilePath(text)
    if not file.is_file():
        raise BadInput(f"path {text}: neither {', '.join(f'{name}:METRES' for name in _SHAPES)} nor a file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of an empty file; SandPath refuses it
            points = np.loadtxt(file, delimiter=",", ndmin=2)
    except (ValueError, OSError) as error:
        raise BadInput(f"path {text}: not a CSV of x,y in metres: {error}") from None
    return SandPath(points, feed_m_s)


def _square(side_m: float) -> Array:
    h = side_m / 2
    return np.array([(-h, -h), (h, -h), (h, h), (-h, h), (-h, -h)])


def _circle(diameter_m: float) -> Array:
    angle = np.linspace(0, 2 * np.pi, 181)
    points = diameter_m / 2 * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    points[-1] = points[0]
    return points


def _line(length_m: float) -> Array:
    return np.array([(-length_m / 2, 0.0), (length_m / 2, 0.0)])


_SHAPES = {"square": _square, "circle": _circle, "line": _line}
