"""Broken requests and measurements by the hundred thousand; and that the checker would see a broken limit."""

from __future__ import annotations

import numpy as np
import pytest

from melter.machine import Machine, load_machine
from melter.safety import fuzz as fuzz_module
from melter.safety.batch import limit_each
from melter.safety.fuzz import MACHINES, fuzz
from melter.safety.limiter import TickLimits, limit_command

MACHINE = load_machine()
LIMITS = TickLimits.from_machine(MACHINE)


def supplied(watt: float) -> Machine:
    return MACHINE.model_copy(update={"limits": MACHINE.limits.model_copy(update={"power_total_max_w": watt})})


@pytest.mark.parametrize("machine", [MACHINE, supplied(70.0)], ids=["corner8", "weak supply"])
def test_no_limit_breaks(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_module, "MACHINES", 1024)
    shares: list[float] = []
    result = fuzz(machine, 150_000, np.random.default_rng(5), lambda done, _left: shares.append(done))
    assert result.first is None
    assert set(result.broken.values()) == {0}
    assert result.ticks >= 150_000
    assert min(result.checked.values()) >= 100
    assert result.checked["cable length"] == result.ticks
    assert 0.001 < result.refused / result.ticks < 0.2
    assert shares[-1] >= 1.0
    assert MACHINES > 1024


@pytest.mark.parametrize(
    ("wrong", "limit"),
    [
        (lambda c, p: np.where(p == 0, 6001, c), "acceleration"),
        (lambda c, _p: np.where(c >= 2499, c + 2, c), "speed of the mode"),
        (lambda c, p: np.where((c >= 0) & (p > 3000), np.minimum(p + 2500, 6010), c), "speed"),
        (lambda c, p: np.clip(p + 600, p - 2500, 2500) + 0 * c, "room to stop"),
        (lambda c, p: np.where(p < -2600, p, c), "room to stop"),
        (lambda c, p: c + (np.abs(p) < 2) * 2400, "cable length"),
        (lambda c, _p: np.where(np.abs(c) > 1900, np.sign(c) * 2500, c), "winch power"),
    ],
)
def test_checker_sees_a_broken_limiter(wrong: object, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> tuple[np.ndarray, np.ndarray]:
        counts, refused = limit_each(*args, **kwargs)  # type: ignore[arg-type]
        return wrong(counts, args[1]), refused  # type: ignore[operator]

    monkeypatch.setattr(fuzz_module, "MACHINES", 1024)
    monkeypatch.setattr(fuzz_module, "limit_each", broken)
    result = fuzz(MACHINE, 50_000, np.random.default_rng(5))
    assert result.broken[limit] > 0
    assert result.first is not None


def test_checker_sees_a_machine_that_is_refused_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_module, "MACHINES", 1024)
    monkeypatch.setattr(fuzz_module, "limit_each", lambda *_a, **_k: (_a[1], np.ones(1024, dtype=bool)))
    assert fuzz(MACHINE, 1000, np.random.default_rng(5)).broken["full brake when refused"] > 0


def test_checker_sees_too_much_power_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_module, "MACHINES", 1024)
    real = TickLimits.from_machine

    def generous(machine: Machine) -> TickLimits:
        return real(MACHINE if machine.limits.power_total_max_w else machine)

    monkeypatch.setattr(TickLimits, "from_machine", staticmethod(generous))
    result = fuzz(supplied(70.0), 50_000, np.random.default_rng(5))
    assert result.broken["total power"] > 0
    assert result.broken["winch power"] == 0


# -- the batch that is fuzzed -----------------------------------------------------------------------------------

MIDDLE_M = np.full((4, 8), 2.0)
MOVING = np.tile(np.array([2500, -2500, 6000, -6000, 1, -1, 0, 2501]), (4, 1))
BRAKED = [0, 0, 3500, -3500, 0, 0, 0, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", ["request", "length", "tension"])
def test_only_the_broken_machine_is_refused(bad: float, field: str) -> None:
    given = {"request": np.full((4, 8), 0.02), "length": MIDDLE_M.copy(), "tension": np.full((4, 8), 100.0)}
    whole = limit_command(given["request"], MOVING, LIMITS.um(given["length"]), given["tension"], LIMITS)
    given[field][2, 5] = bad
    counts, refused = limit_each(given["request"], MOVING, given["length"], given["tension"], LIMITS)
    assert refused.tolist() == [False, False, True, False]
    assert counts[2].tolist() == BRAKED
    assert (counts[[0, 1, 3]] == whole[[0, 1, 3]]).all()


@pytest.mark.parametrize(
    ("length", "good"), [(1e-9, True), (0.0, False), (-1.0, False), (1e300, False), (8.0, True), (9.0, False)]
)
def test_lengths_that_no_cable_has(length: float, good: bool) -> None:
    lengths = MIDDLE_M.copy()
    lengths[1, 0] = length
    _, refused = limit_each(np.zeros((4, 8)), MOVING, lengths, None, LIMITS, speed_um=LIMITS.speed_max_um)
    assert refused.tolist() == [False, not good, False, False]


def test_mode_is_passed_on() -> None:
    still = np.zeros((4, 8), dtype=np.int64) + 2500
    counts, _ = limit_each(np.full((4, 8), 1.0), still, MIDDLE_M, None, LIMITS, speed_um=LIMITS.speed_max_um)
    assert counts.tolist() == [[5000] * 8] * 4
    counts, _ = limit_each(np.full((4, 8), 1.0), still, MIDDLE_M, None, LIMITS)
    assert counts.tolist() == [[2500] * 8] * 4
