"""What a simulation does not know about its machine: every randomised quantity, by name, unit and range.

One table, one place. Each quantity can be switched on alone (``Randomisation(only=("cable_stiffness_n",))``), so that the
cost of each can be measured. The ranges are those of a machine built by hand and calibrated once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from melter.env.noise import Keys, uniform
from melter.errors import BadInput
from melter.geometry.pose import sun_direction_world
from melter.machine import WINCH_COUNT, Machine

Array = NDArray[np.float64]
Kind = Literal["absolute", "log", "factor", "offset"]


@dataclass(frozen=True)
class Quantity:
    """One randomised quantity and its range.

    ``absolute`` and ``log``: drawn between low and high; ``factor``: the machine's value times a number between
    low and high; ``offset``: the machine's value plus a number between low and high.
    """

    name: str
    unit: str
    kind: Kind
    low: float
    high: float
    size: int = 1

    def __post_init__(self) -> None:
        if not (np.isfinite([self.low, self.high]).all() and self.low <= self.high):
            raise BadInput(
                f"randomisation {self.name}: low {self.low:g} must not exceed high {self.high:g} {self.unit}"
            )


QUANTITIES = (
    Quantity("cable_stiffness_n", "N", "log", 25e3, 120e3),
    Quantity("cable_damping_ratio", "1", "absolute", 0.01, 0.08),
    Quantity("moving_mass_kg", "kg", "factor", 5 / 6, 8 / 6),
    Quantity("centre_of_mass_m", "m", "offset", -0.020, 0.020, 3),
    Quantity("pulley_m", "m", "offset", -0.003, 0.003, 3 * WINCH_COUNT),
    Quantity("attachment_m", "m", "offset", -0.005, 0.005, 3 * WINCH_COUNT),
    Quantity("drum_gain", "1", "factor", 0.99, 1.01, WINCH_COUNT),
    Quantity("speed_gain", "1", "factor", 0.97, 1.03, WINCH_COUNT),
    Quantity("motor_lag_s", "s", "absolute", 0.010, 0.050),
    Quantity("action_delay_s", "s", "absolute", 0.015, 0.100),
    Quantity("camera_delay_s", "s", "absolute", 0.015, 0.100),
    Quantity("camera_jitter_s", "s", "absolute", 0.0, 0.020),
    Quantity("camera_noise_m", "m", "absolute", 0.0001, 0.0008),
    Quantity("camera_loss", "1", "absolute", 0.0, 0.02),
    Quantity("zero_position_m", "m", "offset", -0.004, 0.004, 3),
    Quantity("zero_attitude_rad", "rad", "offset", -0.003, 0.003, 3),
    Quantity("zero_tension_n", "N", "offset", -20.0, 20.0, WINCH_COUNT),
    Quantity("focal_length_m", "m", "factor", 0.98, 1.02),
    Quantity("facet_error_mrad", "mrad", "absolute", 4.0, 9.0),
    Quantity("transmission", "1", "absolute", 0.50, 0.75),
    Quantity("dni_w_m2", "W/m²", "absolute", 500.0, 1000.0),
    Quantity("circumsolar_ratio", "1", "absolute", 0.01, 0.20),
    Quantity("sun_zenith_deg", "deg", "absolute", 0.0, 25.0),
    Quantity("sun_azimuth_deg", "deg", "absolute", 0.0, 360.0),
    Quantity("sun_error_deg", "deg", "offset", -0.1, 0.1, 2),
    Quantity("wind_m_s", "m/s", "absolute", 0.0, 5.0),
    Quantity("wind_azimuth_deg", "deg", "absolute", 0.0, 360.0),
    Quantity("wind_turbulence", "1", "absolute", 0.15, 0.30),
    Quantity("bed_height_m", "m", "offset", -0.010, 0.010),
)
NAMES = tuple(quantity.name for quantity in QUANTITIES)


def nominal_values(machine: Machine) -> dict[str, Array]:
    """Return each quantity's nominal value, (size,), from the machine file."""
    drive, lens, control, sun = machine.drive, machine.lens, machine.control, machine.sun
    values: dict[str, object] = {
        "cable_stiffness_n": drive.cable_stiffness_n,
        "cable_damping_ratio": drive.cable_damping_ratio,
        "moving_mass_kg": lens.moving_mass_kg,
        "centre_of_mass_m": lens.centre_of_mass_lens_m,
        "pulley_m": machine.pulleys_world_m,
        "attachment_m": machine.attachments_lens_m,
        "drum_gain": np.ones(WINCH_COUNT),
        "speed_gain": np.ones(WINCH_COUNT),
        "motor_lag_s": drive.motor_lag_s,
        "action_delay_s": control.action_delay_s,
        "camera_delay_s": control.camera_delay_s,
        "camera_jitter_s": 0.0,
        "camera_noise_m": 0.0002,
        "camera_loss": 0.0,
        "zero_position_m": np.zeros(3),
        "zero_attitude_rad": np.zeros(3),
        "zero_tension_n": np.zeros(WINCH_COUNT),
        "focal_length_m": lens.focal_length_m,
        "facet_error_mrad": lens.facet_error_mrad,
        "transmission": lens.transmission,
        "dni_w_m2": sun.dni_w_m2,
        "circumsolar_ratio": sun.circumsolar_ratio,
        "sun_zenith_deg": sun.zenith_deg,
        "sun_azimuth_deg": sun.azimuth_deg,
        "sun_error_deg": np.zeros(2),
        "wind_m_s": machine.wind.mean_m_s,
        "wind_azimuth_deg": 270.0,
        "wind_turbulence": machine.wind.turbulence,
        "bed_height_m": machine.sand.height_m,
    }
    return {name: np.atleast_1d(np.asarray(value, dtype=float)).ravel() for name, value in values.items()}


@dataclass(frozen=True)
class Randomisation:
    """Which quantities are drawn, each episode anew, and from where."""

    only: tuple[str, ...] = NAMES
    """Names of the quantities that vary; the others stay nominal."""
    share: float = 1.0
    """Share of the episodes that are randomised; the rest are nominal."""
    quantities: tuple[Quantity, ...] = field(default=QUANTITIES, repr=False)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.only) - set(NAMES))
        if unknown:
            raise BadInput(f"randomisation: unknown quantity {unknown[0]}; known: {', '.join(NAMES)}")

    def draw(self, keys: Keys, machine: Machine) -> dict[str, Array]:
        """Return each quantity's values, (n, size), for simulations with these keys (n,)."""
        nominal = nominal_values(machine)
        varied = uniform(keys, 1, 1)[:, 0] < self.share
        drawn: dict[str, Array] = {}
        for number, quantity in enumerate(self.quantities):
            base = np.broadcast_to(nominal[quantity.name], (len(keys), quantity.size)).copy()
            if quantity.name in self.only and varied.any():
                u = uniform(keys, 100 + number, quantity.size)
                base = np.where(varied[:, None], _value(quantity, base, u), base)
            drawn[quantity.name] = base
        return drawn


def true_sun_world(values: dict[str, Array]) -> Array:
    """Return (n, 3) unit vectors to the sun as it really stands: where it is said to be, off by the sun's error."""
    zenith_deg, azimuth_deg, error_deg = (values[f"sun_{name}_deg"] for name in ("zenith", "azimuth", "error"))
    error_rad = np.radians(error_deg)
    zenith_rad = np.abs(np.radians(zenith_deg[:, 0]) + error_rad[:, 0])
    across_rad = error_rad[:, 1] / np.maximum(np.sin(zenith_rad), 0.1)
    return sun_direction_world(zenith_rad, np.radians(azimuth_deg[:, 0]) + across_rad)


NOMINAL = Randomisation(only=())
"""Every quantity at the machine file's value."""


def _value(quantity: Quantity, base: Array, u: Array) -> Array:
    low, high = quantity.low, quantity.high
    if quantity.kind == "log":
        return low * np.exp(u * np.log(high / low))
    value = low + (high - low) * u
    if quantity.kind == "factor":
        return base * value
    return base + value if quantity.kind == "offset" else value
