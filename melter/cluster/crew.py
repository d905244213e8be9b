"""Workers on a Ray cluster: made, checked, asked for fragments, and replaced when they are lost."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import melter
from melter.cluster.explorer import player_for
from melter.cluster.player import Fragment, Share, Weights, about
from melter.cluster.ray_link import Cluster
from melter.errors import BadInput, Fault
from melter.policy.request import TrainRequest

START_S, FRAGMENT_S = 180.0, 120.0
"""How long a worker may take to begin, and to play a fragment; one that takes longer counts as lost."""
MOST_LOST = 50
"""Workers lost in a row, no fragment coming back in between, after which a training gives up."""


@dataclass
class Worker:
    """One worker and what it is doing."""

    share: Share
    actor: Any
    beginning: Any
    """Reference to the result of its begin(), until that is taken."""


class Crew:
    """All workers of a training."""

    def __init__(
        self,
        cluster: Cluster,
        request: TrainRequest,
        spread: list[Share],
        tell: Callable[[str], None],
        cores_each: int = 1,
    ) -> None:
        """Start all workers and wait for them. ``cores_each``: cores that each one reserves.

        Raises BadInput where one cannot start or runs other versions.
        """
        self._cluster, self._request, self._tell = cluster, request, tell
        self.ray, self._lost = cluster.ray, 0
        self._kind = self.ray.remote(player_for(request.settings))
        self._cores_each, self.size = cores_each, len(spread)
        self.bytes, self.played_s, self.waited_s = 0, 0.0, 0.0
        self.workers: list[Worker] = []
        try:
            actors = [(share, self._hire(share)) for share in spread]
            asked = [actor.about.remote() for _, actor in actors]
            ready, late = self.ray.wait(asked, num_returns=len(asked), timeout=START_S)
            if late:
                raise BadInput(
                    f"--ray {cluster.address}: {len(ready)} of {len(asked)} workers started in {START_S:g} s; "
                    f"the cluster has {cluster.cores} cores; --workers must be at most as many as are free"
                )
            for told in asked:
                self._check(self.ray.get(told))
            self.workers = [Worker(share, actor, actor.begin.remote()) for share, actor in actors]
        except self.ray.exceptions.RayError as error:
            self.close()
            raise BadInput(f"--ray {cluster.address}: a worker could not start: {reason_of(error)}") from None
        except BaseException:
            self.close()
            raise

    def _hire(self, share: Share) -> Any:
        return self._kind.options(num_cpus=self._cores_each, max_restarts=0).remote(self._request, share)

    def _check(self, told: dict[str, Any]) -> None:
        trouble = unlike(told)
        if trouble:
            raise BadInput(f"--ray {self._cluster.address}: {trouble}")

    def begun(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return observations and episode starts of all workers, waiting for those that are still beginning."""
        out: list[tuple[np.ndarray, np.ndarray]] = []
        until = time.monotonic() + START_S
        for number in range(len(self.workers)):
            while True:
                worker = self.workers[number]
                if worker.beginning is None:
                    worker.beginning = worker.actor.begin.remote()
                try:
                    out.append(self.ray.get(worker.beginning, timeout=max(until - time.monotonic(), 1.0)))
                except self.ray.exceptions.RayError as error:
                    self.replace(number, error)
                    continue
                worker.beginning = None
                break
        return out

    def play(self, weights: Weights) -> dict[int, Fragment]:
        """Return a fragment of each worker that is ready, by number; lost workers are replaced and join later.

        Raises Fault where none is left and none can be had.
        """
        shared, begun = self.ray.put(weights), time.perf_counter()
        while True:
            asked = {worker.actor.play.remote(shared): number for number, worker in self.playing()}
            got = self._collect(asked)
            if got:
                self.waited_s += time.perf_counter() - begun
                for fragment in got.values():
                    self.count(fragment)
                return got
            self.wait_for_one()

    def playing(self) -> list[tuple[int, Worker]]:
        """Return workers that have begun, with their numbers."""
        for number, worker in enumerate(self.workers):
            if worker.beginning is None:
                continue
            ready, _ = self.ray.wait([worker.beginning], timeout=0)
            if ready:
                try:
                    self.ray.get(ready[0])
                    worker.beginning = None
                    self._tell(f"worker {number}: replaced, plays again")
                except self.ray.exceptions.RayError as error:
                    self.replace(number, error)
        return [(number, worker) for number, worker in enumerate(self.workers) if worker.beginning is None]

    def _collect(self, asked: dict[Any, int]) -> dict[int, Fragment]:
        """Take what comes back; replace those of whom nothing does."""
        got: dict[int, Fragment] = {}
        left, until = list(asked), time.monotonic() + FRAGMENT_S
        while left:
            ready, left = self.ray.wait(left, num_returns=1, timeout=max(until - time.monotonic(), 0.0))
            if not ready:
                for reference in left:
                    self.replace(asked[reference], TimeoutError(f"no fragment in {FRAGMENT_S:g} s"))
                break
            number = asked[ready[0]]
            fragment = self.fragment(ready[0], number)
            if fragment is not None:
                got[number] = fragment
        return dict(sorted(got.items()))

    def fragment(self, reference: Any, number: int) -> Fragment | None:
        """Return what worker ``number`` played; None where it was lost, and is replaced. Raises Fault where playing failed."""
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            raise Fault(f"worker {number}: {reason_of(error)}") from None
        except self.ray.exceptions.RayError as error:
            self.replace(number, error)
            return None

    def count(self, fragment: Fragment) -> None:
        """Count what came back."""
        self._lost = 0
        self.played_s += fragment.seconds
        self.bytes += bytes_of(fragment)

    def replace(self, number: int, error: BaseException) -> None:
        """Start another in a lost worker's place; it joins when it has begun."""
        self._lost += 1
        if self._lost > MOST_LOST:
            raise Fault(f"workers are lost again and again, last worker {number}: {reason_of(error)}") from None
        self._tell(f"worker {number}: lost ({reason_of(error)}); the others go on, it is replaced")
        old = self.workers[number]
        self._dismiss(old.actor)
        share = replace(old.share, generation=old.share.generation + 1)
        actor = self._hire(share)
        self.workers[number] = Worker(share, actor, actor.begin.remote())

    def wait_for_one(self) -> None:
        """Wait until one of those that are beginning has begun; raise Fault where none does."""
        waiting = [worker.beginning for worker in self.workers if worker.beginning is not None]
        ready, _ = self.ray.wait(waiting, num_returns=1, timeout=START_S)
        if not ready:
            raise Fault(f"all workers are lost and none of {len(waiting)} new ones started in {START_S:g} s")

    def state(self) -> list[tuple[Any, ...]]:
        """Return the state of each worker's simulations (:meth:`Player.state`), replacing those that are lost meanwhile."""
        while True:
            self._begun_all()
            asked = [worker.actor.state.remote() for worker in self.workers]
            told: list[tuple[Any, ...]] = []
            for number, reference in enumerate(asked):
                try:
                    told.append(self.ray.get(reference))
                except self.ray.exceptions.RayError as error:
                    self.replace(number, error)
            if len(told) == len(asked):
                return told

    def _begun_all(self) -> None:
        """Wait until every worker has begun."""
        while any(worker.beginning is not None for worker in self.workers):
            self.wait_for_one()
            self.playing()

    def restore(self, parts: list[tuple[Any, ...]]) -> None:
        """Bring each worker's simulations to a state: arguments of :meth:`Player.restore`."""
        self.ray.get([worker.actor.restore.remote(*part) for worker, part in zip(self.workers, parts, strict=True)])

    def pids(self) -> list[int]:
        """Return the process ids of all workers."""
        return [told["pid"] for told in self.ray.get([worker.actor.about.remote() for worker in self.workers])]

    def close(self) -> None:
        """Dismiss all workers."""
        for worker in self.workers:
            self._dismiss(worker.actor)
        self.workers = []

    def _dismiss(self, actor: Any) -> None:
        try:
            self.ray.kill(actor, no_restart=True)
        except (ValueError, self.ray.exceptions.RayError):
            return


def unlike(told: dict[str, Any]) -> str | None:
    """Return what a worker (:meth:`Player.about`) has in other versions than this process, or None."""
    same_files = told["host"] == socket.gethostname() and told["place"] == melter.__file__
    for name, mine in about().items():
        there = told["versions"].get(name)
        if there != mine and not (name == "code" and same_files):
            return f"node {told['host']} has {name} {there}, here it is {mine}"
    return None


def bytes_of(fragment: Fragment) -> int:
    """Return the size of the arrays in a fragment."""
    arrays = (*fragment.played.__dict__.values(), fragment.observation, fragment.starts)
    return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))


def reason_of(error: BaseException) -> str:
    """Return what an error of Ray's says, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in reversed(lines) if "Error" in line), lines[0] if lines else type(error).__name__)
    return told[:200]
