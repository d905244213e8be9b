"""Where a run stands, read from its folder or from the store that it is copied to: no learning library."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from melter.cluster.store import Store, is_url, one_line, open_store
from melter.errors import BadInput

PROGRESS, CONFIG, DONE = "progress.csv", "config.json", "eval.json"
VIDEOS = (".mp4", ".webm", ".avi", ".gif")


class Source(Protocol):
    """A run's files, wherever they are."""

    def read(self, name: str) -> bytes | None:
        """Return a file's content, or None where there is none."""
        ...

    def files(self) -> dict[str, float]:
        """Return all files with a number that is larger the newer they are."""
        ...


@dataclass(frozen=True)
class Folder:
    """A run folder on this machine."""

    path: Path

    def read(self, name: str) -> bytes | None:
        """Return a file's content, or None where there is none."""
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def files(self) -> dict[str, float]:
        """Return all files with the time they were written (s)."""
        found = [path for path in self.path.rglob("*") if path.is_file()]
        return {path.relative_to(self.path).as_posix(): path.stat().st_mtime for path in found}


@dataclass(frozen=True)
class Remote:
    """A run folder in a store; file names are the only order that all stores have."""

    store: Store

    def read(self, name: str) -> bytes | None:
        """Return a file's content, or None where there is none."""
        return self.store.read(name)

    def files(self) -> dict[str, float]:
        """Return all files, by name."""
        return {name: float(number) for number, name in enumerate(sorted(self.store.files()))}


@dataclass(frozen=True)
class Point:
    """One report of a run."""

    steps: int
    seconds: float
    reward: float
    error_mm: float
    steps_per_s: float
    outdoor_rms_mm: float
    """NaN where the policy was not tried at that moment."""


@dataclass(frozen=True)
class Standing:
    """Where a run stands."""

    algorithm: str
    machine: str
    points: tuple[Point, ...]
    share: float
    """Of the budget, 0 to 1; NaN where that cannot be told."""
    left_s: float
    done: bool
    video: str | None
    """Name of the newest video in the run's folder."""

    def table(self) -> dict[str, Any]:
        """The standing as plain values."""
        last = self.points[-1] if self.points else None
        return {
            "algorithm": self.algorithm,
            "machine": self.machine,
            "reports": len(self.points),
            "done": self.done,
            "share": self.share,
            "seconds_left": self.left_s,
            "video": self.video,
            **{name: getattr(last, name, None) for name in ("steps", "seconds", "reward", "error_mm", "steps_per_s")},
            "best_outdoor_rms_mm": min((p.outdoor_rms_mm for p in self.points if p.outdoor_rms_mm > 0), default=None),
        }

    def text(self) -> str:
        """The standing on one line."""
        if not self.points:
            return f"{self.algorithm} for {self.machine}: no figures yet"
        last = self.points[-1]
        share = "" if math.isnan(self.share) else f"{100 * self.share:3.0f} %  "
        left = "done" if self.done else "time left unknown" if math.isnan(self.left_s) else f"{self.left_s:.0f} s left"
        return (
            f"{share}{last.steps:,} steps  reward {last.reward:+.2f}  error {last.error_mm:.2f} mm  "
            f"{last.steps_per_s:,.0f} steps/s  {left}"
        )


def source_of(place: str) -> Source:
    """Return the run at a path or URL; raise BadInput where there is none."""
    source = Remote(open_store(place, "watch")) if is_url(place) else Folder(Path(place))
    try:
        known = source.read(CONFIG)
    except Exception as error:
        raise BadInput(f"watch {place}: cannot be read: {one_line(error)}") from None
    if known is None:
        raise BadInput(f"watch {place}: not a run folder of melter sim-train (no {CONFIG})")
    return source


def standing(source: Source) -> Standing:
    """Return where a run stands now. Raises BadInput where its files are not those of a training."""
    try:
        config = json.loads(source.read(CONFIG) or b"")
        algorithm, machine = str(config["algorithm"]), str(config["machine"]["name"])
        budget = config["steps"], config["minutes"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{CONFIG}: not that of a training ({type(error).__name__}: {error})") from None
    files = source.files()
    points = _points((source.read(PROGRESS) or b"").decode("utf-8", "replace"))
    done = DONE in files
    share, left_s = _left(points, *budget)
    videos = [name for name in files if name.lower().endswith(VIDEOS)]
    return Standing(
        algorithm,
        machine,
        points,
        1.0 if done else share,
        0.0 if done else left_s,
        done,
        max(videos, key=lambda name: files[name], default=None),
    )


def _points(text: str) -> tuple[Point, ...]:
    """The rows of a progress file; one that is only half written is left out."""
    names = ("steps", "time/seconds", "reward/total", "error/median_mm", "time/steps_per_s", "eval/outdoor_rms_mm")
    points: list[Point] = []
    for row in csv.DictReader(io.StringIO(text)):
        try:
            values = [float(row.get(name) or "nan") for name in names]
        except (ValueError, TypeError):
            continue
        if None not in row.values() and all(map(math.isfinite, values[:5])):
            points.append(Point(int(values[0]), *values[1:]))
    return tuple(points)


def _left(points: tuple[Point, ...], steps: int | None, minutes: float | None) -> tuple[float, float]:
    """Share of the budget that is used up, and the time left (s)."""
    if not points:
        return math.nan, math.nan
    last = points[-1]
    parts = [last.steps / steps] if steps else []
    parts += [last.seconds / (60 * minutes)] if minutes else []
    share = min(max(parts, default=math.nan), 1.0)
    return share, last.seconds * (1 - share) / share if share > 0 else math.nan
