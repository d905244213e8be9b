"""``melter sim-train``: train a policy in simulation."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from melter.cli.common import Common, emit, parse, require_in, say
from melter.cli.elsewhere import fetched, is_url, ray_cluster, simulations, uploading, with_default
from melter.errors import BadInput

if TYPE_CHECKING:
    from melter.cluster.ray_link import Cluster
    from melter.cluster.store import Store
    from melter.policy.request import Progress, TrainRequest, TrainResult


@dataclass(frozen=True, kw_only=True)
class SimTrain(Common):
    """Train a policy in simulation, into a run folder. Without options: the best policy for this machine in under 4 minutes."""

    algo: str = "ppo"
    """Algorithm: ppo, a2c, trpo, sac, td3, ddpg, tqc or crossq."""
    preset: str = "default"
    """Named settings of the algorithm from melter/policy/presets.toml: all have default and smoke; ppo also scratch and stock."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """KEY=VALUE over the preset, such as learning_rate=5e-4; may be given more than once."""
    steps: int | None = None
    """Control steps to train for, all simulations together; without --minutes, time does not stop it."""
    minutes: float | None = None
    """Wall time to train for (min). Default 3.3 when neither --steps nor --minutes is given."""
    target_mm: float | None = None
    """Stop early when the RMS error outdoors is at most this (mm)."""
    envs: int | None = None
    """Simulations stepped together. Default: the preset's."""
    threads: int | None = None
    """Native threads for simulations and learner. Default: all cores but one."""
    nice: int = 5
    """Priority the process gives up (0 to 19), so that the laptop stays usable."""
    out: str | None = None
    """Run folder, or a URL (s3://bucket/run, gs://…, file:///…) that it is copied to while training runs.
    Default: the next free runs/ALGO-MACHINE-NNN."""
    resume: str | None = None
    """Run folder or URL to go on with, as if never stopped; --minutes or --steps then give the new total."""
    track: str | None = None
    """Send the figures on to wandb (Weights & Biases) or mlflow too, if that package is installed and set up."""
    env: str | None = None
    """Another Gymnasium environment's id, such as Pendulum-v1, trained with stable-baselines3's algorithm as it is. Only --algo, --set,
    --steps, --minutes, --envs, --seed and --out go with it."""
    ray: str | None = None
    """--ray alone: spread the simulations over this machine's cores with Ray, or over RAY_ADDRESS's; --ray HOST:PORT or auto: over
    that cluster. Off-policy algorithms learn while workers play (docs/cluster.md)."""
    workers: int | None = None
    """With --ray: workers, one core each. Default: all cores of the cluster but one."""


def run(argv: list[str]) -> int:
    """Train; return the exit code."""
    options = parse(SimTrain, with_default(argv, "--ray", "local"), "sim-train")
    require_in("--nice", options.nice, 0, 19)
    if options.env is not None:
        from melter.cli.other_env import train_other

        return train_other(options, argv)
    if options.track is not None:
        from melter.policy.trackers import library

        library(options.track)
    if options.resume is not None:
        request, folder, store = _resumed(options, argv)
    else:
        request, store = _asked(options)
        folder = None
    with ray_cluster(options.ray, options.workers, options.nice) as joined:
        return _train(options, request, folder, store, joined)


def _train(
    options: SimTrain,
    request: TrainRequest,
    folder: Path | None,
    store: Store | None,
    joined: tuple[Cluster, int] | None,
) -> int:
    """Train into ``folder`` (None: a new one), copying to ``store`` where there is one; return the exit code."""
    os.nice(options.nice)
    from melter.policy import train as training

    resume = folder is not None
    if folder is None:
        out = None if is_url(options.out) else options.out
        folder = training.start_folder(out, request.machine, request.settings.algo)
    name, envs = request.settings.algo, request.settings.envs
    say(f"training {name} for {request.machine.name} into {folder}: {envs} simulations on {request.threads} threads")
    show = _Show()
    trackers = _trackers(options, request, folder)
    try:
        with uploading(folder, store) as uploader:
            result = training.train(
                request, folder, show, say, resume=resume, simulations=simulations(joined), trackers=trackers
            )
    except KeyboardInterrupt:
        show.close()
        say(f"stopped; go on with: melter sim-train --resume {folder}")
        raise
    finally:
        show.close()
    missing = uploader.missing if uploader else []
    sent = {} if store is None else {"uploaded_to": store.url, "not_uploaded": missing}
    emit(_table(result) | sent, options.json, _text(result))
    if missing and store is not None:
        say(f"send the rest with: melter push {folder} {store.url} --whole")
        return 3
    return 0


def _trackers(options: SimTrain, request: TrainRequest, folder: Path) -> list[Any]:
    """What else is told the figures."""
    if options.track is None:
        return []
    from melter.policy.trackers import tracker

    return [tracker(options.track, request.table(), folder.name, say)]


def _asked(options: SimTrain) -> tuple[TrainRequest, Store | None]:
    """What is asked for, and the store to copy it to, when all of it is in order; nothing is kept anywhere yet."""
    from melter.policy import request as training
    from melter.policy.config import algo_config

    overrides = options.set + ((f"envs={options.envs}",) if options.envs is not None else ())
    settings = algo_config(options.algo, options.preset, overrides)
    neither = options.minutes is None and options.steps is None
    request = training.TrainRequest(
        machine=training.load_request_machine(options.machine),
        settings=settings,
        minutes=3.3 if neither else options.minutes,
        steps=options.steps,
        seed=options.seed,
        threads=training.default_threads() if options.threads is None else options.threads,
        target_mm=options.target_mm,
    )
    if settings.needs_contrib:
        from melter.policy.learners import require_installed

        require_installed(options.algo)
    if not is_url(options.out):
        return request, None
    from melter.cluster.store import writable_store

    return request, writable_store(str(options.out))


RESUME_KEEPS = ("--algo", "--preset", "--set", "--envs", "--seed", "--out", "--target-mm")
"""What a run folder has settled."""


def _resumed(options: SimTrain, argv: list[str]) -> tuple[TrainRequest, Path, Store | None]:
    """The request of the run folder, with a new budget and thread count where they are given."""
    from melter.machine import load_machine
    from melter.policy import request as training

    given = [word.partition("=")[0].replace("_", "-") for word in argv]
    settled = [name for name in RESUME_KEEPS if name in given]
    if settled:
        raise BadInput(f"{settled[0]}: does not go with --resume, which goes on with its run's own")
    machine = load_machine(options.machine) if "--machine" in given else None
    place, store = fetched(str(options.resume)) if is_url(options.resume) else (options.resume, None)
    request, folder = training.resumable(str(place), options.minutes, options.steps, machine)
    return (request if options.threads is None else replace(request, threads=options.threads)), folder, store


def _table(result: TrainResult) -> dict[str, Any]:
    return {
        "model": result.model,
        "run": result.folder,
        "steps": result.steps,
        "seconds": round(result.seconds, 2),
        "steps_per_s": round(result.steps / max(result.seconds, 1e-9), 1),
        "eval": {evaluation.suite: evaluation.table() for evaluation in result.evaluations},
    }


def _text(result: TrainResult) -> str:
    lines = [evaluation.text() for evaluation in result.evaluations]
    rate = result.steps / max(result.seconds, 1e-9)
    lines.append(f"{result.steps:,} steps in {result.seconds:.0f} s ({rate:,.0f} steps/s)")
    lines.append(f"policy: {result.model}")
    return "\n".join(lines)


class _Show:
    """Progress on stderr: a live bar on a terminal, a line every 15 s elsewhere."""

    def __init__(self) -> None:
        self._said = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __call__(self, progress: Progress) -> None:
        left = progress.seconds * (1 - progress.share) / max(progress.share, 1e-6)
        words = f"reward {progress.reward:+.2f}  error {progress.error_mm:.2f} mm  {progress.steps_per_s:,.0f} steps/s  {left:.0f} s left"
        if sys.stderr.isatty():
            self._draw(progress.share, words)
        elif time.monotonic() - self._said > 15:
            self._said = time.monotonic()
            say(f"{100 * progress.share:3.0f} %  {progress.steps:,} steps  {words}")

    def _draw(self, share: float, words: str) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                BarColumn(), TextColumn("{task.percentage:3.0f} %  {task.description}"), console=Console(stderr=True)
            )
            self._task = self._bar.add_task("", total=1.0)
            self._bar.start()
        self._bar.update(self._task, completed=share, description=words)

    def close(self) -> None:
        """Stop drawing."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
