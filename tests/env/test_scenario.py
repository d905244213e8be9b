"""Episodes: paths inside the bed at their feed, suites that do not depend on the seed, refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from melter.env.batch import SandMelterBatch
from melter.env.noise import keys_of
from melter.env.params import NOMINAL
from melter.env.scenario import KINDS, SUITES, TRAIN, Scenario, draw_targets, scenario_named, work_reward
from melter.errors import BadInput
from melter.machine import Machine
from melter.observation import DROP_M

ISLANDS = KINDS.index("islands")
KEYS = keys_of(np.arange(200), np.zeros(200, dtype=int))


def speeds_m_s(path: np.ndarray, machine: Machine) -> np.ndarray:
    return np.hypot(*np.moveaxis(np.diff(path[..., :2], axis=1), -1, 0)) / machine.control.period_s


def test_targets_stay_on_the_bed_and_move_at_their_feed(corner8: Machine) -> None:
    targets = draw_targets(KEYS, corner8, TRAIN)
    path = targets.path[targets.kind != ISLANDS]
    assert targets.path.shape[0] == 200
    assert targets.path.shape[1] >= TRAIN.ticks(corner8) + 20
    assert np.abs(targets.path[..., :2]).max() <= 0.4 * TRAIN.bed_share + 1e-12
    assert (path[..., 2] == 0).all()
    steps = speeds_m_s(path, corner8)
    low, high = TRAIN.feed_m_s
    fastest = steps.max(axis=1)
    assert fastest.min() >= low - 1e-12
    assert fastest.max() <= high + 1e-12
    assert np.median(fastest) == pytest.approx(np.sqrt(low * high), rel=0.4)  # evenly in the logarithm
    # but for folds at the edge, the feed is constant
    assert np.median(steps / fastest[:, None]) == pytest.approx(1)


def test_lines_circles_and_corners(corner8: Machine) -> None:
    targets = draw_targets(KEYS, corner8, dataclasses.replace(TRAIN, feed_m_s=(0.003, 0.003), bed_share=1.0))
    steps = np.diff(targets.path[..., :2], axis=1)
    heading = np.unwrap(np.arctan2(steps[..., 1], steps[..., 0]), axis=1)
    turning = np.abs(np.diff(heading, axis=1)).max(axis=1)
    assert (np.bincount(targets.kind) > 25).all()
    assert np.mean(turning[targets.kind == 0] < 1e-6) > 0.8  # the others fold at the edge
    assert np.mean((turning[targets.kind == 1] > 1e-6) & (turning[targets.kind == 1] < 0.05)) > 0.8
    assert np.mean(turning[targets.kind == 2] > 0.1) > 0.9


def test_islands_with_dark_moves_between_them(corner8: Machine) -> None:
    targets = draw_targets(KEYS, corner8, SUITES["nominal"])
    path, melting = (a[targets.kind == ISLANDS] for a in (targets.path, targets.melting))
    assert targets.melting[targets.kind != ISLANDS].all()
    speed = speeds_m_s(path, corner8)
    both = melting[:, 1:] & melting[:, :-1]
    assert speed[both].max() <= 0.003 + 1e-12
    assert speed.max() == pytest.approx(0.050, rel=1e-6)  # the speed of dark moves
    drop = path[..., 2]
    assert (drop[melting] < 1e-12).all()
    assert drop.max() == pytest.approx(DROP_M)
    # while the light moves fast, it is out of focus
    assert drop[:, 1:][speed > 0.01].min() > 0.99 * DROP_M
    assert np.abs(np.diff(drop, axis=1)).max() / corner8.control.period_s < corner8.limits.speed_normal_m_s
    assert melting[:, 0].all()
    assert (~melting).any(axis=1).all()
    elsewhere = np.hypot(*(path[:, 0] - path[:, corner8_ticks(corner8)])[:, :2].T)
    assert np.median(elsewhere) > 0.05


def corner8_ticks(machine: Machine) -> int:
    return SUITES["nominal"].ticks(machine)


def test_paths_wider_than_the_bed_fold_back(corner8: Machine) -> None:
    quick = dataclasses.replace(TRAIN, feed_m_s=(0.5, 0.5), episode_s=20)
    assert np.abs(draw_targets(KEYS, corner8, quick).path[..., :2]).max() <= 0.36 + 1e-12


@pytest.mark.parametrize("suite", sorted(SUITES))
def test_suites_are_fixed_by_episode_not_by_seed(suite: str, corner8: Machine) -> None:
    first = SandMelterBatch(corner8, 2, SUITES[suite])
    other = SandMelterBatch(corner8, 3, SUITES[suite])
    first.reset(np.arange(2), [0, 0], [3, 4])
    other.reset(np.arange(3), [0, 0, 0], [9, 4, 3])
    np.testing.assert_array_equal(first.observe()[0], other.observe()[2])
    np.testing.assert_array_equal(first.observe()[1], other.observe()[1])
    assert not np.array_equal(other.observe()[0], other.observe()[1])


def test_suites_at_the_melting_feed(corner8: Machine) -> None:
    for suite in SUITES.values():
        assert suite.feed_m_s == (0.0005, 0.003)
        assert suite.ticks(corner8) == 400
    assert SUITES["nominal"].randomisation is NOMINAL


def test_refusals() -> None:
    with pytest.raises(BadInput, match="train, nominal, outdoor"):
        scenario_named("moon")
    for feed in ((0.0, 0.01), (0.02, 0.01), (-0.1, 0.1)):
        with pytest.raises(BadInput, match="feed_m_s"):
            Scenario(feed_m_s=feed)
    for length in (0.0, -1.0, float("nan")):
        with pytest.raises(BadInput, match="episode_s"):
            Scenario(episode_s=length)


def test_reward_terms_are_bounded_and_prefer_what_is_wanted(corner8: Machine) -> None:
    error = np.array([0.0, 0.0005, 0.004, 1e6])
    calm, middle = np.zeros(4), np.full((4, 8), 100.0)
    terms = work_reward(error, calm, calm, middle, np.zeros((4, 8)), corner8)
    assert terms["track"][0] == pytest.approx(1)
    assert (np.diff(terms["track"]) < 0).all()
    assert terms["track"][3] >= 0
    wild = work_reward(error, np.full(4, 1e6), np.full(4, -1e6), np.full((4, 8), 1e6), np.full((4, 8), 1e6), corner8)
    for name in ("tilt", "defocus", "tension", "smooth"):
        assert (terms[name] == 0).all()
        assert (wild[name] < 0).all()
        assert (wild[name] >= -1).all()
    slack = work_reward(error, calm, calm, np.zeros((4, 8)), np.zeros((4, 8)), corner8)
    assert (slack["tension"] < 0).all()
