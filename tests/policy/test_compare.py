"""Contenders on the same episodes: pairing, intervals, what a disturbance costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from melter.env import params
from melter.env.scenario import KINDS, SUITES
from melter.machine import Machine
from melter.policy import compare, evaluate
from melter.policy.compare import Contender, Match, alone, comparison, costs, disturbances, episode_rows
from melter.policy.evaluate import Episodes, figures, resampled_rms
from melter.policy.servo import Servo, ServoGains


@pytest.fixture(autouse=True)
def short_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, scenario in list(SUITES.items()):
        monkeypatch.setitem(SUITES, name, replace(scenario, episode_s=4.0))


def episodes_of(errors_mm: Any, **changes: Any) -> Episodes:
    """Made-up episodes, a row each."""
    errors = np.asarray(errors_mm, dtype=float)
    n = len(errors)
    fields: dict[str, Any] = {
        "first": 0,
        "errors_mm": errors,
        "melting": np.ones(errors.shape, dtype=bool),
        "kind": np.arange(n) % len(KINDS),
        "ending": np.ones(n, dtype=int),
        "tension_min_n": np.full(n, 20.0),
        "tension_max_n": np.full(n, 200.0),
    }
    return Episodes(**fields | changes)


def noisy(scale: float, seed: int = 0, n: int = 60) -> Any:
    """Episodes that differ in difficulty far more than contenders do in skill."""
    difficulty = np.random.default_rng(9).lognormal(0, 1, (n, 1))
    return scale * difficulty * np.abs(np.random.default_rng(seed).normal(1, 0.1, (n, 50)))


def test_pairing_makes_the_ratio_sharp_where_the_figures_are_not() -> None:
    played = {"servo": episodes_of(noisy(1.0)), "other": episodes_of(noisy(0.8, seed=1))}
    found = comparison("outdoor", played, "servo", ["other"])
    low, high = found.evaluations["other"].rms_ci_mm
    ratio = found.ratios["other"]
    assert ratio.ci[0] < ratio.value < ratio.ci[1]
    assert ratio.value == pytest.approx(0.8, abs=0.02)
    assert ratio.ci[1] - ratio.ci[0] < 0.2 * (high - low) / found.evaluations["servo"].rms_mm
    assert "servo" not in found.ratios
    assert found.together is None


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(4), 0
    for _ in range(100):
        squares = rng.exponential(1.0, (1, 100)) * 50
        resampled = resampled_rms(squares, np.full((1, 100), 50.0), rng, 300)[:, 0]
        low, high = evaluate.interval(resampled)
        hits += low <= 1.0 <= high
    assert 85 <= hits <= 100


def test_longer_episodes_weigh_more() -> None:
    errors = np.array([[1.0, 1.0, 1.0, 1.0], [3.0, np.nan, np.nan, np.nan]])
    found = figures("nominal", episodes_of(errors))
    assert found.rms_mm == pytest.approx(np.sqrt((4 + 9) / 5))
    spread = resampled_rms(*(np.array([x]) for x in episodes_of(errors).sums()), np.random.default_rng(0), 500)
    assert set(np.round(spread[:, 0], 9)) == {1.0, 3.0, round(np.sqrt(13 / 5), 9)}


def test_dark_moves_have_a_figure_of_their_own() -> None:
    errors = np.array([[1.0, 5.0, 1.0, 7.0]])
    dark = episodes_of(errors, melting=np.array([[True, False, True, False]]))
    found = figures("nominal", dark)
    assert (found.rms_mm, found.max_mm) == (1.0, 1.0)
    assert found.dark_rms_mm == pytest.approx(np.sqrt((25 + 49) / 2))
    assert figures("nominal", episodes_of(errors)).dark_rms_mm is None


def test_figures_by_path_add_up() -> None:
    played = episodes_of(noisy(1.0), ending=np.where(np.arange(60) % 7 == 0, 3, 1))
    found = figures("nominal", played)
    assert set(found.by_kind) == set(KINDS)
    assert sum(one.episodes for one in found.by_kind.values()) == found.episodes == 60
    assert sum(one.terminated for one in found.by_kind.values()) == found.terminated == 9
    assert found.endings == {"spot lost": 9}
    squares = sum(one.rms_mm**2 * one.episodes for one in found.by_kind.values()) / 60
    assert found.rms_mm == pytest.approx(np.sqrt(squares))


def test_several_models_are_taken_together() -> None:
    scales = {"a": 0.5, "b": 0.7}
    played = {"servo": episodes_of(noisy(1.0))} | {name: episodes_of(noisy(s)) for name, s in scales.items()}
    found = comparison("outdoor", played, "servo", ["a", "b"]).together
    assert found is not None
    assert found.ratio is not None
    assert found.models == 2
    assert found.ratio.value == pytest.approx(0.6)
    assert found.ratio.ci[0] == pytest.approx(0.5), "the draw of models is part of the interval"
    assert found.ratio.ci[1] == pytest.approx(0.7)


def test_everybody_plays_the_same_episodes_whatever_the_blocks(
    corner8: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Servo(corner8, ServoGains(length_per_s=0.5))
    whole = Match(
        [Contender("servo", Servo(corner8).act), Contender("slow", slow.act)], corner8, SUITES["outdoor"], first=7
    )
    told: list[float] = []
    whole.play(5, told.append)
    monkeypatch.setattr(compare, "BATCH", 2)
    blocks = Match(
        [Contender("slow", slow.act), Contender("servo", Servo(corner8).act)], corner8, SUITES["outdoor"], first=7
    )
    blocks.play(5)
    for name in ("servo", "slow"):
        one, other = whole.played[name], blocks.played[name]
        np.testing.assert_array_equal(one.errors_mm, other.errors_mm)
        np.testing.assert_array_equal(one.kind, other.kind)
    assert figures("outdoor", whole.played["slow"]) == evaluate.evaluate(slow.act, corner8, "outdoor", 5, first=7)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)


def test_what_was_played_before_an_interruption_is_kept(corner8: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "BATCH", 2)
    match = Match([Contender("servo", Servo(corner8).act)], corner8, SUITES["nominal"])
    assert match.played == {}

    def stop(share: float) -> None:
        if share > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        match.play(4, stop)
    assert match.played["servo"].count == 2


def test_one_quantity_alone_leaves_paths_and_everything_else(corner8: Machine) -> None:
    keys = np.arange(5, dtype=np.uint64) + 99
    calm, lagging = (alone(name).randomisation.draw(keys, corner8) for name in (None, "motor_lag_s"))
    for name, values in calm.items():
        assert (values != lagging[name]).any() == (name == "motor_lag_s")
    assert disturbances() == params.NAMES
    assert alone(None).suite is not None, "seeds are fixed, so that episodes are paired"
    assert alone(None).episode_s == SUITES["outdoor"].episode_s


def test_costs_are_paired() -> None:
    calm, hit = episodes_of(noisy(1.0)), episodes_of(noisy(1.1), ending=np.r_[2, np.ones(59, dtype=int)])
    found = costs({"servo": calm}, {"servo": hit})["servo"]
    assert found.cost_mm == pytest.approx(0.1 * figures("nominal", calm).rms_mm)
    assert 0 < found.cost_ci_mm[0] < found.cost_mm < found.cost_ci_mm[1]
    assert found.terminated == 1
    nothing = costs({"servo": calm}, {"servo": calm})["servo"]
    assert nothing.cost_mm == nothing.cost_ci_mm[0] == nothing.cost_ci_mm[1] == 0


def test_rows_for_a_table() -> None:
    rows = episode_rows({"servo": episodes_of([[1.0, 2.0], [np.nan, np.nan]], first=7)})
    assert [row["episode"] for row in rows] == [7, 8]
    assert rows[0]["rms_mm"] == pytest.approx(np.sqrt(2.5))
    assert rows[0]["max_mm"] == 2.0
    assert rows[1]["max_mm"] is None
