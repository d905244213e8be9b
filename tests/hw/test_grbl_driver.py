"""The driver over real pseudo-terminals and real pyserial, against the simulated board in real time."""

import contextlib
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hw_bench import MACHINE, SETTINGS, Bench, command, drive, wait_until

from melter.errors import LinkFault, PortError
from melter.hw.driver import MotorDriver
from melter.hw.firmware import Firmware
from melter.hw.grbl_driver import GrblDriver
from melter.hw.service import list_boards, look, set_up, stop_at_once

WAVES = np.linspace(0.6, 4.2, 8)


def waves(t: float) -> np.ndarray:
    return 0.045 * np.sin(WAVES * t)


def steady(speed: float):
    return lambda _: np.full(8, speed)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def drivers_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("grbl")]


@pytest.fixture
def bench():
    with Bench() as running:
        yield running


@pytest.fixture
def driver(bench):
    with GrblDriver(bench.path, MACHINE) as connected:
        yield connected


def fault_of(driver: GrblDriver, timeout_s: float = 2.0) -> str:
    assert wait_until(lambda: bool(driver.poll().faults), timeout_s)
    with pytest.raises(LinkFault):
        driver.send(command(np.zeros(8)))
    return driver.poll().faults[0].split(":")[0]


def test_it_is_a_motor_driver(driver):
    body: MotorDriver = driver
    assert body.promises.reports_position
    assert not body.promises.checks_packets
    assert 0 < body.promises.stops_when_silent_s < 0.5


def test_nothing_is_opened_before_connect():
    driver = GrblDriver("/dev/nonesuch", MACHINE)
    assert driver.poll().state == "unknown"
    driver.close()
    with pytest.raises(LinkFault):
        driver.send(command(np.zeros(8)))


@pytest.mark.parametrize("period_s", [0.02, 0.05])
def test_speed_commands_add_up(bench, driver, period_s):
    total = drive(driver, waves, 3.0, period_s)
    assert wait_until(lambda: driver.poll().queue_depth == 0 and driver.poll().state == "idle")
    status = driver.poll()
    assert status.faults == ()
    assert np.abs(bench.firmware.position_m - total * 1e-6).max() <= 0.05e-3
    np.testing.assert_allclose(status.positions_m, total * 1e-6, atol=0.05e-3)
    assert bench.deepest <= 3


def test_a_stop(bench, driver):
    drive(driver, steady(0.04), 0.6)
    driver.stop()
    assert wait_until(lambda: bench.firmware.state == "Idle", 1.0)
    assert wait_until(lambda: driver.poll().state == "idle" and driver.poll().queue_depth == 0)
    stood = bench.firmware.position_m
    time.sleep(0.2)
    np.testing.assert_array_equal(bench.firmware.position_m, stood)
    driver.send(command(np.full(8, 0.01)))
    assert wait_until(lambda: bool((bench.firmware.position_m > stood).all()))


def test_only_approved_commands_are_sent(driver):
    with pytest.raises(TypeError, match="ApprovedCommand"):
        driver.send(np.zeros(8))


def test_every_byte_is_recorded(bench):
    seen = []
    with GrblDriver(bench.path, MACHINE, on_bytes=lambda *piece: seen.append(piece)) as driver:
        driver.send(command(np.full(8, 0.01)))
        assert wait_until(lambda: driver.poll().queue_depth == 0)
    sent = b"".join(data for direction, _, data in seen if direction == "tx")
    heard = b"".join(data for direction, _, data in seen if direction == "rx")
    assert b"$J=G91G21X0.200" in sent
    assert b"GrblHAL" in heard
    times = [time_s for _, time_s, _ in seen]
    assert max(times) - min(times) < 10
    assert wait_until(lambda: bytes(bench.seen).endswith(sent[-20:]), 1.0)


def test_zero_is_where_a_person_says(driver):
    drive(driver, steady(0.02), 0.2)
    assert wait_until(lambda: driver.poll().state == "idle" and driver.poll().queue_depth == 0)
    driver.zero()
    np.testing.assert_array_equal(driver.poll().positions_m, np.zeros(8))


# connecting


@pytest.mark.parametrize(
    "banner", ["Grbl 1.1h ['$' for help]", "GrblHAL 1.1f ['$' or '$HELP' for help]", "grblHAL 1.1f ['$' for help]"]
)
@pytest.mark.parametrize("mask", [511, 510, 1, 0])
def test_variants_of_the_board(banner, mask):
    with Bench(Firmware(SETTINGS | {10: mask}, banner=banner)) as bench, GrblDriver(bench.path, MACHINE) as driver:
        total = drive(driver, waves, 0.4)
        assert wait_until(lambda: driver.poll().queue_depth == 0 and driver.poll().state == "idle")
        assert driver.poll().faults == ()
        assert np.abs(bench.firmware.position_m - total * 1e-6).max() <= 0.05e-3


@pytest.mark.parametrize("letters", ["XYZUVABC", "VUCBAZYX"])
def test_axes_in_another_order(letters):
    order = ["XYZABCUV".index(letter) for letter in letters]
    with Bench(Firmware(SETTINGS, letters=letters)) as bench, GrblDriver(bench.path, MACHINE) as driver:
        total = drive(driver, lambda _: np.arange(1, 9) * 0.003, 0.3)
        assert wait_until(lambda: driver.poll().queue_depth == 0 and driver.poll().state == "idle")
        assert driver.poll().faults == ()
        np.testing.assert_allclose(driver.poll().positions_m, total * 1e-6, atol=0.05e-3)
        np.testing.assert_allclose(bench.firmware.position_m, total[order] * 1e-6, atol=0.05e-3)


def test_settings_are_compared_by_letter():
    with Bench(Firmware(SETTINGS | {103: 250}, letters="XYZUVABC")) as bench:
        with pytest.raises(PortError, match=r"\$103 U \(SE-upper\) resolution 250"):
            GrblDriver(bench.path, MACHINE).connect()
        set_up(bench.path, MACHINE, write=True)
        assert bench.firmware.settings[103] == 100


def test_an_axis_that_is_missing():
    with (
        Bench(Firmware(SETTINGS, letters="XYZABCUW")) as bench,
        pytest.raises(PortError, match=r"axes XYZABCUW, but not V \(SE-lower\)"),
    ):
        GrblDriver(bench.path, MACHINE).connect()


@pytest.mark.parametrize("mask", [511, 510])
def test_work_positions_with_an_offset(mask):
    """What the counters tell does not depend on the work offset, however it is reported."""
    firmware = Firmware(SETTINGS | {10: mask}, offset_mm=12.5)
    with Bench(firmware) as bench, GrblDriver(bench.path, MACHINE) as driver:
        assert driver.poll().positions_m == pytest.approx(np.zeros(8), abs=1e-6)
        total = drive(driver, waves, 1.0)
        assert wait_until(lambda: driver.poll().queue_depth == 0 and driver.poll().state == "idle")
        assert driver.poll().faults == ()
        np.testing.assert_allclose(driver.poll().positions_m, total * 1e-6, atol=0.05e-3)


def test_reports_are_asked_for_in_the_boards_own_way():
    for banner, request in (("GrblHAL 1.1f ['$' or '$HELP' for help]", b"\x80"), ("Grbl 1.1h ['$' for help]", b"?")):
        seen = []
        with Bench(Firmware(SETTINGS, banner=banner)) as bench:
            if request == b"?":
                bench.to_host = lambda data: data.replace(b"grblHAL", b"other").replace(b"GrblHAL", b"Grbl")
            with GrblDriver(bench.path, MACHINE, on_bytes=lambda *piece, seen=seen: seen.append(piece)):
                time.sleep(0.3)
        late = b"".join(data for way, _, data in seen[-8:] if way == "tx")
        assert request in late


def test_reports_unasked_are_put_right_by_setup():
    with Bench(Firmware(SETTINGS | {481: 200})) as bench:
        with pytest.raises(PortError, match=r"\$481 reports unasked 200, must be 0 ms"):
            GrblDriver(bench.path, MACHINE).connect()
        set_up(bench.path, MACHINE, write=True)
        assert bench.firmware.settings[481] == 0


def test_a_board_that_the_opening_resets():
    with Bench() as bench:
        bench.frozen = True
        timer = threading.Timer(
            0.8, lambda: (setattr(bench, "frozen", False), bench.do(lambda board: board.power_up()))
        )
        timer.start()
        with GrblDriver(bench.path, MACHINE) as driver:
            assert driver.board.banner is not None
        timer.join()


def test_a_board_that_still_moves_is_brought_to_rest_first():
    with Bench() as bench:
        bench.do(lambda board: board.feed(b"$J=G91G21X500F3600\n"))
        with GrblDriver(bench.path, MACHINE) as driver:
            assert driver.poll().state == "idle"
            assert bench.firmware.alarm == 0
            assert 0 < driver.poll().positions_m[0] < 0.2


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({100: 250}, "$100 X (NE-upper) resolution 250, must be 100 steps/mm"),
        ({117: 500}, "$117 V (SE-lower) fastest 500"),
        ({110: 1_000_000}, "$110 X (NE-upper) fastest 1e+06"),
        ({123: 10}, "$123 A (NW-lower) acceleration 10"),
        ({13: 1}, "$13 report in inches 1, must be 0"),
        ({376: 1}, "$376 rotary axes 1, must be 0"),
    ],
)
def test_settings_that_do_not_suit_are_refused(changed, named):
    with Bench(Firmware(SETTINGS | changed)) as bench:
        with pytest.raises(PortError) as refused:
            GrblDriver(bench.path, MACHINE).connect()
        message = str(refused.value)
        assert named in message
        assert "melter hw setup" in message
        assert "\n" not in message
        assert b"$J" not in bench.seen
        assert drivers_threads() == []


def test_setup_puts_a_fresh_board_right():
    with Bench(Firmware()) as bench:
        _, listed = set_up(bench.path, MACHINE, write=False)
        assert len(listed) == 26
        assert bench.firmware.settings[100] == 250
        set_up(bench.path, MACHINE, write=True)
        assert set_up(bench.path, MACHINE, write=False)[1] == []
        with GrblDriver(bench.path, MACHINE):
            pass


def test_too_few_axes():
    three = Firmware({100 + axis: 100 for axis in range(3)}, axes=3, banner="Grbl 1.1h ['$' for help]")
    with Bench(three) as bench, pytest.raises(PortError, match="3 axes, the machine has 8 winches"):
        GrblDriver(bench.path, MACHINE).connect()


def test_a_board_in_alarm_is_refused_until_set_up():
    with Bench() as bench:
        bench.do(lambda board: board.raise_alarm(1))
        with pytest.raises(PortError, match="must be idle"):
            GrblDriver(bench.path, MACHINE).connect()
        set_up(bench.path, MACHINE, write=True)
        with GrblDriver(bench.path, MACHINE) as driver:
            assert driver.poll().state == "idle"


def test_no_such_port():
    with pytest.raises(PortError, match="no such device"):
        GrblDriver("/dev/nonesuch", MACHINE).connect()


def test_not_a_serial_port(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in ("/dev/null", str(tmp_path / "file"), str(tmp_path)):
        with pytest.raises(PortError, match="not a serial port"):
            GrblDriver(path, MACHINE).connect()


def test_a_port_that_is_busy(bench, driver):
    with pytest.raises(PortError, match="busy"):
        GrblDriver(bench.path, MACHINE).connect()
    assert driver.poll().faults == ()


def test_no_permission_names_the_group(monkeypatch):
    import errno

    import serial

    def refuse(*_args, **_options):
        raise serial.SerialException(errno.EACCES, "could not open port: Permission denied")

    monkeypatch.setattr(serial, "Serial", refuse)
    with pytest.raises(PortError, match="no permission; join the group"):
        GrblDriver("/dev/null", MACHINE).connect()


def test_nothing_behind_the_port(monkeypatch):
    monkeypatch.setattr("melter.hw.handshake.WAKE_S", 0.6)
    with Bench(start=False) as bench, pytest.raises(PortError, match="nothing answers"):
        GrblDriver(bench.path, MACHINE).connect()


def test_another_device_behind_the_port(monkeypatch):
    monkeypatch.setattr("melter.hw.handshake.WAKE_S", 0.8)
    with Bench() as bench:
        bench.to_host = lambda data: b"$GPGGA,1234,N\r\n" if data else b""
        with pytest.raises(PortError, match="another device"):
            GrblDriver(bench.path, MACHINE).connect()


def test_adapters_are_told_not_to_hold_bytes_back(monkeypatch):
    import serial

    asked = []
    monkeypatch.setattr(serial.Serial, "set_low_latency_mode", lambda self, on: asked.append(on))
    with Bench() as bench, GrblDriver(bench.path, MACHINE):
        assert asked == [True]


# faults


@pytest.mark.parametrize(
    ("trouble", "name"),
    [
        (lambda board: board.feed(b"\x18"), {"alarm", "reset"}),
        (lambda board: board.raise_alarm(1), {"alarm"}),
        (lambda board: board.power_up(), {"reset"}),
        (lambda board: board.feed(b"\x84"), {"state"}),
        (lambda board: board._jog("G91G21X50F7200"), {"jump"}),
    ],
)
def test_trouble_on_the_board_is_named(bench, driver, trouble, name):
    with contextlib.suppress(LinkFault):
        for tick in range(40):
            driver.send(command(np.full(8, 0.02)))
            time.sleep(0.02)
            if tick == 10:
                bench.do(trouble)
    assert fault_of(driver) in name
    assert wait_until(lambda: bench.firmware.state != "Jog", 1.0)
    driver.recover()
    before = driver.poll()
    total = drive(driver, steady(-0.02), 0.2)
    assert wait_until(lambda: driver.poll().queue_depth == 0 and driver.poll().state == "idle")
    assert before.faults == driver.poll().faults
    np.testing.assert_allclose(driver.poll().positions_m - before.positions_m, total * 1e-6, atol=0.05e-3)


def test_a_board_that_falls_silent(bench, driver):
    bench.frozen = True
    assert fault_of(driver) == "silence"


def test_a_hang_up_is_a_fault_and_leaves_nothing_behind():
    before, threads = descriptors(), threading.active_count()
    for _ in range(5):
        bench = Bench()
        driver = GrblDriver(bench.path, MACHINE)
        driver.connect()
        bench.hang_up()
        assert fault_of(driver) == "hangup"
        driver.close()
        driver.close()
    assert descriptors() == before
    assert threading.active_count() == threads


def test_close_stops_the_winches(bench):
    driver = GrblDriver(bench.path, MACHINE)
    driver.connect()
    drive(driver, steady(0.05), 0.4)
    driver.close()
    assert wait_until(lambda: bench.firmware.state == "Idle", 1.0)
    assert drivers_threads() == []


def test_recovery_after_a_reset_moves_again_but_stays_faulted(bench, driver):
    drive(driver, steady(0.03), 0.4)
    bench.do(lambda board: board.feed(b"\x18"))
    assert fault_of(driver) in ("alarm", "reset")
    before = driver.poll().positions_m
    driver.recover()
    status = driver.poll()
    assert status.faults
    assert not status.position_trusted
    assert np.abs(status.positions_m - before).max() < 0.05
    total = drive(driver, steady(-0.02), 0.4)
    assert wait_until(lambda: driver.poll().queue_depth == 0 and driver.poll().state == "idle")
    np.testing.assert_allclose(driver.poll().positions_m - status.positions_m, total * 1e-6, atol=0.05e-3)


def test_positions_go_on_after_a_board_lost_its_counters(bench, driver):
    drive(driver, steady(0.12), 1.0)
    bench.do(lambda board: board.power_up())
    assert fault_of(driver) == "reset"
    before = driver.poll().positions_m
    assert before.min() > 0.05
    driver.recover()
    status = driver.poll()
    assert not status.position_trusted
    np.testing.assert_allclose(status.positions_m, before, atol=1e-6)


def replug(times: int, monkeypatch) -> None:
    """Unplug and plug in again, each time under another name; the adapter's serial number is what stays."""
    plugged: dict[str, str] = {}
    monkeypatch.setattr("melter.hw.grbl_driver.serial_number", lambda device: "FT01")
    monkeypatch.setattr("melter.hw.grbl_driver.device_of", plugged.get)
    now = Bench()
    driver = GrblDriver(now.path, MACHINE)
    driver.connect()
    before, threads, names = descriptors(), threading.active_count(), {now.path}
    for turn in range(times):
        if turn % 3 == 0:
            driver.send(command(np.full(8, 0.02)))
        following = Bench()  # before the old one goes, so that its name is another
        now.hang_up()
        assert wait_until(lambda: driver.poll().state == "unknown")
        with pytest.raises(LinkFault, match="hangup"):
            driver.send(command(np.full(8, 0.02)))
        plugged["FT01"], now = following.path, following
        names.add(now.path)
        time.sleep(0.02)
        assert not now.firmware.steps.any()
        driver.recover()
        assert any(fault.startswith("hangup") for fault in driver.poll().faults)  # only a person arms it again
        time.sleep(0.02)
        assert now.firmware.state == "Idle"
        assert not now.firmware.steps.any()
        assert b"$J" not in now.seen
    assert len(names) > 1
    assert descriptors() == before
    assert threading.active_count() == threads
    driver.close()
    now.hang_up()
    assert drivers_threads() == []


def test_replugging_under_other_names(monkeypatch):
    replug(8, monkeypatch)


@pytest.mark.long
def test_replugging_a_hundred_times(monkeypatch):
    """About a minute."""
    replug(100, monkeypatch)


def test_the_gate_stays_faulted_when_the_plug_comes_back(monkeypatch, tmp_path):
    from melter.errors import CommandRefused
    from melter.safety.gate import Gate

    link = tmp_path / "board"
    first, gate = Bench(link=link), Gate(MACHINE)
    with GrblDriver(str(link), MACHINE) as driver:
        gate.fault("hangup")
        first.hang_up()
        assert wait_until(lambda: driver.poll().state == "unknown")
        with Bench(link=link):
            driver.recover()
            with pytest.raises(CommandRefused, match="faulted"):
                gate.approve(np.zeros(8), gate.park_lengths_m, time.monotonic(), measured_host_s=time.monotonic())


def test_a_dead_link_is_given_up_within_three_seconds(tmp_path):
    """As the loop does it: five tries, each with a recovery. A name of its own: the system gives a pty's number away again."""
    link = tmp_path / "port"
    bench = Bench(link=link)
    with GrblDriver(str(link), MACHINE) as driver:
        bench.hang_up()
        link.unlink(missing_ok=True)
        began_s = time.monotonic()
        assert wait_until(lambda: bool(driver.poll().faults))
        for _ in range(5):
            with pytest.raises(LinkFault):
                driver.send(command(np.zeros(8)))
            with pytest.raises(LinkFault, match="not back"):
                driver.recover()
        assert 2.0 < time.monotonic() - began_s < 3.5


@pytest.mark.parametrize("which", [1, 2, 3, 4, 5])
def test_a_damaged_report_after_a_fault_sends_no_winch_away(bench, driver, which):
    """One of the first reports of the new connection tells a position five metres off."""
    drive(driver, steady(0.03), 0.4)
    bench.do(lambda board: board.feed(b"\x18"))
    assert fault_of(driver) in ("alarm", "reset")
    damaged = []

    def damage(data: bytes) -> bytes:
        if b"MPos:" in data:
            damaged.append(data)
        return data.replace(b"MPos:", b"MPos:50") if len(damaged) == which else data

    bench.to_host = damage
    driver.recover()
    stood = bench.firmware.position_m
    assert len(damaged) >= 2
    np.testing.assert_allclose(driver.poll().positions_m, stood, atol=1e-4)
    total = drive(driver, steady(0.01), 0.4)
    assert wait_until(lambda: driver.poll().queue_depth == 0 and driver.poll().state == "idle")
    np.testing.assert_allclose(bench.firmware.position_m - stood, total * 1e-6, atol=0.1e-3)


def test_a_port_that_stays_away(monkeypatch):
    monkeypatch.setattr("melter.hw.grbl_driver.RECOVER_S", 0.3)
    bench = Bench()
    with GrblDriver(bench.path, MACHINE) as driver:
        bench.hang_up()
        assert fault_of(driver) == "hangup"
        with pytest.raises(LinkFault, match="not back"):
            driver.recover()
        assert driver.poll().faults


# by hand


def test_looking_neither_stops_nor_resets():
    with Bench() as bench:
        bench.do(lambda board: board.feed(b"$J=G91G21X500F3600\n"))
        assert look(bench.path).state == "jog"
        assert bench.firmware.state == "Jog"
        assert b"\x18" not in bench.seen
        stop_at_once(bench.path)
        assert bench.firmware.state == "Idle"
        assert look(bench.path).settings[100] == "100.000"
        assert b"\x18" not in bench.seen


def test_listing_one_port(bench):
    (found,) = list_boards(bench.path)
    assert found.board
    assert "8 axes" in found.answers
