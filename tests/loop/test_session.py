"""A session: from park into work and back to dark, whatever happens; limits checked by independent sums."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from melter.errors import LinkFault, VisionFault
from melter.geometry.paths import SandPath
from melter.machine import load_machine
from melter.observation import DROP_M, ObservationBuilder
from melter.safety.interlock import State

MACHINE = load_machine()
LIMITS = MACHINE.limits
PERIOD_S = MACHINE.control.period_s


def raising(error: BaseException, when: Any) -> Any:
    """A trouble that strikes once ``when`` says so, for ever after."""

    def trouble(_: Any) -> None:
        if when():
            raise error

    return trouble


def speeds(bench: Any) -> np.ndarray:
    return np.array([line["approved_m_s"] for line in bench.lines("tick")])


def require_limits(bench: Any) -> None:
    """What was sent, by sums of this file's own: speed, change of speed, pace, and lengths."""
    seen = speeds(bench)
    modes = np.array([line["mode"] for line in bench.lines("tick")])
    fastest = np.where(modes == "policy", LIMITS.speed_normal_m_s, LIMITS.speed_max_m_s)
    assert (np.abs(seen) <= fastest[:, None] + 1e-9).all()
    whole = np.concatenate([np.zeros((1, 8)), seen])
    assert np.abs(np.diff(whole, axis=0)).max() <= LIMITS.acceleration_max_m_s2 * PERIOD_S + 1e-9
    times = np.array([line["approved_host_s"] for line in bench.lines("tick")])
    # wall-clock windows: never more than one command more than periods fit in
    for count in (10, 50):
        if len(times) > count:
            assert (times[count:] - times[:-count]).min() >= (count - 1) * PERIOD_S - 1e-9
    lengths = bench.robot.kinematics.park_lengths_m + np.cumsum(seen, axis=0) * PERIOD_S
    assert lengths.min() > LIMITS.cable_length_min_m
    assert lengths.max() < LIMITS.cable_length_max_m


def require_dark(bench: Any) -> None:
    assert bench.gate.state is State.PARKED
    assert np.abs(bench.robot.lengths - bench.robot.kinematics.park_lengths_m).max() < 0.002
    assert bench.robot.events[-1] == "stop"
    require_limits(bench)


def test_from_park_to_work_along_the_path_and_back(bench: Any) -> None:
    result = bench.run()
    assert result.finished
    assert result.dark
    assert result.faults == []
    assert result.late == 0
    require_dark(bench)
    assert len(result.errors_mm) == pytest.approx(40, abs=2)  # two seconds at 20 Hz
    assert np.sqrt(np.mean(np.square(result.errors_mm))) < 1
    events = [line["event"] for line in bench.lines("event")]
    assert events == ["armed", "transit", "work", "dark", "parked"]
    assert bench.lines("tick")[0]["mode"] == "transit"
    assert result.ticks == len([line for line in bench.lines("tick") if line["mode"] != "dark"])


def test_transit_reaches_the_lengths_of_work_at_rest(bench: Any) -> None:
    bench.run()
    ticks = bench.lines("tick")
    last = max(i for i, line in enumerate(ticks) if line["mode"] == "transit")
    builder = ObservationBuilder(MACHINE)
    reference = builder.reference(np.array(MACHINE.sun.zenith_rad), np.array(MACHINE.sun.azimuth_rad))
    wanted = builder.reference_lengths_m(bench.path.points_world_m[0], reference)
    reached = bench.robot.kinematics.park_lengths_m + speeds(bench)[: last + 1].sum(axis=0) * PERIOD_S
    np.testing.assert_allclose(reached, wanted, atol=2e-4)
    assert np.abs(speeds(bench)[last]).max() < 0.002


def test_every_command_was_recorded_before_it_was_sent(bench: Any) -> None:
    written: list[dict[str, Any]] = []
    sent = bench.robot.send

    def send(command: Any) -> Any:
        assert written
        assert written[-1]["sequence"] == command.sequence
        np.testing.assert_array_equal(written[-1]["approved_m_s"], command.speeds_m_s)
        return sent(command)

    bench.robot.send = send
    from melter.loop.recorder import Recorder

    original = Recorder.write

    def write(self: Any, kind: str, **fields: Any) -> None:
        if kind == "tick":
            written.append(fields)
        original(self, kind, **fields)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "write", write)
        assert bench.run().finished
    sequences = [line["sequence"] for line in bench.lines("tick")]
    assert sequences == sorted(set(sequences))
    assert sequences == [command.sequence for command in bench.robot.sent]
    for line, command in zip(bench.lines("tick"), bench.robot.sent, strict=True):
        np.testing.assert_allclose(line["approved_m_s"], command.speeds_m_s, atol=1e-9)


def test_a_tick_holds_what_is_needed_to_learn_from_it(bench: Any) -> None:
    bench.run()
    work = [line for line in bench.lines("tick") if line["mode"] == "policy"]
    for line in (work[0], work[-1]):
        assert {"host_s", "approved_host_s", "requested_m_s", "approved_m_s", "lengths_m", "lengths_host_s"} <= set(
            line
        )
        assert {"patch_status", "patch_centre_m", "patch_captured_host_s", "t_s", "target_world_m"} <= set(line)
        assert len(line["observation"]) == ObservationBuilder(MACHINE).size
        assert len(line["action"]) == 8


def test_the_time_limit_ends_the_path(bench: Any) -> None:
    bench.path = SandPath(np.array([(-0.05, 0.0), (0.05, 0.0)]), 0.003)
    result = bench.run(max_s=1.0)
    assert result.finished
    assert result.dark
    assert len(result.errors_mm) == pytest.approx(20, abs=2)


@pytest.mark.parametrize("phase_s", [0.0, 1.0])
@pytest.mark.parametrize("error", [LinkFault("winch board: silent"), VisionFault("camera 0: no new frame")])
def test_faults_in_work_end_in_the_dark_and_are_named(bench: Any, error: Exception, phase_s: float) -> None:
    bench.robot.trouble = raising(error, bench.in_work(phase_s))
    result = bench.run()
    assert not result.finished
    assert result.dark
    assert result.faults == [f"{type(error).__name__}: {error}"]
    assert [(line["fault"], line["reason"]) for line in bench.lines("fault")] == [(type(error).__name__, str(error))]
    require_dark(bench)


def test_a_fault_on_the_way_into_work(bench: Any) -> None:
    bench.robot.trouble = raising(VisionFault("camera gone"), lambda: len(bench.robot.sent) > 60)
    result = bench.run()
    assert result.dark
    assert result.errors_mm == []
    assert {line["mode"] for line in bench.lines("tick")} == {"transit", "dark"}
    require_dark(bench)


def test_a_cloud_is_waited_for_out_of_focus_and_the_path_goes_on_where_it_was(bench: Any) -> None:
    gone, since = bench.in_work(0.5), []

    def sight(robot: Any) -> bool:
        if gone() and not since:
            since.append(robot.clock.now())
        return not since or robot.clock.now() > since[0] + 8.0

    bench.robot.sight, bench.robot.sunless = sight, True
    result = bench.run()
    assert result.faults == []
    assert result.finished
    waiting = [line for line in bench.lines("tick") if line.get("waiting_drop_m")]
    assert max(line["waiting_drop_m"] for line in waiting) == pytest.approx(DROP_M)
    assert waiting[-1]["host_s"] - waiting[0]["host_s"] > 8.0
    assert {tuple(line["target_world_m"]) for line in waiting} == {tuple(waiting[0]["target_world_m"])}
    times = [line["t_s"] for line in bench.lines("tick") if line.get("t_s") is not None]
    assert np.diff(times).max() < 3 * PERIOD_S
    assert max(result.errors_mm) < 5


def test_a_learner_moves_what_the_policy_sees_and_not_what_is_reported(bench: Any) -> None:
    class Mover:
        share = 1.0
        calls = 0

        def move(self, plan: Any, measurement: Any) -> Any:
            return replace(plan, target_world_m=plan.target_world_m + 0.002), measurement

        def learn(self, *_: Any) -> None:
            self.calls += 1

    mover = Mover()
    bench.more = {"learner": mover}
    bench.run()
    assert mover.calls > 50
    assert bench.session.learning_from is not None
    ticks = [line for line in bench.lines("tick") if line.get("t_s") is not None]
    assert all(line["learned_share"] == 1.0 for line in ticks)
    spots = np.array([line["patch_centre_m"] for line in ticks[40:]])
    targets = np.array([line["target_world_m"] for line in ticks[40:]])
    assert (spots - targets).mean(axis=0) == pytest.approx([0.002, 0.002], abs=0.0007)


def test_a_patch_that_is_lost(bench: Any) -> None:
    gone = bench.in_work(0.5)
    bench.robot.sight = lambda _: not gone()
    result = bench.run()
    assert result.dark
    assert result.faults[0].startswith("VisionFault: light patch not seen for 1.")
    require_dark(bench)


def test_a_patch_that_is_hidden_for_a_moment_is_no_fault(bench: Any) -> None:
    count = 0

    def sight(_: Any) -> bool:
        nonlocal count
        count += bench.in_work(0.2)()
        return not 0 < count < 10

    bench.robot.sight = sight
    assert bench.run().faults == []


def test_cables_that_stray_from_the_plan(bench: Any) -> None:
    """A policy that drives away at full speed is stopped long before the spot leaves the bed."""
    bench.act = lambda observation: np.ones((1, 8), np.float32) * [1, -1, 1, -1, -1, 1, -1, 1]
    result = bench.run()
    assert result.dark
    assert "from its reference" in result.faults[0] or "keep-in" in result.faults[0]
    require_dark(bench)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_policy_that_answers_nonsense(bench: Any, wrong: float) -> None:
    bench.act = lambda observation: np.full((1, 8), wrong, np.float32)
    result = bench.run()
    assert result.dark
    assert "finite" in result.faults[0]
    require_dark(bench)


def test_a_policy_that_breaks(bench: Any) -> None:
    def act(_: Any) -> Any:
        raise ZeroDivisionError("a bug")

    bench.act = act
    result = bench.run()
    assert result.dark
    assert result.faults == ["ZeroDivisionError: a bug"]
    assert "act" in next(line for line in bench.lines("event") if line["event"] == "unexpected")["traceback"]
    require_dark(bench)


def test_a_full_disk_does_not_keep_the_light_on(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from melter.loop.recorder import Recorder

    original = Recorder.write

    def write(self: Any, kind: str, **fields: Any) -> None:
        if bench.in_work(0.5)():
            raise OSError(28, "No space left on device")
        original(self, kind, **fields)

    monkeypatch.setattr(Recorder, "write", write)
    result = bench.run()
    assert result.dark
    assert "No space left" in result.faults[0]
    assert np.abs(bench.robot.lengths - bench.robot.kinematics.park_lengths_m).max() < 0.002


def test_a_closed_terminal_does_not_keep_the_light_on(bench: Any) -> None:
    def on_tick(_: Any) -> None:
        if bench.in_work(0.5)():
            raise BrokenPipeError

    bench.on_tick = on_tick
    result = bench.run()
    assert result.dark
    require_dark(bench)


@pytest.mark.parametrize("again", [False, True])
def test_ctrl_c_goes_dark_first(bench: Any, again: bool) -> None:
    """And asked again while it lowers, it goes on lowering."""
    bench.robot.trouble = raising(KeyboardInterrupt(), bench.in_work(0.5))
    lengths, count = bench.robot.lengths_m, 0

    def impatient() -> np.ndarray:
        nonlocal count
        count += 1
        if again and count in (3, 10):
            raise KeyboardInterrupt
        return lengths()

    bench.robot.lengths_m = impatient
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    assert bench.session.result.dark
    assert [line["event"] for line in bench.lines("event")][-3:] == ["interrupted", "dark", "parked"]
    require_dark(bench)


def test_a_link_that_comes_back_on_the_way_to_dark(bench: Any) -> None:
    bench.robot.trouble = raising(LinkFault("board reset"), bench.in_work(0.5))
    broken = 2

    def link(robot: Any) -> None:
        nonlocal broken
        if bench.gate.state is State.DARKENING and broken:
            broken -= 1
            raise LinkFault("still away")

    bench.robot.link = link
    result = bench.run()
    assert result.dark
    assert bench.robot.events.count("recover") == 2
    assert len(result.faults) == 3
    assert np.abs(bench.robot.lengths - bench.robot.kinematics.park_lengths_m).max() < 0.01


def test_a_link_that_stays_away_is_not_called_dark(bench: Any) -> None:
    def link(_: Any) -> None:
        if bench.in_work(0.5)():
            raise LinkFault("unplugged")

    bench.robot.link = link
    result = bench.run()
    assert not result.dark
    assert not result.finished
    assert result.faults[0] == "LinkFault: unplugged"
    assert bench.lines("event")[-1]["event"] == "not dark"
    assert len(result.faults) < 20


def test_arms_only_at_park(bench: Any) -> None:
    bench.robot.lengths = bench.robot.lengths + 0.01
    result = bench.run()
    assert "park" in result.faults[0]
    assert not result.dark  # nobody knows where the light is
    assert bench.robot.sent == []
    assert result.ticks == 0
    assert not result.finished


def test_arms_only_at_standstill(bench: Any) -> None:
    bench.robot.drift_m_s = np.full(8, 0.003)
    bench.robot.lengths = bench.robot.lengths - 0.001
    result = bench.run()
    assert "at rest" in result.faults[0]
    assert bench.robot.sent == []


def test_a_fault_before_arming_moves_nothing(bench: Any) -> None:
    bench.robot.trouble = raising(LinkFault("no board"), lambda: True)
    result = bench.run()
    assert result.faults == ["LinkFault: no board"]
    assert bench.robot.sent == []
    assert result.dark  # it never left park


def test_late_ticks_are_counted_and_survived(bench: Any) -> None:
    """A computer that dozes 80 ms every second, but never sends faster than the period for it."""
    count = 0

    def late(_: float) -> float:
        nonlocal count
        count += 1
        return 0.08 if count % 20 == 0 else 0.004 * (count % 3)

    bench.clock.late = late
    result = bench.run()
    assert result.finished
    assert result.dark
    assert result.late > 3
    require_dark(bench)


def test_a_computer_that_falls_asleep_ends_in_the_dark(bench: Any) -> None:
    slept = False

    def late(_: float) -> float:
        nonlocal slept
        if bench.in_work(0.5)() and not slept:
            slept = True
            return 3.0
        return 0.0

    bench.clock.late = late
    result = bench.run()
    assert result.dark
    assert not result.finished
    assert "late" in result.faults[0] or "stale" in result.faults[0]


def test_the_spot_is_kept_on_the_bed(bench: Any) -> None:
    """A path beyond the keep-in polygon: whoever drew it, the gate goes dark before the spot leaves."""
    bench.path = SandPath(np.array([(0.38, 0.0), (0.60, 0.0)]), 0.02)
    spots = []
    bench.on_tick = lambda tick: spots.append(bench.robot.spot_m) if tick["mode"] == "policy" else None
    result = bench.run()
    assert result.dark
    assert "keep-in" in result.faults[0]
    assert np.max(np.array(spots)[:, 0]) < 0.45
