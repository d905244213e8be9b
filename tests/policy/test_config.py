"""Training settings: built-in values, then the preset, then --set; what is unknown is refused with its nearest name."""

from __future__ import annotations

import json
import tomllib
from importlib import resources

import pytest

from melter.errors import BadInput
from melter.policy.config import PpoConfig, config_from_table, ppo_config


def test_override_order() -> None:
    assert ppo_config() == PpoConfig()
    assert ppo_config("smoke").envs == 32
    assert ppo_config("smoke", ("envs=48",)).envs == 48
    assert ppo_config("smoke", ("envs=48", "envs=40")).envs == 40
    assert ppo_config("smoke", ("envs=48",)).n_steps == ppo_config("smoke").n_steps != PpoConfig().n_steps


def test_every_preset_is_complete_and_known() -> None:
    presets = tomllib.loads(resources.files("melter.policy").joinpath("presets.toml").read_text())["ppo"]
    assert {"default", "smoke"} <= set(presets)
    for name in presets:
        assert isinstance(ppo_config(name), PpoConfig)


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("learning_rate=5e-4", "learning_rate", 5e-4),
        ("net_arch=64,32", "net_arch", (64, 32)),
        ("net_arch=[64, 32]", "net_arch", (64, 32)),
        ("n_epochs=3", "n_epochs", 3),
        ("envs=1e2", "envs", 100),
    ],
)
def test_overrides_are_read_as_their_field(text: str, field: str, value: object) -> None:
    assert getattr(ppo_config("smoke", (text,)), field) == value


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("learnig_rate=1", "did you mean learning_rate"),
        ("gama=0.9", "did you mean gamma"),
        ("zzz=1", "known: "),
        ("envs", "must be KEY=VALUE"),
        ("envs=", "envs"),
        ("envs=two", "envs"),
        ("envs=1.5", "envs"),
        ("envs=0", "envs"),
        ("envs=nan", "envs"),
        ("envs=inf", "envs"),
        ("learning_rate=0", "learning_rate"),
        ("learning_rate=nan", "learning_rate"),
        ("learning_rate=-1", "learning_rate"),
        ("gamma=1.01", "gamma"),
        ("gamma=0", "gamma"),
        ("net_arch=", "net_arch"),
        ("net_arch=a", "net_arch"),
        ("net_arch=0", "net_arch"),
        ("batch_size=100000", "batch_size"),
        ("ent_coef=nan", "ent_coef"),
        ("vf_coef=inf", "vf_coef"),
        ("log_std_init=nan", "log_std_init"),
    ],
)
def test_refused_overrides(override: str, words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        ppo_config("smoke", (override,))
    assert "\n" not in str(caught.value)


def test_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(BadInput, match="default, smoke"):
        ppo_config("smok")


def test_through_json_and_back() -> None:
    config = ppo_config("smoke", ("net_arch=7,5", "learning_rate=1e-4"))
    assert config_from_table(json.loads(json.dumps(config.table()))) == config
