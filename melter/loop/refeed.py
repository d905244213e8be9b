"""A recorded run once more through the code: its bytes to the protocol core, its pictures to the tracker; then side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.errors import BadInput, CameraError
from melter.hw.grbl import Decoder, Report
from melter.hw.recording import read_recording as read_bytes
from melter.hw.recording import summarise
from melter.loop.approvals import compare_wire
from melter.loop.run import Run
from melter.machine import WINCH_COUNT

Array = NDArray[np.float64]

SAME_REPORT_S = 0.002
"""A tick's counters are those of the report that arrived within this of their time."""
MOVED_M = 0.001
"""A patch found again this near to where it was is the same: JPEG coding, and frames left out between."""


def feed_bytes(run: Run) -> dict[str, Any]:
    """Decode ``serial.jsonl`` anew; compare the counters with those of the ticks, and the jogs with the approvals."""
    file = run.folder / "serial.jsonl"
    if not file.is_file():
        raise BadInput(f"run {run.folder}: no serial.jsonl to feed again")
    reports = _reports(file)
    ticks = [line for line in run.ticks if line.get("lengths_host_s") is not None]
    differences = _counter_differences_m(reports, run.column("lengths_m", WINCH_COUNT, ticks), ticks)
    wire = compare_wire(run.folder)
    return {
        **summarise(read_bytes(file)),
        "reports": len(reports[0]),
        "ticks_compared": len(differences),
        "counters_differ_mm": float(differences.max() * 1e3) if len(differences) else None,
        "jogs": wire.jogs,
        "unapproved_jogs": wire.unapproved,
        "approval_remarks": wire.remarks,
    }


def _reports(file: Path) -> tuple[Array, Array]:
    """Times (n,) of the reports and machine positions (n, 8), metres."""
    decoder, times, positions = Decoder(), list[float](), list[Array]()
    for piece in read_bytes(file):
        if piece.direction == "rx":
            for event in decoder.feed(piece.data):
                if isinstance(event, Report) and event.machine_um is not None and len(event.machine_um) >= WINCH_COUNT:
                    times.append(piece.time_s)
                    positions.append(np.asarray(event.machine_um[:WINCH_COUNT], dtype=float) * 1e-6)
    return np.array(times), np.array(positions).reshape(-1, WINCH_COUNT)


def _counter_differences_m(reports: tuple[Array, Array], lengths_m: Array, ticks: list[dict[str, Any]]) -> Array:
    """Largest difference of each tick that has its own report, counted from the first such tick."""
    times, positions = reports
    pairs: list[tuple[int, int]] = []
    for row, line in enumerate(ticks):
        place = int(np.searchsorted(times, line["lengths_host_s"] - SAME_REPORT_S))
        if place < len(times) and abs(times[place] - line["lengths_host_s"]) <= SAME_REPORT_S:
            pairs.append((row, place))
    if not pairs:
        return np.zeros(0)
    rows, places = (np.array(part) for part in zip(*pairs, strict=True))
    counted, recorded = positions[places] - positions[places[0]], lengths_m[rows] - lengths_m[rows[0]]
    return np.asarray(np.abs(counted - recorded).max(axis=1))


def feed_frames(run: Run, on_share: Callable[[float], None] = lambda _: None) -> dict[str, Any]:
    """Track the kept frames anew; compare status and centre with what was recorded for the same frames."""
    from melter.vision.calibration import load_calibration
    from melter.vision.camera import decode_image
    from melter.vision.tracker import PatchTracker

    folder = run.folder / "frames"
    kept = _index(folder)
    if run.machine is None:
        raise BadInput(f"run {run.folder}: config.json does not hold its machine")
    calibration = run.config.get("calibration")
    tracker = PatchTracker(run.machine, None if calibration is None else load_calibration(calibration))
    tracker.set_reference(decode_image(_bytes(run.folder / "reference.png"), "reference.png"))
    recorded = {line["frame"]: line for line in run.ticks if line.get("frame") is not None}
    same, compared, apart_m = 0, 0, list[float]()
    for number, entry in enumerate(kept):
        on_share(number / len(kept))
        try:
            image = decode_image(_bytes(folder / entry["file"]), entry["file"])
        except CameraError:
            continue  # cut short by a kill
        found = tracker.track(image, entry["captured_host_s"], entry["frame"])
        before = recorded.get(entry["frame"])
        if before is None:
            continue
        compared += 1
        same += found.status == before["patch_status"]
        if found.centre_world_m is not None and before.get("patch_centre_m") is not None:
            apart_m.append(float(np.hypot(*(found.centre_world_m - np.array(before["patch_centre_m"])))))
    return {
        "frames": len(kept),
        "frames_compared": compared,
        "same_status": same,
        "centre_apart_median_mm": 1e3 * float(np.median(apart_m)) if apart_m else None,
        "centre_apart_max_mm": 1e3 * max(apart_m) if apart_m else None,
        "centres_moved": sum(value > MOVED_M for value in apart_m),
    }


def _index(folder: Path) -> list[dict[str, Any]]:
    """The kept frames in the order they were taken."""
    file = folder / "frames.jsonl"
    entries: list[dict[str, Any]] = []
    try:
        for text in file.read_text(encoding="utf-8").splitlines():
            entries.append(json.loads(text))
    except OSError:
        raise BadInput(f"run {folder.parent}: no frames were kept (melter real --keep-frames)") from None
    except ValueError:
        pass  # the last line was cut short
    return sorted((entry for entry in entries if (folder / entry["file"]).is_file()), key=lambda entry: entry["frame"])


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"run {path.parent}: {path.name} cannot be read: {error.strerror}") from None
