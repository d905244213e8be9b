"""What follows from each tick of ``melter real``: the screen's view, the last known state, the twin's target. Never waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from melter.loop.frames import KeptFrames
from melter.loop.lastknown import LastKnownFile
from melter.loop.screen import View
from melter.loop.session import Session

SHOWN_ERRORS = 20


class Show:
    """Called by the session after each tick with its fields."""

    def __init__(
        self,
        session: Session,
        view: View,
        known: LastKnownFile,
        kept: KeptFrames | None = None,
        tell: Callable[[Any], None] = lambda _: None,
    ) -> None:
        self._session, self._view, self._known, self._kept, self._tell = session, view, known, kept, tell
        self._park_m, self._faults = session.gate.park_lengths_m, 0

    def __call__(self, tick: Mapping[str, Any]) -> None:
        """Take in a tick's fields, as recorded, and the gate's state."""
        view, result = self._view, self._session.result
        if "target_world_m" in tick:
            self._tell(tick["target_world_m"])
        lengths = tick.get("lengths_m")
        if lengths is not None:
            self._known.note(np.asarray(lengths) - self._park_m, tick["state"])
        view.tick, view.state = tick, tick["state"]
        view.errors_mm = tuple(result.errors_mm[-SHOWN_ERRORS:])
        view.ticks, view.late = result.ticks, result.late
        if "learned_share" in tick:
            view.learning = f"{tick['learned_share']:.0%} taken up"
        if len(result.faults) > self._faults:
            self._faults, view.faults = len(result.faults), tuple(result.faults[:3])
            if self._kept is not None:
                self._kept.fault(time.monotonic())
