"""The safety check: prove the layer, bound and attack the policy.

The layer's limits are proven exhaustively on the functions that ship. A policy is not trusted: what bounds
can show of it is shown over its whole observation box, and the rest is searched for counterexamples.
Simulated rollouts are handed in, so that nothing here needs a simulator.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from melter.errors import CommandRefused
from melter.geometry.pose import sun_direction_world
from melter.machine import WINCH_COUNT, Machine
from melter.safety.attack import Worst, worst_actions
from melter.safety.bounds import OutputBounds, bound_outputs, require_sound
from melter.safety.bundle import LoadedPolicy
from melter.safety.claims import Claim, Counterexample, Report, as_rows
from melter.safety.dark_claims import dynamic_claims, kinematic_claims
from melter.safety.drill import DarkDrill, Drill, run_drill, work_states
from melter.safety.gate import Gate
from melter.safety.limiter import Counts, TickLimits, limit_command
from melter.safety.park import park_claims, park_light
from melter.safety.proof import MOST_STATES, ProofAhead, ProofResult, prove

Array = NDArray[np.float64]
Observations = NDArray[np.float32]

QUICK_STATES = 1 << 29


@dataclass(frozen=True, eq=False)
class Visited:
    """What a policy did in simulation, behind the layer."""

    observations: Observations
    """(n, obs) some of the observations it saw."""
    lengths_m: Array
    """(m, 8) cable lengths of some states on the way."""
    speeds_um: Counts
    """(m, 8) cable speeds there, micrometres per period."""
    sun_world: Array
    """(m, 3)"""
    steepest: tuple[Observations, float]
    """(2, obs) the two consecutive observations with the largest change of action, and that change (1: full speed)."""
    episodes: int
    outside: int
    """Episodes in which the spot left the keep-in polygon."""
    first_outside: Observations | None
    """(1, obs) what the policy saw when that first happened."""
    tension_n: tuple[float, float]
    """Lowest and highest."""
    ended: dict[str, int] = field(default_factory=dict[str, int])
    """Episodes that ended before their time, by what ended them."""
    first_ended: Observations | None = None
    """(1, obs) what the policy saw before that first happened."""
    interventions: dict[str, float] = field(default_factory=dict[str, float])
    """Share of winch commands changed by each stage."""


def begin_proof(machine: Machine, *, quick: bool = False) -> ProofAhead:
    """Begin the proof of ``machine``'s limits beside whatever else is to be done; for :func:`check`."""
    limits = TickLimits.from_machine(machine)
    return ProofAhead(functools.partial(prove, limits, most_states=QUICK_STATES if quick else MOST_STATES))


def check(
    policy: LoadedPolicy,
    machine: Machine,
    observation_high: Array,
    *,
    rng: np.random.Generator,
    visited: Visited | None = None,
    dark: DarkDrill | None = None,
    quick: bool = False,
    ahead: ProofAhead | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Return what holds of ``policy`` on ``machine``.

    ``observation_high``: (obs,) observations lie within plus and minus this. ``visited``: rollouts, if any.
    ``dark``: what going dark gave in a simulator, if it was tried. ``ahead``: the proof, where it has been begun already
    (:func:`begin_proof`).
    """
    started_s = time.monotonic()
    limits = TickLimits.from_machine(machine)
    progress("going dark")
    drill = _drill(machine, visited, 3 if quick else 48, rng)
    progress("bounding and attacking the policy")
    high = np.asarray(observation_high, dtype=float)
    bounds = bound_outputs(policy.net, -high, high)
    samples = rng.uniform(-high, high, (10_000, len(high))).astype(np.float32)
    require_sound(policy.net, bounds, samples)
    seen = None if visited is None else visited.observations
    steps, count = (30, 5_000) if quick else (80, 50_000)
    worst = worst_actions(policy.net, bounds, -high, high, rng, samples=count, steps=steps, visited=seen)
    require_sound(policy.net, bounds, np.concatenate([worst.highest, worst.lowest]))
    progress("proving the layer, every state of a winch")
    proof = (ahead or begin_proof(machine, quick=quick)).result()
    claims = [*_layer(machine, limits, proof, drill), *_raw(policy, machine, bounds, worst, high, visited)]
    claims += [] if visited is None else _behind(machine, visited)
    claims += [] if dark is None else dynamic_claims(dark)
    claims += park_claims(machine, park_light(machine, quick=quick))
    seconds = time.monotonic() - started_s
    stages = {} if visited is None else visited.interventions
    return Report(
        str(policy.path), policy.sha256, machine.name, machine.sha256, tuple(claims), proof, drill, stages, seconds,
        dark=dark, speeds=_speeds(machine, worst, visited),
    )  # fmt: skip


def _drill(machine: Machine, visited: Visited | None, most: int, rng: np.random.Generator) -> Drill:
    """Corners and middle of the bed under the machine's sun, and states that the policy visited."""
    half = np.array(machine.bed.size_m) / 2
    spots = half * np.array([(0, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)], dtype=float)
    sun = sun_direction_world(machine.sun.zenith_rad, machine.sun.azimuth_rad)
    lengths, suns = work_states(machine, spots, sun), np.tile(sun, (len(spots), 1))
    speeds = np.zeros((len(spots), WINCH_COUNT), dtype=np.int64)
    if visited is not None and len(visited.lengths_m):
        chosen = rng.permutation(len(visited.lengths_m))[:most]
        lengths = np.concatenate([lengths, visited.lengths_m[chosen]])
        suns = np.concatenate([suns, visited.sun_world[chosen]])
        speeds = np.concatenate([speeds, visited.speeds_um[chosen]])
    return run_drill(machine, lengths, suns, speeds)


def _layer(machine: Machine, limits: TickLimits, proof: ProofResult, drill: Drill) -> list[Claim]:
    named = machine.limits
    to_m_s = 1 / (limits.period_s * 1e6)
    how = f"every state of a winch: {proof.states} states, {proof.transitions} transitions, both ends of the cable"
    if proof.room_step_um > 1:
        how = f"every {proof.room_step_um} um of room only: {proof.states} states"
    status = "proven" if proof.proven else ("falsified" if proof.counterexample else "not proven")
    method = how + (f"; {proof.counterexample}" if proof.counterexample else "")
    speed, acceleration = limits.speed_max_um * to_m_s, limits.acceleration_um * to_m_s / limits.period_s
    length = limits.length_max_um * 1e-6
    claims = [
        Claim("cable speed", "layer", status, speed, named.speed_max_m_s, "m/s", method),
        Claim("cable acceleration", "layer", status, acceleration, named.acceleration_max_m_s2, "m/s²", method),
        Claim("cable length", "layer", status, length, named.cable_length_max_m, "m", method),
        Claim(
            "an allowed speed always exists",
            "layer",
            status,
            float(proof.empty_intervals),
            0.0,
            "empty intervals",
            method,
        ),
        _power(machine, limits),
        _together(machine, limits),
        _refuses(machine),
    ]
    claims += kinematic_claims(drill)
    return claims


def _power(machine: Machine, limits: TickLimits) -> Claim:
    """Power from every steady speed under tensions up to the trip, through the shipped limiter."""
    speeds = np.arange(-limits.speed_max_um, limits.speed_max_um + 1, dtype=np.int64).reshape(-1, 1, 1)
    tensions = np.linspace(1, machine.limits.tension_trip_n, 8 * WINCH_COUNT).reshape(1, -1, WINCH_COUNT)
    middle = np.full((1, 1, WINCH_COUNT), (limits.length_min_um + limits.length_max_um) // 2)
    worst = 0.0
    for sign in (1.0, -1.0):
        out = limit_command(np.asarray(sign * 10.0), speeds, middle, tensions, limits, speed_um=limits.speed_max_um)
        braked = np.sign(speeds) * np.maximum(np.abs(speeds) - limits.acceleration_um, 0)
        power = np.where(out == braked, 0.0, np.abs(out) * tensions)
        worst = max(worst, float(power.max()) / (limits.period_s * 1e6))
    good = worst <= machine.limits.power_max_w * (1 + 1e-9)
    how = "every speed with 64 tensions up to the trip; between, power / tension; full brakes left aside"
    return Claim("winch power", "layer", "proven" if good else "falsified", worst, machine.limits.power_max_w, "W", how)


def _together(machine: Machine, limits: TickLimits) -> Claim:
    """Power of all winches: by each one's own limit where that is enough, else searched."""
    most, each = machine.limits.power_total_w, machine.limits.power_max_w
    if WINCH_COUNT * each <= most * (1 + 1e-9):
        how = "each winch keeps its own power, and these together are no more; full brakes left aside"
        return Claim("power of all winches", "layer", "proven", WINCH_COUNT * each, most, "W", how)
    rng, worst = np.random.default_rng(0), 0.0
    for _ in range(20):
        previous = rng.integers(-limits.speed_max_um, limits.speed_max_um + 1, (4096, WINCH_COUNT))
        tension = rng.uniform(0, machine.limits.tension_trip_n, (4096, WINCH_COUNT))
        length = np.full((1, WINCH_COUNT), (limits.length_min_um + limits.length_max_um) // 2)
        wanted = rng.choice([-1.0, 1.0], (4096, WINCH_COUNT))
        out = limit_command(wanted, previous, length, tension, limits, speed_um=limits.speed_max_um)
        braked = np.sign(previous) * np.maximum(np.abs(previous) - limits.acceleration_um, 0)
        power = (np.abs(out) * tension).sum(axis=1) * ~(out == braked).all(axis=1) / (limits.period_s * 1e6)
        worst = max(worst, float(power.max()))
    how = (
        "the stage's own sum decides each command, and the post-condition sums again; the most of 81 920 at random is "
    )
    how += "shown; full brakes of all winches left aside"
    status = "proven" if worst <= most * (1 + 1e-9) else "falsified"
    return Claim("power of all winches", "layer", status, worst, most, "W", how)


def _refuses(machine: Machine) -> Claim:
    """Closed at power-up; every kind of broken request or measurement is refused and latched."""
    let_through, tried = 0, 0
    zero, nothing = np.zeros(WINCH_COUNT), float("nan")
    for value in (nothing, float("inf"), float("-inf"), None):
        for winch in range(WINCH_COUNT):
            for field_name in ("request", "length", "tension", "clock"):
                gate = Gate(machine)
                broken = zero.copy()
                broken[winch] = nothing if value is None else value
                lengths = gate.park_lengths_m + (broken if field_name == "length" else 0)
                if value is not None:
                    gate.arm(0.0, gate.park_lengths_m)
                tried += 1
                try:
                    gate.approve(
                        broken if field_name == "request" else zero,
                        lengths,
                        broken[winch] if field_name == "clock" else 0.0,
                        measured_host_s=0.0,
                        tension_n=broken if field_name == "tension" else None,
                    )
                    let_through += 1
                except CommandRefused:
                    let_through += gate.fault_reason is None
    how = f"{tried} requests: each winch, field and kind of what is not a number; and all of them before arming"
    status = "proven" if let_through == 0 else "falsified"
    return Claim(
        "refuses what is not a number, closed at power-up", "layer", status, float(let_through), 0.0, "commands", how
    )


def _raw(
    policy: LoadedPolicy, machine: Machine, bounds: OutputBounds, worst: Worst, high: Array, visited: Visited | None
) -> list[Claim]:
    low_action, high_action = bounds.actions(policy.net)
    speed = machine.limits.speed_normal_m_s
    bound = speed * float(np.maximum(np.abs(low_action), np.abs(high_action)).max())
    found = speed * float(max(np.abs(worst.high).max(), np.abs(worst.low).max()))
    box = f"all {len(high)} observations within their bounds; interval and linear bounds, {policy.net.squash} output"
    power, tension = machine.limits.power_max_w, machine.limits.tension_max_n
    power_status = "proven" if bound * tension <= power else ("falsified" if found * tension > power else "not proven")
    top = int(np.argmax(np.maximum(np.abs(worst.high), np.abs(worst.low))))
    at = worst.highest[top] if abs(worst.high[top]) >= abs(worst.low[top]) else worst.lowest[top]
    fastest = None
    if power_status == "falsified":
        fastest = _example("winch power", policy, at[None], found * tension, power, "W")
    claims = [
        Claim("cable speed", "raw policy", "proven", bound, speed, "m/s", box, found),
        Claim(
            "winch power",
            "raw policy",
            power_status,
            bound * tension,
            power,
            "W",
            f"{box}; at {tension:g} N",
            found * tension,
            counterexample=fastest,
        ),
        _steepest(policy, machine, bounds, worst, visited),
        _not_a_number(policy, len(high)),
    ]  # fmt: skip
    if visited is not None:
        claims += [_stays_on_bed(policy, visited), _in_hand(policy, visited)]
    return claims


def _steepest(
    policy: LoadedPolicy, machine: Machine, bounds: OutputBounds, worst: Worst, visited: Visited | None
) -> Claim:
    """Change of speed between two observations, one period apart; the layer keeps it, the policy need not."""
    low, high = bounds.actions(policy.net)
    scale = machine.limits.speed_normal_m_s * machine.control.rate_hz
    limit = machine.limits.acceleration_max_m_s2
    bound = scale * float((high - low).max())
    winch = int(np.argmax(worst.high - worst.low))
    found = scale * float(worst.high[winch] - worst.low[winch])
    status = "proven" if bound <= limit else ("falsified" if found > limit * (1 + 1e-6) else "not proven")
    pair = np.stack([worst.lowest[winch], worst.highest[winch]])
    how = "any two observations of the whole box in a row"
    if visited is not None:
        how += f"; {scale * visited.steepest[1]:.3g} m/s² at most between two in a row in simulation"
    example = _example("cable acceleration", policy, pair, found, limit, "m/s²") if status == "falsified" else None
    return Claim(
        "cable acceleration",
        "raw policy",
        status,
        bound,
        limit,
        "m/s²",
        how,
        found,
        required=False,
        counterexample=example,
    )


def _not_a_number(policy: LoadedPolicy, size: int) -> Claim:
    """NaN and infinity in, one entry at a time."""
    broken = np.zeros((3 * size, size), dtype=np.float32)
    for i, value in enumerate((np.nan, np.inf, -np.inf)):
        broken[np.arange(size) + i * size, np.arange(size)] = value
    wrong = ~np.isfinite(policy.net.act(broken)).all(axis=1)
    example = None
    if wrong.any():
        example = _example("finite actions", policy, broken[wrong][:1], float(wrong.sum()), 0.0, "observations")
    how = f"{len(broken)} observations with one NaN or infinity; the layer refuses what comes out"
    status = "falsified" if wrong.any() else "proven"
    return Claim("finite actions for observations that are not numbers", "raw policy", status, float(wrong.sum()), 0.0,
                 "observations", how, required=False, counterexample=example)  # fmt: skip


def _stays_on_bed(policy: LoadedPolicy, visited: Visited) -> Claim:
    example = None
    if visited.first_outside is not None:
        example = _example("spot on the bed", policy, visited.first_outside, float(visited.outside), 0.0, "episodes")
    how = f"{visited.episodes} simulated episodes, nominal machine; the gate goes dark before it happens"
    status = "falsified" if visited.outside else "not proven"
    return Claim("spot inside the keep-in polygon", "raw policy", status, None, 0.0, "episodes outside", how,
                 float(visited.outside), counterexample=example)  # fmt: skip


def _in_hand(policy: LoadedPolicy, visited: Visited) -> Claim:
    """Whether the simulated machine stayed in hand: no cable above the trip, spot and lens where they belong."""
    count, example = sum(visited.ended.values()), None
    if count and visited.first_ended is not None:
        example = _example("machine in hand", policy, visited.first_ended, float(count), 0.0, "episodes")
    why = ", ".join(f"{name}: {number}" for name, number in visited.ended.items()) or "none ended early"
    how = f"{visited.episodes} simulated episodes, nominal machine; {why}"
    status = "falsified" if count else "not proven"
    return Claim("machine in hand", "raw policy", status, None, 0.0, "episodes ended early", how,
                 float(count), counterexample=example)  # fmt: skip


def _speeds(machine: Machine, worst: Worst, visited: Visited | None) -> dict[str, tuple[float, ...]]:
    """By winch, m/s: the slowest and fastest the policy can be made to ask for, and what was driven in simulation."""
    scale = machine.limits.speed_normal_m_s
    found = {"lowest": tuple((worst.low * scale).tolist()), "highest": tuple((worst.high * scale).tolist())}
    if visited is not None and len(visited.speeds_um):
        driven = np.abs(visited.speeds_um).max(axis=0) / (machine.control.period_s * 1e6)
        found["driven"] = tuple(driven.tolist())
        found["tension"] = tuple(float(value) for value in visited.tension_n)
    return found


def _behind(machine: Machine, visited: Visited) -> list[Claim]:
    low, high = visited.tension_n
    limits = machine.limits
    how = f"{visited.episodes} simulated episodes behind the limiter"
    over = "falsified" if high > limits.tension_trip_n else "not proven"
    slack = "falsified" if low <= 0.01 else "not proven"
    return [
        Claim(
            "cable tension below the trip",
            "behind the layer",
            over,
            None,
            limits.tension_trip_n,
            "N",
            how,
            high,
            required=False,
        ),
        Claim("cables taut", "behind the layer", slack, None, limits.tension_min_n, "N", how, low, required=False),
    ]


def _example(
    claim: str, policy: LoadedPolicy, observations: Observations, value: float, limit: float, unit: str
) -> Counterexample:
    return Counterexample(claim, as_rows(observations), as_rows(policy.net.act(observations)), value, limit, unit)
