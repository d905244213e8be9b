"""What a person does to a board by hand: look at it, stop it, set it up; each opens the port and lets go of it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from serial.tools import list_ports

from melter.errors import LinkFault, PortError
from melter.hw.board import Difference, board_order, differences, setting_lines
from melter.hw.grbl import FEED_HOLD, JOG_CANCEL, STATUS, Decoder, Report
from melter.hw.handshake import Board, Talk
from melter.hw.serial_port import SerialPort
from melter.machine import WINCH_COUNT, Machine

STOP_S = 2.0


@dataclass(frozen=True)
class Found:
    """A serial port and what answers there."""

    device: str
    description: str
    serial_number: str | None
    answers: str
    board: bool
    """Whether it is a controller that melter can talk to."""


def list_boards(only: str | None = None, *, ask: bool = True) -> list[Found]:
    """Return the serial ports here, or just ``only``; ``ask`` opens each one (which resets some boards)."""
    here = {port.device: port for port in list_ports.comports()}
    found: list[Found] = []
    for device in [only] if only is not None else sorted(here):
        port = here.get(device)
        answers, board = ("not asked", False) if not ask else _what_answers(device)
        description = (port.description if port else None) or "serial port"
        found.append(Found(device, description, port.serial_number if port else None, answers, board))
    return found


def look(device: str) -> Board:
    """Return what the board says of itself, without stopping or restarting it. Raises PortError."""
    port = SerialPort(device)
    port.open()
    try:
        return Talk(port).begin(only_look=True)
    except LinkFault as error:
        raise PortError(str(error)) from None
    finally:
        port.close()


def stop_at_once(device: str) -> Report:
    """Cancel whatever jog runs, first of all; return the report at standstill. Raises PortError, LinkFault."""
    port = SerialPort(device)
    port.open()
    try:
        port.write(JOG_CANCEL + STATUS)
        return _await_rest(port)
    finally:
        port.close()


def set_up(device: str, machine: Machine, *, write: bool) -> tuple[Board, list[Difference]]:
    """Return the board and what does not suit ``machine``; with ``write``, put it right, unlock and read it back.

    Raises PortError when the board has too few axes, or does not take a setting.
    """
    port = SerialPort(device)
    port.open()
    try:
        talk = Talk(port)
        board = talk.begin()
        if board.axes < WINCH_COUNT:
            raise PortError(f"port {device}: the board has {board.axes} axes, the machine has {WINCH_COUNT} winches")
        order = _order(device, board, machine)
        listed = differences(machine, board.settings, order)
        if write:
            for line in setting_lines(listed):
                talk.ask(line)
            if board.alarm is not None:  # afterwards: homing that is required must be switched off before
                talk.unlock()
            board = Talk(port).begin()
            left = differences(machine, board.settings, order)
            if left:
                raise PortError(f"port {device}: {left[0]}: written, but the board does not keep it")
        return board, listed
    except LinkFault as error:
        raise PortError(str(error)) from None
    finally:
        port.close()


def _order(device: str, board: Board, machine: Machine) -> tuple[int, ...]:
    try:
        return board_order(board.letters, machine)
    except PortError as error:
        raise PortError(f"port {device}: {error}") from None


def _what_answers(device: str) -> tuple[str, bool]:
    try:
        board = look(device)
    except PortError as error:
        return str(error).removeprefix(f"port {device}: "), False
    version = next((text for text in board.info if text.startswith("[VER:")), board.banner or "Grbl")
    return f"{version}, {board.axes} axes, {board.state}", True


def _await_rest(port: SerialPort) -> Report:
    decoder, deadline_s = Decoder(), time.monotonic() + STOP_S
    again_s, state = time.monotonic() + 0.05, ""
    while time.monotonic() < deadline_s:
        for event in decoder.feed(port.read(0.02)):
            if isinstance(event, Report) and event.state not in ("jog", "run"):
                return event
            state = event.state if isinstance(event, Report) else state
        if time.monotonic() > again_s:
            port.write((FEED_HOLD if state == "run" else b"") + JOG_CANCEL + STATUS)
            again_s = time.monotonic() + 0.05
    raise LinkFault(
        f"port {port.device}: no standstill reported within {STOP_S:g} s of the jog cancel; cut the motors' power"
    )
