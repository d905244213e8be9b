"""The webcam as the simulation knows it: late, jittery, noisy, sometimes without a picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from melter.env.noise import Keys, normal, uniform
from melter.env.physics import Ids
from melter.machine import Machine

Array = NDArray[np.float64]

SIZE_M, TILT_RAD = 0.05, 0.1
"""Patch size and lens tilt that double the noise: a wide patch has no clear middle, a tilted one has a tail."""
SATURATED = 0.8
"""Share of the camera's saturation above which a patch's middle has to be told from its outline."""
DIMMEST_W_M2 = 150.0
"""Direct sun below which no patch is seen on the sand."""
_DICE, _NOISE = 2_000_000, 3_000_000


class Camera:
    """``count`` cameras. A patch is (5): centre x and y, second central moments xx, xy, yy."""

    KEPT = ("seen", "measured", "age_s", "fresh")

    def __init__(self, machine: Machine, count: int, longest_delay_s: float) -> None:
        self.machine, self.period_s = machine, machine.control.period_s
        frames = int(np.ceil(max(longest_delay_s, machine.control.camera_delay_s) / self.period_s)) + 2
        self.seen = np.zeros((count, frames, 5))
        """Patches of the last ticks as they were, newest first."""
        self.measured, self.age_s = np.zeros((count, 5)), np.zeros(count)
        self.fresh = np.zeros(count, dtype=bool)
        """Whether ``measured`` came in this tick."""
        self._rows = np.arange(count) * frames

    def start(self, ids: Ids, patch: Array) -> None:
        """Begin with a patch (k, 5) that has been there for a while."""
        self.seen[ids] = patch[:, None, :]
        self.measured[ids] = patch
        self.age_s[ids] = self.machine.control.camera_delay_s
        self.fresh[ids] = True

    def film(
        self,
        patch: Array,
        peak_w_m2: Array,
        tilt_rad: Array,
        sun_w_m2: Array,
        values: dict[str, Array],
        keys: Keys,
        tick: NDArray[np.int64],
    ) -> None:
        """Take in the patches (n, 5) of this tick, under direct sun of ``sun_w_m2`` (n,)."""
        self.seen[:, 1:] = self.seen[:, :-1]
        self.seen[:, 0] = patch
        dice = uniform(keys, _DICE + tick, 2)
        jitter_s = values["camera_jitter_s"][:, 0] * dice[:, 0]
        delay = (values["camera_delay_s"][:, 0] + jitter_s) * (1 / self.period_s)
        older = np.minimum(delay.astype(np.intp), self.seen.shape[1] - 2)
        frames = self.seen.reshape(-1, 5)
        newer = frames[self._rows + older]
        seen = newer + (frames[self._rows + older + 1] - newer) * (delay - older)[:, None]
        blurred = 1 + np.sqrt(np.maximum(patch[:, 2] + patch[:, 4], 0.0)) * (2 / SIZE_M) + tilt_rad * (1 / TILT_RAD)
        glare = 1 + 2 * np.clip(peak_w_m2 / values["camera_saturation_w_m2"][:, 0] - SATURATED, 0.0, 1.5)
        noise = values["camera_noise_m"][:, 0] * blurred * glare
        seen[:, :2] += normal(keys, _NOISE + tick, 2) * noise[:, None]
        self.fresh = (dice[:, 1] >= values["camera_loss"][:, 0]) & (sun_w_m2 > DIMMEST_W_M2)
        self.measured = np.where(self.fresh[:, None], seen, self.measured)
        self.age_s = np.where(self.fresh, self.machine.control.camera_delay_s + jitter_s, self.age_s + self.period_s)
