"""``melter tune``: a whole small search, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from melter.cli.main import main
from melter.policy import tune as tuning

pytest.importorskip("optuna")
SMALL = ["--preset", "smoke", "--set", "envs=8", "--set", "batch_size=64", "--set", "n_steps=8", "--threads", "1"]


@pytest.fixture
def few_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    from melter.env.scenario import SUITES
    from melter.policy import keeper, train

    for name, scenario in list(SUITES.items()):
        monkeypatch.setitem(SUITES, name, replace(scenario, episode_s=4.0))

    for module in (tuning, train, keeper):
        for name in ("SCORE_EPISODES", "CHECK_EPISODES", "EVAL_EPISODES", "CONTEST_EPISODES", "CONTESTS"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, 2)


def test_a_search_with_real_trainings(few_episodes: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", *SMALL, "--search", "gamma", "--trial-steps", "200", "--minutes", "0.02", "--nice", "0", "--json"]
    assert main([*words, "--out", str(tmp_path / "s")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["complete"] >= 1
    assert 0.8 <= result["settings"]["gamma"] <= 0.99
    assert Path(result["preset_file"]).is_file()
    again = ["tune", "--resume", str(tmp_path / "s"), "--minutes", "0.001", "--nice", "0"]
    assert main(again) == 0
    assert "melter sim-train" in capsys.readouterr().out


def test_ctrl_c_tells_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "tune", stop)
    assert main(["tune", *SMALL, "--out", str(tmp_path / "s"), "--nice", "0"]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert f"--resume {tmp_path / 's'}" in err


@pytest.mark.parametrize(
    "words",
    [
        ["--minutes", "0"],
        ["--minutes", "nan"],
        ["--algo", "astrology"],
        ["--preset", "none"],
        ["--search", "gama"],
        ["--set", "gamma=0.9", "--search", "gamma"],
        ["--pruner", "axe"],
        ["--threads", "0"],
        ["--nice", "20"],
        ["--trial-steps", "0"],
        ["--trial-steps", "9", "--trial-minutes", "1"],
        ["--resume", "gone"],
        ["--resume", "gone", "--search", "gamma"],
        ["--machine", "vitrifier"],
    ],
)
def test_refusals(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["tune", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
