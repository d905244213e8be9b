"""The Robot protocol: what a machine can tell, and the one thing that may be sent to it.

Three bodies implement it: the MuJoCo machine, the hardware, and a fake for tests. The same
:mod:`melter.loop` drives all of them. One tick: measure, observe, act, approve, send.
"""

from __future__ import annotations

from typing import Protocol

from melter.observation import Measurement
from melter.safety.gate import ApprovedCommand


class Robot(Protocol):
    """A machine, simulated or real. Opened and closed by whoever made it (``with``)."""

    def measure(self) -> Measurement:
        """Return the newest measurement; raise a Fault when there is none that is fresh."""
        ...

    def send(self, command: ApprovedCommand) -> ApprovedCommand:
        """Pass one approved command to the winches; return what was sent, or raise a Fault."""
        ...

    def stop(self) -> None:
        """Bring all winches to rest as fast as the limits allow. Not an end state: a still lens keeps burning."""
        ...
