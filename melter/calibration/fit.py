"""The machine that explains recorded runs best, with what was believed before: maximum a posteriori, by Gauss and Newton.

The misfit is what the camera saw less what the simulation says it would have seen, whitened (``noise.py``), and the prior's
unit Gaussian. Slopes are differences of simulations, all at once in one batch; those of quantities whose effect hardly
depends on the others are worked out once. The posterior is the Gaussian of the last slopes.
Source: Tarantola, Inverse Problem Theory (2005), ch. 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.calibration.forward import Forward, Motion
from melter.calibration.look import Look, size_m
from melter.calibration.noise import Noise
from melter.calibration.parameters import Parameters
from melter.calibration.track import Track

Array = NDArray[np.float64]

ROUNDS = 4
WHOLE_ROUND = 2
"""Round in which the slopes of STRAIGHT are worked out; before, these quantities stay as drawn."""
SHARES_DONE = (0.2, 0.38, 0.82, 0.98)
"""Of the time, after each round."""
STEP = 0.3
"""Prior standard deviations over which slopes are taken."""
DELAYS_S = tuple(0.01 * i for i in range(31))
"""From counters to picture, tried at first."""
SHARES = (1.0, 0.5, 0.2)
"""Of a Gauss-Newton step that are tried; the best is taken."""
SETTLED = 0.05
"""Largest change of a round, prior standard deviations, after which nothing more is tried."""
LIGHT_ONLY = (
    *("focal_length_m", "facet_error_mrad", "circumsolar_ratio", "bed_height_m", "sun_error_deg", "sun_rate"),
    *("seen_delay_s", "view_offset_m", "view_scale"),
)
"""Quantities that do not move the lens."""
STRAIGHT = ("pulley_m", "attachment_m", "drum_spread", "zero_tension_n", "centre_of_mass_m")
"""Quantities whose effect is nearly proportional: their slopes are worked out once."""
Say = Callable[[float, str], None]


@dataclass(frozen=True, eq=False)
class Posterior:
    """What is known of a machine after the fit."""

    parameters: Parameters
    u: Array
    """(p,) most likely machine; see :class:`melter.calibration.parameters.Parameters`."""
    covariance: Array
    """(p, p) of ``u``."""
    zeros_m: Array
    """(8,) cables' zeros; see :class:`melter.calibration.forward.Motion`."""
    zeros_slope: Array
    """(p, 8) their slopes."""
    tension_n: Array
    """(2, 8) lowest and highest tension of each cable along the runs."""
    noise: tuple[Noise, ...]
    """Of the spot's x and y (m), and of the logarithm of the patch's size, on the first run."""
    residual_m: float
    """RMS distance of what was seen from what the machine says, per axis, after the fit."""
    before_m: float
    """The same for the machine as drawn, before."""
    frames: int
    left_out: int


def fit(
    forward: Forward, parameters: Parameters, tracks: Sequence[Track], say: Say = lambda _share, _what: None
) -> Posterior:
    """Return what is known of the machine after ``tracks``; ``say`` is told the share done, and what comes next."""
    looks = [Look(track) for track in tracks]
    u = parameters.bounded(_first_guess(forward, parameters, looks))
    slopes = [_Slopes(forward, parameters, look.track) for look in looks]
    before_m, covariance = 0.0, np.eye(parameters.size)
    say(0.0, "simulating the drawing's neighbours")
    for number in range(ROUNDS):
        for slope, look in zip(slopes, looks, strict=True):
            slope.update(u, whole=number == WHOLE_ROUND)
            look.judge(slope.spot_m, slope.log_size, slope.centre, slope.size, u, last=number >= WHOLE_ROUND)
        before_m = before_m or _rms_m(looks, slopes)
        rows, left = _normal(looks, slopes)
        covariance = np.asarray(np.linalg.inv(rows.T @ rows + np.eye(parameters.size)), dtype=np.float64)
        step = covariance @ (rows.T @ left - u)
        say(SHARES_DONE[number], f"round {number + 1} of {ROUNDS}: off by {1e3 * _rms_m(looks, slopes):.2f} mm")
        taken = _best_share(forward, parameters, looks, u, step)
        u = parameters.bounded(u + taken * step)
        if number > WHOLE_ROUND and float(np.abs(taken * step).max()) < SETTLED:
            break
    return _posterior(forward, parameters, looks, u, covariance, slopes[0].zeros, before_m)


def _posterior(
    forward: Forward,
    parameters: Parameters,
    looks: list[Look],
    u: Array,
    covariance: Array,
    zeros_slope: Array,
    before_m: float,
) -> Posterior:
    """What is known, with the machine ``u`` simulated once more."""
    motions = [forward.motion(parameters.values(u), look.track) for look in looks]
    finals = [_misfit(forward, parameters, look, u, motion)[0] for look, motion in zip(looks, motions, strict=True)]
    spots = np.concatenate([spot[look.good] for spot, look in zip(finals, looks, strict=True)])
    tension = np.concatenate([motion.tension_n for motion in motions])
    return Posterior(
        parameters=parameters,
        u=u,
        covariance=covariance,
        zeros_m=motions[0].zeros_m[0],
        zeros_slope=zeros_slope,
        tension_n=np.stack([tension[:, 0].min(axis=0), tension[:, 1].max(axis=0)]),
        noise=looks[0].noise,
        residual_m=float(np.sqrt(np.mean(spots**2))),
        before_m=before_m,
        frames=int(sum(look.good.sum() for look in looks)),
        left_out=int(sum((~look.good).sum() for look in looks)),
    )


class _Slopes:
    """Slopes of what is seen along one track, kept between rounds."""

    def __init__(self, forward: Forward, parameters: Parameters, track: Track) -> None:
        self._forward, self._parameters, self._track = forward, parameters, track
        names = np.array([quantity.name for quantity in parameters.quantities for _ in range(quantity.size)])
        self._light = np.flatnonzero(np.isin(names, LIGHT_ONLY))
        self._once = np.flatnonzero(np.isin(names, STRAIGHT))
        self._always = np.setdiff1d(np.arange(len(names)), np.concatenate([self._light, self._once]))
        frames = len(track.frame_s)
        self.centre, self.size = np.zeros((len(names), frames, 2)), np.zeros((len(names), frames))
        self.zeros = np.zeros((len(names), 8))
        self.spot_m, self.log_size = np.zeros((frames, 2)), np.zeros(frames)

    def update(self, u: Array, *, whole: bool) -> None:
        """Work the slopes out at ``u`` (p,), those of STRAIGHT too if ``whole``."""
        moved = np.concatenate([self._once, self._always]) if whole else self._always
        values = self._parameters.values(np.concatenate([u[None], u + STEP * np.eye(len(u))[moved]]))
        motion = self._forward.motion(values, self._track)
        seen = self._forward.seen(motion, values, self._track)
        self.spot_m, self.log_size = seen.centre_world_m[0], np.log(size_m(seen.moments_m2[0]))
        self._take(moved, seen.centre_world_m[1:], seen.moments_m2[1:])
        self.zeros[moved] = (motion.zeros_m[1:] - motion.zeros_m[0]) / STEP
        values = self._parameters.values(u + STEP * np.eye(len(u))[self._light])
        seen = self._forward.seen(motion, values, self._track, np.zeros(len(self._light), dtype=np.intp))
        self._take(self._light, seen.centre_world_m, seen.moments_m2)

    def _take(self, which: NDArray[np.intp], centre: Array, moments: Array) -> None:
        self.centre[which] = (centre - self.spot_m) / STEP
        self.size[which] = (np.log(size_m(moments)) - self.log_size) / STEP


def _first_guess(forward: Forward, parameters: Parameters, looks: list[Look]) -> Array:
    """(p,) the prior's middle with the delay that goes best with the first track: nothing else bends the misfit as much."""
    at, track = parameters.slice_of("seen_delay_s").start, looks[0].track
    tried = np.zeros((len(DELAYS_S), parameters.size))
    tried[:, at] = (np.array(DELAYS_S) - parameters.mean[at]) / parameters.spread[at]
    motion = forward.motion(parameters.values(tried[:1]), track)
    seen = forward.seen(motion, parameters.values(tried), track, np.zeros(len(tried), dtype=np.intp))
    return tried[int(np.argmin(np.var(track.centre_world_m - seen.centre_world_m, axis=1).sum(axis=1)))]


def _normal(looks: list[Look], slopes: list[_Slopes]) -> tuple[Array, Array]:
    """Whitened slopes (r, p) and misfits (r,) of all tracks."""
    parts = [
        look.rows(slope.spot_m, slope.log_size, slope.centre, slope.size)
        for look, slope in zip(looks, slopes, strict=True)
    ]
    rows = np.concatenate(parts)
    return rows[:, :-1], rows[:, -1]


def _rms_m(looks: list[Look], slopes: list[_Slopes]) -> float:
    rest = [(look.track.centre_world_m - s.spot_m)[look.good] for look, s in zip(looks, slopes, strict=True)]
    return float(np.sqrt(np.mean(np.concatenate(rest) ** 2)))


def _misfit(forward: Forward, parameters: Parameters, look: Look, u: Array, motion: Motion) -> tuple[Array, float]:
    """Spot misfit (k, 2) and whitened squared misfit of one machine ``u`` (p,) on one track."""
    seen = forward.seen(motion, parameters.values(u), look.track)
    centre, size = seen.centre_world_m[0], np.log(size_m(seen.moments_m2[0]))
    rows = look.rows(centre, size, np.zeros((0, *centre.shape)), np.zeros((0, len(size))))
    return look.track.centre_world_m - centre, float(np.sum(rows**2))


def _best_share(forward: Forward, parameters: Parameters, looks: list[Look], u: Array, step: Array) -> float:
    """Share of a step after which the whole misfit is smallest, of SHARES."""
    tried = [parameters.bounded(u + share * step) for share in SHARES]
    cost = np.array([float(v @ v) for v in tried])
    for look in looks:
        motion = forward.motion(parameters.values(np.stack(tried)), look.track)
        for i, v in enumerate(tried):
            one = Motion(motion.poses[:, :, i : i + 1], motion.first_s, motion.zeros_m, motion.tension_n)
            cost[i] += _misfit(forward, parameters, look, v, one)[1]
    return SHARES[int(np.argmin(np.where(np.isfinite(cost), cost, np.inf)))]
