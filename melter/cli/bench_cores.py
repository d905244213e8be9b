"""``melter bench env --threads 1,2,4`` and ``melter bench cluster``: speed over cores."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melter.cli.common import say
from melter.errors import BadInput

if TYPE_CHECKING:
    from melter.cli.bench import Bench
    from melter.timing import Contender, Row


def over_threads(options: Bench, counts: list[int], rounds: int) -> tuple[dict[str, Any], str]:
    """Measure the native batch on each count of threads; return the result and a text with what is to be expected elsewhere."""
    from melter.cli.curves import scaling_figure
    from melter.cli.plots import require_plot_file, save
    from melter.cluster.scaling import PREDICTED, Scaling, fitted
    from melter.env.contenders import native_contenders

    if options.plot is not None:
        require_plot_file(Path(options.plot))
    if counts[0] != 1:
        raise BadInput(f"--threads {options.threads}: must begin with 1 to fit a curve")
    rows = _measured(native_contenders(options.machine, options.envs, counts, options.seed), options, rounds)
    rates, physics = ([row.rate for row in rows[i : i + len(counts)]] for i in (0, len(counts)))
    one, bare = rows[0], rows[len(counts)]
    alone = max(1 - bare.cpu_us / one.cpu_us, 0.0)
    quiet = Scaling("Amdahl, by processor time", 1e6 / one.cpu_us, alone, 0.0)
    laws = quiet, *fitted(counts, rates)
    if options.plot is not None:
        save(scaling_figure(counts, rates, physics, laws), Path(options.plot))
    result = _result(options, rows, rounds) | {"scaling": [law.table() for law in laws], "outside_mujoco_share": alone}
    lines = [f"{row.name:<44} {row.rate:>10,.0f} {row.unit}" for row in rows]
    lines.append(f"outside MuJoCo, on one thread: {alone:.1%} of the processor time")
    for law in laws:
        told = ", ".join(f"{cores}: {law.rate(cores):,.0f}" for cores in PREDICTED)
        lines.append(
            f"{law.law}: sigma {law.sigma:.3f}, kappa {law.kappa:.5f}; bends at {law.half_cores:.1f} cores; {told} steps/s"
        )
    return result, "\n".join(lines)


def over_workers(options: Bench, counts: list[int], rounds: int) -> tuple[dict[str, Any], str]:
    """Measure workers on Ray, for 1 to as many as there are cores."""
    from melter.cluster.contenders import cluster_bench
    from melter.cluster.ray_link import LOCAL, join, leave
    from melter.machine import load_machine

    machine = load_machine(options.machine)
    free = free_cores()
    most = _workers(options, counts, free)
    wanted = sorted({1, *counts}) if len(counts) > 1 else sorted({1, *(n for n in (2, 4, 8, 16, 32) if n < most), most})
    say(f"bench cluster: preparing {sum(wanted) + wanted[-1]} workers")
    cluster = join(LOCAL, most)
    try:
        bench = cluster_bench(cluster, machine, wanted, options.envs, options.seed)
        rows = _measured(bench.contenders, options, rounds)
        spent = bench.communication()
    finally:
        leave(cluster)
    first = next(row for row in rows if row.name.startswith("Ray, 1 "))
    speed_up = {count: row.rate / first.rate / count for count, row in zip(wanted, rows[1:], strict=False)}
    by_cpu = {count: first.cpu_us / row.cpu_us for count, row in zip(wanted, rows[1:], strict=False)}
    told = {"free_cores": free, "communication": spent}
    told |= {"worker_efficiency": speed_up, "worker_efficiency_by_processor_time": by_cpu}
    result = _result(options, rows, rounds) | told
    lines = [f"{row.name:<44} {row.rate:>10,.0f} {row.unit}" for row in rows]
    lines += [
        f"{count} workers: {count * share:.2f} times one worker, {share:.2f} of {count} (by processor time {by_cpu[count]:.2f})"
        for count, share in speed_up.items()
        if count > 1
    ]
    lines += [
        f"{one['name']}: computing {one['computing_share']:.0%}, communicating {one['communication_share']:.0%}, "
        f"{one['mb_per_s']:.0f} MB/s"
        for one in spent
    ]
    lines += [
        f"{row.name}: {ratio:.1f} × {other}"
        for row in rows
        for other, ratio in row.ratio_to.items()
        if other.startswith("RLlib")
    ]
    return result, "\n".join(lines)


def over_time(options: Bench, counts: list[int], rounds: int) -> tuple[dict[str, Any], str]:
    """Train by one process, by workers and by RLlib for as long each; return error over time, and a text."""
    del rounds
    from melter.cli.curves import convergence_figure
    from melter.cli.plots import require_plot_file, save
    from melter.cluster.convergence import curves
    from melter.cluster.ray_link import library
    from melter.machine import load_machine
    from melter.policy.config import algo_config
    from melter.policy.request import TrainRequest

    library()
    if options.plot is not None:
        require_plot_file(Path(options.plot))
    settings, machine = algo_config("ppo", options.preset), load_machine(options.machine)
    request = TrainRequest(machine=machine, settings=settings, minutes=options.minutes, seed=options.seed)
    workers = _workers(options, counts, free_cores())
    say(f"bench cluster: {options.minutes:g} min each, one after the other")
    found = curves(request, options.machine, workers, lambda text: say(f"bench cluster: {text}"))
    if options.plot is not None:
        save(convergence_figure(found), Path(options.plot))
    lines = [
        f"{curve.name}: " + ", ".join(f"{seconds:.0f} s {rms:.3f} mm" for seconds, rms in curve.points)
        for curve in found
    ]
    return {"bench": options.what, "curves": [curve.table() for curve in found], "plot": options.plot}, "\n".join(lines)


def _workers(options: Bench, counts: list[int], free: int) -> int:
    """Return how many workers at most; say so where more are asked for than cores are free."""
    if options.threads is None:
        return free
    if counts[-1] > free:
        say(f"bench cluster: {counts[-1]} workers on {free} free cores: rates will tell of the other work, too")
    return counts[-1]


def free_cores(watched_s: float = 1.0) -> int:
    """Return how many of the cores that this process may use have nothing to do, at least 1; all where that cannot be told."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    before = _idle_shares(cores)
    time.sleep(watched_s if before else 0)
    after = _idle_shares(cores)
    shares = [(after[core][0] - idle) / max(after[core][1] - all_, 1) for core, (idle, all_) in before.items()]
    return max(round(sum(shares)), 1) if shares else len(cores)


def _idle_shares(cores: set[int]) -> dict[int, tuple[int, int]]:
    """Ticks without work, and all ticks, by core, as Linux counts them; nothing elsewhere."""
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    rows = {line.split()[0]: [int(word) for word in line.split()[1:9]] for line in lines if line.startswith("cpu")}
    return {core: (rows[f"cpu{core}"][3], sum(rows[f"cpu{core}"])) for core in cores if f"cpu{core}" in rows}


def _measured(contenders: list[Contender], options: Bench, rounds: int) -> list[Row]:
    from melter.timing import measure

    return measure(contenders, options.seconds, rounds, lambda text: say(f"bench: {text}"))


def _result(options: Bench, rows: list[Row], rounds: int) -> dict[str, Any]:
    return {
        "bench": options.what,
        "rows": [row.table() for row in rows],
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "seconds": options.seconds,
        "rounds": rounds,
    }
