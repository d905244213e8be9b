"""How bright the sand is under the parked lens, sun by sun, by the ray trace.

The fast light model of the simulation is not used here: it is right where the lens faces the sun, and finds a sixth of the
trace's brightest place where a lens lies level under a sun at 25 degrees. Tilted so far, the lens draws parts of its
focus towards itself, and a park pose that is dark at noon is not so in the afternoon.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.geometry.light import LensOptics
from melter.geometry.pose import sun_direction_world
from melter.geometry.trace import trace_patch
from melter.machine import Machine
from melter.safety.claims import Claim
from melter.safety.drill import SAFE_W_M2

Array = NDArray[np.float64]

ZENITHS_DEG = (0.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0)
"""The suns that melter trains for."""
ZENITHS_QUICK_DEG = (0.0, 15.0, 25.0, 40.0)
RAYS, RAYS_QUICK = 400_000, 100_000
PLACE_M = 0.010
"""Irradiance is averaged over squares of this edge: a few hundred rays each where it matters, and less than a bead."""
_LOWER_M = 0.05
_CLEARANCE_M = 0.08
"""What stays between the sand and the lowest corner of a lens that is parked lower."""


@dataclass(frozen=True)
class ParkLight:
    """Brightest places on the sand under the parked lens, W/m2."""

    here_w_m2: float
    """Under the machine file's sun."""
    zeniths_deg: tuple[float, ...]
    peaks_w_m2: tuple[float, ...]
    """By zenith, at the machine file's azimuth and DNI."""
    height_m: float | None
    """Highest lens centre at which a level lens is dark under the machine file's sun, in steps of 5 cm down from park;
    None where none clears the sand."""


def park_light(machine: Machine, *, quick: bool = False) -> ParkLight:
    """Trace the light of a level lens at park, and lower where that is too bright."""
    rays = RAYS_QUICK if quick else RAYS
    centre = np.array(machine.park.lens_centre_world_m)
    zeniths = ZENITHS_QUICK_DEG if quick else ZENITHS_DEG
    peaks = tuple(_peak_w_m2(machine, centre, zenith, rays) for zenith in zeniths)
    here = _peak_w_m2(machine, centre, machine.sun.zenith_deg, rays)
    lowest = machine.sand.height_m + _CLEARANCE_M - float(machine.attachments_lens_m[:, 2].min())
    height: float | None = float(centre[2])
    peak = here
    while height is not None and not peak < SAFE_W_M2:
        height = height - _LOWER_M if height - _LOWER_M >= lowest else None
        peak = (
            0.0
            if height is None
            else _peak_w_m2(machine, np.array([*centre[:2], height]), machine.sun.zenith_deg, rays)
        )
    return ParkLight(here, zeniths, peaks, height)


def park_claims(machine: Machine, light: ParkLight) -> list[Claim]:
    """Return what can be said of it: under the machine file's sun, and under every sun that melter trains for."""
    dark = [zenith for zenith, peak in zip(light.zeniths_deg, light.peaks_w_m2, strict=True) if peak < SAFE_W_M2]
    listed = ", ".join(f"{z:g}°: {p / 1e3:.1f}" for z, p in zip(light.zeniths_deg, light.peaks_w_m2, strict=True))
    if light.height_m is None:
        advice = "no level lens that clears the sand is dark there: cover the lens, or stow it away from the sun"
    elif light.height_m < machine.park.lens_centre_world_m[2]:
        advice = f"park.lens_centre_world_m at a height of {light.height_m:.2f} m would do"
    else:
        advice = "dark there"
    how = f"ray trace, brightest square of {PLACE_M * 1e3:.0f} mm, lens level at park"
    worst = max(light.peaks_w_m2)
    until = f"dark at {', '.join(f'{z:g}°' for z in dark)}" if dark else "dark under none"
    return [
        _claim("parked: light on the sand", light.here_w_m2, f"{how}, sun at {machine.sun.zenith_deg:g}°; {advice}"),
        _claim("parked: light on the sand, any sun", worst, f"{how}; kW/m² by zenith: {listed}; {until}"),
    ]


def _claim(name: str, peak_w_m2: float, how: str) -> Claim:
    status = "proven" if peak_w_m2 < SAFE_W_M2 else "falsified"
    bound, best = (peak_w_m2, None) if status == "proven" else (None, peak_w_m2)
    return Claim(name, "behind the layer", status, bound, SAFE_W_M2, "W/m²", how, best, required=False)


def _peak_w_m2(machine: Machine, centre_world_m: Array, zenith_deg: float, rays: int) -> float:
    """Brightest square on the sand under a level lens."""
    sun = sun_direction_world(np.radians(zenith_deg), machine.sun.azimuth_rad)
    optics = LensOptics.from_machine(machine)
    traced = trace_patch(
        optics, centre_world_m, np.eye(3), sun, machine.sand.height_m, dni_w_m2=machine.sun.dni_w_m2, rays=rays
    )
    cells = np.floor(traced.hits_world_m[traced.ray_power_w > 0] / PLACE_M).astype(np.int64)
    if not len(cells):
        return 0.0
    _, where = np.unique(cells[:, 0] * (1 << 32) + cells[:, 1], return_inverse=True)
    return float(np.bincount(where, traced.ray_power_w[traced.ray_power_w > 0]).max()) / PLACE_M**2
