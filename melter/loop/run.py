"""A recorded run as arrays: what ``melter replay``, ``compare`` and ``export-run`` work on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.errors import BadInput, MachineFileError
from melter.loop.recorder import read_recording
from melter.machine import WINCH_COUNT, Machine, machine_from_table

Array = NDArray[np.float64]

SETTLING_S = 2.0
"""Left out of error figures at the start of the path."""


@dataclass(frozen=True, eq=False)
class Run:
    """One recording."""

    folder: Path
    lines: list[dict[str, Any]]
    """Of recording.jsonl, in order; a cut last line is left out."""
    config: dict[str, Any]
    """config.json; empty where there is none."""
    result: dict[str, Any]
    """result.json; empty where there is none, as after a kill."""

    @cached_property
    def start(self) -> dict[str, Any]:
        """The first line: model, machine, path."""
        return next((line for line in self.lines if line["kind"] == "start"), {})

    @cached_property
    def end(self) -> dict[str, Any]:
        """The last line; empty where the run was cut off."""
        return next((line for line in reversed(self.lines) if line["kind"] == "end"), {})

    @cached_property
    def ticks(self) -> list[dict[str, Any]]:
        """Ticks whose command was sent."""
        return [line for line in self.lines if line["kind"] == "tick"]

    @cached_property
    def work(self) -> list[dict[str, Any]]:
        """Ticks on the path."""
        return [line for line in self.ticks if line.get("t_s") is not None]

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """Events and faults, in order."""
        return [line for line in self.lines if line["kind"] in ("event", "fault")]

    @cached_property
    def faults(self) -> list[str]:
        """Every fault's name and reason."""
        return [f"{line['fault']}: {line['reason']}" for line in self.lines if line["kind"] == "fault"]

    @cached_property
    def machine(self) -> Machine | None:
        """The machine as it was, where config.json holds it."""
        try:
            return machine_from_table(self.config["machine_values"], "config.json")
        except (KeyError, TypeError, AttributeError, MachineFileError):
            return None

    @property
    def begun_s(self) -> float:
        """Host time of the first line."""
        return float(self.lines[0]["host_s"])

    def column(self, name: str, size: int, ticks: list[dict[str, Any]] | None = None) -> Array:
        """Return (n, size) of a field of ``ticks`` (default: all); NaN where it is missing."""
        rows = [line.get(name) for line in (self.ticks if ticks is None else ticks)]
        table = np.full((len(rows), size), np.nan)
        for place, row in zip(table, rows, strict=True):
            if row is not None:
                place[:] = [np.nan if value is None else value for value in np.atleast_1d(np.array(row, dtype=object))]
        return table

    @cached_property
    def errors(self) -> Array:
        """(n, 2) of the ticks on the path with a new patch: path time (s), and distance (mm) from the target when it was seen."""
        found: list[tuple[float, float]] = []
        times = self.column("t_s", 1, self.work)[:, 0]
        hosts = self.column("approved_host_s", 1, self.work)[:, 0]
        targets = self.column("target_world_m", 2, self.work)
        seen_before = -np.inf
        delay_s = self._camera_delay_s
        for line in self.work:
            captured_s, centre = line.get("patch_captured_host_s"), line.get("patch_centre_m")
            if captured_s is None or centre is None or captured_s <= seen_before or line.get("patch_status") == "lost":
                continue
            seen_before = captured_s
            at_s = captured_s - delay_s
            target = np.array([np.interp(at_s, hosts, targets[:, i]) for i in range(2)])
            t_s = float(np.interp(at_s, hosts, times))
            found.append((t_s, float(np.hypot(*(np.array(centre) - target))) * 1e3))
        return np.array(found).reshape(-1, 2)

    @property
    def _camera_delay_s(self) -> float:
        return 0.0 if self.machine is None else self.machine.control.camera_delay_s

    def figures(self) -> dict[str, Any]:
        """Return what a table of runs shows; None where it is not known."""
        errors = self.errors[self.errors[:, 0] >= SETTLING_S, 1] if len(self.errors) else np.zeros(0)
        timing = self.result.get("timing") or {}
        return {
            "rms_mm": float(np.sqrt(np.mean(errors**2))) if len(errors) else None,
            "p50_mm": float(np.median(errors)) if len(errors) else None,
            "p95_mm": float(np.percentile(errors, 95)) if len(errors) else None,
            "max_mm": float(errors.max()) if len(errors) else None,
            "seconds": float(self.lines[-1]["host_s"] - self.begun_s),
            "ticks": len(self.ticks),
            "late": self.result.get("late"),
            "faults": len(self.faults),
            "first_fault": self.faults[0] if self.faults else None,
            "interventions": sum((self.end.get("interventions") or {}).values()) if self.end else None,
            "reaction_ms": (timing.get("light_to_command_ms") or {}).get("p50"),
            "jitter_p99_ms": (timing.get("jitter_ms") or {}).get("p99"),
            "dark": self.end.get("dark"),
            "finished": self.end.get("finished"),
        }


def load_run(folder: str | Path) -> Run:
    """Return the run in a folder; raise BadInput where there is no recording."""
    place = Path(folder)
    file = place / "recording.jsonl"
    try:
        lines = read_recording(file)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise BadInput(f"run {folder}: {file.name} cannot be read: {reason}; must be a folder of melter real") from None
    if not lines or not all("kind" in line and "host_s" in line for line in lines):
        raise BadInput(f"run {folder}: {file.name} is no recording of a run")
    for line in lines:
        speeds = line.get("approved_m_s") if line["kind"] == "tick" else None
        if line["kind"] == "tick" and (not isinstance(speeds, list) or len(speeds) != WINCH_COUNT):
            raise BadInput(f"run {folder}: a tick of {file.name} lacks its {WINCH_COUNT} approved speeds")
    return Run(place, lines, _json(place / "config.json"), _json(place / "result.json"))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise BadInput(f"run {path.parent}: {path.name} cannot be read") from None
    return found if isinstance(found, dict) else {}  # pyright: ignore[reportUnknownVariableType]
