"""``melter eval``: how well policies and the classical servo keep the spot on the path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from melter.cli import eval_report as report
from melter.cli.common import Common, emit, parse, require_in, say
from melter.cli.plots import require_plot_file, save
from melter.cli.progress import ShareDone
from melter.errors import BadInput

if TYPE_CHECKING:
    from melter.machine import Machine
    from melter.policy.compare import Comparison, Contender, Cost, Match

SUITES, CONTROLLERS, BREAKDOWNS = ("nominal", "outdoor"), ("policy", "servo"), ("path", "quantity")


@dataclass(frozen=True, kw_only=True)
class Eval(Common):
    """Play policies through a fixed suite of episodes and report their spot error (mm) and the cables' tensions (N).

    Several models, and the servo beside them, play the same episodes and come in one table.
    """

    models: tyro.conf.Positional[tuple[str, ...]] = ()
    """Run folders, bundle folders, policy.safetensors or stable-baselines3 zips."""
    suite: str = "nominal"
    """nominal: the machine as its file says; outdoor: every quantity of the randomisation table varied."""
    controller: str = "policy"
    """policy, or servo: the classical visual servo, alone or as the yardstick of the models given."""
    episodes: int = 200
    """Episodes of 20 s each (1 to 100000)."""
    by: str = "path"
    """Break down by path, or also by quantity: what each randomised quantity costs when it alone varies (mm)."""
    plot: str | None = None
    """Figure to write (.png, .pdf, .svg): distribution of the error, bars by path and by quantity."""
    csv: str | None = None
    """Table to write: one line per contender and episode."""
    limit_rms_mm: float | None = None
    """Exit with 1 unless every model's RMS error is at most this (mm) and none of its episodes was terminated."""
    limit_ratio: float | None = None
    """Exit with 1 unless the upper end of every model's ratio to the servo is at most this."""
    threads: int | None = None
    """Native threads for the simulations. Default: all cores but one."""


def run(argv: list[str]) -> int:
    """Evaluate; return the exit code."""
    options = parse(Eval, argv, "eval")
    _check(options)
    from melter.machine import load_machine
    from melter.policy.compare import disturbances
    from melter.policy.request import default_threads

    machine = load_machine(options.machine)
    contenders = _contenders(options, machine)
    threads = default_threads() if options.threads is None else options.threads
    quantities = disturbances() if options.by == "quantity" else ()
    say(f"{options.suite}: {options.episodes} episodes for {', '.join(one.name for one in contenders)}")
    interrupted = False
    match = _match(contenders, machine, options, threads)
    by_quantity: dict[str, dict[str, Cost]] = {}
    try:
        with ShareDone("eval") as told:
            match.play(options.episodes, lambda share: told(share / (1 + bool(quantities) + len(quantities))))
            if quantities:
                _play_quantities(contenders, machine, options, threads, by_quantity, told)
    except KeyboardInterrupt:
        if not match.played:
            raise
        interrupted = True
    return _tell(options, contenders, match, by_quantity, interrupted)


def _check(options: Eval) -> None:
    require_in("--episodes", options.episodes, 1, 100_000)
    require_in("--seed", options.seed, 0, 2**31)
    if options.threads is not None:
        require_in("--threads", options.threads, 1, 1024)
    for name, value, allowed in (
        ("suite", options.suite, SUITES),
        ("controller", options.controller, CONTROLLERS),
        ("by", options.by, BREAKDOWNS),
    ):
        if value not in allowed:
            raise BadInput(f"--{name} {value}: must be {' or '.join(allowed)}")
    if not options.models and options.controller == "policy":
        raise BadInput("eval: a model is needed, such as runs/ppo-corner8-001, or --controller servo")
    for model in options.models:
        if options.models.count(model) > 1:
            raise BadInput(f"eval: {model} is given more than once")
    if options.limit_rms_mm is not None:
        require_in("--limit-rms-mm", options.limit_rms_mm, 0, 1000, " mm")
    if options.limit_ratio is not None:
        require_in("--limit-ratio", options.limit_ratio, 0, 1000)
        if not options.models or options.controller != "servo":
            raise BadInput(
                f"--limit-ratio {options.limit_ratio:g}: needs a model and --controller servo to compare it with"
            )
    if options.plot is not None:
        require_plot_file(Path(options.plot))
    if options.csv is not None and not Path(options.csv).parent.is_dir():
        raise BadInput(f"--csv {options.csv}: no folder {Path(options.csv).parent}")


def _contenders(options: Eval, machine: Machine) -> list[Contender]:
    from melter.policy.compare import Contender
    from melter.policy.load import load_for
    from melter.policy.servo import Servo

    contenders = [Contender("servo", Servo(machine).act, "servo")] if options.controller == "servo" else []
    for model in options.models:
        policy = load_for(model, machine)
        name = model if model != "servo" else "./servo"
        contenders.append(Contender(name, policy.net.act, model=model, model_sha256=policy.sha256))
    return contenders


def _match(contenders: list[Contender], machine: Machine, options: Eval, threads: int) -> Match:
    from melter.env.scenario import scenario_named
    from melter.policy.compare import Match

    return Match(contenders, machine, scenario_named(options.suite), first=options.seed, threads=threads)


def _play_quantities(
    contenders: list[Contender],
    machine: Machine,
    options: Eval,
    threads: int,
    found: dict[str, dict[str, Cost]],
    told: ShareDone,
) -> None:
    """Fill ``found`` with what each quantity costs each contender, one quantity after the other."""
    from melter.policy.compare import Match, alone, costs, disturbances

    names: list[str | None] = [None, *disturbances()]
    calm = None
    for number, name in enumerate(names, 1):
        match = Match(contenders, machine, alone(name), first=options.seed, threads=threads)
        match.play(options.episodes, lambda share, number=number: told((number + share) / (1 + len(names))))
        if calm is None:
            calm = match.played
        else:
            found[str(name)] = costs(calm, match.played)


def _tell(
    options: Eval,
    contenders: list[Contender],
    match: Match,
    by_quantity: dict[str, dict[str, Cost]],
    interrupted: bool,
) -> int:
    """Write the files, print the result, return the exit code."""
    from melter.policy.compare import comparison, episode_rows

    played = match.played
    models = [one.name for one in contenders if one.controller == "policy"]
    found = comparison(options.suite, played, "servo" if options.controller == "servo" else None, models)
    if options.csv is not None:
        report.write_csv(Path(options.csv), episode_rows(played))
    if options.plot is not None:
        save(report.figure(found, played, by_quantity), Path(options.plot))
    rows = [report.plain_row(one, found, by_quantity) for one in contenders]
    result = report.plain(rows, found)
    emit({**result, "plot": options.plot, "csv": options.csv}, options.json, report.text(found, by_quantity))
    if interrupted:
        say(f"interrupted after {next(iter(played.values())).count} of {options.episodes} episodes for each")
        return 130
    return 0 if _good_enough(options, found, models) else 1


def _good_enough(options: Eval, found: Comparison, models: list[str]) -> bool:
    good = True
    for name in models or list(found.evaluations):
        one = found.evaluations[name]
        if options.limit_rms_mm is not None and (one.rms_mm > options.limit_rms_mm or one.terminated):
            say(
                f"{name}: {one.rms_mm:.3f} mm RMS, {one.terminated} terminated; asked for at most {options.limit_rms_mm:g} mm"
            )
            good = False
        if options.limit_ratio is not None and found.ratios[name].ci[1] > options.limit_ratio:
            low, high = found.ratios[name].ci
            say(f"{name}: {low:.2f} to {high:.2f} of the servo's RMS; asked for at most {options.limit_ratio:g}")
            good = False
    return good
