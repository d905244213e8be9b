"""What is looked for: every quantity of the randomisation table that counters and patch may tell, with its prior.

Inside the fit a machine is a vector ``u`` (p,): each entry counts prior standard deviations from the prior's middle,
so that the prior is a unit Gaussian. :meth:`Parameters.values` turns vectors into what ``melter.env`` simulates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.env.params import QUANTITIES, Quantity, nominal_values
from melter.errors import BadInput
from melter.geometry.pose import sun_direction_world
from melter.geometry.sun import sun_velocity_world_s
from melter.machine import Machine

Array = NDArray[np.float64]

FITTED = (
    *("cable_stiffness_n", "cable_damping_ratio", "cable_creep", "moving_mass_kg", "centre_of_mass_m"),
    *("pulley_m", "attachment_m", "pulley_radius_m", "pulley_loss", "pulley_friction_n", "pole_flex_m_per_n"),
    *("drum_gain", "drum_spread", "drum_build_up_per_m", "backlash_m", "motor_lag_s"),
    *("zero_position_m", "zero_attitude_rad", "zero_tension_n"),
    *("focal_length_m", "facet_error_mrad", "circumsolar_ratio", "bed_height_m", "sun_error_deg"),
)
"""Quantities of ``randomisation.toml``."""
OWN = (
    Quantity("seen_delay_s", "s", "absolute", 0.0, 0.190),
    Quantity("wind_push_n", "N", "absolute", -16.0, 16.0),
    Quantity("wind_turn_n_m", "N m", "absolute", -5.0, 5.0, 2),
    Quantity("view_offset_m", "m", "absolute", -0.0010, 0.0010, 2),
    Quantity("sun_rate", "1/s", "absolute", -1e-4, 1e-4, 2),
    Quantity("view_scale", "1", "absolute", -0.004, 0.004, 4),
)
"""What the table does not have: the time from a counted motion to the picture of it; the mean wind on the lens, along its
axis, and its moments about lens x and y; how the unit vector to the sun changes along world x and y; and what the
camera's map of the bed has wrong: an offset, and (2, 2) by row."""


SUN_RATE_S = 1e-6
"""How well the sun's motion is known at best: a degree of latitude."""


@dataclass(frozen=True)
class Parameters:
    """The quantities of one machine that are looked for."""

    machine: Machine
    quantities: tuple[Quantity, ...]
    mean: Array
    """(p,) middle of the prior: the value, or its logarithm for a logarithmic range."""
    spread: Array
    """(p,) standard deviation of the prior, same unit."""
    low: Array
    """(p,) no value below; minus infinity where there is no such limit."""

    @classmethod
    def for_machine(
        cls,
        machine: Machine,
        *,
        sun_rad: tuple[float, float] | None = None,
        latitude_rad: float | None = None,
        measured: dict[str, tuple[float, float]] | None = None,
    ) -> Parameters:
        """Return the parameters of a machine, with priors from the randomisation table.

        ``sun_rad``: zenith and azimuth, without them the machine file's; ``latitude_rad``: with it the sun's way is known.
        ``measured``: value and standard deviation of quantities (of one number) that its owner measured otherwise.
        Raises BadInput for names that are not among the quantities of one number.
        """
        table = {quantity.name: quantity for quantity in QUANTITIES}
        quantities = (*(table[name] for name in FITTED), *OWN)
        nominal = nominal_values(machine)
        rows = [_prior(quantity, nominal.get(quantity.name, np.zeros(quantity.size))) for quantity in quantities]
        mean, spread, low = (np.concatenate(column) for column in zip(*rows, strict=True))
        made = cls(machine, quantities, mean, spread, low)
        at = made.slice_of("sun_rate")
        said_rad = (machine.sun.zenith_rad, machine.sun.azimuth_rad) if sun_rad is None else sun_rad
        mean[at], spread[at] = _sun_rates(said_rad, latitude_rad, table["latitude_deg"])
        for name, (value, deviation) in (measured or {}).items():
            made._measure(name, value, deviation)
        for array in (mean, spread, low):
            array.setflags(write=False)
        return made

    def _measure(self, name: str, value: float, deviation: float) -> None:
        known = {quantity.name: quantity for quantity in self.quantities if quantity.size == 1}
        if name not in known:
            raise BadInput(f"measured {name}: must be one of {', '.join(known)}")
        if not (np.isfinite([value, deviation]).all() and deviation > 0 and (known[name].kind != "log" or value > 0)):
            raise BadInput(f"measured {name} = {value} ± {deviation}: must be finite, the deviation above 0")
        at = self.slice_of(name)
        logarithmic = known[name].kind == "log"
        self.mean[at] = np.log(value) if logarithmic else value
        self.spread[at] = deviation / value if logarithmic else deviation

    @property
    def size(self) -> int:
        """Numbers looked for."""
        return len(self.mean)

    @property
    def labels(self) -> tuple[str, ...]:
        """(p,) name of each number, winches by name."""
        return tuple(label for quantity in self.quantities for label in _labels(quantity, self.machine))

    def slice_of(self, name: str) -> slice:
        """Return where a quantity stands in the vector."""
        start = 0
        for quantity in self.quantities:
            if quantity.name == name:
                return slice(start, start + quantity.size)
            start += quantity.size
        raise KeyError(name)

    def bounded(self, u: Array) -> Array:
        """Return vectors (..., p) with what lies below the lowest possible values brought up to them."""
        return np.maximum(u, (self.low - self.mean) / self.spread)

    def values(self, u: Array) -> dict[str, Array]:
        """Return each quantity's values, (n, size), of vectors (n, p), and the nominal ones of all that is not looked for."""
        u = np.atleast_2d(u)
        nominal = nominal_values(self.machine)
        values = {name: np.broadcast_to(value, (len(u), len(value))) for name, value in nominal.items()}
        raw = self.mean + self.spread * u
        for quantity in self.quantities:
            found = raw[:, self.slice_of(quantity.name)]
            values[quantity.name] = np.exp(found) if quantity.kind == "log" else found
        return values

    def vector(self, values: dict[str, Array]) -> Array:
        """Return (n, p) vectors of values (n, size); quantities that are not given stand at the prior's middle."""
        count = len(next(iter(values.values())))
        u = np.zeros((count, self.size))
        for quantity in self.quantities:
            if quantity.name in values:
                at = self.slice_of(quantity.name)
                raw = np.log(values[quantity.name]) if quantity.kind == "log" else values[quantity.name]
                u[:, at] = (raw - self.mean[at]) / self.spread[at]
        return u


def _prior(quantity: Quantity, base: Array) -> tuple[Array, Array, Array]:
    """Mean, standard deviation and lowest value (size,) of an even distribution over a quantity's range."""
    low, high = quantity.low, quantity.high
    if quantity.kind == "log":
        middle, width, least = 0.5 * (np.log(low) + np.log(high)), np.log(high / low), -np.inf
    elif quantity.kind == "factor":
        middle, width, least = 0.5 * (low + high) * base, (high - low) * np.abs(base), 0.0
    elif quantity.kind == "offset":
        middle, width, least = base + 0.5 * (low + high), high - low, -np.inf
    else:
        middle, width, least = 0.5 * (low + high), high - low, 0.0 if low >= 0 else -np.inf
    wide = np.ones(quantity.size)
    return middle * wide, np.broadcast_to(width, quantity.size) / np.sqrt(12), least * wide


def _sun_rates(sun_rad: tuple[float, float], latitude_rad: float | None, table: Quantity) -> tuple[Array, Array]:
    """Mean and standard deviation (2,) of the sun's motion along world x and y, over the table's latitudes or at one."""
    latitudes = (
        np.radians(np.linspace(table.low, table.high, 111)) if latitude_rad is None else np.array([latitude_rad])
    )
    rates = sun_velocity_world_s(latitudes, sun_direction_world(*sun_rad))[:, :2]
    return rates.mean(axis=0), np.maximum(rates.std(axis=0), SUN_RATE_S)


def _labels(quantity: Quantity, machine: Machine) -> list[str]:
    winches, size = [winch.name for winch in machine.winch], quantity.size
    if size == 1:
        return [quantity.name]
    if size == len(winches):
        return [f"{quantity.name} {winch}" for winch in winches]
    if size == 3 * len(winches):
        return [f"{quantity.name} {winch} {axis}" for winch in winches for axis in "xyz"]
    return [f"{quantity.name} {'xyz'[i] if size <= 3 else i}" for i in range(size)]
