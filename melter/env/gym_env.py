"""``melter/SandMelter-v0`` for Gymnasium: one environment, and the native batch as a vector environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import ArrayLike, NDArray

from melter.env.batch import ENDINGS, SandMelterBatch, State
from melter.env.scenario import Scenario, scenario_named
from melter.machine import WINCH_COUNT, Machine, load_machine
from melter.observation import ObservationBuilder

Observation = NDArray[np.float32]
_RUNNING, _TIME_IS_UP = 0, 1


def spaces_of(machine: Machine) -> tuple[gym.spaces.Box[np.float32], gym.spaces.Box[np.float32]]:
    """Return the observation and the action space of a machine."""
    high = ObservationBuilder(machine).high
    return gym.spaces.Box(-high, high, dtype=np.float32), gym.spaces.Box(-1.0, 1.0, (WINCH_COUNT,), np.float32)


def make_batch(machine: Machine | str | Path, count: int, scenario: Scenario | str, threads: int) -> SandMelterBatch:
    """Return the batch for a machine (or its file) and a scenario (or its name)."""
    known = machine if isinstance(machine, Machine) else load_machine(machine)
    return SandMelterBatch(known, count, scenario_named(scenario) if isinstance(scenario, str) else scenario, threads)


class SandMelterEnv(gym.Env[Observation, NDArray[np.float32]]):
    """Keep the light patch on a target that moves along a path on the sand.

    **Action** (8 numbers in [−1, 1]): pay-out speed of each winch as a fraction of the machine's normal cable speed, in
    winch order. The safety layer's limiter stands between action and winch.

    **Observation** (float32): see the table of :func:`melter.observation.observation_table`. Only what a webcam, the winch
    counters and the clock can tell.

    =================== ==== ========= ===== =========================================================================
    entry               size scale     unit  meaning
    =================== ==== ========= ===== =========================================================================
    spot_error             2 0.002     m     target minus patch centre, both when the patch was seen, world x, y
    counter_error          2 0.002     m     target minus the spot that the winch counters tell, world x, y
    spot_estimate          6 0.002     m     target minus the counters' spot, moved by what the camera saw in the last 0.2, 1, 5 s
    offset_spread          1 0.0005    m     how much camera and counters disagree from frame to frame
    estimate_in_lengths   24 0.002     m     cable to pay out for each of the three spot estimates to vanish
    rest_error             8 0.005     m     length_error less what counter_error explains of it
    length_error           8 0.005     m     reference cable length for the target minus counted cable length
    feed_forward           8 10 % of v m/s   cable speeds that move the reference lens along the next 0.1 s of path
    feed_forward_next      8 10 % of v m/s   how much more, for the path from 0.1 to 0.25 s ahead
    path_ahead             8 0.005     m     path ahead minus target, world x, y, at 0.1, 0.25, 0.5, 1.0 s
    drop                   1 0.1       m     how far the lens is to hang below focus: 0 while melting
    target                 2 half bed  m     target, world x, y
    semi_axes              2 0.02      m     patch semi-axes, large and small
    angle                  2 1         1     cosine and sine of twice the patch angle, times 1 − axis ratio
    commands              24 10 % of v m/s   the last three approved cable speeds, newest first
    sun                    2 1         1     unit vector to the sun, world x, y
    patch_age              1 0.2       s     age of the patch
    patch_seen             1 1         1     1 when the patch is fresh, else 0
    =================== ==== ========= ===== =========================================================================

    **Reward**: bounded terms for spot error, tilt, defocus, tension band and smoothness (``melter.env.scenario.work_reward``).

    **Ending**: terminated when a tension passes the trip limit, the spot is 0.15 m off, the lens has tipped, or the
    simulation diverged (``info["ending"]`` says which); truncated when the episode's time is up.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self,
        machine: Machine | str | Path = "corner8",
        scenario: Scenario | str = "train",
        render_mode: str | None = None,
    ) -> None:
        self.batch = make_batch(machine, 1, scenario, threads=1)
        self.observation_space, self.action_space = spaces_of(self.batch.machine)
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": round(self.batch.machine.control.rate_hz)}
        self._seed, self._episode = 0, -1
        self._view: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; the same seed starts the same sequence of episodes."""
        super().reset(seed=seed, options=options)
        if seed is not None or self._episode < 0:
            self._seed = int(self.np_random.integers(2**31)) if seed is None else seed
            self._episode = -1
        self._episode += 1
        self.batch.reset(np.array([0]), [self._seed], [self._episode])
        return self.batch.observe()[0], {}

    def step(self, action: ArrayLike) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Advance by one control period."""
        terms, state = self.batch.step(np.asarray(action)[None])
        info: dict[str, Any] = {name: _scalar(value[0]) for name, value in state.info().items()}
        info |= {f"reward_{name}": float(value[0]) for name, value in terms.items()}
        ending = int(state.ending[0])
        if ending != _RUNNING:
            info["ending"] = ENDINGS[ending]
        reward = float(sum(terms.values())[0])  # type: ignore[index]
        return self.batch.observe()[0], reward, ending > _TIME_IS_UP, ending == _TIME_IS_UP, info

    def render(self) -> NDArray[np.uint8] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a picture of the machine, (height, width, 3) RGB."""
        if self.render_mode != "rgb_array":
            return None
        if self._view is None:
            from melter.env.view import View

            self._view = View(self.batch)
        return self._view.picture()

    def close(self) -> None:
        """Free the drawing context."""
        if self._view is not None:
            self._view.close()
            self._view = None


class SandMelterVectorEnv(gym.vector.VectorEnv[Observation, NDArray[np.float32], NDArray[Any]]):
    """The native batch: ``num_envs`` machines in one process, stepped on ``threads`` native threads.

    Simulation ``i`` seeded with ``seed + i`` gives the same bits as a single environment seeded so.
    """

    def __init__(
        self,
        num_envs: int = 1,
        machine: Machine | str | Path = "corner8",
        scenario: Scenario | str = "train",
        threads: int = 1,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        self.batch = make_batch(machine, num_envs, scenario, threads)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"autoreset_mode": self.autoreset_mode, "render_modes": []}
        self.single_observation_space, self.single_action_space = spaces_of(self.batch.machine)
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, num_envs)
        self._seeds = np.zeros(num_envs, dtype=np.int64)
        self._episodes = np.full(num_envs, -1, dtype=np.int64)
        self._over = np.zeros(num_envs, dtype=bool)

    def reset(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode in every simulation, or in those of ``options["reset_mask"]``."""
        if isinstance(seed, int | np.integer):
            seed = int(seed)
            super().reset(seed=seed)
        mask = (
            np.ones(self.num_envs, dtype=bool)
            if not options
            else options.get("reset_mask", np.ones(self.num_envs, dtype=bool))
        )
        ids = np.flatnonzero(mask)
        given: list[int | None] = (
            [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else list(seed or [None] * self.num_envs)
        )
        for i in ids:
            value = given[i]
            if value is not None or self._episodes[i] < 0:
                self._seeds[i] = int(self.np_random.integers(2**31)) if value is None else value
                self._episodes[i] = -1
        self._begin(ids)
        return self.batch.observe(), {}

    def step(
        self, actions: ArrayLike
    ) -> tuple[Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Advance every simulation by one control period, restarting as ``autoreset_mode`` says."""
        restarting = self._over if self.autoreset_mode == AutoresetMode.NEXT_STEP else np.zeros_like(self._over)
        wanted = np.asarray(actions, dtype=float)
        if restarting.any():
            wanted = np.where(restarting[:, None], 0.0, wanted)
        terms, state = self.batch.step(wanted)
        reward = np.asarray(sum(terms.values()), dtype=float)
        ending = state.ending
        if restarting.any():
            reward = np.where(restarting, 0.0, reward)
            ending = np.where(restarting, _RUNNING, ending)
            self._begin(np.flatnonzero(restarting))
        terminated, truncated = ending > _TIME_IS_UP, ending == _TIME_IS_UP
        self._over = terminated | truncated
        info: dict[str, Any] = (
            state.info() | {f"reward_{name}": value for name, value in terms.items()} | {"ending": ending}
        )
        observation = self.batch.observe()
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._over.any():
            over = np.flatnonzero(self._over)
            info |= _final(observation, state, self._over)
            self._begin(over)
            observation[over] = self.batch.observe()[over]
        return observation, reward, terminated, truncated, info

    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies of everything needed to go on from here, seeds and episode numbers included."""
        return self.batch.state() | {
            "seeds": self._seeds.copy(),
            "episodes": self._episodes.copy(),
            "over": self._over.copy(),
        }

    def restore(self, state: dict[str, NDArray[Any]]) -> Observation:
        """Go on from :meth:`state`, bit for bit; return the observation."""
        self.batch.restore(state)
        self._seeds, self._episodes, self._over = (state[name].copy() for name in ("seeds", "episodes", "over"))
        return self.batch.observe()

    def _begin(self, ids: NDArray[np.intp]) -> None:
        self._episodes[ids] += 1
        self._over[ids] = False
        self.batch.reset(ids, self._seeds[ids], self._episodes[ids])


def _final(observation: Observation, state: State, over: NDArray[np.bool_]) -> dict[str, Any]:
    """The last observations and infos of episodes that ended, as Gymnasium's vector environments give them."""
    last = np.full(len(over), None, dtype=object)
    for i in np.flatnonzero(over):
        last[i] = observation[i].copy()
    info = {name: np.where(_like(over, value), value, 0) for name, value in state.info().items()}
    return {"final_obs": last, "_final_obs": over.copy(), "final_info": info, "_final_info": over.copy()}


def _like(mask: NDArray[np.bool_], value: NDArray[Any]) -> NDArray[np.bool_]:
    return mask.reshape(-1, *[1] * (value.ndim - 1))


def _scalar(value: Any) -> Any:
    return float(value) if np.ndim(value) == 0 else np.array(value)
