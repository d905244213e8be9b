"""What to do while the light patch is not seen: lower the lens out of focus and wait for the sun, or call it a fault.

A cloud takes the patch away and brings it back; a blind machine must not melt meanwhile. So the lens goes below focus by
the winch counters alone as soon as the patch is gone for a moment, and path time stands still. Where the picture shows that
the sun is hidden (no patch and no shadows on the sand), that is borne for a while; otherwise the light is somewhere where
it is not seen, and that is a fault.
"""

from __future__ import annotations

from melter.errors import VisionFault
from melter.observation import DROP_M
from melter.robot import Reading

BLIND_S = 0.3
"""Without a patch for this long the lens goes below focus."""
UNSEEN_S = 1.2
"""Without a patch for this long, and without a sign that the sun is hidden, it is a fault."""
SUNLESS_S = 1.0
"""A sign that the sun is hidden is good for this long."""
CLOUD_S = 60.0
"""A hidden sun is waited for so long."""
BACK_S = 0.5
"""The patch is seen for this long before the lens goes up again."""
DOWN_M_S, UP_M_S, DOWN_M_S2 = 0.10, 0.03, 0.30
"""How fast the lens goes below focus, and back; how fast it gets to that."""


class Sight:
    """Watches whether the patch is seen; ``drop_m`` is how far below focus the lens is to hang."""

    def __init__(self) -> None:
        self.drop_m = 0.0
        self._down_m_s = 0.0
        self.waits = 0
        """How often the sun, or the camera, was waited for."""
        self._seen_s: float | None = None
        self._since_s: float | None = None
        self._sunless_s = -float("inf")

    def forget(self) -> None:
        """Start anew, in focus."""
        self.drop_m, self._seen_s, self._since_s, self._sunless_s = 0.0, None, None, -float("inf")

    @property
    def waiting(self) -> bool:
        """Whether the lens is to be moved by :attr:`drop_m` instead of along the path."""
        return self.drop_m > 0

    def see(self, reading: Reading, now_s: float, period_s: float) -> None:
        """Take in a tick. Raises VisionFault when the patch is gone for too long."""
        if reading.patch is not None and reading.patch.sunless:
            self._sunless_s = now_s
        seen = bool(reading.measurement.patch_seen)
        if seen:
            self._since_s = now_s if self._since_s is None else self._since_s
            self._seen_s = now_s
        else:
            self._since_s = None
        self._seen_s = now_s if self._seen_s is None else self._seen_s
        blind_s = now_s - self._seen_s
        self._require(blind_s, now_s)
        if blind_s > BLIND_S or (self.waiting and not self._back(now_s)):
            self.waits += not self.waiting
            self._down_m_s = min(self._down_m_s + DOWN_M_S2 * period_s, DOWN_M_S)
            self.drop_m = min(self.drop_m + self._down_m_s * period_s, DROP_M)
        else:
            self._down_m_s = 0.0
            self.drop_m = max(self.drop_m - UP_M_S * period_s, 0.0)

    def _back(self, now_s: float) -> bool:
        return self._since_s is not None and now_s - self._since_s >= BACK_S

    def _require(self, blind_s: float, now_s: float) -> None:
        sunless = now_s - self._sunless_s < SUNLESS_S
        if blind_s > CLOUD_S:
            raise VisionFault(f"sun: no light patch for {blind_s:.0f} s (limit {CLOUD_S:g} s)")
        if blind_s > UNSEEN_S and not sunless:
            raise VisionFault(f"light patch not seen for {blind_s:.1f} s under the sun (limit {UNSEEN_S} s)")
