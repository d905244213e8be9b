"""A run that shows what a machine is like: two minutes over the bed, at several heights, with a tremble of the cables.

The spot draws a slow figure over the bed, never slower than sand melts; the lens is lowered below focus and raised, and
leans a little one way and the other, so that all eight cables go out and in; on top of it the lens shakes along x and y at
rising frequencies, which tells how stiffly it hangs. Everything is a smooth function of time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.geometry.cables import cable_lengths_m
from melter.geometry.pose import rotation_about_world_xy, work_centre_world_m
from melter.machine import Machine
from melter.observation import DROP_M, ObservationBuilder

Array = NDArray[np.float64]

DURATION_S = 120.0
REACH = 0.42
"""Share of the bed's half that the spot reaches."""
TURNS = (4, 3)
"""How often the figure goes to and fro along x and y in the whole time; no common divisor, so that it covers the bed."""
DROPS = 2
"""How often the lens is lowered below focus and raised again."""
LEAN_RAD, LEANS = 0.015, (7, 9)
"""How far the lens leans about world x and y, and how often."""
SHAKE_HZ, SHAKE_ACCELERATION_M_S2, SHAKE_SPEED_M_S = (0.5, 2.7), 0.20, 0.012
"""Frequencies that the shaking sweeps, up and down; its acceleration and its speed at most, each axis."""
SWEEPS = 3
EASE_S = 4.0
"""Time in which everything grows from rest, and ends."""


class Excitation:
    """The cable lengths to count along the run, starting and ending at rest over the bed's middle, :data:`DROP_M` below focus."""

    def __init__(self, machine: Machine, sun_rad: tuple[float, float], duration_s: float = DURATION_S) -> None:
        self.machine, self.duration_s = machine, duration_s
        self._builder = ObservationBuilder(machine)
        self._reference = self._builder.reference(np.array(sun_rad[0]), np.array(sun_rad[1]))
        self._half_m = REACH * np.array(machine.bed.size_m) / 2

    def spot_world_m(self, t_s: ArrayLike) -> Array:
        """Return where the light is meant to be (..., 2) at times (...) since the start, the shaking left out."""
        t = np.clip(np.asarray(t_s, dtype=float), 0, self.duration_s)
        x, y = (2 * np.pi * turns * t / self.duration_s for turns in TURNS)
        return np.stack([np.sin(x), np.sin(y)], axis=-1) * self._half_m

    def drop_m(self, t_s: ArrayLike) -> Array:
        """Return how far (...) the lens hangs below focus."""
        t = np.clip(np.asarray(t_s, dtype=float), 0, self.duration_s)
        return DROP_M * 0.5 * (1 + np.cos(2 * np.pi * DROPS * t / self.duration_s))

    def lengths_m(self, t_s: float) -> Array:
        """Return the (8,) cable lengths to count ``t_s`` after the start."""
        machine, reference = self.machine, self._reference
        spot, drop = self.spot_world_m(t_s), float(self.drop_m(t_s))
        held = self._builder.reference_lengths_m(spot, reference, drop)
        distance_m = machine.lens.focal_length_m - drop
        centre = work_centre_world_m(spot, reference.sun_world, distance_m, machine.sand.height_m)
        leaning = rotation_about_world_xy(*self._lean_rad(t_s)) @ reference.rotation
        shaken = centre + np.array([*self._shake_m(t_s), 0.0])
        pulleys, attachments = machine.pulleys_world_m, machine.attachments_lens_m
        straight = cable_lengths_m(pulleys, attachments, centre, reference.rotation)
        return held / straight * cable_lengths_m(pulleys, attachments, shaken, leaning)

    def _lean_rad(self, t_s: float) -> Array:
        t = min(max(t_s, 0.0), self.duration_s) / self.duration_s
        return LEAN_RAD * np.sin(2 * np.pi * np.array(LEANS) * t)

    def _shake_m(self, t_s: float) -> Array:
        """(2,) sweeps along x and y, the second a quarter of a period behind; eased in and out."""
        t = min(max(t_s, 0.0), self.duration_s)
        low, high = SHAKE_HZ
        each_s = self.duration_s / SWEEPS
        # frequency rises and falls as a raised cosine; its integral is the phase
        phase = (
            2
            * np.pi
            * (0.5 * (low + high) * t - 0.5 * (high - low) * each_s / (2 * np.pi) * np.sin(2 * np.pi * t / each_s))
        )
        rate = 2 * np.pi * (0.5 * (low + high) - 0.5 * (high - low) * np.cos(2 * np.pi * t / each_s))
        size = min(SHAKE_SPEED_M_S / rate, SHAKE_ACCELERATION_M_S2 / rate**2)
        ease = min(t / EASE_S, (self.duration_s - t) / EASE_S, 1.0)
        return size * ease**2 * (3 - 2 * ease) * np.array([np.sin(phase), np.cos(phase)])
