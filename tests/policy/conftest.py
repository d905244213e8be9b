"""One small training for all tests of this room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from melter.env.scenario import SUITES
from melter.machine import load_machine
from melter.policy import keeper
from melter.policy import train as training
from melter.policy.config import algo_config

SMALL = {
    "ppo": ("envs=8", "batch_size=64"),
    "a2c": ("envs=8",),
    "trpo": ("envs=8", "batch_size=64"),
    **dict.fromkeys(("sac", "td3", "ddpg", "tqc", "crossq"), ("envs=8", "learning_starts=160")),
}
"""Settings for tests, over the preset smoke."""


def small_request(algo: str = "ppo", **changes: object) -> training.TrainRequest:
    settings: dict[str, object] = {
        "machine": load_machine(),
        "settings": algo_config(algo, "smoke", SMALL[algo]),
        "minutes": None,
        "steps": 1000,
        "seed": 3,
        "threads": 1,
    }
    return training.TrainRequest(**settings | changes)  # type: ignore[arg-type]


@pytest.fixture
def request_of() -> Callable[..., training.TrainRequest]:
    return small_request


def shorten(patch: pytest.MonkeyPatch) -> None:
    """Few episodes for the choice of the best policy and for the report; reports after few steps."""
    patch.setattr(training, "EVAL_EPISODES", 2)
    for name, value in (("CONTEST_EPISODES", 2), ("CONTESTS", 2), ("REPORT_STEPS", 128)):
        patch.setattr(keeper, name, value)


@pytest.fixture(autouse=True)
def short_suites(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        for name, suite in SUITES.items():
            patch.setitem(SUITES, name, replace(suite, episode_s=3.0))
        training.train(small_request(), training.start_folder(str(folder), load_machine()), lambda _: None)
    return folder
