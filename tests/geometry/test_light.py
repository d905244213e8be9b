"""The fast model against the ray trace, and the ray trace against laws and known figures."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melter.geometry.light import (
    LensOptics,
    fast_patch,
    peak_irradiance_w_m2,
    power_w,
    semi_axes_and_angle,
)
from melter.geometry.optics import acrylic_index, facet_normals, sun_offsets_rad, sun_variance_rad2, through_sheet
from melter.geometry.pose import (
    rotation_about_world_xy,
    rotation_facing,
    rotation_from_vector,
    sun_direction_world,
    work_centre_world_m,
)
from melter.geometry.trace import trace_patch
from melter.machine import load_machine

LENS = LensOptics.from_machine(load_machine())
FIELDS = ("centre_world_m", "xx", "xy", "yy", "tilt_rad", "defocus_m", "sun_up")


def _pose(defocus_m=0.0, tilt_rad=(0.0, 0.0), zenith_rad=0.0, azimuth_rad=0.0, spot=(0.1, -0.2)):
    sun = sun_direction_world(zenith_rad, azimuth_rad)
    rotation = rotation_about_world_xy(*tilt_rad) @ rotation_facing(sun)
    return work_centre_world_m(spot, sun, 1.22 - defocus_m), rotation, sun


def _poses(n, seed=0):
    rng = np.random.default_rng(seed)
    sun = sun_direction_world(rng.uniform(0, 0.7, n), rng.uniform(0, 6.28, n))
    rotation = rotation_from_vector(rng.normal(0, 0.05, (n, 3))) @ rotation_facing(sun)
    return work_centre_world_m(rng.uniform(-0.4, 0.4, (n, 2)), sun, 1.22 + rng.normal(0, 0.1, n)), rotation, sun


def test_a_pose_has_the_same_bits_alone_and_in_a_batch() -> None:
    rng = np.random.default_rng(1)
    centre, rotation, sun = _poses(256)
    values = {
        "focal_length_m": rng.normal(1.22, 0.01, 256),
        "facet_error_rad": rng.uniform(4e-3, 9e-3, 256),
        "transmission": rng.uniform(0.5, 0.75, 256),
        "circumsolar_ratio": rng.uniform(0.01, 0.2, 256),
    }
    height = rng.uniform(-0.01, 0.01, 256)
    whole = fast_patch(LensOptics.from_machine(load_machine(), **values), centre, rotation, sun, height)
    peaks = peak_irradiance_w_m2(LensOptics.from_machine(load_machine(), **values), whole, 900.0)
    for i in range(0, 256, 17):
        one = LensOptics.from_machine(load_machine(), **{k: v[i : i + 1] for k, v in values.items()})
        part = fast_patch(one, centre[i : i + 1], rotation[i : i + 1], sun[i : i + 1], height[i : i + 1])
        scalar = fast_patch(
            LensOptics.from_machine(load_machine(), **{k: v[i] for k, v in values.items()}),
            centre[i], rotation[i], sun[i], height[i],
        )  # fmt: skip
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(part, name)[0], getattr(whole, name)[i])
            np.testing.assert_array_equal(getattr(scalar, name), getattr(whole, name)[i])
        np.testing.assert_array_equal(peak_irradiance_w_m2(one, part, 900.0)[0], peaks[i])


@pytest.mark.parametrize("count", [0, 2, 3, 7, 64])
def test_a_part_of_a_batch_has_the_bits_of_the_whole(count) -> None:
    centre, rotation, sun = _poses(256)
    whole, part = (fast_patch(LENS, centre[:n], rotation[:n], sun[:n], 0.01) for n in (256, count))
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[:count])
    whole_peak, part_peak = (peak_irradiance_w_m2(LENS, patch, 900.0) for patch in (whole, part))
    np.testing.assert_array_equal(part_peak, whole_peak[:count])


@pytest.mark.parametrize("astray", [np.nan, np.inf, 1e30, -1e200])
def test_one_lens_gone_astray_neither_warns_nor_touches_its_neighbours(astray) -> None:
    centre, rotation, sun = _poses(4)
    before = fast_patch(LENS, centre, rotation, sun)
    peak = peak_irradiance_w_m2(LENS, before, 900.0)
    centre[2], rotation[2, 1] = astray, astray
    after = fast_patch(LENS, centre, rotation, sun)
    keep = [0, 1, 3]
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(after, name)[keep], getattr(before, name)[keep])
    np.testing.assert_array_equal(peak_irradiance_w_m2(LENS, after, 900.0)[keep], peak[keep])


def test_a_lens_turned_over_or_on_edge_gives_no_warning_and_no_light() -> None:
    centre, rotation, sun = _pose()
    for turn in (np.pi / 2, 2.0, np.pi):
        patch = fast_patch(LENS, centre, rotation_from_vector([turn, 0, 0]) @ rotation, sun)
        assert not float(peak_irradiance_w_m2(LENS, patch, 900.0)) > 1e3


def test_batch_shapes_and_scalars_broadcast() -> None:
    centre, rotation, sun = _pose()
    patch = fast_patch(LENS, np.broadcast_to(centre, (2, 3, 3)), rotation, sun)
    assert patch.centre_world_m.shape == (2, 3, 2)
    assert patch.xx.shape == patch.defocus_m.shape == (2, 3)
    assert peak_irradiance_w_m2(LENS, patch, 900.0).shape == (2, 3)


def _random_lens(rng):
    return LensOptics.from_machine(
        load_machine(),
        focal_length_m=1.22 * rng.uniform(0.98, 1.02),
        facet_error_rad=rng.uniform(4e-3, 9e-3),
        circumsolar_ratio=rng.uniform(0.01, 0.2),
    )


def test_fast_model_agrees_with_the_trace_in_the_working_range() -> None:
    """Any lens, sun and bed of the machine page, tilt to 5 degrees: centroid within 1 mm, axes within 5 %."""
    rng = np.random.default_rng(5)
    for _ in range(120):
        lens, height = _random_lens(rng), rng.uniform(-0.01, 0.01)
        tilt, turn, defocus = np.radians(rng.uniform(0, 5)), rng.uniform(0, 6.28), rng.uniform(-0.15, 0.15)
        sun = sun_direction_world(np.radians(rng.uniform(0, 40)), rng.uniform(0, 6.28))
        rotation = rotation_about_world_xy(tilt * np.cos(turn), tilt * np.sin(turn)) @ rotation_facing(sun)
        pose = work_centre_world_m((0.1, -0.2), sun, lens.focal_length_m - defocus, height), rotation, sun, height
        fast, traced = fast_patch(lens, *pose), trace_patch(lens, *pose, rays=40_000)
        assert np.hypot(*(fast.centre_world_m - traced.centre_world_m)) < 1e-3
        np.testing.assert_allclose(semi_axes_and_angle(*fast.covariance)[0], traced.semi_axes_and_angle[0], rtol=0.05)


@pytest.mark.parametrize(("tilt_deg", "zenith_deg"), [(0, 0), (3, 0), (0, 25), (2, 40)])
@pytest.mark.parametrize("defocus_m", [-0.12, -0.02, 0.0, 0.02, 0.05, 0.12, 0.3])
def test_fast_peak_agrees_with_the_trace(tilt_deg, zenith_deg, defocus_m) -> None:
    pose = _pose(defocus_m, (np.radians(tilt_deg), 0), np.radians(zenith_deg), 1.0)
    fast = peak_irradiance_w_m2(LENS, fast_patch(LENS, *pose), 900.0)
    assert float(fast) == pytest.approx(_smooth_peak_w_m2(trace_patch(LENS, *pose, rays=150_000)), rel=0.3)


def _smooth_peak_w_m2(patch):
    """Mean over the brightest square of 4 mm, or a twentieth of the patch: rays' own graininess leaves a few percent."""
    xx, xy, yy = patch.covariance_m2
    cell = max(4e-3, 0.05 * np.sqrt(12 * np.sqrt(xx * yy - xy * xy)))
    offset = patch.hits_world_m - np.median(patch.hits_world_m, axis=0)
    edges = np.arange(-80, 81) * cell
    best = 0.0
    for x, y in itertools.product((0, cell / 2), repeat=2):
        grid, _, _ = np.histogram2d(*(offset + np.array([x, y])).T, bins=(edges, edges), weights=patch.ray_power_w)
        best = max(best, grid.max() / cell**2)
    return best


@pytest.mark.parametrize(
    ("defocus_m", "peak_mw_m2"), [(-0.02, 2.05), (0.0, 3.1), (0.02, 2.7), (0.05, 1.1), (0.1, 0.16)]
)
def test_trace_has_the_known_peak_over_defocus(defocus_m, peak_mw_m2) -> None:
    """Figures of an independent trace of this lens (machine facts)."""
    patch = trace_patch(LENS, *_pose(defocus_m))
    assert patch.peak_w_m2 / 1e6 == pytest.approx(peak_mw_m2, rel=0.15)


TILTS = [(5, 2.7, 1.21), (10, 1.8, 1.18), (20, 0.76, 1.11), (30, 0.33, 1.03)]


def _best_mw_m2(tilt_deg, turn_deg, reach_m):
    """Peak at best focus, and where that is, for a tilt about an axis at an angle from the short edge."""
    tilt, turn = np.radians(tilt_deg), np.radians(turn_deg)
    found = {
        reach: trace_patch(LENS, *_pose(1.22 - reach, (tilt * np.cos(turn), tilt * np.sin(turn)))).peak_w_m2 / 1e6
        for reach in np.arange(-0.02, 0.021, 0.01) + reach_m
    }
    best = max(found, key=found.__getitem__)
    return found[best], best


@pytest.mark.parametrize(("tilt_deg", "peak_mw_m2", "reach_m"), TILTS)
def test_trace_has_the_known_peak_over_tilt(tilt_deg, peak_mw_m2, reach_m) -> None:
    """Within 15 % in the mean over the tilt's direction, and about the short edge; about the long edge it is lower."""
    (short, reach), (between, _), (long, _) = (_best_mw_m2(tilt_deg, turn, reach_m) for turn in (0, 45, 90))
    assert (short + 2 * between + long) / 4 == pytest.approx(peak_mw_m2, rel=0.15)
    assert short == pytest.approx(peak_mw_m2, rel=0.15)
    assert 0.75 * peak_mw_m2 < long < short
    assert reach == pytest.approx(reach_m, abs=0.025)


def test_trace_has_the_known_radii_and_power() -> None:
    patch = trace_patch(LENS, *_pose())
    radius = np.hypot(*(patch.hits_world_m - patch.centre_world_m).T)
    order = np.argsort(radius)
    inside = np.cumsum(patch.ray_power_w[order]) / patch.delivered_w
    half, most = radius[order][np.searchsorted(inside, [0.5, 0.9])]
    assert half == pytest.approx(8.3e-3, rel=0.15)
    assert most == pytest.approx(19e-3, rel=0.15)
    assert patch.delivered_w == pytest.approx(903, rel=0.01)


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1.2), st.floats(0, 6.28), st.floats(-0.3, 0.3), st.floats(0, 1.2))
def test_trace_conserves_power(tilt, turn, defocus, zenith) -> None:
    pose = _pose(defocus, (tilt * np.cos(turn), tilt * np.sin(turn)), zenith, turn)
    patch = trace_patch(LENS, *pose, rays=5000, rng=np.random.default_rng(0))
    assert patch.delivered_w + sum(patch.lost_w.values()) == pytest.approx(patch.incident_w, rel=1e-12)
    assert min(patch.lost_w.values()) >= 0
    assert patch.incident_w == pytest.approx(900 * 1.05 * 1.4 * max(float(pose[1][:, 2] @ pose[2]), 0), rel=5e-3, abs=2)


def test_light_falls_off_with_tilt_and_power_with_its_cosine() -> None:
    assert power_w(LENS, 0.0, 900.0) == pytest.approx(900 * 1.05 * 1.4 * 0.68)
    assert power_w(LENS, np.pi, 900.0) == 0
    peaks = [
        float(peak_irradiance_w_m2(LENS, fast_patch(LENS, *_pose(1.22 - 1.22 * np.cos(t) ** 1.3, (t, 0))), 900.0))
        for t in np.radians([0, 5, 10, 20])
    ]
    assert all(a > b for a, b in itertools.pairwise(peaks))


def test_translation_moves_the_spot_as_the_lens_and_tilt_about_a_millimetre_per_degree() -> None:
    centre, rotation, sun = _pose(zenith_rad=0.4, azimuth_rad=2.0)
    here, there = (fast_patch(LENS, centre + shift, rotation, sun).centre_world_m for shift in (0, [0.01, 0.02, 0]))
    np.testing.assert_allclose(there - here, [0.01, 0.02], atol=1e-6)
    moved = fast_patch(LENS, *_pose(tilt_rad=(np.radians(1), 0))).centre_world_m - [0.1, -0.2]
    assert 0.5e-3 < np.hypot(*moved) < 2e-3


def test_defocus_is_positive_when_the_sand_is_nearer() -> None:
    assert float(fast_patch(LENS, *_pose(0.05, zenith_rad=0.4)).defocus_m) == pytest.approx(0.05, abs=1e-9)
    assert float(fast_patch(LENS, *_pose(0.0), 0.05).defocus_m) == pytest.approx(0.05, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-4, 1), st.floats(1e-4, 1), st.floats(-3.2, 3.2))
def test_semi_axes_and_angle_of_a_turned_ellipse(a, b, turn) -> None:
    large, small = max(a, b), min(a, b)
    c, s = np.cos(turn), np.sin(turn)
    xx, yy = (large**2 * c * c + small**2 * s * s) / 4, (large**2 * s * s + small**2 * c * c) / 4
    xy = (large**2 - small**2) * s * c / 4
    axes, angle = semi_axes_and_angle(xx, xy, yy)
    np.testing.assert_allclose(axes, [large, small], rtol=1e-6, atol=1e-7)
    assert -np.pi / 2 < angle <= np.pi / 2
    if large > 1.01 * small:
        assert abs(np.sin(angle - turn)) < 1e-6


@pytest.mark.parametrize("xy", [0.0, -0.0, -1e-320])
def test_angle_of_an_ellipse_along_y_is_plus_half_pi(xy) -> None:
    assert semi_axes_and_angle(1.0, xy, 2.0)[1] == np.pi / 2


def test_grooves_send_axial_light_of_the_design_index_to_the_focus() -> None:
    rng = np.random.default_rng(2)
    u, v = rng.uniform(-0.7, 0.7, (2, 500))
    from melter.geometry.optics import DESIGN_INDEX

    out, passed = through_sheet(np.array([0.0, 0.0, -1.0])[:, None], facet_normals(u, v, 1.22), DESIGN_INDEX)
    hit = np.stack([u, v]) + 1.22 * out[:2] / -out[2]
    np.testing.assert_allclose(hit, 0, atol=1e-12)
    assert (passed > 0).all()
    assert (passed < 0.925).all()
    np.testing.assert_allclose((out * out).sum(axis=0), 1)


def test_acrylic_index_and_sun_shape_have_known_values() -> None:
    assert float(acrylic_index(0.5876)) == pytest.approx(1.4906, abs=5e-4)
    share = (np.arange(200_000) + 0.5) / 200_000
    for ratio in (0.0, 0.03, 0.2):
        angle = sun_offsets_rad(share, ratio)
        assert np.mean(angle > 4.65e-3) == pytest.approx(ratio, abs=1e-4)
        assert angle.max() <= 43.6e-3
        assert 0.5 * np.mean(angle**2) == pytest.approx(float(sun_variance_rad2(ratio)), rel=0.02)


def test_trace_with_a_seed_repeats_and_other_seeds_agree() -> None:
    pose = _pose(0.03, (0.02, 0.01), 0.4, 1.0)
    one, same, other = (trace_patch(LENS, *pose, rays=20_000, rng=np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.hits_world_m, same.hits_world_m)
    np.testing.assert_allclose(one.centre_world_m, other.centre_world_m, atol=2e-4)


def test_a_lens_turned_from_the_sun_gives_no_light() -> None:
    centre, rotation, sun = _pose()
    patch = trace_patch(LENS, centre, rotation @ np.diag([1.0, -1, -1]), sun, rays=2000)
    assert patch.delivered_w == 0
    assert patch.peak_w_m2 == 0
    assert np.isnan(patch.centre_world_m).all()
