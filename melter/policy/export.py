"""A policy as an ONNX file, checked against the original before it gets its name.

The file holds all that stands between observation and action: the table's scaling is in the observation already (the
metadata tell it entry by entry), folded normalisation is in the first layer, squashing and clipping are at the end.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.errors import BadInput, MelterError, OutputExists
from melter.machine import Machine
from melter.observation import ObservationBuilder
from melter.safety.bundle import LoadedPolicy, write_beside
from melter.safety.net import PolicyNet

Batch = NDArray[np.float32]

OPSET, IR_VERSION = 18, 9
"""Old enough for runtimes of 2023, new enough for every operator used here."""
INPUT, OUTPUT = "observation", "action"
AGREEMENT = 1e-5
"""Largest difference from the original's actions."""
SAMPLES = 4096


@dataclass(frozen=True)
class Export:
    """What was written, and how closely it agrees with the original."""

    onnx: Path
    largest_difference: float
    """Over all checked observations and actions."""
    checked: int
    """Observations."""
    runtime: str
    """What evaluated the file for the check."""
    bytes: int


def export_onnx(
    policy: LoadedPolicy, machine: Machine, path: Path, *, seed: int = 0, overwrite: bool = False
) -> Export:
    """Write ``policy`` to ``path`` (.onnx); raise BadInput where that cannot be, MelterError where the check fails."""
    require_onnx_file(path, overwrite=overwrite)
    content = onnx_bytes(policy.net, metadata(policy, machine))
    observations = trial_observations(ObservationBuilder(machine).high, np.random.default_rng(seed))
    runtime, evaluate = _runtime(content)
    with np.errstate(all="ignore"):
        difference = float(np.abs(evaluate(observations) - policy.net.act(observations)).max())
    if not difference <= AGREEMENT:
        raise MelterError(
            f"export {path}: differs from {policy.path} by {difference:.2g}, must be within {AGREEMENT:g}"
        )
    try:
        write_beside(path, content)
    except OSError as error:
        raise BadInput(f"--onnx {path}: cannot be written: {error.strerror}") from None
    return Export(path, difference, len(observations), runtime, len(content))


def require_onnx_file(path: Path, *, overwrite: bool = False) -> None:
    """Raise BadInput unless an ONNX file can be written to ``path``."""
    if path.suffix.lower() != ".onnx":
        raise BadInput(f"--onnx {path}: must end in .onnx")
    if not path.parent.is_dir():
        raise BadInput(f"--onnx {path}: no folder {path.parent}")
    if path.exists() and not overwrite:
        raise OutputExists(f"--onnx {path}: exists already and is not overwritten without --force")


def metadata(policy: LoadedPolicy, machine: Machine) -> dict[str, str]:
    """Return what a reader of the file needs to know beside the graph."""
    builder, manifest = ObservationBuilder(machine), policy.manifest
    return {
        "observation_sha256": manifest.observation_sha256 or builder.sha256,
        "observation_table": json.dumps([asdict(entry) for entry in builder.table]),
        "action": "pay-out speed of each winch as a share of speed_normal_m_s, -1 to 1, in winch order",
        "winches": json.dumps([winch.name for winch in machine.winch]),
        "speed_normal_m_s": repr(machine.limits.speed_normal_m_s),
        "control_rate_hz": repr(manifest.control_rate_hz or machine.control.rate_hz),
        "machine_name": manifest.machine_name or machine.name,
        "machine_sha256": manifest.machine_sha256 or machine.sha256,
        "policy_sha256": policy.sha256,
        "algorithm": manifest.algorithm or "unknown",
    }


def trial_observations(high: NDArray[np.float32], rng: np.random.Generator) -> Batch:
    """Return (k, obs) observations: usual ones, large ones, every bound alone, corners of the space, and far outside it."""
    size = len(high)
    usual = rng.normal(0, 1, (SAMPLES, size))
    large = rng.uniform(-1, 1, (SAMPLES, size)) * high
    corners = rng.choice([-1.0, 1.0], (SAMPLES // 4, size)) * high
    alone = np.concatenate([np.diag(high), -np.diag(high)])
    tiny = rng.normal(0, 1e-6, (64, size))
    trials = [np.zeros((1, size)), usual, large, corners, 10 * corners[:64], alone, tiny]
    return np.concatenate(trials).astype(np.float32)


def onnx_bytes(net: PolicyNet, metadata: dict[str, str]) -> bytes:
    """Return the ONNX file of ``net``: observation (n, obs) to action (n, 8), both float32."""
    onnx = _onnx()
    helper, numpy_helper, kinds = onnx.helper, onnx.numpy_helper, onnx.TensorProto
    graph = _Graph(helper, numpy_helper)
    last = len(net.layers) - 1
    value = INPUT
    for i, (weight, bias) in enumerate(net.layers):
        names = graph.constant(f"weight_{i}", weight), graph.constant(f"bias_{i}", bias)
        value = graph.node("Gemm", [value, *names], transB=1)
        if i < last:
            value = _ACTIVATIONS[net.activation](graph, value)
    if net.mean_clip is not None:
        value = graph.clip(value, net.mean_clip)
    if net.squash == "tanh":
        value = graph.node("Tanh", [value])
    graph.clip(value, 1.0, output=OUTPUT)
    ends = [
        helper.make_tensor_value_info(name, kinds.FLOAT, ["n", size])
        for name, size in ((INPUT, net.sizes[0]), (OUTPUT, net.sizes[-1]))
    ]
    made = helper.make_graph(graph.nodes, "melter policy", ends[:1], ends[1:], graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="melter")
    model.ir_version = IR_VERSION
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


class _Graph:
    """Nodes and constants in the making."""

    def __init__(self, helper: Any, numpy_helper: Any) -> None:
        self._helper, self._numpy_helper = helper, numpy_helper
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: NDArray[np.float32]) -> str:
        self.constants.append(self._numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        name = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(kind, inputs, [name], **attributes))
        return name

    def clip(self, value: str, bound: float, output: str | None = None) -> str:
        number = len(self.constants)
        low = self.constant(f"low_{number}", np.array(-bound, np.float32))
        high = self.constant(f"high_{number}", np.array(bound, np.float32))
        return self.node("Clip", [value, low, high], output)


def _silu(graph: _Graph, value: str) -> str:
    return graph.node("Mul", [value, graph.node("Sigmoid", [value])])


_ACTIVATIONS: dict[str, Callable[[_Graph, str], str]] = {
    "tanh": lambda graph, value: graph.node("Tanh", [value]),
    "relu": lambda graph, value: graph.node("Relu", [value]),
    "elu": lambda graph, value: graph.node("Elu", [value], alpha=1.0),
    "leaky_relu": lambda graph, value: graph.node("LeakyRelu", [value], alpha=0.01),
    "silu": _silu,
    "sigmoid": lambda graph, value: graph.node("Sigmoid", [value]),
}
"""Every activation that a policy may have (:data:`melter.safety.net.ACTIVATIONS`)."""


def _runtime(content: bytes) -> tuple[str, Callable[[Batch], Batch]]:
    """Return what evaluates the file here: ONNX Runtime, or where it is not installed the reference in ``onnx``."""
    try:
        runtime: Any = importlib.import_module("onnxruntime")
    except ImportError:
        reference = importlib.import_module("onnx.reference").ReferenceEvaluator(content)
        return "onnx reference", lambda batch: reference.run(None, {INPUT: batch})[0]
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return f"onnxruntime {runtime.__version__}", lambda batch: session.run(None, {INPUT: batch})[0]


def _onnx() -> Any:
    try:
        importlib.import_module("onnx.numpy_helper")
        return importlib.import_module("onnx")
    except ImportError:
        raise BadInput("export: needs the package onnx; pip install onnx") from None
