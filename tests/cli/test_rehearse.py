"""``melter rehearse``: what it refuses, and what becomes of a step that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from melter.cli import rehearse
from melter.cli.main import main
from melter.errors import BadInput, Fault


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--minutes", "-1"], "--minutes"),
        (["--minutes", "0"], "--minutes"),
        (["--feed-mm-s", "99"], "--feed-mm-s"),
        (["--path", "heart:1"], "heart:1"),
        (["--machine", "nowhere"], "nowhere"),
    ],
)
def test_refusals(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["rehearse", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert told in err
    assert list(tmp_path.iterdir()) == []


def test_another_rehearsal_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["rehearse", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_step_that_fails_ends_the_rehearsal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput, match="melter eval ended with exit code 2"):
        rehearse._step("a step", "eval", str(tmp_path / "none"))
    out, err = capfd.readouterr()
    assert out == ""
    assert "a step: melter eval" in err


@pytest.mark.parametrize(("code", "error"), [(3, Fault), (130, KeyboardInterrupt), (1, BadInput)])
def test_exit_codes_of_steps(code: int, error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    class Done:
        returncode = code

    monkeypatch.setattr(rehearse.subprocess, "run", lambda *_, **__: Done())
    with pytest.raises(error):
        rehearse._step(None, "real")


def test_its_twin_tells_where_it_is_and_is_ended(tmp_path: Path) -> None:
    truth = tmp_path / "truth.jsonl"
    with rehearse._twin("corner8", 0, truth) as where:
        assert set(where) == {"port", "camera_url"}
    assert truth.is_file()
    with pytest.raises(BadInput, match="did not start"), rehearse._twin("nowhere", 0, tmp_path / "b"):
        pass
