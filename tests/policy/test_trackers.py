"""Figures sent on to a tracker, with stand-ins for the trackers' packages."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from melter.cli.main import main
from melter.errors import BadInput
from melter.policy.trackers import tracker

CONFIG = {"algorithm": "ppo", "seed": 3, "settings": {"gamma": 0.9}, "machine": {"name": "corner8"}}


class Package:
    """Notes what it is called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **words: Any) -> Package:
            self.calls.append((name, args, words))
            return self

        return call


@pytest.mark.parametrize(("name", "sends", "ends"), [("wandb", "log", "finish"), ("mlflow", "log_metrics", "end_run")])
def test_reports_arrive(name: str, sends: str, ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Package()
    monkeypatch.setitem(sys.modules, name, package)
    made = tracker(name, CONFIG, "run-7", lambda _: None)
    made.write({"error/median_mm": 0.5, "bad": float("nan"), "words": "x"}, {}, 128)
    made.close()
    assert (sends, ({"error/median_mm": 0.5},), {"step": 128}) in package.calls
    assert package.calls[-1][0] == ends
    assert "gamma" in str(package.calls)


def test_trouble_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nto host")

    run = SimpleNamespace(log=fail, finish=fail)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **_: run))
    told: list[str] = []
    made = tracker("wandb", CONFIG, "run-7", told.append)
    made.write({"a": 1.0}, {}, 1)
    made.write({"a": 1.0}, {}, 2)
    made.close()
    assert len(told) == 1
    assert "training goes on" in told[0]
    assert "\n" not in told[0]


def test_refusals(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for name, word in (("wandb", "pip install wandb"), ("nosuch", "wandb, mlflow")):
        monkeypatch.setitem(sys.modules, name, None)
        assert main(["sim-train", "--steps", "10", "--track", name]) == 2
        assert word in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

    def refuse(**_: Any) -> None:
        raise PermissionError("not logged in")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuse))
    with pytest.raises(BadInput, match="not logged in"):
        tracker("wandb", CONFIG, "run-7", lambda _: None)
