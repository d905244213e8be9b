"""Sunlight through a grooved acrylic sheet onto uneven sand, ray by ray.

Each ray: a direction within the sun's disc or its aureole, a place on the sheet, Snell's law at the groove's facet (which
leans by its error) and at the flat side, then straight to the sand. World frame, metres.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Height = Callable[[Array, Array], Array]

DISC_RAD = 4.65e-3
"""The sun's half-angle (mean over the year)."""
AUREOLE_RAD = 43.6e-3
"""Edge of the circumsolar region (Neumann and others, J. Sol. Energy Eng. 124, 2002)."""
INDEX, INDEX_SPREAD = 1.491, 0.004
"""Acrylic in the visible, and how far it varies over the spectrum a webcam sees."""
RAYS = 120_000
CELL_M = 0.0012


@dataclass(frozen=True, kw_only=True)
class Lens:
    """The sheet and where it hangs."""

    centre_m: Array
    """(3,) world."""
    axes: Array
    """(3, 3) columns: short edge, long edge, normal on the sun's side, in world axes."""
    short_m: float
    long_m: float
    focal_m: float
    facet_error_rad: float
    transmission: float


@dataclass(frozen=True, eq=False)
class Patch:
    """Irradiance on the sand as a raster, and its exact moments from the rays."""

    grid_w_m2: NDArray[np.float32]
    """(n, n), rows along y."""
    low_m: Array
    """(2,) world x, y of the first cell's middle."""
    cell_m: float
    centre_m: Array
    """(2,) centroid of the irradiance."""
    moments_m2: Array
    """(2, 2) second central moments."""
    power_w: float

    @property
    def half_m(self) -> float:
        """Half the raster's width."""
        return self.grid_w_m2.shape[0] * self.cell_m / 2

    @property
    def peak_w_m2(self) -> float:
        """Largest irradiance of a cell."""
        return float(self.grid_w_m2.max())


def lens_for(
    spot_m: Array, sun: Array, tilt_rad: Array, defocus_m: float, *, size_m: tuple[float, float], **sheet: float
) -> Lens:
    """Return a lens whose light falls about ``spot_m`` (2,), leaning ``tilt_rad`` (2,) away from the sun (3,).

    ``defocus_m`` is how much nearer the sand is than the focal length.
    """
    flat = np.array([sun[0], sun[1], 0.0])
    up = flat / np.linalg.norm(flat) if np.linalg.norm(flat) > 1e-6 else np.array([0.0, 1.0, 0.0])
    x = np.cross(up, sun)
    x = x / np.linalg.norm(x)
    y = np.cross(sun, x)
    normal = sun + np.tan(tilt_rad[0]) * x + np.tan(tilt_rad[1]) * y
    normal = normal / np.linalg.norm(normal)
    x = x - normal * (normal @ x)
    x = x / np.linalg.norm(x)
    centre = np.array([*spot_m, 0.0]) + sun * (sheet["focal_m"] - defocus_m)
    axes = np.column_stack([x, np.cross(normal, x), normal])
    return Lens(centre_m=centre, axes=axes, short_m=size_m[0], long_m=size_m[1], **sheet)


def trace(
    lens: Lens,
    sun: Array,
    dni_w_m2: float,
    circumsolar: float,
    height: Height,
    rng: np.random.Generator,
    rays: int = RAYS,
) -> Patch:
    """Return the patch of light on sand of ``height`` (x, y) -> z."""
    u = (rng.random(rays) - 0.5) * lens.short_m
    v = (rng.random(rays) - 0.5) * lens.long_m
    incoming = _sun_rays(lens.axes.T @ sun, circumsolar, rng, rays)
    direction, share = _through_sheet(incoming, u, v, lens, rng)
    world = lens.axes @ direction
    start = lens.centre_m[:, None] + lens.axes[:, :2] @ np.stack([u, v])
    going = world[2] < -0.05
    world, start, share = world[:, going], start[:, going], share[going]
    reach = -start[2] / world[2]
    hit = start + reach * world
    z = height(hit[0], hit[1])
    hit = hit[:2] + z * world[:2] / world[2]
    power = share * dni_w_m2 * lens.short_m * lens.long_m * float((lens.axes.T @ sun)[2]) / rays * lens.transmission
    return _rastered(hit, power)


def _sun_rays(sun: Array, circumsolar: float, rng: np.random.Generator, rays: int) -> Array:
    """(3, n) directions of travel in the lens frame: limb-darkened disc, aureole falling with the angle squared."""
    angle = DISC_RAD * np.sqrt(rng.random(rays) ** 1.1)
    around = rng.random(rays) < circumsolar
    angle[around] = DISC_RAD * (AUREOLE_RAD / DISC_RAD) ** rng.random(int(around.sum()))
    turn = rng.uniform(0, 2 * np.pi, rays)
    a = np.cross(sun, [0.0, 1.0, 0.0] if abs(sun[1]) < 0.9 else [1.0, 0.0, 0.0])
    a = a / np.linalg.norm(a)
    b = np.cross(sun, a)
    off = np.tan(angle) * (a[:, None] * np.cos(turn) + b[:, None] * np.sin(turn))
    rays_in = -(sun[:, None] + off)
    return rays_in / np.linalg.norm(rays_in, axis=0)


def _through_sheet(incoming: Array, u: Array, v: Array, lens: Lens, rng: np.random.Generator) -> tuple[Array, Array]:
    """Direction after the sheet, (3, n), and the share of the light that gets through (0 where it does not)."""
    radius = np.maximum(np.hypot(u, v), 1e-9)
    out = np.arctan2(radius, lens.focal_m)
    inside = np.arcsin(np.sin(out) / INDEX)
    slope = np.arctan2(INDEX * np.sin(inside), INDEX * np.cos(inside) - 1)
    lean = rng.normal(0, lens.facet_error_rad, (2, u.size))
    outward = np.stack([u, v]) / radius
    normal = np.stack([outward[0] * np.sin(slope) + lean[0], outward[1] * np.sin(slope) + lean[1], np.cos(slope)])
    normal = normal / np.linalg.norm(normal, axis=0)
    index = rng.normal(INDEX, INDEX_SPREAD, u.size)
    first, good = _snell(incoming, normal, 1 / index)
    flat = np.zeros_like(normal)
    flat[2] = 1.0
    second, good2 = _snell(first, flat, index)
    return second, (good & good2).astype(float)


def _snell(direction: Array, normal: Array, ratio: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Refraction at a face with normal against the ray; ``ratio`` is the index before over the index after."""
    cosine = -np.sum(direction * normal, axis=0)
    root = 1 - ratio**2 * (1 - cosine**2)
    good = (root > 0) & (cosine > 0)
    bent = ratio * direction + (ratio * cosine - np.sqrt(np.maximum(root, 0))) * normal
    return bent / np.linalg.norm(bent, axis=0), good


def _rastered(hit: Array, power: Array) -> Patch:
    total = float(power.sum())
    centre = hit @ power / total
    off = hit - centre[:, None]
    moments = (off * power) @ off.T / total
    half = float(np.clip(1.1 * np.quantile(np.abs(off).max(axis=0), 0.9985), 0.05, 0.6))
    cell = max(CELL_M, half / 130)
    n = 2 * int(np.ceil(half / cell))
    low = centre - n * cell / 2
    column, row = (np.floor((hit[i] - low[i]) / cell).astype(int) for i in range(2))
    inside = (column >= 0) & (column < n) & (row >= 0) & (row < n)
    grid = np.bincount(row[inside] * n + column[inside], power[inside], n * n).reshape(n, n) / cell**2
    kernel = np.array([0.06, 0.24, 0.40, 0.24, 0.06])
    for axis in (0, 1):
        grid = np.apply_along_axis(lambda line: np.convolve(line, kernel, "same"), axis, grid)
    return Patch(grid.astype(np.float32), low + cell / 2, cell, centre, moments, total)
