"""Attitudes of the lens: rotations from the lens frame to the world frame.

All functions take and return arrays with any leading batch shape. They use elementwise sums instead of
matrix products, so that one pose gives the same bits alone and in a batch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def sun_direction_world(zenith_rad: ArrayLike, azimuth_rad: ArrayLike) -> Array:
    """Return the (..., 3) unit vector from the sand to the sun, world frame (x east, y north, z up).

    Zenith angle from world +z, azimuth clockwise from north (pvlib's convention), radians.
    """
    zenith, azimuth = np.broadcast_arrays(np.asarray(zenith_rad, dtype=float), np.asarray(azimuth_rad, dtype=float))
    horizontal = np.sin(zenith)
    return np.stack([horizontal * np.sin(azimuth), horizontal * np.cos(azimuth), np.cos(zenith)], axis=-1)


def rotation_facing(sun_world: ArrayLike) -> Array:
    """Return the (..., 3, 3) rotation R_world_lens that turns lens +z towards the sun by the shortest way.

    ``sun_world``: (..., 3) unit vectors with z > -1. From the level attitude (identity), no twist about the axis.
    """
    sun = np.asarray(sun_world, dtype=float)
    x, y, z = sun[..., 0], sun[..., 1], sun[..., 2]
    k = 1.0 / (1.0 + z)
    rows = [[1 - k * x * x, -k * x * y, x], [-k * x * y, 1 - k * y * y, y], [-x, -y, z]]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def rotation_about_world_xy(rx_rad: ArrayLike, ry_rad: ArrayLike) -> Array:
    """Return the (..., 3, 3) rotation by the vector (rx, ry, 0), world frame, radians.

    Multiply from the left to tilt a lens away from where it faces: ``rotation_about_world_xy(rx, ry) @ R_world_lens``.
    """
    rx, ry = np.broadcast_arrays(np.asarray(rx_rad, dtype=float), np.asarray(ry_rad, dtype=float))
    zero = np.zeros_like(rx)
    return rotation_from_vector(np.stack([rx, ry, zero], axis=-1))


def rotation_from_vector(rotation_vector_rad: ArrayLike) -> Array:
    """Return the (..., 3, 3) rotation matrix of (..., 3) rotation vectors, radians (Rodrigues' formula)."""
    v = np.asarray(rotation_vector_rad, dtype=float)
    angle = np.sqrt(v[..., 0] ** 2 + v[..., 1] ** 2 + v[..., 2] ** 2)
    a = np.sinc(angle / np.pi)
    b = 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    rows = [
        [1 - b * (y * y + z * z), b * x * y - a * z, b * x * z + a * y],
        [b * x * y + a * z, 1 - b * (x * x + z * z), b * y * z - a * x],
        [b * x * z - a * y, b * y * z + a * x, 1 - b * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def rotation_from_quaternion(quaternion_wxyz: ArrayLike) -> Array:
    """Return the (..., 3, 3) rotation matrices of (..., 4) unit quaternions in MuJoCo's order (w, x, y, z)."""
    q = np.asarray(quaternion_wxyz, dtype=float)
    w, x, y, z = q[..., 0], q[..., 1], q[..., 2], q[..., 3]
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def quaternion_facing(sun_world: ArrayLike) -> Array:
    """Return the (..., 4) quaternion (w, x, y, z) of :func:`rotation_facing`."""
    sun = np.asarray(sun_world, dtype=float)
    w = np.sqrt(0.5 * (1 + sun[..., 2]))
    zero = np.zeros_like(w)
    return np.stack([w, -sun[..., 1] / (2 * w), sun[..., 0] / (2 * w), zero], axis=-1)


def apply(rotation: Array, vector: ArrayLike) -> Array:
    """Return R v for (..., 3, 3) and (..., 3), without a matrix product (same bits in every batch shape)."""
    v = np.asarray(vector, dtype=float)
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    return np.stack(
        [rotation[..., i, 0] * x + rotation[..., i, 1] * y + rotation[..., i, 2] * z for i in range(3)], axis=-1
    )


def work_centre_world_m(
    spot_world_m: ArrayLike, sun_world: ArrayLike, distance_m: ArrayLike, height_m: ArrayLike = 0.0
) -> Array:
    """Return the (..., 3) lens centre that puts its light on ``spot_world_m`` (..., 2), world frame, metres.

    The centre lies ``distance_m`` up the sun's ray from the sand at ``height_m``; with the focal length, in focus.
    """
    spot, sun = np.asarray(spot_world_m, dtype=float), np.asarray(sun_world, dtype=float)
    d = np.asarray(distance_m, dtype=float)
    x, y = spot[..., 0] + d * sun[..., 0], spot[..., 1] + d * sun[..., 1]
    return np.stack(np.broadcast_arrays(x, y, height_m + d * sun[..., 2]), axis=-1)
