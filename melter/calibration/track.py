"""One recorded run as numbers: where the counters stood, where the patch was seen."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Track:
    """Counters and patches of one run; times are the host's monotonic clock."""

    counter_s: Array
    """(m,) when the counters were read, increasing."""
    counters_m: Array
    """(m, 8) cable paid out since park."""
    frame_s: Array
    """(k,) when the frames arrived, increasing."""
    centre_world_m: Array
    """(k, 2) centroids."""
    moments_m2: Array
    """(k, 3) second central moments xx, xy, yy; NaN where not measured."""
    sun_rad: tuple[float, float]
    """Zenith and azimuth as they were said to be when it began."""
    share: Array
    """(k,) white noise of each frame over the typical."""
    source: str = "track"
    _spline: CubicSpline = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_spline", CubicSpline(self.counter_s, self.counters_m, bc_type="clamped"))

    def counted_m(self, t_s: Array) -> Array:
        """Return the counters (n, 8) at times (n,), held before the first reading and after the last."""
        return self._spline(np.clip(t_s, self.counter_s[0], self.counter_s[-1]))
