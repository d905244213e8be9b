"""What can go wrong with the twin on request: ``--fault NAME@SECONDS``.

Who notices: the serial driver what goes wrong on the wire or with the counters; the camera's watcher what goes wrong with
the picture; the loop what leads the light away from where it should be. A winch that is dead or stuck, a cable that is
slack or snapped leave the counters as they were: only the light tells. A gust and a passing cloud are no faults as long as
the loop keeps the light on its path, or sees it again in time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from melter.errors import BadInput
from melter.machine import WINCH_COUNT

if TYPE_CHECKING:
    from melter.twin.process import Twin

LOSS = 0.02
"""Share of bytes that a bad line loses, each way."""
SLOW_S = 0.8
"""Delay of a board that answers slowly."""
SLIP_M = 0.010
FROZEN_S = 1.5
"""How long the clock stands before it jumps."""


@dataclass(frozen=True)
class Fault:
    """A fault and when it strikes, seconds after the twin's start."""

    name: str
    at_s: float


def _winch(twin: Twin) -> int:
    return int(twin.rng.integers(WINCH_COUNT))


def _garbage_bytes(twin: Twin) -> None:
    for _ in range(6):
        twin.port.write(bytes(twin.rng.integers(128, 256, 24, dtype="uint8")) + b"\r\n")


def _firmware_reset(twin: Twin) -> None:
    twin.port.write(twin.firmware.feed(b"\x18"))


def _alarm(twin: Twin) -> None:
    twin.port.write(twin.firmware.raise_alarm(1))


def _byte_loss(twin: Twin) -> None:
    twin.line.loss = LOSS


def _slow_answers(twin: Twin) -> None:
    twin.line.delay_s = SLOW_S


def _winch_dead(twin: Twin) -> None:
    twin.machine.dead[_winch(twin)] = True


def _winch_stuck(twin: Twin) -> None:
    twin.machine.winches.jammed[0, _winch(twin)] = True


def _cable_snapped(twin: Twin) -> None:
    twin.machine.snap(_winch(twin))


def _cable_slack(twin: Twin) -> None:
    twin.machine.slacken(_winch(twin))


def _encoder_slip(twin: Twin) -> None:
    moved_m = np.zeros(WINCH_COUNT)
    moved_m[_winch(twin)] = SLIP_M
    twin.machine.forget_step(twin.firmware.slip(moved_m))


def _camera(mode: str) -> Callable[[Twin], None]:
    def strike(twin: Twin) -> None:
        twin.film.mode = mode

    return strike


def _cloud(twin: Twin) -> None:
    twin.machine.sun_share = 0.02


def _gust(twin: Twin) -> None:
    twin.machine.gust = 2.0


def _marker_covered(twin: Twin) -> None:
    twin.film.covered = int(twin.rng.integers(max(1, len(twin.options.machine.bed.marker))))


def _clock_jump(twin: Twin) -> None:
    twin.freeze(FROZEN_S)


FAULTS: dict[str, Callable[[Twin], None]] = {
    "serial-cut": lambda twin: twin.cut_serial(),
    "garbage-bytes": _garbage_bytes,
    "byte-loss": _byte_loss,
    "slow-answers": _slow_answers,
    "firmware-reset": _firmware_reset,
    "alarm": _alarm,
    "winch-dead": _winch_dead,
    "winch-stuck": _winch_stuck,
    "cable-snapped": _cable_snapped,
    "cable-slack": _cable_slack,
    "encoder-slip": _encoder_slip,
    "camera-frozen": _camera("frozen"),
    "camera-gone": _camera("gone"),
    "camera-dark": _camera("dark"),
    "cloud": _cloud,
    "gust": _gust,
    "marker-covered": _marker_covered,
    "clock-jump": _clock_jump,
}


def parse_fault(text: str) -> Fault:
    """Return the fault that ``NAME@SECONDS`` names; raise BadInput. Words may be joined by ``-``, ``_`` or spaces."""
    name, _, at = text.partition("@")
    name = name.strip().replace("_", "-").replace(" ", "-")
    if name not in FAULTS:
        raise BadInput(f"--fault {text}: {name} is unknown; known: {', '.join(FAULTS)}")
    try:
        at_s = float(at)
    except ValueError:
        at_s = math.nan
    if not (math.isfinite(at_s) and at_s >= 0):
        raise BadInput(f"--fault {text}: must be NAME@SECONDS with seconds from 0")
    return Fault(name, at_s)
