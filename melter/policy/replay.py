"""A replay buffer for many simulations: one write for all of them, one gather for a batch, n-step returns."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples

Array = NDArray[np.float32]


class Replay(BaseBuffer):
    """The last ``size`` transitions of ``envs`` simulations, time first.

    An observation is kept once, as what follows one and precedes the next; the last ones of episodes are kept apart. Targets
    sum ``n_steps`` rewards, fewer where an episode or the buffer ends.
    """

    def __init__(
        self, size: int, spaces: tuple[Any, Any], envs: int, rng: np.random.Generator, n_steps: int, gamma: float
    ) -> None:
        super().__init__(max(size // envs, n_steps + 1), *spaces, device="cpu", n_envs=envs)
        rows, width = self.buffer_size, int(np.prod(spaces[0].shape))
        self.rng, self.n_steps, self.gamma = rng, n_steps, gamma
        self.observations = np.zeros((rows, envs, width), np.float32)
        self.actions = np.zeros((rows, envs, self.action_dim), np.float32)
        self.rewards, self.over, self.terminal = (np.zeros((rows, envs), np.float32) for _ in range(3))
        """Reward; whether an episode ended here; whether for good, rather than because time was up."""
        self.last: dict[int, Array] = {}
        """What the episode that ended at (row * envs + simulation) led to."""

    def put(self, observation: Array, action: Array, reward: Array, over: Array, infos: list[dict[str, Any]]) -> None:
        """Keep one step of all simulations."""
        row, envs = self.pos, self.n_envs
        if self.full:
            for simulation in np.flatnonzero(self.over[row]):
                self.last.pop(row * envs + int(simulation), None)
        self.observations[row], self.actions[row], self.rewards[row] = observation, action, reward
        self.over[row], self.terminal[row] = over, over
        for i in np.flatnonzero(over):
            self.last[row * envs + int(i)] = np.array(infos[i]["terminal_observation"], np.float32)
            self.terminal[row, i] = not infos[i].get("TimeLimit.truncated", False)
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full, self.pos = True, 0

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:  # noqa: ARG002
        """Return a batch drawn evenly from all transitions but the newest step's, whose outcome is not written yet."""
        held = self.buffer_size if self.full else self.pos
        age = self.rng.integers(2, held + 1, batch_size)
        which = self.rng.integers(0, self.n_envs, batch_size)
        row = (self.pos - age) % self.buffer_size
        total, discount = self.rewards[row, which].copy(), np.full(batch_size, self.gamma, np.float32)
        at, going = row.copy(), self.over[row, which] == 0
        for step in range(1, self.n_steps):
            going &= age - step >= 2
            at = np.where(going, (row + step) % self.buffer_size, at)
            total += np.where(going, discount * self.rewards[at, which], 0)
            discount = np.where(going, discount * np.float32(self.gamma), discount)
            going &= self.over[at, which] == 0
        following = self.observations[(at + 1) % self.buffer_size, which]
        for i in np.flatnonzero(self.over[at, which]):
            following[i] = self.last[int(at[i]) * self.n_envs + int(which[i])]
        return ReplayBufferSamples(
            torch.from_numpy(self.observations[row, which]),
            torch.from_numpy(self.actions[row, which]),
            torch.from_numpy(following),
            torch.from_numpy(self.terminal[at, which][:, None]),
            torch.from_numpy(total[:, None]),
            torch.from_numpy(discount[:, None]),
        )

    def state(self) -> dict[str, Any]:
        """Return what is needed to go on, as views of what is filled."""
        held = self.buffer_size if self.full else self.pos
        names = ("observations", "actions", "rewards", "over", "terminal")
        kept: dict[str, Any] = {name: getattr(self, name)[:held] for name in names}
        ends = sorted(self.last)
        width = self.observations.shape[2]
        rows = np.stack([self.last[end] for end in ends]) if ends else np.zeros((0, width), np.float32)
        return kept | {"ends": np.array(ends, np.int64), "last": rows, "place": [self.pos, int(self.full)]}

    def restore(self, kept: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        for name in ("observations", "actions", "rewards", "over", "terminal"):
            getattr(self, name)[: len(kept[name])] = kept[name]
        self.last = {int(end): row for end, row in zip(kept["ends"], kept["last"], strict=True)}
        self.pos, self.full = kept["place"][0], bool(kept["place"][1])

    def _get_samples(self, batch_inds: Any, env: Any = None) -> Any:
        raise NotImplementedError
