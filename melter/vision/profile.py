"""A smooth bright patch as a model: an elliptical generalised Gaussian fitted to linear light on the bed.

    light(p) = A exp(-q^b),  q = |U (p - c)|^2,  U upper triangular

b = 1 is a Gaussian, larger b a flat top. Saturated pixels only say "at least"; pixels much darker than the model count
little (something hides them). Residuals are logarithmic, so that the flanks of a saturated patch and the core of an
unsaturated one both tell. Second moment of such a profile: Nadarajah, A generalized normal distribution (2005).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import lgamma

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MODEL_ERROR = 0.10
"""Relative departure of real patches from the model."""
DARKER_LIMIT = 10.0
"""Standard deviations: a pixel that is darker than the model by more than this is rather hidden than badly modelled."""
BRIGHTER_LIMIT = 8.0
"""The same for brighter pixels, which nothing that hides explains; glints and texture do."""
ITERATIONS = 14
SHAPE_PRIOR = (0.10, 0.5)
"""Mean and standard deviation of ln b: patches near focus are slightly flatter than a Gaussian."""
ROUND_PRIOR_STD = 0.25
"""Of the logarithm of the axis ratio, and of the shear."""
PEAK_PRIOR_STD = 0.15
"""Of the logarithm of a partly hidden patch's peak over the brightest that is seen of it."""
FLUX_PRIOR_STD = 0.35
"""Of the logarithm of the patch's power, as told by the lens and the sunlit sand."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Pixels to fit: flat arrays."""

    x_m: Array
    y_m: Array
    light: Array
    """Linear light above background."""
    saturated: NDArray[np.bool_]
    noise: float
    """Standard deviation of the light of one dark pixel."""
    worth: float = 1.0
    """Weight of all of them against what is known beforehand: neighbours depart from the model together."""


@dataclass(frozen=True, eq=False)
class Profile:
    """A fitted patch."""

    parameters: Array
    """(7,) ln A, x, y, ln U11, U12, ln U22, ln b."""
    covariance: Array
    """(7, 7)"""

    @property
    def centre_m(self) -> Array:
        """(2,) on the bed."""
        return self.parameters[1:3]

    @property
    def moments_m2(self) -> Array:
        """(2, 2) second central moments."""
        return _moments(self.parameters)

    def light_at(self, x_m: NDArray[np.float32], y_m: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the model's light at bed points."""
        t = self.parameters
        dx, dy = x_m - np.float32(t[1]), y_m - np.float32(t[2])
        s1 = np.float32(np.exp(t[3])) * dx + np.float32(t[4]) * dy
        s2 = np.float32(np.exp(t[5])) * dy
        q = np.maximum(s1 * s1 + s2 * s2, np.float32(1e-12))
        return np.exp(np.float32(t[0]) - np.minimum(q ** np.float32(np.exp(t[6])), np.float32(60)))

    @property
    def peak(self) -> float:
        """Linear light at the centre."""
        return float(np.exp(self.parameters[0]))


@dataclass(frozen=True, eq=False)
class _Known:
    """What is known before the fit."""

    log_flux: float | None
    log_peak: float | None
    shape: tuple[Array, float] | None


def log_flux(theta: Array) -> float:
    """Return the logarithm of the light integrated over the bed, full scale times m²."""
    b = float(np.exp(theta[6]))
    return float(theta[0] - theta[3] - theta[5]) + np.log(np.pi / b) + lgamma(1 / b)


def start_from(centre_m: Array, moments_m2: Array, peak: float, shape: float = 1.1) -> Array:
    """Return parameters of a profile with these moments."""
    b = shape
    spread = 0.5 * np.exp(lgamma(2 / b) - lgamma(1 / b))
    u = np.linalg.cholesky(np.linalg.inv(moments_m2 / spread)).T
    return np.array([np.log(peak), *centre_m, np.log(u[0, 0]), u[0, 1], np.log(u[1, 1]), np.log(b)])


def fit_profile(
    samples: Samples,
    start: Array,
    *,
    log_flux_expected: float | None = None,
    log_peak_expected: float | None = None,
    shape_known: tuple[Array, float] | None = None,
) -> Profile:
    """Return the profile that fits the samples best, from ``start`` (7,).

    ``log_flux_expected`` and ``log_peak_expected`` steady the amplitude where much is hidden or saturated;
    ``shape_known`` is a profile's parameters and how far (relative) its size and amplitude may have changed since.
    """
    floor = max(3 * samples.noise, 0.01 * float(samples.light.max(initial=0.0)), 1e-5)
    seen = np.log(np.maximum(samples.light, 0) + floor)
    sigma = np.sqrt((samples.noise / (np.maximum(samples.light, 0) + floor)) ** 2 + MODEL_ERROR**2)
    unit, known = _unit(start), _Known(log_flux_expected, log_peak_expected, shape_known)

    def equations(theta: Array) -> tuple[float, Array, Array]:
        return _normal_equations(samples, seen, sigma, floor, theta, unit, known)

    theta, normal = _descend(equations, start, unit)
    return Profile(theta, _covariance(normal, unit))


def _covariance(normal: Array, unit: Array) -> Array:
    return np.linalg.pinv(normal) * np.outer(unit, unit)


def _descend(
    equations: Callable[[Array], tuple[float, Array, Array]], start: Array, unit: Array
) -> tuple[Array, Array]:
    """Levenberg and Marquardt's way down; returns parameters and scaled normal matrix."""
    theta, damping = start, 1e-3
    cost, a, g = equations(theta)
    for _ in range(ITERATIONS):
        step = np.linalg.solve(a + damping * np.diag(np.diag(a)), -g)
        step = step * min(1.0, 1.5 / float(np.abs(step).max()))
        new = theta + step * unit
        new[6] = np.clip(new[6], -1.0, 2.3)
        trial = equations(new)
        if np.isfinite(trial[0]) and trial[0] <= cost:
            small = np.abs(step).max() < 1e-3 or cost - trial[0] < 1e-4 * cost
            theta, (cost, a, g), damping = new, trial, max(damping * 0.2, 1e-6)
            if small:
                break
        else:
            damping *= 8
            if damping > 1e6:
                break
    return theta, a


def _unit(start: Array) -> Array:
    """Step sizes that make all parameters about equally strong: the patch's size for the centre, U for the shear."""
    size = float(np.exp(-(start[3] + start[5]) / 2))
    return np.array([1.0, size, size, 1.0, 1 / size, 1.0, 1.0])


def _model(samples: Samples, theta: Array) -> tuple[Array, Array, Array, Array, Array, Array]:
    dx, dy = samples.x_m - theta[1], samples.y_m - theta[2]
    s1 = np.exp(theta[3]) * dx + theta[4] * dy
    s2 = np.exp(theta[5]) * dy
    q = np.maximum(s1 * s1 + s2 * s2, 1e-12)
    qb = np.minimum(q ** np.exp(theta[6]), 60.0)
    return np.exp(theta[0] - qb), s1, s2, dx, dy, qb


def _normal_equations(
    samples: Samples,
    seen: Array,
    sigma: Array,
    floor: float,
    theta: Array,
    unit: Array,
    known: _Known,
) -> tuple[float, Array, Array]:
    """Robust cost, its Gauss-Newton matrix and gradient in scaled parameters."""
    light, s1, s2, dx, dy, qb = _model(samples, theta)
    r = np.log(light + floor) - seen
    r[samples.saturated] = np.minimum(r[samples.saturated], 0)
    z = r / sigma
    share = 1 / (1 + (z / np.where(z > 0, DARKER_LIMIT, BRIGHTER_LIMIT)) ** 2)
    weight = np.where(z > 0, share * share, share)
    cost = float(np.sum(np.where(z > 0, 0.5 * z * z * share, -0.5 * BRIGHTER_LIMIT**2 * np.log(share))))
    b = float(np.exp(theta[6]))
    q = np.maximum(s1 * s1 + s2 * s2, 1e-12)
    base = light / (light + floor) / sigma
    base = np.where(samples.saturated & (r >= 0), 0.0, base)
    dq = -b * qb / q
    e3, e5 = float(np.exp(theta[3])), float(np.exp(theta[5]))
    columns = np.stack(
        [
            np.ones_like(light),
            dq * (-2 * s1 * e3),
            dq * (-2 * (s1 * theta[4] + s2 * e5)),
            dq * (2 * s1 * e3 * dx),
            dq * (2 * s1 * dy),
            dq * (2 * s2 * e5 * dy),
            -qb * np.log(q) * b,
        ]
    )
    columns *= base
    columns *= unit[:, None]
    a = samples.worth * ((columns * weight) @ columns.T)
    g = samples.worth * (columns @ (weight * z))
    cost *= samples.worth
    for row, value, std in _priors(theta, unit, known):
        cost += 0.5 * (value / std) ** 2
        a += np.outer(row, row) / std**2
        g += row * value / std**2
    return cost, a + 1e-9 * np.eye(7), g


def _priors(theta: Array, unit: Array, known: _Known) -> list[tuple[Array, float, float]]:
    """(scaled gradient, residual, standard deviation) of what is known beforehand."""
    e = np.eye(7)
    size_u = float(np.exp((theta[3] + theta[5]) / 2))
    rows: list[tuple[Array, float, float]] = [
        (e[6], float(theta[6]) - SHAPE_PRIOR[0], SHAPE_PRIOR[1]),
        (e[3] - e[5], float(theta[3] - theta[5]), ROUND_PRIOR_STD),
        (e[4] * unit[4] / size_u, float(theta[4]) / size_u, ROUND_PRIOR_STD),
    ]
    if known.log_flux is not None:
        rows.append((e[0] - e[3] - e[5], log_flux(theta) - known.log_flux, FLUX_PRIOR_STD))
    if known.log_peak is not None:
        rows.append((e[0], float(theta[0]) - known.log_peak, PEAK_PRIOR_STD))
    if known.shape is not None:
        before, change = known.shape
        size_u = float(np.exp((before[3] + before[5]) / 2))
        for i in (0, 3, 5, 6):
            rows.append((e[i], float(theta[i] - before[i]), change))
        rows.append((e[4] * unit[4] / size_u, float(theta[4] - before[4]) / size_u, change))
    return rows


def _moments(theta: Array) -> Array:
    b = float(np.exp(theta[6]))
    spread = 0.5 * np.exp(lgamma(2 / b) - lgamma(1 / b))
    u = np.array([[np.exp(theta[3]), theta[4]], [0.0, np.exp(theta[5])]])
    inverse = np.linalg.inv(u)
    return spread * inverse @ inverse.T
