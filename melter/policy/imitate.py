"""A warm start: the network learns to do what the servo does, on what it meets when it drives itself.

Dataset aggregation (Ross, Gordon, Bagnell, AISTATS 2011): the servo labels what it sees; after the first rounds the
network drives, so that it learns to come back from its own mistakes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy

from melter.env.sb3 import SandMelterVecEnv
from melter.policy.servo import Servo

SCALE = 0.02
"""Actions are compared on this scale, a fiftieth of normal cable speed."""
DRIVEN_BY_SERVO = 2
"""Rounds at the start in which the servo drives."""


def imitate(
    policy: ActorCriticPolicy,
    env: SandMelterVecEnv,
    rng: np.random.Generator,
    *,
    rounds: int,
    steps: int,
    epochs: int,
    learning_rate: float,
    noise: float,
    on_round: Callable[[int, float], None] = lambda _, __: None,
) -> int:
    """Fit the actor of ``policy`` to the servo; return the control steps simulated.

    Each of ``rounds`` plays ``steps`` control periods with ``noise`` added to the actions, then makes ``epochs``
    passes over all that was seen; Adam's step size falls to zero over the rounds.
    """
    servo = Servo(env.env.batch.machine)
    seen: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.float32]] = []
    actor = [*policy.mlp_extractor.policy_net.parameters(), *policy.action_net.parameters()]
    optimizer = torch.optim.Adam(actor, lr=learning_rate)
    observation = np.asarray(env.reset())
    total, done = rounds * epochs, 0
    for number in range(rounds):
        for _ in range(steps):
            label = servo.act(observation)
            seen.append(observation.copy())
            labels.append(label)
            action = label if number < DRIVEN_BY_SERVO else _act(policy, observation)
            disturbed = action + rng.normal(0, noise, action.shape).astype(np.float32)
            observation = np.asarray(env.step(np.clip(disturbed, -1, 1))[0])
        inputs, targets = torch.from_numpy(np.concatenate(seen)), torch.from_numpy(np.concatenate(labels) / SCALE)
        loss = 0.0
        for _ in range(epochs):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * (1 - done / total)
            loss = _pass(policy, optimizer, inputs, targets, rng)
            done += 1
        on_round(number, loss)
    return rounds * steps * env.num_envs


def _act(policy: ActorCriticPolicy, observation: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.no_grad():
        mean = policy.action_net(policy.mlp_extractor.forward_actor(torch.from_numpy(observation)))
    return np.clip(mean.numpy(), -1, 1)


def _pass(
    policy: ActorCriticPolicy,
    optimizer: torch.optim.Optimizer,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    rng: np.random.Generator,
) -> float:
    """One pass over the data; the mean loss."""
    order = torch.from_numpy(rng.permutation(len(inputs)))
    losses: list[float] = []
    for batch in order.split(2048):
        mean = policy.action_net(policy.mlp_extractor.forward_actor(inputs[batch]))
        loss = torch.nn.functional.huber_loss(mean / SCALE, targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return float(np.mean(losses))
