"""The twin's film: a picture is as late as the hidden delay says, the time it takes to be made included."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace

import numpy as np

from melter.machine import load_machine
from melter.twin.camera import Film, Webcam
from melter.twin.machine import TwinMachine, hidden_values

MACHINE = load_machine()
DELAY_S, MAKING_S, FRAMES = 0.100, 0.050, 25


class SlowRenderer:
    """Takes its time, and notes how old what it is given was when it began."""

    def __init__(self) -> None:
        self.ages_s: list[float] = []

    def exposure_for(self, *_: float) -> float:
        return 0.01

    def render(self, centre_world_m: np.ndarray, *_: object, **__: object) -> np.ndarray:
        self.ages_s.append(time.monotonic() - float(centre_world_m[0]))
        time.sleep(MAKING_S)
        return np.zeros((16, 16, 3), dtype=np.uint8)


def test_making_a_picture_is_part_of_its_delay() -> None:
    machine = TwinMachine(MACHINE, hidden_values(MACHINE, 1), np.random.default_rng(0))
    renderer, snapshot = SlowRenderer(), machine.snapshot()
    film = Film(MACHINE, renderer, Webcam(delay_s=DELAY_S), np.random.default_rng(0))  # pyright: ignore[reportArgumentType]
    begin_s = time.monotonic() - 0.2
    film._snapshots = deque(  # pyright: ignore[reportPrivateUsage]
        (t_s, replace(snapshot, centre_world_m=np.array([t_s, 0.0, 0.0])))
        for t_s in begin_s + np.arange(0, 10 + FRAMES * 2 * MAKING_S, 0.005)
    )
    film.start()
    number = -1
    for _ in range(FRAMES):
        number, _ = film.wait(number, 10.0)
    film.stop()
    first, later = renderer.ages_s[0], np.median(renderer.ages_s[-8:])
    assert first >= DELAY_S
    assert later < DELAY_S - 0.5 * MAKING_S
