"""Exposure follows the patch where the camera lets one set it, and says where it does not."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest

from melter.vision.camera import open_camera
from melter.vision.devices import exposure_setting
from melter.vision.live import LiveCamera
from melter.vision.metering import GOOD, Meter
from melter.vision.patch import Spot
from melter.vision.tracker import TrackDetails


def spot(peak: float) -> Spot:
    return Spot("ok", np.zeros(2), np.eye(2), np.eye(2), False, 1.0, np.zeros(2), peak)


@dataclass
class Tracker:
    last_details: TrackDetails = field(default_factory=lambda: TrackDetails(""))

    def saw(self, *peaks: float) -> None:
        self.last_details = TrackDetails("", tuple(map(spot, peaks)))


class Knob:
    """A camera with a knob, and a patch that is ``light`` times full scale at exposure 1."""

    source = "knob"

    def __init__(self, light: float) -> None:
        self.light, self.exposure, self.fixed = light, 1.0, False

    def fix(self) -> str:
        self.fixed = True
        return ""

    def expose(self, factor: float) -> bool:
        self.exposure *= factor
        return True

    @property
    def peak(self) -> float:
        return min(1.0, self.light * self.exposure)


@pytest.mark.parametrize("light", [0.7, 3.0, 300.0, 3000.0])
def test_the_patch_comes_out_of_saturation(light: float) -> None:
    camera, tracker = Knob(light), Tracker()
    meter = Meter(camera, tracker)  # pyright: ignore[reportArgumentType]
    assert meter.start().works
    assert camera.fixed
    for n in range(120):
        tracker.saw(camera.peak)
        meter.see(n / 20)
    assert GOOD[0] <= camera.peak <= GOOD[1]
    assert camera.exposure == pytest.approx(meter.exposure)


def test_a_patch_that_fades_is_followed_and_one_that_is_gone_is_waited_for() -> None:
    camera, tracker = Knob(3.0), Tracker()
    meter = Meter(camera, tracker)  # pyright: ignore[reportArgumentType]
    meter.start()
    for n in range(60):
        camera.light = 3.0 if n < 30 else 0.9
        tracker.saw(camera.peak)
        meter.see(n / 10)
    assert GOOD[0] <= camera.peak <= GOOD[1]
    before = camera.exposure
    tracker.saw()
    assert meter.see(7.0) == 1.0, "one dark frame changes nothing"
    for n in range(100):
        meter.see(8.0 + n / 4)
    assert before < camera.exposure <= 1.0, "back up, never above where it began"


def test_steps_are_not_faster_than_a_camera_follows() -> None:
    camera, tracker = Knob(1000.0), Tracker()
    meter = Meter(camera, tracker)  # pyright: ignore[reportArgumentType]
    meter.start()
    tracker.saw(1.0)
    assert meter.see(0.0) < 1
    assert meter.see(0.1) == 1.0
    assert meter.see(0.3) < 1


def test_files_and_streams_say_that_they_cannot(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 20), np.uint8))
    with open_camera(str(tmp_path)) as stream:
        metered = Meter(stream, Tracker()).start()  # pyright: ignore[reportArgumentType]
    assert not metered.works
    assert "recorded" in metered.reason


class Device:
    """Gives grey pictures until told to break; counts what was set."""

    def __init__(self, log: list[str]) -> None:
        self.log, self.broken = log, threading.Event()

    def read(self):
        time.sleep(0.01)
        if self.broken.is_set():
            from melter.errors import CameraError

            raise CameraError("unplugged")
        return np.full((24, 32), 9, np.uint8)

    def close(self) -> None:
        self.log.append("closed")

    def fix(self) -> list[str]:
        self.log.append("fixed")
        return ["gain"]

    def expose(self, factor: float) -> bool:
        self.log.append(f"x{factor:g}")
        return True


def test_a_reconnected_camera_is_set_as_before() -> None:
    log: list[str] = []
    devices = [Device(log), Device(log)]
    first, given = devices[0], iter(devices)
    with LiveCamera("x", lambda: next(given), 2.0) as camera:
        assert "gain" in camera.fix()
        assert camera.expose(0.5)
        assert camera.expose(0.5)
        first.broken.set()
        end = time.monotonic() + 5
        while camera.stats.reconnects < 1 or log[-1] != "x0.25":
            assert time.monotonic() < end, log
            time.sleep(0.01)
    assert log[:5] == ["fixed", "x0.5", "x0.5", "closed", "fixed"]


@pytest.mark.parametrize(
    ("now", "factor", "wanted"), [(156, 0.5, 78), (1, 0.5, 1), (3, 2, 6), (-6, 0.5, -7), (-6, 4, -4)]
)
def test_exposure_in_the_drivers_own_units(now: float, factor: float, wanted: float) -> None:
    assert exposure_setting(now, factor) == wanted
