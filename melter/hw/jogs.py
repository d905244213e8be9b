"""A stream of short jogs that follows approved motion: what was sent, what the board still has, what is left.

Pure: no port, no clock. The stream keeps the *target* (everything approved, summed in whole micrometres), the
*plan* (where the board will stand when all it has accepted is done) and the reported *position*. Each jog carries
target minus plan, so nothing approved is ever lost or sent twice, whatever was refused, held back or cancelled.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from melter.hw.grbl import JOG_CANCEL, STATUS, Error, Micrometres, Report, jog_line
from melter.machine import WINCH_COUNT

BLOCKS_MAX = 3
"""Jogs on the board at most; more is latency, and a queue that the axes cannot follow never empties."""
QUEUE_S = 0.06
"""No further jog is sent while those on the board are meant to take longer than this and braking."""
PREPARED_S = 0.06
"""Motion that the board holds outside its planner; without buffer reports it looks like part of the queue."""
NEAR_UM = 20
"""Two steps: closer to its end than this, a block is done."""
LINES_MAX = 2
"""Unanswered lines at most; real boards answer a jog in 6 ms (median) to 52 ms."""
USUAL_S = 0.1
"""Delay of a board in steady motion, beyond one period; a longer one is caught up with."""
CATCH_UP = 1.25
"""What was held back is sent at most this much faster than the fastest speed lately approved for each winch.

A board that sees only a few short jogs ahead brakes for the end that it sees; at 1.0 it would fall behind for good.
The way stays the approved one: a jog never ends beyond the sum of what was approved.
"""
PIECE_PERIODS = 2.5
"""What was held up longer is sent in pieces: behind a long jog the next one comes too late, and the board stops. So short
that the board brakes for the end of one while the next is under way, it falls behind at high speed."""
SMALL_UM = 100
"""What is less is no motion to be sent in pieces: below a step each, they would take longer than they are approved for."""
APPROVED_S = 1.0
"""How long ago lately is."""
CREEP_UM_S = 1000.0
"""What rounding or a cancel left over of a winch that has no approved speed is put right this slowly."""
REVERSAL_UM = 500
"""A queue worth less than this is run out rather than cancelled when the motion turns round."""
REACTION_S = 0.03
"""What passes before a cancel begins to brake: the wire, and steps that are prepared already."""
SHORTEST_S = 0.005
"""No jog is meant to last less: a rounding left over is not worth a jerk."""
RESEND_CANCEL_S = 0.05
"""A cancel without effect (a lost byte, a jog started since) is repeated after this."""
REFUSED_FOR_NOW = (8, 9)
"""Errors of a board between two states; the jog is sent again."""


Array = NDArray[np.float64]


def zeros() -> Micrometres:
    """Return (8,) zero micrometres."""
    return np.zeros(WINCH_COUNT, dtype=np.int64)


@dataclass
class Sent:
    """A jog on its way: unanswered, then on the board."""

    increments_um: Micrometres
    end_um: Micrometres
    duration_s: float
    size: int
    sent_s: float
    accepted_s: float | None = None


@dataclass
class JogStream:
    """The bookkeeping of one connection. Every method that may have something to say returns bytes to send."""

    speed_max_um_s: float
    """No jog makes any axis faster than this."""
    acceleration_um_s2: float
    """What the board brakes with."""
    speed_free_um_s: float = np.inf
    """Up to here a winch keeps the power limit whatever its tension."""
    rx_bytes: int = 1024
    blocks_total: int | None = None
    """The board's planner size; None where it does not report its buffers."""

    position_um: Micrometres = field(default_factory=zeros)
    target_um: Micrometres = field(default_factory=zeros)
    plan_um: Micrometres = field(default_factory=zeros)
    cancelling_s: float | None = None
    """Since when a cancel is under way."""
    refused_since_s: float | None = None
    """Since when the board refuses jogs."""
    pending_s: float = 0.0
    """Approved time whose motion is not sent yet."""
    done: int = 0
    """Jogs carried out."""
    _lines: deque[Sent] = field(default_factory=deque[Sent])
    _blocks: deque[Sent] = field(default_factory=deque[Sent])
    _past: deque[tuple[float, Micrometres]] = field(default_factory=deque[tuple[float, Micrometres]])
    _speed_um_s: float = 0.0
    """Of the fastest axis in the newest jog."""
    _discard: bool = False
    _turning: bool = False
    _news: bool = False
    """Something happened since the last look at what could be sent."""
    _later_um: Micrometres = field(default_factory=zeros)
    _reports_to_skip: int = 0
    _cancel_sent_s: float = 0.0
    _period_s: float = 0.0
    _pushed_s: float = 0.0
    _last_um: Micrometres = field(default_factory=zeros)
    _approved: deque[tuple[float, Array]] = field(default_factory=deque[tuple[float, Array]])

    @property
    def depth(self) -> int:
        """Jogs sent and not carried out."""
        return len(self._lines) + len(self._blocks)

    @property
    def unanswered(self) -> int:
        """Lines without an answer."""
        return len(self._lines)

    @property
    def oldest_unanswered_s(self) -> float | None:
        """When the oldest line without an answer was sent."""
        return self._lines[0].sent_s if self._lines else None

    @property
    def at_rest(self) -> bool:
        """Nothing sent is still to be carried out."""
        return not self._lines and not self._blocks and self.cancelling_s is None

    def start(self, position_um: Micrometres) -> None:
        """Begin at rest at ``position_um``; all that was before is forgotten."""
        self.position_um, self.target_um, self.plan_um = position_um, position_um.copy(), position_um.copy()
        self._forget(-np.inf)
        self._past.append((np.inf, position_um))

    def push(self, counts_um: Micrometres, period_s: float, now_s: float) -> bytes:
        """Add one period of approved motion."""
        if self._discard:
            self._later_um = self._later_um + counts_um
        else:
            self.target_um = self.target_um + counts_um
        self.pending_s += period_s
        self._period_s, self._last_um, self._pushed_s = period_s, counts_um, now_s
        self._approved.append((now_s, np.abs(counts_um) / period_s))
        return self.pump(now_s)

    def cancel(self, now_s: float, report_due: bool, discard: bool) -> bytes:
        """Brake now. ``discard``: what was approved and not done is dropped, else it is still to be done.

        ``report_due``: a report asked for earlier is still to come; it may show the time before.
        """
        if self.cancelling_s is None:
            self.cancelling_s = now_s
            self._reports_to_skip = int(report_due)
            self._later_um = zeros()
        self._discard |= discard
        self._cancel_sent_s = now_s
        return JOG_CANCEL + STATUS

    def on_ok(self, now_s: float) -> bool:
        """The oldest line was accepted. False when no line waits for an answer."""
        if not self._lines:
            return self.cancelling_s is not None
        sent = self._lines.popleft()
        sent.accepted_s = now_s
        self._blocks.append(sent)
        self.refused_since_s, self._news = None, True
        return True

    def on_error(self, error: Error, now_s: float) -> str | None:
        """The oldest line was refused: take it back. Return what is wrong when that is more than bad timing."""
        if not self._lines:
            return None if self.cancelling_s is not None else f"{error} without a line that waits for an answer"
        sent = self._lines.popleft()
        self.plan_um = self.plan_um - sent.increments_um
        for later in self._lines:
            later.end_um = later.end_um - sent.increments_um
        self.pending_s += sent.duration_s
        self._news = True
        if error.code not in REFUSED_FOR_NOW:
            return f"a jog was answered with {error}: damaged on the way?"
        if self.refused_since_s is None:
            self.refused_since_s = now_s
        return None

    def on_report(self, report: Report, position_um: Micrometres, now_s: float) -> bytes:
        """Take note of where the board is."""
        self.position_um = position_um
        if self.cancelling_s is not None:
            return self._while_cancelling(report, now_s)
        self._retire(report, now_s)
        return self.pump(now_s)

    def tick(self, now_s: float) -> bytes:
        """Repeat a cancel that had no effect; send what was held back."""
        if self.cancelling_s is not None:
            if now_s - self._cancel_sent_s > RESEND_CANCEL_S:
                self._cancel_sent_s = now_s
                return JOG_CANCEL
            return b""
        return self.pump(now_s) if self._news or self._turning else b""

    def pump(self, now_s: float) -> bytes:
        """Return the next jog, a cancel, or nothing."""
        self._news = False
        ahead_um = self.target_um - self.plan_um
        if self.cancelling_s is not None:
            return b""
        if self._turns_round(ahead_um):
            return self.cancel(now_s, report_due=False, discard=False)
        ahead_um = self._not_back_and_forth(ahead_um, now_s)
        if not ahead_um.any():
            self.pending_s = 0.0
            return b""
        if self._full():
            return b""
        duration_s = max(
            self.pending_s / (CATCH_UP if self._late() else 1.0), self._shortest_s(ahead_um, now_s), SHORTEST_S
        )
        longest_s = PIECE_PERIODS * self._period_s
        if np.abs(ahead_um).max() < SMALL_UM:  # held up for long, and next to nothing: all of it at once
            duration_s = max(min(duration_s, longest_s), self._shortest_s(ahead_um, now_s), SHORTEST_S)
        share = min(1.0, longest_s / duration_s)
        piece_um = np.trunc(ahead_um * share).astype(np.int64)
        if share < 1.0 and piece_um.any():
            ahead_um, duration_s = piece_um, duration_s * share
        else:
            share = 1.0
        line = jog_line(ahead_um, duration_s)
        if sum(sent.size for sent in self._lines) + len(line) >= self.rx_bytes:
            return b""
        self.plan_um = self.plan_um + ahead_um
        self._lines.append(Sent(ahead_um, self.plan_um.copy(), duration_s, len(line), now_s))
        self._speed_um_s = float(np.abs(ahead_um).max()) / duration_s
        self.pending_s *= 1.0 - share
        return line

    def adopt_position(self) -> None:
        """Plan from the reported position; at rest only. What rounding left over goes into the next jog."""
        self.plan_um = self.position_um.copy()
        self._past.clear()
        self._past.append((np.inf, self.plan_um))

    def reachable_um(self, now_s: float, memory_s: float) -> tuple[Micrometres, Micrometres]:
        """Return the (8,) lowest and highest positions the board can truthfully report just now."""
        while len(self._past) > 1 and self._past[1][0] < now_s - memory_s:
            self._past.popleft()
        ends = [end for _, end in self._past]
        ends += [sent.end_um for sent in self._blocks] + [sent.end_um for sent in self._lines]
        array = np.array(ends)
        return array.min(axis=0), array.max(axis=0)

    def _shortest_s(self, ahead_um: Micrometres, now_s: float) -> float:
        """The least time for a jog in which every winch keeps its speed limit.

        That is CATCH_UP times what was lately approved for it, and never above the machine's highest speed, nor above
        ``speed_free_um_s`` but where the gate itself has approved more.
        """
        while self._approved and self._approved[0][0] < now_s - APPROVED_S:
            self._approved.popleft()
        lately = np.array([np.zeros(WINCH_COUNT), *(speed for _, speed in self._approved)]).max(axis=0)
        free = np.maximum(lately, self.speed_free_um_s)
        allowed_um_s = np.minimum(np.clip(CATCH_UP * lately, CREEP_UM_S, self.speed_max_um_s), free)
        return float((np.abs(ahead_um) / allowed_um_s).max())

    def _late(self) -> bool:
        """Whether motion was held back, or the board is further behind than it needs to be."""
        behind_um = float(np.abs(self.target_um - self.position_um).max())
        usual_um = float(np.abs(self._last_um).max()) * (1.0 + USUAL_S / max(self._period_s, SHORTEST_S))
        return self.pending_s > 1.5 * self._period_s or behind_um > usual_um

    def _not_back_and_forth(self, ahead_um: Micrometres, now_s: float) -> Micrometres:
        """After a reversal: axes short of the target wait for it to come back, rather than run on only to return.

        For as long as commands go on coming; then they go where they were sent.
        """
        if not self._turning or now_s > self._pushed_s + 1.5 * self._period_s:
            self._turning = False
            return ahead_um
        waits = ahead_um * self._last_um < 0
        self._turning = bool(waits.any())
        return np.where(waits, 0, ahead_um)

    def _full(self) -> bool:
        """Whether the board has enough to do; without buffer reports, what it has prepared counts as well."""
        unseen_s = 0.0 if self.blocks_total is not None else PREPARED_S
        most = BLOCKS_MAX + round(unseen_s / max(self._period_s, SHORTEST_S))
        queued_s = sum(sent.duration_s for sent in self._blocks) + sum(sent.duration_s for sent in self._lines)
        braking_s = self._speed_um_s / self.acceleration_um_s2
        started_s = min(self._period_s, 2 * braking_s)  # the block under way is counted whole, but may be nearly done
        enough_s = QUEUE_S + unseen_s + 0.5 * braking_s + started_s
        return self.depth >= most or len(self._lines) >= LINES_MAX or queued_s > enough_s

    def _turns_round(self, ahead_um: Micrometres) -> bool:
        """Whether cancelling beats running out the queue: it leads away from the target by more than braking does."""
        if not self._blocks:
            return False  # with nothing accepted, an idle report would not tell whether the cancel came first
        left_um = (self.plan_um - self.position_um).astype(float)
        left = float(np.sqrt((left_um * left_um).sum()))
        longest = float(np.abs(left_um).max())
        stopping_s = REACTION_S + self._speed_um_s / self.acceleration_um_s2
        back = ahead_um + self._last_um * (
            stopping_s / max(self._period_s, SHORTEST_S)
        )  # the target when it would stand
        if longest <= REVERSAL_UM or float((left_um * back).sum()) >= -0.5 * left * float(np.sqrt((back * back).sum())):
            return False
        braking = self._speed_um_s**2 / (2 * self.acceleration_um_s2)
        return longest > braking

    def _while_cancelling(self, report: Report, now_s: float) -> bytes:
        if self._reports_to_skip:
            self._reports_to_skip -= 1
            return STATUS
        if report.state != "idle":
            return STATUS
        self._forget(now_s)
        self.plan_um = self.position_um.copy()
        if self._discard:
            self.target_um = self.position_um + self._later_um
        self._turning = not self._discard
        self._discard, self.cancelling_s = False, None
        return self.pump(now_s)

    def _retire(self, report: Report, now_s: float) -> None:
        """Strike off the blocks that the board has done."""
        if report.blocks_free is None or self.blocks_total is None:
            keep = 0 if report.state == "idle" else self._keep_by_position()
        else:
            keep = max(0, self.blocks_total - report.blocks_free)
        while len(self._blocks) > keep:
            self.done += 1
            self._past.append((now_s, self._blocks.popleft().end_um))

    def _keep_by_position(self) -> int:
        """Without buffer reports: how many blocks end beyond where the board was seen."""
        start_um, keep = self._past[-1][1], len(self._blocks)
        for block in self._blocks:
            along = (block.end_um - start_um).astype(float)
            beyond = float(((block.end_um - self.position_um) * along).sum())
            if beyond > NEAR_UM * float(np.sqrt((along * along).sum())):
                break
            start_um, keep = block.end_um, keep - 1
        return keep

    def _forget(self, now_s: float) -> None:
        self._lines.clear()
        self._blocks.clear()
        self._past.clear()
        self._past.append((now_s if np.isfinite(now_s) else np.inf, self.position_um))
        self._speed_um_s = 0.0
        self.refused_since_s = None
