"""Numbers from keys and counters: the same wherever they are drawn, and fair."""

from __future__ import annotations

import numpy as np
import pytest

from melter.env.noise import keys_of, mix, normal, uniform

KEYS = keys_of(np.arange(4000), np.zeros(4000, dtype=int))


def test_uniform_numbers_are_uniform() -> None:
    """Chi-squared over 100 draws of 32,000: mean 15 each (16 bins), standard deviation sqrt(30)."""
    total = 0.0
    for counter in range(100):
        u = uniform(KEYS, counter, 8)
        assert 0 <= u.min() < u.max() < 1
        counts = np.histogram(u, bins=16, range=(0, 1))[0]
        total += ((counts - 2000) ** 2 / 2000).sum()
    assert abs(total - 1500) < 4 * np.sqrt(30 * 100)


def test_normal_numbers_have_mean_0_and_variance_1() -> None:
    z = normal(KEYS, 9, 8)
    assert abs(z.mean()) < 4 / np.sqrt(z.size)
    assert z.var() == pytest.approx(1, abs=0.03)
    assert np.abs(z).max() <= 3.5
    assert np.mean(np.abs(z) < 1) == pytest.approx(0.675, abs=0.02)


def test_lanes_counters_keys_and_episodes_are_independent() -> None:
    u = uniform(KEYS, 1, 4)
    columns = [*u.T, uniform(KEYS, 2, 1)[:, 0], uniform(keys_of(np.arange(4000), np.ones(4000, dtype=int)), 1, 1)[:, 0]]
    columns.append(np.roll(u[:, 0], 1))  # neighbouring seeds
    correlation = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)


def test_a_draw_depends_on_key_and_counter_only() -> None:
    whole = uniform(KEYS, np.arange(4000), 3)
    for i in (0, 17, 3999):
        np.testing.assert_array_equal(uniform(KEYS[i : i + 1], i, 3)[0], whole[i])
    np.testing.assert_array_equal(uniform(KEYS, 4, 8)[:, :3], uniform(KEYS, 4, 3))


def test_keys_do_not_collide() -> None:
    seeds, episodes = np.meshgrid(np.arange(300), np.arange(300))
    assert len(np.unique(keys_of(seeds.ravel(), episodes.ravel()))) == 90_000


def test_the_hash_is_splitmix64s() -> None:
    """First output of SplitMix64 seeded with 0, as published with its reference code."""
    assert int(mix(np.array([0x9E3779B97F4A7C15], dtype=np.uint64))[0]) == 0xE220A8397B1DCDAF
