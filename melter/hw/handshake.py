"""The talk at the beginning of a connection: who is there, how many axes, which settings, where it stands.

Runs in the foreground, before any thread reads the port. Nothing here moves a motor.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from melter.errors import PortError
from melter.hw.board import board_order, number_of, slowest_acceleration_m_s2
from melter.hw.grbl import (
    BUILD_INFO,
    BUILD_INFO_ALL,
    JOG_CANCEL,
    SETTINGS,
    SOFT_RESET,
    STATUS,
    STATUS_FULL,
    STATUS_HAL,
    UNLOCK,
    Alarm,
    Banner,
    Decoder,
    Error,
    Event,
    Garbage,
    Message,
    Micrometres,
    Ok,
    Report,
    Setting,
    axis_letters,
)
from melter.hw.link import BoardFacts
from melter.hw.serial_port import SerialPort
from melter.machine import WINCH_COUNT, Machine

WAKE_S = 4.0
"""Boards that the opening of the port resets are up within 2 s; twice that is waited."""
ASK_EVERY_S = 0.25
BANNER_S = 2.0
LINE_S = 2.0
"""Longest wait for the answer to a line."""
AT_REST_S = 2.0
SURE_TRIES = 10
RX_BYTES_UNKNOWN = 128
"""Grbl 1.1's receive buffer, the smallest there is."""
_OPTIONS = re.compile(r"\[OPT:[^,\]]*,(\d+),(\d+)(?:,(\d+))?")


@dataclass(frozen=True)
class Board:
    """What the talk found out."""

    banner: str | None
    """None when the board did not start anew."""
    info: tuple[str, ...]
    settings: dict[int, str]
    state: str
    position_um: Micrometres
    """(axes,) counters, in the board's order."""
    blocks_total: int | None
    rx_bytes: int
    alarm: str | None = None
    offset_um: Micrometres | None = None
    """(axes,) machine minus work position, where the board reports work positions."""

    @property
    def axes(self) -> int:
        """How many axes the board reports."""
        return len(self.position_um)

    @property
    def letters(self) -> str:
        """The axes in the board's order."""
        return axis_letters(self.info, self.axes)

    @property
    def is_hal(self) -> bool:
        """Whether it is grblHAL, which knows more than Grbl 1.1."""
        return any("grblhal" in text.lower() for text in (self.banner or "", *self.info))

    def winch_positions_um(self, machine: Machine) -> Micrometres:
        """(8,) counters in winch order. Raises PortError for an axis that the board lacks."""
        return self.position_um[list(board_order(self.letters, machine))]

    def facts(self, machine: Machine) -> BoardFacts:
        """Return what a session needs to know. Raises PortError for an axis that the board lacks."""
        order = board_order(self.letters, machine)
        steps = [number_of(self.settings.get(100 + axis)) or machine.drive.steps_per_mm for axis in order]
        return BoardFacts(
            np.array(steps),
            slowest_acceleration_m_s2(self.settings, machine, order),
            self.blocks_total,
            self.rx_bytes,
            order,
            None if self.offset_um is None else self.offset_um[list(order)],
            STATUS_HAL if self.is_hal else STATUS,
        )


@dataclass
class Talk:
    """Questions and answers over an open port. Raises PortError in plain words."""

    port: SerialPort
    clock: Callable[[], float] = time.monotonic
    decoder: Decoder = field(default_factory=Decoder)
    banner: str | None = None
    alarm: str | None = None
    wake_s: float | None = None
    """Longest wait for a first report; None: as long as a board that starts anew may take."""
    heard: int = 0
    """Bytes that came at all."""
    odd: list[str] = field(default_factory=list[str])

    def begin(self, *, only_look: bool = False, known: Board | None = None) -> Board:
        """Find out everything; the board is at rest afterwards.

        ``only_look``: neither stop nor restart it; a board that moves tells no settings then. ``known``: what it said of
        itself earlier, not to be asked again.
        """
        report = self._wake()
        if only_look and report.state not in ("idle", "alarm"):
            return self._board(report, (), {})
        if report.state in ("jog", "run"):
            report = self._bring_to_rest()
        if not only_look and self.banner is None:
            self.port.write(SOFT_RESET)
            self._await(lambda event: isinstance(event, Banner), BANNER_S)
            report = self._report()
        if report.state == "alarm":
            report = self._report(STATUS_FULL)
        self.port.write(b"\n")
        heeds = bool(self._await(lambda event: isinstance(event, Ok | Error), LINE_S))
        if (
            not heeds and report.state == "alarm"
        ):  # until its cause is gone and it is reset, it tells its state, no more
            if only_look:
                return self._board(report, (), {})
            raise PortError(
                f"port {self.port.device}: the board is in {self._alarm(report)} and heeds no line; "
                "remove the cause (release the emergency stop), then reset the board"
            )
        if known is not None:
            board = self._board(self._sure_report(), known.info, known.settings)
            return replace(board, blocks_total=known.blocks_total, rx_bytes=known.rx_bytes)
        info = self._build_info()
        if self.banner is None and not any(text.startswith("[VER:") for text in info):
            raise self._stranger()
        settings = {event.number: event.value for event in self.ask(SETTINGS) if isinstance(event, Setting)}
        report = self._report(STATUS_FULL)
        return self._board(report, info, settings)

    def _build_info(self) -> tuple[str, ...]:
        """What the board says of itself; grblHAL built to look like Grbl tells its axes only when asked for all of it."""
        info = tuple(event.text for event in self.ask(BUILD_INFO) if isinstance(event, Message))
        if not any(text.startswith("[AXS:") for text in info):
            with contextlib.suppress(PortError):
                info += tuple(event.text for event in self.ask(BUILD_INFO_ALL) if isinstance(event, Message))
        return info

    def ask(self, line: bytes) -> list[Event]:
        """Send a line; return what came up to its ok. Raises PortError on an error or no answer."""
        self.port.write(line)
        events = self._await(lambda event: isinstance(event, Ok | Error), LINE_S)
        name = line.decode("ascii").strip()
        if not events or not isinstance(events[-1], Ok | Error):
            raise PortError(f"port {self.port.device}: no answer to {name} within {LINE_S:g} s")
        if isinstance(events[-1], Error):
            raise PortError(f"port {self.port.device}: {name} was answered with {events[-1]}")
        return events

    def unlock(self) -> None:
        """Clear an alarm. The person who asked for it vouches for the position."""
        self.ask(UNLOCK)
        self.alarm = None

    def _wake(self) -> Report:
        """Ask until a report comes; a board that is just starting comes to itself meanwhile."""
        deadline_s = self.clock() + (WAKE_S if self.wake_s is None else self.wake_s)
        request, other = STATUS, STATUS_HAL  # the one may end up in a line begun earlier, the other is unknown to Grbl
        while self.clock() < deadline_s:
            self.port.write(request)
            request, other = other, request
            events = self._await(lambda event: isinstance(event, Report | Banner), ASK_EVERY_S)
            if events and isinstance(events[-1], Report):
                return events[-1]
        raise self._stranger()

    def _stranger(self) -> PortError:
        if not self.heard:
            return PortError(
                f"port {self.port.device}: nothing answers at 115200 baud; is the controller powered, is this its port?"
            )
        sample = repr(self.odd[0][:40]) if self.odd else "something else"
        return PortError(
            f"port {self.port.device}: another device is behind it, not a Grbl or grblHAL controller: it says {sample}"
        )

    def _bring_to_rest(self) -> Report:
        deadline_s = self.clock() + AT_REST_S
        while self.clock() < deadline_s:
            self.port.write(JOG_CANCEL)
            report = self._report()
            if report.state not in ("jog", "run"):
                return report
            self._await(lambda _: False, 0.05)
        raise PortError(f"port {self.port.device}: it moves and does not stop within {AT_REST_S:g} s of a jog cancel")

    def _report(self, request: bytes = STATUS) -> Report:
        for attempt in range(3):
            self.port.write(request if attempt == 0 else STATUS)
            events = self._await(lambda event: isinstance(event, Report), LINE_S / 3)
            if events and isinstance(events[-1], Report):
                return events[-1]
        raise PortError(f"port {self.port.device}: no status report within {LINE_S:g} s")

    def _sure_report(self) -> Report:
        """A report that the next one agrees with: over a bad line, one may tell anything."""
        before = self._report()
        for _ in range(SURE_TRIES):
            report = self._report()
            same = report.state == before.state
            for name in ("machine_um", "work_um"):
                one, other = getattr(before, name), getattr(report, name)
                same = same and (one is None) == (other is None) and (one is None or np.array_equal(one, other))
            if same:
                return report
            before = report
        raise PortError(f"port {self.port.device}: no two status reports in {SURE_TRIES} agree; is it moved by hand?")

    def _await(self, last: Callable[[Event], bool], timeout_s: float) -> list[Event]:
        """Return events up to and with the first that ``last`` accepts, or all there are by the timeout."""
        deadline_s = self.clock() + timeout_s
        found: list[Event] = []
        done = False
        while not done and (left_s := deadline_s - self.clock()) > 0:
            data = self.port.read(min(left_s, 0.05))
            self.heard += len(data)
            for event in self.decoder.feed(data):
                self._note(event)
                if not done:
                    found.append(event)
                done = done or last(event)
        return found

    def _note(self, event: Event) -> None:
        if isinstance(event, Banner):
            self.banner = event.text
        elif isinstance(event, Alarm):
            self.alarm = str(event)
        elif isinstance(event, Garbage):
            self.odd.append(event.text)

    def _board(self, report: Report, info: tuple[str, ...], settings: dict[int, str]) -> Board:
        position, offset = report.machine_um, None
        if position is None and report.work_um is not None:
            offset = self._offset(report)
            position = report.work_um + offset
        if position is None:
            raise PortError(
                f"port {self.port.device}: the status report has no position; set $10 to 511 (grblHAL) or 3 (Grbl)"
            )
        rx_bytes = next((int(match[2]) for text in info if (match := _OPTIONS.search(text))), RX_BYTES_UNKNOWN)
        alarm = self._alarm(report) if report.state == "alarm" else None
        free = report.blocks_free if report.state in ("idle", "alarm") else None
        return Board(self.banner, info, settings, report.state, position, free, rx_bytes, alarm, offset)

    def _alarm(self, report: Report) -> str:
        """What the board is locked by, as far as it tells."""
        told = None if not report.substate else str(Alarm(report.substate))
        return told or self.alarm or "ALARM"

    def _offset(self, report: Report) -> Micrometres:
        """The work offset, which only some reports carry."""
        for _ in range(40):
            if report.offset_um is not None and report.work_um is not None:
                return _as_long_as(report.work_um, report.offset_um)
            report = self._report()
        return np.zeros(len(report.work_um) if report.work_um is not None else WINCH_COUNT, dtype=np.int64)


def _as_long_as(work_um: Micrometres, offset_um: Micrometres) -> Micrometres:
    """Work offsets for just as many axes as there are positions."""
    fitted = np.zeros(len(work_um), dtype=np.int64)
    fitted[: len(offset_um)] = offset_um[: len(work_um)]
    return fitted
