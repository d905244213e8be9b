"""What every command shares: options from a typed configuration, output for people and programs."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from melter.errors import BadInput

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options that every command has."""

    machine: str = "corner8"
    """Machine file (TOML), or the name of a packaged machine."""
    seed: int = 0
    """Seed of everything random in this command."""
    json: bool = False
    """Print exactly one JSON object on stdout and nothing else there."""


def parse(config: type[Config], argv: list[str], prog: str) -> Config:
    """Return ``config`` (a frozen dataclass whose field docstrings become --help) filled from ``argv``.

    Raises BadInput with one line for what is wrong; --help prints and exits with 0.
    """
    import tyro

    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(config, prog=f"melter {prog}", args=argv, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        if not stop.code:
            raise
    raise BadInput(f"{prog}: {_one_line(captured.getvalue())}")


def _one_line(boxed: str) -> str:
    """The words of a boxed, many-lined complaint."""
    lines = [re.sub(r"[╭╮╰╯│─]+|-{5,}", " ", line).strip() for line in boxed.splitlines()]
    words = " ".join(line for line in lines if line and not line.startswith("For full helptext")).split(
        " Argument helptext:"
    )[0]
    words = re.sub(r"^(Parsing error|Value error|Unrecognized options|Missing argument|Required options) ", "", words)
    return re.sub(r"\s+", " ", words).strip()[:400] or "options not understood"


def emit(result: dict[str, Any], as_json: bool, text: str) -> None:
    """Print ``result`` as one JSON object, or ``text`` for people, on stdout."""
    sys.stdout.write((json.dumps(plain(result), allow_nan=False) if as_json else text.rstrip()) + "\n")
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """Return ``value`` in types that JSON has: arrays as lists, paths as text, numbers that are not finite as null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def say(text: str) -> None:
    """Tell people something: progress and remarks go to stderr."""
    sys.stderr.write(text.rstrip("\n") + "\n")
    sys.stderr.flush()


def require_in(name: str, value: float, low: float, high: float, unit: str = "") -> None:
    """Raise BadInput unless low <= value <= high (NaN is refused)."""
    if not low <= value <= high:
        raise BadInput(f"{name} {value:g}{unit}: must lie between {low:g} and {high:g}{unit}")


def require_new(path: str, force: bool) -> None:
    """Raise BadInput when the file of --out exists already and is not to be replaced, or its folder does not exist."""
    from melter.errors import OutputExists

    if Path(path).exists() and not force:
        raise OutputExists(f"--out {path}: exists already; --force replaces it")
    if not Path(path).absolute().parent.is_dir():
        raise BadInput(f"--out {path}: its folder does not exist")
