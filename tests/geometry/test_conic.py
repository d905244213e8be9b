import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melter.errors import NoEllipse
from melter.geometry.conic import (
    cut_cone,
    focus_world_m,
    matching_radii_m,
    outline_polygon,
    outline_world_m,
    rectangle_lens_m,
)
from melter.geometry.pose import rotation_facing, rotation_from_vector, sun_direction_world


def _pose(rng):
    rotation = rotation_from_vector(rng.normal(0, 0.8, 3))
    centre = np.array([rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.8, 2)])
    focus = centre - rotation @ np.array([rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4), rng.uniform(0.3, 2)])
    radii = tuple(rng.uniform(0.1, 0.9, 2)) if rng.random() < 0.5 else (float(r := rng.uniform(0.1, 0.9)), float(r))
    return focus, centre, rotation, radii, rng.uniform(-0.3, 0.3)


def _shoot(points_world_m, focus, centre, rotation, radii, height):
    """Back through the focus to the lens plane: 1 on the rim."""
    down = np.concatenate([points_world_m, np.full((len(points_world_m), 1), height)], axis=1) - focus
    n = rotation[:, 2]
    lens = (focus + (n @ (centre - focus) / (down @ n))[:, None] * down - centre) @ rotation
    return np.hypot(lens[:, 0] / radii[0], lens[:, 1] / radii[1])


def _on_curve(conic, t):
    c, s = np.cos(conic.angle_rad), np.sin(conic.angle_rad)
    a, b = conic.semi_axes_m
    if conic.kind == "ellipse":
        local = np.stack([a * np.cos(t), b * np.sin(t)], axis=1)
    else:
        local = np.stack([np.sign(np.cos(t)) * a * np.cosh(np.sin(t)), b * np.sinh(np.sin(t))], axis=1)
    return conic.centre_world_m + local @ np.array([[c, s], [-s, c]])


def test_ten_thousand_cones_agree_with_rays_shot_back_to_the_rim() -> None:
    rng = np.random.default_rng(7)
    kinds = {"ellipse": 0, "hyperbola": 0, "parabola": 0, "point": 0}
    t = np.linspace(0.05, 2 * np.pi, 8, endpoint=False)
    for _ in range(10_000):
        pose = _pose(rng)
        conic = cut_cone(*pose[:4], pose[4])
        kinds[conic.kind] += 1
        assert conic.semi_axes_m[0] >= conic.semi_axes_m[1] or conic.kind == "hyperbola"
        assert -np.pi / 2 < conic.angle_rad <= np.pi / 2
        near_parabola = abs(np.linalg.det(conic.quadric[:2, :2])) < 1e-4 * np.linalg.norm(conic.quadric[:2, :2]) ** 2
        near_point = abs(pose[4] - pose[0][2]) < 1e-3
        if not (near_parabola or near_point):
            np.testing.assert_allclose(_shoot(_on_curve(conic, t), *pose), 1.0, rtol=1e-9)
    assert kinds["ellipse"] > 3000
    assert kinds["hyperbola"] > 1000


def test_centre_and_axes_agree_with_an_ellipse_through_shot_points() -> None:
    """Five coefficients fitted to rim rays give the same centre and axes to 1e-9."""
    rng = np.random.default_rng(3)
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    checked = 0
    while checked < 500:
        focus, centre, rotation, radii, height = _pose(rng)
        conic = cut_cone(focus, centre, rotation, radii, height)
        rim = np.stack([radii[0] * np.cos(angle), radii[1] * np.sin(angle)], axis=1)
        if conic.kind != "ellipse" or conic.semi_axes_m[0] > 20 * conic.semi_axes_m[1] or conic.semi_axes_m[1] < 1e-3:
            continue
        try:
            hits = outline_world_m(focus, rim, centre, rotation, height)
        except NoEllipse:
            continue
        checked += 1
        mean, scale = hits.mean(axis=0), np.ptp(hits)
        x, y = ((hits - mean) / scale).T
        p = np.linalg.lstsq(np.stack([x * x, x * y, y * y, x, y], axis=1), np.ones(x.size), rcond=None)[0]
        square = np.array([[p[0], p[1] / 2], [p[1] / 2, p[2]]])
        middle = -np.linalg.solve(square, p[3:]) / 2
        axes = np.sqrt((1 + middle @ square @ middle) / np.linalg.eigvalsh(square)) * scale
        np.testing.assert_allclose(axes, conic.semi_axes_m, rtol=1e-9)
        np.testing.assert_allclose(mean + middle * scale, conic.centre_world_m, atol=1e-9 * conic.semi_axes_m[0])


def test_a_lens_above_its_focus_gives_the_circle_of_similar_triangles() -> None:
    conic = cut_cone([0.1, 0.2, 0.25], [0.1, 0.2, 1.25], np.eye(3), (0.5, 0.5))
    assert conic.kind == "ellipse"
    np.testing.assert_allclose(conic.semi_axes_m, 0.125, rtol=1e-14)
    np.testing.assert_allclose(conic.centre_world_m, [0.1, 0.2], atol=1e-15)


@pytest.mark.parametrize(("tilt_deg", "kind"), [(44.9, "ellipse"), (45.0, "parabola"), (45.1, "hyperbola")])
def test_a_right_cone_of_45_degrees_changes_kind_at_45_degrees(tilt_deg: float, kind: str) -> None:
    rotation = rotation_from_vector([np.radians(tilt_deg), 0, 0])
    focus = np.array([0.0, 0.0, 0.3])
    conic = cut_cone(focus, focus + rotation[:, 2], rotation, (1.0, 1.0))
    assert conic.kind == kind
    if kind == "parabola":
        assert abs(conic.angle_rad) == pytest.approx(np.pi / 2)
        # One edge of the cone is level, the other plumb: the vertex is right below the apex.
        np.testing.assert_allclose(conic.centre_world_m, [0, 0], atol=1e-12)


def test_a_focus_on_the_sand_is_a_point_and_one_in_the_lens_plane_no_cone() -> None:
    point = cut_cone([0.3, -0.2, 0.05], [0.3, -0.2, 1.0], np.eye(3), (0.5, 0.7), 0.05)
    assert point.kind == "point"
    np.testing.assert_array_equal(point.semi_axes_m, 0)
    np.testing.assert_array_equal(point.centre_world_m, [0.3, -0.2])
    with pytest.raises(NoEllipse, match="lens plane"):
        cut_cone([0.3, 0, 1.0], [0, 0, 1.0], np.eye(3), (0.5, 0.5))


def test_the_same_cone_at_twice_the_drop_is_twice_the_ellipse() -> None:
    rotation = rotation_from_vector([0.2, 0.1, 0.4])
    one, two = (cut_cone([0, 0, 0.1], [0.1, 0.1, 1.2], rotation, (0.5, 0.6), h) for h in (0.0, -0.1))
    np.testing.assert_allclose(two.semi_axes_m, 2 * one.semi_axes_m, rtol=1e-12)
    np.testing.assert_allclose(two.centre_world_m, 2 * one.centre_world_m, rtol=1e-12)
    mirrored = cut_cone([0, 0, 0.1], [0.1, 0.1, 1.2], rotation, (0.5, 0.6), 0.2)
    np.testing.assert_allclose(mirrored.semi_axes_m, one.semi_axes_m, rtol=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 0.7), st.floats(0, 6.28), st.floats(-0.15, 0.15))
def test_rectangle_outline_contains_its_inscribed_ellipse(zenith: float, azimuth: float, defocus: float) -> None:
    sun = sun_direction_world(zenith, azimuth)
    rotation = rotation_facing(sun)
    centre = (1.22 - defocus) * sun
    focus = focus_world_m(1.22, centre, rotation, sun)
    np.testing.assert_allclose(focus, -defocus * sun, atol=1e-12)
    corners = outline_world_m(focus, rectangle_lens_m(1.05, 1.4), centre, rotation)
    if abs(defocus) < 1e-3:
        return
    polygon = outline_polygon(corners)
    conic = cut_cone(focus, centre, rotation, (0.525, 0.7))
    assert polygon.is_valid
    curve = outline_polygon(_on_curve(conic, np.linspace(0, 2 * np.pi, 60, endpoint=False)))
    assert polygon.buffer(1e-9).contains(curve)


def test_matching_ellipse_has_the_rectangles_second_moments() -> None:
    """A uniform ellipse has variance r^2 / 4 along an axis, a uniform rectangle edge^2 / 12."""
    a, b = matching_radii_m(1.05, 1.4)
    assert a * a / 4 == pytest.approx(1.05**2 / 12)
    assert b * b / 4 == pytest.approx(1.4**2 / 12)


def test_light_that_does_not_come_down_has_no_outline() -> None:
    rotation = rotation_from_vector([1.2, 0, 0])
    with pytest.raises(NoEllipse, match="come down"):
        outline_world_m([0, 0, 1.0], rectangle_lens_m(1, 1), [0, 0, 1.2], rotation)
