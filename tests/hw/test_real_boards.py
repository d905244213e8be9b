"""What real grblHAL boards say and do that the nominal one does not, as its source tells; a table each."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hw_bench import MACHINE, SETTINGS, Bench

from melter.errors import PortError
from melter.hw import handshake
from melter.hw.board import describe, differences, refusals
from melter.hw.firmware import Firmware
from melter.hw.grbl import ALARMS, ERRORS, Alarm, Banner, Decoder, Error, Message, Report, Setting
from melter.hw.grbl_driver import GrblDriver
from melter.hw.service import look, set_up

EIGHT = "0.000,-2.500,0.001,0.000,0.000,0.000,0.000,-1234.567"


def one(text: str):
    (event,) = Decoder().feed(text.encode() + b"\r\n")
    return event


# -- lines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "state", "substate"),
    [
        (f"<Idle|MPos:{EIGHT}|Bf:100,1023|FS:0,0>", "idle", None),
        (f"<Run:1|MPos:{EIGHT}|Bf:99,1023|FS:0,0>", "run", 1),
        (f"<Hold:1|MPos:{EIGHT}|Bf:99,1023|FS:0,0>", "hold", 1),
        (f"<Door:3|MPos:{EIGHT}|Bf:100,1023|FS:0,0|Pn:D>", "door", 3),
        (f"<Alarm|MPos:{EIGHT}|Bf:100,1023|FS:0,0|Pn:E>", "alarm", None),
        (f"<Alarm:10|MPos:{EIGHT}|Bf:100,1023|FS:0,0|Pn:E|FW:grblHAL>", "alarm", 10),
        (f"<Tool|MPos:{EIGHT}|Bf:100,1023|FS:0,0|T:0>", "tool", None),
        (f"<Home|MPos:{EIGHT}|Bf:100,1023|FS:0,0|H:0,0>", "home", None),
        (f"<Check|MPos:{EIGHT}|Bf:100,1023|FS:0,0|AR>", "check", None),
        (f"<Sleep|MPos:{EIGHT}|Bf:100,1023|FS:0,0|AR:200>", "sleep", None),
        (f"<Jog|MPos:{EIGHT}|Bf:98,955|Ln:12|FS:7200,0,0|SP1:0,,,100|Pn:PO|WCO:{EIGHT}|WCS:G54>", "jog", None),
    ],
)
def test_states(text, state, substate):
    report = one(text)
    assert isinstance(report, Report)
    assert (report.state, report.substate) == (state, substate)
    assert report.machine_um.tolist() == [0, -2500, 1, 0, 0, 0, 0, -1234567]


@pytest.mark.parametrize(
    ("text", "event"),
    [
        ("$100=250.00000", Setting(100, "250.00000")),
        ("$13=0", Setting(13, "0")),
        ("$30=N/A", Setting(30, "N/A")),
        ("$301=192.168.5.1", Setting(301, "192.168.5.1")),
        ("$481=0", Setting(481, "0")),
        ("$1=25 (step idle delay, msec)", Setting(1, "25")),
        ("[AXS:8:XYZABCUV]", Message("[AXS:8:XYZABCUV]")),
        ("[NEWOPT:ENUMS,RT-,HOME,ES,TC,SED]", Message("[NEWOPT:ENUMS,RT-,HOME,ES,TC,SED]")),
        ("[FIRMWARE:grblHAL]", Message("[FIRMWARE:grblHAL]")),
        ("[NVS STORAGE:*FLASH 4K]", Message("[NVS STORAGE:*FLASH 4K]")),
        ("[PLUGIN:Networking v0.25]", Message("[PLUGIN:Networking v0.25]")),
        ("[SETTING:100|16|X-axis steps per mm|step/mm|6|#####0.000##|||0|0]", None),
        ("[MSG:Info: Reset to continue]", Message("[MSG:Info: Reset to continue]")),
        ("[echo: $J=G91G21X1F600]", Message("[echo: $J=G91G21X1F600]")),
        ("[TLO:0.000]", Message("[TLO:0.000]")),
        (">G54G21:ok", Message(">G54G21:ok")),
        ("error:79", Error(79)),
        ("ALARM:17", Alarm(17)),
        ("Grbl 1.1f ['$' for help]", Banner("Grbl 1.1f ['$' for help]")),
    ],
)
def test_lines_of_other_builds(text, event):
    assert one(text) == (event if event is not None else Message(text))


@pytest.mark.parametrize("code", [8, 9, 10, 45, 46, 50, 51, 53, 79])
def test_what_may_refuse_a_line_is_said_in_words(code):
    assert str(Error(code)) == f"error:{code} ({ERRORS[code]})"


@pytest.mark.parametrize("code", range(1, 19))
def test_every_alarm_has_a_name(code):
    assert str(Alarm(code)) == f"ALARM:{code} ({ALARMS[code]})"


def test_codes_yet_unknown():
    assert "list" in str(Error(253))
    assert "list" in str(Alarm(99))


# -- settings ---------------------------------------------------------------------------------------------------


def read(changes=None) -> dict[int, str]:
    return {number: f"{value:.3f}" for number, value in (SETTINGS | (changes or {})).items()}


def test_motors_that_rest_are_put_right_but_not_refused():
    (listed,) = differences(MACHINE, read({1: 25}))
    assert str(listed) == "$1 motors off after 25, must be 255 ms (255: never)"
    assert refusals([listed]) == []
    with Bench(Firmware(SETTINGS | {1: 25})) as bench:
        with GrblDriver(bench.path, MACHINE):
            pass
        set_up(bench.path, MACHINE, write=True)
        assert bench.firmware.settings[1] == 255


def test_homing_is_refused():
    assert "$22 homing 7, must be 0" in describe(refusals(differences(MACHINE, read({22: 7}))))


# -- what the board is built like ---------------------------------------------------------------------------------


class Plain(Firmware):
    """grblHAL built to look like Grbl: its banner, and its axes only in the long list."""

    def _build_info(self) -> None:
        for text in ("[VER:1.1f.20240101:]", "[OPT:VNMSL,100,1024]"):
            self._say(text)
        self._answer(0)

    def _command(self, line: str) -> None:
        if line == "$I+":
            super()._build_info()
        else:
            super()._command(line)


def test_built_to_look_like_grbl():
    with Bench(Plain(SETTINGS, banner="Grbl 1.1f ['$' for help]", letters="XYZUVABC")) as bench:
        with GrblDriver(bench.path, MACHINE) as driver:
            assert driver.board.letters == "XYZUVABC"
            assert driver.board.is_hal
            assert driver.board.rx_bytes == 1024
        assert look(bench.path).letters == "XYZUVABC"


def test_a_line_begun_by_somebody_else(monkeypatch):
    """With legacy commands switched off a question mark is part of a line that begins with a dollar."""
    monkeypatch.setattr(handshake, "ASK_EVERY_S", 0.1)

    class Modern(Firmware):
        def _realtime(self, byte: int) -> bool:
            begun = bytes(self._line + self._rx).rpartition(b"\n")[2]
            if byte in b"?!~" and begun.startswith(b"$"):
                return False
            return super()._realtime(byte)

    with Bench(Modern(SETTINGS)) as bench:
        bench.do(lambda board: board.feed(b"$"))
        with GrblDriver(bench.path, MACHINE) as driver:
            assert driver.poll().state == "idle"


# -- alarms at the beginning ----------------------------------------------------------------------------------------


def test_homing_required_is_put_right_by_setup():
    with Bench(Firmware(SETTINGS | {22: 1})) as bench:
        bench.do(lambda board: board.power_up())
        with pytest.raises(PortError, match=r"\$22 homing 1, must be 0"):
            GrblDriver(bench.path, MACHINE).connect()
        found = look(bench.path)
        assert found.alarm == "ALARM:11 (homing required)"
        set_up(bench.path, MACHINE, write=True)
        with GrblDriver(bench.path, MACHINE) as driver:
            assert driver.poll().state == "idle"


def quick_talk(monkeypatch):
    monkeypatch.setattr(handshake, "LINE_S", 0.4)
    monkeypatch.setattr(handshake, "BANNER_S", 0.3)


def test_a_board_that_heeds_nothing_but_questions(monkeypatch):
    """After an emergency stop in mid-run: no line is answered, a reset is not obeyed, and reports still come."""
    quick_talk(monkeypatch)
    with Bench() as bench:
        bench.do(lambda board: board.press_stop())
        found = look(bench.path)
        assert (found.state, found.alarm, found.settings) == ("alarm", "ALARM:10 (emergency stop)", {})
        for attempt in (GrblDriver(bench.path, MACHINE).connect, lambda: set_up(bench.path, MACHINE, write=True)):
            with pytest.raises(PortError, match=r"in ALARM:10 \(emergency stop\) and heeds no line") as refused:
                attempt()
            assert "\n" not in str(refused.value)
        assert not re.search(rb"\$J", bytes(bench.seen))
        bench.firmware.estop = False
        set_up(bench.path, MACHINE, write=True)
        with GrblDriver(bench.path, MACHINE) as driver:
            assert driver.poll().state == "idle"


def test_started_with_the_stop_pressed(monkeypatch):
    """Then lines are answered, but it cannot be unlocked, and that is what is said."""
    quick_talk(monkeypatch)
    with Bench() as bench:
        bench.firmware.estop = True
        bench.do(lambda board: board.power_up())
        with pytest.raises(PortError, match=r"in ALARM:10 \(emergency stop\), must be idle"):
            GrblDriver(bench.path, MACHINE).connect()
        with pytest.raises(PortError, match=r"\$X was answered with error:50 \(emergency stop is active\)"):
            set_up(bench.path, MACHINE, write=True)


def test_looking_at_a_critical_alarm_changes_nothing(monkeypatch):
    quick_talk(monkeypatch)
    with Bench() as bench:
        bench.do(lambda board: board.raise_alarm(1))
        assert look(bench.path).alarm == "ALARM:1 (hard limit)"
        assert bench.firmware.alarm == 1
        assert b"\x18" not in bench.seen
        assert np.all(bench.firmware.steps == 0)
