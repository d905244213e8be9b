"""From the lines of a recording to a track: what a fit can use, and what is missing from a recording that it cannot.

Lines are those of ``recording.jsonl`` as ``melter real`` writes them: a ``start`` with the machine's fingerprint and the
sun, then a ``tick`` per control period with counters, approved speeds and the newest patch. An excitation run keeps every
reading of the counters besides, in ``counters`` lines: what happens between ticks tells how stiffly the lens hangs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.calibration.track import Track
from melter.errors import BadInput
from melter.machine import WINCH_COUNT, Machine
from melter.safety.kinematics import Kinematics

Array = NDArray[np.float64]
Line = dict[str, Any]

USABLE = {"ok": 1.0, "saturated": 2.0}
"""Answers of the tracker that are used, and their noise over the usual."""
SHORTEST_S, FEWEST_FRAMES, LEAST_WAY_M = 20.0, 200, 0.05
"""A recording has to last so long with the patch in sight, show it in so many frames, and move each winch so far."""
BLUR_M = 0.05
"""Patch size (root of the summed variances, twice) that doubles the noise of its middle."""


def track_of(lines: Sequence[Line], machine: Machine, source: str) -> Track:
    """Return the track of one run's lines, from its first tick to where the lens was lowered.

    Raises BadInput, naming ``source`` and what is missing, for another machine's recording, one too short, one that does
    not move, and one in which no patch was seen.
    """
    start = next((line for line in lines if line.get("kind") == "start"), {})
    made_with = start.get("machine_sha256")
    if made_with is not None and made_with != machine.sha256:
        raise BadInput(
            f"recording {source}: made with machine {str(made_with)[:12]}, not with {machine.name} ({machine.sha256[:12]})"
        )
    try:
        ticks = _ticks(lines)
        sun = start.get("sun_rad") or (machine.sun.zenith_rad, machine.sun.azimuth_rad)
        counter_s, counters_m = _readings(lines) or _counters(ticks, machine)
        frames = _frames(ticks)
        track = _made(counter_s, counters_m, frames, (float(sun[0]), float(sun[1])), source)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"recording {source}: not a recording of a run: {type(error).__name__} {error}") from None
    _require_useful(track, machine)
    return track


def latitude_of(lines: Sequence[Line]) -> float | None:
    """Return the latitude (radians) that a recording was made at, or None where it does not tell."""
    start = next((line for line in lines if line.get("kind") == "start"), {})
    latitude = start.get("latitude_rad")
    return None if latitude is None else float(latitude)


def link_delay_s(lines: Sequence[Line]) -> tuple[float, float]:
    """Return how long the counters lag behind the approved motion (seconds), and its standard deviation.

    The delay at which the summed approved motion fits the counters best. Raises BadInput where nothing was approved.
    """
    ticks = _ticks(lines)
    if len(ticks) < 2:
        raise BadInput("recording: no two ticks, must have approved commands")
    sent_s = np.array([tick["approved_host_s"] for tick in ticks], dtype=float)
    speeds = np.array([tick["approved_m_s"] for tick in ticks], dtype=float)
    read_s = np.array([tick["lengths_host_s"] for tick in ticks], dtype=float)
    counted = np.array([tick["lengths_m"] for tick in ticks], dtype=float)
    period_s = float(np.median(np.diff(sent_s)))
    knots_s = np.concatenate([sent_s, [sent_s[-1] + period_s]])
    asked = np.concatenate([np.zeros((1, WINCH_COUNT)), np.cumsum(speeds * period_s, axis=0)])

    def apart(delay_s: float) -> tuple[float, Array]:
        late = np.stack([np.interp(read_s - delay_s, knots_s, column) for column in asked.T], axis=1)
        rest = counted - late
        rest -= rest.mean(axis=0)
        return float(np.mean(rest * rest)), rest

    tried = np.arange(0.0, 0.4, 0.005)
    costs = np.array([apart(delay)[0] for delay in tried])
    best = int(np.clip(np.argmin(costs), 1, len(tried) - 2))
    bend = costs[best - 1] - 2 * costs[best] + costs[best + 1]
    shift = 0.5 * (costs[best - 1] - costs[best + 1]) / bend if bend > 0 else 0.0
    return float(tried[best] + 0.005 * np.clip(shift, -1, 1)), max(
        0.002, float(np.sqrt(costs[best] / np.mean(speeds**2 + 1e-8)) / 10)
    )


def _ticks(lines: Sequence[Line]) -> list[Line]:
    """Ticks with counters, up to the first that lowers the lens."""
    ticks = [line for line in lines if line.get("kind") == "tick"]
    dark = next((i for i, tick in enumerate(ticks) if tick.get("mode") == "dark"), len(ticks))
    return [tick for tick in ticks[:dark] if tick.get("lengths_host_s") is not None]


def _readings(lines: Sequence[Line]) -> tuple[Array, Array] | None:
    """As :func:`_counters`, from lines that hold every reading between ticks; None where there are none."""
    kept = [line for line in lines if line.get("kind") == "counters"]
    if not kept:
        return None
    times = np.array([at_s for line in kept for at_s in line["read_s"]], dtype=float)
    positions = np.array([row for line in kept for row in line["positions_m"]], dtype=float).reshape(-1, WINCH_COUNT)
    if len(times) != len(positions) or not (np.isfinite(times).all() and np.isfinite(positions).all()):
        raise ValueError("counters that are not finite")
    later = np.diff(times, prepend=-np.inf) > 1e-3
    return times[later], positions[later]


def _counters(ticks: Sequence[Line], machine: Machine) -> tuple[Array, Array]:
    """(m,) times and (m, 8) cable paid out since park, each reading once."""
    times = np.array([tick["lengths_host_s"] for tick in ticks], dtype=float)
    lengths = np.array([tick["lengths_m"] for tick in ticks], dtype=float).reshape(len(ticks), WINCH_COUNT)
    if not (np.isfinite(times).all() and np.isfinite(lengths).all()):
        raise ValueError("counters that are not finite")
    later = np.diff(times, prepend=-np.inf) > 1e-4
    return times[later], (lengths - Kinematics(machine).park_lengths_m)[later]


def _frames(ticks: Sequence[Line]) -> list[tuple[float, float, float, float, float, float, float]]:
    """Time, centre x and y, moments xx, xy, yy, and noise over the usual, of each frame with a usable patch."""
    found: list[tuple[float, float, float, float, float, float, float]] = []
    last_s = -np.inf
    for tick in ticks:
        share = USABLE.get(str(tick.get("patch_status")))
        centre, at_s = tick.get("patch_centre_m"), tick.get("patch_captured_host_s")
        if share is None or centre is None or at_s is None or at_s <= last_s:
            continue
        last_s = float(at_s)
        moments = _moments(tick.get("patch_semi_axes_m"), tick.get("patch_angle_rad"))
        size = 2 * np.sqrt(moments[0] + moments[2]) if np.isfinite(moments[0]) else 0.0
        found.append((last_s, float(centre[0]), float(centre[1]), *moments, share * (1 + size / BLUR_M)))
    return found


def _moments(semi_axes_m: Sequence[float] | None, angle_rad: float | None) -> tuple[float, float, float]:
    """xx, xy, yy of an ellipse; NaN where it was not measured."""
    if semi_axes_m is None or angle_rad is None:
        return np.nan, np.nan, np.nan
    large, small = (0.25 * float(axis) ** 2 for axis in semi_axes_m)
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return large * c * c + small * s * s, (large - small) * c * s, large * s * s + small * c * c


def _made(
    counter_s: Array, counters_m: Array, frames: Sequence[Any], sun_rad: tuple[float, float], source: str
) -> Track:
    if len(counter_s) < 2:
        raise BadInput(
            f"recording {source}: {len(counter_s)} counter readings, must be at least {SHORTEST_S:g} s of them"
        )
    if not frames:
        raise BadInput(f"recording {source}: no light patch was seen, must be in at least {FEWEST_FRAMES} frames")
    table = np.array(frames)
    table = table[table[:, 0] > counter_s[0]]
    return Track(counter_s, counters_m, table[:, 0], table[:, 1:3], table[:, 3:6], sun_rad, table[:, 6], source)


def _require_useful(track: Track, machine: Machine) -> None:
    frames = len(track.frame_s)
    if frames < FEWEST_FRAMES:
        raise BadInput(
            f"recording {track.source}: the patch was seen in {frames} frames, must be at least {FEWEST_FRAMES}"
        )
    seen_s = float(track.frame_s[-1] - track.frame_s[0])
    if seen_s < SHORTEST_S:
        raise BadInput(
            f"recording {track.source}: {seen_s:.1f} s with the patch in sight, must be at least {SHORTEST_S:g} s"
        )
    during = (track.counter_s >= track.frame_s[0]) & (track.counter_s <= track.frame_s[-1])
    way_m = np.ptp(track.counters_m[during], axis=0) if during.any() else np.zeros(WINCH_COUNT)
    worst = int(way_m.argmin())
    if way_m[worst] < LEAST_WAY_M:
        raise BadInput(
            f"recording {track.source}: winch {machine.winch[worst].name} moved {1e3 * way_m[worst]:.0f} mm "
            f"with the patch in sight, must be at least {1e3 * LEAST_WAY_M:.0f} mm"
        )
