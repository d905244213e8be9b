"""The patch tracker: one estimate of the light patch per frame, with an honest uncertainty, or ``lost``.

A frame is searched for bright spots, each spot is measured or rejected (:mod:`melter.vision.patch`), and what is left
is judged against where the patch was going: position, speed and shape over time (:mod:`melter.vision.track`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.errors import CameraError
from melter.machine import Machine
from melter.observation import PatchEstimate, Status
from melter.vision.bed import BedView, marker_shift_px, require_calibration_fits, solve_bed
from melter.vision.calibration import CameraCalibration
from melter.vision.cut import Box
from melter.vision.hue import Hues, hues_now, hues_of
from melter.vision.maps import BedMaps, build_maps
from melter.vision.patch import Rejected, Spot, axes_of, measure_spot
from melter.vision.plausible import OVEREXPOSED, Level
from melter.vision.response import Pixels, Response, checked_pixels
from melter.vision.search import Candidate, Found, find_bright
from melter.vision.track import Choice, Track

Array = NDArray[np.float64]

CHECK_EVERY_S = 0.5
"""Between two looks at the markers."""
NUDGED_FROM_PX = 2.0
OTHERS_EVERY = 5
"""While the patch is tracked, spots elsewhere are measured in every so manyth frame only."""
SAME_PX = 5.0
NO_SHADOWS = 0.4
"""Darkest over brightest sand from which the sun is hidden; sky light alone is a tenth of a clear day's."""
SMALL_SHARE = 0.1
"""Of a spot's pixels: a spot smaller than this is not part of it."""
MARKERS_VISIBLE_FROM, MARKERS_CLEAR_FROM = 0.002, 0.02
"""Linear light of sand from which markers are found where they were, and from which anywhere in the image."""


@dataclass(frozen=True, kw_only=True)
class TrackerOptions:
    """How the camera and the sand are; the defaults suit a webcam over raked sand."""

    response: Response = "srgb"
    """Curve from light to code that the camera applies."""
    relief_m: float = 0.0009
    """Standard deviation of the sand's height; moves the patch by height / tan(camera elevation)."""


@dataclass(frozen=True, eq=False)
class TrackDetails:
    """What the tracker saw in its last frame, for overlays and for people who ask why."""

    reason: str
    """Why there is no patch, or what is special about it; may be empty."""
    spots: tuple[Spot, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    level: Level | None = None
    seconds: float = 0.0
    """Spent on this frame."""


class PatchTracker:
    """Follows the light patch of one machine through the frames of one camera that stands still."""

    def __init__(
        self, machine: Machine, calibration: CameraCalibration | None = None, options: TrackerOptions | None = None
    ) -> None:
        self.machine, self.calibration, self.options = machine, calibration, options or TrackerOptions()
        self.view: BedView | None = None
        """The bed as the camera sees it; None until markers were seen."""
        self.last_details = TrackDetails("no frame yet")
        self._maps: BedMaps | None = None
        self._hues: Hues | None = None
        self._track = Track()
        self._others: list[Spot] = []
        self._looks = 0
        self._referenced = False
        self._checked_s: float | None = None
        self.without_markers: Callable[[Pixels], BedView | None] | None = None
        """Gives a rough view of the bed where no marker can be seen, until one can; None: there is no such help."""
        self._rough = False
        self._tried_s: float | None = None
        self.moved_px = 0.0
        """How far the markers were from their place when last looked at; above NUDGED_FROM_PX the reference is void."""

    def set_reference(self, image: NDArray[Any]) -> BedView:
        """Take the bed's view from a frame with the lens parked and the markers well exposed; return it.

        Raises CameraError when no marker is in view, or the markers contradict the machine file.
        """
        pixels = checked_pixels(image)
        view = solve_bed(pixels, self.machine, self.calibration, self.options.response)
        self.use_view(view)
        self._rough = False
        if self._maps is not None:
            self._hues = hues_of(pixels, self._maps, view.marker_corners_px, self.options.response)
        self._referenced = True
        return view

    def camera_shift_px(self, image: NDArray[Any], *, everywhere: bool = True) -> float | None:
        """Return how far the markers have moved since the reference (median, pixels); None while too few can be seen.

        Cheap: looks only where they were. ``everywhere``: when fewer than half are there, looks in the whole image.
        """
        if self.view is None:
            return None
        pixels = checked_pixels(image)
        return marker_shift_px(self.view, self.machine, pixels, self.options.response, everywhere=everywhere)

    def use_view(self, view: BedView) -> None:
        """Use a bed view solved before."""
        self.view, self._maps, self._hues = view, build_maps(view, self.machine), None
        self.forget()

    def forget(self) -> None:
        """Forget the frames so far; the bed's view stays."""
        self._track = Track()
        self._others = []

    def track(self, image: NDArray[Any], captured_host_s: float, frame: int = 0) -> PatchEstimate:
        """Return the patch in one frame. Never raises for what is in the picture; see ``last_details.reason``."""
        started_s = time.perf_counter()
        try:
            pixels = checked_pixels(image)
            require_calibration_fits(self.calibration, (pixels.shape[1], pixels.shape[0]))
            self._find_bed(pixels, captured_host_s)
        except CameraError as error:
            status: Status = "no_markers" if self.view is None else "lost"
            self.last_details = TrackDetails(str(error))
            return PatchEstimate(status, captured_host_s, frame=frame)
        view, maps = self.view, self._maps
        if view is None or maps is None or view.image_size_px != (pixels.shape[1], pixels.shape[0]):
            self.last_details = TrackDetails(
                f"image is {pixels.shape[1]} x {pixels.shape[0]} px, the reference was not"
            )
            return PatchEstimate("lost", captured_host_s, frame=frame)
        return self._estimate(pixels, view, maps, captured_host_s, frame, started_s)

    def _find_bed(self, pixels: Pixels, time_s: float) -> None:
        """Solve the bed where it is not known, for this size; while it is known only roughly, try again now and then.

        Raises CameraError where neither markers nor other help give a view.
        """
        size_px = (pixels.shape[1], pixels.shape[0])
        known = self.view is not None and (self._referenced or self.view.image_size_px == size_px)
        again = self._rough and (self._tried_s is None or not 0 <= time_s - self._tried_s < CHECK_EVERY_S)
        if known and not again:
            return
        self._tried_s = time_s
        try:
            self.set_reference(pixels)
            self._referenced = False
        except CameraError:
            view = self.without_markers(pixels) if self.without_markers is not None and not known else None
            if view is None and not known:
                raise
            if view is not None:
                self.use_view(view)
                self._rough = True

    def _estimate(
        self, pixels: Pixels, view: BedView, maps: BedMaps, captured_host_s: float, frame: int, started_s: float
    ) -> PatchEstimate:
        found = find_bright(pixels, maps, self.machine, self.options.response)
        if found.candidates and self._hues is not None:
            hues = hues_now(self._hues, pixels, maps, found.level.sand, self.options.response)
            found = replace(found, level=replace(found.level, hues=hues))
        nudge = self._nudge(pixels, found.level, captured_host_s)
        spots, rejected = self._measured(pixels, view, maps, found, captured_host_s)
        choice = self._track.choose(spots, captured_host_s)
        reason = (
            choice.reason
            or ("; ".join(r.reason for r in rejected) if choice.spot is None and rejected else "")
            or (found.reason if choice.spot is None else "")
        )
        if choice.spot is None and found.level.sand > OVEREXPOSED:
            reason = f"overexposed: sunlit sand is at {100 * found.level.sand:.0f} % of full scale"
        rough = "the bed's place is known only roughly: no marker was seen" if self._rough else ""
        reason = "; ".join(part for part in (nudge, rough, reason) if part)
        self.last_details = TrackDetails(
            reason, tuple(spots), tuple(rejected), found.level, time.perf_counter() - started_s
        )
        estimate = _estimate_of(choice, captured_host_s, frame)
        return replace(estimate, sunless=estimate.status == "lost" and not spots and found.shade > NO_SHADOWS)

    def _measured(
        self, pixels: Pixels, view: BedView, maps: BedMaps, found: Found, time_s: float
    ) -> tuple[list[Spot], list[Rejected]]:
        """Spots and what was none. While the patch is where it should be, the others are looked at now and then."""
        expected = self._track.expected_at(time_s)
        first, later = list(found.candidates), list[Candidate]()
        if expected is not None:
            place_px, reach_m = view.to_px(expected[0]), expected[1]
            reach_px = reach_m / float(np.sqrt(abs(np.linalg.det(view.jacobian_m_per_px(place_px)))))
            first = [c for c in found.candidates if _distance_px(c.box, place_px) < reach_px]
            later = [c for c in found.candidates if c not in first]
        spots: list[Spot] = []
        rejected: list[Rejected] = []

        def measure(candidates: Sequence[Candidate]) -> None:
            for candidate in candidates:
                result = measure_spot(
                    pixels,
                    candidate.box,
                    view,
                    maps,
                    found.level,
                    self.options.response,
                    self._track.shape_at(time_s),
                    self.options.relief_m,
                    _small_others(candidate, found.candidates),
                )
                spots.append(result) if isinstance(result, Spot) else rejected.append(result)

        measure(first)
        self._looks += 1
        if later and (not spots or self._looks % OTHERS_EVERY == 0):
            known = len(spots)
            measure(later)
            self._others = spots[known:]
        elif later:
            here = [spot.centre_px for spot in spots]
            spots += [old for old in self._others if all(np.linalg.norm(old.centre_px - px) > SAME_PX for px in here)]
        return spots, rejected

    def _nudge(self, pixels: Pixels, level: Level, time_s: float) -> str:
        """Every half second, if markers are bright enough: has the camera moved? Says so until it is back."""
        due = self._checked_s is None or not 0 <= time_s - self._checked_s < CHECK_EVERY_S
        if due and level.sand > MARKERS_VISIBLE_FROM:
            self._checked_s = time_s
            shift_px = self.camera_shift_px(pixels, everywhere=level.sand > MARKERS_CLEAR_FROM)
            self.moved_px = self.moved_px if shift_px is None else shift_px
        return f"the camera has moved by {self.moved_px:.1f} px" if self.moved_px > NUDGED_FROM_PX else ""


def _distance_px(box: Box, place_px: Array) -> float:
    """From a place to the nearest point of a box."""
    low, high = np.array(box[:2]), np.array(box[2:])
    return float(np.linalg.norm(np.maximum(np.maximum(low - place_px, place_px - high), 0)))


def _small_others(one: Candidate, candidates: Sequence[Candidate]) -> list[Box]:
    """Boxes of the spots that are much smaller than this one: sparkles beside it, not parts of it."""
    return [other.box for other in candidates if other is not one and other.weight < SMALL_SHARE * one.weight]


def _estimate_of(choice: Choice, captured_host_s: float, frame: int) -> PatchEstimate:
    spot = choice.spot
    if spot is None:
        return PatchEstimate("lost", captured_host_s, frame=frame)
    semi_axes, angle = axes_of(spot.moments_m2)
    return PatchEstimate(choice.status, captured_host_s, spot.centre_m, semi_axes, angle, spot.covariance_m2, frame)
