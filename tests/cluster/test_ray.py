"""Training with workers: what is lost is replaced, what does not fit is refused at the start."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from melter.cluster import crew as crews
from melter.cluster import ray_link
from melter.cluster.player import Share, Weights, about
from melter.cluster.ray_link import Cluster, join, leave
from melter.cluster.simulations import RaySimulations
from melter.cluster.stream import Stream
from melter.cluster.streamed import StreamedSimulations, simulations_on
from melter.env import sb3_vec_env
from melter.errors import BadInput
from melter.policy import train as training
from melter.policy.config import algo_config
from melter.policy.learners import make_learner
from melter.policy.request import TrainRequest
from melter.safety.bundle import load_policy

RequestOf = Callable[..., TrainRequest]
NEEDS = "Ray is not installed (pip install melter[cluster])"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("ray", reason=NEEDS)
    joined = join("local", 4)
    yield joined
    leave(joined)


def test_a_killed_worker_is_replaced_and_the_run_goes_on(
    cluster: Cluster, request_of: RequestOf, tmp_path: Path
) -> None:
    """The others' fragments are kept; the new worker joins when it has begun."""
    made: list[RaySimulations] = []
    told: list[str] = []
    victims: list[int] = []

    def make(request: TrainRequest) -> RaySimulations:
        made.append(RaySimulations(cluster, request, 2, told.append))
        return made[0]

    def on_progress(progress: training.Progress) -> None:
        if not victims:
            victims.append(made[0].crew.pids()[1])
            os.kill(victims[0], signal.SIGKILL)
        if progress.share < 1 and not any("plays again" in line for line in told):
            time.sleep(0.2)

    result = training.train(request_of(steps=4000), tmp_path, on_progress, lambda _: None, simulations=make)
    assert result.steps >= 4000
    assert any("worker 1: lost" in line for line in told)
    assert any("worker 1: replaced" in line for line in told)
    assert not any("worker 0" in line for line in told)
    assert all("\n" not in line for line in told)
    assert load_policy(tmp_path).manifest.machine_name == "corner8"
    assert (tmp_path / "progress.csv").read_text().count("\n") > 2


OFF_POLICY = ("envs=8", "batch_size=64", "groups=2", "learning_starts=256", "priority=0.6")


def test_off_policy_learners_lose_a_worker_and_go_on_without_ray(
    cluster: Cluster, request_of: RequestOf, tmp_path: Path
) -> None:
    """What the lost worker had not sent is all that is missing; the checkpoint is one that any training goes on from."""
    made: list[StreamedSimulations] = []
    told: list[str] = []
    killed: list[int] = []

    def make(request: TrainRequest) -> StreamedSimulations:
        made.append(StreamedSimulations(cluster, request, 2, told.append))
        return made[0]

    def on_progress(_: training.Progress) -> None:
        if not killed:
            killed.append(made[0].crew.pids()[1])
            os.kill(killed[0], signal.SIGKILL)

    settings = algo_config("td3", "smoke", OFF_POLICY)
    request = request_of(steps=6000, settings=settings)
    result = training.train(request, tmp_path, on_progress, lambda _: None, simulations=make)
    assert result.steps >= 6000
    assert any("worker 1: lost" in line for line in told)
    assert not any("worker 0" in line for line in told)
    further = training.train(replace(request, steps=result.steps + 200), tmp_path, lambda _: None, resume=True)
    assert further.steps == result.steps + 200
    assert load_policy(tmp_path).manifest.algorithm == "td3"


@pytest.mark.long
@pytest.mark.parametrize("algo", ["a2c", "trpo", "sac", "ddpg", "tqc", "crossq"])
def test_every_algorithm_trains_on_workers(cluster: Cluster, request_of: RequestOf, tmp_path: Path, algo: str) -> None:
    """And goes on with other workers."""
    pytest.importorskip("sb3_contrib")
    words = ("envs=8", "groups=2") if algo in ("a2c", "trpo") else OFF_POLICY[:-1]
    words = ("batch_size=64", *words) if algo == "trpo" else words
    request = request_of(settings=algo_config(algo, "smoke", words), steps=2000)
    training.train(request, tmp_path, lambda _: None, simulations=simulations_on(cluster, 2, lambda _: None))
    more = replace(request, steps=4000)
    make = simulations_on(cluster, 3, lambda _: None)
    result = training.train(more, tmp_path, lambda _: None, resume=True, simulations=make)
    assert result.steps >= 4000
    assert (tmp_path / "model.zip").is_file()


@pytest.mark.long
def test_stopped_and_resumed_is_the_same_training(cluster: Cluster, request_of: RequestOf, tmp_path: Path) -> None:
    make = simulations_on(cluster, 2, lambda _: None)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    training.train(request_of(steps=2000), whole, lambda _: None, simulations=make)

    def stop(progress: training.Progress) -> None:
        if progress.steps >= 1000:
            raise KeyboardInterrupt

    from melter.policy import keeper

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeper, "CHECKPOINT_S", 0.0)
        patch.setattr(keeper, "CHECKPOINT_COST", 1e9)
        with pytest.raises(KeyboardInterrupt):
            training.train(request_of(steps=2000), parts, stop, simulations=make)
    training.train(request_of(steps=2000), parts, lambda _: None, resume=True, simulations=make)
    assert (whole / "policy.safetensors").read_bytes() == (parts / "policy.safetensors").read_bytes()


@pytest.mark.long
def test_a_run_goes_on_without_ray(cluster: Cluster, request_of: RequestOf, tmp_path: Path) -> None:
    make = simulations_on(cluster, 2, lambda _: None)
    training.train(request_of(), tmp_path, lambda _: None, simulations=make)
    result = training.train(request_of(steps=1500), tmp_path, lambda _: None, resume=True)
    assert result.steps >= 1500
    result = training.train(request_of(steps=2000), tmp_path, lambda _: None, resume=True, simulations=make)
    assert result.steps >= 2000


@pytest.mark.long
@pytest.mark.parametrize("moment", ["before", "while it plays"])
def test_a_checkpoint_bears_the_loss_of_a_worker(cluster: Cluster, request_of: RequestOf, moment: str) -> None:
    """Its simulations are those of the worker that takes its place."""
    told: list[str] = []
    settings = algo_config("td3", "smoke", OFF_POLICY)
    made = StreamedSimulations(cluster, request_of(settings=settings), 2, told.append)
    made.begin()
    victim, stream = made.crew.pids()[1], Stream(made.crew)
    if moment == "while it plays":
        model = make_learner(settings, sb3_vec_env(8), 0, 1, lambda: 0.5)
        stream.ask(lambda: Weights(model.shared(), 0.5, 0, 1000, 256))
    os.kill(victim, signal.SIGKILL)
    states = made.crew.state()
    assert [observation.shape[0] for _, _, observation, _ in states] == [4, 4]
    assert told == [told[0], "worker 1: replaced, plays again"]
    assert "worker 1: lost" in told[0]
    got = stream.take(wait=True) if moment == "while it plays" else []
    assert all(number == 0 for number, _ in got)
    assert len(told) == 2  # the lost worker's fragment is not counted as another loss
    made.close()


def test_another_version_on_a_node_is_refused(
    cluster: Cluster, request_of: RequestOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crews, "about", lambda: about() | {"mujoco": "9.9.9"})
    with pytest.raises(BadInput, match=r"mujoco .*here it is 9\.9\.9") as caught:
        crews.Crew(cluster, request_of(), [Share(0, 0, 8)], lambda _: None)
    assert socket.gethostname() in str(caught.value)


def test_more_workers_than_cores_are_refused(
    cluster: Cluster, request_of: RequestOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crews, "START_S", 0.1)
    with pytest.raises(BadInput, match="workers started in"):
        crews.Crew(cluster, request_of(), [Share(i, i, 1) for i in range(6)], lambda _: None)


def test_arrays_come_back_without_being_copied(cluster: Cluster) -> None:
    """Fragments of 800 kB and more are read from shared memory in place."""
    ray = cluster.ray
    got = ray.get(ray.put(np.arange(200_000, dtype=np.float32)))
    assert not got.flags.owndata
    assert not got.flags.writeable
    assert got[-1] == 199_999


def test_without_ray_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadInput, match=r"pip install 'melter\[cluster\]'"):
        join("local")


@pytest.mark.parametrize("address", ["nowhere", "host:", ":6379", "host:99999", "host:port"])
def test_what_is_no_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason=NEEDS)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(BadInput, match="HOST:PORT"):
        join(address)


def test_a_ray_client_is_refused() -> None:
    pytest.importorskip("ray", reason=NEEDS)
    with pytest.raises(BadInput, match="--ray auto"):
        join("ray://host:10001")


@pytest.mark.parametrize("mute", [True, False])
def test_an_address_that_does_not_answer(mute: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing there, and something there that never says a word."""
    ray = pytest.importorskip("ray", reason=NEEDS)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_link, "ANSWER_S", 1.0)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if mute:
            listener.listen()
        began = time.monotonic()
        with pytest.raises(BadInput, match="does not answer as Ray" if mute else "ray start --head"):
            join(f"127.0.0.1:{listener.getsockname()[1]}")
        assert time.monotonic() - began < 20
