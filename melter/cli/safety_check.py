"""``melter safety-check``: what is proven, violated and open for a model on a machine."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from melter.cli.common import Common, emit, parse, require_in, say
from melter.errors import BadInput, ModelFileError
from melter.machine import Machine, load_machine
from melter.safety.bundle import LoadedPolicy, write_beside
from melter.safety.check import Visited, begin_proof, check
from melter.safety.claims import Claim, Report, certify, read_counterexample
from melter.safety.drill import COOL_ABOVE_S, COOL_WITHIN_S, DarkDrill
from melter.safety.limiter import TickLimits

_EPISODES, _SECONDS = 64, 10.0


@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """Run a model through the motors' limits: what is proven, what is violated, what is open.

    Exit 0: the layer is proven for this machine and no limit that the model itself must keep is violated. 1: not so.
    """

    model: Annotated[str, tyro.conf.Positional]
    """Run folder, bundle folder, policy.safetensors, or a stable-baselines3 zip. Nothing in it is executed."""
    report: str = ""
    """Write a self-contained HTML page with plots to this file."""
    quick: bool = False
    """Search less (at most about 10 s)."""
    faults: int | None = None
    """Machines of the randomised simulator that go dark with a fault each (4 to 100000). Default: 240, with --quick 12."""
    replay: str = ""
    """Put the observations of a counterexample file to the model again; exit 1 if it still answers so."""


def run(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    options = parse(Options, argv, "safety-check")
    machine = load_machine(options.machine)
    policy = _policy(options.model, machine)
    if options.replay:
        return _replay(policy, options)
    if options.report and not Path(options.report).absolute().parent.is_dir():
        raise BadInput(f"--report {options.report}: its folder does not exist")
    if options.faults is not None:
        require_in("--faults", options.faults, 4, 100_000)
    from melter.observation import ObservationBuilder

    ahead = begin_proof(machine, quick=options.quick)
    say("simulating the policy, and proving the layer beside it")
    visited = _visit(policy, machine, options)
    high = ObservationBuilder(machine).high.astype(float)
    dark = _dark(policy, machine, options)
    report = check(
        policy,
        machine,
        high,
        rng=np.random.default_rng(options.seed),
        visited=visited,
        dark=dark,
        quick=options.quick,
        ahead=ahead,
        progress=say,
    )
    files = _write_files(report, policy, options)
    emit(_table(report, files), options.json, _text(report, files))
    return 0 if report.verdict == "pass" else 1


def _policy(model: str, machine: Machine) -> LoadedPolicy:
    from melter.policy.load import load_for

    return load_for(model, machine)


def _replay(policy: LoadedPolicy, options: Options) -> int:
    example, model_sha256 = read_counterexample(options.replay)
    observations = np.array(example.observations, dtype=np.float32)
    if observations.shape[1] != policy.net.sizes[0]:
        raise ModelFileError(
            f"{options.replay}: {observations.shape[1]} observations, the model takes {policy.net.sizes[0]}"
        )
    answers = policy.net.act(observations)
    same = bool(np.allclose(answers, np.array(example.actions), atol=1e-5, equal_nan=True))
    result = asdict(example) | {"reproduced": same, "same_model": model_sha256 == policy.sha256, "actions_now": answers}
    said = "the model answers so again" if same else "the model answers otherwise now"
    text = f"{example.claim}: {example.value:.6g} {example.unit}, limit {example.limit:g}: {said}\n{answers.round(4)}"
    emit(result, options.json, text)
    return 1 if same else 0


def _dark(policy: LoadedPolicy, machine: Machine, options: Options) -> DarkDrill:
    """Strike machines of the randomised simulator with faults while the policy drives them, and go dark."""
    from melter.policy.dark import dark_drill

    count = options.faults if options.faults is not None else (12 if options.quick else 240)
    say(f"going dark in the randomised simulator: {count} machines, one fault each")
    rng = np.random.default_rng(options.seed)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return dark_drill(machine, policy.net.act, count, rng, threads=min(threads, 2))


def _visit(policy: LoadedPolicy, machine: Machine, options: Options) -> Visited:
    """Let the policy drive the nominal machine, and keep what it saw."""
    from melter.env.batch import ENDINGS, SandMelterBatch
    from melter.env.scenario import scenario_named
    from melter.geometry.pose import sun_direction_world
    from melter.safety.beam import KeepIn

    count = 8 if options.quick else _EPISODES
    batch = SandMelterBatch(machine, count, scenario_named("nominal"), 1)
    batch.reset(np.arange(count), np.full(count, options.seed), np.arange(count))
    sun = sun_direction_world(machine.sun.zenith_rad, machine.sun.azimuth_rad)
    keep_in, limits = KeepIn(machine), batch.limits
    ticks = min(batch.horizon - 1, round(_SECONDS * machine.control.rate_hz))
    seen, lengths, speeds = [], [], []
    running, outside = np.ones(count, dtype=bool), np.zeros(count, dtype=bool)
    first, first_ended, ended = None, None, dict[str, int]()
    low, high, steepest = np.inf, -np.inf, (np.zeros((2, policy.net.sizes[0]), dtype=np.float32), 0.0)
    changed, total = {"power": 0, "acceleration": 0, "total power": 0, "length": 0}, 0
    before = action_before = None
    for tick in range(ticks):
        observation = batch.observe()
        action = policy.net.act(observation)
        previous = batch.command_um.copy()
        wanted = np.rint(action * limits.speed_normal_um)
        if tick % 10 == 0:
            seen.append(observation[running][:8].copy())
            lengths.append(batch.counted_m[running][:1].copy())
            speeds.append(previous[running][:1])
        if before is not None and action_before is not None and running.any():
            change = np.abs(action - action_before).max(axis=1) * running
            row = int(np.argmax(change))
            if change[row] > steepest[1]:
                steepest = (np.stack([before[row], observation[row]]), float(change[row]))
        before, action_before = observation.copy(), action
        _, state = batch.step(np.where(running[:, None], action, 0.0))
        different = (np.abs(wanted - batch.command_um) > 1) & running[:, None]
        for name, number in _stages(different, wanted, previous, limits).items():
            changed[name] += number
        total += int(running.sum()) * 8
        left = running & np.array([not keep_in.contains(spot) for spot in state.spot_world_m])
        if left.any() and first is None:
            first = observation[left][:1].copy()
        outside |= left
        low, high = min(low, float(state.tensions_n[running].min())), max(high, float(state.tensions_n[running].max()))
        over = running & (state.ending > 1)
        for name in np.array(ENDINGS)[state.ending[over]].tolist():
            ended[name] = ended.get(name, 0) + 1
        if over.any() and first_ended is None:
            first_ended = observation[over][:1].copy()
        running &= (state.ending == 0) & ~left
        if not running.any():
            break
    held = np.concatenate(lengths)
    return Visited(
        observations=np.concatenate(seen),
        lengths_m=held,
        speeds_um=np.concatenate(speeds),
        sun_world=np.tile(sun, (len(held), 1)),
        steepest=steepest,
        episodes=count,
        outside=int(outside.sum()),
        first_outside=first,
        tension_n=(low, high),
        ended=ended,
        first_ended=first_ended,
        interventions={name: number / max(total, 1) for name, number in changed.items()}
        | {"beam": _beam(machine, held[:200], sun)},
    )


def _stages(different: Any, wanted: Any, previous: Any, limits: TickLimits) -> dict[str, int]:
    """How many of the winch commands in ``different`` each stage changed: the first that explains it."""
    pull = limits.tension_max_n
    power = different & (np.abs(wanted) * pull > limits.power_n_um)
    rate = different & ~power & (np.abs(wanted - previous) > limits.acceleration_um)
    total = (np.abs(wanted).sum(axis=1, keepdims=True) * pull > limits.power_total_n_um) & different & ~power & ~rate
    length = different & ~power & ~rate & ~total
    named = {"power": power, "acceleration": rate, "total power": total, "length": length}
    return {name: int(where.sum()) for name, where in named.items()}


def _beam(machine: Machine, lengths_m: Any, sun: Any) -> float:
    """Share of (n, 8) cable lengths in which the beam is not what it may be, by the cable lengths alone."""
    from melter.safety.beam import Beam, KeepIn

    beam, wrong = Beam(machine, KeepIn(machine)), 0
    beam.point_at(sun)
    for row in lengths_m:
        beam.forget()
        wrong += beam.look(row, 0.0) is not None or beam.stop_outside(row.tolist(), [0] * len(row)) is not None
    return wrong / max(len(lengths_m), 1)


def _write_files(report: Report, policy: LoadedPolicy, options: Options) -> dict[str, Any]:
    """Counterexamples and the certificate go beside the model, where that can be written; the page where asked."""
    folder = policy.path.parent
    files: dict[str, Any] = {"counterexamples": {}, "certificate": None, "report": options.report or None}
    if options.report:
        from melter.safety.report import page

        write_beside(Path(options.report), page(report).encode())
    if not os.access(folder, os.W_OK):
        say(f"{folder} cannot be written: no counterexample files, no certificate")
        return files
    for claim in report.claims:
        if claim.counterexample is not None:
            name = re.sub(r"[^a-z0-9]+", "-", claim.name.lower()).strip("-")
            path = folder / f"counterexample-{name}.json"
            claim.counterexample.write(path, report.model_sha256, report.machine_sha256)
            files["counterexamples"][_key(claim)] = str(path)
    if report.verdict == "pass":
        files["certificate"] = str(certify(report, policy, folder))
    return files


def _key(claim: Claim) -> str:
    return f"{claim.section}: {claim.name}"


def _table(report: Report, files: dict[str, Any]) -> dict[str, Any]:
    claims = [
        {
            "name": claim.name,
            "section": claim.section,
            "status": claim.status,
            "bound": claim.bound,
            "limit": claim.limit,
            "unit": claim.unit,
            "best_found": claim.best,
            "required": claim.required,
            "method": claim.method,
            "counterexample": files["counterexamples"].get(_key(claim)),
        }
        for claim in report.claims
    ]
    return {
        "verdict": report.verdict,
        "claims": claims,
        "model_sha256": report.model_sha256,
        "machine_sha256": report.machine_sha256,
        "model": report.model,
        "machine": report.machine,
        "proof": asdict(report.proof),
        "interventions": report.interventions,
        "dark": None if report.dark is None else _dark_table(report.dark),
        "certificate": files["certificate"],
        "report": files["report"],
        "seconds": report.seconds,
    }


def _dark_table(dark: DarkDrill) -> list[dict[str, Any]]:
    """One row per fault: how many, how long they took, how many left the bed."""
    rows: list[dict[str, Any]] = []
    for fault in sorted(set(dark.fault.tolist())):
        here = (dark.fault == fault) & dark.held
        if not here.any():
            continue
        rows.append(
            {
                "fault": fault,
                "machines": int(here.sum()),
                "melting_s_median": float(np.median(dark.melting_s[here])),
                "melting_s_max": float(dark.melting_s[here].max()),
                "below_10_kw_m2_s_median": float(np.median(dark.bright_s[here])),
                "below_10_kw_m2_s_max": float(dark.bright_s[here].max()),
                "late_melting": int((dark.melting_s[here] > COOL_WITHIN_S).sum()),
                "late_bright": int((dark.bright_s[here] > COOL_ABOVE_S).sum()),
                "outside": int(dark.outside[here].sum()),
            }
        )
    return rows


def _text(report: Report, files: dict[str, Any]) -> str:
    lines = [
        f"{report.model}  sha256 {report.model_sha256[:16]}…",
        f"machine {report.machine}  sha256 {report.machine_sha256[:16]}…",
    ]
    section = ""
    for claim in report.claims:
        if claim.section != section:
            section = claim.section
            lines += ["", section]
        bound = "" if claim.bound is None else f"bound {claim.bound:.4g}"
        best = "" if claim.best is None else f"found {claim.best:.4g}"
        limit = "" if claim.limit is None else f"limit {claim.limit:.4g} {claim.unit}"
        mark = "" if claim.required else " (reported)"
        lines.append(f"  {claim.status:<10}  {claim.name + mark:<52.52}  {bound:<14} {best:<14} {limit}")
        if (path := files["counterexamples"].get(_key(claim))) is not None:
            lines.append(f"              counterexample: {path}")
    proof = report.proof
    lines += [
        "",
        f"proof: {proof.states:,} states, {proof.transitions:,} transitions, {proof.violations} violations, "
        f"{proof.empty_intervals} empty intervals, {proof.seconds:.1f} s of one core",
    ]
    stages = ", ".join(f"{name} {share:.2%}" for name, share in report.interventions.items())
    lines += [f"the layer stepped in (share of winch commands): {stages}" if stages else ""]
    lines += [
        f"certificate: {files['certificate']}" if files["certificate"] else "no certificate",
        f"verdict: {report.verdict}",
    ]
    return "\n".join(lines)
