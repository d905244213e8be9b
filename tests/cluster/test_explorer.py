"""What a worker plays for a learner with a replay buffer; no Ray needed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import melter.env
from melter.cluster.explorer import WIDEST, Explorer, player_for, scale
from melter.cluster.player import Player, Share, Weights, shares
from melter.cluster.streamed import PERIODS, StreamedSimulations
from melter.policy.config import ALGORITHMS, OffPolicy, algo_config
from melter.policy.learners import make_learner
from melter.policy.request import TrainRequest

RequestOf = Callable[..., TrainRequest]
SMALL = ("envs=8", "batch_size=64", "groups=2", "learning_starts=100")


def weights_of(model: Any, **changes: object) -> Weights:
    return Weights(**{"actor": model.shared(), "used": 0.5, "lessons": 0, "steps": 1000, "periods": 16} | changes)  # type: ignore[arg-type]


def learner(request: TrainRequest) -> Any:
    env = melter.env.sb3_vec_env(8, request.machine)
    return make_learner(request.settings, env, request.seed, 1, lambda: 0.5)


def test_every_worker_explores_on_a_scale_of_its_own() -> None:
    scales = [scale(share) for share in shares(64, 5)]
    assert scales[0] == pytest.approx(1 / WIDEST)
    assert scales[2] == 1.0
    assert scales[-1] == WIDEST
    np.testing.assert_allclose(np.diff(np.log(scales)), np.log(scales[1] / scales[0]))
    assert scale(Share(0, 0, 64)) == 1.0


@pytest.mark.parametrize("algo", list(ALGORITHMS))
def test_who_plays_for_whom(algo: str) -> None:
    settings = algo_config(algo, "smoke")
    assert player_for(settings) is (Explorer if isinstance(settings, OffPolicy) else Player)


@pytest.mark.parametrize("algo", ["td3", "sac", "crossq"])
def test_a_fragment_is_what_was_played(request_of: RequestOf, algo: str) -> None:
    """Actions come from the learner's weights, as wide as the worker's scale; its end is told like an episode's."""
    pytest.importorskip("sb3_contrib")
    request = request_of(settings=algo_config(algo, "smoke", SMALL))
    model = learner(request)
    spreads = {}
    for number in (0, 1):
        player = Explorer(request, Share(number, 4 * number, 4, of=2))
        observation, _ = player.begin()
        fragment = player.play(weights_of(model))
        played: Any = fragment.played
        assert np.array_equal(played.observations[0], observation)
        assert played.rewards.shape == played.over.shape == (16, 4)
        assert fragment.figures.steps == 16 * 4
        model.policy.set_training_mode(False)
        flat = played.observations.reshape(-1, played.observations.shape[2])
        mean = model.predict(flat, deterministic=True)[0].reshape(16, 4, 8)
        unsquashed = (np.arctanh(np.clip(value, -0.9999, 0.9999)) for value in (played.actions, mean))
        spreads[number] = float(np.median(np.abs(np.subtract(*unsquashed))))
        assert (played.over[-1] == 1).all()
        assert sorted(i for time, i, _ in played.ends if time == 15) == [0, 1, 2, 3]
        for time, i, last in played.ends:
            if time == 15 and played.terminal[time, i] == 0:
                assert last.shape == fragment.observation[i].shape
        again = player.play(weights_of(model)).played
        assert np.array_equal(again.observations[0], fragment.observation)
        assert not np.array_equal(
            again.actions[0] - again.actions[0].mean(), played.actions[0] - played.actions[0].mean()
        )
    assert spreads[1] / spreads[0] == pytest.approx(WIDEST**2, rel=0.35)


def test_the_servo_drives_until_learning_starts(request_of: RequestOf) -> None:
    request = request_of(settings=algo_config("td3", "smoke", (*SMALL, "start_noise=0")))
    model, player = learner(request), Explorer(request, Share(0, 0, 8))
    player.begin()
    early: Any = player.play(weights_of(model, steps=0, periods=4)).played
    np.testing.assert_allclose(early.actions[2], np.clip(model.starter(early.observations[2]), -1, 1), atol=1e-6)


class FakeStream:
    """Hands out fragments of eight simulations when asked to, one at a time."""

    def __init__(self, played: Any) -> None:
        self.played, self.asked, self.waited, self.due = played, 0, [], 0

    def ask(self, weights: Callable[[], Weights]) -> None:
        weights()
        self.asked, self.due = self.asked + 1, 1

    def take(self, *, wait: bool) -> list[Any]:
        self.waited.append(wait)
        got, self.due = [(0, self.played)] * self.due, 0
        return got


@pytest.mark.parametrize("ahead", [1.0, 4.0])
def test_learning_waits_for_nobody_and_nobody_runs_away(request_of: RequestOf, ahead: float) -> None:
    """As many gradient steps per control step as without Ray; workers at most a round, or ``ahead`` times, in front."""
    request = request_of(settings=algo_config("td3", "smoke", (*SMALL, f"ahead={ahead}", "gradient_steps=2")))
    model, player = learner(request), Explorer(request, Share(0, 0, 8))
    player.begin()
    fragment = player.play(weights_of(model, periods=PERIODS))
    simulations: Any = StreamedSimulations.__new__(StreamedSimulations)
    simulations.__dict__ |= {"num_envs": 8, "_settings": request.settings, "_waiting": None}
    simulations._stream = stream = FakeStream(fragment)
    simulations.crew = SimpleNamespace(workers=[SimpleNamespace(share=Share(0, 0, 8))])
    callback = SimpleNamespace(on_rollout_start=int, on_rollout_end=int, take_in=lambda _: None)
    in_front, round_ = [], PERIODS * 8
    model.ep_info_buffer = []
    for _ in range(600):
        simulations.play(model, callback, 1)
        if model.num_timesteps > model.learning_starts:
            model._n_updates += 2  # what the learner would have done
        learnt = model._n_updates / 2 * 8
        in_front.append(model.num_timesteps - model.learning_starts - ahead * learnt)
        assert learnt - (model.num_timesteps - model.learning_starts) <= 8
    assert max(in_front) <= 2 * round_
    assert True in stream.waited
    assert False in stream.waited
    assert model.num_timesteps == stream.asked * round_
    assert model.replay_buffer.held.sum() == 4000
    assert model.num_timesteps == pytest.approx(ahead * 600 * 8, abs=2 * round_ + 100)
