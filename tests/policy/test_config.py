"""Training settings: built-in values, then the preset, then --set; what is unknown is refused with its nearest name."""

from __future__ import annotations

import inspect
import json
import tomllib
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import PPO

from melter.errors import BadInput
from melter.policy.config import ALGORITHMS, PpoConfig, algo_config, config_from_table, falling, ppo_config


def test_override_order() -> None:
    assert ppo_config() == PpoConfig()
    assert ppo_config("smoke").envs == 32
    assert ppo_config("smoke", ("envs=48",)).envs == 48
    assert ppo_config("smoke", ("envs=48", "envs=40")).envs == 40
    assert ppo_config("smoke", ("envs=48",)).n_steps == ppo_config("smoke").n_steps != PpoConfig().n_steps


def test_every_preset_is_complete_and_known() -> None:
    presets = tomllib.loads(resources.files("melter.policy").joinpath("presets.toml").read_text())
    assert set(presets) == set(ALGORITHMS)
    for algo, mine in presets.items():
        assert {"default", "smoke"} <= set(mine)
        for name in mine:
            assert type(algo_config(algo, name)) is ALGORITHMS[algo]
        assert algo_config(algo, "default") == ALGORITHMS[algo]()


def test_the_stock_preset_is_stable_baselines3_own() -> None:
    """PPO's constructor defaults, so that a comparison with it is with what its users run."""
    parameters = inspect.signature(PPO.__init__).parameters
    stock = ppo_config("stock")
    for name in ("n_steps", "batch_size", "n_epochs", "learning_rate", "gamma", "gae_lambda", "ent_coef", "vf_coef"):
        assert getattr(stock, name) == parameters[name].default, name
    assert stock.rate_at(0.0) == stock.rate_at(1.0) == stock.learning_rate


@pytest.mark.parametrize(("algo", "preset", "owner"), [("sac", "scratch", "ppo"), ("td3", "stock", "ppo")])
def test_a_preset_of_another_algorithm_is_refused_by_name(algo: str, preset: str, owner: str) -> None:
    with pytest.raises(BadInput, match=rf"preset {preset}: belongs to {owner}, not to {algo}; .*default, smoke"):
        algo_config(algo, preset)


def test_a_setting_of_another_algorithm_is_refused() -> None:
    with pytest.raises(BadInput, match="clip_range: unknown key for sac"):
        algo_config("sac", "default", ("clip_range=0.1",))


def test_an_unknown_algorithm_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"must be one of ppo, .*; did you mean ddpg"):
        algo_config("dpg")


@given(st.sampled_from(["constant", "linear", "cosine"]), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_schedules_fall_from_one_to_their_end(schedule: str, final: float, one: float, other: float) -> None:
    early, late = sorted((one, other))
    assert falling(schedule, final, 0.0) == pytest.approx(1.0)
    assert falling(schedule, final, early) >= falling(schedule, final, late) - 1e-12
    assert falling(schedule, final, 1.0) == pytest.approx(1.0 if schedule == "constant" else final)
    assert falling(schedule, final, 2.0) == falling(schedule, final, 1.0)


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
        ("teacher_share=1.01", "teacher_share"),
        ("teacher_share=-0.01", "teacher_share"),
        ("servo_share=0.76", "teacher_share = 1.01: must be at most 1"),
        ("teacher_gain=0", "teacher_gain"),
        ("schedule=square", "constant or linear or cosine"),
        ("activation=sine", "relu or tanh"),
        ("log_std_init=nan", "log_std_init"),
    ],
)
def test_refused_overrides(override: str, words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        ppo_config("smoke", (override,))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("right", ["teacher_share=0", "servo_share=0.75", "teacher_gain=1", "final_rate=0", "gamma=1"])
def test_the_edges_themselves_are_allowed(right: str) -> None:
    key, _, value = right.partition("=")
    assert getattr(ppo_config("smoke", (right,)), key) == float(value)


def test_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(BadInput, match="default, smoke"):
        ppo_config("smok")


def test_through_json_and_back() -> None:
    config = ppo_config("smoke", ("net_arch=7,5", "learning_rate=1e-4"))
    assert config_from_table("ppo", json.loads(json.dumps(config.table()))) == config
