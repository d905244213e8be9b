"""How speed grows with cores: two models fitted to measured rates, and what they give for machines not at hand.

Amdahl (1967): a share of the work is done by one core alone. Gunther's universal scalability law (2008) adds that cores get in
each other's way: speed(n) / speed(1) = n / (1 + sigma (n - 1) + kappa n (n - 1)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from melter.errors import BadInput

PREDICTED = 16, 60, 192
"""Cores of machines that can be rented."""


@dataclass(frozen=True)
class Scaling:
    """A fitted law. ``kappa`` is 0 for Amdahl's."""

    law: str
    one_per_s: float
    """Rate of one core."""
    sigma: float
    """Share of the work that only one core does at a time."""
    kappa: float
    """Cost of cores getting in each other's way, per pair."""

    def rate(self, cores: float) -> float:
        """Return the rate of ``cores`` cores."""
        return self.one_per_s * cores / (1 + self.sigma * (cores - 1) + self.kappa * cores * (cores - 1))

    @property
    def best_cores(self) -> float:
        """Cores beyond which it gets no faster; infinite where it always does."""
        return float(np.sqrt((1 - self.sigma) / self.kappa)) if self.kappa > 0 else float("inf")

    @property
    def half_cores(self) -> float:
        """Cores at which each is worth half of one alone: where the curve bends. Infinite where that never is so."""
        b = self.sigma + self.kappa
        return 1 + 2 / (b + float(np.sqrt(b * b + 4 * self.kappa))) if b > 0 else float("inf")

    def table(self) -> dict[str, object]:
        """The law as plain values."""
        return {
            "law": self.law,
            "sigma": self.sigma,
            "kappa": self.kappa,
            "bends_at_cores": self.half_cores,
            "best_cores": self.best_cores,
            "predicted": {str(cores): self.rate(cores) for cores in PREDICTED},
        }


def fitted(cores: list[int], rates: list[float]) -> tuple[Scaling, Scaling]:
    """Return Amdahl's and Gunther's law through measured ``rates`` (1/s) of ``cores``; the first must be one core.

    Least squares of the slowdown n · rate(1) / rate(n) - 1, which both laws are linear in; coefficients are never negative.
    Raises BadInput for less than two different counts.
    """
    if not cores or cores[0] != 1 or len(set(cores)) < 2:
        raise BadInput(
            f"--threads {','.join(map(str, cores))}: must begin with 1 and hold another count to fit a curve"
        )
    n, rate = np.array(cores, dtype=float), np.array(rates)
    slowdown = n * rate[0] / rate - 1
    columns = np.stack([n - 1, n * (n - 1)], axis=1)
    alone, _ = nnls(columns[:, :1], slowdown)
    both, _ = nnls(columns, slowdown)
    one = float(rate[0])
    return (
        Scaling("Amdahl", one, float(alone[0]), 0.0),
        Scaling("universal scalability law", one, float(both[0]), float(both[1])),
    )
