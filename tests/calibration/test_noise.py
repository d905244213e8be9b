"""Noise that is white, that comes and goes, and that belongs to a place: taken out and found."""

from __future__ import annotations

import numpy as np
import pytest

from melter.calibration.noise import BLOCKS_MOST, FRAMES, WANDER_TIME_S, Blocks, Noise, noise_of, whitened

TIMES = np.sort(np.random.default_rng(1).uniform(0, 150, 3000))
PHASE = 2 * np.pi * TIMES[:, None] / 150
PLACES = 0.17 * np.concatenate([np.sin(4 * PHASE), np.sin(3 * PHASE)], axis=1)
SHARE = np.ones(len(TIMES))
BLOCKS = Blocks.of(TIMES, PLACES, np.zeros(len(TIMES)), SHARE)
LIMITS = Noise(2e-5, 2e-5, 2e-5, 0.02), Noise(0.02, 0.02, 0.01, 0.5)


def made(noise: Noise, seed: int) -> np.ndarray:
    """Block means of known noise."""
    return BLOCKS.root(noise) @ np.random.default_rng(seed).standard_normal(len(BLOCKS.starts))


def test_frames_are_weighed_by_their_noise_and_none_is_lost() -> None:
    share = np.where(np.arange(50) % 2 == 0, 1.0, 3.0)
    blocks = Blocks.of(np.arange(50.0), np.zeros((50, 2)), np.zeros(50), share)
    assert blocks.starts.tolist() == [0, FRAMES]
    rows = np.random.default_rng(0).standard_normal((50, 2))
    first, rest = slice(0, FRAMES), slice(FRAMES, 50)
    for block, frames in ((0, first), (1, rest)):
        expected = np.average(rows[frames], axis=0, weights=1 / share[frames] ** 2)
        assert blocks.mean(rows)[block] == pytest.approx(expected)
        assert blocks.white[block] == pytest.approx(np.sum(1 / share[frames] ** 2) ** -0.5)


def test_long_runs_have_few_blocks_and_short_ones_one() -> None:
    many = BLOCKS_MOST * FRAMES * 3
    blocks = Blocks.of(np.arange(float(many)), np.zeros((many, 2)), np.zeros(many), np.ones(many))
    assert len(blocks.starts) <= BLOCKS_MOST
    assert len(Blocks.of(np.arange(3.0), np.zeros((3, 2)), np.zeros(3), np.ones(3)).starts) == 1


def test_white_noise_is_only_scaled() -> None:
    rows = np.random.default_rng(0).standard_normal((len(BLOCKS.starts), 3))
    expected = rows / (0.5 * BLOCKS.white[:, None])
    assert whitened(BLOCKS.root(Noise(0.5, 1e-9, 1e-9)), rows) == pytest.approx(expected)


def test_what_comes_and_goes_is_forgotten_and_what_belongs_to_a_place_is_not() -> None:
    def together(noise: Noise, there_s: float, place_m: tuple[float, float], log_size: float = 0.0) -> float:
        """Correlation of a block with one elsewhere."""
        centre = np.repeat([[0.0, 0.0], place_m], FRAMES, axis=0)
        size = np.repeat([0.0, log_size], FRAMES)
        blocks = Blocks.of(np.repeat([0.0, there_s], FRAMES), centre, size, np.ones(2 * FRAMES))
        root = blocks.root(noise)
        covariance = root @ root.T
        return float(covariance[0, 1] / covariance[0, 0])

    wander, place = Noise(1e-9, 1.0, 1e-9), Noise(1e-9, 1e-9, 1.0, 0.1)
    assert together(wander, WANDER_TIME_S, (0.3, 0.0)) == pytest.approx(np.exp(-1), rel=1e-3)
    assert together(place, 100.0, (0.0, 0.0)) == pytest.approx(1.0, rel=1e-3)
    assert together(place, 0.0, (0.3, 0.0)) < 0.05
    assert together(place, 0.0, (0.0, 0.0), 1.0) < together(place, 0.0, (0.05, 0.0)) < 0.9


@pytest.mark.parametrize(
    "noise", [Noise(8e-4, 1e-4, 5e-5), Noise(2e-4, 1e-3, 5e-5), Noise(2e-4, 5e-5, 1e-3, 0.08), Noise(2e-4, 4e-4, 8e-4)]
)
def test_noise_is_found(noise: Noise) -> None:
    """The larger part of it; smaller parts hide in it."""
    found = [noise_of(BLOCKS, made(noise, seed), LIMITS) for seed in range(6)]
    for name in ("white", "wander", "place"):
        there, told = getattr(noise, name), np.median([getattr(one, name) for one in found])
        size = there * (BLOCKS.white[0] if name == "white" else 1.0)
        if size > 3e-4:
            assert told == pytest.approx(there, rel=0.4), name
        else:
            assert told * (BLOCKS.white[0] if name == "white" else 1.0) < 4e-4, name


def test_noise_stays_within_its_limits() -> None:
    least, most = Noise(1e-4, 1e-4, 1e-3, 0.05), Noise(2e-4, 2e-4, 2e-3, 0.2)
    for scale in (1e-6, 1.0):
        found = noise_of(BLOCKS, scale * np.random.default_rng(3).standard_normal(len(BLOCKS.starts)), (least, most))
        for name in ("white", "wander", "place", "reach_m"):
            assert 0.999 * getattr(least, name) <= getattr(found, name) <= 1.001 * getattr(most, name)


def test_what_parameters_may_explain_is_still_noise() -> None:
    """Slow columns fitted to slow noise take some of it away; the noise is found as if they had not."""
    noise = Noise(2e-4, 1e-3, 2e-5)
    phase = np.outer(BLOCKS.mean(PHASE)[:, 0], np.arange(1, 31))
    slopes = np.concatenate([np.sin(phase), np.cos(phase)], axis=1) * 1e-2
    naive, careful = [], []
    for seed in range(4):
        residual = made(noise, seed)
        left = residual - slopes @ np.linalg.lstsq(slopes, residual, rcond=None)[0]
        naive.append(noise_of(BLOCKS, left, LIMITS).wander)
        careful.append(noise_of(BLOCKS, residual, LIMITS, slopes).wander)
    assert np.median(naive) < 0.9 * np.median(careful)
    assert np.median(careful) == pytest.approx(noise.wander, rel=0.4)
