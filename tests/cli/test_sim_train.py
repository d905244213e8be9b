"""``melter sim-train``: fields, refusals that write nothing, and Ctrl-C that loses nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from melter.cli.main import main
from melter.policy import keeper
from melter.policy import train as training
from melter.safety.bundle import load_policy

SMALL = ["--preset", "smoke", "--set", "envs=8", "--set", "batch_size=64", "--threads", "1", "--nice", "0"]


@pytest.fixture
def short_suites(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONTEST_EPISODES", "EVAL_EPISODES", "CONTESTS"):
        monkeypatch.setattr(training if name == "EVAL_EPISODES" else keeper, name, 2)


def test_a_small_training(short_suites: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["sim-train", *SMALL, "--steps", "400", "--out", str(out), "--json"]) == 0
    stdout, stderr = capsys.readouterr()
    result = json.loads(stdout)
    assert stdout.count("\n") == 1
    assert result["model"] == str(out / "model.zip")
    assert result["steps"] >= 400
    assert result["seconds"] > 0
    assert result["steps_per_s"] > 0
    assert set(result["eval"]) == {"nominal", "outdoor"}
    assert "corner8" in stderr
    assert load_policy(out).manifest.machine_name == "corner8"
    # and its folder is not written to again
    before = {path: path.stat().st_mtime_ns for path in sorted(out.rglob("*"))}
    assert main(["sim-train", *SMALL, "--steps", "400", "--out", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in sorted(out.rglob("*"))} == before
    # the next one without --out gets a number, --resume goes on
    assert main(["sim-train", "--resume", str(out), "--steps", "700", "--nice", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] >= 700


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--minutes", "-1"], "--minutes"),
        (["--minutes", "nan"], "--minutes"),
        (["--steps", "0"], "--steps"),
        (["--steps", "1.5"], "steps"),
        (["--envs", "0"], "envs"),
        (["--threads", "0"], "--threads"),
        (["--seed", "-1"], "--seed"),
        (["--nice", "20"], "--nice"),
        (["--algo", "magic"], "ppo"),
        (["--preset", "slow"], "smoke"),
        (["--set", "learnin_rate=1"], "did you mean learning_rate"),
        (["--set", "learning_rate"], "KEY=VALUE"),
        (["--machine", "nowhere"], "corner8, vitrifier"),
        (["--machine", "vitrifier"], "machine check"),
        (["--resume", "nowhere"], "--resume nowhere"),
        (["--resume", "nowhere", "--seed", "1"], "--seed"),
        (["--algo", "sac", "--preset", "scratch"], "belongs to ppo"),
        (["--algo", "td3", "--set", "clip_range=0.1"], "clip_range"),
        (["--target-mm", "0"], "--target-mm"),
    ],
)
def test_refusals(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    out = [] if "--resume" in words else ["--out", str(tmp_path / "run")]
    assert main(["sim-train", *words, *out]) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.count("\n") == 1
    assert told in stderr
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_keeps_a_run_that_resumes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "melter.cli.main", "sim-train", *SMALL, "--minutes", "5", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end_s = time.monotonic() + 60
    while not (out / "model.zip").is_file() and time.monotonic() < end_s:
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stdout == ""
    assert "Traceback" not in stderr
    assert f"--resume {out}" in stderr
    assert load_policy(out).net.sizes[-1] == 8
    request, folder = training.resumable(str(out), None, 1)
    assert request.settings.envs == 8
    result = None
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONTEST_EPISODES", "EVAL_EPISODES"):
            patch.setattr(training if name == "EVAL_EPISODES" else keeper, name, 1)
        result = training.train(request, folder, lambda _: None, resume=True)
    assert result.steps > 1  # it had come further than that already


def test_kill_9_keeps_a_run_that_resumes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "melter.cli.main", "sim-train", *SMALL, "--minutes", "5", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end_s = time.monotonic() + 60
    while not (out / "manifest.json").is_file() and time.monotonic() < end_s:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    assert load_policy(out).net.sizes[-1] == 8
    request, folder = training.resumable(str(out), None, 300)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONTEST_EPISODES", "EVAL_EPISODES"):
            patch.setattr(training if name == "EVAL_EPISODES" else keeper, name, 1)
        assert training.train(request, folder, lambda _: None, resume=True).steps >= 300


def test_a_run_of_another_machine_is_not_resumed(
    short_suites: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, other = tmp_path / "run", tmp_path / "other.toml"
    assert main(["sim-train", *SMALL, "--steps", "200", "--out", str(out)]) == 0
    before = {path: path.stat().st_mtime_ns for path in sorted(out.rglob("*"))}
    table = tomllib.loads((Path(__file__).parents[2] / "models" / "corner8.toml").read_text())
    text = (Path(__file__).parents[2] / "models" / "corner8.toml").read_text()
    focus = str(table["lens"]["focal_length_m"])
    other.write_text(text.replace(focus, "1.21", 1))
    capsys.readouterr()
    assert main(["sim-train", "--resume", str(out), "--machine", str(other), "--steps", "400"]) == 2
    stderr = capsys.readouterr().err
    assert "another machine file" in stderr
    assert stderr.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in sorted(out.rglob("*"))} == before
