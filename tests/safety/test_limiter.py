"""The limiter: both sides of every edge, and random runs against a braking oracle of its own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melter.errors import CommandRefused, MachineFileError
from melter.machine import Machine, load_machine
from melter.safety.limiter import TickLimits, braking_um, limit_command
from melter.safety.proof import ProofAhead, prove
from melter.safety.verify import violation

MACHINE = load_machine()
LIMITS = TickLimits.from_machine(MACHINE)
MIDDLE = np.full(8, (LIMITS.length_min_um + LIMITS.length_max_um) // 2)
REST = np.zeros(8, dtype=np.int64)


def changed(**limits: float) -> Machine:
    return MACHINE.model_copy(update={"limits": MACHINE.limits.model_copy(update=limits)})


def stop_um(speed: int, step: int) -> int:
    """Oracle: micrometres from now to rest, the period at ``speed`` included."""
    total = 0
    while speed > 0:
        total += speed
        speed = max(0, speed - step)
    return total


def one(requested: float, previous: int, length: int, tension: float | None = None, cap: int | None = None) -> int:
    tensions = None if tension is None else np.full(8, tension)
    out = limit_command(np.full(8, requested), np.full(8, previous), np.full(8, length), tensions, LIMITS, speed_um=cap)
    assert len(set(out.tolist())) == 1
    return int(out[0])


def test_limits_are_the_machine_files() -> None:
    assert LIMITS.speed_normal_um == 2500
    assert LIMITS.speed_max_um == 6000
    assert LIMITS.acceleration_um == 2500
    assert LIMITS.margin_um == 26_400
    assert LIMITS.length_min_um == 500_000 + 26_400
    assert LIMITS.length_max_um < 4_500_000 - 26_400


@pytest.mark.parametrize(
    ("requested", "expected"), [(0.0, 0), (0.05, 2500), (0.0501, 2500), (-0.05, -2500), (-1e300, -2500), (1e-12, 0)]
)
def test_normal_speed(requested: float, expected: int) -> None:
    assert one(requested, 0, int(MIDDLE[0])) == expected


@pytest.mark.parametrize(("previous", "expected"), [(0, 2500), (2500, 5000), (3500, 6000), (6000, 6000), (-1, 2499)])
def test_acceleration_at_the_maximal_speed(previous: int, expected: int) -> None:
    assert one(1.0, previous, int(MIDDLE[0]), cap=LIMITS.speed_max_um) == expected
    assert one(-1.0, -previous, int(MIDDLE[0]), cap=LIMITS.speed_max_um) == -expected


def test_slower_mode_is_approached_with_full_brakes() -> None:
    assert one(1.0, 6000, int(MIDDLE[0])) == 3500
    assert one(1.0, 3500, int(MIDDLE[0])) == 2500


@pytest.mark.parametrize("speed", [1, 1250, 2499, 2500])
def test_room_for_exactly_one_braking(speed: int) -> None:
    room = stop_um(speed, LIMITS.acceleration_um)
    assert room == braking_um(speed, LIMITS.acceleration_um)
    assert one(1.0, 0, LIMITS.length_max_um - room) == speed
    assert one(1.0, 0, LIMITS.length_max_um - room + 1) == speed - 1
    assert one(-1.0, 0, LIMITS.length_min_um + room) == -speed
    assert one(-1.0, 0, LIMITS.length_min_um + room - 1) == 1 - speed


def test_beyond_the_end_only_the_way_back_is_open() -> None:
    assert one(1.0, 0, LIMITS.length_max_um + 5) == 0
    assert one(-1.0, 0, LIMITS.length_max_um + 5) == -2500
    assert one(1.0, 6000, LIMITS.length_max_um) == 3500
    assert one(1.0, 0, LIMITS.length_min_um - 5) == 2500


@pytest.mark.parametrize(
    ("tension", "expected"), [(316.66, 6000), (316.7, 5999), (380.0, 5000), (1e9, 0), (-5.0, 6000), (0.0, 6000)]
)
def test_power(tension: float, expected: int) -> None:
    previous = min(expected, 3500) if expected else 0
    assert one(1.0, previous, int(MIDDLE[0]), tension, cap=LIMITS.speed_max_um) == expected


def test_power_at_a_speed_that_is_too_much_already_brakes_fully() -> None:
    assert one(1.0, 6000, int(MIDDLE[0]), 1000.0, cap=LIMITS.speed_max_um) == 3500
    assert one(-1.0, -6000, int(MIDDLE[0]), 1000.0, cap=LIMITS.speed_max_um) == -3500


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_a_number_is_refused(bad: float) -> None:
    request = np.zeros(8)
    request[3] = bad
    with pytest.raises(CommandRefused, match="finite"):
        limit_command(request, REST, MIDDLE, None, LIMITS)
    with pytest.raises(CommandRefused, match="tension_n"):
        limit_command(np.zeros(8), REST, MIDDLE, request, LIMITS)


def test_same_bits_in_every_batch_shape() -> None:
    rng = np.random.default_rng(0)
    request = rng.uniform(-0.2, 0.2, (4, 5, 8))
    previous = rng.integers(-6000, 6001, (4, 5, 8))
    length = rng.integers(LIMITS.length_min_um, LIMITS.length_max_um, (4, 5, 8))
    tension = rng.uniform(0, 500, (4, 5, 8))
    whole = limit_command(request, previous, length, tension, LIMITS)
    for i, j in np.ndindex(4, 5):
        assert (limit_command(request[i, j], previous[i, j], length[i, j], tension[i, j], LIMITS) == whole[i, j]).all()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_runs_from_admissible_states_keep_every_limit(data: st.DataObject) -> None:
    """Random walk of one winch, started anywhere admissible, limits re-checked by the oracle above."""
    step = LIMITS.acceleration_um
    speed = data.draw(st.integers(-LIMITS.speed_max_um, LIMITS.speed_max_um))
    spare = data.draw(st.integers(0, 15_000))
    ahead = stop_um(max(abs(speed) - step, 0), step)
    length = LIMITS.length_max_um - ahead - spare if speed >= 0 else LIMITS.length_min_um + ahead + spare
    for _ in range(12):
        wanted = data.draw(st.sampled_from([-1e9, -0.1, -0.01, 0.0, 0.003, 0.05, 1e9]))
        cap = data.draw(st.sampled_from([LIMITS.speed_normal_um, LIMITS.speed_max_um]))
        after = one(wanted, speed, length, cap=cap)
        assert abs(after - speed) <= step
        assert abs(after) <= max(cap, abs(speed) - step)
        length += after
        assert length + stop_um(max(after - step, 0), step) <= LIMITS.length_max_um
        assert length - stop_um(max(-after - step, 0), step) >= LIMITS.length_min_um
        speed = after


@settings(max_examples=200, deadline=None)
@given(
    st.integers(-6000, 6000),
    st.integers(-3_000, 20_000),
    st.floats(-0.3, 0.3),
    st.none() | st.floats(0, 2000),
    st.booleans(),
)
def test_post_condition_agrees_with_the_limiter(
    speed: int, room: int, wanted: float, tension: float | None, top: bool
) -> None:
    """Whatever the state, even one that lies, what the limiter gives passes the independent check."""
    length = LIMITS.length_max_um - room if top else LIMITS.length_min_um + room
    out = one(wanted, speed, length, tension, LIMITS.speed_max_um)
    tensions = None if tension is None else [tension] * 8
    assert violation([out] * 8, [speed] * 8, [length] * 8, tensions, LIMITS, LIMITS.speed_max_um) is None


@pytest.mark.parametrize(
    ("speed", "previous", "length", "tension", "what"),
    [
        (2501, 0, int(MIDDLE[0]), None, "change above"),
        (-2501, 0, int(MIDDLE[0]), None, "change above"),
        (6001, 6000, int(MIDDLE[0]), None, "speed limit"),
        (2500, 2400, int(MIDDLE[0]), 800.0, "power"),
        (100, 0, LIMITS.length_max_um - 99, None, "cannot stop"),
        (-100, 0, LIMITS.length_min_um + 99, None, "cannot stop"),
        (3000, 6000, LIMITS.length_max_um, None, "change above"),
    ],
)
def test_post_condition_finds(speed: int, previous: int, length: int, tension: float | None, what: str) -> None:
    tensions = None if tension is None else [tension] * 8
    found = violation([speed] * 8, [previous] * 8, [length] * 8, tensions, LIMITS, LIMITS.speed_max_um)
    assert found is not None
    assert what in found


@pytest.mark.parametrize(
    ("speed", "previous", "length"),
    [
        (2500, 0, int(MIDDLE[0])),
        (3500, 6000, LIMITS.length_max_um),
        (-3500, -6000, 0),
        (0, 2500, 0),
        (100, 0, LIMITS.length_max_um - 100),
    ],
)
def test_post_condition_lets_through(speed: int, previous: int, length: int) -> None:
    assert violation([speed] * 8, [previous] * 8, [length] * 8, None, LIMITS, LIMITS.speed_max_um) is None


@pytest.mark.parametrize(
    ("limits", "what"),
    [
        ({"acceleration_max_m_s2": 1e-4}, "below one micrometre"),
        ({"speed_normal_m_s": 1e-6}, "below one micrometre"),
        ({"acceleration_max_m_s2": 0.003}, "braking from"),
        ({"power_max_w": 0.001}, "moves nothing"),
    ],
)
def test_limits_that_contradict_each_other(limits: dict[str, float], what: str) -> None:
    with pytest.raises(MachineFileError, match=what):
        TickLimits.from_machine(changed(**limits))


def test_large_tables_round_towards_safety() -> None:
    """A slow brake at high speed: the table is coarser than a micrometre, and still nothing overshoots."""
    limits = TickLimits.from_machine(changed(speed_max_m_s=1.2, acceleration_max_m_s2=0.9))
    assert limits.brake_shift == 0 or len(limits.brake_table) <= (1 << 20) + 1
    rng = np.random.default_rng(1)
    speed, length = np.zeros(8, dtype=np.int64), np.full(8, (limits.length_min_um + limits.length_max_um) // 2)
    for _ in range(400):
        speed = limit_command(rng.choice([-2.0, 2.0], 8), speed, length, None, limits, speed_um=limits.speed_max_um)
        length = length + speed
        assert (length <= limits.length_max_um).all()
        assert (length >= limits.length_min_um).all()


# -- the proof ------------------------------------------------------------------------------------------------

SMALL = TickLimits.from_machine(
    MACHINE.model_copy(
        update={
            "control": MACHINE.control.model_copy(update={"rate_hz": 100.0}),
            "limits": MACHINE.limits.model_copy(
                update={"speed_normal_m_s": 0.02, "speed_max_m_s": 0.04, "acceleration_max_m_s2": 1.3}
            ),
        }
    )
)


def test_proof_of_a_small_machine_counts_what_can_be_counted_by_hand() -> None:
    result = prove(SMALL)
    assert result.proven
    assert result.room_step_um == 1
    step, fastest = SMALL.acceleration_um, SMALL.speed_max_um
    rooms = stop_um(fastest, step) + 1
    by_hand = 0
    for speed in range(-fastest, fastest + 1):
        needed = stop_um(max(speed - step, 0), step) if speed > 0 else 0
        by_hand += rooms - needed
    spare = result.states - 4 * by_hand  # some rooms far away fill the last row
    assert spare % (4 * (2 * fastest + 1)) == 0
    assert 0 < spare <= 4 * (2 * fastest + 1) * 16
    assert result.transitions > result.states


def test_proof_runs_on_what_it_is_given() -> None:
    def no_brakes(*args: object, **kwargs: object) -> np.ndarray:
        requested, previous, length, _, limits = args
        return (
            np.clip(
                np.sign(requested) * kwargs["speed_um"],
                previous - limits.acceleration_um,
                previous + limits.acceleration_um,
            ).astype(np.int64)
            + 0 * length
        )  # type: ignore[operator]

    result = prove(SMALL, limit=no_brakes)
    assert not result.proven
    assert result.violations > 0
    assert result.counterexample is not None


@pytest.mark.parametrize(
    "wrong",
    [
        lambda u, p: u + (p == 7),
        lambda u, p: np.where(p == 7, p + SMALL.acceleration_um + 1, u),
        lambda u, p: u - (p == 7) * 10_000,
    ],
)
def test_proof_finds_one_wrong_speed(wrong: object) -> None:
    def limit(*args: object, **kwargs: object) -> np.ndarray:
        return wrong(limit_command(*args, **kwargs), args[1])  # type: ignore[operator, arg-type]

    result = prove(SMALL, limit=limit)
    assert result.violations > 0


def test_proof_finds_empty_intervals() -> None:
    def crossed(requested: float, *args: object, **kwargs: object) -> np.ndarray:
        return limit_command(-requested, *args, **kwargs)  # type: ignore[arg-type]

    assert prove(SMALL, limit=crossed).empty_intervals > 0


def test_proof_that_skips_rooms_says_so() -> None:
    shares: list[float] = []
    result = prove(SMALL, most_states=10_000, progress=shares.append)
    assert result.room_step_um > 1
    assert not result.proven
    assert shares[0] == 0.0


def test_proof_ahead_hands_over_what_came_out() -> None:
    assert ProofAhead(lambda: prove(SMALL)).result().proven
    failing = ProofAhead(lambda: prove(SMALL, limit=lambda *_a, **_k: 1 // 0))
    with pytest.raises(ZeroDivisionError):
        failing.result()


def test_proof_of_corner8() -> None:
    result = prove(LIMITS)
    assert result.proven
    assert (result.violations, result.empty_intervals, result.counterexample) == (0, 0, None)
    assert result.states > 400_000_000


@pytest.mark.parametrize(
    ("speed", "tension", "good"),
    [(1000, 1900.0, True), (1000, 1902.0, False), (-1000, 1902.0, False), (2500, 0.5, True)],
)
def test_post_condition_on_power_both_sides(speed: int, tension: float, good: bool) -> None:
    """38 W in 50 ms are 1.9 N m: 1000 micrometres at 1900 N."""
    generous = dataclasses.replace(LIMITS, power_total_n_um=1e12)
    found = violation([speed] * 8, [0] * 8, MIDDLE.tolist(), [tension] * 8, generous, LIMITS.speed_max_um)
    assert (found is None) is good


def test_post_condition_on_power_below_one_newton() -> None:
    weak = dataclasses.replace(LIMITS, power_n_um=500.0)
    assert violation([1001] * 8, [0] * 8, MIDDLE.tolist(), [0.5] * 8, weak, LIMITS.speed_max_um) is not None
    assert violation([999] * 8, [0] * 8, MIDDLE.tolist(), [0.5] * 8, weak, LIMITS.speed_max_um) is None


@pytest.mark.parametrize("sign", [1, -1])
def test_post_condition_on_the_slowest_speed_at_the_end(sign: int) -> None:
    end = LIMITS.length_max_um if sign > 0 else LIMITS.length_min_um
    assert violation([sign] * 8, [0] * 8, [end] * 8, None, LIMITS, LIMITS.speed_max_um) is not None
    assert violation([sign] * 8, [0] * 8, [end - sign] * 8, None, LIMITS, LIMITS.speed_max_um) is None


@pytest.mark.parametrize(("spare", "good"), [(0, True), (-1, False)])
@pytest.mark.parametrize("sign", [1, -1])
def test_post_condition_walks_the_whole_braking(spare: int, good: bool, sign: int) -> None:
    """From 6000: 6000 + 3500 + 1000 micrometres."""
    room = 10_500 + spare
    length = LIMITS.length_max_um - room if sign > 0 else LIMITS.length_min_um + room
    found = violation([sign * 6000] * 8, [sign * 6000] * 8, [length] * 8, None, LIMITS, LIMITS.speed_max_um)
    assert (found is None) is good
