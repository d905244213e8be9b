"""The replay buffer: drawing by priority, fragments from elsewhere, going on from a state."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.logger import Logger

from melter.env import sb3_vec_env
from melter.errors import BadInput
from melter.policy.config import algo_config
from melter.policy.learners import make_learner
from melter.policy.replay import LEAST_ERROR, Replay, Steps
from melter.policy.sumtree import SumTree

WIDTH, ENVS = 3, 4
SPACES = gym.spaces.Box(-5, 5, (WIDTH,), np.float32), gym.spaces.Box(-1, 1, (8,), np.float32)


@given(sizes=st.integers(1, 700), seed=st.integers(0, 1000), zeros=st.floats(0, 0.95), rounds=st.integers(1, 3))
def test_a_sum_tree_draws_where_the_running_sum_passes(sizes: int, seed: int, zeros: float, rounds: int) -> None:
    rng, tree, plain = np.random.default_rng(seed), SumTree(sizes), np.zeros(sizes)
    for _ in range(rounds):
        where = rng.integers(0, sizes, max(1, sizes // 2))
        values = rng.exponential(size=len(where)) * (rng.random(len(where)) > zeros)
        tree.put(where, values)
        for place, value in zip(where, values, strict=True):
            plain[place] = value
    assert np.array_equal(tree.values, plain)
    assert tree.total == pytest.approx(plain.sum())
    if plain.sum() == 0:
        return
    amounts = rng.random(200) * tree.total
    found = tree.find(amounts)
    assert (plain[found] > 0).all()
    ends = plain.cumsum()
    off = 1e-9 * ends[-1]
    assert (ends[found] >= amounts - off).all()
    assert (ends[found] - plain[found] <= amounts + off).all()


def test_the_ends_of_a_sum_tree() -> None:
    """The very first and the very last amount land on numbers above zero."""
    tree = SumTree(1000)
    tree.put(np.array([17, 500, 900]), np.array([1.0, 2.0, 3.0]))
    assert tree.find(np.array([0.0, 0.999, 1.0, 2.999, 3.0, 5.999, 6.0])).tolist() == [17, 17, 500, 500, 900, 900, 900]


def steps_from(time: int, count: int, envs: int = ENVS, *, seed: int = 0) -> Steps:
    """Observations tell time and simulation; rewards are random; some episodes end."""
    rng, made = np.random.default_rng([seed, time]), Steps.empty(count, envs, WIDTH, 8)
    for step in range(count):
        over, cut = rng.random(envs) < 0.15, rng.random(envs) < 0.5
        now = seen(time + step, envs)
        infos = [{"terminal_observation": now[i] + 0.5, "TimeLimit.truncated": bool(cut[i])} for i in range(envs)]
        reward = rng.normal(size=envs).astype(np.float32)
        made.write(step, now, np.zeros((envs, 8), np.float32), reward, over, infos)
    made.close(seen(time + count, envs) + 0.25)
    return made


def seen(time: int, envs: int) -> Any:
    return np.full((envs, WIDTH), time, np.float32) + 1000 * np.arange(envs, dtype=np.float32)[:, None]


def buffer(size: int = 400, **more: Any) -> Replay:
    return Replay(size, SPACES, ENVS, np.random.default_rng(1), 3, 0.9, **more)


@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=6), size=st.sampled_from([40, 64, 400]))
@pytest.mark.parametrize("priority", [0.0, 0.6])
def test_fragments_stand_by_themselves(priority: float, counts: list[int], size: int) -> None:
    """Workers' simulations need not be equally far; every sample is what was played, up to its fragment's or episode's end."""
    replay, played = buffer(size, priority=priority), dict[tuple[int, int], Any]()
    for number, count in enumerate(counts):
        for first in (0, 2) if number % 2 == 0 else (2,):
            fragment, late = steps_from(100 * number, count, 2, seed=first), max(0, count - replay.buffer_size)
            for time in range(late, count):
                for i in range(2):
                    played[100 * number + time, i + first] = fragment, time, i
            for array in (fragment.observations, *(last for _, _, last in fragment.ends)):
                array += 1000 * first
            replay.put_played(first, fragment)
    batch = replay.sample(64)
    for row in range(64):
        value = float(batch.observations[row, 0])
        fragment, time, i = played[int(value % 1000), int(value // 1000)]
        total, at = 0.0, time
        for step in range(3):
            at = time + step
            total += 0.9**step * float(fragment.rewards[at, i])
            if fragment.over[at, i]:
                break
        ends = {(when, which): last for when, which, last in fragment.ends}
        following = ends[at, i] if fragment.over[at, i] else fragment.observations[at + 1, i]
        assert float(batch.rewards[row, 0]) == pytest.approx(total, abs=1e-5)
        assert np.array_equal(batch.next_observations[row].numpy(), following)
        assert float(batch.dones[row, 0]) == fragment.terminal[at, i]
        assert float(batch.discounts[row, 0]) == pytest.approx(0.9 ** (at - time + 1))


def test_every_known_transition_is_drawn_evenly() -> None:
    replay = buffer()
    replay.put_played(0, steps_from(0, 10, 1))
    replay.put_played(1, steps_from(0, 30, 1))
    _, counts = np.unique(replay.sample(80_000).places, return_counts=True)
    assert len(counts) == 40
    assert np.abs(counts / 2000 - 1).max() < 0.12


def stepped(replay: Replay, steps: int, first: int = 0) -> None:
    nothing: list[dict[str, Any]] = [{} for _ in range(ENVS)]
    for time in range(first, first + steps):
        zeros = np.zeros(ENVS, np.float32)
        replay.put(seen(time, ENVS), np.zeros((ENVS, 8), np.float32), zeros, zeros > 0, nothing)


def test_drawn_by_priority_and_weighed_for_it() -> None:
    """Frequencies follow the power of the error; the weights make an average over the batch one over the buffer."""
    replay = buffer(priority=0.6, correction=1.0)
    stepped(replay, 21)
    known = np.arange(20 * ENVS)
    errors = np.random.default_rng(2).exponential(size=len(known)).astype(np.float32)
    replay.learnt(known, errors)
    expected = (errors.astype(float) + LEAST_ERROR) ** 0.6
    expected /= expected.sum()
    batch = replay.sample(200_000)
    shares = np.bincount(batch.places, minlength=len(known)) / 200_000
    np.testing.assert_allclose(shares, expected, atol=3e-4)
    assert batch.weights is not None
    assert float(batch.weights.max()) == 1.0
    weights = batch.weights[:, 0].numpy()
    value = np.cos(np.arange(len(known)))
    assert np.average(value[batch.places], weights=weights) == pytest.approx(value.mean(), abs=5e-3)


def test_new_transitions_count_like_the_worst_of_the_last_batch() -> None:
    replay = buffer(priority=1.0)
    stepped(replay, 2)
    assert replay.tree is not None
    assert np.array_equal(replay.tree.values[: 2 * ENVS], [1, 1, 1, 1, 0, 0, 0, 0])
    replay.learnt(np.arange(ENVS), np.array([0.5, 3.0, 0.1, 0.2], np.float32))
    stepped(replay, 1, first=2)
    np.testing.assert_allclose(replay.tree.values[ENVS : 2 * ENVS], 3.0 + LEAST_ERROR)
    stepped(replay, 300, first=3)  # all of it is overwritten, and only the newest cannot be drawn
    assert (replay.tree.values == 0).sum() == ENVS
    assert len(replay.last) == 0


@pytest.mark.parametrize("more", [{}, {"priority": 0.7, "correction": 0.4}])
def test_goes_on_exactly_from_a_state(more: dict[str, float]) -> None:
    one, other = buffer(60, **more), buffer(60, **more)
    one.put_played(0, steps_from(0, 9))
    stepped(one, 3, first=9)
    one.put_played(2, steps_from(12, 9, 2, seed=5))
    one.learnt(np.arange(5), np.linspace(0.1, 2, 5).astype(np.float32))
    other.restore(one.state())
    for replay in (one, other):
        replay.rng = np.random.default_rng(3)
        stepped(replay, 2, first=40)
    first, second = one.sample(50), other.sample(50)
    for name, value in first._asdict().items():
        got = getattr(second, name)
        assert value is got is None or np.array_equal(np.asarray(value), np.asarray(got)), name


def test_which_losses_weigh() -> None:
    assert algo_config("td3", "smoke", ("priority=0.6",)).table()["priority"] == 0.6
    for algo in ("tqc", "crossq"):
        with pytest.raises(BadInput, match=r"priority = 0\.6: must be 0 for") as caught:
            algo_config(algo, "smoke", ("priority=0.6",))
        assert "\n" not in str(caught.value)
    for words in ("priority=1.1", "priority=-0.1", "priority_correction=2", "ahead=0.9", "ahead=nan"):
        with pytest.raises(BadInput, match="must be"):
            algo_config("td3", "smoke", (words,))


@pytest.mark.parametrize("algo", ["td3", "sac", "ddpg"])
def test_losses_are_weighed_and_errors_noted(algo: str) -> None:
    """With weights of one and all transitions alike, the gradient step is that without priorities; errors become priorities."""
    env, models = sb3_vec_env(4), []
    for words in ((), ("priority=0.5",)):
        model = make_learner(algo_config(algo, "smoke", ("envs=4", "batch_size=32", *words)), env, 5, 1, lambda: 0.0)
        model.set_logger(Logger(None, []))
        models.append(model)
    plain, weighed = models
    observation = np.asarray(env.reset())
    for model in models:
        model.replay_buffer.rng = np.random.default_rng(8)
        for _ in range(9):
            over = np.zeros(4, bool)
            reward = model.replay_buffer.rng.normal(size=4).astype(np.float32)
            model.replay_buffer.put(observation, np.zeros((4, 8), np.float32), reward, over, [{}] * 4)
    batch = plain.replay_buffer.sample(32)
    for model in models:
        chosen = batch._replace(weights=torch.ones(32, 1))
        model.replay_buffer.sample = lambda _, chosen=chosen: chosen
        torch.manual_seed(3)
        model.train(gradient_steps=1, batch_size=32)
    for name, value in plain.policy.state_dict().items():
        np.testing.assert_allclose(weighed.policy.state_dict()[name], value, atol=1e-6, err_msg=name)
    values = weighed.replay_buffer.tree.values
    assert len(np.unique(values[np.unique(batch.places)])) > 5
    chosen = batch._replace(weights=torch.zeros(32, 1))
    weighed.replay_buffer.sample = lambda _: chosen
    weighed.critic.optimizer.state.clear()  # no momentum either
    before = [value.clone() for value in weighed.critic.parameters()]
    weighed.train(gradient_steps=1, batch_size=32)
    assert all(torch.equal(one, other) for one, other in zip(before, weighed.critic.parameters(), strict=True))
    env.close()
