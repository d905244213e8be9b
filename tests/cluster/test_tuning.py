"""Trials elsewhere: what they send back, when they give up, and what a search makes of it."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from melter.cli.main import main
from melter.cluster import tuning
from melter.cluster.tuning import Board, Outcome, packed, run_trial, unpack
from melter.errors import BadInput
from melter.machine import Machine
from melter.policy.search import Search, search_for
from melter.policy.space import ranges_for
from melter.safety.bundle import load_policy


@pytest.fixture
def search(corner8: Machine) -> Search:
    return search_for(
        corner8, "ppo", "smoke", ("envs=64",), ranges_for("ppo", ("gamma=0.8..0.99",)), trial_minutes=0.01
    )


def test_a_trial_sends_its_policy_home(
    search: Search, hand_made: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told: list[Any] = []

    def score(one: Search, values: tuple[str, ...], place: Path, report: Any) -> float:
        assert values == ("gamma=0.9",)
        report(2.5, 1)
        hand_made(place)
        (place / "checkpoints").mkdir()
        (place / "checkpoints" / "latest.pt").write_bytes(b"large")
        return 1.25

    monkeypatch.setattr(tuning, "trained_score", score)
    outcome = run_trial(search, ("gamma=0.9",), 7, lambda *words: told.append(words) or True)
    assert (outcome.state, outcome.score_mm, told) == ("COMPLETE", 1.25, [(7, 2.5, 1)])
    unpack(outcome.files, tmp_path / "trial")
    assert load_policy(tmp_path / "trial").manifest.algorithm == "hand"
    assert not (tmp_path / "trial" / "checkpoints").exists()


def test_hopeless_trials_end(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(one: Search, values: tuple[str, ...], place: Path, report: Any) -> float:
        report(2.5, 1)
        report(9.0, 2)
        raise AssertionError("goes on")

    monkeypatch.setattr(tuning, "trained_score", score)
    assert run_trial(search, (), 0, lambda number, value, step: step < 2) == Outcome("PRUNED")

    def refuse(*_: object) -> float:
        raise BadInput("batch_size = 4096: must be at most 256")

    monkeypatch.setattr(tuning, "trained_score", refuse)
    assert run_trial(search, (), 0, lambda *_: True) == Outcome("PRUNED")


def test_the_board() -> None:
    board = Board()
    assert board.tell(3, 1.0, 1)
    board.give_up(3)
    assert not board.tell(3, 2.0, 2)
    assert board.tell(4, 2.0, 2)
    assert board.take() == [(3, 1.0, 1), (3, 2.0, 2), (4, 2.0, 2)]
    assert board.take() == []


def test_only_known_names_are_unpacked(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("model.zip", "evil.sh"):
        (tmp_path / "run" / name).write_bytes(b"x")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "run" / "model.zip", "model.zip")
        archive.add(tmp_path / "run" / "evil.sh", "../evil.sh")
    unpack((tmp_path / "a.tar").read_bytes(), tmp_path / "out" / "trial")
    assert [p.name for p in (tmp_path / "out").rglob("*") if p.is_file()] == ["model.zip"]
    assert packed(tmp_path / "run") != b""


@pytest.mark.long
def test_two_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A small search on two workers."""
    pytest.importorskip("ray", reason="Ray is not installed (pip install melter[cluster])")
    out = tmp_path / "search"
    words = [
        "--preset",
        "smoke",
        "--set",
        "envs=8",
        "--set",
        "batch_size=64",
        "--search",
        "gamma",
        "--trial-steps",
        "1000",
    ]
    words += ["--minutes", "1", "--out", str(out), "--nice", "0", "--ray", "--workers", "2", "--json"]
    assert main(["tune", *words]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["complete"] >= 2
    assert (out / "best.toml").is_file()
    assert load_policy(out / f"trial-{result['best_trial']:04d}").manifest.machine_name == "corner8"
