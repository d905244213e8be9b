"""The last known state of a machine on disk: what the winches' counters showed, so that a power cut does not lose the lens.

One small file per machine and port, written by a thread of its own at most every half second and at the end, beside its name
and renamed. A board that starts anew counts from zero wherever the lens is; this file tells where it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from melter.errors import BadInput
from melter.machine import WINCH_COUNT, Machine

Array = NDArray[np.float64]

FORMAT = "melter-last-known-1"
EVERY_S = 0.5
MOVED_M = 0.00005
"""Less is no news."""


@dataclass(frozen=True)
class LastKnown:
    """Where the winches stood."""

    machine_sha256: str
    positions_m: tuple[float, ...]
    """(8,) cable paid out since park."""
    state: str
    """The gate's state then."""
    moving: bool
    """Whether the winches were moving: then they went on a little after this was written."""
    wall_time: str
    """UTC, for people."""
    log: str = ""
    """The run's folder."""

    @property
    def parked(self) -> bool:
        """Whether the lens was parked and at rest."""
        return self.state == "parked" and not self.moving


def place_for(machine: Machine, port: str, folder: Path = Path("runs")) -> Path:
    """Return the file for a machine on a port."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", port).strip("-") or "port"
    return folder / "last-known" / f"{machine.name}-{name}.json"


def read_last_known(path: Path, machine: Machine) -> LastKnown | None:
    """Return what was last known, None where there is nothing. Raises BadInput for a file that is damaged or of another machine."""
    try:
        table: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise BadInput(f"last known state {path}: cannot be read; remove it once the lens is at park") from None
    try:
        if table.pop("format") != FORMAT:
            raise ValueError
        positions = tuple(float(value) for value in table.pop("positions_m"))
        found = LastKnown(positions_m=positions, **table)
        if len(positions) != WINCH_COUNT or not np.isfinite(positions).all():
            raise ValueError
    except (AttributeError, KeyError, TypeError, ValueError):
        raise BadInput(f"last known state {path}: damaged; remove it once the lens is at park") from None
    if found.machine_sha256 != machine.sha256:
        raise BadInput(f"last known state {path}: belongs to another machine file than {machine.name} is now")
    return found


class LastKnownFile:
    """Keeps the file up to date. A context manager; :meth:`note` may be called at every tick and never waits."""

    def __init__(self, path: Path, machine: Machine, log: str = "") -> None:
        self.path, self._sha256, self._log = path, machine.sha256, log
        self._newest: tuple[Array, str] | None = None
        self._written: tuple[Array, str] | None = None
        self._moving = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="last known", daemon=True)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"last known state {path}: cannot be written: {error.strerror}") from None

    def note(self, positions_m: Array, state: str) -> None:
        """Take in where the winches stand, (8,) cable paid out since park, and the gate's state."""
        self._newest = np.array(positions_m, dtype=float), state

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(timeout=5)
        self._write(at_rest=True)

    def _run(self) -> None:
        while not self._end.wait(EVERY_S):
            self._write(at_rest=False)

    def _write(self, *, at_rest: bool) -> None:
        newest, before = self._newest, self._written
        if newest is None:
            return
        moved = before is None or float(np.abs(newest[0] - before[0]).max()) > MOVED_M
        moving = moved and not at_rest
        if not moved and before is not None and newest[1] == before[1] and moving == self._moving:
            return
        with contextlib.suppress(OSError):  # a full disk is no reason to stop
            write_last_known(
                self.path,
                LastKnown(
                    self._sha256,
                    tuple(round(float(v), 6) for v in newest[0]),
                    newest[1],
                    moving,
                    time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    self._log,
                ),
            )
            self._written, self._moving = newest, moving


def write_last_known(path: Path, known: LastKnown) -> None:
    """Write the file in one step, down to the disk: a power cut leaves the old one or the new one."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"format": FORMAT, **asdict(known)}) + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
