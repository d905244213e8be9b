"""``melter calibrate machine``: what it refuses, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from melter.calibration.fit import Posterior
from melter.calibration.noise import Noise
from melter.calibration.parameters import Parameters
from melter.cli import calibrate_machine
from melter.cli.main import main
from melter.machine import load_machine
from melter.safety.kinematics import Kinematics

MACHINE = load_machine()


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run with winches to and fro and a patch in sight."""
    park = Kinematics(MACHINE).park_lengths_m
    ticks = [{"kind": "start", "machine_sha256": MACHINE.sha256}]
    for k in range(600):
        way = 0.1 * np.sin(0.02 * k + np.arange(8))
        ticks.append(
            {
                "kind": "tick",
                "mode": "policy",
                "approved_host_s": 0.05 * k,
                "approved_m_s": [0.01] * 8,
                "lengths_host_s": 0.05 * k,
                "lengths_m": (park + way).tolist(),
                "patch_status": "ok",
                "patch_captured_host_s": 0.05 * k,
                "patch_centre_m": [0.0, 0.0],
            }
        )
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recording.jsonl").write_text("\n".join(json.dumps(tick) for tick in ticks), encoding="utf-8")
    return folder


def found(_config: object, _machine: object, parameters: Parameters, _tracks: object) -> Posterior:
    """A fit that takes no time."""
    size = parameters.size
    return Posterior(
        parameters, np.zeros(size), 0.01 * np.eye(size), np.zeros(8), np.zeros((size, 8)), np.zeros((2, 8)),
        (Noise(1e-4, 1e-4, 2e-4),) * 3, 3e-4, 3e-3, 590, 10,
    )  # fmt: skip


def test_writes_a_machine_file_a_report_and_ranges_for_training(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibrate_machine, "_fit", found)
    out = tmp_path / "mine.toml"
    assert main(["calibrate", "machine", str(run_folder), "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"file", "residual", "confidence"} <= set(told)
    assert told["file"] == str(out)
    assert told["confidence"]["cable stiffness"]["low"] < told["confidence"]["cable stiffness"]["value"]
    assert len(told["confidence"]["cable zero"]["value"]) == 8
    assert load_machine(out).winch[0].name == MACHINE.winch[0].name
    assert json.loads((tmp_path / "mine.json").read_text())["residual"] == told["residual"]
    assert "cable_stiffness_n" in (tmp_path / "mine-randomisation.toml").read_text()
    before = out.read_bytes()
    assert main(["calibrate", "machine", str(run_folder), "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert out.read_bytes() == before


def test_people_are_told_what_the_run_did_not_tell(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibrate_machine, "_fit", found)
    assert main(["calibrate", "machine", str(run_folder), "--out", str(tmp_path / "a.toml")]) == 0
    text = capsys.readouterr().out
    assert "drum radius NE-upper: 0.02 ±" in text
    assert "0.30 mm RMS, before 3.00 mm" in text


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "no recording given"),
        (["nowhere"], "source nowhere: neither a run folder"),
        (["RUN", "--measured", "mass=6"], "--measured mass=6: must be"),
        (["RUN", "--measured", "mass-kg=6"], "--measured mass-kg=6: must be"),
        (["RUN", "--measured", "mass-kg=6+-0"], "measured moving_mass_kg"),
        (["RUN", "--out", "x.json"], "must end in .toml"),
        (["RUN", "--out", "none/x.toml"], "its folder does not exist"),
        (["RUN", "--machine", "vitrifier"], "not with vitrifier"),
        (["--excite", "--minutes", "0.5"], "--minutes 0.5 min: must lie between 1 and 10 min"),
        (["--excite"], "--camera must be given"),
        (["--excite", "--camera", "0", "--port", "x"], "nobody is there to arm"),
    ],
)
def test_what_it_refuses(
    words: list[str],
    complaint: str,
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    given = [str(run_folder) if word == "RUN" else word for word in words]
    assert main(["calibrate", "machine", *given]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_is_no_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\xff\xfe not text")
    assert main(["calibrate", "machine", str(file), "--out", str(tmp_path / "b.toml")]) == 2
    assert "cannot be read" in capsys.readouterr().err
