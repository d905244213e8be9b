import numpy as np
import pytest
from hw_bench import SETTINGS

from melter.hw.firmware import BANNER, Firmware

JOG = b"$J=G91G21X1.000F600\n"


def board(**more) -> Firmware:
    firmware = Firmware(SETTINGS, **more)
    firmware.power_up()
    return firmware


def run(firmware: Firmware, seconds: float) -> bytes:
    return b"".join(firmware.advance(0.001) for _ in range(round(seconds * 1000)))


def lines(data: bytes) -> list[str]:
    return [line for line in data.decode().split("\r\n") if line]


def test_banner_and_build_info():
    assert lines(Firmware(SETTINGS).power_up()) == [BANNER]
    assert "[AXS:8:XYZABCUV]" in lines(board().feed(b"$I\n"))
    assert lines(board(banner="Grbl 1.1h ['$' for help]").feed(b"\x18")) == ["Grbl 1.1h ['$' for help]"]


def test_a_jog_arrives_exactly():
    firmware = board()
    assert lines(firmware.feed(b"$J=G91G21X1.234V-0.500F600\n")) == ["ok"]
    assert firmware.state == "Jog"
    run(firmware, 1.0)
    assert firmware.state == "Idle"
    np.testing.assert_array_equal(firmware.steps, [123, 0, 0, 0, 0, 0, 0, -50])
    assert firmware.position_m[0] == pytest.approx(0.00123)


def test_speed_and_acceleration_keep_the_settings():
    firmware = board()
    firmware.feed(b"$J=G91G21X100F100000\n")
    positions = []
    for _ in range(1500):
        firmware.advance(0.001)
        positions.append(firmware.position_m[0])
    speed = np.diff(positions[::10]) / 0.010
    assert speed.max() <= 0.120 * 1.01
    assert speed.max() >= 0.119
    assert np.abs(np.diff(speed)).max() / 0.010 <= 1.15


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"\n", "ok"),
        (b"$J=G91G21X1\n", "error:22"),
        (b"$J=G91G21XF600\n", "error:2"),
        (b"$J=G91G21.5F600\n", "error:16"),
        (b"$J=G91G21X1X2F600\n", "error:25"),
        (b"$J=G91G21M3X1F600\n", "error:16"),
        (b"$J=G91G90X1F600\n", "error:21"),
        (b"$999=1\n", "error:3"),
        (b"$100=-1\n", "error:4"),
        (b"$H\n", "error:5"),
        (b".234F600\n", "error:1"),
        (b"X" * 300 + b"\n", "error:11"),
    ],
)
def test_answers(line, answer):
    assert lines(board().feed(line)) == [answer]


def test_surprise_1_a_jog_without_axis_words_drives_to_zero():
    firmware = board()
    firmware.feed(b"$J=G91G21X5Y-3F3600\n")
    run(firmware, 1.0)
    assert lines(firmware.feed(b"$J=G91F3600\n")) == ["ok"]
    run(firmware, 1.0)
    assert not firmware.steps.any()


def test_surprise_2_a_feed_hold_does_not_stop_a_jog():
    firmware = board()
    firmware.feed(b"$J=G91G21X50F1200\n!")
    run(firmware, 0.5)
    before = firmware.steps[0]
    run(firmware, 0.5)
    assert firmware.state == "Jog"
    assert firmware.steps[0] > before + 900


def test_surprise_3_jogs_pile_up():
    firmware = board()
    for _ in range(50):
        firmware.feed(b"$J=G91G21X1.000F7200\n$J=G91G21X-1.000F7200\n")
    assert firmware.queued > 90
    run(firmware, 1.0)
    assert firmware.state == "Jog"


def test_a_full_planner_holds_back_the_ok():
    firmware = board()
    answers = firmware.feed(b"$J=G91G21X1.000F60\n" * 105)
    assert answers.count(b"ok") <= 101
    answers += run(firmware, 8.0)
    assert answers.count(b"ok") == 105


def test_surprise_5_absurd_settings_are_taken():
    firmware = board()
    assert lines(firmware.feed(b"$110=1000000\n")) == ["ok"]
    assert "$110=1000000.000" in lines(firmware.feed(b"$$\n"))


def test_surprise_6_an_error_sticks_until_an_empty_or_dollar_line():
    firmware = board()
    assert lines(firmware.feed(b"%\nG0\nG0\n\nG0\n")) == ["error:1", "error:1", "error:1", "ok", "error:20"]
    assert lines(firmware.feed(b"G0\n$G\n"))[-1] == "ok"


def test_surprise_7_a_cancel_in_the_middle_of_a_line_leaves_its_tail():
    firmware = board()
    firmware.feed(JOG)
    assert lines(firmware.feed(b"$J=G91G21X1\x85.000F600\n")) == []
    assert lines(run(firmware, 0.5)) == ["error:1"]


def test_jogs_in_the_queue_keep_their_ok_and_go_no_further():
    firmware = board()
    assert firmware.feed(b"$J=G91G21X50F3600\n" * 3).count(b"ok") == 3
    run(firmware, 0.5)
    firmware.feed(b"\x85")
    run(firmware, 0.3)
    assert firmware.state == "Idle"
    assert 2000 < firmware.steps[0] < 4000


def test_a_cancel_brakes_within_the_measured_time():
    firmware = board()
    firmware.feed(b"$J=G91G21X100F3600\n")
    run(firmware, 0.5)
    firmware.feed(b"\x85")
    ticks = 0
    while firmware.state != "Idle" and ticks < 1000:
        firmware.advance(0.001)
        ticks += 1
    assert 60 <= ticks <= 95


def test_surprise_8_a_reset_in_motion_is_an_alarm():
    firmware = board()
    firmware.feed(b"$J=G91G21X50F3600\n")
    run(firmware, 0.3)
    assert lines(firmware.feed(b"\x18"))[:2] == ["ALARM:3", BANNER]
    assert lines(firmware.feed(JOG)) == ["error:8"]
    assert lines(firmware.feed(b"G0X1\n")) == ["error:9"]
    assert lines(firmware.feed(b"$X\n"))[-1] == "ok"
    assert lines(firmware.feed(JOG)) == ["ok"]


def test_settings_and_gcode_are_locked_during_a_jog():
    firmware = board()
    firmware.feed(b"$J=G91G21X50F600\n")
    assert lines(firmware.feed(b"$$\n")) == ["error:8"]
    assert lines(firmware.feed(b"G0X1\n")) == ["error:9"]


def test_a_hold_at_rest_and_the_door_lock_jogs():
    firmware = board()
    firmware.feed(b"!")
    assert lines(firmware.feed(JOG)) == ["error:8"]
    firmware.feed(b"~\x84")
    assert firmware.state == "Door:0"


def test_reports_follow_the_mask():
    firmware = board()
    assert "MPos:" in firmware.feed(b"?").decode()
    firmware.feed(b"$10=0\n")
    report = firmware.feed(b"?").decode()
    assert "WPos:" in report
    assert "Bf:" not in report
    assert "FW:grblHAL" in firmware.feed(b"\x87").decode()


def test_noise_does_not_break_it():
    rng = np.random.default_rng(1)
    firmware = board()
    for _ in range(200):
        firmware.feed(rng.integers(0, 256, 50, dtype=np.uint8).tobytes())
        firmware.advance(0.01)
    firmware.feed(b"\n")
    firmware.feed(b"\x18")
    assert "ok" in lines(firmware.feed(b"$X\n"))
