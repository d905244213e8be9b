"""One small training for all tests of this room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from melter.machine import load_machine
from melter.policy import keeper
from melter.policy import train as training
from melter.policy.config import ppo_config


def small_request(**changes: object) -> training.TrainRequest:
    settings: dict[str, object] = {
        "machine": load_machine(),
        "ppo": ppo_config("smoke", ("envs=8", "batch_size=64")),
        "minutes": None,
        "steps": 1000,
        "seed": 3,
        "threads": 1,
    }
    return training.TrainRequest(**settings | changes)  # type: ignore[arg-type]


@pytest.fixture
def request_of() -> Callable[..., training.TrainRequest]:
    return small_request


@pytest.fixture(autouse=True)
def short_suites(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few episodes for the choice of the best policy and for the report."""
    for name in ("CONTEST_EPISODES", "EVAL_EPISODES"):
        monkeypatch.setattr(training if name == "EVAL_EPISODES" else keeper, name, 2)
    monkeypatch.setattr(keeper, "CONTESTS", 2)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONTEST_EPISODES", "EVAL_EPISODES", "CONTESTS"):
            patch.setattr(training if name == "EVAL_EPISODES" else keeper, name, 2)
        training.train(small_request(), training.start_folder(str(folder), load_machine()), lambda _: None)
    return folder
