"""The fast learners do what stable-baselines3's do: gradients, updates, targets, rollouts."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from melter.errors import BadInput
from melter.policy import learners
from melter.policy.actorcritic import HUBER_AT, ActorCritic, Piece
from melter.policy.config import algo_config
from melter.policy.fastppo import FastPPO
from melter.policy.mlp import Adam, FlatParameters
from melter.policy.offpolicy import FastSAC, FastTD3
from melter.policy.pieces import Pieces
from melter.policy.replay import Replay

WIDTH = 13
SPACES = gym.spaces.Box(-5, 5, (WIDTH,), np.float32), gym.spaces.Box(-1, 1, (8,), np.float32)


class Toy(VecEnv):
    """Small simulations: observations drift, the reward wants small actions, episodes of seven steps end in two ways."""

    def __init__(self, count: int) -> None:
        super().__init__(count, *SPACES)
        self.rng, self.age = np.random.default_rng(0), np.arange(count) % 7
        self.now = self.rng.normal(size=(count, WIDTH)).astype(np.float32)

    def reset(self) -> Any:
        return self.now.copy()

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> Any:
        self.now = 0.9 * self.now + 0.1 * self.rng.normal(size=self.now.shape).astype(np.float32)
        self.now[:, :8] += 0.1 * self.actions
        reward = -np.square(self.actions - 0.1 * self.now[:, :8]).sum(axis=1).astype(np.float32)
        self.age += 1
        over, infos = self.age >= 7, [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(over):
            infos[i] = {"terminal_observation": self.now[i].copy(), "TimeLimit.truncated": bool(i % 2)}
            self.now[i], self.age[i] = 0.5, 0
        return self.now.copy(), reward, over, infos

    def close(self) -> None: ...
    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None: ...
    def env_method(self, method_name: str, *args: Any, indices: Any = None, **named: Any) -> list[Any]:
        return []

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


def ppo(kind: type[PPO] = FastPPO, *, activation: type[torch.nn.Module] = torch.nn.Tanh, **settings: Any) -> Any:
    given = {"n_steps": 16, "batch_size": 64, "n_epochs": 3, "seed": 1} | settings
    kwargs = {"net_arch": [24, 16], "activation_fn": activation}
    model = kind("MlpPolicy", Toy(8), device="cpu", policy_kwargs=kwargs, **given)
    model.set_logger(Logger(None, []))
    return model


def some_rows(count: int, kind: type = np.float64) -> Piece:
    rng = np.random.default_rng(5)
    rows = (rng.normal(size=(count, WIDTH)), rng.normal(size=(count, 8)), *(rng.normal(size=count) for _ in range(2)))
    return Piece(*(row.astype(kind) for row in rows), (rng.normal(-9, 1, count)).astype(kind))


def torch_loss(policy: Any, rows: Piece, clip: float, vf_coef: float, ent_coef: float) -> torch.Tensor:
    """PPO's loss (Schulman et al. 2017) by torch."""
    given = [torch.from_numpy(array) for array in rows.__dict__.values()]
    observations, actions, advantages, returns, old = given
    values, log_prob = torch_values_and_log_prob(policy, observations, actions)
    entropy = torch.distributions.Normal(0.0, policy.log_std.exp()).entropy().sum()
    ratio = torch.exp(log_prob - old)
    surrogate = torch.min(advantages * ratio, advantages * torch.clamp(ratio, 1 - clip, 1 + clip)).mean()
    return -surrogate + vf_coef * torch.mean((returns - values.flatten()) ** 2) - ent_coef * entropy


def torch_values_and_log_prob(policy: Any, observations: Any, actions: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What the policy's own layers give, in any precision."""
    for_actor, for_critic = policy.mlp_extractor(observations)
    gaussian = torch.distributions.Normal(policy.action_net(for_actor), policy.log_std.exp())
    return policy.value_net(for_critic), gaussian.log_prob(actions).sum(1)


@pytest.mark.parametrize("activation", [torch.nn.Tanh, torch.nn.ReLU])
@pytest.mark.parametrize(("kind", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-7)])
def test_gradients_are_those_of_autograd(activation: type[torch.nn.Module], kind: type, tolerance: float) -> None:
    """In float64 to rounding, in float32 to 1e-7 of the largest gradient's tenfold."""
    policy = ppo(PPO, activation=activation).policy
    policy = policy.double() if kind is np.float64 else policy
    with torch.no_grad():
        policy.log_std += torch.linspace(-0.5, 0.3, 8, dtype=policy.log_std.dtype)
    rows = some_rows(96, kind)
    with torch.no_grad():  # old log-probabilities near the new ones, so that some ratios are clipped and some are not
        given = torch.from_numpy(rows.observations), torch.from_numpy(rows.actions)
        now = torch_values_and_log_prob(policy, *given)[1].numpy()
    rows.log_probabilities[:] = now + np.random.default_rng(1).normal(0, 0.3, 96)
    torch_loss(policy, rows, 0.2, 0.7, 0.01).backward()
    expected = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    networks = ActorCritic(policy)
    found = networks.gradient(rows, 96, 0.2, 0.7, 0.01)
    assert 0.1 < found.told[3] < 0.9
    names = {id(p): name for name, p in policy.named_parameters()}
    for adam, vector in ((networks.actor_adam, found.actor), (networks.critic_adam, found.critic)):
        for parameter, gradient in zip(adam.parameters.parameters, adam.parameters.views(vector), strict=True):
            reference = expected.pop(names[id(parameter)]).numpy()
            np.testing.assert_allclose(
                gradient, reference, rtol=0, atol=tolerance * 10 * max(1, np.abs(reference).max())
            )
    assert not expected


def test_the_imitation_gradient_is_that_of_autograd() -> None:
    policy = ppo(PPO).policy.double()
    rng = np.random.default_rng(2)
    observations, wanted = rng.normal(size=(50, WIDTH)), rng.normal(0, 0.1, (50, 8))
    mean = policy.action_net(policy.mlp_extractor.forward_actor(torch.from_numpy(observations)))
    loss = torch.nn.functional.huber_loss(mean / 0.02, torch.from_numpy(wanted / 0.02), delta=HUBER_AT)
    loss.backward()
    actor = [*policy.mlp_extractor.policy_net.parameters(), *policy.action_net.parameters()]
    expected = np.concatenate([p.grad.numpy().ravel() for p in actor])
    networks = ActorCritic(policy)
    gradient, value = networks.imitation_gradient(observations, wanted, 50, 0.02)
    np.testing.assert_allclose(gradient[: len(expected)] / 0.02, expected, rtol=1e-9, atol=1e-12)
    assert value == pytest.approx(float(loss.detach()))
    assert (gradient[len(expected) :] == 0).all()


def test_adam_is_torchs() -> None:
    start = torch.linspace(-1, 1, 40).reshape(4, 10)
    mine, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    adam, optimizer = Adam(FlatParameters([mine]), eps=1e-5), torch.optim.Adam([theirs], lr=1e-2, eps=1e-5)
    rng = np.random.default_rng(0)
    for _ in range(50):
        gradient = rng.normal(size=(4, 10)).astype(np.float32)
        theirs.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        adam.step(gradient.ravel().copy(), 1e-2)
    np.testing.assert_allclose(mine.detach().numpy(), theirs.detach().numpy(), atol=2e-6)


def test_an_update_is_stable_baselines3s(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rollout, the same minibatches in the same order: the same networks after three epochs."""
    theirs, mine = ppo(PPO), ppo()
    mine.policy.load_state_dict(theirs.policy.state_dict())
    orders = [np.random.default_rng(9).permutation(128) for _ in range(3)]
    remaining = iter(copy.deepcopy(orders))
    monkeypatch.setattr(np.random, "permutation", lambda _: next(remaining))
    theirs.learn(128)
    buffer, again = theirs.rollout_buffer, iter(orders)
    rows = [buffer.observations, buffer.actions, buffer.advantages[:, 0], buffer.returns[:, 0], buffer.log_probs[:, 0]]
    flat = [row.numpy() if isinstance(row, torch.Tensor) else row for row in rows]
    mine._current_progress_remaining = theirs._current_progress_remaining
    mine.rng = SimpleNamespace(permutation=lambda _: next(again))
    mine._epochs(Piece(*(row.reshape(128, -1) if row.ndim > 1 else row for row in flat)), 3e-4, None, actor=True)
    for name, value in theirs.policy.state_dict().items():
        np.testing.assert_allclose(mine.policy.state_dict()[name], value, atol=2e-6, err_msg=name)


def test_advantages_are_stable_baselines3s() -> None:
    """Across ends of episodes, where time was up and where it was not."""
    theirs, mine = ppo(PPO, n_epochs=1, learning_rate=1e-12), ppo(n_epochs=1, learning_rate=1e-12)
    mine.policy.load_state_dict(theirs.policy.state_dict())
    with torch.no_grad():
        for model in (theirs, mine):
            model.policy.log_std.fill_(-20.0)  # no exploration: both play the same
    theirs.learn(128)
    mine.learn(128)
    values, advantages = mine.advantages()
    for name, array in (("values", values), ("advantages", advantages)):
        reference = np.array(getattr(theirs.rollout_buffer, name)).reshape(8, 16).T
        np.testing.assert_allclose(array, reference, atol=1e-5)


@pytest.mark.parametrize("critic_rate", [None, lambda _: 1e-3])
def test_results_do_not_depend_on_threads(critic_rate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melter.policy.pieces.PIECE_ROWS", 16)
    found = []
    for threads in (1, 3):
        model = ppo()
        model.pieces, model.critic_rate = Pieces(threads), critic_rate
        model.learn(512)
        found.append(model.policy.state_dict())
    for name in found[0]:
        assert torch.equal(found[0][name], found[1][name]), name


def test_the_critic_learns_with_its_own_rate() -> None:
    """The actor's tiny step does not hold it back, and neither does a policy that has moved far enough."""
    model = ppo(learning_rate=1e-7, target_kl=1e-9, n_steps=64, batch_size=128, n_epochs=10)
    model.critic_rate = lambda _: 3e-3
    before = model.networks.actor_adam.parameters.value.copy()
    model.learn(64 * 8 * 12)
    rows, values = model.rows()
    explained = 1 - np.var(rows.returns - values) / np.var(rows.returns)
    assert explained > 0.3
    assert np.abs(model.networks.actor_adam.parameters.value - before).max() < 1e-4


def test_learning_improves_the_reward() -> None:
    model = ppo(n_steps=64, batch_size=64, n_epochs=6, learning_rate=3e-3, gamma=0.8)
    model.learn(512)
    first = float(model.played.rewards.mean())
    model.learn(512 * 30)
    assert 0.6 * first < float(model.played.rewards.mean()) < 0


def test_inputs_that_hardly_move_count_like_others() -> None:
    """Dividing first-layer weights and step sizes by the spread is training on scaled inputs."""
    plain, fitted = ppo(PPO).policy.double(), ppo(PPO).policy.double()
    fitted.load_state_dict(plain.state_dict())
    spread = np.linspace(0.05, 1, WIDTH)
    one, other = ActorCritic(plain), ActorCritic(fitted)
    other.fit_inputs(spread)
    rows, wanted = some_rows(40).observations, some_rows(40).actions
    for _ in range(5):
        gradient, _ = one.imitation_gradient(rows, wanted, 40, 1.0)
        one.actor_adam.step(gradient, 1e-2)
        gradient, _ = other.imitation_gradient(rows * spread, wanted, 40, 1.0)
        other.actor_adam.step(gradient, 1e-2, other.gain[0] if other.gain else None)
    np.testing.assert_allclose(other.actor.forward(rows * spread), one.actor.forward(rows), atol=2e-2)


def off_policy(kind: Any, **settings: Any) -> Any:
    given = {"batch_size": 32, "learning_starts": 40, "buffer_size": 4000, "seed": 2, "gradient_steps": 2} | settings
    model = kind("MlpPolicy", Toy(8), device="cpu", policy_kwargs={"net_arch": [24, 16]}, **given)
    model.set_logger(Logger(None, []))
    return model


@pytest.mark.parametrize(("fast", "stock"), [(FastSAC, SAC), (FastTD3, TD3)])
def test_gradient_steps_are_stable_baselines3s(fast: Any, stock: Any) -> None:
    """From the same networks, batch and noise."""
    mine, theirs = off_policy(fast), off_policy(stock)
    theirs.policy.load_state_dict(mine.policy.state_dict())

    def batch(*_: Any, **__: Any) -> Any:
        data = np.random.default_rng(4)
        shapes = ((32, WIDTH), (32, 8), (32, WIDTH), (32, 1), (32, 1))
        arrays = [torch.from_numpy(data.normal(0, 0.5, shape).astype(np.float32)) for shape in shapes]
        names = ("observations", "actions", "next_observations", "dones", "rewards")
        return SimpleNamespace(**dict(zip(names, arrays, strict=True)), discounts=torch.full((32, 1), 0.9))

    for model in (mine, theirs):
        model.replay_buffer = SimpleNamespace(sample=batch)
        torch.manual_seed(7)
        model.train(gradient_steps=4, batch_size=32)
    for name, value in theirs.policy.state_dict().items():
        np.testing.assert_allclose(mine.policy.state_dict()[name], value, atol=1e-5, err_msg=name)


@given(n_steps=st.integers(1, 5), size=st.sampled_from([64, 160, 4000]), steps=st.integers(8, 60))
def test_replay_gives_what_was_played(n_steps: int, size: int, steps: int) -> None:
    """Returns, what follows, and discounts of every sample, worked out again from a full record."""
    envs, gamma, rng = 4, 0.9, np.random.default_rng(steps)
    replay = Replay(size, SPACES, envs, np.random.default_rng(1), n_steps, gamma)
    record = []
    for time in range(steps):
        observation = np.full((envs, WIDTH), time, np.float32) + 1000 * np.arange(envs)[:, None]
        over, cut = rng.random(envs) < 0.2, rng.random(envs) < 0.5
        infos = [
            {"terminal_observation": observation[i] + 0.5, "TimeLimit.truncated": bool(cut[i])} for i in range(envs)
        ]
        reward = rng.normal(size=envs).astype(np.float32)
        replay.put(observation, np.full((envs, 8), time / 100, np.float32), reward, over, infos)
        record.append((reward, over, cut))
    held = min(steps, replay.buffer_size)
    batch = replay.sample(50)
    for row in range(50):
        value = float(batch.observations[row, 0])
        time, which = int(value % 1000), int(value // 1000)
        assert steps - held <= time < steps - 1
        total, at = 0.0, time
        for step in range(n_steps):
            at = time + step
            total += gamma**step * record[at][0][which]
            if record[at][1][which] or at == steps - 2 or step == n_steps - 1:
                break
        ended = record[at][1][which]
        following = 1000 * which + (at + 0.5 if ended else at + 1)
        assert float(batch.rewards[row, 0]) == pytest.approx(total, abs=1e-5)
        assert float(batch.next_observations[row, 0]) == following
        assert float(batch.dones[row, 0]) == float(ended and not record[at][2][which])
        assert float(batch.discounts[row, 0]) == pytest.approx(gamma ** (at - time + 1))


def test_a_missing_package_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(learners.importlib, "import_module", missing)
    with pytest.raises(BadInput, match="--algo tqc: needs the package sb3-contrib") as caught:
        learners.require_installed("tqc")
    assert "\n" not in str(caught.value)
    learners.require_installed("ppo")


def test_a_zip_holds_nothing_of_this_package(trained: Path) -> None:
    """It loads where melter is not installed."""
    import zipfile

    with zipfile.ZipFile(trained / "model.zip") as archive:
        assert b"melter" not in archive.read("data")
    assert algo_config("ppo").algo == "ppo"
