import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melter.errors import NoEllipse
from melter.geometry.conic import (
    cut_cone,
    ellipse_lens_m,
    focus_world_m,
    lit_outline_world_m,
    matching_radii_m,
    outline_polygon,
    outline_world_m,
    rectangle_lens_m,
    sharp_irradiance_w_m2,
    sharp_peak_w_m2,
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


def _cone_through_rim_rays(focus, centre, rotation, radii):
    """Six numbers (n, 6) of the quadric cone that five rays from the rim through the focus lie on, extended precision."""
    turn = np.longdouble(0.3) + np.arange(5) * np.longdouble(1.25)
    rim = np.stack([np.cos(turn), np.sin(turn)], axis=-1)[None] * radii[:, None]
    ray = (centre - focus)[:, None] + np.einsum("nij,nkj->nki", rotation[:, :, :2], rim)
    x, y, z = np.moveaxis(ray / np.sqrt((ray * ray).sum(axis=-1, keepdims=True)), -1, 0)
    rows = np.stack([x * x, 2 * x * y, y * y, 2 * x * z, 2 * y * z, -z * z], axis=-1)
    every = np.arange(len(rows))
    for k in range(5):
        pivot = np.abs(rows[:, k:, k]).argmax(axis=1) + k
        rows[every, k], rows[every, pivot] = rows[every, pivot].copy(), rows[every, k].copy()
        rows[:, k] /= rows[:, k, k][:, None]
        for other in set(range(5)) - {k}:
            rows[:, other] -= rows[:, other, k][:, None] * rows[:, k]
    return np.concatenate([rows[:, :, 5], np.ones((len(rows), 1), dtype=np.longdouble)], axis=1)


def test_centre_and_axes_of_ten_thousand_cones_agree_with_five_shot_rays_each() -> None:
    """Ellipses and hyperbolas, to 1e-9 of their size; the shot curve in extended precision."""
    rng = np.random.default_rng(3)
    poses = [_pose(rng) for _ in range(10_000)]
    focus, centre, rotation, radii, height = (np.array([p[i] for p in poses], dtype=np.longdouble) for i in range(5))
    a, b, c, d, e, f = _cone_through_rim_rays(focus, centre, rotation, radii).T
    drop, flat = height - focus[:, 2], a * c - b * b
    toward = np.stack([c * d - b * e, a * e - b * d], axis=-1) / flat[:, None]
    middle = focus[:, :2] - drop[:, None] * toward
    level = f - d * toward[:, 0] - e * toward[:, 1]
    mean, radius = (a + c) / 2, np.hypot((a - c) / 2, b)
    steep = np.where(mean > 0, mean + radius, mean - radius)
    squares = np.sort(-(level * drop * drop)[:, None] / np.stack([steep, flat / steep], axis=-1), axis=1)[:, ::-1]
    axes = np.sqrt(np.abs(squares))
    cut = [cut_cone(*pose) for pose in poses]
    size = axes.max(axis=1)[:, None]
    assert (np.abs(np.array([conic.centre_world_m for conic in cut]) - middle) < 1e-9 * size).all()
    assert (np.abs(np.array([conic.semi_axes_m for conic in cut]) - axes) < 1e-9 * axes).all()
    kinds = np.array([conic.kind for conic in cut])
    np.testing.assert_array_equal(kinds == "ellipse", flat > 0)
    np.testing.assert_array_equal(kinds == "hyperbola", flat < 0)


@settings(max_examples=200, deadline=None)
@given(st.floats(0.1, 0.7), st.floats(-3.1, 3.1), st.floats(0.02, 0.5), st.floats(-3.1, 3.1))
def test_a_round_cone_along_the_sand_is_a_parabola(half_angle, azimuth, drop, twist) -> None:
    """Plane parallel to a generator: vertex below the opposite one, at the angle 2 a; latus rectum 2 drop tan a."""
    lean = np.pi / 2 - half_angle
    rotation = rotation_from_vector([0, 0, azimuth]) @ rotation_from_vector([0, lean, 0])
    rotation = rotation @ rotation_from_vector([0, 0, twist])
    focus = np.array([0.2, -0.1, drop])
    conic = cut_cone(focus, focus + rotation[:, 2], rotation, (radius := float(np.tan(half_angle)), radius))
    assert conic.kind == "parabola"
    away = -np.array([np.cos(azimuth), np.sin(azimuth)]) * drop / np.tan(2 * half_angle)
    np.testing.assert_allclose(conic.centre_world_m, focus[:2] + away, atol=1e-9)
    np.testing.assert_allclose(conic.semi_axes_m, drop * np.tan(half_angle), rtol=1e-9)
    assert abs(np.sin(conic.angle_rad - azimuth)) < 1e-9


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


@pytest.mark.parametrize("aperture", ["rectangle", "ellipse"])
def test_lit_outline_holds_exactly_the_rays_that_come_down(aperture) -> None:
    """Lenses leaning so far that their cone passes the horizon: clipped, not turned inside out."""
    rng, empty, cut_off = np.random.default_rng(5), 0, 0
    for _ in range(150):
        rotation = rotation_from_vector(rng.normal(0, 1.2, 3))
        centre = np.array([*rng.uniform(-1, 1, 2), rng.uniform(0.3, 2)])
        focus = centre - rotation @ np.array([*rng.uniform(-0.4, 0.4, 2), rng.uniform(0.3, 2)])
        height = rng.uniform(-0.3, 0.3)
        rim = rectangle_lens_m(1.05, 1.4) if aperture == "rectangle" else ellipse_lens_m((0.5, 0.7))
        corners = lit_outline_world_m(focus, rim, centre, rotation, height, reach_m=5.0)
        inside = rng.uniform(-0.5, 0.5, (4000, 2)) * [1.05, 1.4]
        if aperture == "ellipse":
            inside = inside[np.hypot(inside[:, 0] / 0.5, inside[:, 1] / 0.7) < np.cos(np.pi / 256)]
        start = centre + inside @ rotation[:, :2].T
        rise = start[:, 2] - focus[2]
        hits = focus[:2] - ((focus[2] - height) / rise)[:, None] * (start[:, :2] - focus[:2])
        seen = (rise > 0) & (start[:, 2] > height) & (np.abs(hits - centre[:2]) <= 5.0).all(axis=1)
        empty, cut_off = empty + (not seen.any()), cut_off + (seen.any() and not seen.all())
        if len(corners) < 3:
            assert not seen.any()
            continue
        polygon = outline_polygon(corners)
        assert polygon.is_valid
        found = outline_polygon(hits[seen]).convex_hull.area if seen.sum() > 2 else 0.0
        assert outline_polygon(corners).union(outline_polygon(hits[seen]).convex_hull).area <= polygon.area * (1 + 1e-7)
        if seen.all():
            assert found > 0.85 * polygon.area
    assert empty > 5
    assert cut_off > 20


def test_lit_outline_of_a_lens_in_work_is_the_plain_one() -> None:
    rotation = rotation_from_vector([0.3, 0.2, 0.5])
    pose = ([0.0, 0.1, 0.1], rectangle_lens_m(1.05, 1.4), [0.1, 0.3, 1.3], rotation, 0.02)
    lit = {tuple(corner) for corner in np.round(lit_outline_world_m(*pose), 9)}
    assert lit == {tuple(corner) for corner in np.round(outline_world_m(*pose), 9)}


@pytest.mark.parametrize("drop", [0.12, -0.1])
def test_sharp_irradiance_holds_the_power_and_its_peak(drop) -> None:
    rotation = rotation_from_vector([0.4, 0.2, 0.3])
    focus = np.array([0.1, 0.0, drop])
    centre, edges = focus + 1.22 * rotation[:, 2], (1.05, 1.4)
    corners = lit_outline_world_m(focus, rim := rectangle_lens_m(*edges), centre, rotation)
    (left, bottom), (right, top) = corners.min(axis=0), corners.max(axis=0)
    x, y = np.linspace(left, right, 801), np.linspace(bottom, top, 801)
    flux = sharp_irradiance_w_m2(np.stack(np.meshgrid(x, y), axis=-1), 900.0, edges, focus, centre, rotation)
    assert flux.sum() * (x[1] - x[0]) * (y[1] - y[0]) == pytest.approx(900, rel=0.01)
    peak = sharp_peak_w_m2(900.0, focus, rim, centre, rotation)
    assert 0.97 * peak < flux.max() <= peak * (1 + 1e-9)


def test_sharp_peak_where_there_is_none() -> None:
    rim, level = rectangle_lens_m(1.0, 1.0), np.eye(3)
    assert sharp_peak_w_m2(900.0, [0, 0, 0.0], rim, [0, 0, 1.0], level) == np.inf
    assert sharp_peak_w_m2(900.0, [0, 0, 2.0], rim, [0, 0, 1.0], level) == 0
    assert sharp_peak_w_m2(1000.0, [0, 0, 0.1], rim, [0, 0, 1.1], level) == pytest.approx(1e5)


def test_matching_ellipse_has_the_rectangles_second_moments() -> None:
    """A uniform ellipse has variance r^2 / 4 along an axis, a uniform rectangle edge^2 / 12."""
    a, b = matching_radii_m(1.05, 1.4)
    assert a * a / 4 == pytest.approx(1.05**2 / 12)
    assert b * b / 4 == pytest.approx(1.4**2 / 12)


def test_light_that_does_not_come_down_has_no_outline() -> None:
    rotation = rotation_from_vector([1.2, 0, 0])
    with pytest.raises(NoEllipse, match="come down"):
        outline_world_m([0, 0, 1.0], rectangle_lens_m(1, 1), [0, 0, 1.2], rotation)
