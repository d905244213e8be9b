"""A replay buffer for many simulations: one write for all of them, one gather for a batch, n-step returns, priorities."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import BaseBuffer

from melter.policy.sumtree import SumTree

Array = NDArray[np.float32]
Indices = NDArray[np.intp]
LEAST_ERROR = 1e-4
"""Added to every error, so that nothing is never drawn again."""
_ARRAYS = ("observations", "actions", "rewards", "over", "terminal")
_PLACES = ("next", "held", "closed")


class Batch(NamedTuple):
    """Transitions to learn from, (batch, ...), with the names that stable-baselines3 has for them."""

    observations: torch.Tensor
    actions: torch.Tensor
    next_observations: torch.Tensor
    dones: torch.Tensor
    rewards: torch.Tensor
    discounts: torch.Tensor
    weights: torch.Tensor | None
    """(batch, 1) what makes up for uneven drawing, at most 1; None: drawn evenly."""
    places: Indices
    """(batch,) where they are kept, for :meth:`Replay.learnt`."""


@dataclass
class Steps:
    """What some simulations played, time first: (steps, simulations, ...)."""

    observations: Array
    actions: Array
    rewards: Array
    over: Array
    """Whether an episode ended here."""
    terminal: Array
    """Whether for good, rather than because time was up."""
    ends: list[tuple[int, int, Array]] = field(default_factory=list[tuple[int, int, Array]])
    """(time, simulation, its last observation) of the episodes that ended."""

    @staticmethod
    def empty(steps: int, envs: int, observation_size: int, action_size: int) -> Steps:
        """Return arrays to fill."""
        observations = np.zeros((steps, envs, observation_size), np.float32)
        actions = np.zeros((steps, envs, action_size), np.float32)
        rewards, over, terminal = (np.zeros((steps, envs), np.float32) for _ in range(3))
        return Steps(observations, actions, rewards, over, terminal)

    def write(
        self, time: int, observation: Array, action: Array, reward: Array, over: Any, infos: list[dict[str, Any]]
    ) -> None:
        """Note one step of all simulations."""
        self.observations[time], self.actions[time], self.rewards[time] = observation, action, reward
        self.over[time], self.terminal[time] = over, over
        for i in np.flatnonzero(over):
            self.ends.append((time, int(i), np.array(infos[i]["terminal_observation"], np.float32)))
            self.terminal[time, i] = not infos[i].get("TimeLimit.truncated", False)

    def close(self, following: Array) -> None:
        """Let it end with the last step: ``following`` (simulations, observation) is where that led to."""
        time = len(self.rewards) - 1
        for i in np.flatnonzero(self.over[time] == 0):
            self.ends.append((time, int(i), following[i].copy()))
        self.over[time] = 1


class Replay(BaseBuffer):
    """The last ``size`` transitions of ``envs`` simulations, time first, each simulation with a place of its own in time.

    An observation is kept once, as what follows one and precedes the next; the last ones of episodes are kept apart. Targets
    sum ``n_steps`` rewards, fewer where an episode or the buffer ends. With ``priority`` above 0, transitions are drawn in
    proportion to that power of their last error, new ones as often as the worst of the last batch, and weighed by the power
    ``correction`` of what that distorts (Schaul et al. 2016).
    """

    def __init__(
        self,
        size: int,
        spaces: tuple[Any, Any],
        envs: int,
        rng: np.random.Generator,
        n_steps: int,
        gamma: float,
        priority: float = 0.0,
        correction: float = 0.0,
    ) -> None:
        super().__init__(max(size // envs, n_steps + 1), *spaces, device="cpu", n_envs=envs)
        rows, width = self.buffer_size, int(np.prod(spaces[0].shape))
        self.rng, self.n_steps, self.gamma, self.priority, self.correction = rng, n_steps, gamma, priority, correction
        kept = Steps.empty(rows, envs, width, self.action_dim)
        self.observations, self.actions, self.rewards = kept.observations, kept.actions, kept.rewards
        self.over, self.terminal = kept.over, kept.terminal
        self.last: dict[int, Array] = {}
        """What the episode that ended at (row * envs + simulation) led to."""
        self.next, self.held = np.zeros(envs, np.intp), np.zeros(envs, np.intp)
        """Row that is written next, and rows that are filled, by simulation."""
        self.closed = np.ones(envs, bool)
        """Whether it is known what the newest transition led to."""
        self.tree = SumTree(rows * envs) if priority > 0 else None
        self.newest_priority = 1.0

    @property
    def usable(self) -> NDArray[np.intp]:
        """(envs,) transitions that can be drawn."""
        return self.held - ~self.closed

    def put(self, observation: Array, action: Array, reward: Array, over: Array, infos: list[dict[str, Any]]) -> None:
        """Keep one step of all simulations."""
        step = Steps.empty(1, self.n_envs, self.observations.shape[2], self.action_dim)
        step.write(0, observation, action, reward, over, infos)
        self._keep(slice(0, self.n_envs), step, closed=False)

    def put_played(self, first: int, played: Steps) -> None:
        """Keep what the simulations from ``first`` on played; it must have been closed."""
        most = self.buffer_size
        if len(played.rewards) > most:
            late = len(played.rewards) - most
            ends = [(time - late, i, last) for time, i, last in played.ends if time >= late]
            played = replace(played, ends=ends, **{name: getattr(played, name)[late:] for name in _ARRAYS})
        self._keep(slice(first, first + played.rewards.shape[1]), played, closed=True)

    def _keep(self, columns: slice, played: Steps, *, closed: bool) -> None:
        steps, envs = len(played.rewards), self.n_envs
        which = np.arange(columns.start, columns.stop)
        rows = (self.next[columns] + np.arange(steps)[:, None]) % self.buffer_size
        places = rows * envs + which
        for place in places[self.over[rows, which] > 0]:
            self.last.pop(int(place), None)
        for name in _ARRAYS:
            getattr(self, name)[rows, which] = getattr(played, name)
        for time, i, last in played.ends:
            self.last[int(places[time, i])] = last
        if self.tree is not None:
            open_before = which[~self.closed[columns]]
            before = (self.next[open_before] - 1) % self.buffer_size * envs + open_before
            known, unknown = (places.ravel(), places[:0]) if closed else (places[:-1].ravel(), places[-1])
            self.tree.put(np.concatenate([before, known]), self.newest_priority)
            self.tree.put(unknown.ravel(), 0.0)
        self.next[columns] = (rows[-1] + 1) % self.buffer_size
        self.held[columns] = np.minimum(self.held[columns] + steps, self.buffer_size)
        self.closed[columns] = closed

    def sample(self, batch_size: int, env: Any = None) -> Batch:  # type: ignore[override]  # noqa: ARG002
        """Return a batch of transitions whose outcome is known, drawn evenly or by priority."""
        row, which, weights = self._drawn(batch_size)
        age = (self.next[which] - row - 1) % self.buffer_size + 1
        unknown = (~self.closed).astype(np.intp)[which]
        total, discount = self.rewards[row, which].copy(), np.full(batch_size, self.gamma, np.float32)
        at, going = row.copy(), self.over[row, which] == 0
        for step in range(1, self.n_steps):
            going &= age - step > unknown
            at = np.where(going, (row + step) % self.buffer_size, at)
            total += np.where(going, discount * self.rewards[at, which], 0)
            discount = np.where(going, discount * np.float32(self.gamma), discount)
            going &= self.over[at, which] == 0
        following = self.observations[(at + 1) % self.buffer_size, which]
        for i in np.flatnonzero(self.over[at, which]):
            following[i] = self.last[int(at[i]) * self.n_envs + int(which[i])]
        return Batch(
            torch.from_numpy(self.observations[row, which]),
            torch.from_numpy(self.actions[row, which]),
            torch.from_numpy(following),
            torch.from_numpy(self.terminal[at, which][:, None]),
            torch.from_numpy(total[:, None]),
            torch.from_numpy(discount[:, None]),
            weights,
            row * self.n_envs + which,
        )

    def _drawn(self, count: int) -> tuple[Indices, Indices, torch.Tensor | None]:
        """Rows, simulations and weights of transitions to learn from."""
        if self.tree is None:
            usable = self.usable
            ends = usable.cumsum()
            drawn = self.rng.integers(0, ends[-1], count)
            which = np.searchsorted(ends, drawn, side="right")
            back = ends[which] - drawn + ~self.closed[which]
            return (self.next[which] - back) % self.buffer_size, which, None
        total = self.tree.total
        places = self.tree.find((np.arange(count) + self.rng.random(count)) * (total / count))
        weights = (self.tree.values[places] / total) ** -self.correction
        row, which = np.divmod(places, self.n_envs)
        return row, which, torch.from_numpy((weights / weights.max()).astype(np.float32)[:, None])

    def learnt(self, places: Indices, errors: Array) -> None:
        """Take note of the errors (batch,) that the transitions at ``places`` were just found to have."""
        if self.tree is None:
            return
        priorities = (np.abs(errors).astype(np.float64) + LEAST_ERROR) ** self.priority
        self.newest_priority = float(priorities.max())
        self.tree.put(places, priorities)

    def state(self) -> dict[str, Any]:
        """Return what is needed to go on, as views of what is filled."""
        held = int(self.held.max())
        kept: dict[str, Any] = {name: getattr(self, name)[:held] for name in _ARRAYS}
        kept |= {name: getattr(self, name).copy() for name in _PLACES}
        if self.tree is not None:
            kept |= {"priorities": self.tree.values[: held * self.n_envs], "newest_priority": self.newest_priority}
        ends = sorted(self.last)
        width = self.observations.shape[2]
        rows = np.stack([self.last[end] for end in ends]) if ends else np.zeros((0, width), np.float32)
        return kept | {"ends": np.array(ends, np.int64), "last": rows}

    def restore(self, kept: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        for name in _ARRAYS:
            getattr(self, name)[: len(kept[name])] = kept[name]
        for name in _PLACES:
            getattr(self, name)[...] = kept[name]
        self.last = {int(end): row for end, row in zip(kept["ends"], kept["last"], strict=True)}
        if self.tree is not None:
            self.tree.put(np.arange(len(kept["priorities"])), kept["priorities"])
            self.newest_priority = kept["newest_priority"]

    def _get_samples(self, batch_inds: Any, env: Any = None) -> Any:
        raise NotImplementedError
