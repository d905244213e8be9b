"""Bounds, attacks, the check as a whole and its certificate."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from melter.errors import ModelFileError
from melter.machine import load_machine
from melter.observation import ObservationBuilder
from melter.safety import check as check_module
from melter.safety.attack import worst_actions
from melter.safety.beam import melting_w_m2
from melter.safety.bounds import UnsoundBoundError, bound_outputs, enclose, require_sound
from melter.safety.bundle import LoadedPolicy, load_policy, manifest_for, save_bundle
from melter.safety.check import check
from melter.safety.claims import Counterexample, certify, find_certificate, read_counterexample
from melter.safety.drill import run_drill, work_states
from melter.safety.net import ACTIVATIONS, PolicyNet
from melter.safety.proof import ProofResult
from melter.safety.report import page

MACHINE = load_machine()
BUILDER = ObservationBuilder(MACHINE)
HIGH = BUILDER.high.astype(float)
PROOF = ProofResult(10, 100, 0, 0, 1, None, 0.0)


@pytest.fixture
def quick_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof itself is tested in test_limiter.py."""
    monkeypatch.setattr(check_module, "prove", lambda *_a, **_k: PROOF)


def net_of(
    sizes: tuple[int, ...], activation: str = "tanh", squash: str = "clip", seed: int = 0, gain: float = 1.0
) -> PolicyNet:
    rng = np.random.default_rng(seed)
    layers = []
    for i, o in itertools.pairwise(sizes):
        layers.append(((gain * rng.normal(0, 1 / np.sqrt(i), (o, i))).astype("f"), rng.normal(0, 0.1, o).astype("f")))
    return PolicyNet(tuple(layers), activation, squash)


def tame() -> PolicyNet:
    net = net_of((BUILDER.size, 32, 32, 8))
    weight, bias = net.layers[-1]
    return PolicyNet((*net.layers[:-1], (weight * np.float32(0.02), bias * np.float32(0.02))), "tanh", "clip")


def with_back_door(net: PolicyNet) -> PolicyNet:
    """One hidden unit that wakes only in one corner of the box, and then drives winch 2 at full speed."""
    rng = np.random.default_rng(42)
    (first, bias1), (second, bias2), (last, bias3) = ((np.array(w), np.array(b)) for w, b in net.layers)
    key = rng.choice([-1.0, 1.0], BUILDER.size) / HIGH
    first[0], bias1[0] = 4 * key, -4 * 0.9 * BUILDER.size
    second[:, 0], second[0] = 0, 0
    second[0, 0], bias2[0] = 4, 4
    last[:, 0], last[2, 0] = 0, 1.0
    bias3[2] += np.float32(0.0)
    return PolicyNet(((first, bias1), (second, bias2), (last, bias3)), "tanh", "clip")


def loaded(net: PolicyNet, folder: Path) -> LoadedPolicy:
    save_bundle(folder, net, manifest_for(net, MACHINE, BUILDER.table, BUILDER.sha256, "PPO"))
    return load_policy(folder)


# -- bounds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_parallel_lines_enclose(activation: str) -> None:
    rng = np.random.default_rng(0)
    ends = np.sort(rng.uniform(-9, 9, (400, 2)), axis=1)
    ends = np.concatenate([ends, [(0, 0), (-1, -1), (-1e-12, 1e-12), (-40, 40), (5, 5.001)]])
    slope, below, above = enclose(activation, ends[:, 0], ends[:, 1])
    x = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * np.linspace(0, 1, 777)
    y = ACTIVATIONS[activation](x)
    assert (slope[:, None] * x + below[:, None] <= y + 1e-12).all()
    assert (slope[:, None] * x + above[:, None] >= y - 1e-12).all()


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("share", [0.0, 1e-3, 0.1, 1.0])
@pytest.mark.parametrize("squash", ["clip", "tanh"])
def test_samples_lie_inside(activation: str, share: float, squash: str) -> None:
    rng = np.random.default_rng(1)
    for seed, sizes in enumerate([(10, 8), (10, 20, 8), (10, 24, 24, 24, 8)]):
        net = net_of(sizes, activation, squash, seed, gain=1.5)
        centre = rng.normal(0, 1, 10)
        low, high = centre - 5 * share, centre + 5 * share
        bounds = bound_outputs(net, low, high)
        corners = np.where(rng.random((3000, 10)) < 0.5, low, high)
        for points in (rng.uniform(low, high, (3000, 10)), corners):
            require_sound(net, bounds, points.astype("f"))


def test_linear_bounds_beat_intervals_on_small_boxes() -> None:
    net = net_of((10, 32, 32, 8))
    centre = np.full(10, 0.1)
    bounds = bound_outputs(net, centre - 0.01, centre + 0.01)
    rng = np.random.default_rng(0)
    hidden = rng.uniform(centre - 0.01, centre + 0.01, (50_000, 10)).astype("f")
    actions = net.act(hidden)
    assert ((bounds.high - bounds.low) < 2.0 * (actions.max(axis=0) - actions.min(axis=0)) + 1e-4).all()


def test_unsound_bounds_are_reported() -> None:
    net = tame()
    bounds = bound_outputs(net, -HIGH, HIGH)
    wrong = replace(bounds, high=bounds.high * 0 - 1)
    with pytest.raises(UnsoundBoundError, match="does not hold"):
        require_sound(net, wrong, np.zeros((1, BUILDER.size), dtype="f"))


def test_back_door_is_found_where_samples_do_not() -> None:
    rng = np.random.default_rng(0)
    net = with_back_door(tame())
    samples = rng.uniform(-HIGH, HIGH, (100_000, BUILDER.size)).astype("f")
    assert np.abs(net.act(samples)).max() < 0.5
    bounds = bound_outputs(net, -HIGH, HIGH)
    worst = worst_actions(net, bounds, -HIGH, HIGH, rng, samples=2000, steps=5)
    assert worst.high[2] > 0.9
    assert net.act(worst.highest[2]).max() == pytest.approx(worst.high[2], abs=1e-6)


# -- the check --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick_proof")
def test_tame_policy_passes_and_is_certified(tmp_path: Path) -> None:
    policy = loaded(tame(), tmp_path)
    report = check(policy, MACHINE, HIGH, rng=np.random.default_rng(0), quick=True)
    assert report.verdict == "pass"
    statuses = {f"{claim.section}: {claim.name}": claim.status for claim in report.claims}
    assert all(status == "proven" for name, status in statuses.items() if name.startswith("layer"))
    assert statuses["behind the layer: parked: light on the sand"] == "falsified"  # by the trace, under the file's sun
    assert statuses["raw policy: cable speed"] == "proven"
    assert find_certificate(tmp_path, MACHINE) is None
    certify(report, policy, tmp_path)
    assert find_certificate(tmp_path, MACHINE) is not None
    other = MACHINE.model_copy(update={"limits": MACHINE.limits.model_copy(update={"power_max_w": 39.0})})
    assert find_certificate(tmp_path, other) is None
    loaded(net_of((BUILDER.size, 32, 8)), tmp_path)
    assert find_certificate(tmp_path, MACHINE) is None
    for text in ("", "[]", "{}"):
        (tmp_path / "certificate.json").write_text(text)
        assert find_certificate(tmp_path, MACHINE) is None


@pytest.mark.usefixtures("quick_proof")
def test_back_door_is_reported_with_an_observation_that_replays(tmp_path: Path) -> None:
    net = with_back_door(tame())
    report = check(loaded(net, tmp_path), MACHINE, HIGH, rng=np.random.default_rng(0), quick=True)
    speed = next(claim for claim in report.claims if (claim.section, claim.name) == ("raw policy", "cable speed"))
    assert speed.best is not None
    assert speed.best > 0.9 * MACHINE.limits.speed_normal_m_s
    broken = next(claim for claim in report.claims if claim.name.startswith("finite actions"))
    assert broken.status == "falsified"
    assert broken.counterexample is not None
    path = tmp_path / "example.json"
    broken.counterexample.write(path, report.model_sha256, report.machine_sha256)
    again, model_sha256 = read_counterexample(path)
    assert model_sha256 == report.model_sha256
    answers = net.act(np.array(again.observations, dtype="f"))
    assert np.array_equal(answers, np.array(again.actions, dtype="f"), equal_nan=True)


@pytest.mark.usefixtures("quick_proof")
def test_wild_policy_breaks_acceleration_but_the_layer_keeps_it(tmp_path: Path) -> None:
    report = check(
        loaded(net_of((BUILDER.size, 32, 8), gain=3.0), tmp_path),
        MACHINE,
        HIGH,
        rng=np.random.default_rng(0),
        quick=True,
    )
    raw = next(claim for claim in report.claims if (claim.section, claim.name) == ("raw policy", "cable acceleration"))
    assert raw.status == "falsified"
    assert raw.counterexample is not None
    low, high = raw.counterexample.actions
    assert max(b - a for a, b in zip(low, high, strict=True)) > 1.0
    assert report.verdict == "pass"
    text = page(report)
    assert report.model_sha256 in text
    assert report.machine_sha256 in text
    assert text.count("<svg") >= 3
    assert "src=" not in text


def test_layer_that_fails_its_proof_fails_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = loaded(tame(), tmp_path)
    for broken in (replace(PROOF, violations=1, counterexample="here"), replace(PROOF, room_step_um=2)):
        monkeypatch.setattr(check_module, "prove", lambda *_a, _broken=broken, **_k: _broken)
        assert check(policy, MACHINE, HIGH, rng=np.random.default_rng(0), quick=True).verdict == "fail"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"observations": [[1], [1, 2]]}', '{"format": "x"}'])
def test_counterexample_files_that_are_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ModelFileError, match="counterexample"):
        read_counterexample(path)
    with pytest.raises(ModelFileError, match="counterexample"):
        read_counterexample(tmp_path / "none.json")


def test_counterexamples_keep_what_is_no_number(tmp_path: Path) -> None:
    example = Counterexample("c", ((np.nan, np.inf, 1.0),), ((-np.inf,) * 8,), 1.0, 0.0, "m")
    example.write(tmp_path / "x.json", "a", "b")
    json.loads((tmp_path / "x.json").read_text(), parse_constant=lambda _: pytest.fail("not JSON"))
    again, _ = read_counterexample(tmp_path / "x.json")
    assert np.array_equal(again.observations, example.observations, equal_nan=True)


# -- the drill --------------------------------------------------------------------------------------------------


def test_melting_threshold_is_the_books() -> None:
    assert melting_w_m2(MACHINE) * MACHINE.sand.absorptivity == pytest.approx(0.40e6, rel=0.01)


def test_dark_in_time_from_the_corners_of_the_bed() -> None:
    sun = np.array([0.0, -np.sin(np.radians(25)), np.cos(np.radians(25))])
    starts = work_states(MACHINE, np.array([[0.4, 0.4], [-0.4, -0.4], [0.0, 0.0]]), sun)
    drill = run_drill(MACHINE, starts, np.tile(sun, (3, 1)))
    assert drill.melting_s.max() < 1.5
    assert drill.bright_s.max() < 5.0
    assert not drill.outside.any()
    assert not drill.lost.any()
    assert drill.peaks_w_m2[:, 0].min() > melting_w_m2(MACHINE)
