"""A trained network as an ONNX file: batch normalisation folded in, weights in half precision, facts in the metadata."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.errors import BadInput
from melter.vision.pose.canonical import HEIGHT_PX, WIDTH_PX
from melter.vision.pose.labels import POINTS
from melter.vision.pose.network import COLUMNS, OFFSET_PX, OUTPUTS, ROWS, PoseNet

Floats = NDArray[np.float32]
OPSET, IR_VERSION = 13, 8
"""What OpenCV 5 and ONNX Runtime since 1.7 read."""


def pose_onnx(net: PoseNet, facts: dict[str, Any]) -> bytes:
    """Return the ONNX file of a network in evaluation mode; ``facts`` become its metadata, each as JSON."""
    try:
        onnx: Any = importlib.import_module("onnx")
        importlib.import_module("onnx.numpy_helper")
    except ImportError:
        raise BadInput("vision train: needs the package onnx; pip install onnx") from None
    graph = _Graph(onnx)
    _build(graph, net)
    helper, kinds = onnx.helper, onnx.TensorProto
    ends = [
        helper.make_tensor_value_info("picture", kinds.FLOAT, [1, 1, HEIGHT_PX, WIDTH_PX]),
        helper.make_tensor_value_info("pose", kinds.FLOAT, [1, OUTPUTS]),
    ]
    made = helper.make_graph(graph.nodes, "melter pose", ends[:1], ends[1:], graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="melter")
    model.ir_version = IR_VERSION
    helper.set_model_props(model, {key: json.dumps(value) for key, value in facts.items()})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def write_pose_onnx(net: PoseNet, facts: dict[str, Any], path: Path) -> int:
    """Write the file, beside its final name first; return its size in bytes. Raises BadInput."""
    content = pose_onnx(net, facts)
    beside = path.with_name(f".{path.name}.tmp")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise BadInput(f"--out {path}: cannot be written: {error.strerror}") from None
    return len(content)


class _Graph:
    """Nodes and constants in the making."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: NDArray[Any], *, half: bool = False) -> str:
        name = f"c{len(self.constants)}"
        stored = np.ascontiguousarray(value.astype(np.float16) if half else value)
        self.constants.append(self._onnx.numpy_helper.from_array(stored, name))
        return self.node("Cast", [name], to=self._onnx.TensorProto.FLOAT) if half else name

    def node(self, kind: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        name = output or f"n{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(kind, inputs, [name], name=f"{kind}_{name}", **attributes))
        return name

    def convolve(self, x: str, weight: Floats, bias: Floats, stride: int = 1) -> str:
        size = weight.shape[2]
        return self.node(
            "Conv", [x, self.constant(weight, half=True), self.constant(bias)], kernel_shape=[size, size],
            strides=[stride, stride], pads=[size // 2] * 4,
        )  # fmt: skip

    def layer(self, x: str, part: Any) -> str:
        """A convolution with its normalisation, and what is above zero."""
        return self.node("Relu", [self.convolve(x, *_folded(part), int(part[0].stride[0]))])


def _array(tensor: Any) -> Floats:
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float32)


def _folded(part: Any) -> tuple[Floats, Floats]:
    convolution, norm = part[0], part[1]
    factor = _array(norm.weight) / np.sqrt(_array(norm.running_var) + np.float32(norm.eps))
    weight = _array(convolution.weight) * factor[:, None, None, None]
    bias = _array(norm.bias) - _array(norm.running_mean) * factor
    return weight.astype(np.float32), bias.astype(np.float32)


def _build(g: _Graph, net: PoseNet) -> None:
    x = "picture"
    for part in net.down:
        x = g.layer(x, part)
    for part in net.fine:
        x = g.node("Add", [x, g.layer(x, part)])
    x = g.node("Add", [x, g.constant(_array(net.here))])
    y = g.node("Add", [g.layer(x, net.deeper), g.constant(_array(net.there))])
    for part in net.coarse:
        y = g.node("Add", [y, g.layer(y, part)])
    mean = g.node("GlobalAveragePool", [y])
    whole = g.node("Relu", [g.convolve(mean, _array(net.whole.weight), _array(net.whole.bias))])
    y = g.node("Add", [y, whole])
    up = g.convolve(y, _array(net.up.weight), _array(net.up.bias))
    scales = g.constant(np.array([1, 1, 2, 2], dtype=np.float32))
    up = g.node(
        "Resize", [up, "", scales], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )
    joined = g.layer(g.node("Add", [x, up]), net.join)
    turns = _turns(g, net, y)
    places, doubts = _votes(g, net, joined)
    g.node("Concat", [places, doubts, turns], "pose", axis=1)


def _turns(g: _Graph, net: PoseNet, y: str) -> str:
    flat = g.node("Flatten", [g.layer(y, net.squeeze)], axis=1)
    first, second = net.turn_1, net.turn_2
    hidden = g.node(
        "Gemm", [flat, g.constant(_array(first.weight), half=True), g.constant(_array(first.bias))], transB=1
    )
    return g.node(
        "Gemm",
        [g.node("Relu", [hidden]), g.constant(_array(second.weight), half=True), g.constant(_array(second.bias))],
        transB=1,
    )


def _votes(g: _Graph, net: PoseNet, joined: str) -> tuple[str, str]:
    """Weighted means of the cells' votes: (1, 22) places and (1, 11) doubts.

    The vote's outputs are sorted by kind first, so that they need not be split by point.
    """
    weight, bias = _array(net.vote.weight), _array(net.vote.bias)
    cells, n = ROWS * COLUMNS, POINTS
    grid = _array(net.cells).reshape(2, 1, cells)

    def of(kind: int) -> str:
        raw = g.convolve(joined, weight[kind::4], bias[kind::4])
        return g.node("Reshape", [raw, g.constant(np.array([1, n, cells], dtype=np.int64))])

    share = g.node("Softmax", [of(0)], axis=2)
    axis = g.constant(np.array([2], dtype=np.int64))

    def mean(values: str) -> str:
        return g.node("ReduceSum", [g.node("Mul", [share, values]), axis], keepdims=1)

    scale = g.constant(np.array(OFFSET_PX, dtype=np.float32))
    both = [mean(g.node("Add", [g.node("Mul", [of(1 + i), scale]), g.constant(grid[i : i + 1])])) for i in range(2)]
    places = g.node("Concat", both, axis=2)
    flat = g.constant(np.array([1, 2 * n], dtype=np.int64))
    short = g.constant(np.array([1, n], dtype=np.int64))
    return g.node("Reshape", [places, flat]), g.node("Reshape", [mean(of(3)), short])
