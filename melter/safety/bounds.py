"""What a network can answer over a whole box of observations: interval bounds cut with linear bounds.

Each activation is enclosed between two parallel lines over the interval its input can reach; going backwards
through the layers that gives, for every output, one linear function of the observation and two offsets
(CROWN: Zhang et al. 2018; parallel lines: Singh et al. 2018). Sums are float64; float32 inference may differ
by :data:`ROUNDING`, which is added. Samples are asserted to lie inside (:func:`require_sound`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.errors import MelterError
from melter.safety.net import ACTIVATIONS, PolicyNet

Array = NDArray[np.float64]

ROUNDING = 1e-5
"""Share of an output's own magnitude (at least one) that float32 inference may be off."""
_GRID = 65


class UnsoundBoundError(MelterError):
    """A sample lay outside a bound that was computed: a defect of melter, never to be ignored."""


@dataclass(frozen=True, eq=False)
class OutputBounds:
    """Bounds of the network's output before squashing, over one box."""

    low: Array
    """(8,)"""
    high: Array
    """(8,)"""
    slope: Array
    """(8, obs): the output lies within the two offsets of ``slope @ observation``."""

    def actions(self, net: PolicyNet) -> tuple[Array, Array]:
        """Return (8,) lowest and highest action in [-1, 1]."""
        low, high = self.low, self.high
        if net.mean_clip is not None:
            low, high = np.clip(low, -net.mean_clip, net.mean_clip), np.clip(high, -net.mean_clip, net.mean_clip)
        if net.squash == "tanh":
            low, high = np.tanh(low) - 1e-6, np.tanh(high) + 1e-6
        return np.clip(low, -1, 1), np.clip(high, -1, 1)


def bound_outputs(net: PolicyNet, low: Array, high: Array) -> OutputBounds:
    """Return bounds of ``net``'s raw output for all observations between ``low`` and ``high``, (obs,) each."""
    layers = [(weight.astype(float), bias.astype(float)) for weight, bias in net.layers]
    lines: list[tuple[Array, Array, Array]] = []
    below, above = low, high
    bounds = OutputBounds(low, high, np.eye(len(low)))
    for index, (weight, bias) in enumerate(layers):
        first, last = _interval(weight, bias, below, above)
        slope, offset_low, offset_high = _backward(layers[: index + 1], lines)
        centre, radius = (low + high) / 2, (high - low) / 2
        reach = np.abs(slope) @ radius
        first = np.maximum(first, slope @ centre - reach + offset_low)
        last = np.minimum(last, slope @ centre + reach + offset_high)
        slack = ROUNDING * np.maximum(1.0, np.maximum(np.abs(first), np.abs(last)))
        bounds = OutputBounds(first - slack, last + slack, slope)
        if index < len(layers) - 1:
            lines.append(enclose(net.activation, bounds.low, bounds.high))
            below, above = _image(net.activation, bounds.low, bounds.high)
    return bounds


def require_sound(net: PolicyNet, bounds: OutputBounds, observations: NDArray[np.float32]) -> None:
    """Raise UnsoundBoundError when the action for one of (n, obs) observations in the box lies outside ``bounds``."""
    low, high = bounds.actions(net)
    actions = net.act(observations)
    outside = (actions < low - ROUNDING) | (actions > high + ROUNDING)
    if outside.any():
        row, winch = (int(i) for i in np.argwhere(outside)[0])
        span = f"{low[winch]:.6g} to {high[winch]:.6g}"
        raise UnsoundBoundError(f"bound of action {winch}: {span} does not hold the sample {actions[row, winch]:.6g}")


def enclose(activation: str, low: Array, high: Array) -> tuple[Array, Array, Array]:
    """Return slope k and offsets (a, b), elementwise, with k x + a <= activation(x) <= k x + b on [low, high]."""
    function = _float64(activation)
    span = high - low
    at_low, at_high = function(low), function(high)
    wide = span > 1e-9
    slope = np.where(wide, (at_high - at_low) / np.where(wide, span, 1.0), 0.0)
    gaps = [at_low - slope * low, at_high - slope * high]
    for candidate in _TURNING[activation](slope, low, high):
        x = np.clip(candidate, low, high)
        gaps.append(function(x) - slope * x)
    stacked = np.stack(gaps)
    spare = 1e-9 * (1 + np.abs(stacked).max(axis=0))
    if (
        activation == "silu"
    ):  # between grid points: half of the largest second derivative (1/2) times (step / 2) squared
        spare = spare + 0.25 * (span / (_GRID - 1) / 2) ** 2
    return slope, stacked.min(axis=0) - spare, stacked.max(axis=0) + spare


def _backward(layers: list[tuple[Array, Array]], lines: list[tuple[Array, Array, Array]]) -> tuple[Array, Array, Array]:
    """Return slope (out, obs) and offsets (out,) of the last of ``layers`` as a function of the observation."""
    weight, bias = layers[-1]
    slope, low, high = weight, bias.copy(), bias.copy()
    for (before, offset), (line, below, above) in zip(reversed(layers[:-1]), reversed(lines), strict=True):
        positive, negative = np.maximum(slope, 0), np.minimum(slope, 0)
        low, high = low + positive @ below + negative @ above, high + positive @ above + negative @ below
        scaled = slope * line
        low, high = low + scaled @ offset, high + scaled @ offset
        slope = scaled @ before
    return slope, low, high


def _interval(weight: Array, bias: Array, low: Array, high: Array) -> tuple[Array, Array]:
    middle, reach = weight @ ((low + high) / 2) + bias, np.abs(weight) @ ((high - low) / 2)
    return middle - reach, middle + reach


def _image(activation: str, low: Array, high: Array) -> tuple[Array, Array]:
    """Interval of the activation over [low, high]; all but silu are monotone."""
    function = _float64(activation)
    first, last = function(low), function(high)
    if activation == "silu":
        lowest = -1.2784645427610738  # where silu turns; its value there is -0.27846454276
        turns = (low < lowest) & (high > lowest)
        return np.where(turns, -0.2784645427610739, np.minimum(first, last)), np.maximum(first, last)
    return first, last


def _float64(activation: str) -> Callable[[Array], Array]:
    function = ACTIVATIONS[activation]
    return lambda x: np.asarray(function(x), dtype=float)  # pyright: ignore[reportArgumentType]


def _tanh_turns(slope: Array, _low: Array, _high: Array) -> list[Array]:
    x = np.arctanh(np.sqrt(np.clip(1 - slope, 0, 1 - 1e-16)))
    return [x, -x]


def _sigmoid_turns(slope: Array, _low: Array, _high: Array) -> list[Array]:
    root = np.sqrt(np.clip(1 - 4 * slope, 0, 1 - 1e-15))
    x = np.log1p(root) - np.log1p(-root)
    return [x, -x]


def _elu_turns(slope: Array, _low: Array, _high: Array) -> list[Array]:
    return [np.log(np.clip(slope, 1e-300, 1)), np.zeros_like(slope)]


def _kink(slope: Array, _low: Array, _high: Array) -> list[Array]:
    return [np.zeros_like(slope)]


def _grid(_slope: Array, low: Array, high: Array) -> list[Array]:
    return [low + (high - low) * share for share in np.linspace(0, 1, _GRID)]


_TURNING: dict[str, Callable[[Array, Array, Array], list[Array]]] = {
    "tanh": _tanh_turns,
    "sigmoid": _sigmoid_turns,
    "elu": _elu_turns,
    "relu": _kink,
    "leaky_relu": _kink,
    "silu": _grid,
}
"""Where each activation's distance to a line of a given slope can have an extremum."""
