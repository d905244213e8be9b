"""Colour as evidence: sand scatters its own hue, glints shine in the sun's; grey pictures say nothing."""

from __future__ import annotations

import numpy as np
import pytest

from melter.vision.cut import Cut, sum_up
from melter.vision.hue import Hues, hues_now, hues_of, whiteness
from melter.vision.maps import BedMaps
from melter.vision.response import linear, linear_to_srgb, measured_light

SAND, PAPER = np.array([0.20, 0.27, 0.33]), np.array([0.82, 0.82, 0.82])
CORNERS = np.array([[(10, 10), (40, 10), (40, 40), (10, 40)]], dtype=float)


def codes(light: np.ndarray) -> np.ndarray:
    return np.round(255 * linear_to_srgb(np.clip(light, 0, 1))).astype(np.uint8)


def reference(sand: np.ndarray = SAND) -> np.ndarray:
    light = np.tile(sand, (120, 160, 1))
    light[10:40, 10:40] = 0.04
    light[18:34, 18:34] = PAPER
    return codes(0.9 * light)


def maps() -> BedMaps:
    shape = (120, 160)
    flat = np.zeros(shape, np.float32)
    allowed = np.full(shape, 255, np.uint8)
    allowed[5:45, 5:45] = 0
    return BedMaps(flat, flat, flat + np.float32(1e-6), allowed, np.flatnonzero(allowed)[::7], (0, 0, 160, 120))


def spot(colour: np.ndarray, peak: float = 0.6) -> tuple[np.ndarray, Cut, object]:
    v, u = np.mgrid[0:120, 0:160].astype(np.float32)
    bell = peak * np.exp(-((u - 100) ** 2 + (v - 70) ** 2) / (2 * 4.0**2))
    pixels = codes(0.003 * SAND + bell[..., None] * colour / colour.max())
    part = pixels[40:100, 70:130]
    light, saturated = measured_light(part)
    usable = np.ones(light.shape, dtype=bool)
    x, y = (u * np.float32(1e-3))[40:100, 70:130], (v * np.float32(1e-3))[40:100, 70:130]
    cut = Cut(light, saturated, usable, x, y, np.full(light.shape, 1e-6, np.float32), (70, 40), 1)
    sums = sum_up(cut, (92, 62, 109, 79), 0.025)
    assert not isinstance(sums, str)
    return pixels, cut, sums


@pytest.fixture(scope="module")
def hues() -> Hues:
    found = hues_of(reference(), maps(), CORNERS)
    assert found is not None
    return found


def test_sand_and_paper_are_told_apart(hues: Hues) -> None:
    assert hues.tell
    assert hues.sand == pytest.approx(np.log(0.33 / 0.20), abs=0.03)
    assert hues.paper == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize("peak", [0.1, 0.6, 4.0])
def test_a_patch_has_the_sands_hue_and_a_glint_the_suns(hues: Hues, peak: float) -> None:
    for colour, expected in ((SAND, 0.0), (PAPER, 1.0)):
        pixels, cut, sums = spot(colour, peak)
        assert whiteness(pixels, cut, sums, hues, "srgb") == pytest.approx(expected, abs=0.15)


def test_glowing_glass_is_redder_than_sand(hues: Hues) -> None:
    pixels, cut, sums = spot(np.array([0.05, 0.15, 1.0]))
    assert whiteness(pixels, cut, sums, hues, "srgb") < -1


def test_nothing_is_concluded_from_grey_pictures_and_grey_sand(hues: Hues) -> None:
    pixels, cut, sums = spot(SAND)
    assert whiteness(pixels, cut, sums, None, "srgb") is None
    assert whiteness(pixels[..., 1], cut, sums, hues, "srgb") is None
    grey = hues_of(reference(np.array([0.3, 0.3, 0.3])), maps(), CORNERS)
    assert grey is not None
    assert not grey.tell
    assert whiteness(pixels, cut, sums, grey, "srgb") is None
    assert hues_of(reference()[..., 1], maps(), CORNERS) is None
    assert hues_of(np.full((120, 160, 3), 255, np.uint8), maps(), CORNERS) is None


def test_white_balance_that_changed_is_followed_where_the_sand_can_be_seen(hues: Hues) -> None:
    warm = reference(SAND * (0.5, 1.0, 1.0))
    assert linear(warm).shape == warm.shape
    now = hues_now(hues, warm, maps(), 0.2, "srgb")
    assert now is not None
    assert now.sand - hues.sand == pytest.approx(np.log(2), abs=0.03)
    assert now.paper - now.sand == pytest.approx(hues.paper - hues.sand)
    assert hues_now(hues, warm, maps(), 0.001, "srgb") is hues
    assert hues_now(None, warm, maps(), 0.2, "srgb") is None
    assert hues_now(hues, warm[..., 1], maps(), 0.2, "srgb") is None
