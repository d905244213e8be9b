"""The gate: closed at first, refuses what is broken, latches, and always knows a way to dark."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melter.errors import BadInput, CommandRefused
from melter.geometry.pose import sun_direction_world
from melter.machine import load_machine
from melter.safety import gate as gate_module
from melter.safety.beam import KeepIn
from melter.safety.drill import work_states
from melter.safety.gate import ApprovedCommand, Gate
from melter.safety.interlock import State
from melter.safety.reckoning import JUMP_M

MACHINE = load_machine()
PERIOD = MACHINE.control.period_s
SUN = sun_direction_world(MACHINE.sun.zenith_rad, MACHINE.sun.azimuth_rad)
WORK = work_states(MACHINE, np.array([[0.1, -0.2]]), SUN)[0]
ZERO = np.zeros(8)
_KINEMATICS = Gate(MACHINE)._lowering.kinematics
ALONG = _KINEMATICS.jacobian(_KINEMATICS.forward(WORK, _KINEMATICS.park)[0])[:, 0]  # type: ignore[index]
ALONG = ALONG / np.abs(ALONG).max()
"""Cable speeds at WORK that move the lens along world x without straining a cable; the fastest is 1."""


def armed(lengths: np.ndarray = WORK, now: float = 100.0, sun: np.ndarray = SUN) -> Gate:
    gate = Gate(MACHINE)
    gate.arm(now, lengths, sun_world=sun)
    return gate


class Run:
    """A gate and winches that do exactly what was approved."""

    def __init__(self, lengths: np.ndarray = WORK, sun: np.ndarray = SUN) -> None:
        self.gate, self.lengths, self.now = armed(lengths, sun=sun), lengths.copy(), 100.0

    def moved(self, command: ApprovedCommand) -> ApprovedCommand:
        self.lengths = self.lengths + command.speeds_m_s * command.period_s
        self.now += PERIOD
        return command

    def approve(self, request: object, **options: object) -> ApprovedCommand:
        given = {"measured_host_s": self.now, **options}
        return self.moved(self.gate.approve(request, self.lengths, self.now, **given))  # type: ignore[arg-type]

    def dark(self, lengths: object = "true") -> ApprovedCommand:
        return self.moved(self.gate.go_dark(self.lengths if isinstance(lengths, str) else lengths, self.now))  # type: ignore[arg-type]


# -- closed, armed ----------------------------------------------------------------------------------------------


def test_starts_closed() -> None:
    gate = Gate(MACHINE)
    assert gate.state is State.FAULTED
    with pytest.raises(CommandRefused, match="power-up"):
        gate.approve(ZERO, WORK, 0.0, measured_host_s=0.0)
    with pytest.raises(CommandRefused, match="never known"):
        gate.go_dark(WORK, 0.0)
    assert gate.state is State.FAULTED


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.1, 5.0])
def test_arming_needs_known_lengths(bad: float) -> None:
    lengths = WORK.copy()
    lengths[2] = bad
    gate = Gate(MACHINE)
    with pytest.raises(CommandRefused, match="lengths_m"):
        gate.arm(0.0, lengths)
    with pytest.raises(CommandRefused, match="lengths_m"):
        gate.arm(0.0, WORK[:7])
    assert gate.state is State.FAULTED


@pytest.mark.parametrize(
    ("speed", "good"), [(0.001, True), (-0.001, True), (0.0011, False), (-0.0011, False), (np.nan, False)]
)
def test_arming_needs_standstill(speed: float, good: bool) -> None:
    gate = Gate(MACHINE)
    speeds = ZERO.copy()
    speeds[5] = speed
    if good:
        gate.arm(0.0, WORK, speeds_m_s=speeds)
        assert gate.state is State.ARMED
    else:
        with pytest.raises(CommandRefused, match="at rest"):
            gate.arm(0.0, WORK, speeds_m_s=speeds)
        assert gate.state is State.FAULTED


def test_arming_after_motion_needs_a_measurement_of_rest() -> None:
    run = Run()
    run.approve(np.full(8, 0.02))
    run.gate.fault("test")
    with pytest.raises(CommandRefused, match="at rest"):
        run.gate.arm(run.now, run.lengths)
    run.gate.arm(run.now, run.lengths, speeds_m_s=ZERO)
    assert run.gate.state is State.ARMED
    assert run.gate.fault_reason is None


def test_arming_twice_or_in_the_past() -> None:
    gate = armed()
    with pytest.raises(CommandRefused, match="must be faulted or parked"):
        gate.arm(101.0, WORK)
    assert gate.state is State.ARMED
    gate.fault("test")
    for now in (99.9, np.nan, np.inf):
        with pytest.raises(CommandRefused, match="now_host_s"):
            gate.arm(now, WORK)


# -- what it lets through ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "fastest"), [("policy", 0.05), ("jog", 0.05), ("transit", 0.12)])
def test_speed_by_mode(mode: str, fastest: float) -> None:
    run = Run()
    for _ in range(4):
        command = run.approve(ALONG * fastest * 1.5, mode=mode)
    assert np.abs(command.speeds_m_s).max() == fastest
    assert run.gate.state is (State.TRANSIT if mode == "transit" else State.WORK)


def test_command_is_what_it_says_and_locked() -> None:
    run = Run()
    first, second = run.approve(np.linspace(-0.04, 0.04, 8)), run.approve(ZERO)
    assert second.sequence == first.sequence + 1
    assert (first.period_s, first.approved_host_s) == (PERIOD, 100.0)
    assert first.speeds_m_s == pytest.approx(np.linspace(-0.04, 0.04, 8), abs=1e-5)
    assert first.counts_um.tolist() == np.rint(first.speeds_m_s * PERIOD * 1e6).tolist()
    with pytest.raises(ValueError, match="read-only"):
        first.speeds_m_s[0] = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.period_s = 1.0  # type: ignore[misc]


def test_commands_cannot_be_forged() -> None:
    command = Run().approve(ZERO)
    fields = (command.speeds_m_s, command.counts_um, PERIOD, 0.0, 1)
    for attempt in (
        lambda: ApprovedCommand(*fields),
        lambda: ApprovedCommand(*fields, object()),
        lambda: ApprovedCommand(*fields, True),
        lambda: dataclasses.replace(command, speeds_m_s=np.ones(8)),
    ):
        with pytest.raises((CommandRefused, ValueError)):
            attempt()
    assert copy.copy(command).sequence == command.sequence


def test_interventions_are_counted() -> None:
    run = Run()
    run.approve(np.full(8, 0.2))
    run.approve(np.full(8, -0.05))
    run.approve(ZERO, tension_n=np.full(8, 300.0))
    run.approve(np.full(8, 0.12), tension_n=np.full(8, 400.0), mode="jog")
    run.approve(np.full(8, 0.12), tension_n=np.full(8, 400.0), mode="transit")
    assert run.gate.interventions["speed"] == 16
    assert run.gate.interventions["acceleration"] == 8
    assert run.gate.interventions["power"] == 8
    assert run.gate.interventions["length"] == 0


def test_cable_end_is_counted() -> None:
    gate = Gate(MACHINE)
    lengths = np.full(8, gate.limits.length_max_um * 1e-6 - 0.001)
    gate.arm(0.0, lengths)
    command = gate.approve(np.full(8, 0.05), lengths, 0.0, measured_host_s=0.0, mode="jog")
    assert command.counts_um.tolist() == [1000] * 8
    assert gate.interventions["length"] == 8


# -- what it refuses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["requested_m_s", "lengths_m", "tension_n"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("winch", range(8))
def test_not_a_number_latches(field: str, bad: float, winch: int) -> None:
    gate = armed()
    given = {"requested_m_s": ZERO.copy(), "lengths_m": WORK.copy(), "tension_n": np.full(8, 100.0)}
    given[field][winch] = bad
    with pytest.raises(CommandRefused, match=field):
        gate.approve(
            given["requested_m_s"], given["lengths_m"], 100.0, measured_host_s=100.0, tension_n=given["tension_n"]
        )
    assert gate.state is State.FAULTED
    assert field in str(gate.fault_reason)
    with pytest.raises(CommandRefused, match="faulted"):
        gate.approve(ZERO, WORK, 100.1, measured_host_s=100.1)


@pytest.mark.parametrize("request_", [np.zeros(7), np.zeros(9), 0.0, np.zeros((1, 8))])
def test_not_eight_latches(request_: object) -> None:
    gate = armed()
    with pytest.raises(CommandRefused, match="eight"):
        gate.approve(request_, WORK, 100.0, measured_host_s=100.0)  # type: ignore[arg-type]
    assert gate.state is State.FAULTED


@pytest.mark.parametrize(
    ("age", "good"),
    [(0.0, True), (5 * 0.05 + 0.04 - 1e-6, True), (5 * 0.05 + 0.04 + 1e-6, False), (-1e-6, False), (np.nan, False)],
)
def test_freshness(age: float, good: bool) -> None:
    gate = armed(now=90.0)
    if good:
        gate.approve(ZERO, WORK, 100.0, measured_host_s=100.0 - age)
    else:
        with pytest.raises(CommandRefused, match="measured_host_s"):
            gate.approve(ZERO, WORK, 100.0, measured_host_s=100.0 - age)
        assert gate.state is State.FAULTED


def test_measurements_in_order() -> None:
    run = Run()
    run.approve(ZERO)
    run.approve(ZERO)
    run.approve(ZERO, measured_host_s=run.now - PERIOD)  # the same as before: no news, still fresh
    with pytest.raises(CommandRefused, match="out of order"):
        run.approve(ZERO, measured_host_s=run.now - 3 * PERIOD)
    assert run.gate.state is State.FAULTED


@pytest.mark.parametrize(("jump", "good"), [(JUMP_M - 1e-6, True), (JUMP_M + 1e-6, False), (-JUMP_M - 1e-6, False)])
def test_counters_that_jump(jump: float, good: bool) -> None:
    run = Run()
    run.lengths[4] += jump
    if good:
        run.approve(ZERO)
    else:
        with pytest.raises(CommandRefused, match="SW-upper"):
            run.approve(ZERO)


@pytest.mark.parametrize("length", [0.0, -1.0, 4.5001])
def test_lengths_out_of_range(length: float) -> None:
    gate = armed()
    lengths = WORK.copy()
    lengths[0] = length
    with pytest.raises(CommandRefused, match="lengths_m"):
        gate.approve(ZERO, lengths, 100.0, measured_host_s=100.0)


def test_twice_in_a_period_changes_nothing() -> None:
    run = Run()
    gate, now = run.gate, run.now
    gate.approve(np.full(8, 0.01), WORK, now, measured_host_s=now)
    before = gate.interventions["early"]
    for later in (0.0, 0.024):
        with pytest.raises(CommandRefused, match="too early"):
            gate.approve(np.full(8, 0.05), WORK, now + later, measured_host_s=now + later)
    assert gate.interventions["early"] == before + 2
    assert gate.state is State.WORK
    gate.approve(np.full(8, 0.01), WORK, now + 0.026, measured_host_s=now + 0.026)


@pytest.mark.parametrize("factor", [2, 5, 50])
def test_rates_hold_per_second_however_often_it_is_called(factor: int) -> None:
    """Called many times too often, the speed still changes no faster than the machine's acceleration."""
    gate = armed()
    lengths, now, speed, times, speeds = WORK.copy(), 100.0, np.zeros(8), [], []
    for _ in range(40 * factor):
        sign = 1 if len(times) % 4 < 2 else -1
        try:
            command = gate.approve(sign * 0.12 * ALONG, lengths, now, measured_host_s=now, mode="transit")
            speed = command.speeds_m_s
            times.append(now)
            speeds.append(float(speed[np.argmax(np.abs(ALONG))]))
        except CommandRefused as error:
            assert "too early" in str(error)  # noqa: PT017
        lengths = lengths + speed * PERIOD / factor
        now += PERIOD / factor
    assert gate.state is State.TRANSIT
    assert np.abs(speeds).max() > 0.04
    changes, instants = np.abs(np.diff(speeds)), np.array(times)
    for first in range(len(times) - 10):
        window = instants[first + 10] - instants[first]
        assert changes[first : first + 10].sum() <= MACHINE.limits.acceleration_max_m_s2 * (window + PERIOD) + 1e-9


@pytest.mark.parametrize("ticks", [1, 2, 4])
@pytest.mark.parametrize(("excess_s", "good"), [(-1e-6, True), (1e-4, False)])
def test_late_while_moving(ticks: int, excess_s: float, good: bool) -> None:
    """A gap may last until the fastest winch has gone as far as it would at full speed in three periods, or ten periods."""
    run = Run()
    for _ in range(ticks):
        command = run.approve(0.12 * ALONG, mode="transit")
    gone_m = MACHINE.limits.speed_max_m_s * 3 * PERIOD
    run.now += min(10 * PERIOD, gone_m / np.abs(command.speeds_m_s).max()) - PERIOD + excess_s
    if good:
        run.approve(0.12 * ALONG, mode="transit")
    else:
        with pytest.raises(CommandRefused, match="late"):
            run.approve(0.12 * ALONG, mode="transit")
        assert run.gate.state is State.FAULTED
        run.dark()


def test_late_at_rest_is_nothing() -> None:
    run = Run()
    run.approve(ZERO)
    run.now += 60
    run.approve(ZERO)


@pytest.mark.parametrize("now", [99.9, np.nan, np.inf, -np.inf])
def test_clock_that_runs_back(now: float) -> None:
    gate = armed()
    with pytest.raises(CommandRefused, match="now_host_s"):
        gate.approve(ZERO, WORK, now, measured_host_s=100.0)
    assert gate.state is State.FAULTED


def test_unknown_mode() -> None:
    gate = armed()
    with pytest.raises(CommandRefused, match="mode"):
        gate.approve(ZERO, WORK, 100.0, measured_host_s=100.0, mode="fly")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["policy", "jog", "transit"])
def test_nobody_drives_while_going_dark(mode: str) -> None:
    run = Run()
    run.dark()
    with pytest.raises(CommandRefused, match="darkening"):
        run.approve(ZERO, mode=mode)
    assert run.gate.state is State.FAULTED
    run.dark()
    assert run.gate.state is State.DARKENING


def test_first_fault_is_kept() -> None:
    gate = armed()
    gate.fault("first")
    gate.fault("second")
    assert gate.fault_reason == "first"


# -- the beam ---------------------------------------------------------------------------------------------------


def test_keep_in_polygon_both_sides() -> None:
    margin = armed()._keep_in.margin_m
    edge = 0.45 - margin
    assert 0.4 < edge < 0.45
    for spot in [(edge - 1e-6, 0), (0, -edge + 1e-6), (-edge + 1e-6, edge - 1e-6)]:
        there = work_states(MACHINE, np.array([spot]), SUN)[0]
        armed(there).approve(ZERO, there, 100.0, measured_host_s=100.0, spot_world_m=spot)
    for spot in [(edge + 1e-6, 0), (0, -edge - 1e-6), (2, 2), (np.nan, 0), (0, np.inf), (0, 0, 0), 0.0]:
        gate = armed()
        with pytest.raises(CommandRefused, match="keep-in"):
            gate.approve(ZERO, WORK, 100.0, measured_host_s=100.0, spot_world_m=spot)  # type: ignore[arg-type]
        assert gate.state is State.FAULTED


# -- going dark -------------------------------------------------------------------------------------------------


def until_parked(run: Run, lengths: object = "true", most: int = 400) -> int:
    for tick in range(most):
        if run.gate.state is State.PARKED:
            return tick
        run.dark(lengths)
    raise AssertionError(f"not parked: {run.lengths - run.gate.park_lengths_m}")


@settings(max_examples=8, deadline=None)
@given(st.floats(0, 40), st.floats(0, 360), st.floats(-0.4, 0.4), st.floats(-0.4, 0.4), st.integers(0, 2**32 - 1))
def test_from_everywhere_to_park(zenith: float, azimuth: float, x: float, y: float, seed: int) -> None:
    sun = sun_direction_world(np.radians(zenith), np.radians(azimuth))
    run = Run(work_states(MACHINE, np.array([[x, y]]), sun)[0], sun)
    rng = np.random.default_rng(seed)
    for _ in range(5):
        run.approve(rng.uniform(-0.05, 0.05, 8), mode="jog")
    run.gate.fault("test")
    assert until_parked(run) * PERIOD < 25
    assert run.gate.parked(run.lengths)
    with pytest.raises(CommandRefused, match="parked"):
        run.approve(ZERO)
    run.now += 1
    run.gate.arm(run.now, run.lengths)


def test_dark_without_any_measurement() -> None:
    for lengths in (None, np.full(8, np.nan), np.zeros(3), np.full(8, np.inf)):
        run = Run()
        run.approve(np.full(8, 0.03))
        run.gate.fault("silence")
        until_parked(run, lengths)
        assert run.gate.parked(run.lengths)


@pytest.mark.parametrize("winch", [0, 3, 6])
def test_dark_with_one_cable_slack(winch: int) -> None:
    lengths = WORK.copy()
    lengths[winch] += 0.1
    run = Run(lengths)
    command = run.dark()
    assert command.counts_um.any()
    until_parked(run)


def test_dark_when_lengths_fit_no_pose() -> None:
    run = Run(WORK + np.array([0.3, -0.3, 0.3, 0.3, -0.3, -0.3, 0.3, -0.3]))
    until_parked(run)


def test_dark_with_a_dead_winch_goes_on() -> None:
    run = Run()
    for _ in range(320):
        command = run.gate.go_dark(run.lengths, run.now)
        moved = command.speeds_m_s * PERIOD
        moved[3] = 0
        run.lengths, run.now = run.lengths + moved, run.now + PERIOD
    assert np.abs(np.delete(run.lengths - run.gate.park_lengths_m, 3)).max() < 0.05


def test_dark_is_paced_too_and_survives_bad_tensions() -> None:
    run = Run()
    run.dark()
    with pytest.raises(CommandRefused, match="too early"):
        run.gate.go_dark(run.lengths, run.now - 0.04)
    for tension in (np.full(8, np.nan), np.zeros(3), np.full(8, 350.0)):
        run.moved(run.gate.go_dark(run.lengths, run.now, tension_n=tension))
    run.now += 5.0  # late: the way to dark stays open
    run.dark()


def test_post_condition_stops_a_broken_limiter(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run()
    monkeypatch.setattr(gate_module, "limit_far_from_ends", lambda *_a, **_k: [2501] * 8)
    with pytest.raises(CommandRefused, match="post-condition"):
        run.approve(ZERO)
    assert run.gate.state is State.FAULTED


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_fuzzed_calls(data: st.DataObject) -> None:
    """Whatever is asked, when and however measured: what comes out keeps every limit, or nothing comes out."""
    gate, lengths, now = armed(), WORK.copy(), 100.0
    previous = np.zeros(8)
    numbers = st.sampled_from([0.0, 0.05, -0.05, 1e300, -1e300, 5e-324, np.nan, np.inf, -np.inf, 0.01])
    for _ in range(10):
        request = np.array(data.draw(st.lists(numbers, min_size=8, max_size=8)))
        now += data.draw(st.sampled_from([0.05, 0.05, 0.05, 0.0, 0.01, 0.1, 0.4, -0.01]))
        seen = lengths + data.draw(st.sampled_from([0.0, 0.0, 0.0, 0.004, 1.0, np.nan]))
        try:
            if data.draw(st.integers(0, 9)) == 0 or gate.state is State.FAULTED:
                command = gate.go_dark(seen, now)
            else:
                command = gate.approve(
                    request, seen, now, measured_host_s=now, mode=data.draw(st.sampled_from(["policy", "transit"]))
                )
        except CommandRefused:
            continue
        assert (np.abs(command.speeds_m_s) <= MACHINE.limits.speed_max_m_s).all()
        assert (np.abs(command.speeds_m_s - previous) <= MACHINE.limits.acceleration_max_m_s2 * PERIOD + 1e-12).all()
        previous = command.speeds_m_s
        lengths = lengths + previous * PERIOD
        assert (lengths > MACHINE.limits.cable_length_min_m).all()
        assert (lengths < MACHINE.limits.cable_length_max_m).all()


# -- what the driver promises ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "good"), [(1.0, True), (4.0, True), (0.999, False), (4.001, False), (np.nan, False)]
)
def test_the_drivers_promise_has_bounds(factor: float, good: bool) -> None:
    if good:
        assert Gate(MACHINE, speed_factor=factor).limits.speed_max_um == Gate(MACHINE).limits.speed_max_um
    else:
        with pytest.raises(BadInput, match="speed_factor"):
            Gate(MACHINE, speed_factor=factor)


def test_what_a_driver_makes_up_for_keeps_the_power_of_all_winches() -> None:
    """Commands of a gate that knows of a quarter more keep the limit when a quarter is added."""
    few = MACHINE.model_copy(update={"limits": MACHINE.limits.model_copy(update={"power_total_max_w": 100.0})})
    gate = Gate(few, speed_factor=1.25)
    lengths = WORK.copy()
    gate.arm(0.0, lengths, sun_world=SUN)
    most = 0.0
    for tick in range(1, 12):
        command = gate.approve(0.12 * ALONG, lengths, 0.05 * tick, measured_host_s=0.05 * tick, mode="transit")
        most = max(most, float(np.abs(command.speeds_m_s).sum()) * MACHINE.limits.tension_max_n)
        lengths = lengths + command.counts_um * 1e-6
    assert most * 1.25 <= 100.0 * (1 + 1e-9)
    assert most > 70.0


def test_power_that_no_driver_can_exceed_is_not_kept_back() -> None:
    """At the machine's highest speed and tension a winch of corner8 takes 36 of 38 W: nothing to hold back."""
    assert Gate(MACHINE, speed_factor=1.25).limits.power_n_um == Gate(MACHINE).limits.power_n_um
    assert Gate(MACHINE, speed_factor=1.25).limits.power_total_n_um == Gate(MACHINE).limits.power_total_n_um
    weak = MACHINE.model_copy(update={"limits": MACHINE.limits.model_copy(update={"power_max_w": 20.0})})
    assert Gate(weak, speed_factor=1.25).limits.power_n_um == pytest.approx(Gate(weak).limits.power_n_um / 1.25)


def test_the_bed_is_drawn_in_by_what_a_driver_makes_up_for() -> None:
    plain, catching_up = KeepIn(MACHINE), KeepIn(MACHINE, 1.25)
    assert 1.25 * plain.margin_m < catching_up.margin_m < 1.25**2 * plain.margin_m
    fastest = KeepIn(MACHINE, 4.0).margin_m
    assert fastest == pytest.approx(KeepIn(MACHINE, 2.4).margin_m)  # never above the highest speed


def tilted(sun: np.ndarray, angle_rad: float) -> np.ndarray:
    """The sun an angle further west."""
    moved = sun + np.array([-angle_rad, 0.0, 0.0])
    return moved / np.linalg.norm(moved)


@pytest.mark.parametrize(
    ("passed_s", "off_deg", "good"), [(0.05, 0.24, True), (0.05, 0.26, False), (600, 3.5, True), (600, 3.6, False)]
)
def test_the_sun_goes_no_faster_than_the_sky(passed_s: float, off_deg: float, good: bool) -> None:
    """A third faster, and a quarter of a degree, is borne: 3.57 degrees in ten minutes."""
    overhead = np.array([0.0, 0.0, 1.0])
    run = Run(sun=overhead)
    run.now += passed_s
    if good:
        run.gate.follow_sun(tilted(overhead, np.radians(off_deg)), run.now)
        assert run.gate.state is not State.FAULTED
    else:
        with pytest.raises(CommandRefused, match="deg from where it was at arming"):
            run.gate.follow_sun(tilted(overhead, np.radians(off_deg)), run.now)
        assert run.gate.state is State.FAULTED


@pytest.mark.parametrize("sun", [[0.0, 0.0], [np.nan, 0.0, 1.0], [0.0, 0.0, 2.0], [0.0, 0.0, -1.0]])
def test_what_is_no_sun_is_refused(sun: list[float]) -> None:
    run = Run()
    with pytest.raises(CommandRefused, match="sun_world"):
        run.gate.follow_sun(sun, run.now)
