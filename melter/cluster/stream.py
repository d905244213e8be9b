"""Fragments as they come: every worker plays at its own pace, nobody waits for anybody."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from melter.cluster.crew import FRAGMENT_S, Crew
from melter.cluster.player import Fragment, Weights

WEIGHTS_S = 0.1
"""Weights are sent out anew when those that went out last are older than this."""


class Stream:
    """The fragments of a crew whose workers are asked one by one."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._asked: dict[Any, tuple[int, Any, float]] = {}
        """Worker, its actor and since when, by the reference to its fragment."""
        self._weights: Any = None
        self._sent = 0.0

    def ask(self, weights: Callable[[], Weights]) -> None:
        """Let every worker play that does nothing; lost ones join when they have begun."""
        playing = self._crew.playing()
        idle = [worker for number, worker in playing if number not in self._busy()]
        if not idle:
            return
        if self._weights is None or time.monotonic() - self._sent > WEIGHTS_S:
            self._weights, self._sent = self._crew.ray.put(weights()), time.monotonic()
        for worker in idle:
            self._asked[worker.actor.play.remote(self._weights)] = (
                worker.share.number,
                worker.actor,
                time.monotonic(),
            )

    def take(self, *, wait: bool) -> list[tuple[int, Fragment]]:
        """Return (worker, fragment) of those that are done, at least one if ``wait``; fewer where all workers are lost."""
        begun, crew = time.perf_counter(), self._crew
        if not self._asked:
            if wait and any(worker.beginning is not None for worker in crew.workers):
                crew.wait_for_one()
            return []
        done, _ = crew.ray.wait(list(self._asked), num_returns=1, timeout=self._patience_s() if wait else 0)
        if done:
            done, _ = crew.ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)
        got: list[tuple[int, Fragment]] = []
        for reference in done:
            number, actor, _ = self._asked.pop(reference)
            replaced = crew.workers[number].actor is not actor
            fragment = None if replaced else crew.fragment(reference, number)
            if fragment is not None:
                crew.count(fragment)
                got.append((number, fragment))
        self._give_up_the_silent()
        crew.waited_s += time.perf_counter() - begun
        return got

    def _busy(self) -> set[int]:
        return {number for number, actor, _ in self._asked.values() if self._crew.workers[number].actor is actor}

    def _patience_s(self) -> float:
        oldest = min(since for _, _, since in self._asked.values())
        return max(oldest + FRAGMENT_S - time.monotonic(), 0.0)

    def _give_up_the_silent(self) -> None:
        now = time.monotonic()
        for reference, (number, actor, since) in list(self._asked.items()):
            if now - since > FRAGMENT_S:
                del self._asked[reference]
                if self._crew.workers[number].actor is actor:
                    self._crew.replace(number, TimeoutError(f"no fragment in {FRAGMENT_S:g} s"))
