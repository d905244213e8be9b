"""``melter export``: fields, default place, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from melter.cli.main import main

pytest.importorskip("onnx")
Made = Callable[[Path], Path]


def test_export(hand_made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = hand_made(tmp_path / "run")
    assert main(["export", str(run), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["onnx"] == str(run / "policy.onnx")
    assert result["largest_difference"] <= 1e-5
    before = (run / "policy.onnx").read_bytes()
    assert main(["export", str(run)]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["export", str(run), "--force"]) == 0
    assert (run / "policy.onnx").read_bytes() == before, "the same policy gives the same file"
    assert main(["export", str(run), "--onnx", str(tmp_path / "p.onnx")]) == 0
    assert (tmp_path / "p.onnx").read_bytes() == before


@pytest.mark.parametrize("words", [["--onnx", "p.txt"], ["--onnx", "gone/p.onnx"], ["--machine", "nowhere"]])
def test_refusals(words: list[str], hand_made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = hand_made(tmp_path / "run")
    assert main(["export", str(run), *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert not list(run.glob("*.onnx"))
