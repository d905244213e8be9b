"""``melter twin``: a rehearsal machine."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import dataclass
from types import FrameType
from typing import Annotated

import tyro

from melter.cli.common import Common, parse, require_in, say


@dataclass(frozen=True, kw_only=True)
class TwinCommand(Common):
    """A machine to rehearse on: real firmware protocol on a serial port, a camera over HTTP, hidden parameters drawn by --seed.

    The first line on stdout is a JSON object with `port` and `camera_url`. Runs until Ctrl-C.
    """

    port_link: str | None = None
    """Symbolic link that points to the serial port, for a name that stays."""
    http: int = 0
    """TCP port on 127.0.0.1 for the camera; 0 takes a free one."""
    params: str | None = None
    """JSON file with hidden parameters by name, instead of drawn ones."""
    truth: str | None = None
    """File to write the truth to, a JSON line per control period."""
    fault: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME@SECONDS: what shall go wrong, and when (s after the start); may be given more than once."""
    speed: float = 1.0
    """Simulated seconds per second."""
    seconds: float | None = None
    """Stop after this simulated time (s)."""


def run(argv: list[str]) -> int:
    """Run a twin; return the exit code."""
    options = parse(TwinCommand, argv, "twin")
    if options.seconds is not None:
        require_in("--seconds", options.seconds, 0.01, 1e6, " s")
    from melter.machine import load_machine
    from melter.twin.faults import parse_fault
    from melter.twin.process import Twin, TwinOptions, load_params

    settings = TwinOptions(
        machine=load_machine(options.machine),
        seed=options.seed,
        port_link=options.port_link,
        http_port=options.http,
        truth=options.truth,
        params=load_params(options.params),
        faults=tuple(parse_fault(text) for text in options.fault),
        speed=options.speed,
    )

    def end(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    with Twin(settings) as twin:
        sys.stdout.write(
            json.dumps({"port": options.port_link or twin.port.path, "camera_url": twin.camera_url}) + "\n"
        )
        sys.stdout.flush()
        say("rehearsal machine is parked; Ctrl-C ends it")
        try:
            twin.run(options.seconds)
        except KeyboardInterrupt:
            say("rehearsal machine ends")
    return 0
