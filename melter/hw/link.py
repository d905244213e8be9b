"""What every kind of connection to a board keeps: where the winches were last seen, and what is latched."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.hw.board import USUAL_ORDER
from melter.hw.driver import MotorStatus
from melter.hw.grbl import STATUS, Decoder, Micrometres, Report
from melter.machine import WINCH_COUNT

FAULTS_KEPT = 8


@dataclass(frozen=True)
class BoardFacts:
    """What the handshake found out."""

    steps_per_mm: NDArray[np.float64]
    """(8,)"""
    acceleration_m_s2: float
    """The slowest axis's."""
    blocks_total: int | None
    """None where the board does not report its buffers."""
    rx_bytes: int
    order: tuple[int, ...] = USUAL_ORDER
    """Each winch's place in the board's reports."""
    offset_um: Micrometres | None = None
    """(8,) machine minus work position, winch order; None where not told."""
    status: bytes = STATUS
    """What asks this board for a report."""


class Link(ABC):
    """One connection, without I/O: bytes and times go in, bytes to send come out. Not safe for use from several threads."""

    def __init__(self, board: BoardFacts, now_s: float) -> None:
        self.board = board
        self.faults: list[str] = []
        self.state = "idle"
        self.read_s = now_s
        self.heard_s = now_s
        """When the last byte came."""
        self.position_trusted = True
        self._decoder = Decoder()
        self._order, self._axes = list(board.order), max(board.order) + 1
        self._offset_um = board.offset_um if board.offset_um is not None else np.zeros(WINCH_COUNT, dtype=np.int64)

    @property
    @abstractmethod
    def position_um(self) -> Micrometres:
        """(8,) newest believed counters."""

    @property
    @abstractmethod
    def depth(self) -> int:
        """Jogs sent and not carried out."""

    @abstractmethod
    def push(self, counts_um: Micrometres, period_s: float, now_s: float) -> bytes:
        """Add (8,) approved motion; nothing is sent once a fault is latched."""

    @abstractmethod
    def stop(self, now_s: float) -> bytes:
        """Brake and drop what is queued."""

    @abstractmethod
    def receive(self, data: bytes, now_s: float) -> bytes:
        """Take bytes from the board; return what is to be sent in turn."""

    @abstractmethod
    def tick(self, now_s: float) -> bytes:
        """Watch the clock: poll, repeat, find what is overdue."""

    def latch(self, fault: str) -> None:
        """Note a fault for good."""
        name = fault.split(":")[0]
        if len(self.faults) < FAULTS_KEPT and not any(known.startswith(f"{name}:") for known in self.faults):
            self.faults.append(fault)

    def status(self, zero_um: Micrometres, past_faults: tuple[str, ...]) -> MotorStatus:
        """Return the newest status: places counted from ``zero_um`` (8,), ``past_faults`` of earlier connections first."""
        return MotorStatus(
            positions_m=(self.position_um - zero_um).astype(np.float64) * 1e-6,
            state=self.state,
            read_host_s=self.read_s,
            queue_depth=self.depth,
            faults=(*past_faults, *self.faults),
            position_trusted=self.position_trusted,
        )

    def _counters(self, report: Report) -> Micrometres | None:
        """(8,) machine position, also where the board reports the work position and, now and then, its offset."""
        if report.offset_um is not None and len(report.offset_um) >= self._axes:
            self._offset_um = report.offset_um[self._order]
        if report.machine_um is not None:
            return report.machine_um[self._order] if len(report.machine_um) >= self._axes else None
        if report.work_um is None or len(report.work_um) < self._axes:
            return None
        return report.work_um[self._order] + self._offset_um
