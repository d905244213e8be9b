"""The Robot protocol: what a machine can tell, and the one thing that may be sent to it.

Three bodies implement it: the MuJoCo machine, the hardware, and a fake for tests. The same
:mod:`melter.loop` drives all of them. One tick: measure, observe, act, approve, send.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from melter.observation import Measurement, PatchEstimate
from melter.safety.gate import ApprovedCommand


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a machine."""

    measurement: Measurement
    """What observations are built from, without batch shape."""
    lengths_m: NDArray[np.float64]
    """(8,) stress-free cable out, by the counters."""
    lengths_host_s: float
    """When the counters were read, host's monotonic clock."""
    patch: PatchEstimate | None
    """The newest answer of the tracker, whatever its status; None before the first."""


class Robot(Protocol):
    """A machine, simulated or real. Opened and closed by whoever made it (``with``)."""

    def measure(self) -> Reading:
        """Return the newest reading; raise a Fault when something is broken."""
        ...

    def lengths_m(self) -> NDArray[np.float64] | None:
        """Return the counted cable lengths as far as they can be trusted, NaN or None where not; never raises."""
        ...

    def send(self, command: ApprovedCommand) -> ApprovedCommand:
        """Pass one approved command to the winches; return what was sent, or raise a Fault."""
        ...

    def recover(self) -> None:
        """Bring a broken link back so far that the way to dark can be sent; raise a Fault when it cannot be."""
        ...

    def stop(self) -> None:
        """Bring all winches to rest as fast as the limits allow. Not an end state: a still lens keeps burning."""
        ...
