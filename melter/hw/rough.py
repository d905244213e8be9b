"""The way to dark over a line that loses or damages bytes, or answers late, without I/O.

No new handshake: over such a line it takes seconds, and the light is on. What makes it work all the same:

- Jogs are short and of whole millimetres with sign and point, so that damage leaves few of them valid: a lost letter or newline makes an
  error, a lost digit a smaller step, what two words that run into one another make is no larger than they are, and no lost decimal
  point makes a step a thousand times as long.
- On a line that answers at once, one line is on its way at a time. A refused one is sent again; of one that is not answered nobody knows
  whether it was carried out, so the board is braked, and what its reports agree on is where it goes on from.
- On a line that has fallen silent, answers may only be late. Nothing is waited for: jogs go out whole, at the pace of what is approved.

What is left of a damaged report is used number by number: one is believed where the winch can be, or when several agree.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from melter.hw.grbl import JOG_CANCEL, RESUME, Alarm, Banner, Error, Event, Garbage, Micrometres, Ok, Report, jog_line
from melter.hw.jogs import CATCH_UP, CREEP_UM_S, SHORTEST_S
from melter.hw.link import BoardFacts, Link
from melter.hw.session import Session
from melter.machine import WINCH_COUNT, Machine

POLL_S = 0.02
ANSWER_S = 0.06
"""Boards answer a jog in 52 ms at most; later, the line or its answer is taken for lost."""
SILENT_S = 2.5
"""Without a single byte for this long there is nobody at the other end."""
PIECE_S, LEAST_S = 0.3, 0.15
"""A jog is meant to take no longer; and no less while more is to come: the fewer, the fewer are damaged, and the less does
rounding bend the way, for which a board slows down."""
AHEAD_S = 0.1
"""The board is given this much to do beyond what braking takes."""
AGAIN_S = 0.05
"""A cancel is repeated after this while the board moves: a byte may get lost."""
CRAWLS_S = 0.2
"""A board that is this much later than it was told to be has taken a damaged jog."""
LATE_S = 0.15
"""A line on which nothing at all has come for this long answers late; one that loses bytes goes on telling something."""
IN_PLACE = {"noise", "refused", "silence", "lag", "stall", "brake"}
"""Faults of a line whose board is still the same."""
RESTS_S = 0.1
"""A board that reports rest this long after its last jog should have ended has done all it took."""
NEAR_UM = 3_000
"""A number this close to where the winch can be is believed."""
STANDS, IS_FAR = 2, 3
"""So many equal numbers in a row tell that a winch stands; so many that follow from one another, that it is where it cannot be."""
FOLLOWS_S = 0.1
"""Numbers follow from one another where the winch can go from one to the other in this time."""
UNIT_UM = 1_000
STEP_UM_S = 20_000.0
"""However slow its approved motion, a winch makes a step of one unit at this speed: on the average it is no faster."""
_PLACES = re.compile(r"\|([MW])[Pos]{1,3}:?([-0-9.,]+)")
_PLACE = re.compile(r"-?\d{1,6}\.\d{3}$")
_HEADS = {"idle": ("idle", "dle", "ile", "ide", "idl"), "jog": ("jog", "og", "jg", "jo")}
_OK = re.compile(r"ok?|k|.k|.*>ok", re.IGNORECASE)


class RoughSession(Link):
    """One connection for the way to dark. Faults it knows: reset, alarm, state, silence; and from the driver: hangup."""

    def __init__(
        self,
        machine: Machine,
        board: BoardFacts,
        position_um: Micrometres,
        now_s: float,
        *,
        plan_um: Micrometres | None = None,
        late: bool = False,
    ) -> None:
        """``position_um``: (8,) where the board was seen last. ``plan_um``: where it stands once it has done what it has;
        None: it is braked first. ``late``: answers are not waited for.
        """
        super().__init__(board, now_s)
        self.position_trusted = not late
        self._late, self._position_um, self._plan_um = late, position_um, plan_um
        self._wanted_um = np.zeros(WINCH_COUNT, dtype=np.int64)
        self._from_um = plan_um
        self._speed_max_um_s = machine.limits.speed_max_m_s * 1e6
        self._free_um_s = machine.limits.power_max_w / machine.limits.tension_max_n * 1e6
        self._follows_um = self._speed_max_um_s * FOLLOWS_S
        self._fastest_um_s: NDArray[np.float64] = np.zeros(WINCH_COUNT)
        self._lines: deque[tuple[Micrometres, float, float]] = deque()
        self._busy_s = self._pushed_s = now_s
        self._jog_um_s = self._pending_s = 0.0
        self._cancelled_s, self._polled_s = -np.inf, -np.inf
        self._last_um, self._equal = position_um.tolist(), [0] * WINCH_COUNT
        self._far_um, self._far = position_um.tolist(), [0] * WINCH_COUNT

    @property
    def position_um(self) -> Micrometres:
        """(8,) newest believed counters."""
        return self._position_um

    @property
    def depth(self) -> int:
        """Lines without an answer, and one more while there is something to do, or nobody knows."""
        resting = self._plan_um is not None and self.heard_s >= self._busy_s and (self._late or self.state == "idle")
        return len(self._lines) + int(not resting or bool(np.abs(self._ahead_um()).max() >= UNIT_UM // 10))

    def push(self, counts_um: Micrometres, period_s: float, now_s: float) -> bytes:
        """Add (8,) approved motion; nothing is sent once a fault is latched."""
        if self.faults:
            return b""
        self._wanted_um = self._wanted_um + counts_um
        self._fastest_um_s = np.maximum(self._fastest_um_s, np.abs(counts_um) / period_s)
        self._pushed_s, self._pending_s = now_s, self._pending_s + period_s
        return self._feed(now_s)

    def stop(self, now_s: float) -> bytes:
        """Brake and drop what is queued."""
        self._from_um, self._wanted_um = None, np.zeros_like(self._wanted_um)
        self._lose_track()
        return self._brake(now_s)

    def receive(self, data: bytes, now_s: float) -> bytes:
        """Take bytes from the board; return what is to be sent in turn."""
        if data:
            self.heard_s = now_s
        return b"".join(self._handle(event, now_s) for event in self._decoder.feed(data))

    def tick(self, now_s: float) -> bytes:
        """Watch the clock: poll, brake, go on."""
        out = b""
        if not self.faults and now_s - self.heard_s > SILENT_S:
            self.latch(f"silence: nothing came from the board for {now_s - self.heard_s:.1f} s, at most {SILENT_S} s")
        if not self.faults and not self._late and self._lines and now_s - self._lines[0][1] > ANSWER_S:
            self._lose_track()
        if self.faults or self._plan_um is None:
            if now_s - self._cancelled_s > AGAIN_S and not (self.faults and self.state in ("idle", "alarm", "hold")):
                out += self._brake(now_s)
        else:
            out += self._feed(now_s)
        if now_s - self._polled_s >= POLL_S:
            self._polled_s = now_s
            out += self.board.status
        return out

    # -- what the board says --------------------------------------------------------------------------------------

    def _handle(self, event: Event, now_s: float) -> bytes:
        match event:
            case Ok():
                self._accept()
            case Error():
                self._refuse()
            case Garbage(text):
                self._hear_damaged(text, now_s)
            case Report(state):
                if state == "hold":
                    return RESUME
                if state == "alarm":
                    self._distrust("alarm: the board has locked itself")
                elif state not in ("idle", "jog", "run"):
                    self.latch(f"state: the board is in {state}, nobody asked for it")
                if (position_um := self._counters(event)) is not None:
                    self._hear_places(state, position_um.tolist(), now_s)
            case Alarm():
                self._distrust(f"alarm: the board raised {event}")
            case Banner():
                self._distrust("reset: the board started anew in mid-run; its position is not to be trusted")
            case _:
                pass
        return self._feed(now_s)

    def _hear_damaged(self, text: str, now_s: float) -> None:
        if _OK.fullmatch(text):
            self._accept()
        elif "|" not in text:
            if text[:1] in "eErR":
                self._refuse()
        elif (places_um := self._places(text)) is not None:
            head = text.split("|")[0].lstrip("<").lower()
            state = next((state for state, heads in _HEADS.items() if head in heads), "")
            self._hear_places(state, places_um, now_s)

    def _places(self, text: str) -> list[int | None] | None:
        """What a damaged report tells of each winch, micrometres; None where it cannot be told which number is whose."""
        found = _PLACES.search(text)
        values = found[2].split(",") if found else []
        if found is None or len(values) < self._axes:
            return None
        offset_um = self._offset_um.tolist() if found[1] == "W" else [0] * WINCH_COUNT
        return [
            round(float(values[place]) * 1000) + more if _PLACE.match(values[place]) else None
            for place, more in zip(self._order, offset_um, strict=True)
        ]

    def _distrust(self, fault: str) -> None:
        self.position_trusted = False
        self.latch(fault)

    def _accept(self) -> None:
        """The oldest line is on the board; on a late line that was taken for granted when it was sent."""
        if not self._lines:
            return
        increments_um, sent_s, duration_s = self._lines.popleft()
        if not self._late and self._plan_um is not None:
            self._plan_um = self._plan_um + increments_um
            self._busy_s = max(self._busy_s, sent_s) + duration_s

    def _refuse(self) -> None:
        if self._lines:
            increments_um, _, duration_s = self._lines.popleft()
            self._pending_s += duration_s
            if self._late and self._plan_um is not None:
                self._plan_um = self._plan_um - increments_um

    def _hear_places(self, state: str, places_um: Sequence[int | None], now_s: float) -> None:
        """Take in where the winches are (8,), None where unknown, and whether the board moves; empty where unknown."""
        self.state = state or self.state
        believed = [self._believe(winch, um) for winch, um in enumerate(places_um) if um is not None]
        if any(believed):
            self._position_um, self.read_s = np.array(self._last_um, dtype=np.int64), now_s
        if self.faults or self._late:
            return
        stands = state == "idle" and min(self._equal) >= STANDS
        if self._plan_um is None:
            if stands and now_s - self._cancelled_s > 0.5 * POLL_S:
                self._rest(now_s)
        elif not self._lines:
            if stands and now_s > self._busy_s + RESTS_S:
                self._rest(now_s)
            elif max(self._far) >= IS_FAR or self._crawls(now_s):
                self._lose_track()

    def _crawls(self, now_s: float) -> bool:
        """Whether what is left of the way takes longer than the time left for it."""
        left_um = np.zeros(WINCH_COUNT) if self._plan_um is None else self._plan_um - self._position_um
        left_s = float((np.abs(left_um) / self._allowed_um_s()).max())
        return left_s > max(self._busy_s - now_s, 0.0) + CRAWLS_S

    def _believe(self, winch: int, um: int) -> bool:
        """Return whether this winch is taken to be at ``um``."""
        ends = [int(self._position_um[winch])]
        if self._plan_um is not None:
            ends.append(int(self._plan_um[winch]))
        ends += [ends[-1] + int(increments_um[winch]) for increments_um, _, _ in self._lines]
        if min(ends) - NEAR_UM <= um <= max(ends) + NEAR_UM:
            self._far[winch] = 0
        else:
            self._far[winch] = self._far[winch] + 1 if abs(um - self._far_um[winch]) < self._follows_um else 1
            self._far_um[winch] = um
            if self._far[winch] < IS_FAR:
                return False
        self._equal[winch] = self._equal[winch] + 1 if um == self._last_um[winch] else 1
        self._last_um[winch] = um
        return True

    # -- what it is told ------------------------------------------------------------------------------------------

    def _rest(self, now_s: float) -> None:
        """The board stands where it was seen, and has nothing more to do; what it lacks it is to do as fast as may be."""
        self._pending_s = 0.0
        self._plan_um, self._busy_s, self._jog_um_s = self._position_um, now_s, 0.0
        if self._from_um is None:
            self._from_um = self._position_um

    def _lose_track(self) -> None:
        """Nobody knows what the board has taken."""
        self._lines.clear()
        self._plan_um, self._equal, self._far = None, [0] * WINCH_COUNT, [0] * WINCH_COUNT
        self._cancelled_s = -np.inf

    def _brake(self, now_s: float) -> bytes:
        self._cancelled_s = now_s
        return JOG_CANCEL

    def _feed(self, now_s: float) -> bytes:
        """Return the next jog, or nothing."""
        plan_um = self._plan_um
        if self.faults or plan_um is None or self._from_um is None or (self._lines and not self._late):
            return b""
        ahead_s = self._busy_s - now_s
        if ahead_s > AHEAD_S + self._jog_um_s * 1e-6 / self.board.acceleration_m_s2:
            return b""
        piece_um, duration_s = self._piece(now_s)
        if not piece_um.any():
            return b""
        duration_s += 0.5 * max(0.0, AHEAD_S - max(ahead_s, 0.0))  # a board that runs dry brakes
        self._lines.append((piece_um, now_s, duration_s))
        self._jog_um_s = float(np.abs(piece_um).max()) / duration_s
        if self._late:
            self._plan_um = plan_um + piece_um
            self._busy_s = max(self._busy_s, now_s) + duration_s
        return (jog_line if self._late else rough_line)(piece_um, duration_s)

    def _ahead_um(self) -> Micrometres:
        """(8,) what was approved and is not on its way; zero while nobody knows."""
        if self._from_um is None or self._plan_um is None:
            return np.zeros(WINCH_COUNT, dtype=np.int64)
        return self._from_um + self._wanted_um - self._plan_um

    def _allowed_um_s(self) -> NDArray[np.float64]:
        """(8,) how fast each winch may be made: little faster than was approved."""
        free, least_um_s = np.maximum(self._fastest_um_s, self._free_um_s), CREEP_UM_S if self._late else STEP_UM_S
        return np.minimum(np.clip(CATCH_UP * self._fastest_um_s, least_um_s, self._speed_max_um_s), free)

    def _piece(self, now_s: float) -> tuple[Micrometres, float]:
        """(8,) what to send now of what lies ahead, and the seconds it is to take."""
        ahead_um, allowed_um_s = self._ahead_um(), self._allowed_um_s()
        whole_s, most_um = float((np.abs(ahead_um) / allowed_um_s).max()), int(np.abs(ahead_um).max())
        unit_um = 1 if self._late else UNIT_UM if most_um >= UNIT_UM else UNIT_UM // 10
        more_to_come = now_s < self._pushed_s + LEAST_S and not self._late
        if most_um < unit_um or (more_to_come and (whole_s < LEAST_S or most_um < UNIT_UM)):
            return np.zeros_like(ahead_um), 0.0
        share = min(1.0, PIECE_S / whole_s)
        piece_um = np.trunc(ahead_um * share / unit_um).astype(np.int64) * unit_um
        if not piece_um.any():  # so slow that a unit takes longer
            piece_um, share = np.where(np.abs(ahead_um) >= unit_um, np.sign(ahead_um) * unit_um, 0), 1.0
        behind = self._pending_s > 2 * PIECE_S
        due_s = self._pending_s * share / (CATCH_UP if behind else 1.0)
        self._pending_s *= 1.0 - share
        return piece_um, max(float((np.abs(piece_um) / allowed_um_s).max()), due_s, SHORTEST_S)


def take_over(before: Session, machine: Machine, now_s: float) -> RoughSession | None:
    """Return what goes on after a faulty session on the same open port, or None where board or port must be looked at first."""
    if not before.faults or not {fault.split(":")[0] for fault in before.faults} <= IN_PLACE:
        return None
    late = now_s - before.heard_s > LATE_S
    after = RoughSession(
        machine, before.board, before.position_um, now_s, plan_um=before.stream.plan_um if late else None, late=late
    )
    after.position_trusted &= before.position_trusted
    return after


def rough_line(increments_um: Micrometres, duration_s: float, axes: str = "XYZABCUV") -> bytes:
    """Return the jog by (8,) whole millimetres, or tenths where nothing moves by more, every one with sign and point."""
    words: list[str] = []
    for axis, um in zip(axes, increments_um.tolist(), strict=True):
        if um:
            whole, tenth = divmod(abs(um) // 100, 10)
            words.append(f"{axis}{'-' if um < 0 else '+'}{whole if whole else ''}.{tenth if tenth else ''}")
    length_mm = float(np.sqrt(np.square(increments_um.astype(float)).sum())) * 1e-3
    return f"$J=G91G21{''.join(words)}F{max(round(length_mm / duration_s * 60.0), 1)}\n".encode("ascii")
