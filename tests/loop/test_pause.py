"""What a person may ask for while a session runs: pause in the dark, go on, stop, mark; and the way back after a power cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from melter.errors import LinkFault
from melter.geometry.paths import SandPath
from melter.loop.timing import Timing
from melter.machine import load_machine
from melter.safety.interlock import State

MACHINE = load_machine()
PERIOD_S = MACHINE.control.period_s


class Script:
    """Says its words, each once its moment has come."""

    def __init__(self, *words: tuple[Any, str]) -> None:
        self.words = list(words)

    def ask(self) -> Any:
        if self.words and self.words[0][0]():
            return self.words.pop(0)[1]
        return None


def paused(bench: Any, seconds: float = 0.0) -> Any:
    """Whether the session has been paused for so long."""
    since: list[float] = []

    def when() -> bool:
        if any(line.get("event") == "paused" for line in bench.lines("event")):
            since.append(bench.clock.now_s)
        return bool(since) and bench.clock.now_s - since[0] >= seconds

    return when


def test_pause_goes_dark_and_goes_on_where_it_was(bench: Any) -> None:
    bench.path = SandPath(np.array([(-0.02, 0.0), (0.02, 0.0)]), 0.010)  # four seconds
    bench.more["hands"] = Script((bench.in_work(1.0), "pause"), (paused(bench, 2.0), "resume"))
    result = bench.run()
    assert result.finished
    assert result.dark
    assert result.faults == []
    assert result.pauses == 1
    events = [line["event"] for line in bench.lines("event")]
    first = ["armed", "transit", "work", "pause", "dark", "parked", "paused"]
    assert events == [*first, "resume", "armed", "transit", "work", "dark", "parked"]
    work = [line for line in bench.lines("tick") if line["mode"] == "policy"]
    targets = np.array([line["target_world_m"][0] for line in work])
    assert (np.diff(targets) >= -1e-9).all()  # nothing is melted twice
    times = np.array([line["host_s"] for line in work])
    gap = int(np.diff(times).argmax())
    assert times[gap + 1] - times[gap] > 10
    assert abs(targets[gap + 1] - targets[gap]) < 0.002
    assert len(result.errors_mm) == pytest.approx(80, abs=4)
    assert bench.gate.state is State.PARKED


def test_while_paused_nothing_is_sent(bench: Any) -> None:
    seen: list[int] = []
    bench.on_tick = lambda tick: seen.append(len(bench.robot.sent)) if tick["mode"] == "paused" else None
    bench.more["hands"] = Script((bench.in_work(0.5), "pause"), (paused(bench, 1.0), "stop"))
    result = bench.run()
    assert len(seen) >= 18
    assert len(set(seen)) == 1
    assert result.stopped
    assert not result.finished
    assert result.dark
    assert result.faults == []


def test_stop(bench: Any) -> None:
    bench.more["hands"] = Script((bench.in_work(0.5), "stop"))
    result = bench.run()
    assert (result.stopped, result.finished, result.dark, result.faults) == (True, False, True, [])
    assert "stop" in [line["event"] for line in bench.lines("event")]


def test_stop_on_the_way_into_work(bench: Any) -> None:
    bench.more["hands"] = Script((lambda: len(bench.robot.sent) > 60, "stop"))
    result = bench.run()
    assert result.stopped
    assert result.dark
    assert not [line for line in bench.lines("tick") if line["mode"] == "policy"]


def test_marks_are_recorded_and_change_nothing(bench: Any) -> None:
    bench.more["hands"] = Script((bench.in_work(0.5), "mark"), (bench.in_work(0.7), "resume"))
    assert bench.run().finished
    assert [line["event"] for line in bench.lines("event")].count("mark") == 1


def test_a_fault_on_the_way_to_a_pause_ends_the_session(bench: Any) -> None:
    def link(_: Any) -> None:
        if bench.gate.state is State.DARKENING and len(bench.lines("fault")) == 0:
            raise LinkFault("board reset")

    bench.robot.link = link
    bench.more["hands"] = Script((bench.in_work(0.5), "pause"), (paused(bench, 1.0), "resume"))
    result = bench.run()
    assert result.faults
    assert not result.finished


def test_a_tick_is_timed(bench: Any) -> None:
    bench.more["timing"] = Timing(PERIOD_S)
    assert bench.run().finished
    table = bench.session.timing.table()
    assert table["stages_ms"]["act"]["count"] == len([line for line in bench.lines("tick") if line["mode"] == "policy"])
    assert table["light_to_command_ms"]["count"] > 0
    assert table["late"] == 0


def test_errors_are_forgotten_after_an_hour() -> None:
    from melter.loop import session

    result = session.Result()
    for number in range(session.ERRORS_KEPT + 10):
        result.note_error(np.array([number * 1e-3, 0.0]), np.zeros(2))
    assert len(result.errors_mm) <= session.ERRORS_KEPT // 2 + 10
    assert result.errors_mm[-1] == pytest.approx(session.ERRORS_KEPT + 9)


def test_bring_to_park_from_anywhere(bench: Any) -> None:
    from melter.loop.recorder import Recorder
    from melter.loop.session import Session
    from melter.loop.transit import Transit

    sun = (MACHINE.sun.zenith_rad, MACHINE.sun.azimuth_rad)
    transit = Transit(MACHINE, sun, np.zeros(2), bench.gate.park_lengths_m)
    bench.robot.lengths = transit.lengths_m(0.7 * transit.duration_s)
    with Recorder(bench.folder / "recording.jsonl", bench.clock.now) as recorder:
        made = Session(
            MACHINE, bench.robot, bench.gate, bench.act, bench.path, recorder, sun_rad=sun, clock=bench.clock
        )
        result = made.bring_to_park()
    assert result.dark
    assert result.faults == []
    assert np.abs(bench.robot.lengths - bench.gate.park_lengths_m).max() < 0.002
    assert {line["mode"] for line in bench.lines("tick")} == {"dark"}


def test_a_lens_that_moves_is_not_armed(bench: Any) -> None:
    from melter.loop.recorder import Recorder
    from melter.loop.session import Session

    bench.robot.drift_m_s = np.full(8, 0.01)
    sun = (MACHINE.sun.zenith_rad, MACHINE.sun.azimuth_rad)
    with Recorder(bench.folder / "recording.jsonl", bench.clock.now) as recorder:
        made = Session(
            MACHINE, bench.robot, bench.gate, bench.act, bench.path, recorder, sun_rad=sun, clock=bench.clock
        )
        result = made.bring_to_park()
    assert not result.dark
    assert "at rest" in result.faults[0]
    assert bench.robot.sent == []


@pytest.mark.long
def test_memory_does_not_grow_with_the_run(bench: Any) -> None:
    """Two minutes of ticks; what grows are the errors kept, 200 bytes each and at most an hour of them."""
    import gc
    import tracemalloc

    from melter.loop.shadow import Shadow

    bench.path = SandPath(np.array([(-0.3, 0.0), (0.3, 0.0)]), 0.005)  # two minutes
    bench.more |= {"timing": Timing(PERIOD_S), "shadow": Shadow(PERIOD_S)}
    held: list[int] = []

    def on_tick(_: Any) -> None:
        bench.robot.sent.clear()
        if bench.session.result.ticks in (1000, 2500):
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])

    bench.on_tick = on_tick
    tracemalloc.start()
    try:
        assert bench.run().finished
    finally:
        tracemalloc.stop()
    assert held[-1] - held[0] < 1500 * 250 + 100_000
