"""A recorded run as a Rerun file (.rrd): path and spot on the bed, errors, commands, events, kept frames, on one time line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from melter.errors import BadInput, OutputExists
from melter.loop.run import Run
from melter.machine import WINCH_COUNT

INSTALL = "pip install 'melter[records]'"
TIMELINE = "run"
"""Seconds since the start of the recording."""


def write_rerun(run: Run, out: Path) -> dict[str, Any]:
    """Write ``out``, beside its name and renamed; return what it holds. Raises BadInput."""
    rr = _rerun()
    if out.suffix != ".rrd":
        raise BadInput(f"--rerun {out}: must end in .rrd")
    if out.exists():
        raise OutputExists(f"--rerun {out}: exists already; choose another file")
    if not out.absolute().parent.is_dir():
        raise BadInput(f"--rerun {out}: no folder {out.absolute().parent}")
    part = out.with_name(f".{out.stem}.part.rrd")
    try:
        stream = rr.RecordingStream("melter", recording_id=run.folder.name)
        stream.save(str(part))
        frames = _log(rr, stream, run)
        stream.flush()
        stream.disconnect()
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return {"rerun": str(out), "ticks": len(run.ticks), "frames": frames}


def _rerun() -> Any:
    try:
        import rerun  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise BadInput(f"--rerun: rerun-sdk is not installed; {INSTALL}") from None
    return rerun


def _log(rr: Any, stream: Any, run: Run) -> int:
    """Everything; return the number of pictures."""
    begun_s = run.begun_s
    _log_bed(rr, stream, run)
    since = run.column("approved_host_s", 1)[:, 0] - begun_s
    speeds = run.column("approved_m_s", WINCH_COUNT) * 1e3
    for winch in range(WINCH_COUNT):
        name = run.machine.winch[winch].name if run.machine else f"winch-{winch + 1}"
        _series(rr, stream, f"speed_mm_s/{name}", since, speeds[:, winch])
    work = run.column("approved_host_s", 1, run.work)[:, 0] - begun_s
    for name, field in (("target", "target_world_m"), ("spot", "patch_centre_m")):
        points = run.column(field, 2, run.work)
        known = np.isfinite(points).all(axis=1)
        if known.any():
            _points(rr, stream, f"bed/{name}", work[known], points[known])
    if len(run.errors):
        at_s = np.interp(run.errors[:, 0], run.column("t_s", 1, run.work)[:, 0], work)
        _series(rr, stream, "error_mm", at_s, run.errors[:, 1])
    gap = run.column("gap_m", 1, run.work)[:, 0] * 1e3
    _series(rr, stream, "shadow_gap_mm", work[np.isfinite(gap)], gap[np.isfinite(gap)])
    for line in run.events:
        stream.set_time(TIMELINE, duration=line["host_s"] - begun_s)
        fault = line["kind"] == "fault"
        words = f"{line['fault']}: {line['reason']}" if fault else line["event"]
        stream.log("events", rr.TextLog(words, level="ERROR" if fault else "INFO"))
    return _log_frames(rr, stream, run)


def _log_bed(rr: Any, stream: Any, run: Run) -> None:
    if run.machine is None:
        return
    keep_in = run.machine.bed.keep_in_polygon_world_m
    stream.log("bed/beam_stays_inside", rr.LineStrips2D([np.vstack([keep_in, keep_in[:1]])]), static=True)
    path = run.start.get("path_m")
    if path:
        stream.log("bed/path", rr.LineStrips2D([np.array(path, dtype=float)]), static=True)


def _series(rr: Any, stream: Any, name: str, at_s: Any, values: Any) -> None:
    if len(at_s):
        columns = rr.Scalars.columns(scalars=np.asarray(values, dtype=float))
        stream.send_columns(name, indexes=[rr.TimeColumn(TIMELINE, duration=np.asarray(at_s))], columns=columns)


def _points(rr: Any, stream: Any, name: str, at_s: Any, points_m: Any) -> None:
    columns = rr.Points2D.columns(positions=np.asarray(points_m, dtype=np.float32))
    stream.send_columns(name, indexes=[rr.TimeColumn(TIMELINE, duration=np.asarray(at_s))], columns=columns)


def _log_frames(rr: Any, stream: Any, run: Run) -> int:
    file, count = run.folder / "frames" / "frames.jsonl", 0
    for text in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            entry = json.loads(text)
            coded = (file.parent / entry["file"]).read_bytes()
        except (ValueError, OSError):
            continue  # cut short by a kill
        stream.set_time(TIMELINE, duration=entry["captured_host_s"] - run.begun_s)
        stream.log("camera", rr.EncodedImage(contents=coded, media_type="image/jpeg"))
        count += 1
    return count
