"""Saturated patches by their outlines, edges that are too sharp, and filling in what is hidden: on rasters, without a camera."""

from __future__ import annotations

import numpy as np
import pytest

from melter.vision.cut import Cut, Sums
from melter.vision.hidden import completed, hidden_part
from melter.vision.outline import measure_outline
from melter.vision.sharpness import Blur, fineness, sharp_edges

CELL = 0.001
N = 121
X, Y = np.meshgrid((np.arange(N) - N // 2) * CELL, (np.arange(N) - N // 2) * CELL)
BLUR = Blur(np.eye(2) * 0.5, np.eye(2) * (0.5 + 4.2**2))


def gaussian(peak: float, centre=(0.0, 0.0), sigma=(0.010, 0.008)) -> np.ndarray:
    return peak * np.exp(-(((X - centre[0]) / sigma[0]) ** 2 + ((Y - centre[1]) / sigma[1]) ** 2) / 2)


def outline_of(light: np.ndarray, flux: float | None = None):
    v, u = np.mgrid[0:N, 0:N].astype(np.float32)
    clipped = np.minimum(light, 1.0).astype(np.float32)
    return measure_outline(clipped, u, v, np.array([X[0, 0], Y[0, 0]]), CELL, 0.0, 1e-3, flux)


def cut_of(light: np.ndarray) -> tuple[Cut, Sums]:
    light = light.astype(np.float32)
    area = np.full(light.shape, CELL**2, np.float32)
    cut = Cut(
        np.minimum(light, 1),
        light >= 1,
        np.ones(light.shape, bool),
        X.astype(np.float32),
        Y.astype(np.float32),
        area,
        (0, 0),
        1,
    )
    weight = np.minimum(light, 1) / np.minimum(light, 1).sum()
    centre = np.array([(weight * X).sum(), (weight * Y).sum()])
    d = np.stack([X - centre[0], Y - centre[1]])
    moments = np.einsum("iyx,jyx,yx->ij", d, d, weight)
    return cut, Sums(centre, moments, float(light.sum()) * CELL**2, 0.0, 1e-3, np.ones(light.shape, bool))


@pytest.mark.parametrize("peak", [1.5, 3.0, 10.0, 100.0])
def test_a_symmetric_patch_is_where_its_outlines_are(peak: float) -> None:
    found = outline_of(gaussian(peak, (0.004, -0.003)))
    assert found is not None
    assert found.corrected
    assert found.centre_m == pytest.approx((0.004, -0.003), abs=5e-4)
    assert found.clipped_m2 == pytest.approx(2 * np.pi * 0.010 * 0.008 * np.log(peak / 0.9), rel=0.1)
    assert found.flank_m2 == pytest.approx(0.010 * 0.008, rel=0.2)


def test_a_tail_pulls_the_centre_and_less_so_the_more_is_clipped() -> None:
    light = gaussian(20.0) + gaussian(0.6, (0.025, 0.0), (0.012, 0.010))
    found = outline_of(light)
    assert found is not None
    assert abs(found.centre_m[1]) < 1e-3
    assert -0.008 < found.centre_m[0] < 0.008


def test_known_power_is_used_and_no_saturation_is_none() -> None:
    light = gaussian(30.0)
    flux = float(light.sum()) * CELL**2
    known, unknown = outline_of(light, flux), outline_of(light)
    assert known is not None
    assert unknown is not None
    true_size = np.sqrt(0.010 * 0.008)
    for found in (known, unknown):
        assert np.linalg.det(found.moments_m2) ** 0.25 == pytest.approx(true_size, rel=0.35)
    assert outline_of(gaussian(0.8)) is None


def test_fineness_tells_sparkles_from_patches() -> None:
    patch, sums = cut_of(gaussian(0.8, sigma=(0.006, 0.006)))
    assert fineness(patch, sums, BLUR) > 1.5
    sparkle, sums = cut_of(gaussian(0.8, sigma=(0.0012, 0.0012)))
    assert fineness(sparkle, sums, BLUR) < 0.4


@pytest.mark.parametrize("turn", [0.0, 0.8, 2.0, 4.0])
def test_an_edge_in_front_is_found_and_the_dark_side_is_hidden(turn: float) -> None:
    light, n = gaussian(0.8, sigma=(0.014, 0.012)), np.array([np.cos(turn), np.sin(turn)])
    behind = X * n[0] + Y * n[1] > 0.002
    cut, sums = cut_of(np.where(behind, 0.0, light))
    edges = sharp_edges(cut, sums, BLUR, 8.0)
    assert edges.cut
    hidden = hidden_part(cut, edges)
    assert np.mean(hidden == behind) > 0.95
    whole = completed(cut, sums, hidden, None, None)
    assert whole is not None
    assert np.linalg.norm(whole.centre_m) < 0.004
    assert 0.2 < whole.hidden_share < 0.6
    assert np.linalg.norm(whole.centre_m) < 0.6 * np.linalg.norm(sums.centre_m)


def test_a_bar_across_hides_a_strip() -> None:
    light = gaussian(0.8, sigma=(0.016, 0.014))
    behind = np.abs(X - 0.004) < 0.005
    cut, sums = cut_of(np.where(behind, 0.0, light))
    edges = sharp_edges(cut, sums, BLUR, 8.0)
    assert edges.cut
    hidden = hidden_part(cut, edges)
    assert np.mean(hidden == behind) > 0.93
    whole = completed(cut, sums, hidden, None, None)
    assert whole is not None
    assert np.linalg.norm(whole.centre_m) < 0.002


@pytest.mark.parametrize("peak", [0.8, 40.0])
def test_a_whole_patch_has_no_cut_edge(peak: float) -> None:
    cut, sums = cut_of(gaussian(peak, sigma=(0.008, 0.007)))
    assert not sharp_edges(cut, sums, BLUR, 5.0).cut


def test_what_was_known_of_the_shape_steadies_the_completion() -> None:
    from melter.vision.profile import start_from

    light = gaussian(0.8, sigma=(0.016, 0.010))
    behind = X > -0.006
    cut, sums = cut_of(np.where(behind, 0.0, light))
    edges = sharp_edges(cut, sums, BLUR, 8.0)
    hidden = hidden_part(cut, edges)
    known = start_from(np.zeros(2), np.diag([0.016, 0.010]) ** 2, 0.8)
    alone, told = completed(cut, sums, hidden, None, None), completed(cut, sums, hidden, None, (known, 0.06))
    assert alone is not None
    assert told is not None
    assert np.linalg.norm(told.centre_m) < np.linalg.norm(alone.centre_m) + 5e-4
    assert np.linalg.norm(told.centre_m) < 0.004
