"""The motor driver for grblHAL (and Grbl) boards: one port, one background thread that reads and polls.

All protocol is in :class:`melter.hw.session.Session`; this module moves bytes between it and the port.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from melter.errors import LinkFault, PortError
from melter.hw.board import board_order, describe, differences, refusals
from melter.hw.driver import MotorStatus, Promises
from melter.hw.grbl import JOG_CANCEL, Micrometres
from melter.hw.handshake import Board, Talk
from melter.hw.jogs import BLOCKS_MAX, CATCH_UP
from melter.hw.link import FAULTS_KEPT, Link
from melter.hw.rough import RoughSession, take_over
from melter.hw.serial_port import OnBytes, SerialPort, device_of, serial_number
from melter.hw.session import Session
from melter.machine import WINCH_COUNT, Machine
from melter.safety.gate import ApprovedCommand

WAIT_S = 0.005
"""Longest sleep of the background thread: how late a poll or a held-back jog can be."""
PREPARED_S = 0.1
"""Steps that grblHAL may have prepared ahead (ten segments of 10 ms)."""
RECOVER_S = 2.5
"""How long a vanished port is waited for, over all attempts: longer than a board takes to start anew, and short,
because the winches stand by then and a lens that stands keeps burning until a person knows."""


def promises_of(machine: Machine) -> Promises:
    """Return what a grblHAL board behind this driver promises."""
    limits = machine.limits
    braking_s = limits.speed_max_m_s / limits.acceleration_max_m_s2
    silent_s = BLOCKS_MAX * machine.control.period_s + PREPARED_S + braking_s
    return Promises(
        checks_packets=False,
        stops_when_silent_s=silent_s,
        reports_position=True,
        reports_speed=False,
        reports_current=False,
        speed_factor=CATCH_UP,
    )


def zero_after(
    before: MotorStatus, position_um: Micrometres, zero_um: Micrometres, machine: Machine
) -> tuple[Micrometres, bool]:
    """Return the zero (8,) to count from after a recovery, and whether the counters follow from what was known ``before``.

    Where they do not, they go on from there: the zero moves with them.
    """
    moved_um = position_um - (np.rint(before.positions_m * 1e6).astype(np.int64) + zero_um)
    reach_um = machine.limits.speed_max_m_s * promises_of(machine).stops_when_silent_s * 1e6
    follows = bool((np.abs(moved_um) <= reach_um).all())
    return (zero_um if follows else zero_um + moved_um), follows


def after_a_look(
    board: Board, before: MotorStatus, zero_um: Micrometres, machine: Machine, now_s: float
) -> tuple[RoughSession, Micrometres]:
    """Return what goes on after port and board were looked at anew, and the zero (8,) to count from; see :func:`zero_after`."""
    position_um = board.winch_positions_um(machine)
    zero_um, follows = zero_after(before, position_um, zero_um, machine)
    session = RoughSession(machine, board.facts(machine), position_um, now_s, plan_um=position_um)
    session.position_trusted = before.position_trusted and follows
    return session, zero_um


class GrblDriver:
    """Eight winches behind a grblHAL board on ``port``; opens nothing until ``connect``.

    ``on_bytes``: told every byte both ways with its time, from the background thread as well.
    """

    def __init__(
        self,
        port: str,
        machine: Machine,
        *,
        on_bytes: OnBytes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device = port
        self._machine = machine
        self._on_bytes = on_bytes
        self._clock = clock
        self._lock = threading.RLock()
        self._port: SerialPort | None = None
        self._session: Link | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._serial_number: str | None = None
        self._board: Board | None = None
        self._past_faults: tuple[str, ...] = ()
        self._giving_up_s: float | None = None
        self._zero_um: NDArray[np.int64] = np.zeros(WINCH_COUNT, dtype=np.int64)
        self._status = MotorStatus(
            positions_m=np.zeros(WINCH_COUNT), state="unknown", read_host_s=-np.inf, queue_depth=0
        )

    @property
    def promises(self) -> Promises:
        """No checksum; a board that is left alone runs its queue out and stops by itself."""
        return promises_of(self._machine)

    @property
    def board(self) -> Board:
        """What the board said of itself at ``connect``."""
        if self._board is None:
            raise PortError(f"port {self._device}: not connected")
        return self._board

    def connect(self) -> None:
        """Open the port, make sure of board, axes, settings and state. Raises PortError; nothing has moved then."""
        if self._port is not None:
            raise PortError(f"port {self._device}: already connected")
        try:
            board, _ = self._open()
            self._refuse_unsuitable(board)
        except BaseException:
            self.close()
            raise
        facts, position_um = board.facts(self._machine), board.winch_positions_um(self._machine)
        self._begin(board, Session(self._machine, facts, position_um, self._clock()))

    def send(self, command: ApprovedCommand) -> ApprovedCommand:
        """Pass on one period's motion. Raises LinkFault when a fault is latched."""
        if not isinstance(command, ApprovedCommand):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"send: {type(command).__name__}, must be an ApprovedCommand from the gate")
        with self._lock:
            session = self._live()
            self._raise_fault(session)
            self._write(session.push(np.asarray(command.counts_um, dtype=np.int64), command.period_s, self._clock()))
            self._raise_fault(session)
        return command

    def poll(self) -> MotorStatus:
        """Return the newest status."""
        with self._lock:
            session = self._session
            if session is None:
                return self._status
            self._status = session.status(self._zero_um, self._past_faults)
            return self._status

    def stop(self) -> None:
        """Cancel the jog at once and drop what is queued. Raises LinkFault when the port takes no bytes."""
        with self._lock:
            session = self._live()
            failed = bool(session.faults)
            self._write(JOG_CANCEL if failed else session.stop(self._clock()))
            if not failed:
                self._raise_fault(session)

    def zero(self) -> None:
        """Let the present position be zero: the lens is parked, a person says so."""
        with self._lock:
            self._zero_um = self._live().position_um.copy()

    def recover(self) -> None:
        """Bring the link back after a fault, also under the port's new name; raises LinkFault.

        Faults stay latched in the status, but ``send`` works again, for the way to dark. Where the counters no
        longer follow from what was known before, they go on from there and are marked as not trusted.
        """
        before = self.poll()
        if self._go_on_roughly(before):
            return
        self._shut()
        self._giving_up_s = deadline_s = self._giving_up_s or self._clock() + RECOVER_S
        if self._clock() > deadline_s:
            raise LinkFault(f"port {self._device}: not back within {RECOVER_S:g} s")
        while True:
            try:
                board, talk = self._open(wake_s=max(0.3, deadline_s - self._clock()))
                if board.alarm is not None:
                    talk.unlock()
                session, self._zero_um = after_a_look(board, before, self._zero_um, self._machine, self._clock())
                break
            except (PortError, LinkFault) as error:
                self._close_port()
                if self._clock() > deadline_s:
                    raise LinkFault(f"port {self._device}: not back within {RECOVER_S:g} s: {error}") from None
                time.sleep(0.1)
        self._giving_up_s = None
        self._past_faults = tuple(dict.fromkeys(before.faults))[:FAULTS_KEPT]
        self._begin(board, session)

    def _go_on_roughly(self, before: MotorStatus) -> bool:
        """Go on at once over the same open port where only the line is bad; return whether that can be."""
        with self._lock:
            session, alive = self._session, self._thread is not None and self._thread.is_alive()
            after = take_over(session, self._machine, self._clock()) if isinstance(session, Session) and alive else None
            if after is None:
                return False
            self._session = after
            self._past_faults = tuple(dict.fromkeys(before.faults))[:FAULTS_KEPT]
            return True

    def close(self) -> None:
        """Stop, end the thread, let go of the port."""
        with contextlib.suppress(LinkFault):
            if self._session is not None:
                self.poll()
                self.stop()
        self._shut()

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, wake_s: float | None = None) -> tuple[Board, Talk]:
        device = (device_of(self._serial_number) if self._serial_number else None) or self._device
        self._port = SerialPort(device, self._on_bytes, self._clock)
        self._port.open()
        self._serial_number = self._serial_number or serial_number(device)
        talk = Talk(self._port, self._clock, wake_s=wake_s)
        try:
            return talk.begin(known=self._board), talk
        except LinkFault as error:
            raise PortError(str(error)) from None

    def _refuse_unsuitable(self, board: Board) -> None:
        if board.axes < WINCH_COUNT:
            raise PortError(
                f"port {self._device}: the board has {board.axes} axes, the machine has {WINCH_COUNT} winches"
            )
        try:
            order = board_order(board.letters, self._machine)
        except PortError as error:
            raise PortError(f"port {self._device}: {error}") from None
        listed = refusals(differences(self._machine, board.settings, order))
        if listed:
            name = self._machine.name
            raise PortError(
                f"port {self._device}: settings do not suit {name}: {describe(listed)}; see melter hw setup"
            )
        if board.state != "idle":
            reason = board.alarm or board.state
            raise PortError(f"port {self._device}: the board is in {reason}, must be idle; melter hw setup unlocks it")

    def _begin(self, board: Board, session: Link) -> None:
        self._board, self._session = board, session
        self._closing.clear()
        self._thread = threading.Thread(target=self._run, name=f"grbl {self._device}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        """Background: hand bytes to the session and send what it says, until closed or hung up."""
        port = self._port
        while port is not None and not self._closing.is_set():
            try:
                data = port.read(WAIT_S)
                with self._lock:
                    if (session := self._session) is None:
                        return
                    now_s = self._clock()
                    out = session.receive(data, now_s) if data else b""
                    out += session.tick(now_s)
                    if out:
                        port.write(out)
            except LinkFault as error:
                with self._lock:
                    if self._session is not None:
                        self._session.latch(str(error))
                        self._session.state = "unknown"
                return

    def _write(self, data: bytes) -> None:
        """Send bytes; a port that is gone is latched and raised."""
        if not data or self._port is None:
            return
        try:
            self._port.write(data)
        except LinkFault as error:
            if self._session is not None:
                self._session.latch(str(error))
            raise

    def _live(self) -> Link:
        if self._session is None:
            raise LinkFault(f"hangup: port {self._device}: not connected")
        return self._session

    def _raise_fault(self, session: Link) -> None:
        if session.faults:
            raise LinkFault(f"port {self._device}: {session.faults[0]}")

    def _shut(self) -> None:
        self._closing.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._close_port()
        with self._lock:
            self._session = None

    def _close_port(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            port.close()
