"""Rollouts for learners that use what they play at once, without Python work for each simulation; and learning from a teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.policy.actorcritic import ActorCritic, Piece
from melter.policy.budget import Budgeted
from melter.policy.elsewhere import SimulationsElsewhere
from melter.policy.mlp import Array
from melter.policy.pieces import PIECE_ROWS, Pieces

ACTION_SCALE = 0.02
"""Actions are compared with the teacher's on this scale, a fiftieth of normal cable speed."""
NARROWEST, LAST_LAYER = 0.02, 0.1
"""Least spread of an input that is made up for; factor on the actor's last layer before it learns from the teacher."""
DRIVEN_BY_TEACHER = 2
"""Rollouts at the start that the teacher drives."""
CRITIC_SHARE = 0.9
"""Share of the lessons after which the critic learns too."""


@dataclass
class Rollout:
    """What was played, time first: (steps, envs, ...)."""

    observations: Array
    actions: Array
    rewards: Array
    starts: Array
    """Whether an episode began here, float."""
    wanted: Array | None
    """The teacher's actions."""
    ends: list[tuple[int, NDArray[np.intp], Array]]
    """(time, simulations, their last observations) where time was up."""

    @staticmethod
    def empty(steps: int, envs: int, observation_size: int, action_size: int, *, taught: bool) -> Rollout:
        """Return arrays to fill."""
        shape = steps, envs
        actions = np.empty((*shape, action_size), np.float32)
        observations = np.empty((*shape, observation_size), np.float32)
        rewards, starts = np.empty(shape, np.float32), np.empty(shape, np.float32)
        return Rollout(observations, actions, rewards, starts, np.empty_like(actions) if taught else None, [])

    def flat(self, array: Array) -> Array:
        """Return (steps, envs, ...) as rows."""
        return array.reshape(-1, *array.shape[2:])


@dataclass(frozen=True)
class Lessons:
    """How an actor learns from a teacher."""

    teacher: Callable[[Array, float], Array]
    """What to do (envs, actions), for observations (envs, obs) of the simulations as they are now, and the share of the
    run's budget that is used up."""
    rate: Callable[[float], float]
    """Learning rate by the share of the run's budget that is used up."""
    until: float
    """Share of the budget at which the lessons end."""
    batch_size: int
    epochs: int
    keep: int
    """Rollouts to learn from, the newest included."""


class FastOnPolicy(Budgeted):
    """Mixed into an on-policy algorithm of stable-baselines3 with an ``MlpPolicy`` and continuous actions."""

    lessons: Lessons | None = None
    """How to start; None: with nothing."""

    def _setup_model(self: Any) -> None:
        super()._setup_model()  # type: ignore[misc]
        self.rng = np.random.default_rng(self.seed)
        self.networks = ActorCritic(self.policy)
        self.pieces = Pieces(1)
        self.played: Rollout | None = None
        self.lesson_rows: list[tuple[Array, Array]] = []

    def _excluded_save_params(self) -> list[str]:
        own = (
            "networks",
            "pieces",
            "played",
            "lessons",
            "lesson_rows",
            "rollout_buffer_class",
            "rollout_buffer_kwargs",
        )
        return [*super()._excluded_save_params(), *own]

    def shared(self: Any) -> dict[str, Any]:
        """Return what a copy elsewhere needs to act like this: all of the actor's parameters, in one vector."""
        return {"actor": np.array(self.networks.actor_adam.parameters.value)}

    def act_like(self: Any, shared: dict[str, Any]) -> None:
        """Act with the parameters that :meth:`shared` gave."""
        self.networks.actor_adam.parameters.value[...] = shared["actor"]

    @property
    def taught(self) -> bool:
        """Whether the actor still learns from the teacher."""
        lessons = self.lessons
        return lessons is not None and self.used() < lessons.until

    def collect_rollouts(self: Any, env: Any, callback: Any, rollout_buffer: Any, n_rollout_steps: int) -> bool:
        """Play ``n_rollout_steps`` in every simulation; values and advantages follow in bulk."""
        del rollout_buffer
        if isinstance(env, SimulationsElsewhere):
            return env.play(self, callback, n_rollout_steps)
        callback.on_rollout_start()
        observation, taught, used = np.asarray(self._last_obs), self.taught, self.used()
        actions = int(np.prod(self.action_space.shape))
        shape = (n_rollout_steps, env.num_envs)
        if self.played is None or self.played.rewards.shape != shape or (self.played.wanted is not None) != taught:
            self.played = Rollout.empty(*shape, observation.shape[1], actions, taught=taught)
        played = self.played
        played.ends = []
        teacher_drives = taught and len(self.lesson_rows) < min(DRIVEN_BY_TEACHER, self.lessons.keep)
        std = np.exp(self.networks.log_std)
        for time in range(n_rollout_steps):
            mean = self.networks.actor.forward(observation)
            if played.wanted is not None:
                played.wanted[time] = self.lessons.teacher(observation, used)
                mean = played.wanted[time] if teacher_drives else mean
            action = mean + std * self.rng.standard_normal((env.num_envs, actions), dtype=np.float32)
            played.observations[time], played.actions[time] = observation, action
            played.starts[time] = self._last_episode_starts
            observation, played.rewards[time], over, infos = env.step(np.clip(action, -1.0, 1.0))
            self.num_timesteps += env.num_envs
            self._note_ends(time, np.flatnonzero(over), infos)
            if not callback.on_step():
                return False
            self._last_obs, self._last_episode_starts = observation, over
        callback.on_rollout_end()
        return True

    def _note_ends(self: Any, time: int, ended: NDArray[np.intp], infos: list[dict[str, Any]]) -> None:
        self.note_episodes(ended, infos)
        late = np.array([i for i in ended if infos[i].get("TimeLimit.truncated", False)], dtype=np.intp)
        if len(late):
            self.played.ends.append((time, late, np.stack([infos[i]["terminal_observation"] for i in late])))

    def advantages(self: Any) -> tuple[Array, Array]:
        """Return values and generalised advantages (Schulman et al. 2016) of the last rollout, (steps, envs) each."""
        played: Rollout = self.played
        steps, envs = played.rewards.shape
        critic = self.networks.critic
        values = critic.in_parts(played.flat(played.observations), PIECE_ROWS)[:, 0].reshape(steps, envs)
        after = critic.in_parts(np.asarray(self._last_obs), PIECE_ROWS)[:, 0]
        gamma, decay = np.float32(self.gamma), np.float32(self.gamma * self.gae_lambda)
        rewards = played.rewards.copy()
        for time, late, last in played.ends:
            rewards[time, late] += gamma * critic.in_parts(last, PIECE_ROWS)[:, 0]
        advantages, running = np.empty_like(rewards), np.zeros(envs, np.float32)
        going = 1 - np.asarray(self._last_episode_starts, np.float32)
        for time in range(steps - 1, -1, -1):
            slip = rewards[time] + gamma * after * going - values[time]
            running = slip + decay * going * running
            advantages[time] = running
            after, going = values[time], 1 - played.starts[time]
        return values, advantages

    def rows(self: Any) -> tuple[Piece, Array]:
        """Return the last rollout as rows to learn from, and the critic's values (rows,)."""
        played: Rollout = self.played
        values, advantages = self.advantages()
        returns = advantages + values
        spare = np.empty(values.size, np.float32)
        made = Piece(
            played.flat(played.observations), played.flat(played.actions), advantages.ravel(), returns.ravel(), spare
        )
        self.networks.log_probabilities(made)
        return made, values.ravel()

    def learn_lesson(self: Any) -> None:
        """Move the actor towards the teacher's actions on the last rollouts; near the end, fit the critic too."""
        lessons, played, networks = self.lessons, self.played, self.networks
        if played.wanted is None:
            return
        self.lesson_rows.append((played.flat(played.observations).copy(), played.flat(played.wanted).copy()))
        if len(self.lesson_rows) == 1 and networks.gain is None:
            spread = self.lesson_rows[0][0].std(axis=0)
            networks.fit_inputs(np.clip(spread, NARROWEST, 1.0))
            networks.actor.layers[-1][0][...] *= LAST_LAYER
        self.lesson_rows = self.lesson_rows[-lessons.keep :]
        used = self.used()
        rate, losses = lessons.rate(used), []
        gain = None if networks.gain is None else networks.gain[0]
        for rows, wanted in self._lesson_batches():
            gradient, loss = self.pieces.imitation(networks, rows, wanted, ACTION_SCALE)
            networks.actor_adam.step(gradient, rate, gain)
            losses.append(loss)
        self.logger.record("train/lesson_loss", float(np.mean(losses)))
        self.logger.record("train/lesson_rate", rate)
        if used >= CRITIC_SHARE * lessons.until:
            self.fit_critic()

    def _lesson_batches(self: Any) -> Any:
        """Rows and the teacher's actions, in minibatches that use as many rows as ``epochs`` passes over one rollout."""
        lessons: Lessons = self.lessons
        inputs = np.concatenate([rows for rows, _ in self.lesson_rows])
        wanted = np.concatenate([actions for _, actions in self.lesson_rows])
        left = lessons.epochs * len(self.lesson_rows[-1][0])
        while left > 0:
            order = self.rng.permutation(len(inputs))[:left]
            left -= len(order)
            for start in range(0, len(order), lessons.batch_size):
                picked = order[start : start + lessons.batch_size]
                yield inputs[picked], wanted[picked]

    def fit_critic(self: Any) -> None:
        """Fit the critic alone to the last rollout's returns."""

    def state(self: Any) -> dict[str, Any]:
        """Return copies of what the NumPy side needs to go on, beside the policy's weights."""
        networks: ActorCritic = self.networks
        kept: dict[str, Any] = {"adams": [adam.state() for adam in (networks.actor_adam, networks.critic_adam)]}
        if networks.gain is not None:
            kept["gain"] = [gain.copy() for gain in networks.gain]
        kept["lessons"] = [(rows.copy(), wanted.copy()) for rows, wanted in self.lesson_rows] if self.taught else []
        return kept

    def restore(self: Any, kept: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        networks: ActorCritic = self.networks
        for adam, state in zip((networks.actor_adam, networks.critic_adam), kept["adams"], strict=True):
            adam.restore(state)
        networks.gain = tuple(kept["gain"]) if "gain" in kept else None
        self.lesson_rows = [tuple(pair) for pair in kept["lessons"]]
