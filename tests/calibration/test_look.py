"""What a track says against a simulation: outliers left out, noise found by direction, sizes not trusted too far."""

from __future__ import annotations

import numpy as np
import pytest

from melter.calibration.look import SIZE_LIMITS, SPOT_LIMITS, Look
from melter.calibration.track import Track

FRAMES = 1800
TIMES = np.linspace(0, 120, FRAMES)
PLACES = np.stack([0.17 * np.sin(8 * np.pi * TIMES / 120), 0.17 * np.sin(6 * np.pi * TIMES / 120)], axis=1)
SIZES = 0.05 + 0.03 * np.cos(4 * np.pi * TIMES / 120)
SLOPE = PLACES[None]
"""What one parameter does: a scale."""


def track_of(centre: np.ndarray, size: np.ndarray = SIZES) -> Track:
    moments = np.stack([size**2 / 2, 0 * size, size**2 / 2], axis=1)
    counters = np.zeros((2, 8))
    return Track(np.array([0.0, 120.0]), counters, TIMES, centre, moments, (0.4, 0.1), np.ones(FRAMES))


def judged(centre: np.ndarray, size: np.ndarray = SIZES, *, last: bool = True) -> Look:
    look = Look(track_of(centre, size))
    look.judge(PLACES, np.log(SIZES), SLOPE, np.zeros((1, FRAMES)), np.zeros(1), last=last)
    return look


@pytest.mark.parametrize("last", [False, True])
def test_frames_far_off_are_left_out_and_others_are_not(last: bool) -> None:
    rng = np.random.default_rng(2)
    centre = PLACES + 3e-4 * rng.standard_normal((FRAMES, 2))
    centre[[5, 700]] += [0.0, 0.02]
    look = judged(centre, last=last)
    assert np.flatnonzero(~look.good).tolist() == [5, 700]


def test_each_direction_has_its_own_noise() -> None:
    rng = np.random.default_rng(3)
    look = judged(PLACES + np.array([1e-4, 2e-3]) * rng.standard_normal((FRAMES, 2)))
    assert look.noise[1].white > 5 * look.noise[0].white


def test_a_map_that_is_bent_is_noise_that_does_not_average_out() -> None:
    """The same error at the same place, over and over: the parameter is known far less well than by white noise of that size."""
    rng = np.random.default_rng(4)

    def deviation(error_m: np.ndarray) -> float:
        look = judged(PLACES + error_m)
        rows = look.rows(PLACES, np.log(SIZES), SLOPE, np.zeros((1, FRAMES)))
        return float(np.sum(rows[:, 0] ** 2) ** -0.5)

    x, y = PLACES.T
    bent = 1e-3 * np.stack([np.sin(x / 0.05), np.cos(y / 0.05)], axis=1) + 1e-4 * rng.standard_normal((FRAMES, 2))
    white = bent.std() * rng.standard_normal((FRAMES, 2))
    assert deviation(bent) > 2 * deviation(white)


def test_the_size_is_never_trusted_to_less_than_a_tracker_is_good_for() -> None:
    look = judged(PLACES + 1e-9, SIZES * 1.0001)
    for noise, limits in zip(look.noise, (SPOT_LIMITS, SPOT_LIMITS, SIZE_LIMITS), strict=True):
        assert noise.place >= 0.999 * limits[0].place
    rows = look.rows(PLACES, np.log(SIZES), np.zeros((1, FRAMES, 2)), np.ones((1, FRAMES)))
    assert np.sum(rows[:, 0] ** 2) ** -0.5 > 0.02


def test_small_patches_and_unmeasured_ones_tell_no_size() -> None:
    size = np.where(TIMES < 60, np.nan, 0.01)
    look = judged(PLACES, size)
    rows = look.rows(PLACES, np.log(SIZES), SLOPE, np.ones((1, FRAMES)))
    assert np.isfinite(rows).all()
    assert len(rows) == 2 * (FRAMES // 20)
