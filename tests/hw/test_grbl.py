import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melter.hw.grbl import (
    Alarm,
    Banner,
    Decoder,
    Error,
    Garbage,
    Message,
    Ok,
    Report,
    Setting,
    axis_letters,
    jog_line,
    setting_line,
)

EIGHT = "1.000,-2.500,0.001,0.000,0.000,0.000,0.000,-1234.567"
EIGHT_UM = [1000, -2500, 1, 0, 0, 0, 0, -1234567]


def one(text: str):
    (event,) = Decoder().feed(text.encode() + b"\r\n")
    return event


@pytest.mark.parametrize(
    ("text", "event"),
    [
        ("ok", Ok()),
        ("error:8", Error(8)),
        ("error: 15", Error(15)),
        ("ALARM:3", Alarm(3)),
        ("Grbl 1.1h ['$' for help]", Banner("Grbl 1.1h ['$' for help]")),
        ("GrblHAL 1.1f ['$' or '$HELP' for help]", Banner("GrblHAL 1.1f ['$' or '$HELP' for help]")),
        ("$100=250.000", Setting(100, "250.000")),
        ("$110=500.000 (x max rate, mm/min)", Setting(110, "500.000")),
        ("$74=network", Setting(74, "network")),
        ("[MSG:Caution: Unlocked]", Message("[MSG:Caution: Unlocked]")),
        ("[OPT:VNMSL,100,1024,8,0]", Message("[OPT:VNMSL,100,1024,8,0]")),
        ("$N0=", Message("$N0=")),
        (">G54:ok", Message(">G54:ok")),
    ],
)
def test_lines(text, event):
    assert one(text) == event


@pytest.mark.parametrize(
    "text",
    [
        *("oj", "ok\x01", "error:", "error:x", "ALARM", "o\xe9k", "hello", "NMEA,1,2"),
        *("<Jog|MPos:1.0,2.0", "<Jgo|MPos:1.0>", "<Idle|FS:0,0>", "<Idle|MPos:1,,2>", "<Idle|MPos:1.0,2.x>"),
        "<Idle|MPos:1.0|Bf:x,1>",
    ],
)
def test_what_is_not_the_protocol_is_garbage(text):
    assert isinstance(one(text), Garbage)


@pytest.mark.parametrize(
    ("text", "state", "free"),
    [
        (f"<Idle|MPos:{EIGHT}|Bf:100,1023|FS:0,0>", "idle", 100),
        (
            f"<Jog|MPos:{EIGHT}|Bf:97,1000|FS:600,0|Pn:XYZ|WCO:0.000,0.000,0.000,0.000,0.000,0.000,0.000,0.000>",
            "jog",
            97,
        ),
        (f"<Run|MPos:{EIGHT}|F:600>", "run", None),
        (f"<Hold:0|MPos:{EIGHT}|FS:0,0|Ov:100,100,100|A:S>", "hold", None),
        (f"<Alarm:11|MPos:{EIGHT}|FS:0,0|FW:grblHAL>", "alarm", None),
    ],
)
def test_reports(text, state, free):
    report = one(text)
    assert isinstance(report, Report)
    assert (report.state, report.blocks_free) == (state, free)
    assert report.machine_um is not None
    assert report.machine_um.tolist() == EIGHT_UM


def test_work_position_and_offset_are_kept_apart():
    report = one("<Idle|WPos:1.000,2.000|WCO:0.500,-1.000>")
    assert isinstance(report, Report)
    assert report.machine_um is None
    assert report.work_um.tolist() == [1000, 2000]
    assert report.offset_um.tolist() == [500, -1000]


@given(st.data())
def test_bytes_may_be_split_anywhere(data):
    stream = (
        b"\r\nGrblHAL 1.1f ['$' or '$HELP' for help]\r\nok\r\nerror:9\r\n<Idle|MPos:1.000,2.000|Bf:100,1023>\r\nok\r\n"
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    decoder, events = Decoder(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        events += decoder.feed(stream[start:end])
    assert [type(event) for event in events] == [Banner, Ok, Error, Report, Ok]


@given(st.binary(max_size=3000))
def test_any_bytes_are_survived(data):
    decoder = Decoder()
    decoder.feed(data)
    assert decoder.feed(b"\r\nok\r\n")[-1] == Ok()


@given(st.lists(st.integers(-200_000, 200_000), min_size=8, max_size=8).filter(any), st.floats(0.005, 1.0))
def test_a_jog_is_exact_short_and_lasts_as_long_as_asked(increments, duration_s):
    line = jog_line(np.array(increments), duration_s).decode()
    assert line.startswith("$J=G91G21")
    assert line.endswith("\n")
    assert len(line) <= 128
    words, feed = line[9:].split("F")
    found = dict.fromkeys("XYZABCUV", 0)
    for letter, value in re.findall(r"([A-Z])(-?[\d.]+)", words):
        found[letter] = round(float(value) * 1000)
    assert list(found.values()) == increments
    length_mm = np.sqrt(np.square(np.array(increments) / 1000).sum())
    assert length_mm / float(feed) * 60 == pytest.approx(duration_s, rel=0.02, abs=0.0011 * 60)


def test_a_jog_without_axis_words_cannot_be_made():
    with pytest.raises(ValueError, match="at least one axis"):
        jog_line(np.zeros(8, dtype=np.int64), 0.02)


def test_setting_lines():
    assert setting_line(100, 100.0) == b"$100=100\n"
    assert setting_line(11, 0.01) == b"$11=0.01\n"


@pytest.mark.parametrize(
    "text",
    [
        f"<Idle|MPos:{EIGHT}|Bf:100,1023|FS:0,0|Pn:PXYZ|WCO:0.000,0.000,0.000,0.000,0.000,0.000,0.000,0.000>",
        f"<Idle|MPos:{EIGHT}|Bf:100,1023|FS:0,0,0|Ov:100,100,100|A:SFM|Sc:XY|MPG:0|H:1,255|D:0|T:0|TLR:0|FW:grblHAL>",
        f"<Idle|MPos:{EIGHT}|Bf:100,1023|F:0|In:-1|SD:12.5,/a-b_c.nc|SpRPM:1200.0|_x:1|WiFi>",
        "<Idle|MPos:" + ",".join(f"{value}0" for value in EIGHT.split(",")) + "|Bf:100,1023>",  # four decimals
        f"<Idle:0|MPos:{EIGHT},7.000|Bf:100,1023>",  # a ninth axis
    ],
)
def test_reports_of_real_boards(text):
    report = one(text)
    assert isinstance(report, Report)
    assert report.machine_um[:8].tolist() == EIGHT_UM
    assert report.blocks_free == 100


def test_two_reports_run_into_one_are_garbage():
    assert isinstance(one(f"<Idle|MPos:{EIGHT}|Bf:100,<Jog|MPos:{EIGHT}|Bf:99,1000>"), Garbage)
    assert isinstance(one(f"<Idle|MPos:{EIGHT}|Bf:100,10|MPos:{EIGHT}|Bf:99,1000>"), Garbage)


@pytest.mark.parametrize(
    ("info", "axes", "letters"),
    [
        (["[VER:1.1f.20240101:]", "[AXS:8:XYZABCUV]"], 8, "XYZABCUV"),
        (["[AXS:8:XYZUVABC]"], 8, "XYZUVABC"),
        (["[AXS:8:XYZ]"], 8, "XYZABCUV"),  # fewer letters than axes: two motors on one axis are told so
        ([], 3, "XYZ"),
    ],
)
def test_axes_are_told_apart_by_their_letters(info, axes, letters):
    assert axis_letters(info, axes) == letters
