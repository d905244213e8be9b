"""``melter slurm``: print a batch script that trains on a Slurm cluster."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from melter.cli.common import Common, emit, parse
from melter.errors import BadInput

OWN = ("--ray", "--out", "--resume", "--workers", "--json", "--help", "-h")
"""What the script settles by itself."""


@dataclass(frozen=True, kw_only=True)
class Slurm(Common):
    """Print a Slurm batch script on stdout: one task per node, Ray among them, training on all cores, one run folder.

    Options for the training follow after --, such as: melter slurm --nodes 4 --cpus-per-task 16 --time 2:00:00 -- --seed 7
    """

    nodes: int
    """Nodes (1 to 10000)."""
    cpus_per_task: int
    """Cores to use on each node (1 to 4096)."""
    time: str
    """Time limit: minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S. Training ends a little earlier unless told its own --minutes."""
    name: str = "melter"
    """Name of the job."""
    partition: str | None = None
    """Partition to run in. Default: the cluster's."""
    account: str | None = None
    """Account to charge. Default: yours."""
    out: str | None = None
    """Run folder that all nodes can see, or a URL. Default: runs/slurm-JOB where the job is submitted."""
    setup: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Shell line that makes melter known on a node, such as "source ~/melter/.venv/bin/activate"; may be given more than once."""


def run(argv: list[str]) -> int:
    """Print the script; return 0."""
    at = argv.index("--") if "--" in argv else len(argv)
    options = parse(Slurm, argv[:at], "slurm")
    plain = (("--machine", options.machine, Common.machine), ("--seed", str(options.seed), str(Common.seed)))
    train = (*(word for name, value, usual in plain if value != usual for word in (name, value)), *argv[at + 1 :])
    _check(train)
    from melter.cluster.slurm import Job, script

    values: dict[str, Any] = dict(options.__dict__)
    for name in Common.__dataclass_fields__:
        del values[name]
    text = script(Job(**values, train=train))
    if options.json:
        emit({"script": text}, True, "")
    else:
        sys.stdout.write(text)
    return 0


def _check(train: tuple[str, ...]) -> None:
    """Raise BadInput for training options that sim-train would refuse, or that the script settles."""
    from melter.cli.sim_train import SimTrain
    from melter.policy.config import algo_config

    for word in train:
        if word.partition("=")[0] in OWN:
            raise BadInput(f"slurm: {word}: is settled by the script; see melter slurm --help")
    options = parse(SimTrain, list(train), "slurm: sim-train")
    algo_config(options.algo, options.preset, options.set)
