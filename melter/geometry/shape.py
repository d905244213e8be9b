"""A machine as plain numbers and arrays: what the analysis of holding needs, easy to change one part at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GRAVITY_M_S2 = 9.80665
"""Standard gravity (CGPM 1901)."""
AIR_KG_M3 = 1.2
"""Density of air at sea level, 20 degrees (ISO 2533)."""
DRAG = 1.2
"""Normal force coefficient of a flat plate across the wind (Hoerner, Fluid-Dynamic Drag, 1965, ch. 3)."""


@dataclass(frozen=True, eq=False)
class MachineShape:
    """Geometry, masses and limits of one machine. Frames as in ``docs/frames.md``; 8 cables in winch order."""

    pulleys_world_m: Array
    """(8, 3) where cables leave the last pulleys."""
    attachments_lens_m: Array
    """(8, 3) where cables hold the lens frame."""
    poles_world_m: Array
    """(n, 2) feet of the poles."""
    frame_height_m: float
    """Top of the poles."""
    short_edge_m: float
    """Lens, along its x."""
    long_edge_m: float
    """Lens, along its y."""
    focal_length_m: float
    """Lens centre to best focus, lens facing the sun."""
    mass_kg: float
    """Lens, frame and struts."""
    centre_of_mass_lens_m: Array
    """(3,)"""
    tension_min_n: float
    """Lower end of the band."""
    tension_max_n: float
    """Upper end of the band."""
    length_min_m: float
    """Shortest cable."""
    length_max_m: float
    """Longest cable."""
    stiffness_n: float
    """EA: tension per unit strain."""
    bed_size_m: tuple[float, float]
    """Working area, along world x and y, centred on the origin."""
    sand_height_m: float
    """World z of the sand."""
    park_world_m: Array
    """(3,) lens centre at park, level."""
    sun_zenith_deg: float
    """The sun the machine is made for: up to this angle from the zenith."""
    wind_m_s: float
    """Mean wind above which work stops; the lens must hold up to it."""
    winches: tuple[str, ...]
    """(8,) names."""

    @classmethod
    def from_machine(cls, machine: Any) -> MachineShape:
        """Return the shape of a ``melter.machine.Machine``."""
        lens, limits = machine.lens, machine.limits
        return cls(
            pulleys_world_m=np.array(machine.pulleys_world_m),
            attachments_lens_m=np.array(machine.attachments_lens_m),
            poles_world_m=np.array(machine.frame.poles_world_m),
            frame_height_m=machine.frame.height_m,
            short_edge_m=lens.short_edge_m,
            long_edge_m=lens.long_edge_m,
            focal_length_m=lens.focal_length_m,
            mass_kg=lens.moving_mass_kg,
            centre_of_mass_lens_m=np.array(lens.centre_of_mass_lens_m),
            tension_min_n=limits.tension_min_n,
            tension_max_n=limits.tension_max_n,
            length_min_m=limits.cable_length_min_m,
            length_max_m=limits.cable_length_max_m,
            stiffness_n=machine.drive.cable_stiffness_n,
            bed_size_m=machine.bed.size_m,
            sand_height_m=machine.sand.height_m,
            park_world_m=np.array(machine.park.lens_centre_world_m),
            sun_zenith_deg=machine.sun.zenith_deg,
            wind_m_s=machine.wind.stop_m_s,
            winches=tuple(winch.name for winch in machine.winch),
        )
