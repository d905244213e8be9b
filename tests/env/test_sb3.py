"""The stable-baselines3 face: what its algorithms expect at the end of an episode, seeds, Monitor's figures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from melter.env import sb3_vec_env
from melter.env.scenario import TRAIN

SHORT = dataclasses.replace(TRAIN, episode_s=0.2)  # 4 ticks


def test_it_is_a_vec_env_of_one_process() -> None:
    env = sb3_vec_env(3, seed=0)
    assert isinstance(env, VecEnv)
    assert env.reset().shape == (3, *env.observation_space.shape)
    assert env.env_is_wrapped(object) == [False] * 3
    assert env.get_attr("num_envs") == [3] * 3
    env.close()


def test_the_end_of_an_episode() -> None:
    env = sb3_vec_env(2, scenario=SHORT, seed=5)
    first = env.reset()
    total = np.zeros(2)
    for tick in range(4):
        observation, reward, dones, infos = env.step(np.zeros((2, 8), np.float32))
        total += reward
        assert dones.all() == (tick == 3)
    for i, info in enumerate(infos):
        assert info["TimeLimit.truncated"] is True
        assert info["ending"] == "time is up"
        assert info["episode"]["l"] == 4
        assert info["episode"]["r"] == pytest.approx(total[i], rel=1e-5)
        assert info["terminal_observation"].shape == first[i].shape
        assert not np.array_equal(info["terminal_observation"], observation[i])
    assert not np.array_equal(observation, first)  # another episode, not the same one again
    _, _, _, infos = env.step(np.zeros((2, 8), np.float32))
    assert infos == [{}, {}]
    assert env.truth["spot_error_m"].shape == (2,)


def test_terminated_is_not_called_a_time_limit() -> None:
    env = sb3_vec_env(8, scenario="outdoor", seed=0)
    env.reset()
    action = np.full((8, 8), -1, np.float32)  # all winches wind in: the cables pull at each other
    for _ in range(60):
        _, _, dones, infos = env.step(action)
        if dones.any():
            break
    ended = [info for info, done in zip(infos, dones, strict=True) if done]
    assert ended
    assert not any(info["TimeLimit.truncated"] for info in ended)
    assert all(info["ending"] not in ("running", "time is up") for info in ended)


def test_a_seed_starts_over() -> None:
    env = sb3_vec_env(3, seed=8)
    first = env.reset()
    after = env.reset()
    assert not np.array_equal(first, after)
    env.seed(8)
    np.testing.assert_array_equal(env.reset(), first)


def test_episodes_are_all_different() -> None:
    """Ten episodes of each of four simulations: forty different beginnings."""
    env = sb3_vec_env(4, scenario=dataclasses.replace(TRAIN, episode_s=0.05), seed=0)
    seen = [env.reset()]
    seen += [env.step(np.zeros((4, 8), np.float32))[0] for _ in range(9)]
    assert len(np.unique(np.concatenate(seen), axis=0)) == 40


def test_ppo_takes_it_as_it_is() -> None:
    env = sb3_vec_env(4, scenario=SHORT, seed=0)
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=16, n_epochs=1, device="cpu", seed=0)
    model.learn(64)
    action, _ = model.predict(env.reset(), deterministic=True)
    assert action.shape == (4, 8)
    assert np.isfinite(action).all()
