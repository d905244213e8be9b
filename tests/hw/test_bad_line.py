"""A line that damages one byte in a thousand, both ways: no unbounded motion, faults with names, and dark all the same."""

import contextlib
import time

import numpy as np
import pytest
from hw_bench import MACHINE, SETTINGS, Bench, command, drive, wait_until
from hw_virtual import Virtual
from hypothesis import given, settings
from hypothesis import strategies as st

from melter.errors import LinkFault
from melter.hw.firmware import Firmware
from melter.hw.grbl_driver import GrblDriver
from melter.hw.rough import RoughSession

NAMES = {"reset", "alarm", "hold", "state", "jump", "stall", "silence", "refused", "noise", "lag", "brake"}
WAVES = np.linspace(0.6, 4.2, 8)
REACH_M = 0.030
"""Farther than this beyond what was approved no winch goes: a damaged jog is noticed by two reports (0.1 s) and braked
(0.15 s), at 120 mm/s or less."""


def waves(t: float) -> np.ndarray:
    return 0.045 * np.sin(WAVES * t)


def bad_line(rng: np.random.Generator, p: float):
    """Each byte flipped in one bit, dropped or doubled, with probability ``p`` in all."""

    def damage(data: bytes) -> bytes:
        out = bytearray()
        for byte in data:
            dice = rng.random()
            if dice >= p:
                out.append(byte)
            elif dice < p / 3:
                out += bytes([byte, byte])
            elif dice < 2 * p / 3:
                out.append(byte ^ (1 << rng.integers(8)))
        return bytes(out)

    return damage


def run_into_a_fault(line: Virtual, longest_s: float) -> np.ndarray:
    """Drive until a fault is latched; return how far each winch went beyond what was approved."""
    low = high = total = np.rint(line.firmware.position_m * 1e6).astype(np.int64)
    t = 0.0
    while not line.session.faults and t < longest_s:
        total = total + line.drive(lambda _, t=t: waves(t), 0.02)
        low, high, t = np.minimum(low, total), np.maximum(high, total), t + 0.02
    line.run(1.5)
    return np.maximum(line.firmware.position_m * 1e6 - high, low - line.firmware.position_m * 1e6) * 1e-6


def go_dark(line: Virtual, seconds: float = 4.0) -> np.ndarray:
    """What the driver and the loop do after a fault: a new connection, and the way down at 100 mm/s."""
    firmware = line.firmware
    if firmware.alarm or firmware.state != "Idle":
        firmware.feed(b"\x18")
        firmware.feed(b"\n$X\n")
    start_um = np.rint(firmware.position_m * 1e6).astype(np.int64)
    line.session = RoughSession(MACHINE, line.facts, start_um, line.now_s, plan_um=start_um)
    total = line.drive(lambda t: np.full(8, 0.1 * min(1, 5 * t, max(0.0, 5 * (seconds - t)))), seconds, 0.05)
    line.drive(lambda _: np.zeros(8), 2.0, 0.05)
    line.run(1.0)
    return (firmware.position_m * 1e6 - start_um - total) * 1e-6


def episode(seed: int, p: float = 1e-3) -> float:
    """One episode from work into the dark; return how long it took."""
    rng = np.random.default_rng(seed)
    line = Virtual(Firmware(SETTINGS))
    line.to_board, line.to_host = bad_line(rng, p), bad_line(rng, p)
    beyond_m = run_into_a_fault(line, 10.0)
    assert line.session.faults
    assert all(fault.split(":")[0] in NAMES for fault in line.session.faults)
    assert beyond_m.max() <= REACH_M
    assert line.firmware.state in ("Idle", "Alarm", "Hold:0", "Door:0")
    for _ in range(5):  # as often as the loop tries
        missing_m = go_dark(line)
        if not line.session.faults:
            assert np.abs(missing_m).max() <= 0.005
            break
        assert {fault.split(":")[0] for fault in line.session.faults} <= {"alarm", "reset", "silence", "brake", "state"}
    assert not line.session.faults
    return line.now_s


@pytest.mark.parametrize("seed", range(5))
def test_a_bad_line_ends_in_the_dark(seed):
    episode(seed)


@pytest.mark.long
def test_ten_minutes_of_a_bad_line():
    """Ten minutes of the line's time, one fault and one way to dark after the other. About two minutes."""
    passed_s, seed = 0.0, 1000
    while passed_s < 600:
        passed_s += episode(seed)
        seed += 1


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.floats(1e-4, 3e-2))
def test_no_damage_moves_a_winch_far(seed, p):
    rng = np.random.default_rng(seed)
    line = Virtual(Firmware(SETTINGS))
    line.to_board, line.to_host = bad_line(rng, p), bad_line(rng, p)
    assert run_into_a_fault(line, 3.0).max() <= REACH_M
    stood = line.firmware.position_m
    line.run(0.5)
    np.testing.assert_array_equal(line.firmware.position_m, stood)


def test_the_driver_finds_its_way_over_a_bad_line():
    rng = np.random.default_rng(5)
    with Bench() as bench, GrblDriver(bench.path, MACHINE) as driver:
        bench.to_board, bench.to_host = bad_line(rng, 1e-3), bad_line(rng, 1e-3)
        with contextlib.suppress(LinkFault):
            drive(driver, lambda t: 0.8 * waves(t), 6.0)
        assert wait_until(lambda: bool(driver.poll().faults))
        latched = driver.poll().faults
        for _ in range(5):
            with contextlib.suppress(LinkFault):
                driver.recover()
                from_m = bench.firmware.position_m
                total = drive(driver, lambda t: np.full(8, 0.05 * min(1, 5 * t)), 1.5, 0.05)
                break
        driver.send(command(np.zeros(8)))
        assert wait_until(lambda: driver.poll().queue_depth == 0)
        time.sleep(0.2)
        np.testing.assert_allclose(bench.firmware.position_m - from_m, total * 1e-6, atol=5e-3)
        assert driver.poll().faults[: len(latched)] == latched
