"""The tensions a machine's cables are meant to have, and the cable lengths at park that follow from them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from melter.geometry.cables import cable_lengths_m, structure_matrix, tensions_in_band_n, unwound_lengths_m
from melter.machine import Machine

Array = NDArray[np.float64]

GRAVITY_M_S2 = 9.80665
"""Standard gravity (CGPM 1901)."""
TENSION_SHARES = (0.09, 0.37, 0.86)
"""Reference tensions: lowest, preferred and highest, as shares of the way from the machine's lowest to its highest."""


def weight_n(machine: Machine) -> Array:
    """Return (6,) what gravity does to the lens as drawn, about its centre; N and N m, world frame."""
    return np.array([0.0, 0.0, -machine.lens.moving_mass_kg * GRAVITY_M_S2, 0.0, 0.0, 0.0])


def reference_tensions_n(structure: Array, wrench_on_lens: Array, machine: Machine) -> Array:
    """Return (..., 8) tensions that balance a wrench (..., 6), well inside the machine's band where they can be."""
    limits = machine.limits
    span = limits.tension_max_n - limits.tension_min_n
    low, preferred, high = (limits.tension_min_n + share * span for share in TENSION_SHARES)
    return tensions_in_band_n(structure, wrench_on_lens, low, high, preferred)


def park_lengths_m(machine: Machine) -> Array:
    """Return (8,) stress-free cable out at park, where the controller's counters are zero."""
    centre, level = np.array(machine.park.lens_centre_world_m), np.eye(3)
    pulleys, attachments = machine.pulleys_world_m, machine.attachments_lens_m
    tension = reference_tensions_n(structure_matrix(pulleys, attachments, centre, level), weight_n(machine), machine)
    lengths = cable_lengths_m(pulleys, attachments, centre, level)
    return unwound_lengths_m(lengths, np.clip(tension, 0, machine.limits.tension_max_n), machine.drive.cable_stiffness_n)
