"""``melter bench``: speed side by side with the peers, in one run."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from melter.cli.common import Common, emit, parse, require_in, say
from melter.errors import BadInput

if TYPE_CHECKING:
    from melter.safety.ticking import TickCost
    from melter.timing import Contender, Row

ROUNDS = 5
PEER = "stable-baselines3's"
"""How the names of rows begin that others are compared with."""


@dataclass(frozen=True, kw_only=True)
class Bench(Common):
    """Measure rates of melter's parts beside their peers, interleaved and repeated in one run."""

    what: Annotated[str, tyro.conf.Positional] = "env"
    """What to measure: env, gate, learner, vision or cluster."""
    envs: int = 256
    """Simulations in the native batch (1 to 65536)."""
    seconds: float = 10.0
    """Time for each row, in seconds (0.05 to 600), in five rounds."""
    threads: str | None = None
    """Native threads; with "cluster": workers. Several, such as 1,2,4, give a curve, with "env" fitted to tell what 16, 60 and 192 cores
    would give. Default: all the cores this process may use; with "cluster": those that are free now."""
    plot: str | None = None
    """With "env" and several --threads, or "cluster" and --convergence: image file that the curve is drawn into (png, svg or pdf)."""
    convergence: bool = False
    """With "cluster": train for --minutes in one process on one core, then on workers, then with RLlib where the environment variable
    MELTER_RLLIB_PYTHON names a Python that has it, and tell the error over time."""
    minutes: float = 3.0
    """With --convergence: training time of each (min, 0.1 to 600)."""
    preset: str = "default"
    """With --convergence: settings of melter's PPO; "scratch" learns from the reward alone, as RLlib does."""
    fuzz: float = 0.0
    """With "gate": run this many fuzzed ticks first (0 to 1e10), checked by code of its own."""
    to_mm: float = 0.3
    """With "learner" and --to-minutes: nominal RMS error to be reached (mm)."""
    to_minutes: float = 0.0
    """With "learner": also time each PPO until it reaches --to-mm, for so long at most (min, 0 to 600); 0: do not."""
    workers: int = 16
    """Environments of stable-baselines3's vector environments (1 to 256)."""


def run(argv: list[str]) -> int:
    """Measure, print the rows and return 0."""
    options = parse(Bench, argv, "bench")
    known = (*BENCHES, "cluster")
    if options.what not in known:
        near = difflib.get_close_matches(options.what, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise BadInput(f"bench {options.what}: unknown, must be one of {', '.join(known)}{hint}")
    require_in("--seconds", options.seconds, 0.05, 600.0, " s")
    require_in("--envs", options.envs, 1, 65536)
    require_in("--fuzz", options.fuzz, 0, 1e10)
    require_in("--workers", options.workers, 1, 256)
    require_in("--to-mm", options.to_mm, 0.001, 1000, " mm")
    require_in("--to-minutes", options.to_minutes, 0, 600, " min")
    counts = thread_counts(options.threads, _cores())
    require_in("--minutes", options.minutes, 0.1, 600, " min")
    if options.convergence and options.what != "cluster":
        raise BadInput("--convergence: goes with bench cluster only")
    if options.plot is not None and not options.convergence and (options.what != "env" or len(counts) < 2):
        raise BadInput(f"--plot {options.plot}: goes with bench env and several --threads, or with --convergence, only")
    require_in("--seed", options.seed, 0, 2**31 - 1)
    if options.what == "cluster" or len(counts) > 1:
        return _curve(options, counts)
    from melter.timing import measure

    say(f"bench {options.what}: preparing")
    rows = measure(BENCHES[options.what](options), options.seconds, ROUNDS, lambda text: say(f"bench: {text}"))
    result: dict[str, Any] = {
        "bench": options.what,
        "rows": [row.table() for row in rows],
        "cores": _cores(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "seconds": options.seconds,
        "rounds": ROUNDS,
    }
    text = _text(rows)
    if options.what == "env":
        from melter.env.contenders import memory_per_simulation_bytes

        size = result["memory_per_simulation_bytes"] = memory_per_simulation_bytes(options.machine, options.envs)
        text += f"\nmemory per simulation beside MuJoCo's own: {size / 1e3:.1f} kB"
    if options.what == "learner" and options.to_minutes > 0:
        reached = result["to_target"] = _to_target(options)
        for one in reached:
            took = "not within the time" if one["seconds"] is None else f"{one['seconds']:.0f} s"
            text += f"\n{one['name']}: {took} to {options.to_mm:g} mm nominal (last {one['last_rms_mm']:.2f} mm)"
    emit(result, options.json, text)
    return 0


def _curve(options: Bench, counts: list[int]) -> int:
    """Speed over cores: threads of one process, or workers of a cluster."""
    from melter.cli import bench_cores

    measured = {"env": bench_cores.over_threads, "cluster": bench_cores.over_workers}
    if options.what not in measured:
        raise BadInput(f"--threads {options.threads}: bench {options.what} takes one number")
    if options.convergence:
        measured["cluster"] = bench_cores.over_time
    result, text = measured[options.what](options, counts, ROUNDS)
    emit(result, options.json, text)
    return 0


def thread_counts(words: str | None, cores: int) -> list[int]:
    """Return the counts that ``--threads`` names, ascending; raise BadInput for anything but whole numbers from 1 to 1024."""
    if words is None:
        return [cores]
    counts: list[int] = []
    for word in words.split(","):
        if not word.strip().isdigit() or not 1 <= int(word) <= 1024:
            raise BadInput(f"--threads {words}: must be whole numbers from 1 to 1024, such as 4 or 1,2,4")
        counts.append(int(word))
    return sorted(set(counts))


def _env(options: Bench) -> list[Contender]:
    from melter.env.contenders import env_contenders

    return env_contenders(options.machine, options.envs, _threads(options), options.workers, options.seed)


def _gate(options: Bench) -> list[Contender]:
    """The limiter on a batch, and one machine's gate: measure, decide, approve."""
    import numpy as np

    from melter.machine import WINCH_COUNT, load_machine
    from melter.safety.limiter import limit_command
    from melter.safety.ticking import Ticking
    from melter.timing import Contender

    machine = load_machine(options.machine)
    rng, ticking = np.random.default_rng(options.seed), Ticking(machine)
    limits = ticking.gate.limits
    wanted = rng.uniform(-1, 1, (16, options.envs, WINCH_COUNT)) * machine.limits.speed_normal_m_s
    previous = np.zeros((options.envs, WINCH_COUNT), dtype=np.int64)
    length_um = limits.um(np.broadcast_to(ticking.gate.park_lengths_m, previous.shape))
    _say_tick(ticking.measure(), limits.period_s)
    if options.fuzz:
        _fuzz(options)

    def batch() -> int:
        for request in wanted:
            limit_command(request, previous, length_um, None, limits)
        return len(wanted) * options.envs

    def single() -> int:
        for _ in range(64):
            ticking.tick()
        return 64

    return [
        Contender(f"limit_command, batch of {options.envs}", "commands/s", batch),
        Contender("Gate.approve, one machine", "approved commands/s", single),
    ]


def _say_tick(cost: TickCost, period_s: float) -> None:
    say(
        f"bench gate: one tick: median {cost.median_s * 1e6:.1f} us, 99 % within {cost.p99_s * 1e6:.0f} us, "
        f"{cost.median_s / period_s:.2%} of the control period; memory grown over {cost.ticks} ticks: {cost.grown_bytes} bytes"
    )


def _fuzz(options: Bench) -> None:
    """Fuzzed ticks through the limiter; what was checked by what, on stderr; a broken limit is an answer of no."""
    import numpy as np

    from melter.errors import MelterError
    from melter.machine import load_machine
    from melter.safety.fuzz import fuzz

    shown = -1

    def progress(done: float, left_s: float) -> None:
        nonlocal shown
        if int(done * 20) > shown:
            shown = int(done * 20)
            say(f"bench gate: fuzzed {min(done, 1):.0%}, about {left_s:.0f} s left")

    result = fuzz(load_machine(options.machine), int(options.fuzz), np.random.default_rng(options.seed), progress)
    say(
        f"bench gate: {result.ticks:,} fuzzed ticks of eight winches in {result.seconds:.0f} s, {result.refused:,} refused"
    )
    for name, number in result.checked.items():
        say(f"  {name:<28} {number:>13,} ticks checked, {result.broken[name]} broken")
    if result.first is not None:
        raise MelterError(f"bench gate: a limit was broken: {result.first}")


def _learner(options: Bench) -> list[Contender]:
    """PPO end to end, and gradient steps of TD3 and SAC, beside stable-baselines3's."""
    from melter.machine import load_machine
    from melter.policy.contenders import learner_contenders

    machine = load_machine(options.machine)
    return learner_contenders(machine, options.envs, _threads(options), options.workers, options.seed)


def _to_target(options: Bench) -> list[dict[str, Any]]:
    """How long each PPO takes to the target."""
    from melter.machine import load_machine
    from melter.policy.contenders import seconds_to_target

    say(f"bench learner: time to {options.to_mm} mm, up to {2 * options.to_minutes:g} min")
    machine = load_machine(options.machine)
    found = seconds_to_target(
        machine, options.to_mm, options.to_minutes, _threads(options), options.workers, options.seed
    )
    return [{"name": name, "seconds": seconds, "last_rms_mm": last} for name, seconds, last in found]


def _vision(options: Bench) -> list[Contender]:
    """The tracker on rendered frames of the machine file's own camera, at its own size."""
    import numpy as np

    from melter.geometry.pose import rotation_facing, sun_direction_world, work_centre_world_m
    from melter.machine import load_machine
    from melter.timing import Contender
    from melter.vision.scene import SceneRenderer
    from melter.vision.tracker import PatchTracker

    machine = load_machine(options.machine)
    scene = SceneRenderer(machine, np.random.default_rng(options.seed))
    sun = sun_direction_world(machine.sun.zenith_rad, machine.sun.azimuth_rad)
    rotation, moments, power_w = rotation_facing(sun), np.array([5e-5, 0.0, 5e-5]), 500.0
    exposure = scene.exposure_for(power_w / (2 * np.pi * 5e-5))

    def frame(x_m: float, light: float) -> Any:
        centre = work_centre_world_m((x_m, 0.0), sun, machine.lens.focal_length_m, machine.sand.height_m)
        return scene.render(centre, rotation, (x_m, 0.0), moments, light, exposure=exposure)

    parked = scene.render(machine.park.lens_centre_world_m, np.eye(3), (0.0, 0.0), (0.02, 0.0, 0.04), power_w)
    frames = [frame(0.01 * i, power_w) for i in range(8)]
    tracker = PatchTracker(machine, scene.calibration)
    tracker.set_reference(parked)
    number = 0

    def track() -> int:
        nonlocal number
        number += 1
        tracker.track(frames[number % len(frames)], number / machine.camera.rate_hz, number)
        return 1

    def render() -> int:
        frame(0.0, power_w)
        return 1

    width, height = scene.calibration.image_size_px
    return [
        Contender(f"PatchTracker, {width}x{height} px", "frames/s", track),
        Contender(f"SceneRenderer, {width}x{height} px", "rendered frames/s", render),
    ]


BENCHES: dict[str, Callable[[Bench], list[Contender]]] = {
    "env": _env,
    "gate": _gate,
    "learner": _learner,
    "vision": _vision,
}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads(options: Bench) -> int:
    return thread_counts(options.threads, _cores())[0]


def _text(rows: list[Row]) -> str:
    width = max(len(row.name) for row in rows)
    lines = [f"{row.name:<{width}}  {row.rate:>12,.0f} {row.unit:<16} {row.cpu_us:>9.2f} µs processor" for row in rows]
    ratios = [
        f"{row.name}: {ratio:.2f} × {other}"
        + (f", {row.cpu_ratio_to[other]:.2f} × by processor time" if other in row.cpu_ratio_to else "")
        for row in rows
        for other, ratio in row.ratio_to.items()
        if row is rows[0] or (other.startswith(PEER) and not row.name.startswith(PEER))
    ]
    return "\n".join([*lines, *ratios])
