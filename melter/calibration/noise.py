"""What a camera's spot has of its own: white noise, what comes and goes within seconds, and what belongs to a place.

Wind on the lens comes and goes. The sand's relief, the map of the bed, shading, and what a simulation leaves out are the same whenever the
spot is at the same place of the bed with the same size: looked at again, they do not average out. Frames are taken together a second at
a time, so that the covariance of all blocks can be written down whole.
Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), ch. 2 and 4; Kennedy and O'Hagan, J. R. Stat. Soc. B 63 (2001).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.optimize import minimize

Array = NDArray[np.float64]

WANDER_TIME_S = 2.0
"""Time constant of what comes and goes: the wind's."""
FRAMES = 20
"""Frames to a block, about a second. How a lens swings between two of them depends on so much that slopes mean little there: fits to
every frame took stiffness for far better known than it was."""
BLOCKS_MOST = 600
"""Longer runs have longer blocks."""
SIZE_REACH_M = 0.2
"""A patch e times as large counts as so far away."""
REACH_M, REACH_SPREAD = 0.1, 0.7
"""Over how much of the bed a place's error hangs together: what is believed before, and the spread of its logarithm."""


@dataclass(frozen=True)
class Noise:
    """Standard deviations, in the rows' unit."""

    white: float
    """Of one typical frame."""
    wander: float
    """Of what comes and goes."""
    place: float
    """Of what belongs to a place."""
    reach_m: float = REACH_M
    """Over how much of the bed that hangs together."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """Frames (k) in order, taken together in blocks (b)."""

    starts: NDArray[np.intp]
    """(b,) first frame of each block."""
    weight: Array
    """(k,) of each frame in the mean of its block."""
    white: Array
    """(b,) white noise of the mean over that of one typical frame."""
    apart_s: Array
    """(b, b) time between blocks."""
    apart_m: Array
    """(b, b) distance of their places."""

    @classmethod
    def of(cls, t_s: Array, centre_m: Array, log_size: Array, share: Array) -> Blocks:
        """Return the blocks of frames at times (k,), patches at (k, 2) with sizes' logarithms (k,); ``share`` (k,): white noise over the typical."""
        frames = max(FRAMES, -(-len(t_s) // BLOCKS_MOST))
        starts = np.arange(max(1, len(t_s) // frames)) * frames
        weight = 1 / share**2
        whole = np.add.reduceat(weight, starts)
        weight = weight / np.repeat(whole, np.diff(np.append(starts, len(t_s))))
        features = np.concatenate([t_s[:, None], centre_m, SIZE_REACH_M * log_size[:, None]], axis=1)
        means = np.add.reduceat(features * weight[:, None], starts, axis=0)
        apart = np.abs(means[:, None] - means[None])
        return cls(starts, weight, 1 / np.sqrt(whole), apart[..., 0], np.sqrt((apart[..., 1:] ** 2).sum(axis=-1)))

    def mean(self, rows: Array) -> Array:
        """Return the means (b, ...) of rows (k, ...)."""
        weight = self.weight.reshape(-1, *[1] * (rows.ndim - 1))
        return np.add.reduceat(rows * weight, self.starts, axis=0)

    def root(self, noise: Noise) -> Array:
        """Return the lower root (b, b) of the blocks' covariance."""
        r = np.sqrt(3) * self.apart_m / noise.reach_m
        covariance = noise.wander**2 * np.exp(-self.apart_s / WANDER_TIME_S) + noise.place**2 * (1 + r) * np.exp(-r)
        covariance[np.diag_indices_from(covariance)] += (noise.white * self.white) ** 2 + 1e-9 * covariance[0, 0]
        return np.linalg.cholesky(covariance)


def whitened(root: Array, rows: Array) -> Array:
    """Return rows (b, ...) with the noise's correlation taken out and a standard deviation of 1."""
    return np.asarray(solve_triangular(root, rows.reshape(len(rows), -1), lower=True, check_finite=False)).reshape(
        rows.shape
    )


def noise_of(blocks: Blocks, residual: Array, limits: tuple[Noise, Noise], slopes: Array | None = None) -> Noise:
    """Return the noise under which residuals (b,) are most likely, within the least and most of ``limits``.

    ``slopes`` (b, p): of the residuals, by parameters with a unit Gaussian as prior, whatever these are; without
    them what was fitted to the residuals would be missing from the noise.
    Source of the latter: Patterson and Thompson, Biometrika 58 (1971).
    """
    columns = residual[:, None] if slopes is None else np.concatenate([residual[:, None], slopes], axis=1)
    low, high = (np.log([noise.white, noise.wander, noise.place, noise.reach_m]) for noise in limits)

    def noise_at(x: Array) -> Noise:
        white, wander, place, reach_m = np.exp(np.clip(x, low, high)).tolist()
        return Noise(white, wander, place, reach_m)

    def unlikely(x: Array) -> float:
        noise = noise_at(x)
        root = blocks.root(noise)
        rows = whitened(root, columns)
        left, rows = rows[:, 0], rows[:, 1:]
        cost = float(np.log(np.diag(root)).sum()) + 0.5 * float(left @ left)
        cost += 0.5 * (np.log(noise.reach_m / REACH_M) / REACH_SPREAD) ** 2 + float(
            np.sum((x - np.clip(x, low, high)) ** 2)
        )
        if not rows.shape[1]:
            return cost
        inverse = rows.T @ rows + np.eye(rows.shape[1])
        gained = rows.T @ left
        return cost + 0.5 * (float(np.linalg.slogdet(inverse)[1]) - float(gained @ np.linalg.solve(inverse, gained)))

    start = np.clip(np.log(max(float(residual.std()), 1e-9)) - np.array([0.0, 0.7, 0.7, 0.0]), low, high)
    start[3] = np.log(REACH_M)
    simplex = start + np.vstack([np.zeros(4), np.diag([-1.0, -1.0, -1.0, 0.7])])
    options = {"maxfev": 150, "xatol": 0.05, "fatol": 0.1, "initial_simplex": simplex}
    return noise_at(minimize(unlikely, start, method="Nelder-Mead", options=options).x)
