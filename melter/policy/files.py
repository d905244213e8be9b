"""Run folders: what a training leaves, written so that a kill at any moment leaves the old file or the new one."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from melter.errors import BadInput, OutputExists

LIBRARIES = ("melter", "mujoco", "gymnasium", "stable-baselines3", "torch", "numpy")


def new_run_folder(out: str | None, stem: str, root: Path = Path("runs")) -> Path:
    """Create and return a run folder: ``out``, or the next free ``runs/<stem>-NNN``.

    Raises OutputExists when ``out`` holds anything, BadInput when it cannot be made.
    """
    if out is None:
        taken = [p.name for p in root.glob(f"{stem}-[0-9][0-9][0-9]*")] if root.is_dir() else []
        number = 1 + max((int(name.rsplit("-", 1)[1]) for name in taken if name.rsplit("-", 1)[1].isdigit()), default=0)
        folder = root / f"{stem}-{number:03d}"
    else:
        folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputExists(
            f"--out {folder}: is not an empty folder; choose another, or --resume {folder} to go on with it"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {folder}: cannot be made: {error.strerror}") from None
    return folder


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Yield a path beside ``path`` with the same suffix; rename it to ``path`` when all went well."""
    beside = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` to ``path`` in one step."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def surroundings() -> dict[str, Any]:
    """Return versions, platform and commit, for a run to be repeated."""
    versions: dict[str, str] = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {"versions": versions, "platform": platform.platform(), "commit": _commit(), "cores": os.cpu_count()}


def _commit() -> str | None:
    """The commit of the checkout that this code runs from, or None."""
    here = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
