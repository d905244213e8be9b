"""Milliseconds a frame of the tracker on one core: tracking and searching, 1280 x 720 and 1920 x 1080.

    OMP_NUM_THREADS=1 python benchmarks/vision.py [places]

Pictures are the trial's (``melter vision bench``): clear and saturated stills. Tracking: the same patch frame after frame.
Searching: the tracker forgets before each frame. Processor time, the best of some rounds, so that other programs count
little.
"""

from __future__ import annotations

import sys
import time

import cv2
import numpy as np

from melter.errors import CameraError
from melter.machine import load_machine
from melter.vision.trial.scenes import make_place, still
from melter.vision.trial.score import tracker_for

ROUNDS = 15


def milliseconds(tracker, picture, *, search: bool) -> float:
    best = np.inf
    for n in range(ROUNDS):
        if search:
            tracker.forget()
        begun = time.process_time()
        tracker.track(picture, 0.033 * n)
        best = min(best, time.process_time() - begun)
    return 1000 * best


def main(places: int) -> None:
    cv2.setNumThreads(1)
    machine = load_machine()
    for size in ((1280, 720), (1920, 1080)):
        taken: dict[tuple[str, bool], list[float]] = {}
        for seed in range(places):
            place = make_place(machine, seed, size)
            try:
                tracker = tracker_for(place)
            except CameraError:
                continue
            rng = np.random.default_rng(seed)
            for kind in ("clear", "saturated", "sparkles"):
                for _ in range(3):
                    picture = still(place, kind, rng).picture
                    for search in (False, True):
                        taken.setdefault((kind, search), []).append(milliseconds(tracker, picture, search=search))
        for (kind, search), values in sorted(taken.items()):
            how = "searching" if search else "tracking"
            print(
                f"{size[0]} x {size[1]}  {kind:<10} {how:<10} median {np.median(values):5.1f} ms, "
                f"p90 {np.quantile(values, 0.9):5.1f} ms"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
