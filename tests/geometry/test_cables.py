"""Straight cables: lengths, their Jacobian, the balance of tensions; reference tensions and the way back to a pose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melter.geometry.cables import (
    balanced_tensions_n,
    cable_lengths_m,
    cable_vectors_world_m,
    length_jacobian,
    structure_matrix,
    tensions_in_band_n,
    unwound_lengths_m,
)
from melter.geometry.kinematics import Pose, forward_pose
from melter.geometry.pose import rotation_facing, rotation_from_vector, sun_direction_world, work_centre_world_m
from melter.geometry.reference import reference_tensions_n, reference_unwound_m, weight_n
from melter.machine import Machine, load_machine

MACHINE = load_machine()
WEIGHT = weight_n(MACHINE.lens.moving_mass_kg)
CABLES = (MACHINE.pulleys_world_m, MACHINE.attachments_lens_m)

centres = st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.floats(0.6, 1.3)).map(np.array)
turns = st.tuples(*[st.floats(-0.5, 0.5)] * 3).map(np.array)
small = st.tuples(*[st.floats(-1, 1)] * 6).map(np.array)


def test_level_at_park_by_hand() -> None:
    """NE-upper: from (1.75, 1.75, 2) to (0.525, 0.70, 0.40)."""
    lengths = cable_lengths_m(*CABLES, np.array([0, 0, 0.70]), np.eye(3))
    assert lengths[0] == pytest.approx(np.sqrt(1.225**2 + 1.05**2 + 1.6**2), abs=1e-12)
    assert lengths[1] == pytest.approx(np.sqrt(1.225**2 + 1.05**2 + 1.0**2), abs=1e-12)
    np.testing.assert_allclose(lengths[::2], lengths[0])  # four times the same corner
    np.testing.assert_allclose(lengths[1::2], lengths[1])


@given(centres, turns)
def test_vectors_point_from_attachment_to_pulley(centre: np.ndarray, turn: np.ndarray) -> None:
    rotation = rotation_from_vector(turn)
    vectors, arms = cable_vectors_world_m(*CABLES, centre, rotation)
    np.testing.assert_allclose(centre + arms + vectors, CABLES[0], atol=1e-12)
    np.testing.assert_allclose(arms @ rotation, CABLES[1], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), cable_lengths_m(*CABLES, centre, rotation))


@given(centres, turns, small)
def test_jacobian_against_differences(centre: np.ndarray, turn: np.ndarray, step: np.ndarray) -> None:
    rotation, h = rotation_from_vector(turn), 1e-6
    there = [
        cable_lengths_m(*CABLES, centre + s * h * step[:3], rotation_from_vector(s * h * step[3:]) @ rotation)
        for s in (1, -1)
    ]
    np.testing.assert_allclose(
        length_jacobian(*CABLES, centre, rotation) @ step, (there[0] - there[1]) / (2 * h), atol=1e-7
    )


@given(centres, turns)
def test_structure_matrix_is_force_and_moment_of_unit_tensions(centre: np.ndarray, turn: np.ndarray) -> None:
    rotation = rotation_from_vector(turn)
    structure = structure_matrix(*CABLES, centre, rotation)
    np.testing.assert_allclose(np.linalg.norm(structure[:3], axis=0), 1)
    for i in range(8):
        grip = centre + rotation @ CABLES[1][i]
        unit = (CABLES[0][i] - grip) / np.linalg.norm(CABLES[0][i] - grip)
        np.testing.assert_allclose(structure[:3, i], unit, atol=1e-12)
        np.testing.assert_allclose(structure[3:, i], np.cross(grip - centre, unit), atol=1e-12)


@given(centres, turns, small, st.floats(20, 250))
def test_balanced_tensions_balance(centre: np.ndarray, turn: np.ndarray, push: np.ndarray, preferred: float) -> None:
    structure = structure_matrix(*CABLES, centre, rotation_from_vector(turn))
    wrench = WEIGHT + 20 * push
    tension = balanced_tensions_n(structure, wrench, preferred)
    np.testing.assert_allclose(structure @ tension, -wrench, atol=1e-6)
    # closest to what was preferred: no move along the null space comes closer
    null = np.linalg.svd(structure)[2][6:]
    np.testing.assert_allclose(null @ (tension - preferred), 0, atol=1e-6)


@given(st.floats(-0.36, 0.36), st.floats(-0.36, 0.36), st.floats(0, 25), st.floats(0, 360))
@settings(max_examples=60)
def test_reference_tensions_hold_the_nominal_machine_at_work(
    x: float, y: float, zenith_deg: float, azimuth_deg: float
) -> None:
    """The nominal machine holds everywhere over its bed up to zenith 25° with 15 to 300 N."""
    sun = sun_direction_world(*np.radians([zenith_deg, azimuth_deg]))
    centre = work_centre_world_m([x, y], sun, MACHINE.lens.focal_length_m)
    structure = structure_matrix(*CABLES, centre, rotation_facing(sun))
    tension = reference_tensions_n(structure, WEIGHT, MACHINE.tension_band_n)
    np.testing.assert_allclose(structure @ tension, -WEIGHT, atol=1e-6)
    assert tension.min() > MACHINE.limits.tension_min_n
    assert tension.max() < MACHINE.limits.tension_max_n


def test_band_projection_keeps_the_balance_even_where_the_band_cannot_be_kept(vitrifier: Machine) -> None:
    """The author's draft does not hold its lens level over the middle of the bed."""
    structure = structure_matrix(
        vitrifier.pulleys_world_m, vitrifier.attachments_lens_m, np.array([0, 0, 1.2]), np.eye(3)
    )
    low, high = vitrifier.limits.tension_min_n, vitrifier.limits.tension_max_n
    weight = weight_n(vitrifier.lens.moving_mass_kg)
    tension = tensions_in_band_n(structure, weight, low, high, (low + high) / 2)
    np.testing.assert_allclose(structure @ tension, -weight, atol=1e-5)
    assert tension.min() < low or tension.max() > high


@given(st.floats(0.5, 4.5), st.floats(0, 400), st.floats(1e4, 1e6))
def test_stress_free_length_stretches_back(length: float, tension: float, stiffness: float) -> None:
    free = unwound_lengths_m(length, tension, stiffness)
    assert free <= length
    assert stiffness * (length / free - 1) == pytest.approx(tension, abs=1e-6)


def test_reference_lengths_at_park_are_those_of_park_less_the_stretch() -> None:
    park, drive = np.array(MACHINE.park.lens_centre_world_m), MACHINE.drive
    lengths = cable_lengths_m(*CABLES, park, np.eye(3))
    free = reference_unwound_m(
        *CABLES, park, np.eye(3), MACHINE.lens.moving_mass_kg, MACHINE.tension_band_n, drive.cable_stiffness_n
    )
    structure = structure_matrix(*CABLES, park, np.eye(3))
    np.testing.assert_allclose(structure @ (drive.cable_stiffness_n * (lengths / free - 1)), -WEIGHT, atol=1e-6)
    stretch = lengths - free
    assert (stretch > 0).all()
    assert (stretch < lengths * MACHINE.limits.tension_max_n / MACHINE.drive.cable_stiffness_n).all()


@given(centres, st.tuples(*[st.floats(-0.4, 0.4)] * 3).map(np.array), small)
@settings(max_examples=40)
def test_forward_pose_finds_the_pose_again(centre: np.ndarray, turn: np.ndarray, off: np.ndarray) -> None:
    rotation = rotation_from_vector(turn)
    lengths = cable_lengths_m(*CABLES, centre, rotation)
    guess = Pose(centre + 0.1 * off[:3], rotation_from_vector(0.1 * off[3:]) @ rotation)
    found = forward_pose(*CABLES, lengths, guess)
    assert found.converged
    np.testing.assert_allclose(found.pose.centre_world_m, centre, atol=1e-7)
    np.testing.assert_allclose(found.pose.rotation, rotation, atol=1e-7)
    np.testing.assert_allclose(found.residual_m, 0, atol=1e-8)


def test_the_same_bits_alone_and_in_a_batch() -> None:
    rng = np.random.default_rng(0)
    centre, turn = rng.normal([0, 0, 1], 0.1, (30, 3)), rng.normal(0, 0.2, (30, 3))
    rotation = rotation_from_vector(turn)
    whole = cable_lengths_m(*CABLES, centre, rotation)
    for i in range(30):
        np.testing.assert_array_equal(whole[i], cable_lengths_m(*CABLES, centre[i], rotation[i]))
