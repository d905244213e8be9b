"""A run folder as ``melter real`` leaves it, made in a second: recording, configuration, result, bytes, a few frames."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from melter.hw.grbl import jog_line
from melter.loop.recorder import read_recording
from melter.machine import load_machine
from melter.vision.opencv import cv2

MACHINE = load_machine()


def write_serial(folder: Path, *, skip_approval_of: int | None = None) -> None:
    """The bytes that belong to a recording: each approved motion as a jog, each reading of the counters as a report."""
    ticks = [line for line in read_recording(folder / "recording.jsonl") if line["kind"] == "tick"]
    pieces: list[tuple[float, str, bytes]] = []
    park_m = np.array(ticks[0]["lengths_m"])
    pieces.append((ticks[0]["host_s"] - 1, "rx", _report(np.zeros(8))))
    for line in ticks:
        if line.get("lengths_host_s") is not None:
            pieces.append((line["lengths_host_s"], "rx", _report(np.array(line["lengths_m"]) - park_m)))
        counts = np.rint(np.array(line["approved_m_s"]) * MACHINE.control.period_s * 1e6).astype(np.int64)
        if counts.any():
            pieces.append((line["host_s"] + 1e-4, "tx", jog_line(counts, 0.05)))
    if skip_approval_of is not None:
        at, way, data = [piece for piece in pieces if piece[1] == "tx"][skip_approval_of]
        pieces.append((at + 1e-4, way, data))
    pieces.sort(key=lambda piece: piece[0])
    text = "".join(json.dumps({"t_s": at, "dir": way, "hex": data.hex()}) + "\n" for at, way, data in pieces)
    (folder / "serial.jsonl").write_text(text)


def _report(moved_m: np.ndarray) -> bytes:
    places = ",".join(f"{value * 1e3:.3f}" for value in moved_m)
    return f"<Idle|MPos:{places}|Bf:100,1023|FS:0,0>\r\n".encode()


def finish(folder: Path, result: dict[str, Any] | None = None) -> Path:
    """Add what stands beside the recording."""
    values = json.loads(json.dumps(MACHINE.model_dump(), default=str))
    (folder / "config.json").write_text(json.dumps({"machine_values": values, "calibration": None}))
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
    write_serial(folder)
    return folder


def write_frames(folder: Path, numbers: list[int]) -> None:
    (folder / "frames").mkdir()
    with (folder / "frames" / "frames.jsonl").open("w") as index:
        for number in numbers:
            name = f"{number:08d}.jpg"
            cv2.imwrite(str(folder / "frames" / name), np.full((48, 64, 3), 90, np.uint8))
            index.write(json.dumps({"frame": number, "captured_host_s": 100.0 + number, "file": name}) + "\n")
