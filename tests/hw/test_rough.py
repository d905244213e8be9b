"""The way to dark over a line that loses bytes or answers late: what damage can do at most, and that the way is found."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hw_bench import MACHINE, SETTINGS
from hw_virtual import Virtual
from hypothesis import given, settings
from hypothesis import strategies as st

from melter.hw.firmware import Firmware
from melter.hw.rough import RoughSession, rough_line, take_over

DOWN_M_S = np.array([0.01, -0.09, 0.012, -0.1, 0.1, -0.05, 0.09, -0.045])
"""What the way down at 100 mm/s asks of the winches of a corner machine, roughly."""
millimetres = st.lists(st.integers(-30, 30), min_size=8, max_size=8).filter(any)


def lossy(rng: np.random.Generator, share: float):
    return lambda data: bytes(byte for byte in data if rng.random() >= share)


def in_place(line: Virtual, fault: str) -> RoughSession:
    line.session.latch(fault)
    after = take_over(line.session, MACHINE, line.now_s)
    assert isinstance(after, RoughSession)
    line.session = after
    return after


def lower(line: Virtual, seconds: float) -> np.ndarray:
    return line.drive(lambda t: DOWN_M_S * min(1.0, 8 * t), seconds, 0.05)


@given(millimetres, st.data())
def test_one_lost_byte_makes_no_step_longer(values, data):
    line = rough_line(np.array(values) * 1000, 0.2)
    lost = data.draw(st.integers(0, len(line) - 2))
    firmware = Firmware(SETTINGS)
    firmware.feed(line[:lost] + line[lost + 1 :])
    firmware.advance(60.0)
    assert (np.abs(firmware.position_m) * 1e3 <= np.abs(values) + 0.01).all()


@given(millimetres)
def test_a_whole_line_moves_what_it_says(values):
    firmware = Firmware(SETTINGS)
    assert firmware.feed(rough_line(np.array(values) * 1000, 0.5)) == b"ok\r\n"
    firmware.advance(10.0)
    np.testing.assert_allclose(firmware.position_m * 1e3, values, atol=0.01)


def test_what_is_less_than_a_millimetre_is_told_in_tenths():
    assert rough_line(np.array([700, 0, -300, 0, 0, 0, 0, 0]), 0.1) == b"$J=G91G21X+.7Z-.3F457\n"


@pytest.mark.parametrize("seed", range(6))
def test_the_way_goes_on_while_one_byte_in_fifty_is_lost(seed):
    rng, line = np.random.default_rng(seed), Virtual(Firmware(SETTINGS))
    line.drive(lambda _: 0.02 * DOWN_M_S, 0.5)
    line.to_board, line.to_host = lossy(rng, 0.02), lossy(rng, 0.02)
    session, from_m = in_place(line, "noise: of the test"), line.firmware.position_m
    total = lower(line, 2.0)
    gone = np.abs(line.firmware.position_m - from_m).max()
    assert gone >= 0.35 * np.abs(total).max() * 1e-6
    line.run(3.0)
    assert session.faults == []
    np.testing.assert_allclose(line.firmware.position_m - from_m, total * 1e-6, atol=2e-3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.0, 0.04))
def test_whatever_is_lost_no_winch_runs_away(seed, share):
    rng, line = np.random.default_rng(seed), Virtual(Firmware(SETTINGS))
    line.to_board, line.to_host = lossy(rng, share), lossy(rng, share)
    in_place(line, "noise: of the test")
    low = high = from_um = np.rint(line.firmware.position_m * 1e6)
    for _ in range(10):
        total = from_um + lower(line, 0.2)
        low, high, from_um = np.minimum(low, total), np.maximum(high, total), total
    line.run(1.0)
    places_um = np.array(line.positions) * 1e6
    beyond_um = np.maximum(places_um.max(axis=0) - high, low - places_um.min(axis=0))
    assert beyond_um.max() <= 60_000


def late_by(line: Virtual, seconds: float) -> None:
    waiting: deque[tuple[float, bytes]] = deque()

    def to_host(data: bytes) -> bytes:
        waiting.append((line.now_s + seconds, data))
        return b"".join(waiting.popleft()[1] for _ in range(len(waiting)) if waiting[0][0] <= line.now_s)

    line.to_host = to_host


def test_answers_that_come_late_are_not_waited_for():
    line = Virtual(Firmware(SETTINGS))
    line.drive(lambda _: 0.02 * DOWN_M_S, 0.5)
    late_by(line, 0.8)
    line.run(0.4)
    assert line.session.faults[0].startswith("silence")
    from_m = line.firmware.position_m
    session = in_place(line, "silence: of the test")
    assert not session.position_trusted
    total = lower(line, 1.0)
    assert np.abs(line.firmware.position_m - from_m).max() >= 0.8 * np.abs(total).max() * 1e-6
    line.run(1.0)
    assert session.faults == []
    np.testing.assert_allclose(line.firmware.position_m - from_m, total * 1e-6, atol=0.2e-3)


def test_a_line_that_is_dead_is_given_up():
    line = Virtual(Firmware(SETTINGS))
    line.to_host = lambda _: b""
    line.run(0.4)
    session = in_place(line, "silence: of the test")
    lower(line, 2.0)
    assert session.faults == []
    lower(line, 1.0)
    assert session.faults[0].startswith("silence: nothing came")
    assert line.session.push(np.full(8, 500), 0.05, line.now_s) == b""


def test_a_jog_that_damage_made_long_is_braked():
    line = Virtual(Firmware(SETTINGS))
    session, from_m = in_place(line, "noise: of the test"), line.firmware.position_m
    lower(line, 0.5)
    line.firmware.feed(b"$J=G91G21X-400F7000\n")
    total = lower(line, 0.5)
    assert (line.firmware.position_m - from_m)[0] > -0.05
    line.run(2.0, lambda: session.depth == 0)
    line.run(0.3)
    np.testing.assert_allclose(line.firmware.position_m[0] - from_m[0], total[0] * 2e-6, atol=4e-3)


def test_a_jog_that_crawls_is_given_up():
    line = Virtual(Firmware(SETTINGS))
    lost_digit = [True]

    def damage(data: bytes) -> bytes:
        if b"F1" in data and lost_digit.pop() if lost_digit else False:
            return data.replace(b"F1", b"F", 1)[:-2] + b"\n"
        return data

    line.to_board = damage
    in_place(line, "noise: of the test")
    total = lower(line, 1.5)
    line.run(3.0)
    assert not lost_digit
    np.testing.assert_allclose(line.firmware.position_m, total * 1e-6, atol=2e-3)


@pytest.mark.parametrize("fault", ["reset: x", "alarm: x", "hangup: x", "state: x", "jump: x", "hold: x"])
def test_another_board_another_place_or_another_port_needs_a_look_first(fault):
    line = Virtual(Firmware(SETTINGS))
    line.session.latch("noise: x")
    line.session.latch(fault)
    assert take_over(line.session, MACHINE, 0.0) is None


def test_without_a_fault_there_is_nothing_to_take_over():
    line = Virtual(Firmware(SETTINGS))
    assert take_over(line.session, MACHINE, 0.0) is None


@pytest.mark.parametrize(("trouble", "name"), [(b"\x18", "reset"), (b"\x84", "state")])
def test_trouble_on_the_way_is_named(trouble, name):
    line = Virtual(Firmware(SETTINGS))
    session = in_place(line, "noise: of the test")
    lower(line, 0.3)
    line.hear(line.firmware.feed(trouble))
    line.run(0.5)
    assert {fault.split(":")[0] for fault in session.faults} & {name, "alarm"}
    stood = line.firmware.position_m
    lower(line, 0.3)
    np.testing.assert_allclose(line.firmware.position_m, stood, atol=1e-5)
