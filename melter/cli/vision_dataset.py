"""``melter vision dataset``: labelled pictures for the pose network."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from melter.cli.common import Common, emit, parse, require_in
from melter.cli.progress import ShareDone


@dataclass(frozen=True, kw_only=True)
class Dataset(Common):
    """Render labelled pictures of the machine: camera anywhere around the bed, any daytime sun, sand, exposure, lens at
    work or parked, with all, some or no markers. Goes on where an interrupted run stopped.
    """

    out: str = "poses"
    """Folder for the pictures; a new one, or one that holds the beginning of the same dataset."""
    images: int = 20_480
    """Pictures to have in the end (256 to 1000000), rounded up to whole parts of 256."""
    workers: int = 0
    """Processes that render (1 to 256); 0: one per core, four at most."""


def run(argv: list[str]) -> int:
    """Render; return 0 when all pictures are there."""
    options = parse(Dataset, argv, "vision dataset")
    require_in("--images", options.images, 256, 1_000_000)
    require_in("--workers", options.workers, 0, 256)
    require_in("--seed", options.seed, 0, 2**31 - 1)
    from melter.machine import load_machine
    from melter.vision.pose.dataset import write_dataset

    machine = load_machine(options.machine)
    workers = options.workers or min(os.cpu_count() or 1, 4)
    with ShareDone("dataset") as done:
        images = write_dataset(machine, Path(options.out), options.images, options.seed, workers, done)
    emit(
        {"folder": options.out, "images": images, "machine": machine.name},
        options.json,
        f"{options.out}: {images} pictures",
    )
    return 0
