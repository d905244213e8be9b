import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "hw"))
from hw_bench import SETTINGS, Bench

from melter.cli.main import main
from melter.hw.firmware import Firmware


@pytest.fixture
def bench():
    with Bench() as running:
        yield running


def call(capsys, *argv) -> tuple[int, str, str]:
    code = main(["hw", *argv])
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys, *argv) -> str:
    code, out, err = call(capsys, *argv)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_help(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert all(name in out for name in ("list", "setup", "status", "jog", "stop", "monitor", "replay"))


def test_status(capsys, bench):
    code, out, _ = call(capsys, "status", "--port", bench.path, "--json")
    result = json.loads(out)
    assert code == 0
    assert result["state"] == "idle"
    assert result["positions_mm"] == [0.0] * 8
    assert result["settings"]["100"] == "100.000"
    assert result["promises"]["reports_position"] is True
    assert call(capsys, "status", "--port", bench.path)[0] == 0


@pytest.mark.parametrize("mm", [5.0, -2.345, 0.5])
def test_a_jog_moves_what_was_asked(capsys, bench, mm):
    code, out, _ = call(capsys, "jog", "--port", bench.path, "--winch", "NE-lower", "--mm", str(mm), "--json")
    result = json.loads(out)
    assert code == 0
    assert result["asked_mm"] == mm
    assert result["moved_mm"] == pytest.approx(mm, abs=0.011)
    assert bench.firmware.position_m[1] * 1e3 == pytest.approx(mm, abs=0.011)
    assert bench.firmware.position_m[[0, 2, 3, 4, 5, 6, 7]].any() == False  # noqa: E712


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--winch", "North", "--mm", "1"), "--winch North"),
        (("--winch", "NE-upper", "--mm", "201"), "--mm 201"),
        (("--winch", "NE-upper", "--mm", "nan"), "--mm nan"),
        (("--winch", "NE-upper", "--mm", "1", "--speed-mm-s", "51"), "--speed-mm-s 51"),
        (("--winch", "NE-upper", "--mm", "1", "--speed-mm-s", "0"), "--speed-mm-s 0"),
        (("--winch", "NE-upper", "--mm", "1", "--speed-mm-s", "nan"), "--speed-mm-s nan"),
    ],
)
def test_a_jog_is_bounded(capsys, bench, options, named):
    assert named in refused(capsys, "jog", "--port", bench.path, *options)
    assert b"$J" not in bench.seen


def test_setup_shows_and_writes(capsys):
    with Bench(Firmware()) as bench:
        code, out, err = call(capsys, "setup", "--port", bench.path, "--json", "--dry-run")
        assert code == 1
        assert len(json.loads(out)["differences"]) == 26
        assert "$100 X (NE-upper) resolution 250" in err
        assert bench.firmware.settings[100] == 250
        assert "melter hw setup" in refused(capsys, "jog", "--port", bench.path, "--winch", "NE-upper", "--mm", "1")
        code, out, _ = call(capsys, "setup", "--port", bench.path, "--json")
        assert (code, json.loads(out)["written"]) == (0, True)
        assert bench.firmware.settings[110] == 7200
        assert call(capsys, "setup", "--port", bench.path, "--dry-run")[0] == 0


def test_stop(capsys, bench):
    bench.do(lambda board: board.feed(b"$J=G91G21X500F3600\n"))
    code, out, _ = call(capsys, "stop", "--port", bench.path, "--json")
    assert code == 0
    assert json.loads(out)["state"] == "idle"
    assert bench.firmware.state == "Idle"


def test_monitor_and_replay(capsys, bench, tmp_path):
    record = tmp_path / "link.jsonl"
    code, out, err = call(
        capsys, "monitor", "--port", bench.path, "--seconds", "0.5", "--json", "--record", str(record)
    )
    assert code == 0
    assert json.loads(out)["state"] == "idle"
    assert "SE-lower" in err
    code, out, _ = call(capsys, "replay", str(record), "--json")
    assert code == 0
    assert json.loads(out)["events"]["banner"] == 1


def test_list(capsys, bench):
    code, out, _ = call(capsys, "list", "--port", bench.path, "--json")
    assert code == 0
    assert json.loads(out)["ports"][0]["board"] is True
    assert call(capsys, "list", "--no-ask")[0] == 0


@pytest.mark.parametrize("command", ["status", "stop", "setup", "monitor"])
def test_no_such_port(capsys, command):
    assert "/dev/nonesuch" in refused(capsys, command, "--port", "/dev/nonesuch")


def test_unknown_commands_and_options(capsys):
    assert "known: list" in refused(capsys, "dance")
    refused(capsys, "status")
    refused(capsys, "replay", "/nonexistent/file")


def test_a_fault_in_mid_jog_is_exit_3(capsys):
    with Bench(Firmware(SETTINGS)) as bench:

        def damage(data: bytes) -> bytes:
            return data.replace(b"$J=", b"$Q=")

        bench.to_board = damage
        code, out, err = call(capsys, "jog", "--port", bench.path, "--winch", "NE-upper", "--mm", "50")
    assert code == 3
    assert out == ""
    assert err.startswith("melter: fault: ")
    assert err.count("\n") == 1


def test_monitor_tells_tension_power_and_latency(capsys, bench):
    code, out, err = call(capsys, "monitor", "--port", bench.path, "--seconds", "0.7", "--json")
    result = json.loads(out)
    assert code == 0
    assert all(15 <= tension <= 300 for tension in result["tensions_n"])
    assert result["most_power_w"] == pytest.approx(0, abs=0.01)
    assert 0 <= result["report_age_ms"] < 200
    assert "checks no packets; stands 0." in err
    assert "tension" in err
    assert "mm/s" in err


def test_unknown_drivers_are_refused(capsys):
    said = refused(capsys, "monitor", "--port", "/dev/null", "--driver", "grblhall")
    assert "did you mean grblhal" in said
    for command in ("status", "stop", "setup", "jog"):
        words = ["--winch", "NE-upper", "--mm", "1"] if command == "jog" else []
        assert "no such driver" in refused(capsys, command, "--port", "/dev/null", "--driver", "zzz", *words)


def test_motors_on_a_bus_by_hand(capsys):
    from melter.hw.dynamixel_bus import DynamixelBus

    with Bench(DynamixelBus(mode=3), baud=None) as bench:
        where = ("--port", bench.path, "--driver", "dynamixel")
        assert "operating mode 3" in refused(capsys, "status", *where)
        code, out, _ = call(capsys, "setup", *where, "--json")
        assert (code, json.loads(out)["written"]) == (0, True)
        code, out, _ = call(capsys, "jog", *where, "--winch", "NE-lower", "--mm", "3", "--json")
        assert code == 0
        assert json.loads(out)["moved_mm"] == pytest.approx(3, abs=0.3)
        code, out, _ = call(capsys, "monitor", *where, "--seconds", "0.5", "--json")
        assert json.loads(out)["currents_a"] == pytest.approx([0.2] * 8, abs=0.01)
        assert json.loads(call(capsys, "status", *where, "--json")[1])["promises"]["checks_packets"] is True
        assert json.loads(call(capsys, "stop", *where, "--json")[1])["state"] == "idle"


def test_a_board_with_fewer_axes_tells_so(capsys):
    three = Firmware({100 + axis: 100 for axis in range(3)}, axes=3, banner="Grbl 1.1h ['$' for help]")
    with Bench(three) as bench:
        code, out, _ = call(capsys, "status", "--port", bench.path, "--json")
        assert (code, json.loads(out)["axes"]) == (0, 3)
        for words in (["setup"], ["monitor"], ["jog", "--winch", "NE-upper", "--mm", "1"]):
            assert "axes" in refused(capsys, *words, "--port", bench.path)
        assert b"$J" not in bench.seen
        assert b"$1" not in bench.seen


def test_a_busy_port(capsys, bench):
    import serial

    with serial.Serial(bench.path, 115200, exclusive=True):
        for words in (["status"], ["stop"], ["setup"], ["monitor"], ["jog", "--winch", "NE-upper", "--mm", "1"]):
            assert "busy" in refused(capsys, *words, "--port", bench.path)
