"""What becomes of a machine file's limits in one control period: each number by sums of its own, both sides of each refusal."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from melter.errors import CommandRefused, MachineFileError
from melter.machine import Machine, load_machine
from melter.safety.limiter import TickLimits, braking_um, limit_command

MACHINE = load_machine()
LIMITS = TickLimits.from_machine(MACHINE)


def changed(*, control: dict[str, Any] | None = None, **limits: Any) -> Machine:
    return MACHINE.model_copy(
        update={
            "limits": MACHINE.limits.model_copy(update=limits),
            "control": MACHINE.control.model_copy(update=control or {}),
        }
    )


def test_the_margin_is_what_a_winch_covers_unseen() -> None:
    """0.12 m/s for the period and two late ones (0.15 s), the action's delay (0.04 s) and the motor's lag (0.03 s)."""
    assert LIMITS.margin_um == 26_400
    assert LIMITS.length_min_um == 500_000 + 26_400
    assert LIMITS.length_max_um == int(4.5e6 / (1 + 300 / 60e3)) - 26_400


def test_one_micrometre_per_period_is_enough_and_less_is_not() -> None:
    assert TickLimits.from_machine(changed(speed_normal_m_s=20e-6)).speed_normal_um == 1
    with pytest.raises(MachineFileError, match=r"below one micrometre per period at control.rate_hz = 20\.0"):
        TickLimits.from_machine(changed(speed_normal_m_s=19e-6))


def short_cable(usable_um: int) -> Machine:
    """100 Hz, 400 um per period at most, 130 um per period squared: 820 um to stop; so much cable between the margins."""
    named = {"speed_normal_m_s": 0.02, "speed_max_m_s": 0.04, "acceleration_max_m_s2": 1.3}
    longest_um = (500_000 + 2400 + usable_um + 2400 + 0.5) * (1 + 300 / 60e3)
    return changed(
        control={"rate_hz": 100.0, "action_delay_s": 0.0}, cable_length_max_m=longest_um * 1e-6, **named
    )  # fmt: skip


def test_cable_to_stop_from_both_ends() -> None:
    limits = TickLimits.from_machine(short_cable(1641))
    assert limits.length_max_um - limits.length_min_um == 1641
    assert limits.reach_um == 820
    said = "takes 0.001 m, allowed: half the usable cable of 0.002 m"
    with pytest.raises(MachineFileError, match=said):
        TickLimits.from_machine(short_cable(1640))


def test_power_that_just_moves_a_winch() -> None:
    watt = 0.006
    pull_n = watt * 0.05 * 1e6
    enough = changed(power_max_w=watt, tension_max_n=pull_n, tension_trip_n=400.0)
    assert TickLimits.from_machine(enough).power_n_um == pull_n
    with pytest.raises(MachineFileError, match="power_max_w"):
        TickLimits.from_machine(changed(power_max_w=watt, tension_max_n=pull_n * (1 + 1e-12)))


def test_power_that_just_moves_all_winches() -> None:
    watt = 0.05
    pull_n = watt * 0.05 * 1e6 / 8
    assert TickLimits.from_machine(changed(power_total_max_w=watt, tension_max_n=pull_n)).power_total_n_um == 8 * pull_n
    with pytest.raises(MachineFileError, match="power_total_max_w"):
        TickLimits.from_machine(changed(power_total_max_w=watt, tension_max_n=pull_n * (1 + 1e-12)))


def test_power_is_kept_back_for_a_driver_only_where_it_could_be_exceeded() -> None:
    each, together = 6000 * 300.0, 8 * 6000 * 300.0
    just = changed(power_max_w=36.0, power_total_max_w=288.0)
    assert (each, together) == (36.0 * 0.05 * 1e6, 288.0 * 0.05 * 1e6)
    held = TickLimits.from_machine(just, 1.25)
    assert (held.power_n_um, held.power_total_n_um) == (each, together)
    less = changed(power_max_w=35.0, power_total_max_w=280.0)
    held = TickLimits.from_machine(less, 1.25)
    assert held.power_n_um == pytest.approx(35.0 * 0.05 * 1e6 / 1.25)
    assert held.power_total_n_um == pytest.approx(280.0 * 0.05 * 1e6 / 1.25)
    plain = TickLimits.from_machine(less)
    assert (plain.power_n_um, plain.power_total_n_um) == (35.0 * 0.05 * 1e6, 280.0 * 0.05 * 1e6)


@pytest.mark.parametrize("machine", [MACHINE, changed(speed_max_m_s=1.2, acceleration_max_m_s2=0.5)])
def test_the_table_of_braking(machine: Machine) -> None:
    """Each entry is the fastest speed that stops within its room; there are as many as the longest braking needs."""
    limits = TickLimits.from_machine(machine)
    longest = braking_um(limits.speed_max_um, limits.acceleration_um)
    assert len(limits.brake_table) == (longest >> limits.brake_shift) + 1
    assert (limits.brake_shift == 0) == (longest < 1 << 20)
    for index in np.linspace(0, len(limits.brake_table) - 1, 60).astype(int).tolist():
        room, speed = index << limits.brake_shift, int(limits.brake_table[index])
        assert braking_um(speed, limits.acceleration_um) <= room
        assert speed == limits.speed_max_um or braking_um(speed + 1, limits.acceleration_um) > room
    with pytest.raises(ValueError, match="read-only"):
        limits.brake_table[0] = 1


def test_lengths_saturate_where_whole_numbers_end() -> None:
    assert LIMITS.um(np.array([1e300, -1e300, 1.5])).tolist() == [1 << 53, -(1 << 53), 1_500_000]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_message_names_what_is_no_number(bad: float) -> None:
    request, middle = np.full(8, 0.25), np.full(8, 2_000_000)
    request[5] = bad
    with pytest.raises(CommandRefused, match=f"requested_m_s = {bad}: must be"):
        limit_command(request, np.zeros(8, dtype=np.int64), middle, None, LIMITS)


def test_requests_saturate_rather_than_overflow() -> None:
    middle, zero = np.full(8, 2_000_000), np.zeros(8, dtype=np.int64)
    for sign in (1, -1):
        out = limit_command(np.full(8, sign * 1e308), zero, middle, None, LIMITS)
        assert (out == sign * LIMITS.acceleration_um).all()
    generous = dataclasses.replace(LIMITS, acceleration_um=10**6)
    assert (limit_command(np.full(8, 0.0123456), zero, middle, None, generous) == 617).all()


def test_cables_without_tension_take_no_power() -> None:
    """Nor do they where the power of all winches would not let a newton be moved so fast."""
    few = TickLimits.from_machine(changed(power_total_max_w=0.5))
    before, middle, tension = np.full(8, 2500), np.full(8, 2_000_000), np.zeros(8)
    out = limit_command(np.full(8, 0.12), before, middle, tension, few, speed_um=few.speed_max_um)
    assert out.tolist() == [5000] * 8
    assert limit_command(np.full(8, 0.12), before, middle, tension - 5.0, few, speed_um=5000).tolist() == [5000] * 8


def test_unknown_tension_counts_as_the_highest() -> None:
    weak = TickLimits.from_machine(changed(power_max_w=20.0))
    before, middle = np.full(8, 2500), np.full(8, 2_000_000)
    out = limit_command(np.full(8, 0.12), before, middle, None, weak, speed_um=weak.speed_max_um)
    assert out.tolist() == [int(20.0 * 0.05e6 / 300)] * 8


@pytest.mark.parametrize("end", [1, -1])
def test_room_in_a_coarse_table(end: int) -> None:
    """Towards the end of a cable, from a speed at which a winch just stops: never too fast, and hardly too slow."""
    limits = TickLimits.from_machine(changed(speed_max_m_s=1.2, acceleration_max_m_s2=0.5))
    assert limits.brake_shift == 1
    for speed in (5000, 20_000, 47_001, 59_999):
        room = braking_um(speed, limits.acceleration_um)
        length = limits.length_max_um - room if end > 0 else limits.length_min_um + room
        before = np.full(8, end * (speed - 1))
        out = limit_command(
            np.full(8, end * 9.0), before, np.full(8, length), np.full(8, 1.0), limits, speed_um=limits.speed_max_um
        )
        assert (speed - 1 <= end * out).all()
        assert (end * out <= speed).all()
