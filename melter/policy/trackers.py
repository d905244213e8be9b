"""A training's figures, sent on to a tracker that the user runs: Weights & Biases or MLflow, if asked for and installed.

Trouble with a tracker never stops a training: it is told once, and the figures are in the run folder anyway.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

from stable_baselines3.common.logger import KVWriter

from melter.errors import BadInput

TRACKERS = ("wandb", "mlflow")


class Tracker(KVWriter):
    """Sends every report through ``send`` (figures by name, steps); ``end`` closes the connection."""

    def __init__(
        self, send: Callable[[dict[str, float], int], object], end: Callable[[], object], tell: Callable[[str], None]
    ) -> None:
        self._send, self._end, self._tell, self._well = send, end, tell, True

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:  # noqa: ARG002
        """Send the finite numbers of a report."""
        numbers = {name: float(value) for name, value in key_values.items() if isinstance(value, int | float)}
        self._try(lambda: self._send({name: value for name, value in numbers.items() if math.isfinite(value)}, step))

    def close(self) -> None:
        """End the connection."""
        self._try(self._end)

    def _try(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:
            if self._well:
                self._tell(f"the tracker fails ({' '.join(str(error).split())[:200]}); training goes on")
            self._well = False


def library(name: str) -> Any:
    """Return the package of the tracker called ``name``; raise BadInput where it is unknown or not installed."""
    if name not in TRACKERS:
        raise BadInput(f"--track {name}: must be one of {', '.join(TRACKERS)}")
    try:
        return importlib.import_module(name)
    except ImportError:
        raise BadInput(f"--track {name}: needs the package {name}; pip install {name}") from None


def tracker(name: str, config: dict[str, Any], run_name: str, tell: Callable[[str], None]) -> Tracker:
    """Return the tracker called ``name``, told the run's configuration; raise BadInput where it refuses."""
    package = library(name)
    try:
        if name == "wandb":
            run = package.init(project="melter", name=run_name, config=config)
            return Tracker(lambda figures, step: run.log(figures, step=step), run.finish, tell)
        package.set_experiment("melter")
        package.start_run(run_name=run_name)
        flat = {key: value for key, value in config.items() if not isinstance(value, dict)} | dict(config["settings"])
        package.log_params({key: str(value)[:500] for key, value in flat.items()})
    except Exception as error:
        raise BadInput(f"--track {name}: {' '.join(str(error).split())[:200]}") from None
    return Tracker(lambda figures, step: package.log_metrics(figures, step=step), package.end_run, tell)
