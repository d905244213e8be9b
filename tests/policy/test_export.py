"""ONNX files: the same actions as the original, whatever the network, and what the file says of itself."""

from __future__ import annotations

import importlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from melter.errors import BadInput, MelterError, OutputExists
from melter.machine import Machine
from melter.observation import ObservationBuilder
from melter.policy import export
from melter.policy.load import load_for
from melter.safety.bundle import manifest_for, save_bundle
from melter.safety.net import ACTIVATIONS, PolicyNet

onnx: Any = pytest.importorskip("onnx")


def net_of(sizes: tuple[int, ...], activation: str, squash: str, mean_clip: float | None, seed: int = 0) -> PolicyNet:
    rng = np.random.default_rng(seed)
    layers = tuple(
        (rng.normal(0, 2 / np.sqrt(a), (b, a)).astype(np.float32), rng.normal(0, 0.3, b).astype(np.float32))
        for a, b in pairwise(sizes)
    )
    return PolicyNet(layers, activation, squash, mean_clip)


def reference_actions(content: bytes, observations: Any) -> Any:
    """By onnx's own evaluator, which is written apart from the runtime."""
    evaluator = importlib.import_module("onnx.reference").ReferenceEvaluator(content)
    with np.errstate(all="ignore"):
        return evaluator.run(None, {"observation": observations})[0]


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize(("squash", "mean_clip"), [("clip", None), ("tanh", None), ("tanh", 2.0)])
def test_every_network_gives_the_same_actions(activation: str, squash: str, mean_clip: float | None) -> None:
    net = net_of((30, 24, 16, 8), activation, squash, mean_clip)
    content = export.onnx_bytes(net, {})
    observations = export.trial_observations(np.full(30, 25, np.float32), np.random.default_rng(1))
    expected = net.act(observations)
    assert 0.1 < np.abs(expected).mean() < 1, "some in range, some at the bound"
    np.testing.assert_allclose(reference_actions(content, observations), expected, atol=1e-5)
    pytest.importorskip("onnxruntime")
    name, evaluate = export._runtime(content)
    np.testing.assert_allclose(evaluate(observations), expected, atol=1e-5, err_msg=name)


def test_the_file_says_what_it_is(hand_made: Any, tmp_path: Path, corner8: Machine) -> None:
    policy = load_for(hand_made(tmp_path / "run"), corner8)
    found = export.export_onnx(policy, corner8, tmp_path / "p.onnx")
    assert found.largest_difference <= 1e-5
    assert found.checked > 9000
    model = onnx.load(tmp_path / "p.onnx")
    told = {item.key: item.value for item in model.metadata_props}
    builder = ObservationBuilder(corner8)
    assert told["observation_sha256"] == builder.sha256
    assert told["machine_sha256"] == corner8.sha256
    assert told["policy_sha256"] == policy.sha256
    assert float(told["control_rate_hz"]) == corner8.control.rate_hz
    assert sum(entry["size"] for entry in json.loads(told["observation_table"])) == builder.size
    shapes = [
        [d.dim_value for d in end.type.tensor_type.shape.dim] for end in (model.graph.input[0], model.graph.output[0])
    ]
    assert shapes == [[0, builder.size], [0, 8]]
    assert not list(tmp_path.glob(".p*"))


def test_without_the_runtime_the_reference_checks(
    hand_made: Any, tmp_path: Path, corner8: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_for(hand_made(tmp_path / "run"), corner8)
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert export.export_onnx(policy, corner8, tmp_path / "p.onnx").runtime == "onnx reference"


def test_without_onnx_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx.numpy_helper", None)
    with pytest.raises(BadInput, match="pip install onnx"):
        export.onnx_bytes(net_of((4, 8), "relu", "clip", None), {})


def test_a_file_that_disagrees_is_not_kept(
    hand_made: Any, tmp_path: Path, corner8: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_for(hand_made(tmp_path / "run"), corner8)
    monkeypatch.setattr(
        export, "_runtime", lambda _: ("broken", lambda batch: policy.net.act(batch) + np.float32(2e-5))
    )
    with pytest.raises(MelterError, match="differs"):
        export.export_onnx(policy, corner8, tmp_path / "p.onnx")
    monkeypatch.setattr(export, "_runtime", lambda _: ("broken", lambda batch: policy.net.act(batch) * np.nan))
    with pytest.raises(MelterError, match="differs"):
        export.export_onnx(policy, corner8, tmp_path / "p.onnx")
    assert not (tmp_path / "p.onnx").exists()


def test_refusals(hand_made: Any, tmp_path: Path, corner8: Machine) -> None:
    policy = load_for(hand_made(tmp_path / "run"), corner8)
    taken = tmp_path / "taken.onnx"
    taken.write_bytes(b"mine")
    for path, kind in ((tmp_path / "p.pt", BadInput), (tmp_path / "gone" / "p.onnx", BadInput), (taken, OutputExists)):
        with pytest.raises(kind, match="onnx"):
            export.export_onnx(policy, corner8, path)
    assert taken.read_bytes() == b"mine"
    export.export_onnx(policy, corner8, taken, overwrite=True)
    assert onnx.load(taken).graph.node


def test_a_deep_network_stays_within_the_bound(corner8: Machine, tmp_path: Path) -> None:
    builder = ObservationBuilder(corner8)
    net = net_of((builder.size, 256, 256, 8), "relu", "tanh", None, seed=5)
    save_bundle(tmp_path, net, manifest_for(net, corner8, builder.table, builder.sha256, "sac"))
    assert export.export_onnx(load_for(tmp_path, corner8), corner8, tmp_path / "p.onnx").largest_difference <= 1e-5
