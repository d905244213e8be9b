"""The rehearsal machine: hidden parameters, faults by name, what it opens and what it leaves behind."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from melter.env.params import NAMES, nominal_values
from melter.errors import BadInput, OutputExists, PortError
from melter.machine import Machine, load_machine
from melter.safety.kinematics import Kinematics
from melter.twin.faults import FAULTS, parse_fault
from melter.twin.machine import TwinMachine, hidden_values
from melter.twin.process import Twin, TwinOptions, load_params

MACHINE = load_machine()


def nominal_twin(**changed: Any) -> TwinMachine:
    """Without wind and without friction, which the drawing knows nothing of."""
    still = {"wind_m_s": 0.0, "pulley_loss": 0.0, "pulley_friction_n": 0.0}
    fixed = {name: value.tolist() for name, value in nominal_values(MACHINE).items()} | still | changed
    return TwinMachine(MACHINE, hidden_values(MACHINE, 0, fixed), np.random.default_rng(0))


def test_hidden_parameters_come_from_the_seed() -> None:
    one, again, other = (hidden_values(MACHINE, seed) for seed in (3, 3, 4))
    assert set(one) == set(NAMES)
    for name in NAMES:
        np.testing.assert_array_equal(one[name], again[name])
    assert one["cable_stiffness_n"] != other["cable_stiffness_n"]
    assert one["drum_spread"].shape == (1, 8)


def test_the_sun_is_where_the_machine_file_says_but_for_a_small_error() -> None:
    values = hidden_values(MACHINE, 3)
    assert values["sun_zenith_deg"] == MACHINE.sun.zenith_deg
    assert values["sun_azimuth_deg"] == MACHINE.sun.azimuth_deg
    assert 0 < np.abs(values["sun_error_deg"]).max() <= 0.1


def test_parameters_are_fixed_by_name() -> None:
    fixed = hidden_values(MACHINE, 3, {"moving_mass_kg": 7.5, "drum_spread": [0.001] * 8})
    free = hidden_values(MACHINE, 3)
    assert fixed["moving_mass_kg"] == 7.5
    assert (fixed["drum_spread"] == 0.001).all()
    np.testing.assert_array_equal(fixed["cable_stiffness_n"], free["cable_stiffness_n"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("moving_mas_kg", 6),
        ("moving_mass_kg", [6, 6]),
        ("moving_mass_kg", "heavy"),
        ("moving_mass_kg", None),
        ("moving_mass_kg", {}),
        ("moving_mass_kg", float("nan")),
        ("drum_spread", 0.0),
        ("drum_spread", [0.0] * 7 + ["a"]),
    ],
)
def test_parameters_that_are_none(name: str, value: Any) -> None:
    with pytest.raises(BadInput, match=f"hidden parameter {name}") as caught:
        hidden_values(MACHINE, 0, {name: value})
    assert "\n" not in str(caught.value)


def test_parameter_files(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text('{"moving_mass_kg": 6.5}')
    assert load_params(str(file)) == {"moving_mass_kg": 6.5}
    assert load_params(None) == {}
    for content in (b"", b"[1]", b"{", b"\xff"):
        file.write_bytes(content)
        with pytest.raises(BadInput, match="--params"):
            load_params(str(file))
    with pytest.raises(BadInput, match="--params"):
        load_params(str(tmp_path / "none"))


@pytest.mark.parametrize("text", ["alarm@3", "serial-cut@0", "camera-gone@1e2", "cloud@0.5"])
def test_faults_by_name_and_time(text: str) -> None:
    fault = parse_fault(text)
    assert fault.name in FAULTS
    assert fault.at_s == float(text.partition("@")[2])


@pytest.mark.parametrize(
    "text", ["alarm", "alarm@", "alarm@-1", "alarm@nan", "alarm@inf", "alarm@x", "fire@3", "@3", ""]
)
def test_faults_that_are_none(text: str) -> None:
    with pytest.raises(BadInput, match="--fault"):
        parse_fault(text)


def test_parked_the_light_is_spread() -> None:
    """The machine page: at park the light on the sand is under 10 kW/m², of up to some 900 W."""
    snapshot = nominal_twin().snapshot()
    assert snapshot.peak_w_m2 < 10e3
    assert 500 < snapshot.power_w < 1000
    np.testing.assert_allclose(snapshot.centre_world_m, MACHINE.park.lens_centre_world_m, atol=1e-3)
    assert snapshot.tensions_n.min() > MACHINE.limits.tension_min_n


def test_winches_move_the_lens_as_the_drawing_says() -> None:
    """Counters to the lengths of a pose 5 cm up and 3 cm north; nominal parameters."""
    twin, kinematics = nominal_twin(), Kinematics(MACHINE)
    there = np.array([0, 0.03, 0.75])
    lengths = kinematics.lengths_m(type(kinematics.park)(there, np.eye(3)))
    target = lengths - kinematics.park_lengths_m
    for share in np.minimum(np.arange(1, 300) * twin.step_s / 2, 1):
        twin.advance(share * target)
    snapshot = twin.snapshot()
    np.testing.assert_allclose(snapshot.centre_world_m, there, atol=3e-3)
    assert np.abs(snapshot.cable_speed_m_s).max() < 1e-4


def test_drum_gain_scales_what_is_wound() -> None:
    """Lens parked level, all cables 1 % more wound than counted: the lens moves a little further."""
    moved = []
    for gain in (1.0, 1.05):
        twin, kinematics = nominal_twin(drum_gain=gain), Kinematics(MACHINE)
        pose = type(kinematics.park)(np.array([0, 0, 0.80]), np.eye(3))
        target = kinematics.lengths_m(pose) - kinematics.park_lengths_m
        before = twin.snapshot().centre_world_m[2]
        for share in np.minimum(np.arange(1, 300) * twin.step_s / 2, 1):
            twin.advance(share * target)
        moved.append(twin.snapshot().centre_world_m[2] - before)
    assert moved[1] / moved[0] == pytest.approx(1.05, abs=0.015)


def test_a_dead_winch_and_a_snapped_cable() -> None:
    twin = nominal_twin()
    twin.dead[2] = True
    for step in range(1, 50):
        twin.advance(np.full(8, 1e-4 * step))
    assert twin.snapshot().cable_speed_m_s[2] == 0
    assert twin.snapshot().cable_speed_m_s[3] > 0
    twin.snap(5)
    for _ in range(50):
        twin.advance(np.full(8, 49e-4))
    assert twin.snapshot().tensions_n[5] == 0
    assert np.isfinite(twin.snapshot().centre_world_m).all()


def test_it_runs_keeps_a_truth_file_and_cleans_up(tmp_path: Path) -> None:
    link, truth = tmp_path / "port", tmp_path / "truth.jsonl"
    options = TwinOptions(machine=MACHINE, port_link=str(link), truth=str(truth), speed=5, seed=1)
    with Twin(options) as twin:
        assert link.exists()
        assert twin.port.path == str(link)
        with urllib.request.urlopen(urllib.request.Request(twin.camera_url, method="HEAD"), timeout=5) as answer:
            assert "melter-twin" in answer.headers["Server"]
        body = json.dumps({"target_world_m": [0.1, 0.2], "host_s": 1.5}).encode()
        told = twin.camera_url.replace("camera.mjpg", "target")
        urllib.request.urlopen(urllib.request.Request(told, data=body), timeout=5).close()
        for wrong in (
            b"{}",
            b"x",
            b'{"target_world_m": [1], "host_s": 0}',
            b'{"target_world_m": [1, NaN], "host_s": 0}',
        ):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(urllib.request.Request(told, data=wrong), timeout=5)
            assert caught.value.code == 400
            caught.value.close()
        twin.run(2.0)
        with urllib.request.urlopen(twin.camera_url.replace("camera.mjpg", "frame.jpg"), timeout=10) as answer:
            assert answer.read(3) == b"\xff\xd8\xff"
    assert not link.is_symlink()
    lines = [json.loads(line) for line in truth.read_text().splitlines()]
    times = [line["t_s"] for line in lines]
    assert len(lines) == pytest.approx(40, abs=1)  # a line per control period
    np.testing.assert_allclose(np.diff(times), 0.05, atol=0.02)
    for line in lines:
        assert set(line) >= {
            "t_s", "spot_world_m", "target_world_m", "tensions_n", "lens_pose_world", "peak_w_m2", "cable_speed_m_s"
        }  # fmt: skip
        assert line["target_world_m"] == [0.1, 0.2]
        assert len(line["lens_pose_world"]) == 7
        assert min(line["tensions_n"]) > 0


def test_faults_strike_at_their_time() -> None:
    faults = tuple(parse_fault(text) for text in ("cloud@0.5", "camera-frozen@0.2", "winch-dead@0.3", "serial-cut@0.6"))
    with Twin(TwinOptions(machine=MACHINE, faults=faults, speed=5)) as twin:
        twin.run(0.15)
        assert (twin.machine.sun_share, twin.film.mode, twin.machine.dead.any()) == (1.0, "on", False)
        twin.run(1.0)
        assert (twin.machine.sun_share, twin.film.mode, twin.machine.dead.sum()) == (0.02, "frozen", 1)
        assert not twin._port_open


@pytest.mark.parametrize(
    "wrong",
    [{"speed": 0.0}, {"speed": float("nan")}, {"speed": 1e3}, {"http_port": -1}, {"http_port": 70000}, {"seed": -1}],
)
def test_refused_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="--"):
        TwinOptions(machine=MACHINE, **wrong)


def test_what_cannot_be_opened_leaves_nothing_behind(tmp_path: Path) -> None:
    truth = tmp_path / "truth.jsonl"
    taken = socket.create_server(("127.0.0.1", 0))
    with pytest.raises(BadInput, match="--http"):
        Twin(TwinOptions(machine=MACHINE, http_port=taken.getsockname()[1], truth=str(truth)))
    taken.close()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PortError):
        Twin(TwinOptions(machine=MACHINE, port_link=str(tmp_path / "file"), truth=str(truth)))
    assert not truth.exists()
    truth.write_text("mine\n")
    with pytest.raises(OutputExists, match="--truth"):
        Twin(TwinOptions(machine=MACHINE, truth=str(truth), port_link=str(tmp_path / "link")))
    assert truth.read_text() == "mine\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "truth.jsonl"]
    with pytest.raises(BadInput, match="--truth"):
        Twin(TwinOptions(machine=MACHINE, truth=str(tmp_path / "no" / "truth.jsonl")))


def test_a_machine_that_does_not_hold_its_lens_still_runs(vitrifier: Machine) -> None:
    with Twin(TwinOptions(machine=vitrifier, speed=5)) as twin:
        twin.run(0.3)
        assert np.isfinite(twin.machine.snapshot().tensions_n).all()
