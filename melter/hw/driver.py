"""What every motor driver promises: the Protocol, its status and its promises.

A driver takes approved commands only, tells where the winches' counters stand, and latches what goes wrong.
``connect`` raises PortError (nothing moved yet); afterwards a LinkFault is latched, named in every status and
raised by ``send`` until ``recover`` has brought the link back. Positive cable speed pays cable out.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from melter.safety.gate import ApprovedCommand

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Promises:
    """What the link and the board behind it can promise; the safety layer counts on no more."""

    checks_packets: bool
    """The board notices damaged commands by a checksum."""
    stops_when_silent_s: float
    """The winches stand at the latest this long after the host's last byte."""
    reports_position: bool
    reports_speed: bool
    reports_current: bool
    speed_factor: float = 1.0
    """What was held back may be made up for at this many times its approved speed, within the machine's limits and
    never beyond the approved way."""


@dataclass(frozen=True, kw_only=True)
class MotorStatus:
    """The newest that is known of the motors."""

    positions_m: Array
    """(8,) cable paid out since the counters' zero, metres, winch order."""
    state: str
    """The board's word: idle, jog, run, hold, alarm, door, check, home, sleep; unknown before any report."""
    read_host_s: float
    """Monotonic host time at which the positions arrived."""
    queue_depth: int
    """Motion commands sent and not yet carried out."""
    faults: tuple[str, ...] = ()
    """Latched, oldest first; empty while all is well."""
    position_trusted: bool = True
    """False after a reset, an alarm or a jump: the counters may no longer tell the cable lengths."""


class MotorDriver(Protocol):
    """Eight winches behind some wire. ``__init__`` opens nothing; ``with`` connects and closes."""

    @property
    def promises(self) -> Promises:
        """What link and board can promise."""
        ...

    def connect(self) -> None:
        """Open the port and make sure of the board behind it. Raises PortError."""
        ...

    def send(self, command: ApprovedCommand) -> ApprovedCommand:
        """Pass on one period's approved motion and return what was sent. Raises LinkFault once one is latched."""
        ...

    def poll(self) -> MotorStatus:
        """Return the newest status at once; never blocks, never raises after ``connect``."""
        ...

    def stop(self) -> None:
        """Brake all winches at once and drop what is queued; tried also when a fault is latched. Raises LinkFault."""
        ...

    def recover(self) -> None:
        """Bring the link back after a LinkFault, for the way to dark; faults stay latched. Raises LinkFault."""
        ...

    def close(self) -> None:
        """Stop, let go of the port and end all threads. Never raises; may be called twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...
