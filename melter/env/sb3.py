"""The native batch as a stable-baselines3 ``VecEnv``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn

from melter.env.batch import ENDINGS
from melter.env.gym_env import SandMelterVectorEnv
from melter.env.scenario import Scenario
from melter.machine import Machine


class SandMelterVecEnv(VecEnv):
    """Same trajectories as :class:`SandMelterVectorEnv`; episodes that end restart within the same step.

    ``infos`` holds what stable-baselines3 needs at the end of an episode: ``terminal_observation``, ``TimeLimit.truncated``,
    ``episode`` (as Monitor writes it: r, l, t) and ``ending``. The truth of the last step is in ``truth``, as arrays.
    """

    def __init__(
        self,
        num_envs: int,
        machine: Machine | str | Path = "corner8",
        scenario: Scenario | str = "train",
        threads: int = 1,
    ) -> None:
        self.env = SandMelterVectorEnv(num_envs, machine, scenario, threads, AutoresetMode.SAME_STEP)
        super().__init__(num_envs, self.env.single_observation_space, self.env.single_action_space)
        self.truth: dict[str, Any] = {}
        self._actions = np.zeros((num_envs, 8), dtype=np.float32)
        self._return, self._length = np.zeros(num_envs), np.zeros(num_envs, dtype=np.int64)

    def reset(self) -> VecEnvObs:
        """Start an episode in every simulation."""
        seeds = list(self._seeds)
        observation, _ = self.env.reset(seed=seeds if any(s is not None for s in seeds) else None)
        self._reset_seeds()
        self._reset_options()
        self._return[:], self._length[:] = 0.0, 0
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:  # pyright: ignore[reportUnknownParameterType]
        observation, reward, terminated, truncated, self.truth = self.env.step(self._actions)
        self._return += reward
        self._length += 1
        over = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(over):
            infos[i] = {
                "terminal_observation": self.truth["final_obs"][i],
                "TimeLimit.truncated": bool(truncated[i]),
                "episode": {"r": float(self._return[i]), "l": int(self._length[i]), "t": 0.0},
                "ending": ENDINGS[self.truth["ending"][i]],
            }
        self._return[over], self._length[over] = 0.0, 0
        return observation, reward.astype(np.float32), over, infos

    @property
    def asked(self) -> NDArray[np.float32]:
        """(num_envs, 8) actions of the last step, before the safety layer."""
        return self._actions

    def running(self) -> NDArray[np.float64]:
        """Return (num_envs, 2) return and length of the running episodes, for a checkpoint."""
        return np.stack([self._return, self._length.astype(np.float64)], axis=1)

    def go_on(self, running: NDArray[np.float64]) -> None:
        """Go on from :meth:`running`."""
        self._return, self._length = running[:, 0].copy(), running[:, 1].astype(np.int64)

    def close(self) -> None:
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return [getattr(self.env, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        setattr(self.env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        return [getattr(self.env, method_name)(*method_args, **method_kwargs)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))

    def get_images(self) -> Sequence[np.ndarray | None]:
        return [None] * self.num_envs
