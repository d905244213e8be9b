"""Noise that is white, and noise that comes and goes: taken out and found."""

from __future__ import annotations

import numpy as np
import pytest

from melter.calibration.noise import WANDER_TIME_S, noise_of, whitened

TIMES = np.sort(np.random.default_rng(1).uniform(0, 150, 3000))


def made(white: float, wander: float, seed: int, columns: int = 2) -> np.ndarray:
    """Residuals of known noise."""
    rng = np.random.default_rng(seed)
    keep = np.exp(-np.diff(TIMES, prepend=TIMES[0] - 100) / WANDER_TIME_S)
    slow = np.zeros((len(TIMES), columns))
    state = np.zeros(columns)
    for k, share in enumerate(keep):
        state = share * state + np.sqrt(1 - share**2) * wander * rng.standard_normal(columns)
        slow[k] = state
    return slow + white * rng.standard_normal(slow.shape)


def test_white_noise_is_only_scaled() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 3))
    assert whitened(rows, np.arange(50.0), np.full(50, 0.5), 1e-12) == pytest.approx(rows / 0.5)


def test_whitened_noise_is_white() -> None:
    rows = whitened(made(3e-4, 5e-4, 2), TIMES, np.full(len(TIMES), 3e-4), 5e-4)
    assert rows.std(axis=0) == pytest.approx(1.0, abs=0.05)
    for lag in (1, 5, 30):
        assert abs(np.mean(rows[lag:] * rows[:-lag])) < 0.06


def test_agrees_with_the_whole_covariance() -> None:
    times, white, wander = TIMES[:40], np.linspace(1, 2, 40), 1.5
    apart = np.abs(times[:, None] - times)
    covariance = wander**2 * np.exp(-apart / WANDER_TIME_S) + np.diag(white**2)
    rows = np.random.default_rng(4).standard_normal(40)
    ours = whitened(rows[:, None], times, white, wander)[:, 0]
    assert ours @ ours == pytest.approx(rows @ np.linalg.solve(covariance, rows))


@pytest.mark.parametrize(("white", "wander"), [(2e-4, 4e-4), (8e-4, 1e-4)])
def test_noise_is_found(white: float, wander: float) -> None:
    found = noise_of(made(white, wander, 5), TIMES, np.ones(len(TIMES)))
    assert found[0] == pytest.approx(white, rel=0.1)
    assert found[1] == pytest.approx(wander, rel=0.5)


def test_what_parameters_may_explain_is_still_noise() -> None:
    """Slow columns fitted to slow noise take some of it away; the noise is found as if they had not."""
    residual = made(2e-4, 4e-4, 6)
    phase = 2 * np.pi * np.outer(TIMES / TIMES[-1], np.arange(1, 31))
    basis = np.concatenate([np.sin(phase), np.cos(phase)], axis=1) * 1e-3
    slopes = np.stack([basis, basis], axis=1)
    left = residual - basis @ np.linalg.lstsq(basis, residual, rcond=None)[0]
    share = np.ones(len(TIMES))
    naive, careful = noise_of(left, TIMES, share)[1], noise_of(residual, TIMES, share, slopes)[1]
    assert naive < 0.97 * careful
    assert careful == pytest.approx(4e-4, rel=0.3)
