"""When the patch is gone: below focus at once, wait for a cloud, call everything else a fault."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from melter.errors import VisionFault
from melter.loop.sight import BACK_S, BLIND_S, CLOUD_S, DOWN_M_S, UNSEEN_S, Sight
from melter.observation import DROP_M

PERIOD_S = 0.05


def reading(seen: bool, sunless: bool = False) -> Any:
    return SimpleNamespace(measurement=SimpleNamespace(patch_seen=seen), patch=SimpleNamespace(sunless=sunless))


def pass_time(sight: Sight, start_s: float, seconds: float, seen: bool, sunless: bool = False) -> float:
    for tick in range(round(seconds / PERIOD_S)):
        sight.see(reading(seen, sunless), start_s + tick * PERIOD_S, PERIOD_S)
    return start_s + seconds


def test_a_short_loss_changes_nothing() -> None:
    sight = Sight()
    now_s = pass_time(sight, 0.0, 1.0, seen=True)
    pass_time(sight, now_s, BLIND_S - PERIOD_S, seen=False)
    assert not sight.waiting


def test_a_loss_lowers_the_lens_at_once_and_is_a_fault_under_the_sun() -> None:
    sight = Sight()
    now_s = pass_time(sight, 0.0, 1.0, seen=True)
    now_s = pass_time(sight, now_s, UNSEEN_S - PERIOD_S, seen=False)
    assert 0.6 * DOWN_M_S * (UNSEEN_S - BLIND_S) < sight.drop_m < DOWN_M_S * (UNSEEN_S - BLIND_S)
    with pytest.raises(VisionFault, match="under the sun"):
        pass_time(sight, now_s, 0.2, seen=False)


def test_a_cloud_is_waited_for() -> None:
    sight = Sight()
    now_s = pass_time(sight, 0.0, 1.0, seen=True)
    now_s = pass_time(sight, now_s, 20.0, seen=False, sunless=True)
    assert sight.drop_m == pytest.approx(DROP_M)
    now_s = pass_time(sight, now_s, BACK_S, seen=True)
    assert sight.drop_m == pytest.approx(DROP_M)
    pass_time(sight, now_s, 5.0, seen=True)
    assert not sight.waiting
    assert sight.waits == 1


def test_a_sun_that_flickers_keeps_the_lens_down() -> None:
    sight, now_s = Sight(), 0.0
    now_s = pass_time(sight, now_s, 1.0, seen=True)
    now_s = pass_time(sight, now_s, 3.0, seen=False, sunless=True)
    for _ in range(10):
        now_s = pass_time(sight, now_s, BACK_S / 2, seen=True)
        now_s = pass_time(sight, now_s, PERIOD_S, seen=False, sunless=True)
    assert sight.drop_m == pytest.approx(DROP_M)


def test_a_cloud_that_stays_is_a_fault() -> None:
    sight = Sight()
    now_s = pass_time(sight, 0.0, 1.0, seen=True)
    now_s = pass_time(sight, now_s, CLOUD_S - 0.1, seen=False, sunless=True)
    with pytest.raises(VisionFault, match="sun"):
        pass_time(sight, now_s, 1.0, seen=False, sunless=True)


def test_signs_of_a_hidden_sun_grow_old() -> None:
    sight = Sight()
    now_s = pass_time(sight, 0.0, 1.0, seen=True)
    now_s = pass_time(sight, now_s, 3.0, seen=False, sunless=True)
    with pytest.raises(VisionFault, match="under the sun"):
        pass_time(sight, now_s, 2.0, seen=False)


def test_never_seen_at_all() -> None:
    with pytest.raises(VisionFault):
        pass_time(Sight(), 0.0, 3.0, seen=False)
