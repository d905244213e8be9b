"""How stiffly the cables hold the lens, how it swings, and how cable errors move the light."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.geometry.cables import cable_lengths_m
from melter.geometry.holding import structure_of
from melter.geometry.shape import MachineShape

Array = NDArray[np.float64]


def stiffness_matrix(shape: MachineShape, centre_world_m: ArrayLike, rotation: Array) -> Array:
    """Return the (..., 6, 6) stiffness about the lens centre, world frame: N/m, N/rad, N m/m, N m/rad.

    Elastic part only; what tension adds is a few per cent at this machine's tensions. Taut cables.
    Source: Behzadipour and Khajepour, J. Mechanical Design 128 (2006).
    """
    structure = structure_of(shape, centre_world_m, rotation)
    lengths = cable_lengths_m(shape.pulleys_world_m, shape.attachments_lens_m, centre_world_m, rotation)
    return (structure * (shape.stiffness_n / lengths)[..., None, :]) @ np.swapaxes(structure, -1, -2)


def mass_matrix(shape: MachineShape, rotation: Array) -> Array:
    """Return the (..., 6, 6) mass matrix about the lens centre, world frame: a uniform plate of the lens's size."""
    a, b, mass = shape.short_edge_m, shape.long_edge_m, shape.mass_kg
    plate = np.array([b * b, a * a, a * a + b * b]) * mass / 12
    arm = rotation @ shape.centre_of_mass_lens_m
    cross = np.zeros((*arm.shape[:-1], 3, 3))
    cross[..., 0, 1], cross[..., 0, 2], cross[..., 1, 2] = -arm[..., 2], arm[..., 1], -arm[..., 0]
    cross = cross - np.swapaxes(cross, -1, -2)
    whole = np.zeros((*rotation.shape[:-2], 6, 6))
    whole[..., range(3), range(3)] = mass
    whole[..., :3, 3:], whole[..., 3:, :3] = -mass * cross, mass * cross
    whole[..., 3:, 3:] = (rotation * plate) @ np.swapaxes(rotation, -1, -2) - mass * cross @ cross
    return whole


def modes_hz(shape: MachineShape, centre_world_m: ArrayLike, rotation: Array) -> Array:
    """Return the (..., 6) natural frequencies of the lens on taut cables, lowest first, hertz."""
    stiffness, mass = stiffness_matrix(shape, centre_world_m, rotation), mass_matrix(shape, rotation)
    half = np.linalg.inv(np.linalg.cholesky(mass))
    squares = np.linalg.eigvalsh(half @ stiffness @ np.swapaxes(half, -1, -2))
    return np.sqrt(np.maximum(squares, 0.0)) / (2 * np.pi)


def spot_per_cable(shape: MachineShape, centre_world_m: ArrayLike, rotation: Array, sun_world: ArrayLike) -> Array:
    """Return (..., 2, 8): how far the spot moves (world x, y) per length that one cable is out, metres per metre.

    The other cables stay as they are and stretch. The spot follows the lens along the sun's ray.
    """
    structure = structure_of(shape, centre_world_m, rotation)
    lengths = cable_lengths_m(shape.pulleys_world_m, shape.attachments_lens_m, centre_world_m, rotation)
    springs = structure * (shape.stiffness_n / lengths)[..., None, :]
    moved = -np.linalg.solve(stiffness_matrix(shape, centre_world_m, rotation), springs)
    sun = np.asarray(sun_world, dtype=float)
    slope = sun[..., :2] / sun[..., 2:]
    return moved[..., :2, :] - slope[..., None] * moved[..., 2:3, :]
