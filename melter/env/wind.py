"""Wind on the lens: gusts as a first-order process, force along the lens's normal."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.machine import Machine

Array = NDArray[np.float64]

AIR_KG_M3, DRAG = 1.2, 1.2
"""Air density at 20 °C; normal force coefficient of a flat plate (Hoerner, Fluid-Dynamic Drag, ch. 3)."""
GUST_TIME_S = 2.0
"""Correlation time of the wind speed."""


def next_gust(gust: Array, period_s: float, normal: ArrayLike) -> Array:
    """Return the gusts (unit variance) one period on; ``normal``: fresh numbers of variance 1, same shape."""
    keep = np.exp(-period_s / GUST_TIME_S)
    return keep * gust + np.sqrt(1 - keep * keep) * np.asarray(normal)


def wind_force_world_n(
    machine: Machine, mean_m_s: ArrayLike, turbulence: ArrayLike, gust: Array, azimuth_rad: ArrayLike, axis_world: Array
) -> Array:
    """Return the (..., 3) force on lenses with optical axes (..., 3), by the wind's component along them.

    The wind blows from ``azimuth_rad``, clockwise from north; its speed is mean × (1 + turbulence × gust), never negative.
    """
    speed = np.asarray(mean_m_s) * np.maximum(1 + np.asarray(turbulence) * gust, 0.0)
    along = -speed * (np.sin(azimuth_rad) * axis_world[..., 0] + np.cos(azimuth_rad) * axis_world[..., 1])
    area = machine.lens.short_edge_m * machine.lens.long_edge_m
    return (0.5 * AIR_KG_M3 * DRAG * area * along * np.abs(along))[..., None] * axis_world
