"""Weather: wind on the lens with turbulence, gusts and a centre of pressure; clouds before the sun."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.env.noise import Keys, uniform
from melter.machine import Machine

Array = NDArray[np.float64]

AIR_KG_M3 = 1.2
"""At 20 °C."""
TURBULENCE_TIME_S, VEER_TIME_S, SLOPE_TIME_S, CLOUD_TIME_S = 2.0, 5.0, 2.0, 6.0
"""Correlation times of wind speed, its direction, its slope and cloud."""
VEER_RAD, SLOPE_RAD = 0.17, 0.08
"""Standard deviations of the wind's direction and of its angle to the ground."""
PRESSURE_SHIFT = 0.2
"""Centre of pressure ahead of the plate's middle as a share of its width, at grazing wind (Hoerner, ch. 3)."""
GUST_WINDOW_S, GUST_LENGTH_S, GUST_CHANCE = 8.0, 3.0, 0.4
"""In each window of time at most one gust, a raised cosine (IEC 61400-1 describes gusts of such shape)."""
CLOUD_EDGE = 6.0
"""Steepness of a cloud's edge."""
_WINDOW_DICE = 5_000_000


def weather_step(state: Array, period_s: float, normal: ArrayLike) -> Array:
    """Return (n, 4) turbulence, veer, slope and cloud, of unit variance, one period on; ``normal``: fresh numbers (n, 4)."""
    keep = np.exp(-period_s / np.array([TURBULENCE_TIME_S, VEER_TIME_S, SLOPE_TIME_S, CLOUD_TIME_S]))
    return keep * state + np.sqrt(1 - keep * keep) * np.asarray(normal)


def gust_shape(keys: Keys, t_s: Array) -> Array:
    """Return (n,) how far a gust is blown up at ``t_s`` (n,), from 0 to 1."""
    window = np.floor(t_s / GUST_WINDOW_S)
    dice = uniform(keys, _WINDOW_DICE + window.astype(np.int64), 2)
    middle = window * GUST_WINDOW_S + GUST_LENGTH_S / 2 + dice[:, 1] * (GUST_WINDOW_S - GUST_LENGTH_S)
    phase = np.minimum(np.abs(t_s - middle) / (GUST_LENGTH_S / 2), 1.0)
    return np.where(dice[:, 0] < GUST_CHANCE, 0.5 + 0.5 * np.cos(np.pi * phase), 0.0)


def normal_force_coefficient(sine: Array) -> Array:
    """Return the normal force coefficient of a square plate at an incidence with this sine, 0 to 1.

    Nearly straight at small angles, 1.17 face on. Source: Lindenburg, Investigation into rotor blade aerodynamics
    (ECN-C--03-025, 2003), stalled plates of small aspect ratio.
    """
    return 1.98 * (1 / (0.56 + 0.44 * sine) - 0.41) * sine


def wind_on_lens(
    machine: Machine, speed_m_s: Array, from_azimuth_rad: Array, slope_rad: Array, axis_world: Array
) -> tuple[Array, Array]:
    """Return (n, 3) force and (n, 3) torque about the lens's middle, for optical axes (n, 3), world frame.

    The wind blows from ``from_azimuth_rad`` (n,), clockwise from north, and rises by ``slope_rad`` (n,). Force: along the
    lens's normal, away from the wind; it acts ahead of the middle when the wind grazes.
    """
    level = np.cos(slope_rad)
    blowing = np.stack(
        [-level * np.sin(from_azimuth_rad), -level * np.cos(from_azimuth_rad), np.sin(slope_rad)], axis=1
    )
    cosine = blowing[:, 0] * axis_world[:, 0] + blowing[:, 1] * axis_world[:, 1] + blowing[:, 2] * axis_world[:, 2]
    area = machine.lens.short_edge_m * machine.lens.long_edge_m
    coefficient = normal_force_coefficient(np.abs(cosine)) * np.sign(cosine)
    force = (0.5 * AIR_KG_M3 * area * speed_m_s * speed_m_s * coefficient)[:, None] * axis_world
    ahead = -PRESSURE_SHIFT * np.sqrt(area) * blowing
    ax, ay, az, fx, fy, fz = *ahead.T, *force.T
    torque = np.stack([ay * fz - az * fy, az * fx - ax * fz, ax * fy - ay * fx], axis=1)
    return force, torque  # the part of ``blowing`` along the axis is parallel to the force and adds no torque


def sun_through_cloud(state: Array, share: Array) -> Array:
    """Return (n,) the share of the direct sun that passes: 1 in the clear; cloudy for about ``share`` (n,) of the time.

    Source of the normal quantile: Abramowitz and Stegun (1964), 26.2.23.
    """
    t = np.sqrt(-2 * np.log(np.clip(share, 1e-6, 0.5)))
    rise = 2.515517 + t * (0.802853 + t * 0.010328)
    threshold = t - rise / (1 + t * (1.432788 + t * (0.189269 + t * 0.001308)))
    passes = 1 / (1 + np.exp(np.clip(CLOUD_EDGE * (state - threshold), -50, 50)))
    return np.where(share > 0, passes, 1.0)
