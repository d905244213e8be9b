"""Keeping the patch out of saturation: exposure follows what the tracker saw, where the camera lets one set it."""

from __future__ import annotations

from dataclasses import dataclass

from melter.vision.camera import CameraStream
from melter.vision.tracker import PatchTracker

WANTED = 0.6
"""Linear light of the patch's peak, of full scale."""
GOOD = (0.3, 0.85)
"""Between these nothing is changed."""
STRONGEST = (0.35, 2.0)
"""Factors of one step."""
EVERY_S = 0.25
"""Between two steps: a webcam takes some frames to follow."""
DARK_AFTER_S = 2.0
"""Without a patch for this long, the exposure goes back up step by step, never above where it began."""
UP = 1.5


@dataclass(frozen=True)
class Metered:
    """What metering came to."""

    works: bool
    reason: str
    """Why it does not, or what the camera keeps automatic; may be empty."""


class Meter:
    """Sets one camera's exposure by one tracker's frames. Call ``start`` once, then ``see`` after each frame."""

    def __init__(self, camera: CameraStream, tracker: PatchTracker) -> None:
        self._camera, self._tracker = camera, tracker
        self.works = False
        self.exposure = 1.0
        """Over the exposure at the start."""
        self._changed_s = self._seen_s = float("-inf")

    def start(self) -> Metered:
        """Fix exposure, gain and white balance; try whether the exposure can be set."""
        reason = self._camera.fix()
        self.works = self._camera.expose(0.5)
        self.exposure = 0.5 if self.works else 1.0
        if not self.works and not reason:
            reason = f"camera {self._camera.source}: does not take another exposure"
        return Metered(self.works, reason)

    def see(self, time_s: float) -> float:
        """Judge the tracker's last frame, captured at ``time_s``; return the factor that was set, 1 for none."""
        if not self.works or time_s - self._changed_s < EVERY_S:
            return 1.0
        factor = self._factor(time_s)
        if factor == 1.0 or not self._camera.expose(factor):
            return 1.0
        self._changed_s, self.exposure = time_s, self.exposure * factor
        return factor

    def _factor(self, time_s: float) -> float:
        peaks = [spot.peak for spot in self._tracker.last_details.spots]
        if peaks:
            self._seen_s = time_s
            peak = max(peaks)
            if GOOD[0] <= peak <= GOOD[1]:
                return 1.0
            return STRONGEST[0] if peak >= 1.0 else min(max(WANTED / peak, STRONGEST[0]), STRONGEST[1])
        if self._seen_s == float("-inf"):
            self._seen_s = time_s
        dark = time_s - self._seen_s > DARK_AFTER_S and self.exposure < 1.0
        return min(UP, 1.0 / self.exposure) if dark else 1.0
