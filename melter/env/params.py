"""What a simulation does not know about its machine: every randomised quantity, by name, unit and range.

One table, one place: ``randomisation.toml``. Each quantity can be switched on alone
(``Randomisation(only=("cable_stiffness_n",))``), so that the cost of each can be measured.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from melter.env.noise import Keys, uniform
from melter.errors import BadInput
from melter.geometry.cables import structure_matrix
from melter.geometry.pose import rotation_facing, sun_direction_world, work_centre_world_m
from melter.geometry.reference import reference_tensions_n, weight_n
from melter.machine import WINCH_COUNT, Machine

Array = NDArray[np.float64]
EARTH_RATE_RAD_S = 7.292115e-5
"""Rotation of the Earth (IERS Conventions 2010, table 1.2)."""
SUN_DRAWS = 8
"""How often a sun that the machine cannot work under is drawn again, before the machine file's own is taken."""
SUN_ZENITH_MAX_DEG = 45.0
SUN_STEP_DEG = (2.5, 10.0)
"""Steps of the table of suns that are held, zenith and azimuth."""
BED_SHARE = 0.9
"""Share of the working area that paths use."""
SUN_MARGIN_SHARE = 0.05
"""Reference tensions keep this share of the band from its ends."""
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
        name = f"randomisation {self.name}"
        if not (np.isfinite([self.low, self.high]).all() and self.low <= self.high):
            raise BadInput(f"{name}: low {self.low:g} must not exceed high {self.high:g} {self.unit}")
        if self.kind == "log" and self.low <= 0:
            raise BadInput(f"{name}: low {self.low:g} must be above 0 {self.unit} for a logarithmic range")
        if self.size < 1:
            raise BadInput(f"{name}: size {self.size} must be at least 1")


def read_quantities(text: str, source: str) -> tuple[Quantity, ...]:
    """Return the quantities of a randomisation table in TOML; raise BadInput, naming the quantity, for what is wrong."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{source}: not TOML: {error}") from None
    return tuple(_quantity(name, entry, source) for name, entry in table.items())


def _quantity(name: str, entry: object, source: str) -> Quantity:
    where = f"{source}: {name}"
    if not isinstance(entry, dict):
        raise BadInput(f"{where} = {entry}: must be a table with unit, kind, low and high")
    values = cast("dict[str, object]", entry)
    missing = sorted({"unit", "kind", "low", "high"} - set(values))
    unknown = sorted(set(values) - {"unit", "kind", "low", "high", "size"})
    if missing or unknown:
        raise BadInput(f"{where}: {f'lacks {missing[0]}' if missing else f'unknown key {unknown[0]}'}")
    if values["kind"] not in get_args(Kind):
        raise BadInput(f"{where}.kind = {values['kind']}: must be one of {', '.join(get_args(Kind))}")
    low, high, size = values["low"], values["high"], values.get("size", 1)
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in (low, high, size)):
        raise BadInput(f"{where}: low, high and size must be numbers")
    return Quantity(name, str(values["unit"]), cast(Kind, values["kind"]), float(low), float(high), int(size))  # type: ignore[arg-type]


QUANTITIES = read_quantities(
    resources.files("melter.env").joinpath("randomisation.toml").read_text(encoding="utf-8"), "randomisation.toml"
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
        "pulley_radius_m": drive.pulley_radius_m,
        "pulley_loss": drive.pulley_loss,
        "pulley_friction_n": drive.pulley_friction_n,
        "pole_flex_m_per_n": machine.frame.pole_flex_m_per_n,
        "cable_creep": drive.cable_creep,
        "drum_gain": 1.0,
        "drum_spread": np.zeros(WINCH_COUNT),
        "drum_build_up_per_m": 0.0,
        "backlash_m": drive.backlash_m,
        "speed_gain": np.ones(WINCH_COUNT),
        "motor_lag_s": drive.motor_lag_s,
        "action_delay_s": control.action_delay_s,
        "camera_delay_s": control.camera_delay_s,
        "camera_jitter_s": 0.0,
        "camera_noise_m": 0.0002,
        "camera_loss": 0.0,
        "camera_saturation_w_m2": 6e6,
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
        "latitude_deg": 45.0,
        "cloud_share": 0.0,
        "wind_m_s": machine.wind.mean_m_s,
        "wind_azimuth_deg": 225.0,
        "wind_turbulence": machine.wind.turbulence,
        "wind_gust": 1.0,
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

    @classmethod
    def from_file(cls, path: str | Path, share: float = 1.0) -> Randomisation:
        """Return the randomisation of a TOML table like ``randomisation.toml``; what it leaves out stays nominal.

        Raises BadInput for what cannot be read, unknown names, other units or sizes, and a low above its high.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"randomisation {path}: cannot be read: {error}") from None
        given = {quantity.name: quantity for quantity in read_quantities(text, str(path))}
        known = {quantity.name: quantity for quantity in QUANTITIES}
        for name, quantity in given.items():
            if name not in known:
                near = difflib.get_close_matches(name, NAMES, n=1)
                raise BadInput(
                    f"randomisation {path}: unknown quantity {name}{f'; did you mean {near[0]}?' if near else ''}"
                )
            if (quantity.unit, quantity.size) != (known[name].unit, known[name].size):
                wanted = f"{known[name].size} in {known[name].unit}"
                raise BadInput(f"randomisation {path}: {name} has {quantity.size} in {quantity.unit}, must be {wanted}")
        return cls(tuple(given), share, tuple(given.get(name, known[name]) for name in NAMES))

    def draw(self, keys: Keys, machine: Machine) -> dict[str, Array]:
        """Return each quantity's values, (n, size), for simulations with these keys (n,).

        A sun under which the machine cannot hold its lens over the whole bed is drawn again.
        """
        nominal = nominal_values(machine)
        varied = uniform(keys, 1, 1)[:, 0] < self.share
        drawn: dict[str, Array] = {}
        for number, quantity in enumerate(self.quantities):
            base = np.broadcast_to(nominal[quantity.name], (len(keys), quantity.size)).copy()
            if quantity.name in self.only and varied.any():
                u = uniform(keys, 100 + number, quantity.size)
                base = np.where(varied[:, None], _value(quantity, base, u), base)
            drawn[quantity.name] = base
        if varied.any() and {"sun_zenith_deg", "sun_azimuth_deg"} & set(self.only):
            self._redraw_suns(drawn, keys, machine, varied)
        return drawn

    def _redraw_suns(self, drawn: dict[str, Array], keys: Keys, machine: Machine, varied: NDArray[np.bool_]) -> None:
        zenith, azimuth = drawn["sun_zenith_deg"], drawn["sun_azimuth_deg"]
        ranges = {quantity.name: quantity for quantity in self.quantities}
        for attempt in range(SUN_DRAWS):
            bad = varied & ~sun_is_held(machine, zenith[:, 0], azimuth[:, 0])
            if not bad.any():
                return
            u = uniform(keys, 90 + attempt, 2)
            for lane, (name, value) in enumerate((("sun_zenith_deg", zenith), ("sun_azimuth_deg", azimuth))):
                if name in self.only:
                    value[bad] = _value(ranges[name], value, u[:, lane : lane + 1])[bad]
        nominal = nominal_values(machine)
        bad = varied & ~sun_is_held(machine, zenith[:, 0], azimuth[:, 0])
        zenith[bad], azimuth[bad] = nominal["sun_zenith_deg"], nominal["sun_azimuth_deg"]


def sun_motion_per_s(sun_world: Array, values: dict[str, Array]) -> Array:
    """Return (n, 3) how the unit vector to the sun changes per second, at the latitude drawn.

    The sky turns about the celestial pole once in a sidereal day (Meeus, Astronomical Algorithms, 1998, ch. 12).
    """
    latitude_rad = np.radians(values["latitude_deg"][:, 0])
    up, north = np.sin(latitude_rad), np.cos(latitude_rad)
    x, y, z = sun_world[:, 0], sun_world[:, 1], sun_world[:, 2]
    return -EARTH_RATE_RAD_S * np.stack([north * z - up * y, up * x, -north * x], axis=1)


def true_sun_world(values: dict[str, Array]) -> Array:
    """Return (n, 3) unit vectors to the sun as it really stands: where it is said to be, off by the sun's error."""
    zenith_deg, azimuth_deg, error_deg = (values[f"sun_{name}_deg"] for name in ("zenith", "azimuth", "error"))
    error_rad = np.radians(error_deg)
    zenith_rad = np.abs(np.radians(zenith_deg[:, 0]) + error_rad[:, 0])
    across_rad = error_rad[:, 1] / np.maximum(np.sin(zenith_rad), 0.1)
    return sun_direction_world(zenith_rad, np.radians(azimuth_deg[:, 0]) + across_rad)


def sun_is_held(machine: Machine, zenith_deg: Array, azimuth_deg: Array) -> NDArray[np.bool_]:
    """Return (n,) whether the lens can be held facing these suns over the bed, tensions well inside the band.

    From a table in steps of SUN_STEP_DEG. Suns lower than the table's last are not held.
    """
    held = _held_suns(machine)  # pyright: ignore[reportArgumentType] (frozen, so hashable)
    rows, columns = held.shape
    row = np.rint(np.asarray(zenith_deg) / SUN_STEP_DEG[0]).astype(np.intp)
    column = np.rint(np.asarray(azimuth_deg) / SUN_STEP_DEG[1]).astype(np.intp) % columns
    return held[np.minimum(row, rows - 1), column] & (row < rows)


@lru_cache(maxsize=8)
def _held_suns(machine: Machine) -> NDArray[np.bool_]:
    zenith = np.arange(0.0, SUN_ZENITH_MAX_DEG + SUN_STEP_DEG[0] / 2, SUN_STEP_DEG[0])
    azimuth = np.arange(0.0, 360.0, SUN_STEP_DEG[1])
    sun = sun_direction_world(np.radians(zenith)[:, None, None], np.radians(azimuth)[None, :, None])
    half = np.array(machine.bed.size_m) / 2
    spots = np.array([(0, 0), (1, 1), (-1, 1), (-1, -1), (1, -1)]) * half * BED_SHARE
    centre = work_centre_world_m(spots, sun, machine.lens.focal_length_m, machine.sand.height_m)
    structure = structure_matrix(machine.pulleys_world_m, machine.attachments_lens_m, centre, rotation_facing(sun))
    structure = np.broadcast_to(structure, (*centre.shape[:-1], 6, WINCH_COUNT))
    low, high = machine.tension_band_n
    with np.errstate(all="ignore"):
        tension = reference_tensions_n(structure, weight_n(machine.lens.moving_mass_kg), (low, high))
    margin = SUN_MARGIN_SHARE * (high - low)
    return np.asarray(((tension > low + margin) & (tension < high - margin)).all(axis=(-1, -2)))


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
