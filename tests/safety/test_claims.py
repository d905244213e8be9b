"""Claims of rollouts and drills: what makes them true, false, required or only reported; and what a tick costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from melter.machine import load_machine
from melter.observation import ObservationBuilder
from melter.safety import check as check_module
from melter.safety.bundle import load_policy, manifest_for, save_bundle
from melter.safety.check import Visited, check
from melter.safety.claims import Claim
from melter.safety.dark_claims import dynamic_claims
from melter.safety.drill import DarkDrill
from melter.safety.net import PolicyNet
from melter.safety.proof import ProofResult
from melter.safety.report import page
from melter.safety.ticking import Ticking

MACHINE = load_machine()
BUILDER = ObservationBuilder(MACHINE)


def drill(**changes: Any) -> DarkDrill:
    given: dict[str, Any] = {
        "fault": np.array(["dead winch", "dead winch", "slack cable", "cut serial line"]),
        "winch": np.array([0, 1, 2, 3]),
        "zenith_rad": np.radians([10.0, 20.0, 30.0, 40.0]),
        "excused": np.array(["held up", "", "", "no line"]),
        "bright_before": np.ones(4, dtype=bool),
        "held": np.ones(4, dtype=bool),
        "melting_s": np.array([1.0, 1.5, 0.5, np.inf]),
        "bright_s": np.array([np.inf, 5.0, 3.0, np.inf]),
        "outside": np.zeros(4, dtype=bool),
        "reported_s": 0.6,
        "peaks_w_m2": np.full((4, 20), 2e5),
        "period_s": 0.05,
    }
    return DarkDrill(**(given | changes))


def by_name(claims: list[Claim]) -> dict[str, Claim]:
    return {claim.name: claim for claim in claims}


def test_faults_that_physics_excuses_stand_in_a_line_of_their_own() -> None:
    claims = by_name(dynamic_claims(drill()))
    assert claims["going dark with dynamics: below melting"].status == "not proven"
    assert claims["going dark with dynamics: below melting"].best == 1.5
    assert claims["going dark with dynamics: below melting"].required
    late = claims["from the fault on: below melting"]
    assert (late.status, late.best, late.required) == ("falsified", pytest.approx(2.1), False)  # 0.6 s to notice it
    assert "1 of 2 too late" in late.method
    assert claims["from the fault on: below 10 kW/m²"].status == "falsified"
    excused = claims["going dark after a dead winch"]
    assert (excused.status, excused.required, excused.best) == ("falsified", False, 1.0)
    assert "1 of 1 stay brighter than they should, 1 of them melting" in excused.method
    assert excused.method.endswith("zenith 10° to 10°")
    assert "no line; 1 of 1" in claims["going dark after a cut serial line"].method


@pytest.mark.parametrize(
    ("changes", "name", "required"),
    [
        ({"melting_s": np.array([1.0, 1.51, 0.5, 0.5])}, "going dark with dynamics: below melting", True),
        ({"bright_s": np.array([1.0, 4.41, 0.5, 0.5])}, "from the fault on: below 10 kW/m²", False),
        ({"melting_s": np.array([1.0, 0.91, 0.5, 0.5])}, "from the fault on: below melting", False),
        (
            {"outside": np.array([True, False, False, False])},
            "going dark with dynamics: melting light on the bed",
            True,
        ),
    ],
)
def test_drills_that_fail(changes: dict[str, Any], name: str, required: bool) -> None:
    claim = by_name(dynamic_claims(drill(**changes)))[name]
    assert (claim.status, claim.required) == ("falsified", required)
    nobody = drill(**changes, held=np.array([False, False, False, False]))
    assert by_name(dynamic_claims(nobody))[name].status == "not proven"


def test_in_time_from_the_fault_at_the_limit_itself() -> None:
    claims = by_name(dynamic_claims(drill(melting_s=np.array([0, 0.9, 0.0, 0]), bright_s=np.array([0, 4.4, 0.0, 0]))))
    assert claims["from the fault on: below melting"].status == "not proven"
    assert claims["from the fault on: below melting"].best == pytest.approx(1.5)
    assert claims["from the fault on: below 10 kW/m²"].best == pytest.approx(5.0)


def test_excused_machines_that_went_dark_falsify_nothing() -> None:
    claims = by_name(dynamic_claims(drill(bright_s=np.full(4, 3.0), melting_s=np.full(4, 0.8))))
    assert claims["going dark after a dead winch"].status == "not proven"


def visited(**changes: Any) -> Visited:
    zero = np.zeros((1, BUILDER.size), dtype=np.float32)
    given: dict[str, Any] = {
        "observations": zero,
        "lengths_m": np.zeros((0, 8)),
        "speeds_um": np.array([[1000, 2000, 0, 0, 0, 0, 0, -2500]]),
        "sun_world": np.zeros((0, 3)),
        "steepest": (np.zeros((2, BUILDER.size), dtype=np.float32), 0.1),
        "episodes": 4,
        "outside": 0,
        "first_outside": None,
        "tension_n": (20.0, 280.0),
    }
    return Visited(**(given | changes))


def test_a_policy_that_loses_the_machine_fails_with_an_observation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_module, "prove", lambda *_a, **_k: ProofResult(10, 100, 0, 0, 1, None, 0.0))
    net = PolicyNet(((np.zeros((8, BUILDER.size), "f"), np.full(8, 0.1, "f")),), "tanh", "clip")
    save_bundle(tmp_path, net, manifest_for(net, MACHINE, BUILDER.table, BUILDER.sha256, "test"))
    policy, rng = load_policy(tmp_path), np.random.default_rng(0)
    high = BUILDER.high.astype(float)
    good = check(policy, MACHINE, high, rng=rng, visited=visited(), dark=drill(), quick=True)
    assert good.verdict == "pass"
    assert by_name(list(good.claims))["machine in hand"].status == "not proven"
    text = page(good)
    assert text.count("<svg") == 4 + 2  # and the counterexample of what is no number
    without = page(check(policy, MACHINE, high, rng=rng, visited=visited(), quick=True))
    assert without.count("<svg") == 3 + 2
    seen = np.full((1, BUILDER.size), 0.5, dtype=np.float32)
    lost = visited(ended={"spot lost": 2, "lens tipped": 1}, first_ended=seen)
    bad = check(policy, MACHINE, high, rng=rng, visited=lost, quick=True)
    claim = by_name(list(bad.claims))["machine in hand"]
    assert (claim.status, claim.best, claim.required, bad.verdict) == ("falsified", 3.0, True, "fail")
    assert "spot lost: 2, lens tipped: 1" in claim.method
    assert claim.counterexample is not None
    assert claim.counterexample.observations == (tuple([0.5] * BUILDER.size),)
    assert claim.counterexample.actions[0] == pytest.approx([0.1] * 8)


@pytest.mark.parametrize("ticks", [2000, pytest.param(100_000, marks=pytest.mark.long)])
def test_ticks_hold_on_to_no_memory(ticks: int) -> None:
    assert Ticking(MACHINE).grown_bytes(ticks) < 64_000


def test_cost_of_a_tick_is_measured() -> None:
    cost = Ticking(MACHINE).measure(300)
    assert 0 < cost.median_s <= cost.p99_s
    assert cost.ticks == 300
