"""The Gymnasium faces: checkers, spaces, autoreset, infos, and the same bits from the same seed and actions."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as sb3_check

import melter
from melter.env import sb3_vec_env
from melter.env.batch import ENDINGS, SUITE_SEED
from melter.env.gym_env import SandMelterEnv, SandMelterVectorEnv
from melter.env.scenario import TRAIN, Scenario
from melter.errors import BadInput, CommandRefused, MachineFileError
from melter.machine import Machine, load_machine

NAME = "melter/SandMelter-v0"
CONTRACT = {"spot_error_m", "spot_world_m", "target_world_m", "tensions_n", "defocus_m", "tilt_rad"}
SHORT = dataclasses.replace(TRAIN, episode_s=0.3)  # 6 ticks
MACHINE = load_machine()


def vector(count: int, scenario: Scenario | str = TRAIN, **more: Any) -> SandMelterVectorEnv:
    return SandMelterVectorEnv(count, MACHINE, scenario, **more)


def wishes(ticks: int, count: int, size: float = 0.2) -> np.ndarray:
    return np.random.default_rng(7).uniform(-size, size, (ticks, count, 8)).astype(np.float32)


def test_gymnasiums_checker() -> None:
    env = gymnasium.make(NAME).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gymnasium_check(env, skip_render_check=True)
    env.close()


def test_stable_baselines3s_checker() -> None:
    env = SandMelterEnv()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb3_check(env)
    env.close()


def test_all_three_doors_show_the_same_spaces() -> None:
    assert melter.__doc__
    single, many, native = gymnasium.make(NAME), gymnasium.make_vec(NAME, num_envs=3), sb3_vec_env(3)
    assert isinstance(many, SandMelterVectorEnv)  # the native batch, no process per environment
    assert single.observation_space == many.single_observation_space == native.observation_space
    assert single.action_space == many.single_action_space == native.action_space
    assert many.observation_space.shape == (3, *single.observation_space.shape)
    assert single.action_space == gymnasium.spaces.Box(-1, 1, (8,), np.float32)
    assert native.num_envs == many.num_envs == 3


def test_the_environments_table_is_the_observations() -> None:
    """The docstring's table against the real one: names, sizes, order."""
    from melter.observation import observation_table

    rows = [line.split() for line in (SandMelterEnv.__doc__ or "").splitlines()]
    told = [(row[0], int(row[1])) for row in rows if len(row) > 4 and row[1].isdigit()]
    assert told == [(entry.name, entry.size) for entry in observation_table(MACHINE)]


@pytest.mark.parametrize("scenario", ["train", "nominal", "outdoor"])
def test_single_batched_and_threaded_are_bit_identical(scenario: str) -> None:
    """Past the end of episodes, too: the second episode of a seed is the same everywhere."""
    ticks, count, seed = 12, 5, 40
    base = {"train": TRAIN, "nominal": "nominal", "outdoor": "outdoor"}[scenario]
    if isinstance(base, str):
        from melter.env.scenario import SUITES

        base = SUITES[base]
    short = dataclasses.replace(base, episode_s=0.35)  # 7 ticks
    actions = wishes(ticks, count)
    runs = []
    for threads in (1, 4):
        env = vector(count, short, threads=threads)
        seen = [env.reset(seed=seed)[0]]
        rewards, tensions = [], []
        for action in actions:
            observation, reward, _, _, info = env.step(action)
            seen.append(observation.copy())
            rewards.append(reward.copy())
            tensions.append(info["tensions_n"].copy())
        runs.append((np.array(seen), np.array(rewards), np.array(tensions)))
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, other)
    for i in (0, 3):
        alone = SandMelterEnv(MACHINE, short)
        observation, _ = alone.reset(seed=seed + i)
        np.testing.assert_array_equal(observation, runs[0][0][0, i])
        over = False
        for tick, action in enumerate(actions[:, i]):
            if over:  # next-step autoreset: this action is not played
                observation, _ = alone.reset()
                reward, over = 0.0, False
            else:
                observation, reward, terminated, truncated, info = alone.step(action)
                over = terminated or truncated
                np.testing.assert_array_equal(info["tensions_n"], runs[0][2][tick, i])
            np.testing.assert_array_equal(observation, runs[0][0][tick + 1, i])
            assert reward == runs[0][1][tick, i]


@pytest.mark.parametrize("count", [1, 2, 33])
def test_the_size_of_the_batch_does_not_matter(count: int) -> None:
    whole, part = vector(40), vector(count)
    a, b = whole.reset(seed=5)[0], part.reset(seed=5)[0]
    np.testing.assert_array_equal(a[:count], b)
    for action in wishes(8, 40):
        a, b = whole.step(action)[0], part.step(action[:count])[0]
        np.testing.assert_array_equal(a[:count], b)


def test_stable_baselines_sees_the_same_trajectory() -> None:
    ticks, count = 14, 4
    gym_env = vector(count, SHORT, autoreset_mode=AutoresetMode.SAME_STEP)
    native = sb3_vec_env(count, MACHINE, SHORT, threads=2, seed=9)
    np.testing.assert_array_equal(gym_env.reset(seed=9)[0], native.reset())
    for action in wishes(ticks, count):
        observation, reward, terminated, truncated, info = gym_env.step(action)
        seen, rewards, dones, infos = native.step(action)
        np.testing.assert_array_equal(seen, observation)
        np.testing.assert_array_equal(rewards, reward.astype(np.float32))
        np.testing.assert_array_equal(dones, terminated | truncated)
        for i in np.flatnonzero(dones):
            np.testing.assert_array_equal(infos[i]["terminal_observation"], info["final_obs"][i])


def test_make_and_make_vec_give_the_same_trajectory() -> None:
    single, many = gymnasium.make(NAME), gymnasium.make_vec(NAME, num_envs=2)
    a, _ = single.reset(seed=1)
    b, _ = many.reset(seed=0)
    np.testing.assert_array_equal(a, b[1])
    for action in wishes(5, 2):
        np.testing.assert_array_equal(single.step(action[1])[0], many.step(action)[0][1])


def test_reset_with_a_seed_starts_over_and_without_goes_on() -> None:
    env = SandMelterEnv(scenario=SHORT)
    first = [env.reset(seed=3)[0], env.reset()[0], env.reset()[0]]
    again = [env.reset(seed=3)[0], env.reset()[0], env.reset()[0]]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])
    other, unseeded = SandMelterEnv(scenario=SHORT), SandMelterEnv(scenario=SHORT)
    assert not np.array_equal(other.reset()[0], unseeded.reset()[0])


def test_next_step_autoreset() -> None:
    """As Gymnasium defines it: the step after an end resets, with reward 0 and an ignored action."""
    env, actions = vector(3, SHORT), wishes(9, 3)
    first = env.reset(seed=2)[0]
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    for tick in range(6):
        last, _, terminated, truncated, info = env.step(actions[tick])
        assert not terminated.any()
        assert truncated.all() == (tick == 5)
    assert (info["ending"] == ENDINGS.index("time is up")).all()
    fresh, reward, terminated, truncated, _ = env.step(np.full((3, 8), 0.7, np.float32))
    assert (reward == 0).all()
    assert not (terminated | truncated).any()
    assert not np.array_equal(fresh, last)
    assert not np.array_equal(fresh, first)
    np.testing.assert_array_equal(fresh[1], _second_episode(3))  # seed 2 + 1
    assert env.step(actions[0])[1].any()


def _second_episode(seed: int) -> np.ndarray:
    alone = SandMelterEnv(MACHINE, SHORT)
    alone.reset(seed=seed)
    return alone.reset()[0]


def test_same_step_autoreset_with_final_observations() -> None:
    env = vector(3, SHORT, autoreset_mode="SameStep")
    plain = vector(3, SHORT)
    env.reset(seed=2)
    plain.reset(seed=2)
    for tick, action in enumerate(wishes(6, 3)):
        observation, _, _, truncated, info = env.step(action)
        last, _, _, _, truth = plain.step(action)
        if tick < 5:
            assert "final_obs" not in info
    assert truncated.all()
    assert info["_final_obs"].all()
    for i in range(3):
        np.testing.assert_array_equal(info["final_obs"][i], last[i])
        np.testing.assert_array_equal(observation[i], _second_episode(2 + i))
    np.testing.assert_array_equal(info["final_info"]["tensions_n"], truth["tensions_n"])


def test_reset_mask_resets_only_the_chosen() -> None:
    env, actions = vector(4, TRAIN, autoreset_mode=AutoresetMode.DISABLED), wishes(6, 4)
    untouched = vector(4, TRAIN)
    env.reset(seed=1)
    untouched.reset(seed=1)
    for action in actions[:3]:
        before, undisturbed = env.step(action)[0], untouched.step(action)[0]
    mask = np.array([False, True, False, True])
    after, _ = env.reset(options={"reset_mask": mask})
    np.testing.assert_array_equal(after[~mask], before[~mask])
    assert not np.array_equal(after[mask], before[mask])
    for action in actions[3:]:
        before, undisturbed = env.step(action)[0], untouched.step(action)[0]
        np.testing.assert_array_equal(before[~mask], undisturbed[~mask])


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_actions_that_are_not_finite_are_refused(wrong: float) -> None:
    env = vector(3)
    env.reset(seed=0)
    state = env.state()
    action = np.zeros((3, 8), np.float32)
    action[1, 5] = wrong
    with pytest.raises(CommandRefused, match="finite"):
        env.step(action)
    for name, value in env.state().items():  # and nothing has moved
        np.testing.assert_array_equal(value, state[name])


def test_actions_beyond_one_are_as_good_as_one() -> None:
    env, other = vector(2), vector(2)
    env.reset(seed=0)
    other.reset(seed=0)
    for sign in (1, -1, 1):
        one, big = np.full((2, 8), sign, np.float32), np.full((2, 8), 50.0 * sign, np.float32)
        np.testing.assert_array_equal(env.step(one)[0], other.step(big)[0])


def test_random_actions_over_the_whole_randomisation() -> None:
    """Finite, in the space, cables never push, every end explained."""
    env = vector(96, dataclasses.replace(TRAIN, episode_s=3.0), autoreset_mode="SameStep", threads=2)
    env.reset(seed=123)
    rng, ends = np.random.default_rng(0), {}
    space = env.single_observation_space
    for _ in range(90):
        action = rng.uniform(-1, 1, (96, 8)) * rng.choice([0.02, 0.2, 1.0], (96, 1))
        observation, reward, terminated, truncated, info = env.step(action)
        assert np.isfinite(observation).all()
        assert (np.abs(observation) <= space.high).all()
        assert np.isfinite(reward).all()
        assert (reward <= 1).all()
        assert (reward >= -1.5).all()
        assert (info["tensions_n"] >= 0).all()
        for i in np.flatnonzero(terminated | truncated):
            ending = ENDINGS[info["ending"][i]]
            assert ending != "running"
            assert truncated[i] == (ending == "time is up")
            assert not (terminated[i] and truncated[i])
            ends[ending] = ends.get(ending, 0) + 1
        assert (info["ending"][~(terminated | truncated)] == 0).all()
    assert "time is up" in ends
    assert "tension above the trip limit" in ends
    assert "diverged" not in ends


def test_info_tells_the_truth_of_the_contract() -> None:
    env = SandMelterEnv(scenario="nominal")
    env.reset(seed=0)
    info = env.step(np.zeros(8, np.float32))[4]
    assert set(info) >= CONTRACT
    assert info["spot_error_m"] == pytest.approx(np.hypot(*(info["spot_world_m"] - info["target_world_m"])))
    assert info["tensions_n"].shape == (8,)
    assert abs(info["defocus_m"]) < 0.02
    assert 0 <= info["tilt_rad"] < 0.02
    assert sum(v for k, v in info.items() if k.startswith("reward_")) == pytest.approx(
        env.step(np.zeros(8))[1], abs=0.2
    )


def test_a_single_environments_end_is_told_in_words() -> None:
    env = SandMelterEnv(scenario=SHORT)
    env.reset(seed=0)
    for _ in range(6):
        _, _, terminated, truncated, info = env.step(np.zeros(8, np.float32))
    assert (terminated, truncated, info["ending"]) == (False, True, "time is up")
    env.reset(seed=0)
    env = SandMelterEnv(scenario="outdoor")
    env.reset(seed=0)
    for _ in range(200):
        _, _, terminated, truncated, info = env.step(np.full(8, -1.0))
        if terminated:
            break
    assert info["ending"] == "tension above the trip limit"


def test_state_and_restore_go_on_bit_for_bit() -> None:
    env, actions = vector(5, SHORT, autoreset_mode="SameStep"), wishes(20, 5)
    env.reset(seed=11)
    for action in actions[:4]:
        env.step(action)
    kept = env.state()
    whole = [env.step(action) for action in actions[4:]]
    other = vector(5, SHORT, autoreset_mode="SameStep", threads=3)
    other.reset(seed=99)
    other.restore(kept)
    for action, (observation, reward, terminated, truncated, _) in zip(actions[4:], whole, strict=True):
        again = other.step(action)
        np.testing.assert_array_equal(again[0], observation)
        np.testing.assert_array_equal(again[1], reward)
        np.testing.assert_array_equal(again[2] | again[3], terminated | truncated)
    assert any((t | u).any() for _, _, t, u, _ in whole)


def test_the_state_is_a_copy() -> None:
    env = vector(2)
    env.reset(seed=0)
    kept = env.state()
    before = {name: value.copy() for name, value in kept.items()}
    env.step(np.full((2, 8), 0.5))
    for name, value in kept.items():
        np.testing.assert_array_equal(value, before[name])


def test_what_cannot_be_built_is_refused(tmp_path: Any) -> None:
    with pytest.raises(MachineFileError):
        SandMelterEnv(tmp_path / "none.toml")
    with pytest.raises(BadInput, match="train, nominal, outdoor"):
        SandMelterEnv(scenario="moon")


def test_a_machine_of_another_rate_and_its_own_file(tmp_path: Any) -> None:
    from melter.machine import _models_folder

    text = (_models_folder() / "corner8.toml").read_text(encoding="utf-8")
    file = tmp_path / "slow.toml"
    file.write_text(text.replace("rate_hz = 20.0", "rate_hz = 10.0").replace('name = "corner8"', 'name = "slow"'))
    env = gymnasium.make(NAME, machine=str(file), scenario="nominal").unwrapped
    env.reset(seed=0)
    for _ in range(5):
        _, _, terminated, _, _ = env.step(np.zeros(8, np.float32))
        assert not terminated
    assert env.metadata["render_fps"] == 10
    assert SUITE_SEED > 0


def test_the_draft_machine_can_be_simulated_if_not_held(vitrifier: Machine) -> None:
    """It ends soon, and says why; it does not break."""
    env = SandMelterEnv(vitrifier, "nominal")
    observation, _ = env.reset(seed=0)
    assert np.isfinite(observation).all()
    for _ in range(100):
        observation, reward, terminated, _, info = env.step(np.zeros(8, np.float32))
        assert np.isfinite(observation).all()
        assert np.isfinite(reward)
        if terminated:
            break
    assert terminated
    assert info["ending"] in ENDINGS[2:]
