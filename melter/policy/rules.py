"""What each training setting may be."""

from __future__ import annotations

import math
from typing import Any

from melter.errors import BadInput

_INF = math.inf
RANGES: dict[str, tuple[float, float]] = {
    "envs": (1, 65536),
    "groups": (1, 65536),
    "n_steps": (1, 100_000),
    "n_step_return": (1, 100),
    "batch_size": (1, 1 << 24),
    "n_epochs": (1, 1000),
    "lesson_batch_size": (1, 1 << 24),
    "lesson_epochs": (1, 1000),
    "lesson_rollouts": (1, 1000),
    "critic_updates": (0, _INF),
    "n_critic_updates": (1, 1000),
    "sub_sampling_factor": (1, 1000),
    "gradient_steps": (1, 10_000),
    "buffer_size": (1000, 1 << 26),
    "learning_starts": (0, 1 << 30),
    "policy_delay": (1, 1000),
    "top_quantiles_to_drop_per_net": (0, 24),
    "servo_share": (0, 1),
    "teacher_share": (0, 1),
    "final_rate": (0, 1),
    "critic_learning_rate": (0, _INF),
    "ent_coef": (0, _INF),
    "vf_coef": (0, _INF),
    "start_noise": (0, 1),
    "action_noise": (0, 1),
    "target_policy_noise": (0, 1),
    "target_noise_clip": (0, 1),
    "target_entropy": (-200, 50),
    "log_std_init": (-20, 2),
    "priority": (0, 1),
    "priority_correction": (0, 1),
    "ahead": (1, 1e6),
}
"""Lowest and highest value, both allowed."""
ABOVE_ZERO: dict[str, float] = {
    "learning_rate": _INF,
    "servo_learning_rate": _INF,
    "teacher_learning_rate": _INF,
    "clip_range": _INF,
    "max_grad_norm": _INF,
    "target_kl": _INF,
    "ent_coef_init": _INF,
    "gamma": 1,
    "gae_lambda": 1,
    "tau": 1,
    "teacher_gain": 1,
}
"""Highest value of what must be above 0."""
CHOICES: dict[str, tuple[str, ...]] = {
    "schedule": ("constant", "linear", "cosine"),
    "activation": ("relu", "tanh"),
}
LARGEST_LAYER = 4096


def require(name: str, value: Any) -> None:
    """Raise BadInput, naming setting, value and what is allowed, unless ``value`` is right for ``name``."""
    if name == "net_arch":
        sizes = bool(value) and all(1 <= size <= LARGEST_LAYER for size in value)
        _require(name, value, sizes, f"sizes from 1 to {LARGEST_LAYER}")
    elif name in CHOICES:
        _require(name, value, value in CHOICES[name], " or ".join(CHOICES[name]))
    elif name in ABOVE_ZERO:
        high = ABOVE_ZERO[name]
        allowed = "above 0" if high == _INF else f"above 0, at most {high:g}"
        _require(name, value, math.isfinite(value) and 0 < value <= high, allowed)
    else:
        low, high = RANGES[name]
        allowed = f"{low:g} or above" if high == _INF else f"from {low:g} to {high:g}"
        _require(name, value, math.isfinite(value) and low <= value <= high, allowed)


def _require(name: str, value: object, condition: bool, allowed: str) -> None:
    if not condition:
        raise BadInput(f"{name} = {value}: must be {allowed}")
