"""A camera that stalls, drops, breaks, changes size and comes back, for as long as one likes."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from melter.errors import CameraError, VisionFault
from melter.machine import load_machine
from melter.vision.live import LiveCamera
from melter.vision.tracker import PatchTracker
from melter.vision.watch import PatchWatcher

GROWTH_MIB = 48.0
"""What the process may grow by after the first tenth; the pictures of one second would already be more."""


class Bad:
    """Numbers its pictures in their first two pixels and misbehaves by chance."""

    made = 0
    lock = threading.Lock()

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.size = [(240, 320), (360, 480), (240, 320, 3)][int(rng.integers(3))]

    def read(self):
        time.sleep(0.004)
        chance = self.rng.random()
        if chance < 0.01:
            time.sleep(self.rng.uniform(0.05, 0.4))
        elif chance < 0.015:
            raise CameraError("unplugged")
        elif chance < 0.03:
            return None
        elif chance < 0.035:
            self.size = [(240, 320), (360, 480), (240, 320, 3)][int(self.rng.integers(3))]
        picture = np.full(self.size, 40, dtype=np.uint8)
        with Bad.lock:
            Bad.made += 1
            number = Bad.made
        flat = picture.reshape(self.size[0], self.size[1], -1)
        flat[0, 0, 0], flat[0, 1, 0] = number // 256 % 256, number % 256
        return picture

    def close(self) -> None:
        pass


def memory_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def soak(seconds: float) -> None:
    rng = np.random.default_rng(0)
    tracker = PatchTracker(load_machine())
    with LiveCamera("bad", lambda: Bad(rng), 2.0) as camera:
        number, faults, seen, begun, first = -1, 0, 0, time.monotonic(), None
        while (now := time.monotonic()) - begun < seconds:
            if first is None and now - begun > seconds / 10:
                first = memory_mib()
            try:
                frame = camera.latest(number, timeout_s=0.05)
            except VisionFault:
                faults += 1
                continue
            assert frame.number > number, "a frame came twice"
            assert time.monotonic() - frame.captured_host_s < 0.05 + 0.05, "a stale frame was given as fresh"
            number, seen = frame.number, seen + 1
            estimate = tracker.track(frame.image, frame.captured_host_s, frame.number)
            assert estimate.captured_host_s == frame.captured_host_s
            assert estimate.status in ("lost", "no_markers")
        stats = camera.stats
    assert seen > 20 * min(seconds, 10)
    assert stats.reconnects > 0
    assert stats.broken > 0
    assert stats.size_changes > 0
    assert faults > 0
    assert first is not None
    assert memory_mib() - first < GROWTH_MIB


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_some_seconds_with_a_bad_camera() -> None:
    soak(6.0)


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_half_an_hour_with_a_bad_camera() -> None:
    soak(float(os.environ.get("MELTER_SOAK_S", "1800")))


def test_the_watcher_says_when_frames_stop_and_gives_no_old_one() -> None:
    class Freezes(Bad):
        def read(self):
            if Freezes.frozen.is_set():
                time.sleep(0.05)
                return None
            return super().read()

    Freezes.frozen = threading.Event()
    with LiveCamera("x", lambda: Freezes(np.random.default_rng(1)), 2.0) as camera:
        with PatchWatcher(camera, PatchTracker(load_machine())) as watcher:
            assert not watcher.metering.works
            assert "cannot be set" in watcher.metering.reason
            time.sleep(0.2)
            assert watcher.newest() is not None
            Freezes.frozen.set()
            with pytest.raises(VisionFault, match="no new frame"):  # noqa: PT012
                for _ in range(100):
                    watcher.newest()
                    time.sleep(0.02)
        Freezes.frozen.clear()
