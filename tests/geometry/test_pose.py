"""Attitudes of the lens: the laws of rotations, and the sun's convention by hand-made numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melter.geometry.pose import (
    apply,
    quaternion_facing,
    rotation_about_world_xy,
    rotation_facing,
    rotation_from_quaternion,
    rotation_from_vector,
    sun_direction_world,
    work_centre_world_m,
)

zeniths = st.floats(0, 1.5)
azimuths = st.floats(-7, 7)
vectors = st.tuples(*[st.floats(-3, 3)] * 3).map(np.array)


def is_rotation(matrix: np.ndarray) -> bool:
    flat = matrix.reshape(-1, 3, 3)
    square = np.allclose(flat @ np.swapaxes(flat, -1, -2), np.eye(3), atol=1e-12)
    return square and np.allclose(np.linalg.det(flat), 1, atol=1e-12)


@pytest.mark.parametrize(
    ("zenith_deg", "azimuth_deg", "expected"),
    [
        (0, 123, (0, 0, 1)),
        (90, 0, (0, 1, 0)),  # on the horizon, north
        (90, 90, (1, 0, 0)),  # east
        (90, 180, (0, -1, 0)),  # south
        (25, 180, (0, -0.42262, 0.90631)),
    ],
)
def test_the_suns_convention(zenith_deg: float, azimuth_deg: float, expected: tuple[float, ...]) -> None:
    np.testing.assert_allclose(sun_direction_world(*np.radians([zenith_deg, azimuth_deg])), expected, atol=5e-6)


@given(zeniths, azimuths)
def test_facing_the_sun(zenith: float, azimuth: float) -> None:
    sun = sun_direction_world(zenith, azimuth)
    assert np.linalg.norm(sun) == pytest.approx(1)
    rotation = rotation_facing(sun)
    assert is_rotation(rotation)
    np.testing.assert_allclose(rotation[:, 2], sun, atol=1e-12)
    # the shortest way: it turns by the zenith angle about a level axis, without twist
    assert np.trace(rotation) == pytest.approx(1 + 2 * np.cos(zenith))
    assert rotation[1, 0] == rotation[0, 1]
    np.testing.assert_allclose(rotation_from_quaternion(quaternion_facing(sun)), rotation, atol=1e-12)


def test_facing_the_zenith_is_level() -> None:
    np.testing.assert_array_equal(rotation_facing([0.0, 0.0, 1.0]), np.eye(3))


@given(vectors)
def test_rotation_vectors(vector: np.ndarray) -> None:
    rotation = rotation_from_vector(vector)
    assert is_rotation(rotation)
    np.testing.assert_allclose(rotation @ vector, vector, atol=1e-12)  # the axis stays
    np.testing.assert_allclose(rotation @ rotation_from_vector(-vector), np.eye(3), atol=1e-12)
    half = rotation_from_vector(vector / 2)
    np.testing.assert_allclose(half @ half, rotation, atol=1e-12)
    angle = np.linalg.norm(vector)
    assert np.trace(rotation) == pytest.approx(1 + 2 * np.cos(angle), abs=1e-9)


def test_a_quarter_turn_is_right_handed() -> None:
    np.testing.assert_allclose(rotation_from_vector([0, 0, np.pi / 2]) @ [1, 0, 0], [0, 1, 0], atol=1e-15)
    np.testing.assert_allclose(rotation_about_world_xy(np.pi / 2, 0) @ [0, 1, 0], [0, 0, 1], atol=1e-15)
    np.testing.assert_allclose(rotation_about_world_xy(0, np.pi / 2) @ [0, 0, 1], [1, 0, 0], atol=1e-15)


@given(st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: sum(v * v for v in q) > 0.01))
def test_quaternions(q: tuple[float, ...]) -> None:
    unit = np.array(q) / np.linalg.norm(q)
    rotation = rotation_from_quaternion(unit)
    assert is_rotation(rotation)
    np.testing.assert_allclose(rotation_from_quaternion(-unit), rotation, atol=1e-15)
    angle = 2 * np.arctan2(np.linalg.norm(unit[1:]), unit[0])
    axis = unit[1:] / max(np.linalg.norm(unit[1:]), 1e-12)
    np.testing.assert_allclose(rotation, rotation_from_vector(axis * angle), atol=1e-9)


@given(vectors, vectors)
def test_apply_is_the_matrix_product(vector: np.ndarray, turn: np.ndarray) -> None:
    rotation = rotation_from_vector(turn)
    np.testing.assert_allclose(apply(rotation, vector), rotation @ vector, atol=1e-12)


@given(
    st.tuples(st.floats(-0.4, 0.4), st.floats(-0.4, 0.4)),
    st.floats(0, 0.9),
    azimuths,
    st.floats(0.3, 2),
    st.floats(-0.1, 0.1),
)
def test_work_centre_puts_the_suns_ray_on_the_spot(
    spot: tuple[float, float], zenith: float, azimuth: float, distance: float, height: float
) -> None:
    sun = sun_direction_world(zenith, azimuth)
    centre = work_centre_world_m(spot, sun, distance, height)
    assert np.linalg.norm(centre - [*spot, height]) == pytest.approx(distance)
    fallen = centre - sun * (centre[2] - height) / sun[2]
    np.testing.assert_allclose(fallen, [*spot, height], atol=1e-12)


def test_at_25_degrees_the_lens_hangs_half_a_metre_beside_its_spot() -> None:
    """The machine's own figure: 1.22 m · sin 25° = 0.52 m, towards the sun."""
    centre = work_centre_world_m([0.0, 0.0], sun_direction_world(np.radians(25), np.pi), 1.22)
    np.testing.assert_allclose(centre, [0, -0.5156, 1.1057], atol=1e-4)


def test_the_same_bits_alone_and_in_a_batch() -> None:
    rng = np.random.default_rng(1)
    zenith, azimuth = rng.uniform(0, 1, (2, 40))
    spots, turns = rng.normal(0, 0.2, (40, 2)), rng.normal(0, 1, (40, 3))
    suns = sun_direction_world(zenith, azimuth)
    for i in range(40):
        sun = sun_direction_world(zenith[i], azimuth[i])
        np.testing.assert_array_equal(suns[i], sun)
        np.testing.assert_array_equal(rotation_facing(suns)[i], rotation_facing(sun))
        np.testing.assert_array_equal(rotation_from_vector(turns)[i], rotation_from_vector(turns[i]))
        np.testing.assert_array_equal(
            work_centre_world_m(spots, suns, 1.22)[i], work_centre_world_m(spots[i], sun, 1.22)
        )
