"""The reference light model: a ray trace through the Fresnel sheet onto the sand.

Each ray has a place on the aperture, a wavelength, a direction from the sun's disc or aureole, and an error of the
groove it meets. World frame, metres, watts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.geometry.light import PEAK_RESOLUTION_M, LensOptics, semi_axes_and_angle
from melter.geometry.optics import (
    DESIGN_INDEX,
    WAVELENGTHS_UM,
    acrylic_index,
    facet_normals,
    sun_offsets_rad,
    through_sheet,
)

Array = NDArray[np.float64]

RAYS = 200_000


@dataclass(frozen=True, eq=False)
class TracedPatch:
    """Where the rays fell and what became of the power."""

    hits_world_m: Array
    """(n, 2) world x and y on the sand."""
    ray_power_w: Array
    """(n,) power of each ray that arrives, watts; 0 where it is lost."""
    incident_w: float
    """On the aperture."""
    lost_w: dict[str, float]
    """Power lost, by reason; with the delivered power it adds up to the incident power."""

    @property
    def delivered_w(self) -> float:
        """Power on the sand."""
        return float(self.ray_power_w.sum())

    @property
    def centre_world_m(self) -> Array:
        """(2,) centroid of the irradiance; NaN without light."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return (self.ray_power_w @ self.hits_world_m) / self.ray_power_w.sum()

    @property
    def covariance_m2(self) -> tuple[float, float, float]:
        """(xx, xy, yy) second central moments of the irradiance."""
        offset = self.hits_world_m - self.centre_world_m
        weight = self.ray_power_w / self.ray_power_w.sum()
        x, y = offset[:, 0], offset[:, 1]
        return float(weight @ (x * x)), float(weight @ (x * y)), float(weight @ (y * y))

    @property
    def semi_axes_and_angle(self) -> tuple[Array, float]:
        """(2,) semi-axes large and small, metres, and the large one's angle from world x."""
        axes, angle = semi_axes_and_angle(*self.covariance_m2)
        return axes, float(angle)

    def irradiance_w_m2(self) -> tuple[Array, Array, Array]:
        """Return (n, n) irradiance smoothed over PEAK_RESOLUTION_M, and the n + 1 x and y edges (world, metres)."""
        centre = np.median(self.hits_world_m[self.ray_power_w > 0], axis=0)
        spread = np.quantile(np.abs(self.hits_world_m - centre), 0.95, axis=0)
        half = max(float(spread.max()) * 1.3, 6 * PEAK_RESOLUTION_M)
        cells = int(np.clip(2 * half / (0.5 * PEAK_RESOLUTION_M), 100, 400))
        x, y = (np.linspace(c - half, c + half, cells + 1) for c in centre)
        grid, _, _ = np.histogram2d(*self.hits_world_m.T, bins=(x, y), weights=self.ray_power_w)
        cell_m = 2 * half / cells
        width_m = max(PEAK_RESOLUTION_M, cell_m)
        kernel = np.exp(-0.5 * np.square((np.arange(cells)[:, None] - np.arange(cells)) * cell_m / width_m))
        kernel *= cell_m / (width_m * np.sqrt(2 * np.pi))
        return kernel @ grid @ kernel / cell_m**2, x, y

    @property
    def peak_w_m2(self) -> float:
        """Irradiance at the brightest place, averaged over PEAK_RESOLUTION_M."""
        return float(self.irradiance_w_m2()[0].max()) if self.delivered_w > 0 else 0.0


def trace_patch(
    lens: LensOptics,
    centre_world_m: ArrayLike,
    rotation: ArrayLike,
    sun_world: ArrayLike,
    sand_height_m: float = 0.0,
    *,
    dni_w_m2: float = 900.0,
    rays: int = RAYS,
    rng: np.random.Generator | None = None,
) -> TracedPatch:
    """Return what ``rays`` rays of the sun do in one pose: lens centre (3,), rotation (3, 3), unit sun direction (3,).

    Samples follow an additive lattice, shifted by ``rng`` where one is given. Rays that miss the sand (they leave
    upwards) or are totally reflected are lost. Power that the machine file's transmission leaves out beyond
    reflection (absorption, groove edges) is lost under ``absorbed``.
    """
    dice = _lattice(rays, 7, rng)
    focal, facet, transmission, circumsolar = (
        float(np.asarray(value))
        for value in (lens.focal_length_m, lens.facet_error_rad, lens.transmission, lens.circumsolar_ratio)
    )
    r, centre = np.asarray(rotation, dtype=float), np.asarray(centre_world_m, dtype=float)
    sun_lens = r.T @ np.asarray(sun_world, dtype=float)
    u, v = (dice[0] - 0.5) * float(lens.short_edge_m), (dice[1] - 0.5) * float(lens.long_edge_m)
    incoming = _sunlight(sun_lens, dice[3], dice[4], circumsolar)
    normal = facet_normals(u, v, focal)
    colours = WAVELENGTHS_UM.size
    index = np.interp(dice[2], (np.arange(colours) + 0.5) / colours, acrylic_index(WAVELENGTHS_UM))
    direction, passed = through_sheet(incoming, normal, index)
    direction = _deflect(direction, dice[5], dice[6], (DESIGN_INDEX - 1) * facet)
    level = np.stack([np.zeros(rays), np.zeros(rays), -np.ones(rays)])
    reference = float(through_sheet(level, normal, DESIGN_INDEX)[1].mean())
    world, start = r @ direction, centre[:, None] + r[:, :2] @ np.stack([u, v])
    arrives = (world[2] < 0) & (start[2] > sand_height_m)
    reach = np.where(arrives, (sand_height_m - start[2]) / np.where(arrives, world[2], -1.0), 0.0)
    hits = (start[:2] + reach * world[:2]).T
    each = float(dni_w_m2) * float(lens.short_edge_m) * float(lens.long_edge_m) * np.maximum(-incoming[2], 0.0) / rays
    kept = min(transmission / reference, 1.0)
    power = each * passed * kept * arrives
    lost = {
        "reflected": float((each * (1 - passed)).sum()),
        "absorbed": float((each * passed).sum() * (1 - kept)),
        "missed": float((each * passed * kept * ~arrives).sum()),
    }
    return TracedPatch(hits, power, float(each.sum()), lost)


def _lattice(count: int, dimensions: int, rng: np.random.Generator | None) -> Array:
    """(dimensions, count) evenly spread samples in [0, 1): an additive recurrence with the generalised golden ratio.

    Source: Niederreiter, Random Number Generation and Quasi-Monte Carlo Methods (1992), section 4.1.
    """
    ratio = 2.0
    for _ in range(60):
        ratio = (1 + ratio) ** (1 / (dimensions + 1))
    shift = np.full(dimensions, 0.5) if rng is None else rng.random(dimensions)
    steps = ratio ** -np.arange(1.0, dimensions + 1)
    return (shift[:, None] + steps[:, None] * np.arange(count)) % 1.0


def _sunlight(sun_lens: Array, share: Array, turn: Array, circumsolar_ratio: float) -> Array:
    """(3, n) directions of travel of light from the sun's disc and aureole, lens frame."""
    across = _perpendicular(sun_lens[:, None])
    angle, phase = sun_offsets_rad(share, circumsolar_ratio), 2 * np.pi * turn
    side = np.cos(phase) * across[0] + np.sin(phase) * across[1]
    return -(np.cos(angle) * sun_lens[:, None] + np.sin(angle) * side)


def _deflect(direction: Array, dice_a: Array, dice_b: Array, sigma_rad: float) -> Array:
    """Directions turned by a Gaussian angle of ``sigma_rad`` about each of two axes across them."""
    size, phase = sigma_rad * np.sqrt(-2 * np.log(1 - dice_a)), 2 * np.pi * dice_b
    across = _perpendicular(direction)
    turned = direction + size * (np.cos(phase) * across[0] + np.sin(phase) * across[1])
    return turned / np.sqrt((turned * turned).sum(axis=0))


def _perpendicular(direction: Array) -> tuple[Array, Array]:
    """Two unit vectors across each direction (3, n) that is not along lens y."""
    first = np.stack([-direction[2], np.zeros_like(direction[0]), direction[0]])
    first = first / np.sqrt((first * first).sum(axis=0))
    return first, np.asarray(np.cross(direction, first, axis=0), dtype=np.float64)
