"""One connection to a board, without I/O: the jog stream, the polling, and the watch over what the board does.

Bytes and times go in, bytes to send come out. What goes wrong is latched by name in ``faults``; from then on no
motion is sent, only the cancel and the polling. Names: reset, alarm, hold, state, jump, stall, silence, refused,
noise, lag, brake, and from the driver: hangup.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from melter.hw.grbl import (
    FEED_HOLD,
    JOG_CANCEL,
    STATUS,
    Alarm,
    Banner,
    Error,
    Event,
    Garbage,
    Micrometres,
    Ok,
    Report,
)
from melter.hw.jogs import RESEND_CANCEL_S, JogStream
from melter.hw.link import BoardFacts, Link
from melter.machine import Machine

POLL_S = 0.02
"""Status reports are asked for this often: eight axes at 115200 baud take 10 ms to tell theirs."""
ANSWER_S = 0.5
"""Nothing is answered later by a board that is well; ten times the slowest answer measured (52 ms)."""
SILENT_S = 0.3
"""No report for this long: the gate refuses counters that are older (0.29 s at 20 Hz)."""
ASK_AGAIN_S = 0.1
"""A request without an answer may have been lost; then it is repeated."""
MEMORY_S = 0.3
"""A report may still show where the board was this long ago: prepared steps, the wire and the host's own delays."""
DRIFT_UM = 50
"""Sum of the board's own rounding that is put right at rest; above, the position is not the one asked for."""
NOISE_MAX, NOISE_WINDOW_S = 3, 10.0
"""So many damaged lines are borne within the window."""
LAG_S = 1.0
"""Approved motion may wait this long for room on the board."""
ODD_S = 0.1
"""Two reports of a place where no winch can be are one jump if the winches can have gone from one to the other in this time;
otherwise it is the reports that are damaged."""


class Session(Link):
    """The protocol state of one connection while all is well."""

    def __init__(self, machine: Machine, board: BoardFacts, position_um: Micrometres, now_s: float) -> None:
        super().__init__(board, now_s)
        self._names = [winch.name for winch in machine.winch]
        self._step_um = 1000.0 / board.steps_per_mm
        self._asked_s: float | None = None
        self._waiting_s: float | None = None
        self._next_poll_s = now_s
        self._odd_um: Micrometres | None = None
        self._odd_reach_um = ODD_S * machine.limits.speed_max_m_s * 1e6 + DRIFT_UM
        self._cancelled_s = -np.inf
        self._moved_s, self._moved = now_s, (position_um, 0)
        self._noise: deque[float] = deque()
        speed_um_s = machine.limits.speed_max_m_s * 1e6
        free_um_s = machine.limits.power_max_w / machine.limits.tension_max_n * 1e6
        self.stream = JogStream(
            speed_um_s, board.acceleration_m_s2 * 1e6, free_um_s, board.rx_bytes, board.blocks_total
        )
        self.stream.start(position_um)
        self._brake_s = ANSWER_S + machine.limits.speed_max_m_s / board.acceleration_m_s2

    @property
    def position_um(self) -> Micrometres:
        """(8,) newest believed counters."""
        return self.stream.position_um

    @property
    def depth(self) -> int:
        """Jogs sent and not carried out."""
        return self.stream.depth

    def push(self, counts_um: Micrometres, period_s: float, now_s: float) -> bytes:
        """Add approved motion; nothing is sent once a fault is latched."""
        return b"" if self.faults else self._out(self.stream.push(counts_um, period_s, now_s), now_s)

    def stop(self, now_s: float) -> bytes:
        """Brake and drop what is queued."""
        return self._out(self.stream.cancel(now_s, self._asked_s is not None, discard=True), now_s)

    def receive(self, data: bytes, now_s: float) -> bytes:
        """Take bytes from the board; return what is to be sent in turn."""
        self.heard_s = now_s if data else self.heard_s
        out = b"".join(self._handle(event, now_s) for event in self._decoder.feed(data))
        return self._out(out, now_s)

    def tick(self, now_s: float) -> bytes:
        """Watch the clock: poll, repeat, find what is overdue."""
        out = self._check_overdue(now_s)
        out += self._keep_stopped(now_s) if self.faults else self.stream.tick(now_s)
        due = now_s >= self._next_poll_s if self._asked_s is None else now_s - self._asked_s > ASK_AGAIN_S
        if due:
            self._next_poll_s = max(self._next_poll_s + POLL_S, now_s)
            out += STATUS
        return self._out(out, now_s)

    def _keep_stopped(self, now_s: float) -> bytes:
        """After a fault: cancel, and again until the board is seen at rest (a byte may get lost)."""
        first = not np.isfinite(self._cancelled_s)
        if not first and (self.state in ("idle", "alarm", "hold") or now_s - self._cancelled_s < RESEND_CANCEL_S):
            return b""
        self._cancelled_s = now_s
        return FEED_HOLD + JOG_CANCEL if self.state == "run" else JOG_CANCEL

    def _out(self, data: bytes, now_s: float) -> bytes:
        if STATUS in data:
            self._asked_s = now_s
            self._waiting_s = now_s if self._waiting_s is None else self._waiting_s
        return data.replace(STATUS, self.board.status)

    def _fault(self, text: str) -> bytes:
        """Latch; the cancel goes out with the next tick."""
        self.latch(text)
        return b""

    def _handle(self, event: Event, now_s: float) -> bytes:
        """One branch per kind of event."""
        match event:
            case Ok():
                return b"" if self.stream.on_ok(now_s) else self._hear_noise("an ok that no line waits for", now_s)
            case Error():
                wrong = self.stream.on_error(event, now_s)
                return self._fault(f"refused: {wrong}") if wrong else b""
            case Report():
                return self._hear_report(event, now_s)
            case Alarm():
                self.position_trusted = False
                return self._fault(f"alarm: the board raised {event}")
            case Banner():
                self.position_trusted = False
                return self._fault("reset: the board started anew in mid-run; its position is not to be trusted")
            case Garbage(text):
                if "|" in text:  # what is left of a report: no use to wait for it
                    self._asked_s = None
                return self._hear_noise(f"{event.text[:40]!r} is no line of the protocol", now_s)
            case _:
                return b""

    def _hear_noise(self, what: str, now_s: float) -> bytes:
        self._noise.append(now_s)
        while self._noise[0] < now_s - NOISE_WINDOW_S:
            self._noise.popleft()
        if len(self._noise) <= NOISE_MAX:
            return b""
        return self._fault(f"noise: {len(self._noise)} damaged lines within {NOISE_WINDOW_S:g} s, the last: {what}")

    def _hear_report(self, report: Report, now_s: float) -> bytes:
        self._asked_s = self._waiting_s = None
        position_um = self._counters(report)
        if position_um is None:
            return self._hear_noise("a status report with too few axes", now_s)
        self.state = report.state
        if self.faults:
            self.stream.position_um, self.read_s = position_um, now_s
            return b""
        if report.state == "alarm":
            self.position_trusted = False
            return self._fault("alarm: the board has locked itself")
        braking = self.stream.cancelling_s is not None and report.state == "hold"
        if report.state not in ("idle", "jog", "run") and not braking:
            return self._fault(
                f"{'hold' if report.state == 'hold' else 'state'}: the board is in {report.state}, nobody asked for it"
            )
        wrong = self._astray(report, position_um, now_s)
        if wrong:
            before, self._odd_um = self._odd_um, position_um
            if before is None:
                return STATUS
            if (np.abs(position_um - before) > self._odd_reach_um).any():
                return STATUS + self._hear_noise("positions that do not follow from one another", now_s)
            self.position_trusted = False
            return self._fault(f"jump: {wrong}")
        self._odd_um, self.read_s = None, now_s
        out = self.stream.on_report(report, position_um, now_s)
        self._tidy(report)
        progress = (position_um, self.stream.done)
        if self.stream.depth == 0 or progress[1] != self._moved[1] or (position_um != self._moved[0]).any():
            self._moved_s, self._moved = now_s, progress
        return out

    def _astray(self, report: Report, position_um: Micrometres, now_s: float) -> str | None:
        """What is wrong with a position: outside all that was asked for lately, or at rest in the wrong place."""
        tolerance_um = 2 * self._step_um + DRIFT_UM
        low, high = self.stream.reachable_um(now_s, MEMORY_S)
        outside_um = np.maximum(low - position_um, position_um - high)
        winch = int(np.argmax(outside_um - tolerance_um))
        if outside_um[winch] > tolerance_um[winch]:
            return f"winch {self._names[winch]} is {outside_um[winch] / 1000:.3f} mm beyond all that was asked for"
        if report.state != "idle" or not self._at_rest(report):
            return None
        off_um = np.abs(position_um - self.stream.plan_um)
        winch = int(np.argmax(off_um - tolerance_um))
        if off_um[winch] > tolerance_um[winch]:
            return f"winch {self._names[winch]} came to rest {off_um[winch] / 1000:.3f} mm from where it was asked to"
        return None

    def _at_rest(self, report: Report) -> bool:
        """Whether this report shows a board that has done everything it was sent."""
        if self.stream.unanswered or self.stream.cancelling_s is not None:
            return False
        return (
            report.blocks_free is None
            or self.stream.blocks_total is None
            or report.blocks_free >= self.stream.blocks_total
        )

    def _tidy(self, report: Report) -> None:
        """At rest, put right what the board's own rounding has added up to."""
        if report.state == "idle" and self.stream.at_rest:
            off_um = np.abs(self.stream.position_um - self.stream.plan_um)
            if (off_um > 1.5 * self._step_um).any():
                self.stream.adopt_position()

    def _check_overdue(self, now_s: float) -> bytes:
        """Latch what has been waited for too long."""
        stream = self.stream
        if self.faults:
            return b""
        oldest_s, refused_s, cancelling_s = stream.oldest_unanswered_s, stream.refused_since_s, stream.cancelling_s
        silent_s = 0.0 if self._waiting_s is None else now_s - self._waiting_s
        if silent_s > SILENT_S:
            return self._fault(f"silence: no status report for {silent_s:.2f} s, at most {SILENT_S} s")
        if cancelling_s is not None:
            if (took_s := now_s - cancelling_s) > self._brake_s:
                return self._fault(
                    f"brake: still moving {took_s:.2f} s after the jog cancel, at most {self._brake_s:.2f} s"
                )
            return b""
        if oldest_s is not None and now_s - oldest_s > ANSWER_S:
            return self._fault(f"silence: a jog is unanswered for {now_s - oldest_s:.2f} s, at most {ANSWER_S} s")
        if refused_s is not None and now_s - refused_s > ANSWER_S:
            return self._fault(f"refused: the board refuses jogs for {now_s - refused_s:.2f} s, at most {ANSWER_S} s")
        if stream.depth and self.read_s - self._moved_s > ANSWER_S:
            stood_s = self.read_s - self._moved_s
            return self._fault(
                f"stall: {stream.depth} jogs on the board, no motion for {stood_s:.2f} s, at most {ANSWER_S} s"
            )
        if stream.pending_s > LAG_S:
            return self._fault(f"lag: the board takes approved motion {stream.pending_s:.2f} s late, at most {LAG_S} s")
        return b""
