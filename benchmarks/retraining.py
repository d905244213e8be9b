"""Train a policy for a calibrated machine in its calibrated simulator: its file, and what is still unknown of it as ranges.

Usage: python benchmarks/retraining.py MACHINE.toml MACHINE-randomisation.toml OUT [--steps 1300000] [--seed 1] [--threads 1]

What ``melter calibrate machine`` writes is taken for the usual machine and the usual ranges of randomisation, in training and in choosing the best
policy; everything else is as `melter sim-train` does it. How good the policy is on the machine itself: ``benchmarks/rehearsals.py --used``.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from melter.cli import sim_train
from melter.env import scenario
from melter.env.params import Randomisation


def main() -> int:
    """Train; return the exit code of the training."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("machine")
    parser.add_argument("randomisation")
    parser.add_argument("out")
    parser.add_argument("--steps", default="1300000")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--threads", default="1")
    options = parser.parse_args()
    known = Randomisation.from_file(options.randomisation)
    scenario.TRAIN = replace(scenario.TRAIN, randomisation=replace(known, share=scenario.TRAIN.randomisation.share))
    scenario.SUITES["outdoor"] = replace(scenario.SUITES["outdoor"], randomisation=known)
    given = [f"--{name}={getattr(options, name)}" for name in ("machine", "out", "steps", "seed", "threads")]
    return sim_train.run(given)


if __name__ == "__main__":
    sys.exit(main())
