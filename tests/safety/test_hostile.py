"""Every hostile or broken file: one line, nothing run, little memory and time; and models of all algorithms read right."""

from __future__ import annotations

import importlib
import itertools
import resource
import time
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hostile import MARK, hostile_files

from melter.cli.main import main
from melter.errors import ModelFileError
from melter.safety.bundle import load_policy

OBS = 12


class Bowl(gym.Env):  # type: ignore[type-arg]
    """Eight actions, nothing else."""

    observation_space = gym.spaces.Box(
        -np.linspace(1, 25, OBS, dtype=np.float32), np.linspace(1, 25, OBS, dtype=np.float32)
    )
    action_space = gym.spaces.Box(-1, 1, (8,))

    def reset(self, *, seed: int | None = None, options: object = None) -> tuple[np.ndarray, dict[str, object]]:
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, OBS).astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
        return self.np_random.uniform(-1, 1, OBS).astype(np.float32), -float(action @ action), False, False, {}


def made(library: str, algorithm: str, **options: Any) -> Any:
    found = importlib.import_module(library)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(found, algorithm)("MlpPolicy", Bowl(), device="cpu", seed=3, **options)


def test_a_folder_of_hostile_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / MARK
    good = tmp_path / "good.zip"
    made("stable_baselines3", "PPO", n_steps=64).save(good)
    loaded, refused, peak = 0, 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, content, harmless in hostile_files(good.read_bytes(), mark):
        path = tmp_path / name
        path.write_bytes(content)
        started = time.monotonic()
        try:
            policy = load_policy(path)
            loaded += 1
            assert harmless or name.startswith("table"), f"{name}: loaded"  # a table wrong about a member nobody reads
            assert policy.net.sizes == (OBS, 64, 64, 8)
        except ModelFileError as error:
            refused += 1
            assert not harmless or name.startswith("table"), f"{name}: {error}"  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
            assert name in str(error)  # noqa: PT017
        assert time.monotonic() - started < 10
        assert not mark.exists(), name
        path.unlink()
    assert refused > 80
    assert loaded > 10
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    assert grown_kib < 1 << 20
    for name, content in (("empty.zip", b""), ("text.zip", b"hello")):
        (tmp_path / name).write_bytes(content)
        assert main(["safety-check", name, "--quick"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert name in err


CONTRIB = "sb3_contrib"
SMALL: dict[str, Any] = {"buffer_size": 200, "learning_starts": 40, "batch_size": 16}
VARIANTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("stable_baselines3", "PPO", {"n_steps": 64, "policy_kwargs": {"net_arch": {"pi": [20, 10], "vf": [8]}}}),
    ("stable_baselines3", "A2C", {"use_sde": True}),
    ("stable_baselines3", "SAC", SMALL | {"policy_kwargs": {"net_arch": [24, 16]}}),
    ("stable_baselines3", "TD3", SMALL | {"policy_kwargs": {"net_arch": {"pi": [24], "qf": [8, 8]}}}),
    ("stable_baselines3", "DDPG", SMALL),
    (CONTRIB, "TRPO", {"n_steps": 64}),
    (CONTRIB, "TRPO", {"n_steps": 64, "policy_kwargs": {"net_arch": [16, 16, 16]}}),
    (CONTRIB, "TQC", SMALL),
    (CONTRIB, "TQC", SMALL | {"use_sde": True}),
    (CONTRIB, "TQC", SMALL | {"policy_kwargs": {"net_arch": [24], "n_quantiles": 5}}),
    (CONTRIB, "CrossQ", SMALL),
    (CONTRIB, "CrossQ", SMALL | {"policy_kwargs": {"net_arch": {"pi": [24, 24], "qf": [32]}}}),
)


@pytest.mark.parametrize(("library", "algorithm", "options"), VARIANTS)
def test_all_algorithms_agree_with_predict(
    library: str, algorithm: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """After some learning, so that normalisations have seen data and nothing is at its first value."""
    if library == CONTRIB:
        pytest.importorskip(CONTRIB)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = made(library, algorithm, **options).learn(128)
    model.save(tmp_path / "model.zip")
    observations = np.random.default_rng(1).uniform(-1, 1, (300, OBS)).astype(np.float32) * Bowl.observation_space.high
    theirs, _ = model.predict(observations, deterministic=True)
    policy = load_policy(tmp_path / "model.zip")
    assert np.abs(policy.net.act(observations) - theirs).max() < 1e-5
    assert policy.observation_bounds is not None
    assert policy.observation_bounds[0] == pytest.approx(Bowl.observation_space.low)


ACTIVATIONS = ("Tanh", "ReLU", "ELU", "LeakyReLU", "SiLU", "Sigmoid")


@pytest.mark.parametrize(("algorithm", "activation"), list(itertools.product(("SAC", "TD3"), ACTIVATIONS)))
def test_activations_of_other_families(algorithm: str, activation: str, tmp_path: Path) -> None:
    import torch

    kwargs = {"activation_fn": getattr(torch.nn, activation), "net_arch": [16, 16]}
    model = made("stable_baselines3", algorithm, buffer_size=10, policy_kwargs=kwargs)
    model.save(tmp_path / "model.zip")
    observations = np.random.default_rng(1).normal(0, 9, (100, OBS)).astype(np.float32)
    theirs, _ = model.predict(observations, deterministic=True)
    assert np.abs(load_policy(tmp_path / "model.zip").net.act(observations) - theirs).max() < 1e-5
