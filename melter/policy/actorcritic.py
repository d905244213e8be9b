"""Actor and critic of a stable-baselines3 policy as two NumPy networks on one flat vector, with PPO's gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from melter.errors import BadInput
from melter.policy.mlp import Adam, Array, FlatParameters, Mlp, pairs, weights_and_biases

HUBER_AT = 3.0
"""Where the imitation's loss turns from square to straight."""
_LOG_ROOT_2_PI = 0.5 * math.log(2 * math.pi)


@dataclass
class Piece:
    """Rows of a rollout: (n, observation), (n, action), and (n,) each."""

    observations: Array
    actions: Array
    advantages: Array
    returns: Array
    log_probabilities: Array
    """Of the actions, under the policy that took them."""

    def take(self, picked: NDArray[np.intp]) -> Piece:
        """Return copies of the picked rows."""
        return Piece(*(array.take(picked, axis=0) for array in self.__dict__.values()))


@dataclass
class Gradient:
    """Of PPO's loss over some rows: flat vectors for actor and critic, and what the log tells of them."""

    actor: Array | None
    """None where the actor is not trained."""
    critic: Array
    told: NDArray[np.float64]
    """Policy loss, value loss, KL divergence (nats), share of the rows whose ratio was clipped."""

    def add(self, other: Gradient) -> None:
        """Add that of other rows."""
        self.critic += other.critic
        self.told += other.told
        if self.actor is not None and other.actor is not None:
            self.actor += other.actor


class ActorCritic:
    """The networks of an ``ActorCriticPolicy`` with a Gaussian of fixed width, sharing its memory."""

    def __init__(self, policy: Any) -> None:
        extractor = policy.mlp_extractor
        activation = {torch.nn.Tanh: "tanh", torch.nn.ReLU: "relu"}.get(policy.activation_fn)
        if activation is None:
            raise BadInput(f"activation {policy.activation_fn.__name__}: must be Tanh or ReLU")
        actor = [*weights_and_biases(extractor.policy_net, policy.action_net), policy.log_std]
        critic = weights_and_biases(extractor.value_net, policy.value_net)
        eps = float(policy.optimizer.defaults["eps"])
        self.actor_adam, self.critic_adam = Adam(FlatParameters(actor), eps), Adam(FlatParameters(critic), eps)
        views = self.actor_adam.parameters.views()
        self.actor = Mlp(pairs(views[:-1]), activation)
        self.critic = Mlp(pairs(self.critic_adam.parameters.views()), activation)
        self.log_std: Array = views[-1]
        """Logarithm of the exploration noise, one for each action."""
        self.gain: tuple[Array, Array] | None = None
        """Step sizes relative to the learning rate, for actor and critic; None: all one."""
        self._slots: dict[int, tuple[Array, Array]] = {}

    def log_probabilities(self, rows: Piece, at_once: int = 4096) -> None:
        """Fill in ``rows.log_probabilities`` for the policy as it is now."""
        for start in range(0, len(rows.actions), at_once):
            part = slice(start, start + at_once)
            mean = self.actor.forward(rows.observations[part])
            rows.log_probabilities[part] = self._log_probability(rows.actions[part] - mean)

    def _log_probability(self, offset: Array) -> Array:
        z = offset * np.exp(-self.log_std)
        return -0.5 * np.einsum("ij,ij->i", z, z) - (self.log_std.sum() + len(self.log_std) * _LOG_ROOT_2_PI)

    def gradient(
        self,
        piece: Piece,
        total: int,
        clip: float,
        vf_coef: float,
        ent_coef: float,
        *,
        actor: bool = True,
        slot: int = 0,
    ) -> Gradient:
        """Return PPO's loss gradient of ``piece``, a part of a minibatch of ``total`` rows.

        ``actor``: whether its part is wanted. ``slot``: pieces that are worked on at the same time have different ones;
        the vectors of a slot are used again by the next call.
        """
        if slot not in self._slots:
            self._slots[slot] = np.empty_like(self.actor_adam.first), np.empty_like(self.critic_adam.first)
        for_actor, for_critic = self._slots[slot]
        told = np.zeros(4)
        outputs = self.critic.workspace(len(piece.returns), slot)
        lack = self.critic.forward(piece.observations, outputs)[:, 0] - piece.returns
        told[1] = lack @ lack / total
        lack *= 2 * vf_coef / total
        self.critic.backward(
            piece.observations, outputs, lack[:, None], pairs(self.critic_adam.parameters.views(for_critic))
        )
        if actor:
            self._actor_gradient(piece, total, clip, ent_coef, slot, for_actor, told)
        return Gradient(for_actor if actor else None, for_critic, told)

    def _actor_gradient(
        self, piece: Piece, total: int, clip: float, ent_coef: float, slot: int, gradient: Array, told: Array
    ) -> None:
        """Write the clipped surrogate's gradient and its share of ``told``."""
        views = self.actor_adam.parameters.views(gradient)
        outputs = self.actor.workspace(len(piece.returns), slot)
        offset = piece.actions - self.actor.forward(piece.observations, outputs)
        inverse = np.exp(-self.log_std)
        log_ratio = self._log_probability(offset) - piece.log_probabilities
        ratio, advantages = np.exp(log_ratio), piece.advantages
        gain = advantages * ratio
        told[0] = -np.minimum(gain, advantages * np.clip(ratio, 1 - clip, 1 + clip)).sum() / total
        told[2] = (ratio - 1 - log_ratio).sum() / total
        told[3] = np.count_nonzero(np.abs(ratio - 1) > clip) / total
        gain *= np.where(advantages > 0, ratio <= 1 + clip, ratio >= 1 - clip)
        gain *= -1 / total
        z = offset * inverse
        np.multiply(z, z, out=offset)
        offset -= 1
        np.matmul(gain, offset, out=views[-1])
        views[-1] -= ent_coef * (len(gain) / total)
        z *= inverse
        z *= gain[:, None]
        self.actor.backward(piece.observations, outputs, z, pairs(views[:-1]))

    def imitation_gradient(
        self, observations: Array, wanted: Array, total: int, scale: float, *, slot: int = 0
    ) -> tuple[Array, float]:
        """Return the actor's gradient of a Huber loss on (action - wanted) / ``scale``, and its share of the mean loss.

        ``total``: rows of the minibatch that this is a part of.
        """
        if slot not in self._slots:
            self._slots[slot] = np.empty_like(self.actor_adam.first), np.empty_like(self.critic_adam.first)
        gradient = self._slots[slot][0]
        views = self.actor_adam.parameters.views(gradient)
        outputs = self.actor.workspace(len(wanted), slot)
        slope = self.actor.forward(observations, outputs) - wanted
        slope *= 1 / scale
        size = np.abs(slope)
        bent = np.minimum(size, HUBER_AT)
        loss = float((bent * (size - 0.5 * bent)).sum()) / (total * slope.shape[1])
        np.clip(slope, -HUBER_AT, HUBER_AT, out=slope)
        slope *= 1 / (total * slope.shape[1])
        views[-1][...] = 0
        self.actor.backward(observations, outputs, slope, pairs(views[:-1]))
        return gradient, loss

    def step(self, gradient: Gradient, max_norm: float, rate: float, critic_rate: float | None) -> None:
        """Clip and take an Adam step: both networks jointly, or each by itself when ``critic_rate`` is given."""
        vectors = [gradient.critic] if gradient.actor is None else [gradient.actor, gradient.critic]
        for group in [vectors] if critic_rate is None else [[vector] for vector in vectors]:
            norm = math.sqrt(sum(float(vector @ vector) for vector in group))
            for vector in group if norm > max_norm else ():
                vector *= max_norm / (norm + 1e-6)
        if gradient.actor is not None:
            self.actor_adam.step(gradient.actor, rate, self.gain[0] if self.gain else None)
        self.critic_adam.step(
            gradient.critic, rate if critic_rate is None else critic_rate, self.gain[1] if self.gain else None
        )

    def fit_inputs(self, spread: Array) -> None:
        """Let each input count alike, whatever its ``spread`` (observation,): as if the networks saw it divided by that.

        First-layer weights are divided by the spread, and so are their step sizes from now on.
        """
        gains: list[Array] = []
        for network, adam in ((self.actor, self.actor_adam), (self.critic, self.critic_adam)):
            gain = np.ones_like(adam.first)
            adam.parameters.views(gain)[0][...] = 1 / spread
            network.layers[0][0][...] /= spread
            gains.append(gain)
        self.gain = gains[0], gains[1]

    def share_with(self, optimizer: torch.optim.Optimizer) -> None:
        """Let torch's optimiser hold the moments, so that what it saves is the state of these."""
        self.actor_adam.share_with(optimizer)
        self.critic_adam.share_with(optimizer)

    def take_from(self, optimizer: torch.optim.Optimizer) -> None:
        """Go on from the moments that torch's optimiser has loaded."""
        self.actor_adam.take_from(optimizer)
        self.critic_adam.take_from(optimizer)
