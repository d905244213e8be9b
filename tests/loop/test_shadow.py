"""The shadow: quiet where camera and counters agree, loud where the light leaves, honest about what is usual here."""

from __future__ import annotations

import numpy as np
import pytest

from melter.errors import Fault
from melter.loop.shadow import FIRST_S, Shadow, ShadowBounds
from melter.machine import load_machine
from melter.observation import Measurement

PERIOD_S = load_machine().control.period_s


def measured(patch: np.ndarray, seen: np.ndarray) -> Measurement:
    zero = np.zeros(seen.shape)
    return Measurement(zero, patch, np.zeros((*seen.shape, 2)), zero, seen, np.zeros((*seen.shape, 8)), zero, zero)


class Light:
    """A spot that the counters tell, and one that a noisy camera sees."""

    def __init__(self, noise_m: float = 0.0003, seed: int = 0) -> None:
        self.shadow = Shadow(PERIOD_S)
        self.rng, self.noise_m = np.random.default_rng(seed), noise_m
        self.t_s = 0.0

    def tick(
        self, off_m: tuple[float, float] = (0.0, 0.0), *, seen: bool = True, feed_m_s: float = 0.002
    ) -> dict[str, float]:
        self.t_s += PERIOD_S
        spot = np.array([feed_m_s * self.t_s, 0.0])
        patch = spot + off_m + self.noise_m * self.rng.standard_normal(2)
        self.newest = spot, measured(patch, np.array(seen))
        return self.shadow.see(*self.newest)

    def run(self, seconds: float, off_m: tuple[float, float] = (0.0, 0.0), **more: float) -> None:
        for _ in range(round(seconds / PERIOD_S)):
            self.tick(off_m, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("noise_m", [0.0, 0.0003, 0.001])
def test_noise_and_a_steady_offset_are_no_fault(noise_m: float) -> None:
    light = Light(noise_m)
    light.run(60, (0.005, -0.003))
    assert light.shadow.jump_share < 1
    assert light.shadow.drift_share < 0.5


def test_a_jump_is_found_within_a_fraction_of_a_second() -> None:
    light = Light()
    light.run(15)
    since = light.t_s
    with pytest.raises(Fault, match="shadow: the light jumped away") as error:
        light.run(1, (0.004, 0.0))
    assert light.t_s - since < 0.4
    assert "mm (limit" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_small_jump_is_none() -> None:
    light = Light()
    light.run(15)
    light.run(10, (0.001, 0.0))


def test_what_is_usual_in_a_gusty_wind_is_no_fault_there() -> None:
    """The same sway would be a jump on a quiet machine."""
    light = Light()
    for number in range(1200):
        sway = 0.0025 * np.sin(2 * np.pi * 0.7 * number * PERIOD_S)
        light.tick((float(sway), 0.0))
    calm = Light()
    calm.run(15)
    with pytest.raises(Fault, match="jumped"):
        calm.run(2, (0.0045, 0.0))
    assert light.shadow.usual_m > 2 * ShadowBounds().usual_min_m


def test_a_winch_that_stands_lets_the_light_drift_away() -> None:
    light = Light()
    light.run(20)

    def leave() -> None:
        for number in range(600):
            light.tick((-0.0008 * number * PERIOD_S, 0.0))

    with pytest.raises(Fault, match="shadow: the light drifted away"):
        leave()
    assert light.t_s < 20 + 15


def test_the_drift_that_a_wrong_drawing_gives_on_the_way_is_borne() -> None:
    """One and a half percent of the way, on a fast path."""
    light = Light()
    for number in range(1200):
        light.tick((0.015 * 0.01 * number * PERIOD_S, 0.0), feed_m_s=0.01)


def test_not_before_enough_frames_and_not_without_them() -> None:
    light = Light()
    light.tick((0.05, 0.0))  # far apart at first
    light.run(FIRST_S - 0.2)
    light = Light()
    light.run(1.0)
    light.run(1.0, (0.004, 0.0))  # what is usual is not known yet
    light.run(30, (0.004, 0.0))
    for _ in range(100):
        light.tick((0.05, 0.0), seen=False)
    assert light.shadow.jump_share == 0


def test_a_cable_that_breaks_at_once() -> None:
    light = Light()
    light.run(1.0)
    with pytest.raises(Fault, match="jumped away"):
        light.run(1.0, (0.02, 0.0))
    assert light.t_s < 1.5


def test_forgetting() -> None:
    light = Light()
    light.run(10)
    light.shadow.forget()
    light.run(10, (0.05, 0.02))


def test_many_machines_at_once_are_each_like_one() -> None:
    rng = np.random.default_rng(3)
    lights = [Light(0.0004, seed) for seed in range(3)]
    batch = Shadow(PERIOD_S, shape=(3,))
    for number in range(200):
        off = 0.0002 * rng.standard_normal((3, 2))
        for light, each in zip(lights, off, strict=True):
            light.tick(tuple(each))
        spots = np.array([light.newest[0] for light in lights])
        patches = np.array([light.newest[1].patch_centre_world_m for light in lights])
        batch.step(spots, measured(patches, np.ones(3, dtype=bool)))
        if number % 50 == 0:
            np.testing.assert_allclose(batch.jump_share, [light.shadow.jump_share for light in lights])
            np.testing.assert_allclose(batch.drift_m, [light.shadow.drift_m for light in lights])
