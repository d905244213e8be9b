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


def behind_after_a_stall(stall_s: float, latency_s: float = 0.006) -> float:
    """A board that is busy for a while in mid-stream; return the approved time not yet sent seven seconds later."""
    line, held = Virtual(latency_s=latency_s), bytearray()
    feed, advance = line.firmware.feed, line.firmware.advance
    for tick in range(500):
        t = tick * 0.02
        if 3 <= t < 3 + stall_s:
            line.firmware.feed, line.firmware.advance = lambda data: (held.extend(data), b"")[1], lambda _: b""
        else:
            line.firmware.feed, line.firmware.advance = feed, advance
            line.hear(feed(bytes(held)))
            held.clear()
        line.say(line.session.push(np.rint(waves(t) * 2e4).astype(np.int64), 0.02, line.now_s))
        line.run(0.02)
    assert line.session.faults == []
    return line.session.stream.pending_s


@pytest.mark.parametrize("latency_s", [0.020, 0.030])
def test_a_slow_answer_does_not_keep_a_stall_from_being_made_up_for(latency_s):
    assert behind_after_a_stall(0.25, latency_s) <= 0.06


@pytest.mark.parametrize("stall_s", [0.1, 0.2, 0.25])
def test_a_stall_is_made_up_for(stall_s, monkeypatch):
    assert behind_after_a_stall(stall_s) <= 0.04
    if stall_s >= 0.25:
        monkeypatch.setattr(jogs, "PIECE_PERIODS", 1e9)  # all that was held up in one long jog
        assert behind_after_a_stall(stall_s) > 0.1


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


# more of the surprises of real firmware (each with its remedy: test_surprises.py)


def test_surprise_3_what_the_axes_cannot_follow_does_not_pile_up():
    rng = np.random.default_rng(3)
    line = Virtual()
    line.drive(lambda _: rng.uniform(-0.12, 0.12, 8), 10.0)
    assert line.deepest <= jogs.BLOCKS_MAX
    assert line.session.faults == []
    line.session.push = lambda *_: b""
    assert line.run(5.0, lambda: line.session.stream.at_rest and line.firmware.state == "Idle") < 1.0


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


@pytest.mark.parametrize("remedy", [True, False])
def test_a_damaged_jog_that_runs_as_a_program_is_held(remedy, monkeypatch):
    """In a program run the cancel has no effect, the feed hold has; in a jog it is the other way round."""

    class Holding(Racing):
        def _hold(self, byte):
            if byte == 0x21 and self._state == "Run":
                self._motion.drop()
                self._sync_program()
                self._state = "Hold:0"
            else:
                super()._hold(byte)

    if not remedy:
        monkeypatch.setattr("melter.hw.session.FEED_HOLD", b"")
    line = Virtual(Holding(SETTINGS))
    line.firmware.feed(b"$J=G91G21X150F3600\n")
    assert line.firmware.state == "Run"
    line.run(1.0)
    assert fault_of(line) == "jump"
    assert (line.firmware.state == "Hold:0") is remedy
    assert bool(line.firmware.position_m[0] < 0.02) is remedy


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.001, 0.1), st.sampled_from([0.02, 0.05]))
def test_no_winch_is_sent_faster_than_allowed(seed, scale, period_s):
    """At most 1.25 times the fastest approved within a second, and the machine's highest speed in any case."""
    rng = np.random.default_rng(seed)
    line, approved, sent = Virtual(), [], []
    push = line.session.push

    def note(counts, period, now_s):
        approved.append((now_s, np.abs(counts) / period / 1e6))
        return push(counts, period, now_s)

    line.session.push = note
    say = line.say
    line.say = lambda data: (sent.append((line.now_s, bytes(data))), say(data))[1]
    line.drive(lambda t: rng.uniform(-scale, scale, 8), 2.0, period_s)
    for now_s, data in sent:
        for words, feed in re.findall(rb"\$J=G91G21(\S*)F([\d.]+)", data):
            moved = np.zeros(8)
            for letter, value in re.findall(rb"([A-Z])(-?[\d.]+)", words):
                moved["XYZABCUV".index(letter.decode())] = abs(float(value)) * 1e-3
            speeds = moved / (np.linalg.norm(moved) / (float(feed) * 1e-3 / 60))
            lately = np.max([speed for at_s, speed in approved if now_s - 1.0 <= at_s <= now_s], axis=0)
            assert (speeds <= np.minimum(np.maximum(1.25 * lately, 0.001), 0.120) * 1.002 + 1e-6).all()


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


@pytest.mark.parametrize("speed_um_s", [3.0, 25.0, 100.0])
def test_motion_of_less_than_a_step_a_period_does_not_fall_behind(speed_um_s):
    """While a cloud is waited for, the sun moves on, and the lens with it: hundredths of a millimetre a second."""
    line = Virtual()
    total = line.drive(
        lambda t: np.array([0.3, 1.0, -0.4, -1.0, 0.15, -1.1, -0.05, 1.2]) * speed_um_s * 1e-6 * min(1, t), 20.0, 0.05
    )
    assert line.session.faults == []
    assert line.session.stream.pending_s < 0.5
    line.settle()
    assert line.error_mm(total) <= 0.02
