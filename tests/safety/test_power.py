"""The power of all winches together: both sides of the limit, in the limiter, on the way to dark and in the gate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melter.errors import CommandRefused, MachineFileError
from melter.machine import Machine, load_machine
from melter.safety.drill import run_drill, work_states
from melter.safety.gate import Gate
from melter.safety.limiter import TickLimits, allowed_interval, limit_command, limit_far_from_ends, share_power
from melter.safety.proof import prove
from melter.safety.verify import violation

MACHINE = load_machine()
MIDDLE = np.full(8, 2_000_000)
REST = np.zeros(8, dtype=np.int64)


def supplied(watt: float) -> Machine:
    return MACHINE.model_copy(update={"limits": MACHINE.limits.model_copy(update={"power_total_max_w": watt})})


TIGHT = TickLimits.from_machine(supplied(60.0))


def watt(counts: np.ndarray, tension: np.ndarray | float, limits: TickLimits = TIGHT) -> float:
    return float((np.abs(counts) * tension).sum()) * 1e-6 / limits.period_s


def test_without_a_limit_of_its_own_it_is_the_sum_of_all_winches() -> None:
    assert MACHINE.limits.power_total_w == 8 * 38.0
    limits = TickLimits.from_machine(MACHINE)
    assert limits.power_total_n_um == 8 * limits.power_n_um
    assert limits.power_is_for_all
    assert not TIGHT.power_is_for_all


@pytest.mark.parametrize(("watt_", "good"), [(0.049, True), (0.047, False)])
def test_power_that_moves_nothing_is_refused(watt_: float, good: bool) -> None:
    """One micrometre per period of all eight at 300 N is 0.048 W."""
    if good:
        TickLimits.from_machine(supplied(watt_))
    else:
        with pytest.raises(MachineFileError, match="power_total_max_w"):
            TickLimits.from_machine(supplied(watt_))


def test_request_below_the_limit_is_left_alone() -> None:
    out = limit_command(np.full(8, 0.02), REST, MIDDLE, np.full(8, 300.0), TIGHT)
    assert out.tolist() == [1000] * 8  # 48 W
    exact = replace(TIGHT, power_total_n_um=8 * 1000 * 300.0)
    assert limit_command(np.full(8, 0.02), REST, MIDDLE, np.full(8, 300.0), exact).tolist() == [1000] * 8


@pytest.mark.parametrize("tension", [None, 300.0])
def test_scaled_towards_the_previous_command(tension: float | None) -> None:
    tensions = None if tension is None else np.full(8, tension)
    previous = np.array([800, -800, 800, -800, 0, 0, 0, 0])
    request = np.array([0.05, 0.03, -0.03, 0.0, 0.05, -0.05, 0.01, 0.0])
    out = limit_command(request, previous, MIDDLE, tensions, TIGHT)
    assert 0.95 * 60 < watt(out, 300.0) <= 60.0
    way, whole = out - previous, np.rint(request * 50_000) - previous
    moved = np.abs(whole) > 100
    shares = way[moved] / whole[moved]
    assert shares.max() - shares.min() < 0.012
    assert 0 < shares.min() < 1
    assert (np.abs(way) <= np.abs(whole)).all()


def test_full_brake_where_even_the_previous_command_takes_too_much() -> None:
    previous = np.array([2500, -2500, 2500, -2500, 2500, 2400, 100, 0])
    out = limit_command(np.full(8, 0.05), previous, MIDDLE, np.full(8, 300.0), TIGHT)
    assert out.tolist() == [0] * 8
    fast = np.array([6000, -6000, 5000, 2600, 2500, 0, -2600, 1])
    out = limit_command(np.full(8, 0.05), fast, MIDDLE, None, TIGHT, speed_um=6000)
    assert out.tolist() == [3500, -3500, 2500, 100, 0, 0, -100, 0]


def test_a_winch_that_must_brake_is_no_way_back() -> None:
    """The previous speed of a winch next to its end is not allowed any more: the way starts where it may be."""
    length = MIDDLE.copy()
    length[0] = TIGHT.length_max_um - 10
    previous = np.array([2500, 0, 0, 0, 0, 0, 0, 0])
    out = limit_command(np.full(8, 0.05), previous, length, None, TIGHT)
    low, high = allowed_interval(previous, length, None, TIGHT)
    assert ((out >= low) & (out <= high)).all()
    assert out[0] <= 10
    assert watt(out, 300.0) <= 60.0


def test_negative_tensions_take_nothing_off_the_sum() -> None:
    tensions = np.array([300.0, 300.0, 300.0, 300.0, -300.0, -300.0, -300.0, -300.0])
    out = limit_command(np.full(8, 0.05), REST, MIDDLE, tensions, TIGHT)
    assert watt(out, np.maximum(tensions, 0)) <= 60.0
    assert violation(out.tolist(), [0] * 8, MIDDLE.tolist(), tensions.tolist(), TIGHT, 2500) is None


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_always_within_the_interval_and_the_power(seed: int) -> None:
    rng = np.random.default_rng(seed)
    limits = replace(TIGHT, power_total_n_um=rng.uniform(8 * 300, 8 * 300 * 3000))
    previous = rng.integers(-6000, 6001, (3, 8))
    length = rng.integers(limits.length_min_um, limits.length_max_um, (3, 8))
    tension = rng.uniform(-20, 400, (3, 8))
    out = limit_command(rng.uniform(-0.2, 0.2, (3, 8)), previous, length, tension, limits, speed_um=6000)
    low, high = allowed_interval(previous, length, tension, limits, speed_um=6000)
    assert ((out >= low) & (out <= high)).all()
    braked = np.sign(previous) * np.maximum(np.abs(previous) - limits.acceleration_um, 0)
    over = (np.abs(out) * np.maximum(tension, 0)).sum(axis=1) > limits.power_total_n_um
    assert (out[over] == braked[over]).all()
    for row in range(3):  # one machine, the same bits
        given = low[row], high[row]
        assert (share_power(out[row], previous[row], *given, tension[row], limits) == out[row]).all()
        listed = (out[row].tolist(), previous[row].tolist(), length[row].tolist(), tension[row].tolist())
        assert violation(*listed, limits, 6000) is None


@pytest.mark.parametrize(("scale", "good"), [(1.0, True), (1.001, False)])
def test_post_condition_both_sides(scale: float, good: bool) -> None:
    speeds = [round(1250 * scale)] * 8
    found = violation(speeds, [0] * 8, MIDDLE.tolist(), [300.0] * 8, TIGHT, 2500)
    assert (found is None) is good
    if not good:
        assert "all winches together: 60.0 W exceeds" in str(found)


def test_post_condition_lets_the_full_brake_through() -> None:
    assert violation([3500] * 8, [6000] * 8, MIDDLE.tolist(), None, TIGHT, 6000) is None
    found = violation([3500] * 7 + [3499], [6000] * 7 + [5998], MIDDLE.tolist(), None, TIGHT, 6000)
    assert found is not None
    assert "together" in found


def test_gate_books_the_stage() -> None:
    gate = Gate(supplied(60.0))
    lengths = work_states(MACHINE, np.array([[0.0, 0.0]]), np.array([0.0, 0.0, 1.0]))[0]
    gate.arm(0.0, lengths, sun_world=np.array([0.0, 0.0, 1.0]))
    command = gate.approve(np.full(8, 0.04), lengths, 0.0, measured_host_s=0.0)
    assert watt(command.counts_um, 300.0) <= 60.0
    assert gate.interventions["total power"] == 8


def test_the_way_to_dark_keeps_it_too_and_still_arrives() -> None:
    sun = np.array([0.0, 0.0, 1.0])
    machine = supplied(40.0)
    gate, now = Gate(machine), 0.0
    lengths = work_states(machine, np.array([[0.1, 0.1]]), sun)[0]
    gate.arm(now, lengths, sun_world=sun)
    for _ in range(900):
        command = gate.go_dark(lengths, now)
        assert watt(command.counts_um, 300.0) <= 40.0 * (1 + 1e-9)
        lengths, now = lengths + command.counts_um * 1e-6, now + gate.limits.period_s
        if gate.state.value == "parked":
            break
    assert gate.parked(lengths)
    drill = run_drill(machine, work_states(machine, np.array([[0.1, 0.1]]), sun), sun[None])
    assert drill.bright_s.max() > 5.0  # a supply this weak cannot go dark in time, and the drill says so


def test_the_proof_leaves_it_out() -> None:
    small = supplied(2.0)
    machine = small.model_copy(
        update={
            "control": small.control.model_copy(update={"rate_hz": 100.0}),
            "limits": small.limits.model_copy(
                update={"speed_normal_m_s": 0.02, "speed_max_m_s": 0.04, "acceleration_max_m_s2": 1.3}
            ),
        }
    )
    assert prove(TickLimits.from_machine(machine)).proven


def test_short_form_is_compared_in_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    from melter.safety import proof

    limits = TickLimits.from_machine(MACHINE)
    assert limit_far_from_ends([0.01], [0], limits, 2500) == [500]

    def wrong(requested: list[float], previous: list[int], *rest: object) -> list[int]:
        counts = limit_far_from_ends(requested, previous, *rest)  # type: ignore[arg-type]
        return [c + (p == -17) for c, p in zip(counts, previous, strict=True)]

    monkeypatch.setattr(proof, "limit_far_from_ends", wrong)
    result = proof._short_form(limits, limit_command)
    assert result.violations == 2 * 7
    assert "speed -17 um per period" in str(result.first)


def test_gate_refuses_tensions_beyond_the_trip() -> None:
    for tension, good in ((400.0, True), (400.1, False), (-400.1, False)):
        gate = Gate(MACHINE)
        gate.arm(0.0, gate.park_lengths_m)
        pulls = np.full(8, 100.0)
        pulls[2] = tension
        if good:
            gate.approve(np.zeros(8), gate.park_lengths_m, 0.0, measured_host_s=0.0, tension_n=pulls)
        else:
            with pytest.raises(CommandRefused, match="NW-upper"):
                gate.approve(np.zeros(8), gate.park_lengths_m, 0.0, measured_host_s=0.0, tension_n=pulls)
