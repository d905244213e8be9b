"""A small training for this room's tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from melter.machine import load_machine
from melter.policy import keeper
from melter.policy import train as training
from melter.policy.config import algo_config


@pytest.fixture(autouse=True)
def short_suites(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few episodes for the choice of the best policy and for the report; reports after few steps."""
    monkeypatch.setattr(training, "EVAL_EPISODES", 2)
    for name, value in (("CONTEST_EPISODES", 2), ("CONTESTS", 2), ("REPORT_STEPS", 128)):
        monkeypatch.setattr(keeper, name, value)


@pytest.fixture
def request_of() -> Callable[..., training.TrainRequest]:
    def small(*words: str, **changes: Any) -> training.TrainRequest:
        values: dict[str, Any] = {
            "machine": load_machine(),
            "settings": algo_config("ppo", "smoke", ("envs=8", "batch_size=64", "groups=2", *words)),
            "minutes": None,
            "steps": 1000,
            "seed": 3,
            "threads": 1,
        }
        return training.TrainRequest(**values | changes)

    return small
