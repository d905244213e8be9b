import time
from pathlib import Path

import pytest
import serial

from melter.errors import PortError
from melter.hw.pty_port import Pacer, PtyPort


def arrives(read, size: int, timeout_s: float = 2.0) -> bytes:
    data, end_s = b"", time.monotonic() + timeout_s
    while len(data) < size and time.monotonic() < end_s:
        data += read()
    return data


def test_every_byte_passes_both_ways_unchanged():
    everything = bytes(range(256)) * 4
    with PtyPort() as device, serial.Serial(device.path, 115200, timeout=0.01) as host:
        host.write(everything)
        assert arrives(device.read, len(everything)) == everything
        device.write(everything)
        assert arrives(lambda: host.read(4096), len(everything)) == everything
        assert device.read() == b""


def test_hosts_come_and_go():
    with PtyPort() as device:
        for word in (b"one\n", b"two\n"):
            with serial.Serial(device.path, 115200, timeout=0.01) as host:
                host.write(word)
                assert arrives(device.read, 4) == word


def test_closing_is_a_hang_up_for_the_host():
    device = PtyPort()
    with serial.Serial(device.path, 115200, timeout=0.01) as host:
        device.close()
        device.close()
        with pytest.raises(serial.SerialException):
            host.read(1)


def test_a_link_is_a_stable_name_and_goes_with_the_port(tmp_path):
    link = tmp_path / "port"
    with PtyPort(link) as device:
        assert device.path == str(link)
        assert link.exists()
        with PtyPort(link) as second:  # taken over, as after a crash
            assert Path(second.path).resolve() == link.readlink()
        assert not link.is_symlink()
    assert not link.is_symlink()


def test_a_link_overwrites_no_file(tmp_path):
    taken = tmp_path / "file"
    taken.write_text("mine")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(PortError, match="choose another name"):
        PtyPort(taken)
    with pytest.raises(PortError, match="cannot be made"):
        PtyPort(tmp_path / "nowhere" / "port")
    assert taken.read_text() == "mine"
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_pacing_is_that_of_a_serial_line():
    pacer = Pacer(115200)
    pacer.put(bytes(1152), 10.0)
    assert pacer.take(10.0) == b""
    assert len(pacer.take(10.05)) == 576
    pacer.put(bytes(1152), 10.06)
    assert 575 <= len(pacer.take(10.1)) <= 576
    assert 1152 <= len(pacer.take(11.0)) <= 1153
    assert pacer.take(12.0) == b""


def test_without_pacing_all_passes_at_once():
    pacer = Pacer(None)
    pacer.put(b"abc", 0.0)
    assert pacer.take(0.0) == b"abc"
