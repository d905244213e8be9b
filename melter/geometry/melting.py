"""How much light melts sand."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

STEFAN_BOLTZMANN_W_M2_K4 = 5.670374419e-8
"""CODATA 2018."""
EMISSIVITY = 0.85
"""Of molten silica sand, over all wavelengths: 0.40 MW/m2 at 1700 K."""


def absorbed_to_melt_w_m2(melting_k: ArrayLike, emissivity: ArrayLike = EMISSIVITY) -> Array:
    """Return the flux (...) that sand must absorb to stay at its melting temperature by radiating alone, W/m2."""
    return np.asarray(emissivity, dtype=float) * STEFAN_BOLTZMANN_W_M2_K4 * np.asarray(melting_k, dtype=float) ** 4


def melting_irradiance_w_m2(melting_k: ArrayLike, absorptivity: ArrayLike, emissivity: ArrayLike = EMISSIVITY) -> Array:
    """Return the irradiance (...) below which sand of this absorptivity cannot melt, however long, W/m2.

    Losses into the ground and the air come on top: more than this is needed, never less.
    """
    return absorbed_to_melt_w_m2(melting_k, emissivity) / np.asarray(absorptivity, dtype=float)


def molten_semi_axes_m(semi_axes_m: ArrayLike, peak_w_m2: ArrayLike, threshold_w_m2: ArrayLike) -> Array:
    """Return the (..., 2) semi-axes of where a patch is brighter than a threshold; zeros where it nowhere is.

    The patch is taken as a Gaussian with this peak and these semi-axes, twice its standard deviations.
    """
    with np.errstate(divide="ignore"):
        above = np.log(np.asarray(peak_w_m2, dtype=float) / np.asarray(threshold_w_m2, dtype=float))
    return np.asarray(semi_axes_m, dtype=float) * np.sqrt(np.maximum(above, 0.0) / 2)[..., None]
