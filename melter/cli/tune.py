"""``melter tune``: a search for better training settings."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from melter.cli.common import Common, emit, parse, require_in, say
from melter.cli.elsewhere import ray_cluster, with_default
from melter.cli.progress import ShareDone
from melter.errors import BadInput

if TYPE_CHECKING:
    from melter.cluster.ray_link import Cluster
    from melter.policy.search import Found, Search
    from melter.policy.tune import Standing


@dataclass(frozen=True, kw_only=True)
class Tune(Common):
    """Search for better training settings: many short trainings, the hopeless ones given up early.

    Prints the best settings as a preset. Ctrl-C keeps every finished training; --resume goes on.
    """

    algo: str = "ppo"
    """Algorithm: ppo."""
    preset: str = "default"
    """Preset that the search starts from; its own settings are the first trial."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """KEY=VALUE over the preset, the same in every trial; may be given more than once."""
    search: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """What to search: KEY (its built-in range), KEY=LOW..HIGH, or KEY=A|B|C; may be given more than once. Default: all."""
    minutes: float = 60.0
    """Wall time for the search (min); a trial that has begun is finished."""
    trial_minutes: float | None = None
    """Training time of one trial (min). Default: a twentieth of --minutes, from 0.2 to 3.3."""
    trial_steps: int | None = None
    """Control steps of one trial, instead of --trial-minutes."""
    pruner: str = "median"
    """Who gives trials up: median (worse than half of the others at the same point), asha (successive halving), none."""
    threads: int | None = None
    """Native threads for the simulations. Default: all cores but one."""
    nice: int = 5
    """Priority the process gives up (0 to 19), so that the laptop stays usable."""
    ray: str | None = None
    """--ray alone: several trials at a time on this machine's cores, one core each; --ray HOST:PORT or auto: on that Ray cluster."""
    workers: int | None = None
    """With --ray: trials at a time. Default: all cores of the cluster but one."""
    out: str | None = None
    """Folder of the search. Default: the next free runs/tune-ALGO-MACHINE-NNN."""
    resume: str | None = None
    """Folder of a search to go on with, for another --minutes; everything else is as it was asked for then."""


def run(argv: list[str]) -> int:
    """Search; return the exit code."""
    options = parse(Tune, with_default(argv, "--ray", "local"), "tune")
    _check(options)
    with ray_cluster(options.ray, options.workers, options.nice) as joined:
        return _run(options, joined)


def _run(options: Tune, joined: tuple[Cluster, int] | None) -> int:
    """Search, in this process or on a cluster; return the exit code."""
    from melter.policy import search as searching
    from melter.policy import tune as tuning

    if options.resume is not None:
        folder = Path(options.resume)
        search = searching.resumable(folder)
    else:
        search = _search(options)
        folder = searching.start(search, options.out)
    os.nice(options.nice)
    say(f"searching {', '.join(one.name for one in search.ranges)} for {options.minutes:g} min, into {folder}")
    try:
        with ShareDone("this trial") as told:
            if joined is None:
                found = tuning.tune(search, folder, options.minutes, _tell, lambda progress: told(progress.share))
            else:
                from melter.cluster.tuning import tune_on

                found = tune_on(*joined, search, folder, options.minutes, _tell)
    except KeyboardInterrupt:
        found = tuning.found(search, folder)
        say(_text(search, found) if found.settings else "no trial was finished")
        say(f"stopped; go on with: melter tune --resume {folder}")
        raise
    emit(_table(search, found), options.json, _text(search, found))
    return 0 if found.settings else 1


def _check(options: Tune) -> None:
    require_in("--minutes", options.minutes, 0.001, 100_000, " min")
    require_in("--nice", options.nice, 0, 19)
    require_in("--seed", options.seed, 0, 2**31 - 1_000_001)
    if options.threads is not None:
        require_in("--threads", options.threads, 1, 1024)
    if options.trial_minutes is not None:
        require_in("--trial-minutes", options.trial_minutes, 0.01, 1000, " min")
    if options.trial_steps is not None:
        require_in("--trial-steps", options.trial_steps, 1, 10**12)
        if options.trial_minutes is not None:
            raise BadInput("--trial-steps: does not go with --trial-minutes")
    if options.pruner not in ("median", "asha", "none"):
        raise BadInput(f"--pruner {options.pruner}: must be median, asha or none")
    if options.resume is not None:
        for name in ("out", "search", "set", "trial_minutes", "trial_steps"):
            if getattr(options, name):
                raise BadInput(
                    f"--{name.replace('_', '-')}: does not go with --resume, which goes on as it was asked for"
                )


def _search(options: Tune) -> Search:
    from melter.policy import request
    from melter.policy.search import search_for
    from melter.policy.space import ranges_for

    minutes = min(max(options.minutes / 20, 0.2), 3.3) if options.trial_minutes is None else options.trial_minutes
    return search_for(
        request.load_request_machine(options.machine),
        options.algo,
        options.preset,
        options.set,
        ranges_for(options.algo, options.search, options.set),
        trial_minutes=minutes,
        trial_steps=options.trial_steps,
        pruner=options.pruner,
        seed=options.seed,
        threads=request.default_threads() if options.threads is None else options.threads,
    )


def _tell(standing: Standing) -> None:
    score = "" if standing.score_mm is None else f" {standing.score_mm:.4f} mm"
    best = "" if standing.best_mm is None else f"; best so far {standing.best_mm:.4f} mm"
    say(f"trial {standing.trial}: {standing.state}{score}{best} ({standing.seconds:.0f} s)")


def _table(search: Search, found: Found) -> dict[str, Any]:
    check = None if found.check is None else {"ratio": found.check.value, "ratio_ci": found.check.ci}
    values = {name: value for name, value in found.__dict__.items() if name != "check"}
    return {
        **values,
        "check": check,
        "preset_file": found.folder / "best.toml",
        "algo": search.algo,
        "preset": search.preset,
    }


def _text(search: Search, found: Found) -> str:
    from melter.policy.search import preset_toml, set_words

    if not found.settings:
        return f"no trial was finished ({found.pruned} given up)"
    lines = [preset_toml(search, found).rstrip(), ""]
    if found.check is not None:
        low, high = found.check.ci
        lines.append(
            f"on episodes that chose nothing: {found.check.value:.3f} ({low:.3f} to {high:.3f}) of the preset's RMS"
        )
    lines.append(
        f"melter sim-train --algo {search.algo} --preset {search.preset} {shlex.join(set_words(search, found))}"
    )
    return "\n".join(lines)
