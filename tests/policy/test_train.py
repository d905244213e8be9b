"""Training: the run folder, the same again from the same seed, stop and resume, and what is refused."""

from __future__ import annotations

import errno
import hashlib
import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from melter.env.scenario import SUITES
from melter.errors import BadInput, Fault, OutputExists
from melter.machine import Machine, load_machine, machine_from_table
from melter.observation import ObservationBuilder
from melter.policy import checkpoint, keeper
from melter.policy import train as training
from melter.policy.config import ALGORITHMS, ppo_config
from melter.policy.files import new_run_folder
from melter.policy.progress import CsvLog
from melter.safety.bundle import load_policy

Requests = Callable[..., training.TrainRequest]


@pytest.fixture(autouse=True)
def short_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is evaluated here is of no interest."""
    for name, suite in SUITES.items():
        monkeypatch.setitem(SUITES, name, replace(suite, episode_s=3.0))


def weights(folder: Path) -> list[np.ndarray]:
    """All weights of the trained network, the value function's too."""
    model = PPO.load(folder / "model.zip", device="cpu")
    return [value.numpy() for value in model.policy.state_dict().values()]


def digests(folder: Path) -> dict[str, str]:
    """Fingerprints of the files that a training is for."""
    names = ("model.zip", "policy.safetensors", "manifest.json")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def test_the_run_folder_of_the_contract(trained: Path, corner8: Machine) -> None:
    for name in ("config.json", "model.zip", "policy.safetensors", "manifest.json", "progress.csv", "eval.json"):
        assert (trained / name).is_file()
    assert list(trained.glob("events.out.tfevents.*"))
    assert (trained / "checkpoints").is_dir()
    assert not list(trained.rglob("*.part*"))  # nothing half written is left
    config = json.loads((trained / "config.json").read_text())
    assert config["seed"] == 3
    assert config["algorithm"] == "ppo"
    assert config["settings"]["envs"] == 8
    assert config["machine_sha256"] == corner8.sha256
    assert {"mujoco", "numpy", "torch", "melter"} <= set(config["versions"])
    assert "commit" in config
    evaluated = json.loads((trained / "eval.json").read_text())
    assert set(evaluated) == {"nominal", "outdoor"}
    rows = [line.split(",") for line in (trained / "progress.csv").read_text().splitlines()]
    assert rows[0][0] == "steps"
    assert all(len(row) == len(rows[0]) for row in rows)
    steps = [int(row[0]) for row in rows[1:]]
    assert steps == sorted(set(steps))
    assert steps[-1] >= 1000
    told = {
        "error/median_mm",
        "reward/track",
        "reward/total",
        "tension/lowest_n",
        "tension/highest_n",
        "gate/altered_share",
    }
    assert told | {"time/steps_per_s", "train/explained_variance", "train/lesson_loss"} <= set(rows[0])


def test_our_bundle_and_stable_baselines_give_the_same_actions(trained: Path) -> None:
    """policy.safetensors, model.zip read without pickle, and the library's own load."""
    rng = np.random.default_rng(0)
    builder = ObservationBuilder(load_machine())
    observations = (rng.uniform(-1, 1, (500, builder.size)) * builder.high * rng.uniform(0, 1, (500, 1))).astype("f")
    theirs, _ = PPO.load(trained / "model.zip", device="cpu").predict(observations, deterministic=True)
    for path in (trained, trained / "policy.safetensors", trained / "model.zip"):
        np.testing.assert_allclose(load_policy(path).net.act(observations), theirs, atol=1e-6)


def test_the_manifest_tells_what_the_policy_is_for(trained: Path, corner8: Machine) -> None:
    manifest = load_policy(trained).manifest
    builder = ObservationBuilder(corner8)
    assert manifest.observation_sha256 == builder.sha256
    assert manifest.machine_sha256 == corner8.sha256
    assert manifest.machine_name == "corner8"


def test_the_same_seed_gives_the_same_files(trained: Path, request_of: Requests, tmp_path: Path) -> None:
    """At any thread count."""
    training.train(request_of(threads=2), training.start_folder(str(tmp_path / "a"), load_machine()), lambda _: None)
    assert digests(trained) == digests(tmp_path / "a")
    short = {"steps": 300, "seed": 4}
    training.train(request_of(**short), training.start_folder(str(tmp_path / "b"), load_machine()), lambda _: None)
    assert digests(trained)["policy.safetensors"] != digests(tmp_path / "b")["policy.safetensors"]


def interrupted(algo: str, folder: Path, request_of: Requests, stop_at: int) -> None:
    """A training stopped by Ctrl-C in the middle of its ``stop_at``-th report, then gone on with."""
    seen = 0

    def stop(_: training.Progress) -> None:
        nonlocal seen
        seen += 1
        if seen == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(request_of(algo), training.start_folder(str(folder), load_machine()), stop)
    load_policy(folder)  # the policy so far is kept
    request, again = training.resumable(str(folder), None, None)
    training.train(request, again, lambda _: None, resume=True)


@pytest.mark.parametrize("stop_at", [1, 4, 7])
def test_stopped_and_resumed_is_as_if_never_stopped(
    stop_at: int, trained: Path, request_of: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the teacher teaches, and after; a checkpoint may be some rollouts older than the stop."""
    monkeypatch.setattr(keeper, "CHECKPOINT_S", 0.0)
    folder = tmp_path / "run"
    interrupted("ppo", folder, request_of, stop_at)
    assert digests(trained) == digests(folder)
    lines = (folder / "progress.csv").read_text().splitlines()
    assert sum(line.startswith("steps") for line in lines) == 1
    assert len({line.count(",") for line in lines}) == 1
    steps = [int(line.split(",")[0]) for line in lines[1:]]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("algo", ["a2c", "trpo", "sac", "td3", "ddpg", "tqc", "crossq"])
def test_every_algorithm_resumes_loads_and_agrees(
    algo: str, request_of: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes with and without a stop; its own ``load`` and the loader without pickle give the same actions."""
    if ALGORITHMS[algo].needs_contrib:
        pytest.importorskip("sb3_contrib")
    monkeypatch.setattr(keeper, "CHECKPOINT_S", 0.0)
    through = tmp_path / "through"
    training.train(
        request_of(algo, steps=700), training.start_folder(str(through), load_machine(), algo), lambda _: None
    )
    monkeypatch.setattr(training, "_evaluate", lambda *_: ())
    interrupted(algo, tmp_path / "stopped", lambda name: request_of(name, steps=700), 2)
    assert digests(through) == digests(tmp_path / "stopped")
    package = importlib.import_module("sb3_contrib" if ALGORITHMS[algo].needs_contrib else "stable_baselines3")
    model = getattr(package, {"crossq": "CrossQ"}.get(algo, algo.upper())).load(through / "model.zip", device="cpu")
    policy = load_policy(through)
    rows = np.random.default_rng(0).normal(0, 1, (64, policy.net.sizes[0])).astype(np.float32)
    np.testing.assert_allclose(policy.net.act(rows), model.predict(rows, deterministic=True)[0], atol=1e-6)
    assert policy.manifest.algorithm == algo
    fresh = model.policy.state_dict().items()
    assert all(torch.isfinite(value).all() for _, value in fresh)


def test_resume_with_a_larger_budget_goes_on(request_of: Requests, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = training.train(request_of(steps=300), training.start_folder(str(folder), load_machine()), lambda _: None)
    before = weights(folder)
    request, again = training.resumable(str(folder), None, 900)
    second = training.train(request, again, lambda _: None, resume=True)
    assert first.steps < 900 <= second.steps
    assert second.seconds > first.seconds
    assert len(weights(folder)) == len(before)


def test_stopped_before_the_first_checkpoint_still_resumes(
    trained: Path, request_of: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "make_learner", stop)
        with pytest.raises(KeyboardInterrupt):
            training.train(request_of(), training.start_folder(str(folder), load_machine()), lambda _: None)
    assert not (folder / "checkpoints").exists()
    request, again = training.resumable(str(folder), None, None)
    training.train(request, again, lambda _: None, resume=True)
    assert digests(trained) == digests(folder)


@pytest.mark.parametrize("full_at", ["checkpoint", "model", "progress"])
def test_a_full_disk_stops_with_one_line_and_keeps_the_last_checkpoint(
    full_at: str, request_of: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, writes = tmp_path / "run", 0
    monkeypatch.setattr(keeper, "CHECKPOINT_S", 0.0)

    def full(original: Callable[..., Any]) -> Callable[..., Any]:
        def write(*given: Any, **named: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes >= 3:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(*given, **named)

        return write

    where: dict[str, tuple[Any, str]] = {
        "checkpoint": (keeper, "save_checkpoint"),
        "model": (checkpoint, "_without_time"),
        "progress": (CsvLog, "write"),
    }
    owner, name = where[full_at]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full(getattr(owner, name)))
        with pytest.raises(Fault, match=f"{folder}.*No space left on device.*--resume {folder}") as caught:
            training.train(request_of(), training.start_folder(str(folder), load_machine()), lambda _: None)
    assert "\n" not in str(caught.value)
    assert not list(folder.rglob("*.part*"))
    load_policy(folder)
    request, again = training.resumable(str(folder), None, None)
    assert training.train(request, again, lambda _: None, resume=True).steps >= 1000


def test_a_target_ends_a_training_early(request_of: Requests, tmp_path: Path) -> None:
    folder = training.start_folder(str(tmp_path / "a"), load_machine())
    early = training.train(request_of(steps=4000, target_mm=1e4), folder, lambda _: None)
    assert 2000 <= early.steps < 3000  # at the first of two contests
    folder = training.start_folder(str(tmp_path / "b"), load_machine())
    assert training.train(request_of(target_mm=1e-6), folder, lambda _: None).steps >= 1000


def test_a_run_of_another_machine_file_is_not_resumed(trained: Path, corner8_table: dict[str, Any]) -> None:
    corner8_table["lens"]["moving_mass_kg"] = 6.5
    other = machine_from_table(corner8_table)
    with pytest.raises(BadInput, match="another machine file"):
        training.resumable(str(trained), None, None, other)
    assert training.resumable(str(trained), None, None, load_machine())[0].seed == 3


def test_progress_is_told(request_of: Requests, tmp_path: Path) -> None:
    seen: list[training.Progress] = []
    training.train(request_of(steps=600), training.start_folder(str(tmp_path / "a"), load_machine()), seen.append)
    shares = [progress.share for progress in seen]
    assert shares == sorted(shares)
    assert 0 < shares[0] <= shares[-1] == 1
    assert all(progress.steps_per_s > 0 and progress.error_mm > 0 for progress in seen)


def test_time_ends_a_training(request_of: Requests, tmp_path: Path) -> None:
    request = request_of(steps=None, minutes=0.02)
    result = training.train(request, training.start_folder(str(tmp_path / "a"), load_machine()), lambda _: None)
    assert result.seconds >= 1.2
    assert result.steps > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"minutes": -1.0},
        {"minutes": 0.0},
        {"minutes": float("nan")},
        {"minutes": float("inf")},
        {"steps": 0},
        {"steps": None, "minutes": None},
        {"threads": 0},
        {"threads": 5000},
        {"seed": -1},
        {"seed": 2**31},
        {"target_mm": 0.0},
        {"target_mm": float("nan")},
    ],
)
def test_refused_requests(wrong: dict[str, object], request_of: Requests) -> None:
    with pytest.raises(BadInput, match=f"--{next(iter(wrong)).replace('_', '-')}|--minutes"):
        request_of(**wrong)


def test_a_machine_that_cannot_hold_its_lens_is_not_trained_for() -> None:
    with pytest.raises(BadInput, match=r"vitrifier: .*machine check"):
        training.load_request_machine("vitrifier")
    assert training.load_request_machine("corner8").name == "corner8"


def test_what_is_no_run_cannot_be_resumed(tmp_path: Path, trained: Path) -> None:
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(BadInput, match="--resume"):
            training.resumable(str(folder), None, None)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadInput, match="not a run folder"):
        training.resumable(str(tmp_path), None, None)
    config = json.loads((trained / "config.json").read_text())
    config["settings"]["surprise"] = 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match=r"surprise|not a run folder"):
        training.resumable(str(tmp_path), None, None)


def test_a_damaged_checkpoint_is_refused(trained: Path, tmp_path: Path) -> None:
    import shutil

    from melter.errors import ModelFileError

    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    file = folder / "checkpoints" / "latest.pt"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    request, again = training.resumable(str(folder), None, 5000)
    with pytest.raises(ModelFileError, match="not a checkpoint"):
        training.train(request, again, lambda _: None, resume=True)


def test_run_folders(tmp_path: Path) -> None:
    names = [new_run_folder(None, "ppo-a", tmp_path).name for _ in range(3)]
    assert names == ["ppo-a-001", "ppo-a-002", "ppo-a-003"]
    (tmp_path / "ppo-a-041").mkdir()
    (tmp_path / "ppo-a-best").mkdir()
    assert new_run_folder(None, "ppo-a", tmp_path).name == "ppo-a-042"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert new_run_folder(str(empty), "x") == empty
    (empty / "notes.txt").write_text("mine")
    with pytest.raises(OutputExists, match="empty"):
        new_run_folder(str(empty), "x")
    with pytest.raises(OutputExists):
        new_run_folder(str(empty / "notes.txt"), "x")
    with pytest.raises(BadInput):
        new_run_folder(str(empty / "notes.txt" / "deeper"), "x")
    assert (empty / "notes.txt").read_text() == "mine"


def test_a_run_can_be_repeated_from_its_configuration(trained: Path) -> None:
    request, _ = training.resumable(str(trained), None, None)
    assert request.settings == ppo_config("smoke", ("envs=8", "batch_size=64"))
    assert request.machine == load_machine()
    assert (request.seed, request.steps, request.minutes) == (3, 1000, None)
