"""stable-baselines3's off-policy learners for many simulations: no Python work for each, and leaner gradient steps.

What they learn is the same. SAC, TD3 and DDPG do their gradient step here: the critic is frozen in the actor's loss, whose
gradient it does not need; slow copies move in one operation; losses are read once; Adam is torch's fused one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.type_aliases import RolloutReturn
from torch.nn import functional

from melter.policy.budget import Budgeted
from melter.policy.elsewhere import SimulationsElsewhere
from melter.policy.replay import Replay

_HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


class FastOffPolicy(Budgeted):
    """Mixed into an off-policy algorithm of stable-baselines3 with an ``MlpPolicy``."""

    starter: Callable[[Any], Any] | None = None
    """Observation (n, obs) to action (n, 8): drives before learning starts; None: stable-baselines3's random actions."""
    start_noise = 0.0
    """Standard deviation of the noise on the starter's actions."""
    explore_noise = 0.0
    """Standard deviation of the noise on the policy's actions."""
    explore_scale = 1.0
    """Factor on all exploration; workers that play for a learner have one each."""
    prioritised = False
    """Whether transitions are drawn by priority."""

    def _setup_model(self: Any) -> None:
        super()._setup_model()  # type: ignore[misc]
        self.rng = np.random.default_rng(self.seed)

    def use_replay(self: Any, size: int, n_steps: int, priority: float = 0.0, correction: float = 0.0) -> None:
        """Keep ``size`` transitions, in a buffer that is made for many simulations."""
        spaces = self.observation_space, self.action_space
        self.replay_buffer = Replay(size, spaces, self.n_envs, self.rng, n_steps, self.gamma, priority, correction)
        self.prioritised = priority > 0

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "start_noise",
            "explore_noise",
            "explore_scale",
            "prioritised",
            "action_noise",
        ]

    def shared(self: Any) -> dict[str, Any]:
        """Return what a copy elsewhere needs to act like this: the actor's weights, as arrays by name."""
        return {name: value.numpy().copy() for name, value in self.actor.state_dict().items()}

    def act_like(self: Any, shared: dict[str, Any]) -> None:
        """Act with the weights that :meth:`shared` gave."""
        self.actor.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in shared.items()})

    def collect_rollouts(
        self: Any,
        env: Any,
        callback: Any,
        train_freq: Any,
        replay_buffer: Any,
        action_noise: Any = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        """Play ``train_freq`` steps of all simulations into the replay buffer, or take in what was played elsewhere."""
        del action_noise, log_interval
        if isinstance(env, SimulationsElsewhere):
            env.play(self, callback, train_freq.frequency)
            return RolloutReturn(env.num_envs, 0, continue_training=True)
        self.policy.set_training_mode(False)
        callback.on_rollout_start()
        for _ in range(train_freq.frequency):
            observation = np.asarray(self._last_obs)
            action = self._chosen(observation, learning_starts)
            following, reward, over, infos = env.step(action)
            self.num_timesteps += env.num_envs
            if not callback.on_step():
                return RolloutReturn(env.num_envs, 0, continue_training=False)
            self.note_episodes(np.flatnonzero(over), infos)
            replay_buffer.put(observation, action, reward, over, infos)
            self._last_obs = following
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        callback.on_rollout_end()
        return RolloutReturn(train_freq.frequency * env.num_envs, 0, continue_training=True)

    def _chosen(self: Any, observation: Any, learning_starts: int) -> Any:
        """(n, 8) actions, exploration included."""
        if self.num_timesteps < learning_starts:
            action = np.zeros((len(observation), 8)) if self.starter is None else self.starter(observation)
            noise = self.start_noise
        else:
            with torch.no_grad():
                action = (
                    self.actor(torch.from_numpy(observation)).numpy()
                    if self.explore_noise
                    else self._drawn(observation)
                )
            noise = self.explore_noise
        noise *= self.explore_scale
        noisy = action + noise * self.rng.standard_normal(action.shape, dtype=np.float32)
        return np.clip(noisy, -1.0, 1.0).astype(np.float32)

    def _drawn(self: Any, observation: Any) -> Any:
        if self.explore_scale == 1.0:
            return self.actor(torch.from_numpy(observation), deterministic=False).numpy()
        mean, log_std, _ = self.actor.get_action_dist_params(torch.from_numpy(observation))
        return torch.tanh(mean + self.explore_scale * log_std.exp() * torch.randn_like(mean)).numpy()

    def _squares(self: Any, values: Any, target: torch.Tensor, data: Any) -> Any:
        """Sum of the critics' squared errors; where transitions are drawn by priority, they are weighed and their errors noted."""
        if not self.prioritised:
            return sum(functional.mse_loss(value, target) for value in values)
        errors = [value - target for value in values]
        mean = torch.stack([error.detach().abs() for error in errors]).mean(0)[:, 0]
        self.replay_buffer.learnt(data.places, mean.numpy())
        return sum((data.weights * error.square()).mean() for error in errors)

    def dump_logs(self: Any) -> None:
        """Write what was recorded; episodes are told by the keeper."""
        self.logger.dump(step=self.num_timesteps)

    def state(self: Any) -> dict[str, Any]:
        """Return what is needed to go on, beside networks and optimisers."""
        return {"replay": self.replay_buffer.state()}

    def restore(self: Any, kept: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.replay_buffer.restore(kept["replay"])


class FastSAC(FastOffPolicy, SAC):
    """SAC with a leaner gradient step."""

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Take gradient steps; the same losses as stable-baselines3's."""
        self.policy.set_training_mode(True)
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        if self.ent_coef_optimizer is not None:
            optimizers.append(self.ent_coef_optimizer)
        self._update_learning_rate(optimizers)
        slow, fast = list(self.critic_target.parameters()), list(self.critic.parameters())
        told: list[torch.Tensor] = []
        for step in range(gradient_steps):
            told.append(self._gradient_step(self.replay_buffer.sample(batch_size)))  # type: ignore[union-attr]
            if step % self.target_update_interval == 0:
                _follow(slow, fast, self.tau)
        self._n_updates += gradient_steps
        means = torch.stack(told).mean(0).tolist()
        for name, value in zip(("ent_coef", "critic_loss", "actor_loss"), means, strict=True):
            self.logger.record(f"train/{name}", value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _gradient_step(self, data: Any) -> torch.Tensor:
        """Entropy weight, critic, actor; return (entropy weight, critic loss, actor loss)."""
        actions, log_prob = self._draw(data.observations)
        if self.ent_coef_optimizer is not None and self.log_ent_coef is not None:
            weight = self.log_ent_coef.detach().exp()
            weight_loss = -(self.log_ent_coef * (log_prob.detach() + self.target_entropy)).mean()  # type: ignore[operator]
            self.ent_coef_optimizer.zero_grad()
            weight_loss.backward()
            self.ent_coef_optimizer.step()
        else:
            weight = self.ent_coef_tensor
        with torch.no_grad():
            following, next_log_prob = self._draw(data.next_observations)
            value = torch.minimum(*self.critic_target(data.next_observations, following)) - weight * next_log_prob
            target = data.rewards + (1 - data.dones) * _discount(data, self.gamma) * value
        values = self.critic(data.observations, data.actions)
        critic_loss = 0.5 * self._squares(values, target, data)
        self.critic.optimizer.zero_grad()
        critic_loss.backward()
        self.critic.optimizer.step()
        with _frozen(self.critic):
            actor_loss = (weight * log_prob - torch.minimum(*self.critic(data.observations, actions))).mean()
            self.actor.optimizer.zero_grad()
            actor_loss.backward()
        self.actor.optimizer.step()
        return torch.stack([weight.reshape(()), critic_loss.detach(), actor_loss.detach()])

    def _draw(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Actions (n, 8) drawn from the squashed Gaussian, and their log-probabilities (n, 1)."""
        mean, log_std, _ = self.actor.get_action_dist_params(observations)
        noise = torch.randn_like(mean)
        action = torch.tanh(mean + log_std.exp() * noise)
        density = -0.5 * noise * noise - log_std - _HALF_LOG_2_PI - torch.log(1 - action * action + 1e-6)
        return action, density.sum(1, keepdim=True)


class FastTD3(FastOffPolicy, TD3):
    """TD3 with a leaner gradient step."""

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Take gradient steps; the same losses as stable-baselines3's."""
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])
        slow = [*self.critic_target.parameters(), *self.actor_target.parameters()]
        fast = [*self.critic.parameters(), *self.actor.parameters()]
        critic_losses: list[torch.Tensor] = []
        actor_losses: list[torch.Tensor] = []
        for _ in range(gradient_steps):
            self._n_updates += 1
            data = self.replay_buffer.sample(batch_size)  # type: ignore[union-attr]
            critic_losses.append(self._critic_step(data))
            if self._n_updates % self.policy_delay == 0:
                actor_losses.append(self._actor_step(data))
                _follow(slow, fast, self.tau)
        self.logger.record("train/critic_loss", float(torch.stack(critic_losses).mean()))
        if actor_losses:
            self.logger.record("train/actor_loss", float(torch.stack(actor_losses).mean()))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _critic_step(self, data: Any) -> torch.Tensor:
        with torch.no_grad():
            noise = torch.randn_like(data.actions) * self.target_policy_noise
            noise.clamp_(-self.target_noise_clip, self.target_noise_clip)
            following = (self.actor_target(data.next_observations) + noise).clamp_(-1, 1)
            values = self.critic_target(data.next_observations, following)
            value = torch.minimum(*values) if len(values) == 2 else values[0]
            target = data.rewards + (1 - data.dones) * _discount(data, self.gamma) * value
        loss = self._squares(self.critic(data.observations, data.actions), target, data)
        self.critic.optimizer.zero_grad()
        loss.backward()
        self.critic.optimizer.step()
        return loss.detach()

    def _actor_step(self, data: Any) -> torch.Tensor:
        with _frozen(self.critic):
            loss = -self.critic.q1_forward(data.observations, self.actor(data.observations)).mean()
            self.actor.optimizer.zero_grad()
            loss.backward()
        self.actor.optimizer.step()
        return loss.detach()


class FastDDPG(FastTD3, DDPG):
    """DDPG: TD3 with one critic and no delay."""


class _frozen:  # noqa: N801 (used as a statement)
    """Parameters that no gradient is worked out for, for as long as it lasts."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._parameters = list(module.parameters())

    def __enter__(self) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(True)


def _discount(data: Any, gamma: float) -> Any:
    return gamma if data.discounts is None else data.discounts


@torch.no_grad()
def _follow(slow: Sequence[torch.Tensor], fast: Sequence[torch.Tensor], share: float) -> None:
    """Move each of ``slow`` by ``share`` of the way to its like in ``fast``."""
    torch._foreach_lerp_(list(slow), list(fast), share)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
