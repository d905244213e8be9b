"""``melter vision``: how well the tracker sees; the pose network's pictures, training and errors."""

from __future__ import annotations

import importlib
import sys

from melter.errors import BadInput

HELP = """usage: melter vision bench|dataset|train|eval [options]

  bench     the tracker on rendered scenes that share no code with it: lost, false, centre, axes, uncertainty, time
  dataset   render labelled pictures for the pose network: random camera, light, sand, lens, markers
  train     fit the pose network to a dataset and write it as ONNX
  eval      how far a pose network is off on pictures that it has not seen

melter vision bench --help tells the options of each.
"""
PARTS = {"bench": "vision_bench", "dataset": "vision_dataset", "train": "vision_train", "eval": "vision_eval"}


def run(argv: list[str]) -> int:
    """Run one part and return its exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(HELP)
        return 0
    if argv[0] not in PARTS:
        raise BadInput(f"vision {argv[0]}: must be {', '.join(PARTS)}")
    return int(importlib.import_module(f"melter.cli.{PARTS[argv[0]]}").run(argv[1:]))
