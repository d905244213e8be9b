"""A recording against a twin's truth file: how far the spot really was from the target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from melter.errors import BadInput
from melter.loop.recorder import read_recording

SETTLING_S = 2.0
"""Left out at the start of the path (``docs/glossary.md``: spot error)."""


def true_errors(recording: Path, truth: Path) -> dict[str, Any]:
    """Return error figures on the path by a twin's truth file: rms_mm, p50_mm, p95_mm, max_mm, tensions, commands.

    The target of each truth line is interpolated from the recording, whose clock is the same. Raises BadInput when
    the two do not overlap.
    """
    ticks = [line for line in read_recording(recording) if line.get("kind") == "tick"]
    work = [line for line in ticks if line.get("t_s") is not None]
    lines = read_recording(truth)
    if len(work) < 2 or not lines:
        raise BadInput(f"{recording}: holds no work on the path, or {truth} is empty")
    host = np.array([line["approved_host_s"] for line in work])
    t_s = np.array([line["t_s"] for line in work])
    target = np.array([line["target_world_m"] for line in work])
    at = np.array([line["host_s"] for line in lines])
    on_path = (at >= host[0]) & (at <= host[-1]) & (np.interp(at, host, t_s) >= SETTLING_S)
    if not on_path.any():
        raise BadInput(f"{recording} and {truth}: do not overlap in time")
    spot = np.array([line["spot_world_m"] for line in lines])[on_path]
    wanted = np.stack([np.interp(at[on_path], host, target[:, i]) for i in range(2)], axis=1)
    error = np.hypot(*(spot - wanted).T) * 1e3
    tension = np.array([line["tensions_n"] for line in lines])[on_path]
    speed = np.abs(np.array([line["approved_m_s"] for line in ticks]))
    return {
        "rms_mm": float(np.sqrt(np.mean(error**2))),
        "p50_mm": float(np.median(error)),
        "p95_mm": float(np.percentile(error, 95)),
        "max_mm": float(error.max()),
        "bias_mm": [float(v) * 1e3 for v in (spot - wanted).mean(axis=0)],
        "tension_min_n": float(tension.min()),
        "tension_max_n": float(tension.max()),
        "command_max_m_s": float(speed.max()),
        "seconds": float(at[on_path][-1] - at[on_path][0]),
    }
