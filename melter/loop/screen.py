"""What a person sees of a run: a small table on a terminal, redrawn in place; a line now and then elsewhere.

Drawn by a thread of its own: a slow line (SSH) never holds up a tick. Plain ANSI sequences, 80 columns.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TextIO

import numpy as np

from melter.loop.timing import Timing
from melter.machine import Machine

LIVE_S, LINES_S = 0.25, 15.0
WIDTH = 79
_CLEAR_LINE, _RED, _BOLD, _PLAIN = "\x1b[K", "\x1b[31m", "\x1b[1m", "\x1b[0m"


@dataclass
class View:
    """What is shown; written by the loop, read by the screen."""

    duration_s: float
    """Of the path."""
    state: str = "-"
    tick: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields of the newest tick, as recorded."""
    errors_mm: tuple[float, ...] = ()
    """The newest."""
    faults: tuple[str, ...] = ()
    ticks: int = 0
    late: int = 0
    learning: str = "off"
    help: str = ""


def table(view: View, machine: Machine, timing: Timing) -> list[str]:
    """Return the lines of the screen, each at most :data:`WIDTH` characters."""
    tick, lines = view.tick, [_progress(view)]
    lines.append(_spot(view))
    lines.append(_winches(tick, machine))
    reaction, jitter = timing.reaction_p50_ms, timing.jitter.percentile(0.99)
    lines.append(
        f"time     light to command {_ms(reaction)}, jitter p99 {_ms(None if jitter is None else 1e3 * jitter)}, "
        f"{view.ticks} ticks, {view.late} late"
    )
    gap = tick.get("gap_m")
    shown = "-" if gap is None else f"{1e3 * gap:.2f} mm ({tick.get('gap_share', 0.0):.0%} of its limit)"
    lines.append(f"shadow   gap {shown}   learning {view.learning}")
    lines.append(f"faults   {view.faults[0] if view.faults else 'none'}")
    if view.help:
        lines.append(view.help)
    return [line[:WIDTH] for line in lines]


def line(view: View) -> str:
    """Return the state on one line."""
    errors = f"  error {np.mean(view.errors_mm):.2f} mm" if view.errors_mm else ""
    return f"{_progress(view)}  patch {view.tick.get('patch_status', '-')}{errors}"


class Screen:
    """Draws a view while the run goes on. A context manager."""

    def __init__(self, view: View, machine: Machine, timing: Timing, stream: TextIO | None = None) -> None:
        self.view, self._machine, self._timing = view, machine, timing
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._end = threading.Event()
        self._drawn = 0
        self._thread = threading.Thread(target=self._run, name="screen", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(timeout=2)

    def _run(self) -> None:
        said_s = time.monotonic()
        with contextlib.suppress(OSError, ValueError):  # a terminal that has gone is no reason to stop
            while not self._end.wait(LIVE_S):
                if self._live:
                    self._draw()
                elif time.monotonic() - said_s >= LINES_S:
                    said_s = time.monotonic()
                    self._stream.write(line(self.view) + "\n")
                    self._stream.flush()
            if self._live:
                self._draw()

    def _draw(self) -> None:
        lines = table(self.view, self._machine, self._timing)
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        mark = {0: _BOLD, 5: _RED if self.view.faults else ""}
        body = "".join(f"{mark.get(i, '')}{text}{_PLAIN}{_CLEAR_LINE}\n" for i, text in enumerate(lines))
        self._stream.write(f"{up}\r{body}")
        self._stream.flush()
        self._drawn = len(lines)


def _progress(view: View) -> str:
    t_s = view.tick.get("t_s")
    if t_s is None:
        return f"{view.state}"
    share = min(max(t_s / view.duration_s, 0.0), 1.0) if view.duration_s > 0 else 1.0
    left_s = view.duration_s * (1 - share)
    return f"{view.state}  {100 * share:.0f} % of the path, {left_s:.0f} s left"


def _spot(view: View) -> str:
    tick = view.tick
    centre = tick.get("patch_centre_m")
    where = "-" if centre is None else f"{1e3 * centre[0]:.1f}, {1e3 * centre[1]:.1f} mm"
    axes = tick.get("patch_semi_axes_m")
    size = "" if axes is None else f", {1e3 * axes[0]:.1f} x {1e3 * axes[1]:.1f} mm"
    errors = f"   error {np.mean(view.errors_mm):.2f} mm" if view.errors_mm else ""
    return f"spot     {tick.get('patch_status', '-')} at {where}{size}{errors}"


def _winches(tick: Mapping[str, Any], machine: Machine) -> str:
    """Each winch's speed, and the most power it can have: at the highest tension that is kept."""
    speeds = tick.get("approved_m_s")
    if speeds is None:
        return "winches  -"
    power = np.abs(np.asarray(speeds, dtype=float)) * machine.limits.tension_max_n
    each = " ".join(f"{value:.0f}" for value in power)
    return f"winches  at most {each} W, {power.sum():.0f} W in all (limit {machine.limits.power_max_w:.0f} W each)"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"
