"""One track's data against a simulation: which frames count, how noisy they are, and what is left, whitened."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from melter.calibration.noise import Blocks, Noise, noise_of, whitened
from melter.calibration.track import Track

Array = NDArray[np.float64]

OUTLIER = 6.0
"""Frames further off than this many robust standard deviations are left out."""
SIZE_FROM_M = 0.020
"""Patches larger than this (root of the summed variances) tell their size."""
SPOT_LIMITS = Noise(2e-5, 1e-4, 1e-4, 0.02), Noise(0.02, 0.02, 0.005, 0.5)
"""Least and most noise of the spot; the simulation itself is off by as much as the least."""
SIZE_LIMITS = Noise(0.002, 0.005, 0.03, 0.05), Noise(0.3, 0.1, 0.06, 0.5)
"""The same of the logarithm of the size. Trackers take patches for a few per cent too large or small, the same way for minutes; near the focus
the size depends on the machine so unevenly that a straight line through it would be taken for such an error."""
FIRST = Noise(5e-4, 2e-4, 2e-4)
"""What is taken for the spot's noise at first."""
ROBUST = 1 / 0.6745
"""Standard deviation of a Gaussian over the median distance from its middle."""


@dataclass(eq=False)
class Look:
    """One track, and where the fit stands on it."""

    track: Track
    good: NDArray[np.bool_] = field(init=False)
    """(k,) frames that count."""
    noise: tuple[Noise, Noise, Noise] = (FIRST, FIRST, SIZE_LIMITS[0])
    """Of x, y, and the logarithm of the size."""

    def __post_init__(self) -> None:
        self.good = np.ones(len(self.track.frame_s), dtype=bool)
        size = size_m(self.track.moments_m2)
        self._sized = size > SIZE_FROM_M
        self._log_size = np.log(np.maximum(size, 1e-3))
        self._settle()

    def _settle(self) -> None:
        """Blocks and roots of their covariances, for the frames that count now."""
        spots, sizes = self.good, self.good & self._sized
        track = self.track
        self._blocks = [
            Blocks.of(track.frame_s[used], track.centre_world_m[used], self._log_size[used], share[used])
            if used.any()
            else None
            for used, share in ((spots, track.share), (sizes, np.ones_like(track.share)))
        ]
        self._roots = [
            None if blocks is None else blocks.root(noise)
            for blocks, noise in zip((self._blocks[0], *self._blocks), self.noise, strict=True)
        ]

    def _channels(self, spot_m: Array, log_size: Array, centre: Array, size: Array) -> list[tuple[Blocks, Array]]:
        """Blocks of x, y and size with the means (b, p + 1) of slopes and, last, of what was seen less what was simulated."""
        made: list[tuple[Blocks, Array]] = []
        for axis in range(3):
            used, blocks = (self.good, self._blocks[0]) if axis < 2 else (self.good & self._sized, self._blocks[1])
            if blocks is None:
                continue
            slopes = centre[..., axis] if axis < 2 else size
            left = self.track.centre_world_m[:, axis] - spot_m[:, axis] if axis < 2 else self._log_size - log_size
            made.append((blocks, blocks.mean(np.concatenate([slopes[:, used].T, left[used, None]], axis=1))))
        return made

    def rows(self, spot_m: Array, log_size: Array, centre: Array, size: Array) -> Array:
        """Return whitened slopes and, last, misfits (r, p + 1), for what was simulated, spots (k, 2) and logarithms of sizes (k,).

        ``centre`` (p, k, 2) and ``size`` (p, k) are the slopes of these.
        """
        channels = self._channels(spot_m, log_size, centre, size)
        roots = [root for root in self._roots if root is not None]
        return np.concatenate([whitened(root, means) for root, (_, means) in zip(roots, channels, strict=True)])

    def judge(self, spot_m: Array, log_size: Array, centre: Array, size: Array, u: Array, *, last: bool) -> None:
        """Take the noise from what a linear fit around ``u`` (p,) leaves, and leave out what lies far off; ``last``: with all care.

        The others as for :meth:`rows`.
        """
        rows = self.rows(spot_m, log_size, centre, size)
        slopes, left = rows[:, :-1], rows[:, -1]
        step = np.linalg.solve(slopes.T @ slopes + np.eye(len(u)), slopes.T @ left - u)
        self.good = self._near(self.track.centre_world_m - spot_m - np.einsum("p,pki->ki", step, centre))
        self._settle()
        found = list(self.noise)
        for axis, (blocks, means) in enumerate(self._channels(spot_m, log_size, centre, size)):
            limits = SPOT_LIMITS if axis < 2 else SIZE_LIMITS
            slopes, left = means[:, :-1], means[:, -1]
            if last:
                found[axis] = noise_of(blocks, left + slopes @ u, limits, slopes)
            else:
                found[axis] = noise_of(blocks, left - slopes @ step, limits)
        self.noise = (found[0], found[1], found[2])
        self._settle()

    def _near(self, rest_m: Array) -> NDArray[np.bool_]:
        """(k,) frames that lie where a fit that leaves (k, 2) has them, as well as their like do."""
        share = self.track.share[:, None]
        white = ROBUST / np.sqrt(2) * np.median(np.abs(np.diff(rest_m / share, axis=0)), axis=0)
        spread = np.maximum(
            ROBUST * np.median(np.abs(rest_m - np.median(rest_m, axis=0)), axis=0), SPOT_LIMITS[0].white
        )
        return (np.abs(rest_m) / np.hypot(white * share, spread)).max(axis=1) < OUTLIER


def size_m(moments: Array) -> Array:
    """Return the root of the summed variances (...) of moments (..., 3); 0 where not measured."""
    return np.sqrt(np.nan_to_num(moments[..., 0] + moments[..., 2]))
