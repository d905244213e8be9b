"""The search for settings: what it tries, what it gives up, what a stop leaves, with a stand-in for training and scoring."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest

from melter.errors import BadInput, OutputExists
from melter.machine import Machine, machine_from_table
from melter.policy import search as searching
from melter.policy import tune as tuning
from melter.policy.config import ppo_config
from melter.policy.request import Progress
from melter.policy.space import SPACES, Range, ranges_for, widened
from melter.safety.bundle import load_policy

pytest.importorskip("optuna")

RANGES = ("gamma=0.8..0.99", "n_steps=16|32|64")


@pytest.fixture
def search(corner8: Machine) -> searching.Search:
    return searching.search_for(
        corner8, "ppo", "smoke", ("envs=64",), ranges_for("ppo", RANGES), trial_minutes=0.01, pruner="none"
    )


@pytest.fixture
def trained(hand_made: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Trainings that cost nothing; the score is how far gamma lies from 0.9, and 0.05 more for short rollouts."""
    requests: list[Any] = []

    def train(request: Any, folder: Path, on_progress: Any) -> None:
        requests.append(request)
        for share in (0.1, 0.3, 0.5, 0.7, 1.0):
            on_progress(Progress(share, 1, 1.0, 1.0, 0.0, 1 + 10 * abs(request.settings.gamma - 0.9)))
        hand_made(folder)

    monkeypatch.setattr("melter.policy.train.train", train)
    monkeypatch.setattr(tuning, "CHECK_EPISODES", 2)
    monkeypatch.setattr(
        tuning,
        "score_of",
        lambda *_: abs(requests[-1].settings.gamma - 0.9) + 0.05 * (requests[-1].settings.n_steps == 16),
    )
    return requests


def stop_after(count: int, standings: list[Any]) -> Any:
    def on_trial(standing: tuning.Standing) -> None:
        standings.append(standing)
        if len(standings) == count:
            raise KeyboardInterrupt

    return on_trial


def test_the_preset_comes_first_and_the_best_is_written(search: Any, trained: list[Any], tmp_path: Path) -> None:
    folder, standings = searching.start(search, str(tmp_path / "s")), []
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(search, folder, 60, stop_after(14, standings))
    smoke = ppo_config("smoke", ("envs=64",))
    assert (trained[0].settings.gamma, trained[0].settings.n_steps) == (smoke.gamma, smoke.n_steps)
    assert all(request.settings.envs == 64 for request in trained)
    found = tuning.found(search, folder)
    assert found.trials == found.complete == 14
    scores = [standing.score_mm for standing in standings]
    assert found.best_score_mm == min(scores)
    assert standings[-1].best_mm == min(scores)
    assert found.preset_score_mm == scores[0]
    best = trained[found.best_trial].settings
    assert found.settings == {"gamma": best.gamma, "n_steps": best.n_steps}
    section = tomllib.loads((folder / "best.toml").read_text())["ppo"]["tuned"]
    words = tuple(f"{key}={value}" for key, value in section.items())
    assert ppo_config("smoke", words) == best, "the file gives the best trial's settings back"
    assert ppo_config("smoke", tuple(searching.set_words(search, found)[1::2])) == best, "and so do the --set words"
    kept = {place.name for place in folder.glob("trial-*")}
    assert kept == {"trial-0000", f"trial-{found.best_trial:04d}"}
    assert load_policy(folder / f"trial-{found.best_trial:04d}")


def test_a_resumed_search_goes_on_and_repeats_what_was_cut_short(
    search: Any, trained: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = searching.start(search, str(tmp_path / "s"))
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(search, folder, 60, stop_after(3, []))
    study = tuning.open_study(search, folder)
    killed = study.ask()  # as kill -9 leaves it: asked for, never told
    killed.suggest_float("gamma", 0.8, 0.99)
    again = searching.resumable(folder)
    assert again == search
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(again, folder, 60, stop_after(1, []))
    assert len(trained) == 4
    assert trained[-1].settings.gamma == pytest.approx(killed.params["gamma"])
    assert tuning.found(search, folder).trials == 4


def test_an_interrupted_trial_is_tried_again(search: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("melter.policy.train.train", train)
    folder = searching.start(search, str(tmp_path / "s"))
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(search, folder, 60, lambda _: None)
    found = tuning.found(search, folder)
    assert (found.trials, found.best_trial, found.settings) == (0, None, {})
    assert not (folder / "best.toml").exists()


def test_the_hopeless_are_given_up(corner8: Machine, trained: list[Any], tmp_path: Path) -> None:
    search = searching.search_for(
        corner8, "ppo", "smoke", (), ranges_for("ppo", ("gamma=0.5..0.99",)), trial_minutes=0.01
    )
    folder = searching.start(search, str(tmp_path / "s"))
    standings: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(search, folder, 60, stop_after(16, standings))
    pruned = [trained[s.trial].settings.gamma for s in standings if s.state == "pruned"]
    whole = [trained[s.trial].settings.gamma for s in standings if s.state == "complete"]
    assert len(pruned) >= 2
    assert min(abs(gamma - 0.9) for gamma in pruned) > min(abs(gamma - 0.9) for gamma in whole)
    assert all(s.score_mm is None for s in standings if s.state == "pruned")


def test_settings_that_do_not_go_together_are_given_up(corner8: Machine, trained: list[Any], tmp_path: Path) -> None:
    ranges = ranges_for("ppo", ("batch_size=256|100000",))
    search = searching.search_for(corner8, "ppo", "smoke", (), ranges, trial_minutes=0.01)
    folder = searching.start(search, str(tmp_path / "s"))
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(search, folder, 60, stop_after(12, []))
    found = tuning.found(search, folder)
    assert found.pruned >= 1
    assert found.settings == {"batch_size": 256}


def test_the_time_is_kept_and_the_best_compared(search: Any, trained: list[Any], tmp_path: Path) -> None:
    folder = searching.start(search, str(tmp_path / "s"))
    found = tuning.tune(search, folder, 0.02, lambda _: None)
    assert 1 <= found.trials < 60
    if found.best_trial:
        assert found.check is not None
        assert found.check.value == pytest.approx(1.0), "both are the same hand-made policy"


def test_refusals(search: Any, corner8: Machine, corner8_table: Any, tmp_path: Path) -> None:
    folder = searching.start(search, str(tmp_path / "s"))
    with pytest.raises(OutputExists):
        searching.start(search, str(folder))
    corner8_table["lens"]["moving_mass_kg"] = 6.5
    with pytest.raises(BadInput, match="another machine"):
        searching.resumable(folder, machine_from_table(corner8_table))
    with pytest.raises(BadInput, match="not a folder of melter tune"):
        searching.resumable(tmp_path)
    (folder / "tune.json").write_text(json.dumps({"algo": "ppo"}))
    with pytest.raises(BadInput, match="not a folder of melter tune"):
        searching.resumable(folder)
    with pytest.raises(BadInput, match="nothing to search"):
        searching.search_for(corner8, "ppo", "smoke", (), (), trial_minutes=1)


def test_without_optuna_one_line_says_so(search: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(BadInput, match="pip install optuna"):
        searching.start(search, str(tmp_path / "s"))
    assert not (tmp_path / "s").exists()


def test_ranges() -> None:
    assert ranges_for("ppo", ()) == SPACES["ppo"]
    gamma, steps, rate = ranges_for("ppo", ("gamma=0.5..0.6", "n_steps=8|16", "learning_rate"))
    assert (gamma.low, gamma.high, gamma.choices) == (0.5, 0.6, ())
    assert steps.choices == (8, 16)
    assert rate == next(one for one in SPACES["ppo"] if one.name == "learning_rate")


@pytest.mark.parametrize(
    "word",
    ["gama", "gamma=1..1", "gamma=a..b", "gamma=", "gamma=0.9..nan", "learning_rate=0..1", "gamma=2..1", "n_steps=|"],
)
def test_ranges_that_are_none(word: str) -> None:
    with pytest.raises(BadInput, match="--search"):
        ranges_for("ppo", (word,))


def test_ranges_asked_for_twice_or_of_nothing_known() -> None:
    with pytest.raises(BadInput, match="more than once"):
        ranges_for("ppo", ("gamma", "gamma=0.8..0.9"))
    with pytest.raises(BadInput, match="leave one of both"):
        ranges_for("ppo", ("gamma",), ("gamma=0.9",))
    assert "gamma" not in {one.name for one in ranges_for("ppo", (), ("gamma=0.9",))}
    with pytest.raises(BadInput, match="--algo"):
        ranges_for("astrology", ())


def test_a_range_takes_the_presets_value_in() -> None:
    assert widened(Range("x", 1, 2), 5.0) == Range("x", 1, 5, centre=5)
    assert widened(Range("x", choices=(1, 2)), 2).centre == 2
    assert widened(Range("x", choices=(1, 2)), 3).choices == (1, 2, 3)
    assert widened(Range("x", choices=("64,64",)), (64, 64)) == Range("x", choices=("64,64",), centre="64,64")
    low = widened(Range("x", 1e-3, 1, log=True), 0.0)
    assert math.isclose(float(str(low.centre)), 1e-3)


def test_every_built_in_range_is_a_setting_and_holds_its_preset() -> None:
    config = ppo_config()
    for one in SPACES["ppo"]:
        assert hasattr(config, one.name)
        wide = widened(one, getattr(config, one.name))
        assert ppo_config("default", (f"{one.name}={wide.centre}",)) == config
