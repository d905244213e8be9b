"""A policy as numbers only: a frozen multilayer perceptron, evaluated with numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melter.errors import ModelFileError
from melter.machine import WINCH_COUNT

Weights = NDArray[np.float32]
SQUASHINGS = ("clip", "tanh")
LARGEST_WEIGHT = 1e6
"""A trained policy's weights are near one; beyond this, float32 sums lose all meaning."""


@dataclass(frozen=True, eq=False)
class PolicyNet:
    """Observation (n, obs) to action (n, 8) in [-1, 1]: linear layers with one activation in between.

    Raises ModelFileError for shapes that do not fit together and for weights that are not finite float32.
    """

    layers: tuple[tuple[Weights, Weights], ...]
    """Weights (out, in) and bias (out,) of each layer, the output layer last; read only."""
    activation: str
    """After every layer but the last: one of :data:`ACTIVATIONS`."""
    squash: str
    """After the last layer: "clip" to [-1, 1], or "tanh"."""
    mean_clip: float | None = None
    """Bound of the last layer's output before squashing, where the algorithm has one (gSDE)."""

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ModelFileError(f"activation {self.activation[:40]!r}: must be one of {', '.join(ACTIVATIONS)}")
        if self.squash not in SQUASHINGS:
            raise ModelFileError(f"squash {self.squash[:40]!r}: must be one of {', '.join(SQUASHINGS)}")
        if self.mean_clip is not None and not (math.isfinite(self.mean_clip) and self.mean_clip > 0):
            raise ModelFileError(f"mean_clip {self.mean_clip}: must be a number above 0")
        if not self.layers:
            raise ModelFileError("policy: no layers")
        object.__setattr__(
            self, "layers", tuple(_layer(i, weight, bias) for i, (weight, bias) in enumerate(self.layers))
        )
        for (before, _), (after, _) in pairwise(self.layers):
            if after.shape[1] != before.shape[0]:
                raise ModelFileError(
                    f"policy: a layer of {before.shape[0]} outputs feeds one of {after.shape[1]} inputs"
                )
        if self.layers[-1][0].shape[0] != WINCH_COUNT:
            raise ModelFileError(
                f"policy: {self.layers[-1][0].shape[0]} actions, must be {WINCH_COUNT} (one for each winch)"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Length of the observation, of each hidden layer, and of the action."""
        return (self.layers[0][0].shape[1], *(weight.shape[0] for weight, _ in self.layers))

    def act(self, observation: ArrayLike) -> Weights:
        """Return (n, 8) deterministic actions in [-1, 1] for (n, obs) observations; (8,) for (obs,).

        What is not a number stays so (the gate refuses it).
        """
        hidden = np.asarray(observation, dtype=np.float32)
        nonlinear = ACTIVATIONS[self.activation]
        with np.errstate(all="ignore"):
            for weight, bias in self.layers[:-1]:
                hidden = nonlinear(hidden @ weight.T + bias)
            weight, bias = self.layers[-1]
            output = hidden @ weight.T + bias
            if self.mean_clip is not None:
                output = np.clip(output, -np.float32(self.mean_clip), np.float32(self.mean_clip))
            if self.squash == "tanh":
                output = np.tanh(output)
            return np.clip(output, np.float32(-1), np.float32(1))


def _layer(index: int, weight: Weights, bias: Weights) -> tuple[Weights, Weights]:
    """Return both arrays checked, copied and locked."""
    if weight.ndim != 2 or bias.shape != (weight.shape[0],) or 0 in weight.shape:
        raise ModelFileError(f"policy layer {index}: weight {weight.shape} and bias {bias.shape} do not fit together")
    copies: list[Weights] = []
    for name, array in (("weight", weight), ("bias", bias)):
        if array.dtype != np.float32:
            raise ModelFileError(f"policy layer {index}: {name} is {array.dtype}, must be float32")
        if not np.isfinite(array).all():
            raise ModelFileError(f"policy layer {index}: {name} is not finite everywhere")
        if np.abs(array).max() > LARGEST_WEIGHT:
            raise ModelFileError(
                f"policy layer {index}: {name} reaches {np.abs(array).max():.3g}, must be within {LARGEST_WEIGHT:.0e}"
            )
        copy = np.array(array, order="C")
        copy.setflags(write=False)
        copies.append(copy)
    return copies[0], copies[1]


def _relu(x: Weights) -> Weights:
    return np.maximum(x, np.float32(0))


def _elu(x: Weights) -> Weights:
    return np.where(x > 0, x, np.expm1(np.minimum(x, np.float32(0))))


def _leaky_relu(x: Weights) -> Weights:
    return np.where(x > 0, x, x * np.float32(0.01))


def _silu(x: Weights) -> Weights:
    return x * _sigmoid(x)


def _sigmoid(x: Weights) -> Weights:
    return np.float32(0.5) * (np.tanh(np.float32(0.5) * x) + np.float32(1))


ACTIVATIONS: dict[str, Callable[[Weights], Weights]] = {
    "tanh": np.tanh,
    "relu": _relu,
    "elu": _elu,
    "leaky_relu": _leaky_relu,
    "silu": _silu,
    "sigmoid": _sigmoid,
}
"""Hidden activations that can be evaluated and bounded; torch's default parameters."""
