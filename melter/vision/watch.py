"""A camera and a tracker in a thread of their own: the newest patch, whenever the loop asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from melter.errors import CameraError, VisionFault
from melter.observation import PatchEstimate
from melter.vision.camera import CameraStream, Frame
from melter.vision.metering import Meter, Metered
from melter.vision.tracker import PatchTracker

STALE_S = 0.5
"""Without a new frame for this long the camera is a fault."""
REFERENCE_FRAMES = 30
"""Frames that are tried for a reference."""


class PatchWatcher:
    """Tracks every frame of a camera as it comes. ``with`` starts and stops it; the camera is closed by its owner."""

    def __init__(
        self,
        camera: CameraStream,
        tracker: PatchTracker,
        clock: Callable[[], float] = time.monotonic,
        on_frame: Callable[[Frame], None] = lambda _: None,
    ) -> None:
        """``on_frame`` is handed every frame once it is tracked, and must not wait."""
        self._on_frame = on_frame
        self._camera, self._tracker, self._clock = camera, tracker, clock
        self._meter = Meter(camera, tracker)
        self.metering = Metered(False, "not started")
        """Whether the exposure follows the patch, and why not; known once started."""
        self._lock = threading.Lock()
        self._newest: PatchEstimate | None = None
        self._arrived_s = clock()
        self._fault: str | None = None
        self._running = False
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self.track_s = 0.0
        """Time that the last frame took from arrival to estimate."""

    def take_reference(self) -> Frame:
        """Solve the bed from a frame with the lens parked; raise CameraError where the markers cannot be seen."""
        number, complaint = -1, "no frame"
        for _ in range(REFERENCE_FRAMES):
            try:
                frame = self._camera.latest(number, timeout_s=2.0)
            except VisionFault as error:
                raise CameraError(f"camera {self._camera.source}: gives no frame ({error})") from None
            number = frame.number
            try:
                self._tracker.set_reference(frame.image)
            except CameraError as error:
                complaint = str(error)
                continue
            return frame
        raise CameraError(f"camera {self._camera.source}: {complaint}")

    def newest(self) -> PatchEstimate | None:
        """Return the newest estimate; raise VisionFault when the camera is gone or frames have stopped coming."""
        with self._lock:
            newest, arrived_s, fault = self._newest, self._arrived_s, self._fault
        if fault is not None:
            raise VisionFault(fault)
        if self._clock() - arrived_s > STALE_S:
            raise VisionFault(
                f"camera {self._camera.source}: no new frame for {self._clock() - arrived_s:.1f} s (limit {STALE_S} s)"
            )
        return newest

    def __enter__(self) -> Self:
        self.metering = self._meter.start()
        self._running, self._arrived_s = True, self._clock()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running = False
        self._thread.join(timeout=3)

    def _run(self) -> None:
        number = -1
        while self._running:
            try:
                frame = self._camera.latest(number, timeout_s=STALE_S)
            except VisionFault as error:
                if self._clock() - self._arrived_s > STALE_S:
                    self._fault = str(error)
                    return
                continue
            number = frame.number
            estimate = self._tracker.track(frame.image, frame.captured_host_s, frame.number)
            self._meter.see(frame.captured_host_s)
            now_s = self._clock()
            with self._lock:
                self._newest, self._arrived_s = estimate, now_s
                self.track_s = now_s - frame.captured_host_s
            self._on_frame(frame)
