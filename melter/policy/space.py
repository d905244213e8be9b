"""What a search for settings may try: a range or choices for each setting."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, replace
from typing import Any

from melter.errors import BadInput

Value = int | float | str


@dataclass(frozen=True)
class Range:
    """One setting: from low to high, or one of ``choices``."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    """Draw evenly in the logarithm."""
    whole: bool = False
    choices: tuple[Value, ...] = ()
    centre: Value | None = None
    """Where the search starts: the preset's value."""

    def __post_init__(self) -> None:
        if self.choices:
            return
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise BadInput(f"--search {self.name}: {self.low:g}..{self.high:g} must go from a number to a larger one")
        if self.log and self.low <= 0:
            raise BadInput(f"--search {self.name}: {self.low:g} must be above 0 to be searched by its logarithm")

    def suggested(self, trial: Any) -> Value:
        """Return the value that an Optuna trial is to try."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if self.whole:
            return trial.suggest_int(self.name, round(self.low), round(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)


SPACES: dict[str, tuple[Range, ...]] = {
    "ppo": (
        Range("learning_rate", 1e-6, 3e-4, log=True),
        Range("n_steps", choices=(16, 32, 64, 128)),
        Range("batch_size", choices=(1024, 2048, 4096)),
        Range("n_epochs", 2, 16, whole=True),
        Range("gamma", 0.8, 0.99),
        Range("gae_lambda", 0.8, 0.99),
        Range("clip_range", 0.05, 0.4),
        Range("log_std_init", -6.0, -3.0),
        Range("target_kl", 3e-3, 0.1, log=True),
        Range("net_arch", choices=("64,64", "128,128", "256,128")),
        Range("servo_learning_rate", 5e-4, 5e-3, log=True),
        Range("teacher_learning_rate", 3e-5, 3e-3, log=True),
        Range("teacher_gain", 0.1, 0.6),
        Range("critic_updates", 0, 40, whole=True),
    )
}
"""Built-in ranges by algorithm."""


def ranges_for(algo: str, asked: tuple[str, ...], fixed: tuple[str, ...] = ()) -> tuple[Range, ...]:
    """Return what to search: those ``asked`` for, or all built-in ranges but those of ``fixed`` (KEY=VALUE).

    Each of ``asked`` is KEY (built-in range), KEY=LOW..HIGH, or KEY=A|B|C. Raises BadInput, also for what is both.
    """
    if algo not in SPACES:
        raise BadInput(f"--algo {algo}: nothing is known to search; must be one of {', '.join(SPACES)}")
    known = {one.name: one for one in SPACES[algo]}
    held = {word.partition("=")[0] for word in fixed}
    if not asked:
        return tuple(one for one in known.values() if one.name not in held)
    chosen = [_parsed(text, known) for text in asked]
    names = [one.name for one in chosen]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"--search {name}: is given more than once")
        if name in held:
            raise BadInput(f"--set {name}: is searched as well; leave one of both")
    return tuple(chosen)


def _parsed(text: str, known: dict[str, Range]) -> Range:
    name, equals, rest = text.partition("=")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise BadInput(f"--search {name}: unknown key{hint}; known: {', '.join(known)}")
    if not equals:
        return known[name]
    if ".." in rest:
        low, _, high = rest.partition("..")
        try:
            return replace(known[name], low=float(low), high=float(high), choices=())
        except ValueError:
            raise BadInput(f"--search {text}: must be KEY=LOW..HIGH with numbers") from None
    choices = tuple(_value(part) for part in rest.split("|") if part)
    if not choices:
        raise BadInput(f"--search {text}: must be KEY, KEY=LOW..HIGH or KEY=A|B|C")
    return Range(name, choices=choices)


def widened(one: Range, centre: object) -> Range:
    """Return the range with the preset's value in it, and as its centre."""
    value: Value = ",".join(map(str, centre)) if isinstance(centre, tuple) else _value(str(centre))  # pyright: ignore[reportUnknownArgumentType]
    if one.choices:
        same = next((choice for choice in one.choices if str(choice) == str(value)), None)
        choices = one.choices if same is not None else (*one.choices, value)
        return replace(one, choices=choices, centre=value if same is None else same)
    number = float(value)
    if one.log and number <= 0:
        return replace(one, centre=one.low)
    return replace(one, low=min(one.low, number), high=max(one.high, number), centre=value)


def _value(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
