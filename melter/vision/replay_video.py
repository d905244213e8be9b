"""A recorded run as a video: target and spot from above, tick by tick, the newest kept frame beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.errors import BadInput
from melter.vision.opencv import cv2
from melter.vision.overlay import CODECS

SIZE_PX, FRAME_PX = (560, 560), (746, 560)
TRAIL = 200
"""Ticks of the spot's trail."""
_SAND, _INK, _TARGET, _SPOT, _LIMIT = (205, 225, 235), (40, 40, 40), (40, 160, 40), (0, 90, 230), (60, 60, 220)


@dataclass(frozen=True, eq=False)
class Scene:
    """What stays the same."""

    bed_size_m: tuple[float, float]
    keep_in_world_m: NDArray[np.float64]
    frames: Path
    """Folder of kept frames; need not exist."""


def require_video_file(name: str) -> None:
    """Raise BadInput unless a video can be written there."""
    if Path(name).suffix.lower() not in CODECS:
        raise BadInput(f"--video {name}: must end in {', '.join(CODECS)}")
    if not Path(name).absolute().parent.is_dir():
        raise BadInput(f"--video {name}: its folder does not exist")


def film(
    ticks: Sequence[dict[str, Any]],
    scene: Scene,
    file: str,
    rate_hz: float,
    on_share: Callable[[float], None] = lambda _: None,
) -> None:
    """Write one picture per tick, beside the final name, then rename. Raises BadInput where no encoder is there."""
    kept = _kept(scene.frames)
    size = (SIZE_PX[0] + (FRAME_PX[0] if kept else 0), SIZE_PX[1])
    part = Path(file).with_name(f".{Path(file).stem}.part{Path(file).suffix}")
    video = cv2.VideoWriter(str(part), cv2.VideoWriter.fourcc(*CODECS[Path(file).suffix.lower()]), rate_hz, size)
    try:
        if not video.isOpened():
            raise BadInput(f"--video {file}: no encoder for {Path(file).suffix}, or not writable")
        shown, beside = -1, np.zeros((FRAME_PX[1], FRAME_PX[0], 3), np.uint8)
        for number, tick in enumerate(ticks):
            on_share(number / len(ticks))
            picture = draw(ticks[max(0, number - TRAIL) : number + 1], scene)
            place = int(np.searchsorted([at for at, _ in kept], tick["host_s"])) - 1 if kept else -1
            if kept and place != shown and place >= 0:
                shown, beside = place, _frame(kept[place][1], beside)
            video.write(np.hstack([picture, beside]) if kept else picture)
        video.release()
        part.replace(file)
    finally:
        video.release()
        part.unlink(missing_ok=True)


def draw(trail: Sequence[dict[str, Any]], scene: Scene) -> NDArray[np.uint8]:
    """Return the picture of the last of these ticks, the ones before as its trail."""
    width, height = SIZE_PX
    canvas: Any = np.full((height, width, 3), 250, np.uint8)
    reach = 1.15 * max(float(np.abs(scene.keep_in_world_m).max()), max(scene.bed_size_m) / 2)

    def px(points_m: Any) -> NDArray[np.int32]:
        points = np.atleast_2d(np.asarray(points_m, dtype=float))
        scaled = np.stack([points[:, 0], -points[:, 1]], axis=1) / reach * 0.5 * min(width, height)
        return np.round((scaled + np.array([width / 2, height / 2])) * 16).astype(np.int32)

    x, y = (half / 2 for half in scene.bed_size_m)
    cv2.fillPoly(canvas, [px([(-x, -y), (x, -y), (x, y), (-x, y)])], _SAND, cv2.LINE_AA, 4)
    cv2.polylines(canvas, [px(scene.keep_in_world_m)], True, _LIMIT, 1, cv2.LINE_AA, 4)
    for name, colour in (("target_world_m", _TARGET), ("patch_centre_m", _SPOT)):
        points = [tick[name] for tick in trail if tick.get(name) is not None]
        if len(points) > 1:
            cv2.polylines(canvas, [px(points)], False, colour, 1, cv2.LINE_AA, 4)
        if points:
            cv2.circle(canvas, px(points[-1])[0].tolist(), 5 * 16, colour, 2, cv2.LINE_AA, 4)
    tick = trail[-1]
    words = f"{tick.get('t_s', 0.0):7.1f} s   patch {tick.get('patch_status', '-')}"
    cv2.putText(canvas, words, (12, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.55, _INK, 1, cv2.LINE_AA)
    cv2.putText(canvas, "target", (12, 46), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _TARGET, 1, cv2.LINE_AA)
    cv2.putText(canvas, "spot as seen", (80, 46), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _SPOT, 1, cv2.LINE_AA)
    return np.asarray(canvas, dtype=np.uint8)


def _kept(folder: Path) -> list[tuple[float, Path]]:
    """Times and files of the kept frames, in order."""
    found: list[tuple[float, Path]] = []
    file = folder / "frames.jsonl"
    for text in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            entry: dict[str, Any] = json.loads(text)
        except ValueError:
            break
        found.append((float(entry["captured_host_s"]), folder / str(entry["file"])))
    return sorted(found)


def _frame(path: Path, before: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = cv2.imread(str(path))
    return before if image is None else np.asarray(cv2.resize(image, FRAME_PX), dtype=np.uint8)
