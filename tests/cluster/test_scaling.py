"""The scaling laws: they find what made the figures, and never promise more than that."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from melter.cluster.scaling import PREDICTED, Scaling, fitted
from melter.errors import BadInput

CORES = [1, 2, 3, 4, 8]


@given(sigma=st.floats(0, 0.5), kappa=st.floats(0, 0.02), one=st.floats(10, 1e6))
def test_a_law_is_found_from_its_own_figures(sigma: float, kappa: float, one: float) -> None:
    law = Scaling("x", one, sigma, kappa)
    _, usl = fitted(CORES, [law.rate(n) for n in CORES])
    assert usl.sigma == pytest.approx(sigma, abs=1e-6)
    assert usl.kappa == pytest.approx(kappa, abs=1e-6)
    amdahl, _ = fitted(CORES, [Scaling("x", one, sigma, 0.0).rate(n) for n in CORES])
    assert amdahl.sigma == pytest.approx(sigma, abs=1e-6)


@given(rates=st.lists(st.floats(1, 1e6), min_size=5, max_size=5))
def test_whatever_was_measured_nothing_impossible_is_promised(rates: list[float]) -> None:
    for law in fitted(CORES, rates):
        assert law.sigma >= 0
        assert law.kappa >= 0
        for cores in PREDICTED:
            assert 0 < law.rate(cores) <= cores * rates[0] * (1 + 1e-9)


@given(sigma=st.floats(0.001, 0.5), kappa=st.floats(0, 0.02))
def test_where_it_bends_and_where_it_ends(sigma: float, kappa: float) -> None:
    law = Scaling("x", 1.0, sigma, kappa)
    assert law.rate(law.half_cores) == pytest.approx(law.half_cores / 2)
    assume(kappa > 1e-6)
    best = law.best_cores
    assert law.rate(best) >= max(law.rate(best * 0.9), law.rate(best * 1.1)) - 1e-9


def test_amdahl_s_own_example() -> None:
    """5 % alone: 20 times as fast at most."""
    law = Scaling("Amdahl", 1.0, 0.05, 0.0)
    assert law.rate(1e9) == pytest.approx(20, rel=1e-6)
    assert law.best_cores == np.inf


@pytest.mark.parametrize("cores", [[], [1], [2, 4], [1, 1]])
def test_too_few_counts(cores: list[int]) -> None:
    with pytest.raises(BadInput, match="--threads"):
        fitted(cores, [1.0] * len(cores))
