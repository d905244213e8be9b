"""``melter twin``: its first line, its end, its refusals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from melter.cli.main import main


def test_first_line_truth_and_a_clean_end(tmp_path: Path) -> None:
    link, truth = tmp_path / "port", tmp_path / "truth.jsonl"
    words = ["--port-link", str(link), "--truth", str(truth), "--speed", "4", "--seed", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "melter.cli.main", "twin", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    assert first["port"] == str(link)
    assert link.exists()
    assert first["camera_url"].startswith("http://127.0.0.1:")
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode in (0, 130)
    assert stdout == ""
    assert "Traceback" not in stderr
    assert not link.is_symlink()
    assert len(truth.read_text().splitlines()) > 5


def test_it_ends_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["twin", "--seconds", "0.3", "--speed", "5"]) == 0
    out = capsys.readouterr().out
    assert set(json.loads(out)) == {"port", "camera_url"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--fault", "fire@3"], "serial-cut"),
        (["--fault", "alarm@-1"], "NAME@SECONDS"),
        (["--params", "none.json"], "--params"),
        (["--speed", "0"], "--speed"),
        (["--speed", "nan"], "--speed"),
        (["--http", "70000"], "--http"),
        (["--seed", "-1"], "--seed"),
        (["--seconds", "-1"], "--seconds"),
        (["--seconds", "nan"], "--seconds"),
        (["--machine", "nowhere"], "nowhere"),
        (["--truth", "no/folder/truth.jsonl"], "--truth"),
    ],
)
def test_refusals(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["twin", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert told in err
    assert list(tmp_path.iterdir()) == []


def test_hidden_parameters_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "p.json"
    for content in ('{"moving_mass": 6}', '{"moving_mass_kg": "x"}', "[]", "{"):
        file.write_text(content)
        assert main(["twin", "--params", str(file)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
