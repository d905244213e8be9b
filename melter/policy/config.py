"""Training settings of every algorithm: built-in values, presets, overrides."""

from __future__ import annotations

import difflib
import math
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from importlib import resources
from typing import Any, ClassVar, cast

from melter.errors import BadInput
from melter.policy.rules import require


@dataclass(frozen=True, kw_only=True)
class Config:
    """What every algorithm has. Names are stable-baselines3's where it has one."""

    algo: ClassVar[str]
    needs_contrib: ClassVar[bool] = False
    """Whether the algorithm is sb3-contrib's."""

    envs: int = 256
    """Simulations stepped together."""
    groups: int = 16
    """Groups of simulations that begin their episodes at different times, so that learning sees all parts of an episode at once."""
    learning_rate: float = 3e-4
    """Adam's step size at the start."""
    schedule: str = "linear"
    """How the step size goes on: constant, linear or cosine, over the budget."""
    final_rate: float = 0.05
    """Step size at the end, as a share of that at the start."""
    gamma: float = 0.9
    """Discount per control period."""
    net_arch: tuple[int, ...] = (128, 128)
    """Hidden units of each network."""
    activation: str = "relu"
    """Between the layers: relu or tanh."""

    def __post_init__(self) -> None:
        for field in fields(self):
            require(field.name, getattr(self, field.name))

    def rate_at(self, share: float) -> float:
        """Return the step size when ``share`` (0 to 1) of the budget is used up."""
        return self.learning_rate * falling(self.schedule, self.final_rate, share)

    def table(self) -> dict[str, Any]:
        """The settings as plain values."""
        return asdict(self)


def falling(schedule: str, final: float, share: float) -> float:
    """Return a factor that goes from 1 to ``final`` while ``share`` goes from 0 to 1: constant, linear or cosine."""
    done = min(max(share, 0.0), 1.0)
    if schedule == "constant":
        return 1.0
    left = 1 - done if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return final + (1 - final) * left


@dataclass(frozen=True, kw_only=True)
class Taught(Config):
    """An on-policy algorithm whose actor has lessons first: from the classical servo, then from a teacher that sees the truth.

    The servo's action is exact and soon learnt; the teacher's has to be guessed from what can be measured, so that much
    averaging and small steps lead to the best guess.
    """

    servo_share: float = 0.4
    """Share of the budget spent on imitating the servo; 0 starts without."""
    servo_learning_rate: float = 2e-3
    """Adam's step size at the start of that; it falls as a cosine to a fiftieth."""
    teacher_share: float = 0.4
    """Share of the budget spent on learning from the teacher after that; 0 leaves it out."""
    teacher_learning_rate: float = 3e-4
    """Adam's step size at the start of that; it falls as a cosine to a fiftieth."""
    teacher_gain: float = 0.3
    """Share of the spot error that the teacher takes back in each control period."""
    lesson_batch_size: int = 512
    """Transitions per gradient step in lessons."""
    lesson_epochs: int = 4
    """How often each transition is used."""
    lesson_rollouts: int = 16
    """Rollouts that are kept to learn from."""

    n_steps: int = 32
    """Control periods per simulation between updates."""
    gae_lambda: float = 0.95
    """Weight of long returns in the advantages."""
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    log_std_init: float = -4.5
    """Logarithm of the exploration noise at the start, in fractions of normal cable speed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        lessons = self.servo_share + self.teacher_share
        if lessons > 1:
            raise BadInput(f"servo_share + teacher_share = {lessons:g}: must be at most 1")


@dataclass(frozen=True, kw_only=True)
class PpoConfig(Taught):
    """Proximal policy optimisation (Schulman et al. 2017)."""

    algo: ClassVar[str] = "ppo"

    learning_rate: float = 1e-5
    batch_size: int = 4096
    """Transitions per gradient step."""
    n_epochs: int = 8
    """Passes over the transitions per update."""
    clip_range: float = 0.2
    target_kl: float = 0.01
    """An update of the actor stops when the policy has moved this far (nats)."""
    critic_learning_rate: float = 1e-3
    """The critic's own step size; 0: the actor's, both clipped jointly."""
    critic_updates: int = 10
    """Updates in which only the critic learns, when the lessons are done."""

    def __post_init__(self) -> None:
        super().__post_init__()
        most = self.envs * self.n_steps
        if self.batch_size > most:
            raise BadInput(f"batch_size = {self.batch_size}: must be at most envs × n_steps = {most}")


@dataclass(frozen=True, kw_only=True)
class A2cConfig(Taught):
    """Advantage actor-critic (Mnih et al. 2016)."""

    algo: ClassVar[str] = "a2c"

    learning_rate: float = 1e-5
    n_steps: int = 16


@dataclass(frozen=True, kw_only=True)
class TrpoConfig(Taught):
    """Trust region policy optimisation (Schulman et al. 2015); ``learning_rate`` is the critic's."""

    algo: ClassVar[str] = "trpo"
    needs_contrib: ClassVar[bool] = True

    learning_rate: float = 1e-3
    batch_size: int = 4096
    """Transitions per gradient step of the critic."""
    n_critic_updates: int = 4
    """Passes of the critic per update."""
    target_kl: float = 0.005
    """How far an update moves the policy (nats)."""
    sub_sampling_factor: int = 4
    """One transition in this many is used for the curvature."""


@dataclass(frozen=True, kw_only=True)
class OffPolicy(Config):
    """An algorithm that learns from a replay buffer."""

    weighs: ClassVar[bool] = True
    """Whether its losses can weigh transitions, as drawing by priority needs."""

    envs: int = 64
    learning_rate: float = 5e-4
    batch_size: int = 1024
    """Transitions per gradient step."""
    gradient_steps: int = 8
    """Gradient steps after each step of all simulations."""
    buffer_size: int = 400_000
    """Transitions kept."""
    learning_starts: int = 20_000
    """Control steps at the start that the classical servo drives, with noise."""
    start_noise: float = 0.02
    """Standard deviation of that noise, in fractions of normal cable speed."""
    n_step_return: int = 3
    """Control periods of reward in each target."""
    tau: float = 0.005
    """Share of the critic that enters its slow copy with each gradient step."""
    priority: float = 0.0
    """Transitions are drawn in proportion to this power of their last error (Schaul et al. 2016); 0: all alike."""
    priority_correction: float = 0.4
    """How far the losses make up for that, 0 to 1."""
    ahead: float = 1.0
    """With --ray: how many times as many control steps as without may be played for each gradient step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.priority > 0 and not self.weighs:
            raise BadInput(
                f"priority = {self.priority:g}: must be 0 for {self.algo}, whose losses do not weigh transitions"
            )


@dataclass(frozen=True, kw_only=True)
class Entropic(OffPolicy):
    """One that balances reward against randomness of its actions."""

    target_entropy: float = -32.0
    """Randomness aimed at (nats, all eight actions): -32 is a standard deviation of about 0.004 each."""
    ent_coef_init: float = 0.005
    """Weight of the entropy at the start; it is tuned from there."""


@dataclass(frozen=True, kw_only=True)
class SacConfig(Entropic):
    """Soft actor-critic (Haarnoja et al. 2018)."""

    algo: ClassVar[str] = "sac"


@dataclass(frozen=True, kw_only=True)
class TqcConfig(Entropic):
    """Truncated quantile critics (Kuznetsov et al. 2020)."""

    algo: ClassVar[str] = "tqc"
    needs_contrib: ClassVar[bool] = True
    weighs: ClassVar[bool] = False

    top_quantiles_to_drop_per_net: int = 2


@dataclass(frozen=True, kw_only=True)
class CrossqConfig(Entropic):
    """CrossQ (Bhatt et al. 2024): critics with batch normalisation and no slow copies, so that ``tau`` is not used."""

    algo: ClassVar[str] = "crossq"
    needs_contrib: ClassVar[bool] = True
    weighs: ClassVar[bool] = False

    gradient_steps: int = 4
    policy_delay: int = 3
    """Gradient steps of the critic for each of the actor."""


@dataclass(frozen=True, kw_only=True)
class DdpgConfig(OffPolicy):
    """Deep deterministic policy gradient (Lillicrap et al. 2016)."""

    algo: ClassVar[str] = "ddpg"

    action_noise: float = 0.01
    """Standard deviation of the exploration noise, in fractions of normal cable speed."""


@dataclass(frozen=True, kw_only=True)
class Td3Config(DdpgConfig):
    """Twin delayed DDPG (Fujimoto et al. 2018)."""

    algo: ClassVar[str] = "td3"

    policy_delay: int = 2
    """Gradient steps of the critics for each of the actor."""
    target_policy_noise: float = 0.01
    """Noise on the actions in the targets."""
    target_noise_clip: float = 0.025


ALGORITHMS: dict[str, type[Config]] = {
    config.algo: config
    for config in (PpoConfig, A2cConfig, TrpoConfig, SacConfig, Td3Config, DdpgConfig, TqcConfig, CrossqConfig)
}


@cache
def presets() -> dict[str, dict[str, dict[str, Any]]]:
    """Return the packaged presets, by algorithm and name."""
    return tomllib.loads(resources.files("melter.policy").joinpath("presets.toml").read_text(encoding="utf-8"))


def algo_config(algo: str, preset: str = "default", overrides: tuple[str, ...] = ()) -> Config:
    """Return the settings of a preset with ``KEY=VALUE`` overrides; raise BadInput for what is unknown or out of range."""
    kind = _kind(algo)
    mine = presets()[algo]
    if preset not in mine:
        others = [name for name, known in presets().items() if preset in known]
        why = f"belongs to {', '.join(others)}, not to {algo}" if others else f"no such preset for {algo}"
        raise BadInput(f"preset {preset}: {why}; presets of {algo}: {', '.join(mine)}")
    values = dict(mine[preset])
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise BadInput(f"--set {override}: must be KEY=VALUE")
        values[key] = text
    return _config(kind, values)


def ppo_config(preset: str = "default", overrides: tuple[str, ...] = ()) -> PpoConfig:
    """Return :func:`algo_config` of PPO."""
    return cast("PpoConfig", algo_config("ppo", preset, overrides))


def config_from_table(algo: str, table: dict[str, Any]) -> Config:
    """Return the settings that :meth:`Config.table` gave, read back from JSON."""
    return _config(_kind(algo), table)


def _kind(algo: str) -> type[Config]:
    if algo not in ALGORITHMS:
        near = difflib.get_close_matches(algo, ALGORITHMS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise BadInput(f"--algo {algo}: must be one of {', '.join(ALGORITHMS)}{hint}")
    return ALGORITHMS[algo]


def _config(kind: type[Config], values: dict[str, Any]) -> Config:
    known = {field.name: field.default for field in fields(kind)}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise BadInput(f"--set {key}: unknown key for {kind.algo}{hint}; known: {', '.join(known)}")
    return replace(kind(), **{key: _converted(key, value, known[key]) for key, value in values.items()})


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
