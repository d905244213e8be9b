"""What a board must be set to for a machine, and the list of what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from melter.errors import PortError
from melter.hw.grbl import setting_line
from melter.machine import WINCH_COUNT, Machine

MM_PER_M = 1000.0
RATE_EXCESS = 1.25
"""A board may be allowed this much more than the machine; its own limits are the last guard behind the gate."""
MOTORS_ON = 255
"""Motors that are switched off at rest let the lens sink where nothing else holds the drums."""
USUAL_ORDER = tuple(range(WINCH_COUNT))
"""Axes X Y Z A B C U V are winches 1 to 8."""
STEP_TOLERANCE = 1e-4
"""Relative; boards print three to five decimals."""


@dataclass(frozen=True)
class Wanted:
    """One setting: what it should be and what is accepted."""

    number: int
    value: float
    low: float
    high: float
    name: str
    unit: str
    required: bool = True
    """False: a board that does not have this setting is fine."""
    refused: bool = True
    """False: setup writes it, and a board that has another value is used all the same."""


@dataclass(frozen=True)
class Difference:
    """A setting that does not suit the machine."""

    wanted: Wanted
    found: float | None

    def __str__(self) -> str:
        w = self.wanted
        found = "missing" if self.found is None else f"{self.found:g}"
        allowed = (
            f"{w.value:g}" if w.high - w.low < 2.1 * STEP_TOLERANCE * max(w.value, 1.0) else f"{w.low:g} to {w.high:g}"
        )
        return f"${w.number} {w.name} {found}, must be {allowed}{f' {w.unit}' if w.unit else ''}"


def board_order(letters: str, machine: Machine) -> tuple[int, ...]:
    """Return, in winch order, each winch's place among the board's axes. Raises PortError for an axis it lacks."""
    missing = [f"{winch.axis} ({winch.name})" for winch in machine.winch if winch.axis not in letters]
    if missing:
        raise PortError(f"the board has the axes {letters}, but not {', '.join(missing)} of {machine.name}")
    return tuple(letters.index(winch.axis) for winch in machine.winch)


def wanted_settings(machine: Machine, order: Sequence[int] = USUAL_ORDER) -> list[Wanted]:
    """Return what the board's settings must be for ``machine``; ``order`` as of :func:`board_order`."""
    rate = machine.limits.speed_max_m_s * MM_PER_M * 60
    acceleration = machine.limits.acceleration_max_m_s2 * MM_PER_M
    steps = machine.drive.steps_per_mm
    wanted = [
        Wanted(
            1, MOTORS_ON, MOTORS_ON, MOTORS_ON, "motors off after", "ms (255: never)", required=False, refused=False
        ),
        Wanted(13, 0, 0, 0, "report in inches", ""),
        Wanted(20, 0, 0, 0, "soft limits", "", required=False),
        Wanted(22, 0, 0, 0, "homing", "", required=False),
        Wanted(40, 0, 0, 0, "jog soft limits", "", required=False),
        Wanted(376, 0, 0, 0, "rotary axes", "", required=False),
        Wanted(481, 0, 0, 0, "reports unasked", "ms", required=False),
    ]
    for axis, winch in zip(order, machine.winch, strict=True):
        tolerance = steps * STEP_TOLERANCE
        slack = 1 - STEP_TOLERANCE
        label = f"{winch.axis} ({winch.name})"
        wanted.append(
            Wanted(100 + axis, steps, steps - tolerance, steps + tolerance, f"{label} resolution", "steps/mm")
        )
        wanted.append(Wanted(110 + axis, rate, rate * slack, rate * RATE_EXCESS, f"{label} fastest", "mm/min"))
        wanted.append(
            Wanted(
                120 + axis,
                acceleration,
                acceleration * slack,
                acceleration * RATE_EXCESS,
                f"{label} acceleration",
                "mm/s2",
            )
        )
    return sorted(wanted, key=lambda one: one.number)


def settings_for(machine: Machine) -> dict[int, float]:
    """Return the settings that suit ``machine``, by number."""
    return {one.number: one.value for one in wanted_settings(machine)}


def differences(machine: Machine, settings: Mapping[int, str], order: Sequence[int] = USUAL_ORDER) -> list[Difference]:
    """Return what is wrong with a board's ``settings`` (as read, by number) for ``machine``."""
    found: list[Difference] = []
    for wanted in wanted_settings(machine, order):
        text = settings.get(wanted.number)
        value = number_of(text)
        if text is None and not wanted.required:
            continue
        if value is None or not wanted.low <= value <= wanted.high:
            found.append(Difference(wanted, value))
    return found


def refusals(listed: Sequence[Difference]) -> list[Difference]:
    """Return the differences for which a board is not used."""
    return [one for one in listed if one.wanted.refused]


def setting_lines(listed: list[Difference]) -> list[bytes]:
    """Return the lines that put the differences right."""
    return [setting_line(one.wanted.number, one.wanted.value) for one in listed]


def describe(listed: list[Difference], most: int = 4) -> str:
    """Return the differences on one line, the first ``most`` in full."""
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return "; ".join(str(one) for one in listed[:most]) + more


def slowest_acceleration_m_s2(
    settings: Mapping[int, str], machine: Machine, order: Sequence[int] = USUAL_ORDER
) -> float:
    """Return the lowest acceleration of the winches' axes on the board, metres per second squared."""
    read = [number_of(settings.get(120 + axis)) for axis in order]
    usable = [value for value in read if value is not None and value > 0]
    return min(usable, default=machine.limits.acceleration_max_m_s2 * MM_PER_M) / MM_PER_M


def number_of(text: str | None) -> float | None:
    """Return a setting's value; None where it is missing or no number."""
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
