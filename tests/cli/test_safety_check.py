"""``melter safety-check``: fields, files, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from melter.cli.main import main
from melter.machine import load_machine
from melter.observation import ObservationBuilder
from melter.safety import check as check_module
from melter.safety.bundle import manifest_for, save_bundle
from melter.safety.claims import find_certificate
from melter.safety.net import PolicyNet
from melter.safety.proof import ProofResult

MACHINE = load_machine()
BUILDER = ObservationBuilder(MACHINE)


@pytest.fixture(autouse=True)
def quick_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "prove", lambda *_a, **_k: ProofResult(10, 100, 0, 0, 1, None, 0.0))


def bundle(folder: Path, gain: float, bias: float = 0.0) -> Path:
    rng = np.random.default_rng(0)
    layers = (
        (rng.normal(0, 0.1, (16, BUILDER.size)).astype("f"), np.zeros(16, "f")),
        (gain * rng.normal(0, 0.1, (8, 16)).astype("f"), np.full(8, bias, dtype="f")),
    )
    net = PolicyNet(layers, "tanh", "clip")
    save_bundle(folder, net, manifest_for(net, MACHINE, BUILDER.table, BUILDER.sha256, "test"))
    return folder


def test_a_policy_that_stays_calm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = bundle(tmp_path / "run", 0.0)
    assert main(["safety-check", str(model), "--quick", "--json", "--report", str(tmp_path / "page.html")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["verdict"] == "pass"
    assert len(result["model_sha256"]) == 64
    assert {"name", "status", "bound", "limit", "unit", "counterexample"} <= set(result["claims"][0])
    assert result["model_sha256"] in (tmp_path / "page.html").read_text()
    assert find_certificate(model, MACHINE) is not None


def test_constant_full_speed_fails_and_replays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = bundle(tmp_path / "run", 0.0, bias=5.0)
    assert main(["safety-check", str(model), "--quick", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    broken = [claim for claim in result["claims"] if claim["required"] and claim["status"] == "falsified"]
    assert broken
    assert find_certificate(model, MACHINE) is None
    example = next(claim["counterexample"] for claim in broken if claim["counterexample"])
    assert main(["safety-check", str(model), "--replay", example, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["reproduced"] is True
    other = bundle(tmp_path / "other", 0.0)
    assert main(["safety-check", str(other), "--replay", example]) == 0


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = bundle(tmp_path / "run", 0.0)
    before = sorted(tmp_path.rglob("*"))
    for arguments in (
        [str(tmp_path / "none")],
        [str(model), "--machine", "nowhere"],
        [str(model), "--replay", str(tmp_path / "none.json")],
        [str(model), "--report", str(tmp_path / "no" / "page.html")],
        [],
    ):
        assert main(["safety-check", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
