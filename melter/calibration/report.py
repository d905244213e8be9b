"""What a fit found, quantity by quantity, in the units of machine files, with how well it is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.calibration.fit import Posterior
from melter.calibration.parameters import Parameters
from melter.env.transmission import drum_gains

Array = NDArray[np.float64]
Values = dict[str, Array]

INTERVAL = 1.645
"""Half a 90 % interval, in standard deviations."""
DELAY, READING_AGE_S = "delay, counters to picture", 0.0015
"""A reading of the counters is 1 to 6 ms old when it arrives; this standard deviation is added to what the fit says of the delay."""
HELD_N = 150.0
"""Tension at which pulley friction is told: the middle of the band; loss and constant part can hardly be told apart."""


@dataclass(frozen=True)
class Finding:
    """One quantity; lists have one number per winch, or one."""

    name: str
    unit: str
    value: list[float]
    deviation: list[float]
    """Standard deviation after the fit."""
    prior: list[float]
    """Standard deviation before."""

    @property
    def share(self) -> float:
        """How much of the prior's spread is left, 0 to 1; near 1 the runs tell nothing."""
        return float(np.median(np.array(self.deviation) / np.maximum(self.prior, 1e-300)))


def findings(parameters: Parameters, u: Array, zeros_m: Array, posterior: Posterior | None = None) -> list[Finding]:
    """Return the quantities of a machine ``u`` (p,) with cables' zeros (8,); without a posterior, with deviations of 0."""
    covariance = np.zeros((parameters.size, parameters.size)) if posterior is None else posterior.covariance
    made = [_made(parameters, u, covariance, *row) for row in _quantities(parameters)]
    slope = np.zeros((parameters.size, len(zeros_m))) if posterior is None else posterior.zeros_slope
    known, before = _spread(slope.T, covariance), _spread(slope.T, np.eye(parameters.size))
    return [*made, Finding("cable zero", "m", zeros_m.tolist(), known.tolist(), before.tolist())]


def _quantities(parameters: Parameters) -> list[tuple[str, str, Callable[[Values], Array]]]:
    radius_m = parameters.machine.drive.drum_radius_m

    def plain(name: str) -> Callable[[Values], Array]:
        return lambda values: values[name]

    return [
        ("cable stiffness", "N", plain("cable_stiffness_n")),
        ("drum radius", "m", lambda values: radius_m * drum_gains(values)),
        (DELAY, "s", lambda values: values["seen_delay_s"] + values["motor_lag_s"]),
        ("motor lag", "s", plain("motor_lag_s")),
        (
            f"pulley friction at {HELD_N:g} N",
            "N",
            lambda values: values["pulley_friction_n"] + HELD_N * values["pulley_loss"],
        ),
        ("moving mass", "kg", plain("moving_mass_kg")),
        ("cable creep", "1/100 N", plain("cable_creep")),
        ("drum build-up", "1/m", plain("drum_build_up_per_m")),
        ("pole flexibility", "m/N", plain("pole_flex_m_per_n")),
        ("focal length", "m", plain("focal_length_m")),
        ("bed height", "m", plain("bed_height_m")),
        ("pulley positions", "m", plain("pulley_m")),
        ("attachment positions", "m", plain("attachment_m")),
        ("lens position when trimmed", "m", plain("zero_position_m")),
        ("lens attitude when trimmed", "rad", plain("zero_attitude_rad")),
    ]


def _made(
    parameters: Parameters, u: Array, covariance: Array, name: str, unit: str, of: Callable[[Values], Array]
) -> Finding:
    """A quantity, and its spread by its slope at ``u``."""
    step = 1e-4
    values = of(parameters.values(np.concatenate([u[None], u + step * np.eye(len(u))])))
    slope = (values[1:] - values[0]).T / step
    known, before = _spread(slope, covariance), _spread(slope, np.eye(len(u)))
    if name == DELAY and covariance.any():
        known = np.hypot(known, READING_AGE_S)
    return Finding(name, unit, values[0].tolist(), known.tolist(), before.tolist())


def _spread(slope: Array, covariance: Array) -> Array:
    """(n,) standard deviations of what has slopes (n, p)."""
    return np.sqrt(np.maximum(np.einsum("np,pq,nq->n", slope, covariance, slope), 0.0))
