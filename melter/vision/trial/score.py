"""Run the tracker over trial scenes and say how far it was off."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from melter.errors import CameraError
from melter.machine import Machine
from melter.observation import PatchEstimate
from melter.vision.calibration import CameraCalibration
from melter.vision.tracker import PatchTracker
from melter.vision.trial.light import Array
from melter.vision.trial.scenes import EMPTY_KINDS, KINDS, Place, Still, film, make_place, still

STRAY_M = 0.05
"""A report this far from the patch is of something else."""
BACK_WITHIN_M = 0.02


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One picture's outcome."""

    kind: str
    seen: bool
    """Whether a patch could be seen."""
    reported: bool
    status: str
    reason: str
    error_mm: float = float("nan")
    error_px: float = float("nan")
    sigmas: float = float("nan")
    axes_off: float = float("nan")
    """Mean relative error of the semi-axes."""
    angle_off_deg: float = float("nan")
    milliseconds: float = float("nan")
    t_s: float = 0.0
    hidden: float = 0.0


def judge(place: Place, shown: Still, estimate: PatchEstimate, reason: str, seconds: float) -> Shot:
    """Return how an estimate compares with the truth."""
    seen = shown.centre_m is not None
    basics: dict[str, Any] = {
        "kind": shown.kind,
        "seen": seen,
        "reported": estimate.centre_world_m is not None,
        "status": estimate.status,
        "reason": reason,
        "milliseconds": 1000 * seconds,
        "t_s": shown.t_s,
        "hidden": shown.hidden,
    }
    centre, axes, covariance = estimate.centre_world_m, estimate.semi_axes_m, estimate.covariance_m2
    if not seen or centre is None or axes is None or covariance is None:
        return Shot(**basics)
    truth, moments = shown.centre_m, shown.moments_m2
    if truth is None or moments is None:
        return Shot(**basics)
    off = centre - truth
    values, vectors = np.linalg.eigh(moments)
    true_axes = 2 * np.sqrt(values[::-1])
    angle = float("nan")
    if true_axes[0] > 1.2 * true_axes[1] and estimate.angle_rad is not None:
        along = np.array([np.cos(estimate.angle_rad), np.sin(estimate.angle_rad)])
        angle = float(np.degrees(np.arccos(min(1.0, abs(float(along @ vectors[:, 1]))))))
    camera = place.stage.camera
    px = camera.pixels(np.array([[*centre, 0.0], [*truth, 0.0]]))
    return Shot(
        **basics,
        error_mm=1000 * float(np.linalg.norm(off)),
        error_px=float(np.linalg.norm(px[0] - px[1])),
        sigmas=float(np.sqrt(off @ np.linalg.solve(covariance, off))),
        axes_off=float(np.mean(np.abs(axes / true_axes - 1))),
        angle_off_deg=angle,
    )


def tracker_for(place: Place, *, calibrated: bool = True) -> PatchTracker:
    """Return a tracker with the place's calibration and reference; raises CameraError when it cannot be had."""
    camera = place.stage.camera
    size = (camera.width_px, camera.height_px)
    calibration = CameraCalibration(size, camera.matrix, np.array(camera.bend), 0.1) if calibrated else None
    tracker = PatchTracker(place.machine, calibration)
    tracker.set_reference(place.reference)
    return tracker


def run_stills(place: Place, kinds: Sequence[str], each: int, seed: int) -> Iterable[Shot]:
    """Yield ``each`` stills of each kind, every one without memory of those before."""
    rng = np.random.default_rng((seed, place.seed))
    tracker = tracker_for(place)
    for kind in kinds:
        for _ in range(each):
            shown = still(place, kind, rng)
            tracker.forget()
            yield _looked_at(place, tracker, shown)


def run_film(place: Place, seed: int, rate_hz: float = 20.0) -> list[Shot]:
    """Return a film's shots."""
    tracker, rng = tracker_for(place), np.random.default_rng((seed, place.seed))
    return [_looked_at(place, tracker, shown) for shown in film(place, rng, rate_hz)]


def _looked_at(place: Place, tracker: PatchTracker, shown: Still) -> Shot:
    estimate = tracker.track(shown.picture, shown.t_s)
    return judge(place, shown, estimate, tracker.last_details.reason, tracker.last_details.seconds)


def back_after_s(shots: Sequence[Shot]) -> float:
    """Return how long after it came out of hiding the patch was reported where it is."""
    hidden = [shot.t_s for shot in shots if not shot.seen]
    after = [shot for shot in shots if shot.seen and hidden and shot.t_s > hidden[-1]]
    for shot in after:
        if shot.reported and shot.error_mm < 1000 * BACK_WITHIN_M:
            return shot.t_s - after[0].t_s
    return float("inf")


def run_trial(
    machine: Machine, places: int, each: int, films: int, seed: int, progress: Callable[[str], None]
) -> tuple[list[Shot], list[list[Shot]], int]:
    """Return all stills' shots, each film's, and at how many places the markers could not be found."""
    shots: list[Shot] = []
    reels: list[list[Shot]] = []
    blind = 0
    for number in range(places):
        place = make_place(machine, 1000 * seed + number)
        try:
            shots += run_stills(place, (*KINDS, *EMPTY_KINDS), each, seed)
            if number < films:
                reels.append(run_film(place, seed))
        except CameraError as error:
            blind += 1
            progress(f"place {number}: {error}")
            continue
        progress(f"place {number + 1} of {places}: {len(shots)} stills, {len(reels)} films")
    return shots, reels, blind


def summary(shots: Sequence[Shot]) -> dict[str, Any]:
    """Return the figures of shots of one kind; a median of nothing is null."""
    seen = [shot for shot in shots if shot.seen]
    empty = [shot for shot in shots if not shot.seen]
    found = [shot for shot in seen if shot.reported]
    close = [shot for shot in found if shot.error_mm < 1000 * STRAY_M]
    return {
        "n": len(shots),
        "lost_share": _share(seen, lambda shot: not shot.reported),
        "stray_share": _share(found, lambda shot: shot.error_mm >= 1000 * STRAY_M),
        "false_share": _share(empty, lambda shot: shot.reported),
        "centre_mm_p50": _quantile([shot.error_mm for shot in found], 0.5),
        "centre_mm_p95": _quantile([shot.error_mm for shot in found], 0.95),
        "centre_px_p50": _quantile([shot.error_px for shot in found], 0.5),
        "centre_px_p95": _quantile([shot.error_px for shot in found], 0.95),
        "axes_off_p50": _quantile([shot.axes_off for shot in close], 0.5),
        "angle_off_deg_p50": _quantile([shot.angle_off_deg for shot in close], 0.5),
        "within_two_sigma": _share(found, lambda shot: shot.sigmas < 2),
        "ms_p50": _quantile([shot.milliseconds for shot in shots], 0.5),
    }


def _share(shots: Sequence[Shot], which: Callable[[Shot], bool]) -> float | None:
    return sum(map(which, shots)) / len(shots) if shots else None


def _quantile(values: Sequence[float], q: float) -> float | None:
    good: Array = np.array([v for v in values if np.isfinite(v)])
    return float(np.quantile(good, q)) if good.size else None
