"""Training settings: built-in values, presets, overrides."""

from __future__ import annotations

import difflib
import math
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from importlib import resources
from typing import Any, cast

from melter.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class PpoConfig:
    """Proximal policy optimisation (Schulman et al. 2017), as stable-baselines3 names its settings.

    Training starts from the classical servo: the actor imitates it, then the critic is fitted alone, then both improve.
    """

    imitation_rounds: int = 8
    """Rounds of imitating the servo before reinforcement learning; 0 starts from nothing."""
    imitation_steps: int = 60
    """Control periods per simulation and round."""
    imitation_epochs: int = 8
    """Passes per round over all that was seen."""
    imitation_learning_rate: float = 2e-3
    imitation_noise: float = 0.02
    """Standard deviation of the noise on the actions while imitating, in fractions of normal cable speed."""
    critic_updates: int = 20
    """Updates at the start in which only the critic learns."""
    target_kl: float = 0.01
    """An update stops when the policy has moved this far (nats)."""

    envs: int = 256
    """Simulations stepped together."""
    n_steps: int = 64
    """Control periods per simulation between updates."""
    batch_size: int = 4096
    """Transitions per gradient step."""
    n_epochs: int = 8
    """Passes over the transitions per update."""
    learning_rate: float = 1e-5
    """Adam's step size at the start; falls linearly to a twentieth at the end."""
    gamma: float = 0.9
    """Discount per control period."""
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    net_arch: tuple[int, ...] = (128, 128)
    """Hidden units of policy and value network."""
    activation: str = "relu"
    """Between the layers: relu or tanh."""
    log_std_init: float = -4.5
    """Logarithm of the exploration noise at the start, in fractions of normal cable speed."""

    def __post_init__(self) -> None:
        whole = ("envs", "n_steps", "batch_size", "n_epochs", "imitation_steps", "imitation_epochs")
        for name in whole:
            _require(name, getattr(self, name), getattr(self, name) >= 1, "a whole number from 1")
        for name in ("imitation_rounds", "critic_updates"):
            _require(name, getattr(self, name), getattr(self, name) >= 0, "a whole number from 0")
        for name in (
            "learning_rate",
            "clip_range",
            "max_grad_norm",
            "target_kl",
            "imitation_learning_rate",
            "imitation_noise",
        ):
            value = getattr(self, name)
            _require(name, value, math.isfinite(value) and value > 0, "above 0")
        for name in ("ent_coef", "vf_coef"):
            value = getattr(self, name)
            _require(name, value, math.isfinite(value) and value >= 0, "0 or above")
        _require("log_std_init", self.log_std_init, -20 <= self.log_std_init <= 2, "from -20 to 2")
        for name in ("gamma", "gae_lambda"):
            _require(name, getattr(self, name), 0 < getattr(self, name) <= 1, "above 0, at most 1")
        _require(
            "net_arch",
            self.net_arch,
            bool(self.net_arch) and all(1 <= n <= 4096 for n in self.net_arch),
            "sizes from 1 to 4096",
        )
        _require("activation", self.activation, self.activation in ("relu", "tanh"), "relu or tanh")
        _require(
            "batch_size",
            self.batch_size,
            self.batch_size <= self.envs * self.n_steps,
            f"at most envs × n_steps = {self.envs * self.n_steps}",
        )

    def table(self) -> dict[str, Any]:
        """The settings as plain values."""
        return asdict(self)


def ppo_config(preset: str = "default", overrides: tuple[str, ...] = ()) -> PpoConfig:
    """Return the settings of a preset with ``KEY=VALUE`` overrides; raise BadInput for what is unknown or out of range."""
    presets = tomllib.loads(resources.files("melter.policy").joinpath("presets.toml").read_text(encoding="utf-8"))[
        "ppo"
    ]
    if preset not in presets:
        raise BadInput(f"preset {preset}: no such preset for ppo; known: {', '.join(presets)}")
    values = dict(presets[preset])
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise BadInput(f"--set {override}: must be KEY=VALUE")
        values[key] = text
    known = {field.name: getattr(PpoConfig, field.name) for field in fields(PpoConfig)}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise BadInput(
                f"--set {key}: unknown key{f'; did you mean {near[0]}?' if near else ''}; known: {', '.join(known)}"
            )
    return replace(PpoConfig(), **{key: _converted(key, value, known[key]) for key, value in values.items()})


def config_from_table(table: dict[str, Any]) -> PpoConfig:
    """Return the settings that :meth:`PpoConfig.table` gave, read back from JSON."""
    return PpoConfig(**{key: _converted(key, value, getattr(PpoConfig, key)) for key, value in table.items()})


def _converted(key: str, value: object, like: object) -> Any:
    try:
        if isinstance(like, tuple):
            items = value.strip("[]() ").split(",") if isinstance(value, str) else cast("list[Any]", value)
            return tuple(int(item) for item in items)
        if isinstance(like, str):
            return str(value)
        if isinstance(like, int):
            number = float(str(value))
            if number != int(number):
                raise ValueError
            return int(number)
        return float(str(value))
    except (ValueError, TypeError, OverflowError):
        raise BadInput(f"--set {key}={value}: must be like {like}") from None


def _require(name: str, value: object, condition: bool, allowed: str) -> None:
    if not condition:
        raise BadInput(f"{name} = {value}: must be {allowed}")
