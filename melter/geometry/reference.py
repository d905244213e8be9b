"""The tensions that cables are meant to have, and the stress-free lengths that follow from them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.geometry.cables import cable_lengths_m, structure_matrix, tensions_in_band_n, unwound_lengths_m

Array = NDArray[np.float64]

GRAVITY_M_S2 = 9.80665
"""Standard gravity (CGPM 1901)."""
PREFERRED_SHARE = 0.5
TENSION_SHARES = ((0.3, 0.7, 12), (0.09, 0.86, 40))
"""Where reference tensions are drawn to, as shares of the way from the band's lower to its upper end, and in how many rounds:
the middle, so that what the drawing has wrong is least likely to leave the band; where that is out of reach, at least its inside."""


def weight_n(mass_kg: float) -> Array:
    """Return (6,) what gravity does to a lens whose mass is centred, about its centre; N and N m, world frame."""
    return np.array([0.0, 0.0, -mass_kg * GRAVITY_M_S2, 0.0, 0.0, 0.0])


def reference_tensions_n(structure: Array, wrench_on_lens: Array, band_n: tuple[float, float]) -> Array:
    """Return (..., 8) tensions that balance a wrench (..., 6), well inside ``band_n`` where they can be."""
    span = band_n[1] - band_n[0]
    tension: ArrayLike = band_n[0] + PREFERRED_SHARE * span
    for low, high, rounds in TENSION_SHARES:
        ends = band_n[0] + low * span, band_n[0] + high * span
        tension = tensions_in_band_n(structure, wrench_on_lens, *ends, tension, rounds)
    return np.asarray(tension)


def reference_unwound_m(
    pulleys_world_m: Array,
    attachments_lens_m: Array,
    centre_world_m: Array,
    rotation: Array,
    mass_kg: float,
    band_n: tuple[float, float],
    stiffness_n: float,
) -> Array:
    """Return (..., 8) stress-free cable lengths at a pose (..., 3), (..., 3, 3) under the reference tensions."""
    structure = structure_matrix(pulleys_world_m, attachments_lens_m, centre_world_m, rotation)
    tension = np.clip(reference_tensions_n(structure, weight_n(mass_kg), band_n), 0.0, band_n[1])
    lengths = cable_lengths_m(pulleys_world_m, attachments_lens_m, centre_world_m, rotation)
    return unwound_lengths_m(lengths, tension, stiffness_n)
