"""What can go wrong with the twin on request: ``--fault NAME@SECONDS``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melter.errors import BadInput

if TYPE_CHECKING:
    from melter.twin.process import Twin


@dataclass(frozen=True)
class Fault:
    """A fault and when it strikes, seconds after the twin's start."""

    name: str
    at_s: float


def _serial_cut(twin: Twin) -> None:
    twin.cut_serial()


def _garbage_bytes(twin: Twin) -> None:
    twin.port.write(bytes(twin.rng.integers(0, 256, 64, dtype="uint8")))


def _firmware_reset(twin: Twin) -> None:
    twin.port.write(twin.firmware.feed(b"\x18"))


def _alarm(twin: Twin) -> None:
    twin.port.write(twin.firmware.raise_alarm(1))


def _winch_dead(twin: Twin) -> None:
    twin.machine.dead[int(twin.rng.integers(8))] = True


def _cable_snapped(twin: Twin) -> None:
    twin.machine.snap(int(twin.rng.integers(8)))


def _camera(mode: str) -> Callable[[Twin], None]:
    def strike(twin: Twin) -> None:
        twin.film.mode = mode

    return strike


def _cloud(twin: Twin) -> None:
    twin.machine.sun_share = 0.02


def _gust(twin: Twin) -> None:
    twin.machine.wind_m_s = 3 * max(twin.machine.wind_m_s, 3.0)


FAULTS: dict[str, Callable[[Twin], None]] = {
    "serial-cut": _serial_cut,
    "garbage-bytes": _garbage_bytes,
    "firmware-reset": _firmware_reset,
    "alarm": _alarm,
    "winch-dead": _winch_dead,
    "cable-snapped": _cable_snapped,
    "camera-frozen": _camera("frozen"),
    "camera-gone": _camera("gone"),
    "camera-dark": _camera("dark"),
    "cloud": _cloud,
    "gust": _gust,
}


def parse_fault(text: str) -> Fault:
    """Return the fault that ``NAME@SECONDS`` names; raise BadInput."""
    name, _, at = text.partition("@")
    if name not in FAULTS:
        raise BadInput(f"--fault {text}: {name} is unknown; known: {', '.join(FAULTS)}")
    try:
        at_s = float(at)
    except ValueError:
        at_s = math.nan
    if not (math.isfinite(at_s) and at_s >= 0):
        raise BadInput(f"--fault {text}: must be NAME@SECONDS with seconds from 0")
    return Fault(name, at_s)
