"""Servo motors on a bus: the simulated bus packet by packet, the driver against it over a pseudo-terminal."""

import contextlib
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hw_bench import MACHINE, Bench, command, drive, wait_until
from hypothesis import given
from hypothesis import strategies as st

from melter.errors import LinkFault, PortError
from melter.hw import dynamixel, dynamixel_bus
from melter.hw.driver import MotorDriver
from melter.hw.dynamixel import DynamixelDriver
from melter.hw.dynamixel_bus import (
    ALERT,
    ERROR_ACCESS,
    ERROR_RANGE,
    GOAL_VELOCITY,
    HARDWARE_ERROR,
    HEADER,
    MODE,
    PING,
    PRESENT_POSITION,
    READ,
    TORQUE,
    VELOCITY_LIMIT,
    WATCHDOG,
    WRITE,
    DynamixelBus,
    crc16,
    packet,
)

AROUND_M = 2 * np.pi * MACHINE.drive.drum_radius_m
WAVES = np.linspace(0.6, 4.2, 8)


def fitting_bus(**changed) -> DynamixelBus:
    return DynamixelBus(velocity_limit=changed.pop("velocity_limit", 275), **changed)


def paid_out_m(bus: DynamixelBus) -> np.ndarray:
    return np.array([motor.position for motor in bus.motors.values()]) / dynamixel_bus.POSITION_UNITS * AROUND_M


def test_the_checksum_is_the_published_one():
    """ROBOTIS' own example: ping of motor 1."""
    assert packet(1, PING, b"") == bytes.fromhex("fffffd00010300 01 194e")
    assert crc16(b"123456789") == 0xFEE8  # CRC-16/UMTS, the catalogue's check value


@given(st.binary(max_size=40), st.integers(0, 252))
def test_stuffed_packets_have_one_header(parameters, number):
    whole = packet(number, WRITE, parameters)
    assert whole.startswith(HEADER)
    assert b"\xff\xff\xfd" not in whole[4:-2].replace(b"\xff\xff\xfd\xfd", b"")
    assert crc16(whole[:-2]) == struct.unpack("<H", whole[-2:])[0]


def told(answer: bytes) -> tuple[int, int, bytes]:
    return answer[4], answer[8], answer[9:-2]


def write(bus: DynamixelBus, number: int, address: int, form: str, value: int) -> int:
    return told(bus.feed(packet(number, WRITE, struct.pack("<H" + form, address, value))))[1]


def test_registers_and_their_locks():
    bus = fitting_bus()
    assert told(bus.feed(packet(3, PING, b"")))[0] == 3
    assert bus.feed(packet(99, PING, b"")) == b""
    assert write(bus, 3, TORQUE, "B", 1) == 0
    assert write(bus, 3, MODE, "B", 3) == ERROR_ACCESS
    assert write(bus, 3, GOAL_VELOCITY, "i", 275) == 0
    assert write(bus, 3, GOAL_VELOCITY, "i", 276) == ERROR_RANGE
    bus.motors[3].table[HARDWARE_ERROR] = 32
    assert told(bus.feed(packet(3, READ, struct.pack("<HH", MODE, 1))))[1] == ALERT


def test_a_damaged_packet_is_answered_by_nobody():
    good = packet(3, PING, b"")
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        bus = fitting_bus()
        assert bus.feed(bytes(bad)) == b""
        assert told((bus.feed(b"\x00" * 1024 + good))[-14:])[0] == 3


def test_the_watchdog_stops_the_motors():
    bus = fitting_bus()
    write(bus, 1, TORQUE, "B", 1)
    write(bus, 1, WATCHDOG, "B", 5)
    write(bus, 1, GOAL_VELOCITY, "i", 100)
    bus.advance(0.099)
    assert bus.motors[1].units_s > 0
    bus.advance(0.02)
    bus.advance(0.001)
    assert bus.motors[1].units_s == 0
    assert write(bus, 1, GOAL_VELOCITY, "i", 100) == ERROR_RANGE  # locked until the watchdog is cleared
    assert write(bus, 1, WATCHDOG, "B", 0) == 0
    assert write(bus, 1, GOAL_VELOCITY, "i", 100) == 0


@pytest.fixture
def bench():
    with Bench(fitting_bus(), baud=None) as running:
        yield running


@pytest.fixture
def driver(bench):
    with DynamixelDriver(bench.path, MACHINE) as connected:
        yield connected


def fault_of(driver: DynamixelDriver) -> str:
    assert wait_until(lambda: bool(driver.poll().faults), 2.0)
    with pytest.raises(LinkFault):
        driver.send(command(np.zeros(8)))
    return driver.poll().faults[0].split(":")[0]


def test_it_is_a_motor_driver_with_better_promises(driver):
    body: MotorDriver = driver
    promises = body.promises
    assert promises.checks_packets
    assert promises.reports_speed
    assert promises.reports_current
    assert promises.stops_when_silent_s < 0.25


@pytest.mark.parametrize("period_s", [0.02, 0.05])
def test_speed_commands_add_up(bench, driver, period_s):
    total = drive(driver, lambda t: 0.045 * np.sin(WAVES * t), 2.0, period_s)
    driver.send(command(np.zeros(8)))
    assert wait_until(lambda: driver.poll().state == "idle", 1.0)
    time.sleep(0.1)
    assert driver.poll().faults == ()
    np.testing.assert_allclose(paid_out_m(bench.firmware), total * 1e-6, atol=2e-3)
    np.testing.assert_allclose(driver.poll().positions_m, paid_out_m(bench.firmware), atol=0.1e-3)


def test_slow_speeds_are_kept_on_average(bench, driver):
    """One unit of a motor is 0.48 mm/s; 0.3 mm/s is asked for."""
    total = drive(driver, lambda _: np.full(8, 0.0003), 2.0, 0.05)
    np.testing.assert_allclose(paid_out_m(bench.firmware), total * 1e-6, atol=0.06e-3)


def test_a_stop_and_a_silent_host(bench, driver):
    drive(driver, lambda _: np.full(8, 0.04), 0.4)
    driver.stop()
    assert wait_until(lambda: all(motor.units_s == 0 for motor in bench.firmware.motors.values()), 0.3)
    drive(driver, lambda _: np.full(8, 0.04), 0.2)  # and then no further command
    assert wait_until(lambda: all(motor.units_s == 0 for motor in bench.firmware.motors.values()), 0.4)
    assert driver.poll().faults == ()


def test_only_approved_commands_are_sent(driver):
    with pytest.raises(TypeError, match="ApprovedCommand"):
        driver.send(np.zeros(8))


@pytest.mark.parametrize(
    ("bus", "named"),
    [
        (fitting_bus(mode=3), "motor 1 (NE-upper) operating mode 3, must be 1"),
        (fitting_bus(velocity_limit=1000), "motor 1 (NE-upper) velocity limit 1000, must be"),
        (fitting_bus(velocity_limit=100), "motor 1 (NE-upper) velocity limit 100, must be"),
        (fitting_bus(numbers=range(1, 8)), "motor 8 (SE-lower) does not answer"),
    ],
)
def test_motors_that_do_not_suit_are_refused(bus, named):
    with Bench(bus, baud=None) as bench:
        with pytest.raises(PortError) as refused:
            DynamixelDriver(bench.path, MACHINE).connect()
        assert named in str(refused.value)
        assert "\n" not in str(refused.value)
        assert not any(motor.table[TORQUE] for motor in bus.motors.values())


def test_setup_puts_them_right():
    bus = DynamixelBus(mode=3, velocity_limit=1000)
    with Bench(bus, baud=None) as bench:
        assert len(DynamixelDriver(bench.path, MACHINE).set_up()) == 16
        assert DynamixelDriver(bench.path, MACHINE).set_up() == []
        assert bus.motors[5].get(VELOCITY_LIMIT, "<I") == 251  # 120 mm/s on a drum of 20 mm
        with DynamixelDriver(bench.path, MACHINE) as driver:
            assert driver.poll().state == "idle"


def test_trouble_is_named(bench, driver):
    bench.do(lambda bus: bus.motors[4].table.__setitem__(HARDWARE_ERROR, 32))
    assert fault_of(driver) == "alarm"
    assert not driver.poll().position_trusted


def test_a_blocked_winch_is_a_stall(bench, driver):
    bench.firmware.motors[2].blocked = True
    with contextlib.suppress(LinkFault):
        drive(driver, lambda _: np.full(8, 0.03), 1.5)
    assert fault_of(driver) == "stall"
    assert "NE-lower" in driver.poll().faults[0]


def test_a_jump_of_the_counter(bench, driver):
    bench.firmware.motors[6].position += 5000
    assert fault_of(driver) == "jump"
    assert "SW-lower" in driver.poll().faults[0]


def test_a_counter_that_wraps_is_no_jump(monkeypatch):
    bus = fitting_bus()
    for motor in bus.motors.values():
        motor.position = 2**31 - 20
    with Bench(bus, baud=None) as bench, DynamixelDriver(bench.path, MACHINE) as driver:
        drive(driver, lambda _: np.full(8, 0.02), 0.4)
        assert bus.motors[1].get(PRESENT_POSITION, "<i") < 0
        assert driver.poll().faults == ()


def test_silence_and_recovery(bench, driver):
    bench.frozen = True
    assert fault_of(driver) == "silence"
    bench.frozen = False
    driver.recover()
    assert driver.poll().faults  # still latched
    driver.send(command(np.full(8, 0.01)))
    assert wait_until(lambda: bool((paid_out_m(bench.firmware) > 0).all()), 1.0)


def test_a_hang_up_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(dynamixel, "RECOVER_S", 0.2)
    before, threads = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
    bench = Bench(fitting_bus(), baud=None)
    driver = DynamixelDriver(bench.path, MACHINE)
    driver.connect()
    bench.hang_up()
    assert fault_of(driver) == "hangup"
    with pytest.raises(LinkFault, match="not back"):
        driver.recover()
    driver.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert threading.active_count() == threads


@pytest.mark.parametrize("seed", range(3))
def test_damaged_bytes_never_run_a_motor_away(seed):
    """Every packet is checked: damage costs answers, never a speed that nobody asked for."""
    rng = np.random.default_rng(seed)

    def damage(data: bytes) -> bytes:
        return bytes(byte ^ (1 << rng.integers(8)) if rng.random() < 2e-3 else byte for byte in data)

    with Bench(fitting_bus(), baud=None) as bench, DynamixelDriver(bench.path, MACHINE) as driver:
        bench.to_board = bench.to_host = damage
        with contextlib.suppress(LinkFault):
            drive(driver, lambda t: 0.04 * np.sin(WAVES * t), 1.5)
        bench.to_board = bench.to_host = lambda data: data
        assert wait_until(lambda: all(motor.units_s == 0 for motor in bench.firmware.motors.values()))
        assert np.abs(paid_out_m(bench.firmware)).max() < 0.06


def test_other_ports_are_refused(bench, driver):
    with pytest.raises(PortError, match="busy"):
        DynamixelDriver(bench.path, MACHINE).connect()
    with pytest.raises(PortError, match="no such device"):
        DynamixelDriver("/dev/nonesuch", MACHINE).connect()
