"""A recording against a twin's truth file: how far the spot really was from the target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.errors import BadInput
from melter.loop.recorder import read_recording

Array = NDArray[Any]

NEAR_S = 0.06
"""Farther from every tick on the path, the light was not meant to be on it."""
SETTLING_S = 2.0
"""Left out at the start of the path (``docs/glossary.md``: spot error)."""


def spot_errors(work: list[dict[str, Any]], truth: list[dict[str, Any]]) -> tuple[Array, Array, Array]:
    """Return where the truth tells of work on the path: (lines,) which of its lines, (n,) path time s, (n, 2) spot less target m.

    ``work``: the recording's ticks on the path; ``truth``: the twin's lines, by the same clock. A tick's target is interpolated
    between ticks; moments without a tick near by, when the patch was waited for, are left out, and so is the settling.
    """
    host = np.array([line["approved_host_s"] for line in work])
    at = np.array([line["host_s"] for line in truth])
    if len(host) < 2 or not len(at):
        return np.zeros(len(at), dtype=bool), np.zeros(0), np.zeros((0, 2))
    path_s = np.interp(at, host, np.array([line["t_s"] for line in work]))
    place = np.clip(np.searchsorted(host, at), 1, len(host) - 1)
    near = np.minimum(np.abs(host[place] - at), np.abs(host[place - 1] - at)) < NEAR_S
    good = near & (at >= host[0]) & (at <= host[-1]) & (path_s >= SETTLING_S)
    target = np.array([line["target_world_m"] for line in work])
    wanted = np.stack([np.interp(at[good], host, target[:, i]) for i in range(2)], axis=1)
    return good, path_s[good], np.array([line["spot_world_m"] for line in truth])[good].reshape(-1, 2) - wanted


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
    on_path, _, away = spot_errors(work, lines)
    if not on_path.any():
        raise BadInput(f"{recording} and {truth}: do not overlap in time")
    error = np.hypot(*away.T) * 1e3
    at = np.array([line["host_s"] for line in lines])
    tension = np.array([line["tensions_n"] for line in lines])[on_path]
    speed = np.abs(np.array([line["approved_m_s"] for line in ticks]))
    return {
        "rms_mm": float(np.sqrt(np.mean(error**2))),
        "p50_mm": float(np.median(error)),
        "p95_mm": float(np.percentile(error, 95)),
        "max_mm": float(error.max()),
        "bias_mm": [float(v) * 1e3 for v in away.mean(axis=0)],
        "tension_min_n": float(tension.min()),
        "tension_max_n": float(tension.max()),
        "command_max_m_s": float(speed.max()),
        "seconds": float(at[on_path][-1] - at[on_path][0]),
    }
