"""``melter sim-train --env``: another environment, trained as stable-baselines3 does it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from melter.cli.main import main


@pytest.mark.parametrize(("env", "algo"), [("Pendulum-v1", "td3"), ("CartPole-v1", "ppo")])
def test_a_small_training(env: str, algo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import stable_baselines3 as sb3

    out = tmp_path / "run"
    small = ["--set", "learning_starts=50"] if algo == "td3" else ["--set", "n_steps=32", "--set", "batch_size=32"]
    assert main(["sim-train", "--env", env, "--algo", algo, *small, "--steps", "120", "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["steps"] >= 120
    assert result["eval"][env]["episodes"] == 20
    assert {"config.json", "model.zip", "progress.csv", "eval.json"} <= {path.name for path in out.iterdir()}
    assert getattr(sb3, algo.upper()).load(result["model"]).num_timesteps == result["steps"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--env", "NoSuch-v0"], "NoSuch"),
        (["--env", "CartPole-v1", "--algo", "sac"], "sac"),
        (["--env", "CartPole-v1", "--set", "gam=1"], "gamma"),
        (["--env", "CartPole-v1", "--set", "gamma=x"], "0.99"),
        (["--env", "CartPole-v1", "--preset", "smoke"], "--preset"),
        (["--env", "CartPole-v1", "--steps", "0"], "--steps 0"),
        (["--env", "CartPole-v1", "--envs", "0"], "--envs 0"),
        (["--env", "CartPole-v1", "--algo", "nosuch"], "nosuch"),
    ],
)
def test_refusals(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sim-train", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
