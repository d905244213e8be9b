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
    from melter.timing import Contender, Row

ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Bench(Common):
    """Measure rates of melter's parts beside their peers, interleaved and repeated in one run."""

    what: Annotated[str, tyro.conf.Positional] = "env"
    """What to measure: env, gate or vision."""
    envs: int = 256
    """Simulations in the native batch (1 to 65536)."""
    seconds: float = 10.0
    """Time for each row, in seconds (0.05 to 600), in five rounds."""
    threads: int | None = None
    """Native threads. Default: all the cores this process may use."""
    workers: int = 16
    """Environments of stable-baselines3's vector environments (1 to 256)."""


def run(argv: list[str]) -> int:
    """Measure, print the rows and return 0."""
    options = parse(Bench, argv, "bench")
    if options.what not in BENCHES:
        near = difflib.get_close_matches(options.what, BENCHES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise BadInput(f"bench {options.what}: unknown, must be one of {', '.join(BENCHES)}{hint}")
    require_in("--seconds", options.seconds, 0.05, 600.0, " s")
    require_in("--envs", options.envs, 1, 65536)
    require_in("--workers", options.workers, 1, 256)
    require_in("--threads", _threads(options), 1, 1024)
    require_in("--seed", options.seed, 0, 2**31 - 1)
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
    emit(result, options.json, _text(rows))
    return 0


def _env(options: Bench) -> list[Contender]:
    from melter.env.contenders import env_contenders

    return env_contenders(options.machine, options.envs, _threads(options), options.workers, options.seed)


def _gate(options: Bench) -> list[Contender]:
    """The limiter on a batch, and one machine's gate: measure, decide, approve."""
    import numpy as np

    from melter.machine import WINCH_COUNT, load_machine
    from melter.safety.gate import Gate
    from melter.safety.limiter import limit_command
    from melter.timing import Contender

    machine = load_machine(options.machine)
    rng, gate = np.random.default_rng(options.seed), Gate(machine)
    limits, period_s = gate.limits, gate.limits.period_s
    wanted = rng.uniform(-1, 1, (16, options.envs, WINCH_COUNT)) * machine.limits.speed_normal_m_s
    previous = np.zeros((options.envs, WINCH_COUNT), dtype=np.int64)
    length_um = limits.um(np.broadcast_to(gate.park_lengths_m, previous.shape))
    lengths_m, now_s = gate.park_lengths_m.copy(), 0.0
    gate.arm(now_s, lengths_m)

    def batch() -> int:
        for request in wanted:
            limit_command(request, previous, length_um, None, limits)
        return len(wanted) * options.envs

    def single() -> int:
        nonlocal lengths_m, now_s
        for i in range(64):
            now_s += period_s
            pull = -0.02 if i < 32 else 0.02
            command = gate.approve(np.full(WINCH_COUNT, pull), lengths_m, now_s, measured_host_s=now_s)
            lengths_m = lengths_m + command.counts_um * 1e-6
        return 64

    return [
        Contender(f"limit_command, batch of {options.envs}", "commands/s", batch),
        Contender("Gate.approve, one machine", "approved commands/s", single),
    ]


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


BENCHES: dict[str, Callable[[Bench], list[Contender]]] = {"env": _env, "gate": _gate, "vision": _vision}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads(options: Bench) -> int:
    return _cores() if options.threads is None else options.threads


def _text(rows: list[Row]) -> str:
    width = max(len(row.name) for row in rows)
    lines = [f"{row.name:<{width}}  {row.rate:>12,.0f} {row.unit:<16} {row.cpu_us:>9.2f} µs processor" for row in rows]
    first = rows[0]
    return "\n".join([*lines, *(f"{first.name}: {ratio:.2f} × {name}" for name, ratio in first.ratio_to.items())])
