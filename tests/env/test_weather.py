"""Wind, gusts, clouds, and the camera in them."""

from __future__ import annotations

import numpy as np
import pytest

from melter.env.camera import Camera
from melter.env.noise import keys_of, normal
from melter.env.params import NOMINAL
from melter.env.wind import (
    GUST_WINDOW_S,
    gust_shape,
    normal_force_coefficient,
    sun_through_cloud,
    weather_step,
    wind_on_lens,
)
from melter.machine import Machine

N = 4000
KEYS = keys_of(np.arange(N), np.zeros(N, dtype=int))


def test_the_force_is_that_of_the_machine_page(corner8: Machine) -> None:
    """About 9, 25 and 65 N at 3, 5 and 8 m/s against the sheet."""
    north = np.array([[0.0, 1.0, 0.0]])
    for speed, expected in ((3.0, 9.0), (5.0, 25.0), (8.0, 65.0)):
        force, torque = wind_on_lens(corner8, np.array([speed]), np.zeros(1), np.zeros(1), north)
        np.testing.assert_allclose(force[0], [0, -expected, 0], rtol=0.1)
        np.testing.assert_allclose(torque, 0, atol=1e-12)


def test_force_along_the_normal_torque_by_the_leading_edge(corner8: Machine) -> None:
    tilt = np.radians(25)
    axis = np.array([[0.0, -np.sin(tilt), np.cos(tilt)]])  # faces a sun in the south
    for azimuth in (0.0, np.pi):  # from the north, from the south
        force, torque = wind_on_lens(corner8, np.array([5.0]), np.array([azimuth]), np.zeros(1), axis)
        np.testing.assert_allclose(np.cross(force, axis), 0, atol=1e-12)
        blows = np.array([0.0, -np.cos(azimuth), 0.0])
        assert force[0] @ blows > 0
        assert abs(torque[0] @ axis[0]) < 1e-12
        # the force acts ahead of the middle: it turns the leading edge the way it pushes
        edge = -blows + (blows @ axis[0]) * axis[0]
        assert np.cross(torque[0], edge) @ force[0] > 0
    flat = np.array([[0.0, 0.0, 1.0]])
    level, _ = wind_on_lens(corner8, np.array([5.0]), np.zeros(1), np.zeros(1), flat)
    assert np.abs(level).max() < 1e-12
    lifted, _ = wind_on_lens(corner8, np.array([5.0]), np.zeros(1), np.full(1, 0.1), flat)
    assert lifted[0, 2] > 1


def test_the_coefficient_is_that_of_a_square_plate() -> None:
    """Face on 1.17; about 2 per radian at small angles (Hoerner, ch. 3 and 7: 1.1 to 1.2, and 1.8 to 2.1)."""
    face_on, grazing = normal_force_coefficient(np.array([1.0, 0.01]))
    assert face_on == pytest.approx(1.17, abs=0.01)
    assert 1.5 < grazing / 0.01 < 3
    assert (np.diff(normal_force_coefficient(np.linspace(0, 1, 50))) > 0).all()


def test_weather_has_unit_variance_and_its_correlation_time() -> None:
    state, seen = normal(KEYS, 1, 4), []
    for tick in range(40):
        state = weather_step(state, 0.05, normal(KEYS, 100 + tick, 4))
        seen.append(state)
    first, last = seen[0], seen[-1]
    np.testing.assert_allclose(last.std(axis=0), 1, rtol=0.05)
    np.testing.assert_allclose(
        (first * last).mean(axis=0), np.exp(-39 * 0.05 / np.array([2.0, 5.0, 2.0, 6.0])), atol=0.06
    )


def test_gusts_rise_and_fall_smoothly_in_some_windows() -> None:
    t_s = np.arange(0, 3 * GUST_WINDOW_S, 0.05)
    shapes = np.array([gust_shape(KEYS[:200], np.full(200, t)) for t in t_s])
    assert shapes.min() >= 0
    assert 0.99 < shapes.max() <= 1
    assert np.abs(np.diff(shapes, axis=0)).max() < 0.08
    blown = shapes.reshape(3, -1, 200).max(axis=1) > 0.9
    assert 0.3 < blown.mean() < 0.5


def test_clouds_take_about_their_share_of_the_time() -> None:
    state = normal(KEYS, 7, 1)[:, 0]
    assert (sun_through_cloud(state, np.zeros(N)) == 1).all()
    for share in (0.05, 0.15):
        passed = sun_through_cloud(state, np.full(N, share))
        assert ((passed >= 0) & (passed <= 1)).all()
        assert (passed < 0.5).mean() == pytest.approx(share, rel=0.5)


def film(
    corner8: Machine, *, sun_w_m2: float = 900.0, peak_w_m2: float = 1e6, tilt_rad: float = 0.0, size_m=0.006, **values
):
    """Centres that N cameras report of a patch in the middle, and whether they see it."""
    drawn = NOMINAL.draw(KEYS, corner8)
    for name, value in values.items():
        drawn[name][:] = value
    camera, patch = Camera(corner8, N, 0.12), np.tile([0.0, 0.0, size_m**2, 0.0, size_m**2], (N, 1))
    camera.start(np.arange(N), patch)
    whole = [np.full(N, value) for value in (peak_w_m2, tilt_rad, sun_w_m2)]
    camera.film(patch, *whole, drawn, KEYS, np.ones(N, dtype=np.int64))
    return camera.measured[:, :2], camera.fresh


def test_camera_noise_grows_with_size_tilt_and_glare(corner8: Machine) -> None:
    plain, seen = film(corner8, camera_noise_m=0.0004)
    assert seen.all()
    assert 0.0004 < plain.std() < 0.0006
    for worse in ({"size_m": 0.03}, {"tilt_rad": 0.1}, {"peak_w_m2": 3e6, "camera_saturation_w_m2": 2e6}):
        assert film(corner8, camera_noise_m=0.0004, **worse)[0].std() > 1.4 * plain.std()


def test_frames_are_lost_by_chance_and_in_the_dark(corner8: Machine) -> None:
    assert film(corner8, camera_loss=0.2)[1].mean() == pytest.approx(0.8, abs=0.03)
    assert not film(corner8, sun_w_m2=100.0)[1].any()


def test_delay_shows_the_past_and_the_age_is_as_the_robot_knows_it(corner8: Machine) -> None:
    drawn = NOMINAL.draw(KEYS, corner8)
    drawn["camera_delay_s"][:], drawn["camera_noise_m"][:] = 0.075, 0.0
    camera = Camera(corner8, N, 0.12)
    at = lambda tick: np.tile([0.01 * tick, 0.0, 1e-5, 0.0, 1e-5], (N, 1))  # noqa: E731
    camera.start(np.arange(N), at(0))
    for tick in range(1, 8):
        still = [np.full(N, value) for value in (1e6, 0.0, 900.0)]
        camera.film(at(tick), *still, drawn, KEYS, np.full(N, tick))
    np.testing.assert_allclose(camera.measured[:, 0], 0.01 * (7 - 0.075 / 0.05))
    assert (camera.age_s == corner8.control.camera_delay_s).all()
