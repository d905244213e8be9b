"""What a search for training settings is asked for and what it finds: plain values and files, no training."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from melter.errors import BadInput
from melter.machine import Machine, machine_from_table
from melter.policy.compare import Ratio
from melter.policy.config import algo_config
from melter.policy.files import new_run_folder, write_json
from melter.policy.space import Range, widened

ASKED = "tune.json"
"""Within a search's folder: what it was asked for."""
PRUNERS = ("median", "asha", "none")


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search was asked for."""

    machine: Machine
    algo: str
    preset: str
    overrides: tuple[str, ...]
    """KEY=VALUE over the preset, the same in every trial."""
    ranges: tuple[Range, ...]
    trial_minutes: float
    """Training time of one trial."""
    trial_steps: int | None = None
    """Control steps of one trial, instead of the time."""
    pruner: str = "median"
    seed: int = 0
    threads: int = 1

    def table(self) -> dict[str, Any]:
        """The request as plain values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("machine", "ranges")}
        ranges = [asdict(one) for one in self.ranges]
        return values | {"ranges": ranges, "machine": self.machine.model_dump(), "machine_sha256": self.machine.sha256}


@dataclass(frozen=True)
class Found:
    """What a search found."""

    folder: Path
    trials: int
    complete: int
    pruned: int
    best_trial: int | None
    best_score_mm: float | None
    preset_score_mm: float | None
    """Score of the settings that the search started from."""
    settings: dict[str, Any]
    """The best values of what was searched."""
    check: Ratio | None = None
    """RMS of the best over that of the preset's, on episodes that chose nothing."""


def search_for(
    machine: Machine, algo: str, preset: str, overrides: tuple[str, ...], ranges: tuple[Range, ...], **more: Any
) -> Search:
    """Return a search whose ranges hold the preset's own values, so that it can start from them. Raises BadInput."""
    config = algo_config(algo, preset, overrides)
    wide = tuple(widened(one, getattr(config, one.name)) for one in ranges if hasattr(config, one.name))
    if not wide:
        raise BadInput(f"tune: nothing to search among the settings of {algo}")
    return Search(machine=machine, algo=algo, preset=preset, overrides=overrides, ranges=wide, **more)


def start(search: Search, out: str | None) -> Path:
    """Make the folder of a new search; raise BadInput (OutputExists) where that cannot be."""
    optuna()
    folder = new_run_folder(out, f"tune-{search.algo}-{search.machine.name}")
    write_json(folder / ASKED, search.table())
    return folder


def resumable(folder: Path, machine: Machine | None = None) -> Search:
    """Return what a search was asked for; raise BadInput where there is none, or for another machine than ``machine``."""
    optuna()
    try:
        table = json.loads((folder / ASKED).read_text(encoding="utf-8"))
        kept = machine_from_table(table.pop("machine"), f"{folder}/{ASKED}")
        del table["machine_sha256"]
        ranges = tuple(Range(**one | {"choices": tuple(one["choices"])}) for one in table.pop("ranges"))
        search = Search(machine=kept, ranges=ranges, overrides=tuple(table.pop("overrides")), **table)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        words = f"{type(error).__name__}: {error}"
        raise BadInput(f"--resume {folder}: not a folder of melter tune ({words})") from None
    if machine is not None and machine.sha256 != kept.sha256:
        raise BadInput(f"--resume {folder}: was started for another machine file than {machine.name}")
    return search


def preset_toml(search: Search, result: Found) -> str:
    """Return the best settings, over the preset's, as a section of a presets file."""
    fixed: dict[str, Any] = {}
    for override in search.overrides:
        name, _, value = override.partition("=")
        fixed[name] = value
    lines = [
        f"# Found by melter tune: {result.best_score_mm:.4f} mm RMS outdoors after {result.complete} whole trials",
        f"# (preset {search.preset}: {_mm(result.preset_score_mm)}). Over preset {search.preset}.",
        f"[{search.algo}.tuned]",
    ]
    values = fixed | {name: _plain(value) for name, value in result.settings.items()}
    return "\n".join([*lines, *(f"{name} = {_toml(value)}" for name, value in values.items())]) + "\n"


def set_words(search: Search, result: Found) -> list[str]:
    """Return the best settings as ``--set`` words for sim-train."""
    words = [word for override in search.overrides for word in ("--set", override)]
    return words + [word for name, value in result.settings.items() for word in ("--set", f"{name}={value}")]


def _mm(value: float | None) -> str:
    return "not finished" if value is None else f"{value:.4f} mm"


def _plain(value: Any) -> Any:
    """Sizes such as "64,64" as a list."""
    return [int(part) for part in value.split(",")] if isinstance(value, str) and "," in value else value


def _toml(value: Any) -> str:
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return json.dumps(value)
        return value
    return json.dumps(value)


def optuna() -> Any:
    """Return the library that searches; raise BadInput where it is not installed."""
    try:
        return importlib.import_module("optuna")
    except ImportError:
        raise BadInput("tune: needs the package optuna; pip install optuna") from None
