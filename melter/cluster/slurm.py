"""A batch script that trains on a Slurm cluster: one task per node, Ray among them, results in one folder."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass

from melter.errors import BadInput

TIME = re.compile(r"(?:(?P<d>\d+)-(?P<dh>\d+)(?::(?P<dm>\d+)(?::(?P<ds>\d+))?)?|(?P<t>\d+(?::\d+){0,2}))")
WORD = re.compile(r"[A-Za-z0-9_.+-]+")
TOLD = "number of minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S"
ENVS_PER_WORKER = 128
"""Simulations per worker: fragments of 32 periods are then about 1.4 MB."""
SPARE_SHARE, SPARE_MIN = 0.05, 3.0
"""Of the time limit, left for starting, the last evaluation and copying."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a batch script is made for."""

    nodes: int
    cpus_per_task: int
    time: str
    """Time limit, as Slurm reads it."""
    name: str = "melter"
    partition: str | None = None
    account: str | None = None
    out: str | None = None
    """Run folder on a file system that all nodes see, or URL; None: runs/slurm-JOB where the job is submitted."""
    setup: tuple[str, ...] = ()
    """Shell lines that make ``melter`` and ``ray`` known on a node."""
    train: tuple[str, ...] = ()
    """Options for ``melter sim-train``."""

    def __post_init__(self) -> None:
        for name, value, most in (("--nodes", self.nodes, 10_000), ("--cpus-per-task", self.cpus_per_task, 4096)):
            if not 1 <= value <= most:
                raise BadInput(f"{name} {value}: must lie between 1 and {most}")
        if self.nodes * self.cpus_per_task < 2:
            raise BadInput(f"--cpus-per-task {self.cpus_per_task}: must be at least 2 on one node: learner and workers")
        for name, word in (("--name", self.name), ("--partition", self.partition), ("--account", self.account)):
            if word is not None and not WORD.fullmatch(word):
                raise BadInput(f"{name} {word!r}: must be letters, digits and . _ + - only")
        for line in self.setup:
            if "\n" in line:
                raise BadInput("--setup: must be one line; give it more than once for more")
        if seconds_of(self.time) < 60:
            raise BadInput(f"--time {self.time}: must be at least a minute")

    @property
    def workers(self) -> int:
        """Simulation workers: all cores but the learner's."""
        return self.nodes * self.cpus_per_task - 1


def seconds_of(time: str) -> int:
    """Return the seconds of a time limit as Slurm reads it; raise BadInput for anything else. Source: sbatch(1), ``--time``."""
    match = TIME.fullmatch(time.strip())
    if match is None:
        raise BadInput(f"--time {time}: must be a {TOLD}")
    if match["t"] is None:
        days, hours, minutes, seconds = (int(match[name] or 0) for name in ("d", "dh", "dm", "ds"))
    else:
        parts = [int(part) for part in match["t"].split(":")]
        hours, minutes, seconds = {1: (0, *parts, 0), 2: (0, *parts), 3: tuple(parts)}[len(parts)]
        days = 0
    only_minutes = match["t"] is not None and match["t"].count(":") < 2
    if seconds >= 60 or (minutes >= 60 and not only_minutes) or (hours >= 24 and match["t"] is None):
        raise BadInput(f"--time {time}: minutes and seconds must be below 60, hours after days below 24; a {TOLD}")
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def training_minutes(job: Job) -> float:
    """Return the training time that fits into a job's time limit (min)."""
    limit = seconds_of(job.time) / 60
    return math.floor(10 * max(limit - max(SPARE_MIN, SPARE_SHARE * limit), limit / 2)) / 10


def script(job: Job) -> str:
    """Return the batch script."""
    head = [
        "#!/bin/bash",
        f"#SBATCH --job-name={job.name}",
        f"#SBATCH --nodes={job.nodes}",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --cpus-per-task={job.cpus_per_task}",
        f"#SBATCH --time={job.time}",
        *([f"#SBATCH --partition={job.partition}"] if job.partition else []),
        *([f"#SBATCH --account={job.account}"] if job.account else []),
        "#SBATCH --output=%x-%j.log",
        "#SBATCH --open-mode=append",
        "#SBATCH --requeue",
    ]
    given = {word.partition("=")[0] for word in job.train}
    train = list(job.train)
    if not given & {"--minutes", "--steps"}:
        train += ["--minutes", f"{training_minutes(job):g}"]
    if "--envs" not in given:
        train += ["--envs", str(ENVS_PER_WORKER * job.workers)]
    out = f"out={shlex.quote(job.out)}" if job.out else 'out="$PWD/runs/slurm-$SLURM_JOB_ID"'
    words = "\n  ".join(shlex.quote(word) for word in train)
    return "\n".join([*head, BODY.format(setup=_setup(job), out=out, train=words, workers=job.workers)])


def _setup(job: Job) -> str:
    return (
        "\n".join(["# What makes melter and ray known on a node.", *map(_known_to_shellcheck, job.setup)])
        if job.setup
        else "# melter and ray must be on PATH."
    )


def _known_to_shellcheck(line: str) -> str:
    """Return a line of the set-up so that shellcheck does not ask for the file that it reads."""
    return f"# shellcheck disable=SC1090,SC1091\n{line}" if line.startswith(("source ", ". ")) else line


BODY = """set -euo pipefail

{setup}

# Only those who know the token may join the cluster or give it work. It goes to the tasks by the environment.
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \\n')
export RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0 RAY_worker_niceness=0 OMP_NUM_THREADS=1

{out}
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${{hosts[0]}}
port=$((20000 + SLURM_JOB_ID % 20000))

# A job that was requeued goes on with its run.
if [[ $out != *://* && -f $out/config.json ]]; then
  train=(--resume "$out")
else
  train=(
  {train}
  --out "$out")
fi

# symmetric-run makes the first node the head, lets the others join it, and trains on the head when all are there.
srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 \\
  ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus="$SLURM_CPUS_PER_TASK" -- \\
  melter sim-train --ray "$head:$port" --workers {workers} "${{train[@]}}"

echo "results: $out"
"""
