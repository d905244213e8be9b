"""``melter eval``: how well a policy keeps the spot on the path."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from melter.cli.common import Common, emit, parse, require_in, say
from melter.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Eval(Common):
    """Play a policy through a fixed suite of episodes and report its spot error (mm) and the cables' tensions (N)."""

    model: tyro.conf.Positional[str | None] = None
    """Run folder, bundle folder, policy.safetensors or stable-baselines3 zip."""
    suite: str = "nominal"
    """nominal: the machine as its file says; outdoor: every quantity of the randomisation table varied."""
    controller: str = "policy"
    """policy, or servo: the classical visual servo, which needs no model."""
    episodes: int = 200
    """Episodes of 20 s each."""
    threads: int | None = None
    """Native threads for the simulations. Default: all cores but one."""


def run(argv: list[str]) -> int:
    """Evaluate; return the exit code."""
    options = parse(Eval, argv, "eval")
    require_in("--episodes", options.episodes, 1, 1_000_000)
    require_in("--seed", options.seed, 0, 2**31)
    if options.threads is not None:
        require_in("--threads", options.threads, 1, 1024)
    if options.suite not in ("nominal", "outdoor"):
        raise BadInput(f"--suite {options.suite}: must be nominal or outdoor")
    if options.controller not in ("policy", "servo"):
        raise BadInput(f"--controller {options.controller}: must be policy or servo")
    if (options.model is None) == (options.controller == "policy"):
        raise BadInput("eval: a model is needed, such as runs/ppo-corner8-001, or --controller servo and none")
    from melter.machine import load_machine
    from melter.policy.evaluate import evaluate
    from melter.policy.load import load_for
    from melter.policy.request import default_threads
    from melter.policy.servo import Servo

    machine = load_machine(options.machine)
    if options.model is None:
        act, sha256 = Servo(machine).act, None
    else:
        policy = load_for(options.model, machine)
        act, sha256 = policy.net.act, policy.sha256
    say(f"{options.suite}: {options.episodes} episodes")
    threads = default_threads() if options.threads is None else options.threads
    result = evaluate(act, machine, options.suite, options.episodes, first=options.seed, threads=threads)
    emit(
        {"model": options.model, "controller": options.controller, "model_sha256": sha256, **result.table()},
        options.json,
        result.text(),
    )
    return 0
