"""Small networks in plain NumPy, on the very memory that torch's parameters lie in.

For layers of a hundred units, most of a gradient step in torch goes into bookkeeping. Here the weights of an actor
and a critic are views of one flat vector, which torch's parameters share: a forward and a backward pass are a handful of
matrix products, an Adam step a few operations on that vector, and the torch module stays what is saved.

Weights are stored as torch's ``Linear`` stores them, (out, in); rows of a batch run along the first axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]
"""float32 in training; tests use float64 too."""


class FlatParameters:
    """Torch parameters laid out in one vector, in order; torch and NumPy see the same memory."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.value: Array = np.concatenate([p.detach().numpy().ravel() for p in self.parameters])
        self._ends = np.cumsum([p.numel() for p in self.parameters])
        self.bind()

    def bind(self) -> None:
        """Let torch's parameters lie in the vector again, keeping their values, where something has replaced them."""
        for parameter, view in zip(self.parameters, self.views(), strict=True):
            view[...] = parameter.detach().numpy()
            parameter.data = torch.from_numpy(view)

    def views(self, vector: Array | None = None) -> list[Array]:
        """Return ``vector`` (size,), or the parameters' own, cut into their shapes without copying."""
        vector = self.value if vector is None else vector
        return [
            vector[int(end) - p.numel() : int(end)].reshape(tuple(p.shape))
            for end, p in zip(self._ends, self.parameters, strict=True)
        ]


@dataclass
class Adam:
    """Adam (Kingma and Ba 2015) on a flat vector, in the order of operations that torch uses."""

    parameters: FlatParameters
    eps: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.999)
    steps: int = 0
    first: Array = field(init=False, repr=False)
    second: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.first = np.zeros_like(self.parameters.value)
        self.second = np.zeros_like(self.parameters.value)
        self._work = np.empty_like(self.first)

    def step(self, gradient: Array, rate: float, gain: Array | None = None) -> None:
        """Move the parameters against ``gradient`` (size,); ``gain`` (size,): step sizes relative to ``rate``."""
        one, two = self.betas
        self.steps += 1
        work = self._work
        self.first *= one
        np.multiply(gradient, 1 - one, out=work)
        self.first += work
        self.second *= two
        np.multiply(gradient, gradient, out=work)
        work *= 1 - two
        self.second += work
        np.sqrt(self.second, out=work)
        work *= 1 / np.sqrt(1 - two**self.steps)
        work += self.eps
        np.divide(self.first, work, out=work)
        work *= rate / (1 - one**self.steps)
        if gain is not None:
            work *= gain
        self.parameters.value -= work

    def state(self) -> dict[str, Any]:
        """Return copies of what is needed to go on."""
        return {"steps": self.steps, "first": self.first.copy(), "second": self.second.copy()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.steps, self.first[...], self.second[...] = state["steps"], state["first"], state["second"]

    def share_with(self, optimizer: torch.optim.Optimizer) -> None:
        """Let torch's optimiser hold this one's moments, so that what it saves is the state of this one."""
        moments = zip(
            self.parameters.parameters,
            self.parameters.views(self.first),
            self.parameters.views(self.second),
            strict=True,
        )
        for parameter, first, second in moments:
            optimizer.state[parameter] = {
                "step": torch.tensor(float(self.steps)),
                "exp_avg": torch.from_numpy(first),
                "exp_avg_sq": torch.from_numpy(second),
            }

    def take_from(self, optimizer: torch.optim.Optimizer) -> None:
        """Go on from the moments that torch's optimiser has loaded, then share them again."""
        views = zip(
            self.parameters.parameters,
            self.parameters.views(self.first),
            self.parameters.views(self.second),
            strict=True,
        )
        for parameter, first, second in views:
            state = optimizer.state.get(parameter)
            if state:
                first[...], second[...] = state["exp_avg"].numpy(), state["exp_avg_sq"].numpy()
                self.steps = int(state["step"])
        self.share_with(optimizer)


class Mlp:
    """Linear layers with one activation in between, on views of flat vectors."""

    def __init__(self, layers: Sequence[tuple[Array, Array]], activation: str) -> None:
        self.layers, self.tanh = list(layers), activation == "tanh"
        self._work: dict[tuple[int, int], list[Array]] = {}

    @property
    def sizes(self) -> list[int]:
        """Inputs, hidden units, outputs."""
        return [self.layers[0][0].shape[1], *(weight.shape[0] for weight, _ in self.layers)]

    def workspace(self, rows: int, slot: int = 0) -> list[Array]:
        """Return arrays for the outputs of the layers, (rows, size) each; the same for the same rows and slot."""
        key = rows, slot
        if key not in self._work:
            if len(self._work) > 64:
                self._work.clear()
            kind = self.layers[0][0].dtype
            self._work[key] = [np.empty((rows, size), dtype=kind) for size in self.sizes[1:]]
        return self._work[key]

    def forward(self, x: Array, outputs: list[Array] | None = None) -> Array:
        """Return (rows, out) for (rows, in); ``outputs``: the layers' results, kept for :meth:`backward`."""
        outputs = self.workspace(len(x)) if outputs is None else outputs
        for (weight, bias), out in zip(self.layers[:-1], outputs, strict=False):
            np.matmul(x, weight.T, out=out)
            out += bias
            if self.tanh:
                np.tanh(out, out=out)
            else:
                np.maximum(out, 0, out=out)
            x = out
        weight, bias = self.layers[-1]
        np.matmul(x, weight.T, out=outputs[-1])
        outputs[-1] += bias
        return outputs[-1]

    def in_parts(self, x: Array, rows: int) -> Array:
        """Return :meth:`forward` of any number of rows, worked on ``rows`` at a time."""
        return np.concatenate([self.forward(x[i : i + rows]).copy() for i in range(0, len(x), rows)])

    def backward(self, x: Array, outputs: list[Array], slope: Array, gradients: Sequence[tuple[Array, Array]]) -> None:
        """Write the gradients of a loss whose derivative by the result is ``slope`` (rows, out).

        ``x``, ``outputs``: of the forward pass; the outputs are overwritten. ``gradients``: like the layers.
        """
        inputs = [x, *outputs[:-1]]
        for index in range(len(self.layers) - 1, -1, -1):
            weight_gradient, bias_gradient = gradients[index]
            np.matmul(slope.T, inputs[index], out=weight_gradient)
            np.matmul(np.ones(len(slope), dtype=slope.dtype), slope, out=bias_gradient)
            if index:
                before = slope @ self.layers[index][0]
                hidden = inputs[index]
                if self.tanh:
                    np.multiply(hidden, hidden, out=hidden)
                    np.subtract(1, hidden, out=hidden)
                    before *= hidden
                else:
                    before *= hidden > 0
                slope = before


def weights_and_biases(*modules: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Return the parameters of the linear layers in modules, in order."""
    layers = [layer for module in modules for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
    return [parameter for layer in layers for parameter in layer.parameters()]


def pairs(views: Sequence[Array]) -> list[tuple[Array, Array]]:
    """Return weights and biases that alternate in ``views`` as pairs."""
    return list(zip(views[::2], views[1::2], strict=True))
