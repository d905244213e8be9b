"""``melter track``: where the light patch is, a line per frame."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from tyro.conf import Positional

from melter.cli.common import Common, emit, parse, plain, require_in, say
from melter.errors import BadInput, CameraError
from melter.machine import load_machine
from melter.observation import PatchEstimate

LINES_KEPT = 20_000
"""In the one object that --json prints."""


@dataclass(frozen=True, kw_only=True)
class TrackConfig(Common):
    """Track the light patch in an image, a folder, a video file, a camera index or a URL: one JSON line per frame."""

    source: Positional[str]
    """Image file, folder of images, video file, camera index, or URL of an MJPEG stream."""
    calibration: str | None = None
    """Camera calibration (JSON); without it, lens distortion is not corrected."""
    reference: str | None = None
    """Image with the lens parked and the markers well exposed, for the bed's pose; without it, frames with markers."""
    pose_model: str | None = None
    """Pose network: an ONNX file of 'melter vision train', or 'packaged'. Gives a rough bed where no marker is seen, and
    says when it sees the camera elsewhere than the markers do."""
    jsonl: str | None = None
    """Write the lines to this file instead of stdout."""
    overlay: str | None = None
    """Write pictures with the patch drawn in: a video file (.mp4, .avi), or for one frame an image file."""
    response: str = "srgb"
    """The camera's curve from light to code: srgb or linear."""
    relief_mm: float = 0.9
    """Standard deviation of the sand's height in millimetres (0 to 50); goes into the uncertainty."""
    rate_hz: float = 30.0
    """Frames per second of a folder of images (0.01 to 1000)."""
    frames: int | None = None
    """Stop after this many frames."""
    show: bool = False
    """Show a live window with the patch drawn in."""


def run(argv: list[str]) -> int:
    """Track; return 0 when all frames were looked at, whatever was in them."""
    config = parse(TrackConfig, argv, "track")
    require_in("--relief-mm", config.relief_mm, 0, 50, " mm")
    require_in("--rate-hz", config.rate_hz, 0.01, 1000, " Hz")
    if config.response not in ("srgb", "linear"):
        raise BadInput(f"--response {config.response}: must be srgb or linear")
    if config.frames is not None:
        require_in("--frames", config.frames, 1, 1e12)
    return _track(config)


def _track(config: TrackConfig) -> int:
    from melter.vision.calibration import load_calibration
    from melter.vision.camera import open_camera, read_image
    from melter.vision.tracker import PatchTracker, TrackerOptions

    machine = load_machine(config.machine)
    calibration = load_calibration(config.calibration) if config.calibration else None
    options = TrackerOptions(response=config.response, relief_m=config.relief_mm / 1000)  # pyright: ignore[reportArgumentType]
    tracker = PatchTracker(machine, calibration, options)
    remarks = [] if calibration is not None else ["no --calibration: lens distortion is not corrected"]
    if config.reference:
        view = _reference(tracker, read_image(config.reference), config.reference)
        residual = f"residual {view.residual_px:.2f} px = {1000 * view.residual_m:.2f} mm"
        remarks += [
            f"bed: markers {list(view.markers_seen)}, {residual}",
            *(f"bed: {remark}" for remark in view.remarks),
        ]
    watch = _pose_watch(config, tracker)
    with ExitStack() as stack:
        stream = stack.enter_context(open_camera(config.source, rate_hz=config.rate_hz))
        overlay, out = _overlay(config, stack), _open_lines(config, stack)
        for remark in remarks:
            say(remark)
        return _write(_lines(stream, tracker, overlay, watch, config.frames), out, as_json=config.json)


def _pose_watch(config: TrackConfig, tracker: Any) -> Any:
    """Let the pose network help where no marker is seen; return what compares it with the markers now and then."""
    if config.pose_model is None:
        return None
    from melter.vision.pose.check import PoseWatch, view_without_markers
    from melter.vision.pose.model import load_pose_model

    machine, calibration = tracker.machine, tracker.calibration
    model = load_pose_model(config.pose_model, machine)
    tracker.without_markers = partial(view_without_markers, model, machine=machine, calibration=calibration)
    return PoseWatch(model, calibration)


def _reference(tracker: Any, image: Any, name: str) -> Any:
    """Solve the bed from a picture; an error also names markers of other dictionaries, where there are some."""
    from melter.vision.markers import markers_of_other_dictionaries

    try:
        return tracker.set_reference(image)
    except CameraError as error:
        others = markers_of_other_dictionaries(image, tracker.machine.bed.marker)
        raise CameraError(f"--reference {name}: {error}" + (f"; {others}" if others else "")) from None


def _write(lines: Iterator[dict[str, Any]], out: TextIO | None, *, as_json: bool) -> int:
    """Write lines as they come; at the end, or when interrupted, say what they came to."""
    kept: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    try:
        for line in lines:
            counts[line["status"]] += 1
            if as_json and len(kept) < LINES_KEPT:
                kept.append(line)
            if out is not None:
                out.write(json.dumps(plain(line), allow_nan=False) + "\n")
                out.flush()
    finally:
        total = sum(counts.values())
        if as_json and total:
            emit({**kept[-1], "frames": total, "by_status": dict(counts), "lines": kept}, True, "")
        if total:
            say(f"{total} frames: " + ", ".join(f"{n} {status}" for status, n in counts.most_common()))
    return 0


def _open_lines(config: TrackConfig, stack: ExitStack) -> TextIO | None:
    if config.jsonl is None:
        return None if config.json else sys.stdout
    try:
        return stack.enter_context(Path(config.jsonl).open("w", encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"--jsonl {config.jsonl}: cannot be written: {error.strerror}") from None


def _lines(stream: Any, tracker: Any, overlay: Any, watch: Any, limit: int | None) -> Iterator[dict[str, Any]]:
    """One table per frame; ``overlay`` takes each frame's picture."""
    from melter.vision.camera import BrokenFrame

    for count, frame in enumerate(stream.frames(), start=1):
        if isinstance(frame, BrokenFrame):
            yield _line(frame, PatchEstimate("lost", frame.t_s, frame=frame.number), frame.reason, 0.0)
        else:
            clock_s = frame.captured_host_s if stream.live else frame.t_s
            estimate = tracker.track(frame.image, clock_s, frame.number)
            details, reason = tracker.last_details, tracker.last_details.reason
            if watch is not None and tracker.view is not None:
                reason = "; ".join(part for part in (watch.see(frame.image, tracker.view, clock_s), reason) if part)
            yield _line(frame, estimate, reason, details.seconds)
            if overlay is not None:
                overlay(frame.image, tracker, estimate)
        if count == limit:
            return


def _line(frame: Any, estimate: PatchEstimate, reason: str, seconds: float) -> dict[str, Any]:
    return {
        "frame": frame.number,
        "source": frame.source,
        "t_s": frame.t_s,
        "status": estimate.status,
        "centre_m": estimate.centre_world_m,
        "semi_axes_m": estimate.semi_axes_m,
        "angle_rad": estimate.angle_rad,
        "covariance_m2": estimate.covariance_m2,
        "reason": reason,
        "latency_s": round(seconds, 6),
    }


def _overlay(config: TrackConfig, stack: ExitStack) -> Any:
    if config.overlay is None and not config.show:
        return None
    from melter.vision.overlay import OverlayWriter

    if config.overlay and Path(config.overlay).suffix.lower() == "":
        raise CameraError(f"--overlay {config.overlay}: must end in .mp4, .avi, .png or .jpg")
    return stack.enter_context(OverlayWriter(config.overlay, config.rate_hz, show=config.show))
