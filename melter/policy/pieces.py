"""Gradients of a minibatch by several threads: cut into pieces of a fixed size that are summed in order.

So results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from melter.policy.actorcritic import ActorCritic, Gradient, Piece
from melter.policy.mlp import Array

PIECE_ROWS = 1024
"""Rows of a minibatch that one thread works on at a time."""
Result = TypeVar("Result")


class Pieces:
    """Works on minibatches with ``threads`` threads."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def ppo(
        self,
        networks: ActorCritic,
        rows: Piece,
        picked: NDArray[np.intp],
        clip: float,
        coefficients: tuple[float, float],
        *,
        actor: bool,
        normalize: bool,
    ) -> Gradient:
        """Return the gradient of PPO's loss over the picked rows. ``coefficients``: of value and entropy loss."""
        total, shift, scale = len(picked), 0.0, 1.0
        if normalize and total > 1:
            advantages = rows.advantages[picked]
            shift, scale = float(advantages.mean()), float(advantages.std(ddof=1)) + 1e-8

        def work(slot: int) -> Gradient:
            piece = rows.take(picked[slot * PIECE_ROWS : (slot + 1) * PIECE_ROWS])
            piece.advantages -= shift
            piece.advantages /= scale
            return networks.gradient(piece, total, clip, *coefficients, actor=actor, slot=slot)

        first, *others = self._each(work, total)
        for other in others:
            first.add(other)
        return first

    def imitation(self, networks: ActorCritic, rows: Array, wanted: Array, scale: float) -> tuple[Array, float]:
        """Return the actor's gradient of the imitation loss over all rows, and the loss."""
        total = len(rows)

        def work(slot: int) -> tuple[Array, float]:
            part = slice(slot * PIECE_ROWS, (slot + 1) * PIECE_ROWS)
            return networks.imitation_gradient(rows[part], wanted[part], total, scale, slot=slot)

        (gradient, loss), *others = self._each(work, total)
        for more, further in others:
            gradient += more
            loss += further
        return gradient, loss

    def _each(self, work: Callable[[int], Result], total: int) -> Iterable[Result]:
        slots = range(-(-total // PIECE_ROWS))
        return self._pool.map(work, slots) if self._pool and len(slots) > 1 else map(work, slots)
