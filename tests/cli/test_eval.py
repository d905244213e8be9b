"""``melter eval``: fields, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from melter.cli.main import main
from melter.env.scenario import SUITES
from melter.policy import compare

CONTRACT = {
    "rms_mm", "p50_mm", "p95_mm", "max_mm", "tension_min_n", "tension_max_n", "terminated", "episodes", "suite"
}  # fmt: skip
Made = Callable[[Path], Path]


@pytest.fixture(autouse=True)
def short_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, scenario in list(SUITES.items()):
        monkeypatch.setitem(SUITES, name, replace(scenario, episode_s=4.0))


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
    assert result["rms_mm"] < 2


def test_models_and_servo_in_one_table(hand_made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = str(hand_made(tmp_path / "one")), str(hand_made(tmp_path / "other"))
    words = ["eval", one, other, "--controller", "servo", "--suite", "outdoor", "--episodes", "3", "--threads", "1"]
    files = ["--csv", str(tmp_path / "e.csv"), "--plot", str(tmp_path / "e.png")]
    assert main([*words, *files, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) >= CONTRACT
    assert [row["name"] for row in result["contenders"]] == ["servo", one, other]
    assert result["controller"] == result["yardstick"] == "servo"
    servo, first, second = result["contenders"]
    assert servo["ratio"] is None
    assert first["ratio"] == second["ratio"] == pytest.approx(first["rms_mm"] / servo["rms_mm"])
    assert first["ratio_ci"][0] <= first["ratio"] <= first["ratio_ci"][1]
    assert result["together"]["models"] == 2
    with (tmp_path / "e.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 9
    assert (tmp_path / "e.png").read_bytes().startswith(b"\x89PNG")
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "ratio to servo" in out
    assert "2 models" in out


def test_limits_decide_the_exit_code(hand_made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(hand_made(tmp_path / "run"))
    words = ["eval", model, "--controller", "servo", "--episodes", "2", "--threads", "1", "--json"]
    assert main(words) == 0
    _, one = json.loads(capsys.readouterr().out)["contenders"]
    for name, value, code in (
        ("--limit-rms-mm", 1.01 * one["rms_mm"], 0),
        ("--limit-rms-mm", 0.99 * one["rms_mm"], 1),
        ("--limit-ratio", 1.01 * one["ratio_ci"][1], 0),
        ("--limit-ratio", 0.99 * one["ratio_ci"][1], 1),
    ):
        assert main([*words, name, str(value)]) == code
        captured = capsys.readouterr()
        assert json.loads(captured.out)["contenders"][1]["rms_mm"] == one["rms_mm"]
        assert ("asked for at most" in captured.err) == bool(code)


def test_what_each_quantity_costs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare, "disturbances", lambda: ("motor_lag_s", "camera_noise_m"))
    words = ["eval", "--controller", "servo", "--by", "quantity", "--episodes", "2", "--threads", "1"]
    assert main([*words, "--json", "--plot", str(tmp_path / "e.svg")]) == 0
    found = json.loads(capsys.readouterr().out)["by_quantity"]
    assert set(found) == {"motor_lag_s", "camera_noise_m"}
    for cost in found.values():
        assert cost["cost_ci_mm"][0] <= cost["cost_mm"] <= cost["cost_ci_mm"][1]
    assert (tmp_path / "e.svg").read_text().count("camera_noise_m") >= 1
    assert main(words) == 0
    assert "motor_lag_s" in capsys.readouterr().out


def test_an_interruption_keeps_whole_blocks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare, "BATCH", 2)
    whole, blocks = compare.play, 0

    def play(*given: Any) -> Any:
        nonlocal blocks
        blocks += 1
        if blocks == 3:
            raise KeyboardInterrupt
        return whole(*given)

    monkeypatch.setattr(compare, "play", play)
    file = tmp_path / "e.csv"
    words = ["eval", "--controller", "servo", "--episodes", "6", "--threads", "1", "--json", "--csv", str(file)]
    assert main(words) == 130
    out, err = capsys.readouterr()
    assert json.loads(out)["episodes"] == 4
    assert "4 of 6" in err
    assert file.read_text().count("\n") == 5
    blocks = 2
    file.unlink()
    assert main(words) == 130
    assert capsys.readouterr().out == ""
    assert not file.exists()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--by", "weather"],
        ["--plot", "e.txt"],
        ["--plot", "gone/e.png"],
        ["--csv", "gone/e.csv"],
        ["--limit-ratio", "0.7"],
        ["--limit-rms-mm", "nan"],
        ["--episodes", "100001"],
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


def test_a_model_twice(hand_made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(hand_made(tmp_path / "run"))
    assert main(["eval", model, model]) == 2
    assert "more than once" in capsys.readouterr().err


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
