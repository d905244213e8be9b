"""What real firmware does that surprises, each with its remedy, and the proof that the test needs the remedy.

Every scenario runs twice: as the product stands it must hold; with the remedy taken out of the source it must fail.

== ======================================================= ================================ ==========================
no surprise                                                remedy                           scenario
== ======================================================= ================================ ==========================
1  a jog without axis words drives every axis to zero      such a jog is never made         nothing_to_move, no_words
2  a feed hold does not stop a jog                         a stop is a jog cancel           a_stop
3  jogs that cannot be followed pile up                    bounded number and time          no_pile
4  damaged distances are obeyed                            positions against what was asked a_damaged_distance
5  fast feeds are clamped, any setting is taken            settings read back; own clamp    absurd_settings, too_fast
6  an error is repeated for every line of a program        every line starts with $         after_an_error
7  a cancel cuts lines and eats them; late answers come    answers are not insisted on      a_cut_line, late_answers
8  a reset in motion locks the board, the position is lost latched; unlocked to go dark     reset_in_motion, unlocking,
                                                                                            opened_in_motion
9  noise resets the board or raises holds                  banner and hold are faults       a_banner, a_hold
10 opening resets; closing does not stop                   waits; cancels before it closes  a_late_start, closing
11 adapters hold bytes; ports come back under other names  low latency; by serial number    low_latency, another_name
== ======================================================= ================================ ==========================
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import serial
from hw_bench import MACHINE, SETTINGS, Bench, command, wait_until
from hw_mutation import without
from hw_virtual import Virtual

from melter.errors import LinkFault, PortError
from melter.hw import grbl, grbl_driver, handshake, jogs
from melter.hw.firmware import Firmware

Scenario = Callable[[pytest.MonkeyPatch], None]


def steady(speed: float):
    return lambda _: np.full(8, speed)


def nothing_to_move(_: pytest.MonkeyPatch) -> None:
    line = Virtual()
    line.drive(lambda t: np.full(8, 1e-6) * (t < 0.5), 1.0)  # 0.02 um a tick rounds to nothing
    assert not line.sent.count(b"$J")
    assert line.session.faults == []


def no_words(_: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="at least one axis"):
        grbl.jog_line(np.zeros(8, dtype=np.int64), 0.02)


def a_stop(_: pytest.MonkeyPatch) -> None:
    line = Virtual()
    line.drive(steady(0.04), 0.5)
    data = line.session.stop(line.now_s)
    assert data.startswith(b"\x85")
    line.say(data)
    assert line.run(1.0, lambda: line.firmware.state == "Idle") <= 0.1
    assert b"!" not in line.sent


def no_pile(_: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    line = Virtual()
    line.drive(lambda _: rng.uniform(-0.12, 0.12, 8), 5.0)
    assert line.deepest <= jogs.BLOCKS_MAX


def a_damaged_distance(_: pytest.MonkeyPatch) -> None:
    line = Virtual()
    line.drive(steady(0.02), 0.5)
    line.to_board = lambda data: data.replace(b"Y0.4", b"Y8.4")
    line.drive(steady(0.02), 0.4)
    assert line.session.faults[:1]
    assert line.session.faults[0].startswith("jump: winch NE-lower")
    line.run(0.5)
    assert line.firmware.state == "Idle"
    assert line.firmware.position_m.max() < 0.030


def absurd_settings(_: pytest.MonkeyPatch) -> None:
    with (
        Bench(Firmware(SETTINGS | {110: 1_000_000})) as bench,
        pytest.raises(PortError, match=r"\$110 X \(NE-upper\) fastest"),
        grbl_driver.GrblDriver(bench.path, MACHINE),
    ):
        pass


def too_fast(_: pytest.MonkeyPatch) -> None:
    line = Virtual()
    line.drive(steady(0.3), 0.3)
    jogged = re.findall(rb"\$J=G91G21(\S*)F([\d.]+)", line.sent)
    assert jogged
    for words, feed in jogged:
        mm = np.array([float(value) for value in re.findall(rb"[A-Z](-?[\d.]+)", words)])
        assert np.abs(mm).max() / (np.linalg.norm(mm) / float(feed) * 60) <= 120 * 1.001


def after_an_error(_: pytest.MonkeyPatch) -> None:
    line = Virtual()
    line.firmware.feed(b"%\n")  # the board now repeats error:1
    total = line.drive(steady(0.02), 0.5)
    line.settle()
    assert line.session.faults == []
    assert line.error_mm(total) <= 0.05


def a_cut_line(_: pytest.MonkeyPatch) -> None:
    line = Virtual()
    line.drive(steady(0.05), 0.5)
    line.say(line.session.stop(line.now_s))
    line.hear(b"error:1\r\n")  # the tail of a line that the cancel cut in two
    line.run(0.5)
    assert line.session.faults == []
    assert line.session.stream.at_rest


def late_answers(_: pytest.MonkeyPatch) -> None:
    line = Virtual()
    for _ in range(6):
        line.drive(steady(0.05), 0.2)
        line.say(line.session.stop(line.now_s))
        line.hear(b"ok\r\nok\r\n")
        line.run(0.3)
    assert line.session.faults == []


def reset_in_motion(_: pytest.MonkeyPatch) -> None:
    line = Virtual()
    line.drive(steady(0.05), 0.5)
    line.hear(line.firmware.feed(b"\x18").split(b"\r\n")[0] + b"\r\n")  # the alarm alone; the banner got lost
    line.run(0.3)
    assert line.session.faults[:1]
    assert line.session.faults[0].startswith("alarm: the board raised ALARM:3")
    assert not line.session.position_trusted
    assert line.session.push(np.full(8, 1000), 0.02, line.now_s) == b""


def unlocking(_: pytest.MonkeyPatch) -> None:
    with Bench() as bench, grbl_driver.GrblDriver(bench.path, MACHINE) as driver:
        bench.do(lambda board: board.feed(b"$J=G91G21X50F3600\n"))
        time.sleep(0.1)
        bench.do(lambda board: board.feed(b"\x18"))
        assert wait_until(lambda: bool(driver.poll().faults))
        driver.recover()
        driver.send(command(np.full(8, 0.01)))
        before = bench.firmware.position_m
        assert wait_until(lambda: bool((bench.firmware.position_m > before).all()), 1.0)


def opened_in_motion(_: pytest.MonkeyPatch) -> None:
    with Bench() as bench:
        bench.do(lambda board: board.feed(b"$J=G91G21X500F3600\n"))
        time.sleep(0.1)
        with grbl_driver.GrblDriver(bench.path, MACHINE) as driver:
            assert bench.firmware.alarm == 0
            assert driver.poll().position_trusted


def a_banner(_: pytest.MonkeyPatch) -> None:
    line = Virtual()
    line.run(0.2)
    line.hear(line.firmware.feed(b"\x18"))
    line.run(0.3)
    assert line.session.faults[:1]
    assert line.session.faults[0].startswith("reset:")
    assert not line.session.position_trusted


def a_hold(_: pytest.MonkeyPatch) -> None:
    line = Virtual()
    line.run(0.2)
    line.hear(line.firmware.feed(b"!"))
    line.run(0.3)
    assert line.session.faults[:1]
    assert line.session.faults[0].startswith("hold:")


def a_late_start(_: pytest.MonkeyPatch) -> None:
    with Bench() as bench:
        bench.frozen = True
        timer = threading.Timer(
            0.6, lambda: (setattr(bench, "frozen", False), bench.do(lambda board: board.power_up()))
        )
        timer.start()
        try:
            with grbl_driver.GrblDriver(bench.path, MACHINE) as driver:
                assert driver.board.banner is not None
        finally:
            timer.join()


def closing(_: pytest.MonkeyPatch) -> None:
    with Bench() as bench:
        driver = grbl_driver.GrblDriver(bench.path, MACHINE)
        driver.connect()
        bench.do(lambda board: board.feed(b"$J=G91G21X500F3600\n"))
        driver.close()
        assert wait_until(lambda: bench.firmware.state == "Idle", 0.5)


def low_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(serial.Serial, "set_low_latency_mode", lambda self, on: asked.append(on))
    with Bench() as bench, grbl_driver.GrblDriver(bench.path, MACHINE):
        assert asked == [True]


def another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    plugged: dict[str, str] = {}
    monkeypatch.setattr(grbl_driver, "serial_number", lambda device: "FT01")
    monkeypatch.setattr(grbl_driver, "device_of", plugged.get)
    monkeypatch.setattr(grbl_driver, "RECOVER_S", 0.5)
    first = Bench()
    with grbl_driver.GrblDriver(first.path, MACHINE) as driver:
        holder = Bench(start=False)  # takes the next name, so that the board comes back under another one
        first.hang_up()
        assert wait_until(lambda: bool(driver.poll().faults))
        with Bench() as second, contextlib.closing(holder.port):
            plugged["FT01"] = second.path
            driver.recover()
            assert driver.poll().faults  # still latched: it never arms itself
            driver.send(command(np.full(8, 0.01)))
            assert wait_until(lambda: bool((second.firmware.position_m > 0).all()), 1.0)


TABLE: list[tuple[Scenario, str, str, str]] = [
    (nothing_to_move, "jogs", "if not ahead_um.any():", "if False:"),
    (no_words, "grbl", "if not np.any(increments_um) or not duration_s > 0:", "if not duration_s > 0:"),
    (a_stop, "jogs", "return JOG_CANCEL + STATUS\n", 'return b"!" + STATUS\n'),
    (
        no_pile,
        "jogs",
        "return self.depth >= most or len(self._lines) >= LINES_MAX or queued_s > enough_s",
        "return most + enough_s < 0",
    ),
    (a_damaged_distance, "session", "wrong = self._astray(report, position_um, now_s)", "wrong = None"),
    (absurd_settings, "board", "if value is None or not wanted.low <= value <= wanted.high:", "if value is None:"),
    (too_fast, "jogs", "CREEP_UM_S, self.speed_max_um_s), free)", "CREEP_UM_S, 1e9), free)"),
    (after_an_error, "grbl", 'return f"$J=G91G21', 'return f"G1G91G21'),
    (a_cut_line, "jogs", "return None if self.cancelling_s is not None else f", "return f"),
    (late_answers, "jogs", "return self.cancelling_s is not None\n", "return False\n"),
    (reset_in_motion, "session", "case Alarm():\n                self.position_trusted = False", "case Alarm():"),
    (unlocking, "grbl_driver", "if board.alarm is not None:\n                    talk.unlock()", "pass"),
    (opened_in_motion, "handshake", "report = self._bring_to_rest()", "pass"),
    (
        a_banner,
        "session",
        'self.position_trusted = False\n                return self._fault("reset',
        'return self._fault("reset',
    ),
    (a_hold, "session", 'if report.state not in ("idle", "jog", "run") and not braking:', "if False:"),
    (a_late_start, "handshake", "WAKE_S = 4.0", "WAKE_S = 0.2"),
    (closing, "grbl_driver", "self.poll()\n                self.stop()", "self.poll()"),
    (low_latency, "serial_port", "port.set_low_latency_mode(True)", "pass"),
    (another_name, "grbl_driver", "(device_of(self._serial_number) if self._serial_number else None) or ", ""),
]
NOTICED = (AssertionError, ValueError, LinkFault, PortError, pytest.fail.Exception)
IDS = [row[0].__name__ for row in TABLE]


@pytest.mark.parametrize("row", TABLE, ids=IDS)
def test_with_its_remedy(row, monkeypatch):
    row[0](monkeypatch)


@pytest.mark.parametrize("row", TABLE, ids=IDS)
def test_without_its_remedy_the_test_fails(row, monkeypatch):
    scenario, module, remedy, instead = row
    monkeypatch.setattr(handshake, "WAKE_S", 1.0)
    with without(f"melter.hw.{module}", remedy, instead), pytest.raises(NOTICED):
        scenario(monkeypatch)


def test_the_remedies_are_back_in_place():
    for row in TABLE:
        with contextlib.suppress(KeyError), without(f"melter.hw.{row[1]}", row[2], row[3]):
            pass
    nothing = pytest.MonkeyPatch()
    a_stop(nothing)
    a_hold(nothing)
