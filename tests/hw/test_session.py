"""The session against the simulated firmware over a virtual line: what is asked for happens, what breaks is named."""

import re

import numpy as np
import pytest
from hw_bench import SETTINGS
from hw_virtual import Virtual
from hypothesis import given, settings
from hypothesis import strategies as st

import melter.hw.jogs as jogs
from melter.hw.firmware import Firmware
from melter.hw.grbl import Error, jog_line

WAVES = np.linspace(0.6, 4.2, 8)


def waves(t: float) -> np.ndarray:
    return 0.045 * np.sin(WAVES * t)


def steady(speed: float):
    return lambda _: np.full(8, speed)


def fault_of(line: Virtual) -> str:
    return line.session.faults[0].split(":")[0] if line.session.faults else ""


def jogged_um(sent: bytes) -> np.ndarray:
    total = np.zeros(8, dtype=np.int64)
    for words in re.findall(rb"\$J=G91G21(\S*)F", sent):
        for letter, value in re.findall(rb"([A-Z])(-?[\d.]+)", words):
            total["XYZABCUV".index(letter.decode())] += round(float(value) * 1000)
    return total


@pytest.mark.parametrize("buffers", [True, False])
@pytest.mark.parametrize("prepared_s", [0.01, 0.03, 0.09])
@pytest.mark.parametrize("period_s", [0.02, 0.05, 0.1])
def test_the_sum_of_what_was_approved_is_what_is_moved(period_s, prepared_s, buffers):
    line = Virtual(Firmware(SETTINGS, prepared_s=prepared_s), buffers=buffers)
    total = line.drive(waves, 6.0, period_s)
    line.settle()
    assert line.session.faults == []
    assert line.error_mm(total) <= 0.05
    if not line.sent.count(b"\x85"):
        assert jogged_um(line.sent).tolist() == total.tolist()
    if buffers:
        assert line.deepest <= jogs.BLOCKS_MAX


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.0001, 0.05), st.sampled_from([0.02, 0.05]))
def test_any_commands_are_carried_out_to_the_micrometre(seed, scale, period_s):
    rng = np.random.default_rng(seed)
    line = Virtual()
    total = line.drive(lambda _: rng.uniform(-scale, scale, 8), 2.0, period_s)
    line.settle()
    assert line.session.faults == []
    assert line.error_mm(total) <= 0.05
    assert line.deepest <= jogs.BLOCKS_MAX


def test_the_boards_single_precision_adds_up_to_nothing():
    firmware = Firmware(SETTINGS)
    firmware.feed(b"$J=G91G21X1023Y1023F100000\n")  # where single precision is coarse
    while firmware.state == "Jog":
        firmware.advance(0.1)
    line = Virtual(firmware)
    start = line.firmware.position_m
    total = line.drive(lambda t: 0.03 * np.sin(WAVES * t) + 0.0001, 30.0)
    line.settle()
    assert line.session.faults == []
    assert np.abs((line.firmware.position_m - start) * 1e3 - total / 1e3).max() <= 0.05


@pytest.mark.parametrize("speed", [0.05, 0.12])
@pytest.mark.parametrize("period_s", [0.02, 0.05])
def test_a_steady_speed_is_kept_with_little_delay(speed, period_s):
    line = Virtual()
    total = line.drive(steady(speed), 3.0, period_s)
    behind_s = line.error_mm(total) / (speed * 1e3)
    assert behind_s <= 0.25
    positions = np.array(line.positions)[-1000:, 0]
    assert positions[-1] - positions[0] == pytest.approx(speed * 0.999, rel=0.02)


def turning_s(line: Virtual, speed: float, period_s: float, times: int = 8) -> list[float]:
    """Drive to and fro; return how long after each reversed command the cable turned."""
    line.drive(steady(speed), 1.0, period_s)
    took = []
    for _ in range(times):
        speed, begun = -speed, len(line.positions)
        line.drive(steady(speed), 0.6, period_s)
        after = np.array(line.positions)[begun:, 0] * np.sign(speed)
        took.append(float(np.argmin(after) * 1e-3))
    return took


@pytest.mark.parametrize("period_s", [0.02, 0.05])
def test_a_reversal_takes_effect_fast(period_s, monkeypatch):
    fast = [took for k in (2, 6, 10) for took in turning_s(Virtual(latency_s=0.001 * k), 0.04, period_s)]
    assert np.median(fast) <= 0.080
    monkeypatch.setattr(jogs, "REVERSAL_UM", 10**9)  # never cancel
    assert np.median(turning_s(Virtual(), 0.04, period_s)) > np.median(fast) + 0.02


def test_a_stop_takes_effect_fast_and_drops_the_rest():
    line = Virtual()
    line.drive(steady(0.04), 1.0)
    line.say(line.session.stop(line.now_s))
    assert line.run(1.0, lambda: line.firmware.state == "Idle") <= 0.1
    line.run(0.3)
    assert line.session.faults == []
    stood = line.firmware.position_m
    total = line.drive(steady(0.01), 0.5)
    line.settle()
    np.testing.assert_allclose((line.firmware.position_m - stood) * 1e6, total, atol=20)


def test_a_silent_host_leaves_the_winches_at_rest():
    line = Virtual()
    line.drive(steady(0.05), 1.0)
    line.session.push = lambda *_: b""
    moved = line.run(1.0, lambda: line.firmware.state == "Idle")
    assert moved <= 0.37


# the surprises of real firmware, each with its remedy


def test_surprise_1_no_jog_without_axis_words():
    line = Virtual()
    line.drive(lambda t: np.full(8, 1e-6) * (t < 0.5), 1.0)  # 0.02 um a tick rounds to nothing
    line.drive(lambda t: np.zeros(8), 0.5)
    assert b"$J=G91G21F" not in line.sent
    assert line.session.faults == []


def test_surprise_2_a_stop_is_a_jog_cancel_and_never_a_feed_hold():
    line = Virtual()
    line.drive(steady(0.05), 0.5)
    data = line.session.stop(line.now_s)
    assert b"\x85" in data
    assert b"!" not in data


def test_surprise_3_what_the_axes_cannot_follow_does_not_pile_up():
    rng = np.random.default_rng(3)
    line = Virtual()
    line.drive(lambda _: rng.uniform(-0.12, 0.12, 8), 10.0)
    assert line.deepest <= jogs.BLOCKS_MAX
    assert line.session.faults == []
    line.session.push = lambda *_: b""
    assert line.run(5.0, lambda: line.session.stream.at_rest and line.firmware.state == "Idle") < 1.0


def test_surprise_4_a_damaged_distance_is_a_jump():
    line = Virtual()
    line.drive(steady(0.02), 0.5)
    line.to_board = lambda data: data.replace(b"Y0.4", b"Y8.4")
    line.drive(steady(0.02), 1.0)
    assert fault_of(line) == "jump"
    assert "NE-lower" in line.session.faults[0]
    line.run(1.0)
    assert line.firmware.state == "Idle"
    assert line.firmware.position_m.max() < 0.030


def test_a_single_damaged_report_is_not_a_fault():
    line = Virtual()
    line.drive(steady(0.02), 0.5)
    damaged = []

    def damage(data: bytes) -> bytes:
        if b"MPos:1" in data and not damaged:
            damaged.append(data)
            return data.replace(b"MPos:1", b"MPos:91")
        return data

    line.to_host = damage
    line.drive(steady(0.02), 0.5)
    assert damaged
    assert line.session.faults == []


def test_surprise_6_7_after_an_error_jogs_are_still_understood():
    line = Virtual()
    line.firmware.feed(b"%\n")  # the board now holds an error
    total = line.drive(steady(0.02), 0.5)
    line.settle()
    assert line.session.faults == []
    assert line.error_mm(total) <= 0.05


def test_surprise_7_a_cancel_never_cuts_a_line():
    rng = np.random.default_rng(7)
    line = Virtual()
    line.drive(lambda t: np.full(8, 0.05) * (-1) ** int(t / 0.3) * rng.uniform(0.8, 1), 5.0)
    assert line.sent.count(b"\x85") > 5
    assert all(piece.count(b"$J") == piece.count(b"\n") for piece in bytes(line.sent).split(b"\x85"))
    assert line.session.faults == []


def test_surprise_7_lines_lost_to_a_cancel_are_not_waited_for():
    line = Virtual(latency_s=0.03)
    line.drive(steady(0.05), 0.5)
    line.say(line.session.push(np.full(8, 1000), 0.02, line.now_s))
    line.say(line.session.stop(line.now_s))
    line.run(2.0)
    assert line.session.faults == []
    assert line.session.stream.at_rest


def test_surprise_8_a_reset_in_motion_is_a_fault():
    line = Virtual()
    line.drive(steady(0.05), 0.5)
    line.hear(line.firmware.feed(b"\x18"))
    line.run(0.3)
    assert fault_of(line) in ("alarm", "reset")
    assert not line.session.position_trusted
    assert line.session.push(np.full(8, 1000), 0.02, line.now_s) == b""


@pytest.mark.parametrize(("noise", "name"), [(b"\x18", "reset"), (b"!", "hold"), (b"\x84", "state")])
def test_surprise_9_noise_that_means_something_to_the_board(noise, name):
    line = Virtual()
    line.run(0.2)
    line.hear(line.firmware.feed(noise))
    line.run(0.3)
    assert fault_of(line) == name


def test_an_alarm_out_of_the_blue():
    line = Virtual()
    line.drive(steady(0.05), 0.3)
    line.hear(line.firmware.raise_alarm(1))
    line.run(0.2)
    assert "hard limit" in line.session.faults[0]


def test_silence_is_a_fault_in_bounded_time():
    line = Virtual()
    line.drive(steady(0.05), 0.3)
    line.to_host = lambda data: b""
    assert line.run(2.0, lambda: bool(line.session.faults)) <= 0.6
    assert fault_of(line) == "silence"


def test_a_host_that_was_held_up_is_no_silence():
    line = Virtual()
    line.drive(steady(0.05), 0.3)
    line.settle()
    line.now_s += 2.0
    line.run(0.3)
    assert line.session.faults == []


def test_a_lost_ok_is_a_fault():
    line = Virtual()
    line.to_host = lambda data: data.replace(b"ok\r\n", b"")
    line.drive(steady(0.05), 1.0)
    assert fault_of(line) == "silence"


def test_a_counter_that_stands_still_is_a_stall():
    line = Virtual()
    line.firmware._motion.advance = lambda dt_s: None
    line.drive(steady(0.05), 1.5)
    assert fault_of(line) == "stall"


def test_a_slip_at_rest_is_a_jump():
    line = Virtual()
    line.drive(steady(0.05), 0.3)
    line.settle()
    line.firmware._motion.set_position(line.firmware.steps + 20)
    line.run(0.3)
    assert fault_of(line) == "jump"


def test_refusals_between_two_states_are_tried_again():
    line = Virtual()
    line.drive(steady(0.02), 0.3)
    refuse = [3]

    def damage(data: bytes) -> bytes:
        if refuse[0] and b"$J" in data:
            refuse[0] -= 1
            line.hear(b"error:8\r\n")
            return b""
        return data

    line.to_board = damage
    total = line.drive(steady(0.02), 0.5) + np.rint(0.02 * 0.3 * 1e6)
    line.settle()
    assert refuse == [0]
    assert line.session.faults == []
    assert line.error_mm(total) <= 0.05


class Racing(Firmware):
    """Real boards that run dry just when a jog comes start it as a program: Run, deaf to jogs and to the cancel."""

    starts = 0

    def _queue(self, target_mm, feed_mm_s):
        before = self._state
        super()._queue(target_mm, feed_mm_s)
        if before == "Idle" and self._state == "Jog":
            self.starts += 1
            self._state = "Run" if self.starts % 2 else "Jog"

    def _settle(self):
        if self._state == "Run" and not self._motion.moving:
            self._state = "Idle"
        super()._settle()


@pytest.mark.parametrize("period_s", [0.02, 0.05])
def test_a_board_that_slips_into_a_program_run(period_s):
    line = Virtual(Racing(SETTINGS))
    total = line.drive(lambda t: waves(t) * (t % 1.0 < 0.5), 6.0, period_s)
    total += line.drive(lambda t: np.full(8, 0.04) * (-1) ** int(t / 0.3), 3.0, period_s)
    line.settle()
    assert line.firmware.starts > 5
    assert line.session.faults == []
    assert line.error_mm(total) <= 0.05


def test_a_stop_out_of_a_program_run():
    line = Virtual(Racing(SETTINGS))
    line.drive(steady(0.04), 0.1, 0.05)
    line.say(line.session.stop(line.now_s))
    assert line.run(1.0, lambda: line.firmware.state == "Idle") <= 0.3
    line.run(0.3)
    assert line.session.faults == []


def test_lasting_refusal_and_other_errors_are_faults():
    line = Virtual()
    line.to_board = lambda data: b""
    line.say(line.session.push(np.full(8, 1000), 0.02, 0.0))
    line.hear(b"error:8\r\n")
    line.to_host = lambda data: data
    line.session.stream.on_error(Error(8), 0.0)
    line.session.stream.refused_since_s = 0.0
    line.session._check_overdue(0.6)
    assert fault_of(line) == "refused"
    line = Virtual()
    line.to_board = lambda data: data.replace(b"X", b"Q")
    line.drive(steady(0.02), 0.3)
    assert fault_of(line) == "refused"


def test_noise_is_borne_a_little_and_no_more():
    line = Virtual()
    for _ in range(3):
        line.hear(b"\x00\xffgarbage\r\n")
        line.run(0.1)
    assert line.session.faults == []
    line.hear(b"\x00\xffgarbage\r\n")
    line.run(0.1)
    assert fault_of(line) == "noise"


def damaged(rng: np.random.Generator, p: float):
    def damage(data: bytes) -> bytes:
        out = bytearray()
        for byte in data:
            dice = rng.random()
            out += (
                b""
                if dice < p
                else bytes(
                    [byte, byte] if dice < 2 * p else [byte ^ (1 << rng.integers(8))] if dice < 3 * p else [byte]
                )
            )
        return bytes(out)

    return damage


@pytest.mark.parametrize("seed", range(40))
def test_a_corrupted_line_ends_in_a_named_fault_and_at_rest(seed):
    rng = np.random.default_rng(seed)
    line = Virtual()
    line.to_board = line.to_host = damaged(rng, 1e-3)
    line.drive(waves, 6.0)
    assert line.session.faults
    line.run(1.5)
    assert line.firmware.state in ("Idle", "Alarm", "Hold:0", "Door:0")
    stood = line.firmware.position_m
    line.run(1.0)
    np.testing.assert_array_equal(line.firmware.position_m, stood)
    assert np.abs(stood).max() < 0.15


def test_a_fault_cancels_until_the_board_stands():
    line = Virtual()
    line.drive(steady(0.05), 0.3)
    line.firmware.feed(b"$J=G91G21X900F7200\n")
    lost = [3]

    def damage(data: bytes) -> bytes:
        if b"\x85" in data and lost[0]:
            lost[0] -= 1
            return data.replace(b"\x85", b"")
        return data

    line.to_board = damage
    line.session.latch("jump: made up")
    line.run(1.0)
    assert lost == [0]
    assert line.firmware.state == "Idle"


def test_speeds_on_the_wire_stay_below_the_machines_limit():
    rng = np.random.default_rng(11)
    line = Virtual()
    line.drive(lambda _: rng.uniform(-0.1, 0.1, 8), 5.0)
    for words, feed in re.findall(rb"\$J=G91G21(\S*)F([\d.]+)", line.sent):
        mm = np.array([float(value) for value in re.findall(rb"[A-Z](-?[\d.]+)", words)])
        fastest = np.abs(mm).max() / (np.linalg.norm(mm) / float(feed) * 60)
        assert fastest <= 120 * 1.001


def test_what_is_sent_is_what_the_jog_encoder_makes():
    line = Virtual()
    counts = np.arange(8) * 100 - 250
    assert line.session.push(counts, 0.02, 0.0) == jog_line(counts, 0.02)
