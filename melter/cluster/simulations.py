"""All workers' simulations as one, for the learner: fragments side by side, in the order of the workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from melter.cluster.crew import Crew
from melter.cluster.player import Weights, shares
from melter.cluster.ray_link import Cluster
from melter.env.gym_env import spaces_of
from melter.errors import Fault
from melter.policy.elsewhere import SimulationsElsewhere
from melter.policy.onpolicy import Rollout
from melter.policy.request import TrainRequest

Array = NDArray[Any]


class RaySimulations(SimulationsElsewhere):
    """Simulations on a Ray cluster. The same seed, steps and workers give the same training, none being lost."""

    def __init__(
        self, cluster: Cluster, request: TrainRequest, workers: int, tell: Callable[[str], None], cores_each: int = 1
    ) -> None:
        super().__init__(request.settings.envs, *spaces_of(request.machine))
        self.truth = {}
        self.env = SimpleNamespace(
            batch=SimpleNamespace(machine=request.machine), state=self._state, restore=self._restore
        )
        self.crew = Crew(cluster, request, shares(request.settings.envs, workers), tell, cores_each)
        self._running: Array = np.zeros((self.num_envs, 2))
        self._waiting: dict[str, Array] | None = None
        self._model: Any = None

    def begin(self) -> Array:
        """Begin episodes everywhere, staggered; return the observations (num_envs, observation)."""
        return np.concatenate([observation for observation, _ in self.crew.begun()])

    def play(self, model: Any, callback: Any, steps: int) -> bool:
        """Fill ``model.played`` with ``steps`` control periods of every simulation that is there."""
        self._go_on_from_checkpoint(model)
        callback.on_rollout_start()
        weights = Weights(model.shared(), model.used(), len(model.lesson_rows), model.num_timesteps, steps)
        fragments = list(self.crew.play(weights).values())
        model.played = joined([cast("Rollout", fragment.played) for fragment in fragments])
        model._last_obs = np.concatenate([fragment.observation for fragment in fragments])
        model._last_episode_starts = np.concatenate([fragment.starts for fragment in fragments])
        model.num_timesteps += model.played.rewards.size
        for fragment in fragments:
            model.ep_info_buffer.extend(fragment.episodes)
            callback.take_in(fragment.figures)
        callback.on_rollout_end()
        return True

    def _state(self) -> dict[str, Array]:
        """The state that one native batch of all simulations would have; the learner's observations become those of that state."""
        told = self.crew.state()
        states, *others = zip(*told, strict=True)
        self._running, self._model._last_obs, self._model._last_episode_starts = map(np.concatenate, others)
        return {name: np.concatenate([state[name] for state in states]) for name in states[0]}

    def _restore(self, state: dict[str, Array]) -> None:
        if any(len(value) != self.num_envs for value in state.values()):
            raise Fault(f"checkpoint: is of other than {self.num_envs} simulations")
        self._waiting = state

    def _go_on_from_checkpoint(self, model: Any) -> None:
        """Hand the workers their parts of a checkpoint, when all of it is known."""
        self._model = model
        if self._waiting is None:
            return
        self.begin()
        state, self._waiting = self._waiting, None
        parts: list[tuple[Any, ...]] = []
        for worker in self.crew.workers:
            own = slice(worker.share.first, worker.share.first + worker.share.count)
            mine = {name: value[own] for name, value in state.items()}
            parts.append((mine, self._running[own], model._last_obs[own], model._last_episode_starts[own]))
        self.crew.restore(parts)

    def running(self) -> Array:
        """Return (num_envs, 2) return and length of the running episodes, as they were with the last state."""
        return self._running

    def go_on(self, running: Array) -> None:
        """Go on from :meth:`running`."""
        self._running = running

    def close(self) -> None:
        """Dismiss the workers."""
        self.crew.close()

    def reset(self) -> Array:
        """Return observations; workers begin by themselves."""
        return np.zeros((self.num_envs, *self.observation_space.shape), np.float32)  # type: ignore[misc]

    def step_async(self, actions: Array) -> None:
        """Never used: workers step by themselves."""
        raise NotImplementedError

    def step_wait(self) -> Any:
        """Never used: workers step by themselves."""
        raise NotImplementedError

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Nothing here can be set."""

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        return []

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))


def joined(parts: list[Rollout]) -> Rollout:
    """Return rollouts of different simulations side by side, whatever arrays (time, simulations, ...) they have."""
    firsts = np.cumsum([0, *(part.rewards.shape[1] for part in parts)])
    ends = [
        (time, late + first, last) for part, first in zip(parts, firsts, strict=False) for time, late, last in part.ends
    ]
    values: dict[str, Any] = {"ends": sorted(ends, key=lambda end: end[0])}
    for name in (field.name for field in fields(Rollout) if field.name != "ends"):
        arrays = [getattr(part, name) for part in parts]
        values[name] = None if arrays[0] is None else np.concatenate(arrays, axis=1)
    return Rollout(**values)
