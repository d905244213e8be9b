"""``melter eval``: fields, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from melter.cli.main import main

CONTRACT = {
    "rms_mm", "p50_mm", "p95_mm", "max_mm", "tension_min_n", "tension_max_n", "terminated", "episodes", "suite"
}  # fmt: skip
Made = Callable[[Path], Path]


def test_a_policy(hand_made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = hand_made(tmp_path / "run")
    for suite in ("nominal", "outdoor"):
        assert main(["eval", str(model), "--suite", suite, "--episodes", "2", "--threads", "1", "--json"]) == 0
        out = capsys.readouterr().out
        result = json.loads(out)
        assert out.count("\n") == 1
        assert set(result) >= CONTRACT
        assert (result["suite"], result["episodes"]) == (suite, 2)
    assert main(["eval", str(model), "--episodes", "1", "--threads", "1"]) == 0
    assert "mm" in capsys.readouterr().out


def test_the_servo_needs_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--controller", "servo", "--episodes", "2", "--threads", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) >= CONTRACT
    assert result["rms_mm"] < 1


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--suite", "moon"],
        ["--controller", "pid"],
        ["--episodes", "0"],
        ["--episodes", "-1"],
        ["--machine", "nowhere"],
        ["--threads", "0"],
        ["--threads", "-2"],
        ["--seed", "-1"],
    ],
)
def test_refusals(words: list[str], hand_made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = [str(hand_made(tmp_path / "run"))] if words else []
    assert main(["eval", *model, *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"not a model", b"PK\x03\x04" + bytes(100)])
def test_models_that_are_none(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model.zip"
    file.write_bytes(content)
    for name in (file, tmp_path, tmp_path / "none"):
        assert main(["eval", str(name), "--episodes", "1"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert "Traceback" not in err


def test_a_model_for_another_observation(
    hand_made: Made, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (root / "models" / "corner8.toml").read_text()
    (tmp_path / "slow.toml").write_text(text.replace("speed_normal_m_s = 0.050", "speed_normal_m_s = 0.040"))
    model = hand_made(tmp_path / "run")
    assert main(["eval", str(model), "--episodes", "1", "--machine", str(tmp_path / "slow.toml")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "observation" in err
