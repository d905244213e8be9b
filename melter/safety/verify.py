"""The post-condition: one command checked once more, in plain Python, by other code than made it.

Shares no arithmetic with :mod:`melter.safety.limiter`: braking is walked step by step instead of looked up.
"""

from __future__ import annotations

from collections.abc import Sequence

from melter.safety.limiter import TickLimits


def violation(
    speeds_um: Sequence[int],
    previous_um: Sequence[int],
    lengths_um: Sequence[int],
    tensions_n: Sequence[float] | None,
    limits: TickLimits,
    speed_um: int,
) -> str | None:
    """Return what is wrong with a command, on one line, or None.

    ``speed_um``: the speed limit of the mode. A winch that must brake (beyond the speed, power or length that
    it may have) has to brake fully.
    """
    tensions = [limits.tension_max_n] * len(speeds_um) if tensions_n is None else tensions_n
    reach = _travel(speed_um, limits.acceleration_um)
    shortest, longest = limits.length_min_um + reach, limits.length_max_um - reach
    step, power = limits.acceleration_um, 0.0
    for winch, (speed, previous, length, tension) in enumerate(
        zip(speeds_um, previous_um, lengths_um, tensions, strict=True)
    ):
        drawn = abs(speed) * tension
        power += max(drawn, 0.0)
        if (
            -step <= speed - previous <= step
            and -speed_um <= speed <= speed_um
            and drawn <= limits.power_n_um
            and shortest <= length <= longest  # far from both ends, there is room to stop from any speed of the mode
        ):
            continue
        wrong = _one(speed, previous, length, tension, limits, speed_um)
        if wrong:
            return f"winch {winch}: {speed} um per period after {previous} at length {length} um: {wrong}"
    return _together(speeds_um, previous_um, power, limits)


def _together(
    speeds_um: Sequence[int], previous_um: Sequence[int], power_n_um: float, limits: TickLimits
) -> str | None:
    """The power of all winches; too much of it must be a full brake of them all."""
    if power_n_um <= limits.power_total_n_um * (1 + 1e-9):
        return None
    step = limits.acceleration_um
    if all(speed == _full_brake(before, step) for speed, before in zip(speeds_um, previous_um, strict=True)):
        return None
    return f"all winches together: {power_n_um * 1e-6 / limits.period_s:.1f} W exceeds the total power limit"


def _one(speed: int, previous: int, length: int, tension: float, limits: TickLimits, speed_um: int) -> str | None:
    step = limits.acceleration_um
    if not -step <= speed - previous <= step:
        return f"change above {step}"
    if speed == _full_brake(previous, step):
        return None
    if not -speed_um <= speed <= speed_um:
        return f"above the speed limit {speed_um}"
    if tension > 0 and abs(speed) * tension > limits.power_n_um * (1 + 1e-9):
        return f"{tension:.0f} N exceeds the power limit"
    if speed > 0 and length + _travel(speed, step) > limits.length_max_um:
        return f"cannot stop before {limits.length_max_um} um"
    if speed < 0 and length - _travel(-speed, step) < limits.length_min_um:
        return f"cannot stop before {limits.length_min_um} um"
    return None


def _full_brake(previous: int, step: int) -> int:
    if previous > step:
        return previous - step
    if previous < -step:
        return previous + step
    return 0


def _travel(speed: int, step: int) -> int:
    """What a winch covers from here to rest, walked period by period."""
    total = 0
    while speed > 0:
        total += speed
        speed -= step
    return total
