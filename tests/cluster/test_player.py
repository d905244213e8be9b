"""A worker's part of a training, and how parts become a whole; no Ray needed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import melter.env
from melter.cluster.crew import unlike
from melter.cluster.player import Player, Share, Weights, about, shares
from melter.cluster.simulations import joined
from melter.policy.learners import make_learner
from melter.policy.onpolicy import Rollout
from melter.policy.request import TrainRequest

RequestOf = Callable[..., TrainRequest]


def weights_of(request: TrainRequest, **changes: object) -> Weights:
    env = melter.env.sb3_vec_env(8, request.machine)
    model = make_learner(request.settings, env, request.seed, 1, lambda: 0.0)
    return Weights(**{"actor": model.shared(), "used": 0.9, "lessons": 0, "steps": 0, "periods": 16} | changes)  # type: ignore[arg-type]


@given(total=st.integers(1, 5000), workers=st.integers(1, 300))
def test_shares_cover_every_simulation_once(total: int, workers: int) -> None:
    parts = shares(total, workers)
    assert len(parts) == min(total, workers)
    assert [part.number for part in parts] == list(range(len(parts)))
    ends = [0, *(part.first + part.count for part in parts)]
    assert [part.first for part in parts] == ends[:-1]
    assert ends[-1] == total
    assert max(part.count for part in parts) - min(part.count for part in parts) <= 1


def test_a_fragment_is_what_the_learner_s_own_loop_gives(request_of: RequestOf) -> None:
    """A worker with all simulations plays what a training in one process would, noise included."""
    request = request_of()
    player, weights = Player(request, Share(0, 0, 8)), weights_of(request)
    observation, starts = player.begin()
    fragment = player.play(weights)
    played = fragment.played
    assert played.observations.shape[:2] == played.rewards.shape == (16, 8)
    assert np.array_equal(played.observations[0], observation)
    assert np.array_equal(played.starts[0], starts)
    assert played.wanted is None
    assert fragment.figures.steps == 16 * 8
    assert fragment.seconds > 0
    # its actions come from these weights, with the exploration's width
    actor = player._model.networks.actor
    mean = actor.forward(np.array(played.observations[3])).copy()
    spread = (played.actions[3] - mean) / np.exp(player._model.networks.log_std)
    assert 0.5 < spread.std() < 1.5
    # and in lessons it brings home what the servo would have done
    lesson = player.play(weights_of(request, used=0.0, lessons=5, steps=128)).played
    assert lesson.wanted is not None
    assert not np.array_equal(lesson.wanted, lesson.actions)


def test_it_goes_on_exactly_from_a_state(request_of: RequestOf) -> None:
    request = request_of()
    one, other = Player(request, Share(1, 4, 4)), Player(request, Share(1, 4, 4, generation=0))
    one.begin()
    other.begin()
    first = weights_of(request)
    fragment = one.play(first)
    observation, starts = fragment.observation.copy(), fragment.starts.copy()
    state, running, now, begun = one.state()
    assert np.array_equal(now, observation)
    assert np.array_equal(begun, starts)
    then = weights_of(request, steps=64)
    wanted = one.play(then).played
    other.restore(state, running, observation, starts)
    got = other.play(then).played
    for name in ("observations", "actions", "rewards", "starts"):
        assert np.array_equal(getattr(got, name), getattr(wanted, name)), name


def test_workers_states_side_by_side_are_one_batch_s_state(request_of: RequestOf) -> None:
    """So a run may go on with other workers, or without any."""
    request = request_of()
    whole = melter.env.sb3_vec_env(8, request.machine, seed=request.seed)
    whole.reset()
    parts = [Player(request, share) for share in shares(8, 3)]
    for part in parts:
        part.begin()
    states = [part.state()[0] for part in parts]
    expected = whole.env.state()
    assert {name: value.shape for name, value in expected.items()} == {
        name: np.concatenate([state[name] for state in states]).shape for name in states[0]
    }
    assert np.array_equal(expected["seeds"], np.concatenate([state["seeds"] for state in states]))


def test_replacements_play_other_episodes(request_of: RequestOf) -> None:
    request = request_of()
    seeds = []
    for generation in (0, 1):
        player = Player(request, Share(0, 0, 2, generation))
        player.begin()
        seeds.append(player.state()[0]["seeds"])
    assert not set(seeds[0].tolist()) & set(seeds[1].tolist())


def rollout(envs: int, start: float, ends: list[tuple[int, list[int]]]) -> Rollout:
    made = Rollout.empty(4, envs, 3, 2, taught=True)
    for name in ("observations", "actions", "rewards", "starts", "wanted"):
        array = getattr(made, name)
        array[...] = start + np.arange(array.size).reshape(array.shape)
    made.ends = [(time, np.array(ids), np.full((len(ids), 3), start)) for time, ids in ends]
    return made


def test_joined_keeps_every_simulation_s_own() -> None:
    one, other = rollout(2, 0.0, [(1, [0]), (3, [1])]), rollout(3, 500.0, [(2, [0, 2])])
    both = joined([one, other])
    for name in ("observations", "actions", "rewards", "starts", "wanted"):
        array = getattr(both, name)
        assert np.array_equal(array[:, :2], getattr(one, name))
        assert np.array_equal(array[:, 2:], getattr(other, name))
    assert [(time, ids.tolist()) for time, ids, _ in both.ends] == [(1, [0]), (2, [2, 4]), (3, [1])]


def test_what_has_to_agree() -> None:
    told = about()
    assert {"melter", "mujoco", "numpy", "code"} <= set(told)
    assert len(told["code"]) == 12


def test_nodes_with_other_versions_are_named(request_of: RequestOf) -> None:
    told = Player(request_of(), Share(0, 0, 8)).about()
    assert unlike(told) is None
    elsewhere = told | {"host": "node7"}
    assert unlike(elsewhere) is None
    for name in told["versions"]:
        other = elsewhere | {"versions": told["versions"] | {name: "0.0"}}
        assert unlike(other) == f"node node7 has {name} 0.0, here it is {told['versions'][name]}"
    assert "None" in str(unlike(elsewhere | {"versions": {}}))
