"""Motor drivers by name: those that come with melter, and those that other packages register.

A package registers a driver as an entry point of the group ``melter.drivers``: something to call with a port's name, a
machine and ``on_bytes``, that returns a :class:`melter.hw.driver.MotorDriver`. See ``docs/drivers.md``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, cast

from melter.errors import BadInput
from melter.hw.driver import MotorDriver
from melter.hw.serial_port import OnBytes
from melter.machine import Machine

GROUP = "melter.drivers"
DEFAULT = "grblhal"


class DriverFactory(Protocol):
    """What an entry point of the group has to be: a class or a function."""

    def __call__(self, port: str, machine: Machine, *, on_bytes: OnBytes | None = None) -> MotorDriver:
        """Return a driver that has opened nothing yet."""
        ...


def _grblhal() -> DriverFactory:
    from melter.hw.grbl_driver import GrblDriver

    return GrblDriver


def _dynamixel() -> DriverFactory:
    from melter.hw.dynamixel import DynamixelDriver

    return DynamixelDriver


_OWN: dict[str, Callable[[], DriverFactory]] = {DEFAULT: _grblhal, "dynamixel": _dynamixel}


def driver_names() -> list[str]:
    """Return the names of all drivers; melter's own come first and cannot be replaced."""
    return [*_OWN, *sorted(set(_registered()) - set(_OWN))]


def make_driver(name: str, port: str, machine: Machine, on_bytes: OnBytes | None = None) -> MotorDriver:
    """Return the driver ``name`` for ``port``; opens nothing. Raises BadInput when there is none, or it is broken."""
    if name in _OWN:
        return _OWN[name]()(port, machine, on_bytes=on_bytes)
    entry = _registered().get(name)
    if entry is None:
        near = difflib.get_close_matches(name, driver_names(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise BadInput(f"driver {name}: no such driver; {hint}known: {', '.join(driver_names())}")
    try:
        factory = cast(DriverFactory, entry.load())
        driver = factory(port, machine, on_bytes=on_bytes)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"driver {name} ({entry.value}): cannot be loaded: {reason}") from None
    missing = [word for word in _NEEDED if not hasattr(driver, word)]
    if missing:
        raise BadInput(f"driver {name} ({entry.value}): lacks {', '.join(missing)}; see docs/drivers.md")
    return driver


_NEEDED = ("promises", "connect", "send", "poll", "stop", "recover", "close", "__enter__", "__exit__")


def _registered() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
