"""Searching a policy for its worst answers: from the corners of the linear bound, by gradient, at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.machine import WINCH_COUNT
from melter.safety.bounds import OutputBounds
from melter.safety.net import ACTIVATIONS, PolicyNet

Array = NDArray[np.float64]
Observations = NDArray[np.float32]

_NUDGE = 1e-3


@dataclass(frozen=True, eq=False)
class Worst:
    """The most extreme actions found."""

    highest: Observations
    """(8, obs) the observation with the highest action of each winch."""
    lowest: Observations
    """(8, obs)"""
    high: Array
    """(8,) actions there, from real inference."""
    low: Array
    """(8,)"""
    tried: int


def worst_actions(
    net: PolicyNet, bounds: OutputBounds, low: Array, high: Array, rng: np.random.Generator, *, samples: int = 20_000,
    steps: int = 60, visited: Observations | None = None,
) -> Worst:  # fmt: skip
    """Return the most extreme actions that the search finds between ``low`` and ``high``, (obs,) each."""
    down, up = low.astype(np.float32), high.astype(np.float32)
    corners = np.concatenate([np.where(sign * bounds.slope > 0, up, down) for sign in (1, -1)]).astype(np.float32)
    random = rng.uniform(low, high, (samples, len(low))).astype(np.float32)
    at_corners = np.where(rng.random((samples, len(low))) < 0.5, down, up).astype(np.float32)
    pool = [corners, random, at_corners, ((low + high) / 2).astype(np.float32)[None]]
    if visited is not None and len(visited):
        pool.append(np.clip(visited, down, up).astype(np.float32))
    candidates = np.concatenate(pool)
    starts = _best(net, candidates)
    climbed: list[Observations] = []
    for i in range(2 * WINCH_COUNT):
        winch, sign = i % WINCH_COUNT, 1 - 2 * (i // WINCH_COUNT)
        climbed.append(
            _climb(net, np.concatenate([starts[i], corners[winch::WINCH_COUNT]]), winch, sign, down, up, steps)
        )
    everything = np.concatenate([corners, *starts, *climbed])
    actions = net.act(everything).astype(float)
    top, bottom = actions.argmax(axis=0), actions.argmin(axis=0)
    winches = np.arange(WINCH_COUNT)
    tried = len(candidates) + sum(len(part) for part in climbed) * steps
    return Worst(everything[top], everything[bottom], actions[top, winches], actions[bottom, winches], tried)


def _best(net: PolicyNet, candidates: Observations, keep: int = 4) -> list[Observations]:
    """For each winch, upwards then downwards, the candidates with the most extreme actions."""
    actions = net.act(candidates)
    order = np.argsort(actions, axis=0)
    return [candidates[order[-keep:, i]] for i in range(WINCH_COUNT)] + [
        candidates[order[:keep, i]] for i in range(WINCH_COUNT)
    ]


def _climb(
    net: PolicyNet, start: Observations, winch: int, sign: int, low: Observations, high: Observations, steps: int
) -> Observations:
    """Signed gradient steps of shrinking size inside the box, from several starts at once; returns the best seen."""
    x, best = start.copy(), start.copy()
    best_value = sign * _output(net, best)[:, winch]
    span = (high - low).astype(np.float32)
    for step in range(steps):
        size = np.float32(0.25 * 0.92**step)
        x = np.clip(x + sign * size * span * np.sign(_gradient(net, x, winch)), low, high).astype(np.float32)
        value = sign * _output(net, x)[:, winch]
        better = value > best_value
        best[better], best_value[better] = x[better], value[better]
    return best


def _output(net: PolicyNet, x: Observations) -> Array:
    """Output before squashing: still has a slope where the action is saturated."""
    hidden: Array = x.astype(float)
    for weight, bias in net.layers[:-1]:
        hidden = np.asarray(ACTIVATIONS[net.activation](hidden @ weight.T + bias), dtype=float)  # pyright: ignore[reportArgumentType]
    weight, bias = net.layers[-1]
    return hidden @ weight.T + bias


def _gradient(net: PolicyNet, x: Observations, winch: int) -> Array:
    """(n, obs) gradient of one raw output; activations' slopes by central differences."""
    function = ACTIVATIONS[net.activation]
    slopes: list[Array] = []
    hidden: Array = x.astype(float)
    for weight, bias in net.layers[:-1]:
        z = hidden @ weight.T + bias
        slopes.append((function(z + _NUDGE) - function(z - _NUDGE)) / (2 * _NUDGE))  # pyright: ignore[reportArgumentType]
        hidden = np.asarray(function(z), dtype=float)  # pyright: ignore[reportArgumentType]
    gradient = np.broadcast_to(net.layers[-1][0][winch].astype(float), (len(x), net.layers[-1][0].shape[1]))
    for (weight, _), slope in zip(reversed(net.layers[:-1]), reversed(slopes), strict=True):
        gradient = (gradient * slope) @ weight
    return gradient
