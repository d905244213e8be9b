"""The machine file as frozen, range-checked values.

One TOML file describes one machine: frame, lens, winches, limits, bed, sun. Everything else in melter
(the simulation, the gate, the tracker, the firmware settings) takes its numbers from here and has none of
its own. Lengths in metres, angles in degrees where a person writes them (``*_deg``) with radian properties
beside them. Frames: see ``docs/frames.md``.
"""

from __future__ import annotations

import difflib
import hashlib
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from melter.errors import MachineFileError

WINCH_COUNT = 8
AXES = ("X", "Y", "Z", "A", "B", "C", "U", "V")

Coordinate2 = tuple[Annotated[float, Field(ge=-50, le=50)], Annotated[float, Field(ge=-50, le=50)]]
Coordinate3 = tuple[
    Annotated[float, Field(ge=-50, le=50)],
    Annotated[float, Field(ge=-50, le=50)],
    Annotated[float, Field(ge=-50, le=50)],
]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Frame(_Part):
    """The poles that carry the pulleys."""

    height_m: float = Field(gt=0.1, le=20)
    """Top of the poles above the sand."""
    poles_world_m: tuple[Coordinate2, ...] = Field(min_length=3, max_length=16)
    """Foot of each pole, world x and y, in order around the bed."""


class Lens(_Part):
    """A flat Fresnel lens, its optical axis is lens +z, towards the sun."""

    short_edge_m: float = Field(gt=0.05, le=5)
    """Edge along lens x."""
    long_edge_m: float = Field(gt=0.05, le=5)
    """Edge along lens y."""
    focal_length_m: float = Field(gt=0.1, le=10)
    """Distance from lens centre to best focus, lens facing the sun."""
    transmission: float = Field(gt=0.05, le=1)
    """Share of the aperture's power that arrives in the patch."""
    facet_error_mrad: float = Field(ge=0, le=50)
    """RMS slope error of the facets, each axis; light is deflected by (refractive index - 1) times as much."""
    moving_mass_kg: float = Field(gt=0.1, le=200)
    """Lens, frame and struts together."""
    centre_of_mass_lens_m: Coordinate3 = (0.0, 0.0, 0.0)
    """Of the moving mass, lens frame."""


class Winch(_Part):
    """One winch: its controller axis, its last pulley and where its cable holds the lens."""

    name: str = Field(min_length=1, max_length=40)
    axis: Literal["X", "Y", "Z", "A", "B", "C", "U", "V"]
    pulley_world_m: Coordinate3
    """Where the cable leaves the last pulley, world frame."""
    attachment_lens_m: Coordinate3
    """Where the cable is tied to the lens frame, lens frame."""


class Drive(_Part):
    """What is common to all winches and cables."""

    cable_stiffness_n: float = Field(ge=1e3, le=1e6)
    """EA: tension per unit strain."""
    cable_damping_ratio: float = Field(ge=0.001, le=0.5)
    drum_radius_m: float = Field(gt=0.002, le=0.5)
    """Shaft centre to cable centre."""
    steps_per_mm: float = Field(gt=0.1, le=10_000)
    """Motor steps per millimetre of cable, as the controller's $100-107."""
    motor_lag_s: float = Field(ge=0, le=1)
    """First-order lag from commanded to real cable speed."""


class Limits(_Part):
    """What the safety layer keeps. It has no other source of limits."""

    tension_min_n: float = Field(ge=0, le=10_000)
    tension_max_n: float = Field(gt=0, le=10_000)
    tension_trip_n: float = Field(gt=0, le=20_000)
    speed_normal_m_s: float = Field(gt=0, le=2)
    """Cable speed that action 1 means."""
    speed_max_m_s: float = Field(gt=0, le=2)
    """Never above this, the way to dark included."""
    acceleration_max_m_s2: float = Field(gt=0, le=50)
    power_max_w: float = Field(gt=0, le=10_000)
    """Mechanical, each winch."""
    cable_length_min_m: float = Field(ge=0, le=50)
    """Pulley to attachment, shortest."""
    cable_length_max_m: float = Field(gt=0, le=50)
    """Pulley to attachment, longest."""

    @model_validator(mode="after")
    def _ordered(self) -> Limits:
        _require(self.tension_min_n < self.tension_max_n, "tension_min_n must be below tension_max_n")
        _require(self.tension_max_n <= self.tension_trip_n, "tension_trip_n must be at least tension_max_n")
        _require(self.speed_normal_m_s <= self.speed_max_m_s, "speed_normal_m_s must not exceed speed_max_m_s")
        _require(
            self.cable_length_min_m < self.cable_length_max_m, "cable_length_min_m must be below cable_length_max_m"
        )
        return self


class Control(_Part):
    """The control loop's clock and its known delays."""

    rate_hz: float = Field(ge=1, le=200)
    action_delay_s: float = Field(ge=0, le=1)
    """From a command being decided to the winch acting on it."""
    camera_delay_s: float = Field(ge=0, le=1)
    """From light to measurement."""

    @property
    def period_s(self) -> float:
        """Control period."""
        return 1.0 / self.rate_hz


class Sun(_Part):
    """The sun this machine works under when nothing else says where it is."""

    zenith_deg: float = Field(ge=0, le=75)
    azimuth_deg: float = Field(ge=0, le=360)
    """Clockwise from north."""
    dni_w_m2: float = Field(ge=0, le=1400)
    """Direct normal irradiance."""
    circumsolar_ratio: float = Field(ge=0, le=0.8)

    @property
    def zenith_rad(self) -> float:
        """Angle from world +z."""
        return float(np.radians(self.zenith_deg))

    @property
    def azimuth_rad(self) -> float:
        """Clockwise from north (world +y) towards east (world +x)."""
        return float(np.radians(self.azimuth_deg))


class Wind(_Part):
    """Design wind."""

    mean_m_s: float = Field(ge=0, le=30)
    turbulence: float = Field(ge=0, le=1)
    """Standard deviation over mean."""
    stop_m_s: float = Field(gt=0, le=30)
    """Work stops above this mean."""


class Sand(_Part):
    """What is melted."""

    height_m: float = Field(default=0.0, ge=-1, le=1)
    """Of the sand surface, world z."""
    absorptivity: float = Field(gt=0, le=1)
    melting_k: float = Field(gt=300, le=4000)


class Marker(_Part):
    """One ArUco marker lying flat on the bed's level."""

    dictionary: str = Field(pattern=r"^DICT_[A-Z0-9_]+$")
    """OpenCV's name, such as DICT_4X4_50."""
    id: int = Field(ge=0, le=9999)
    size_m: float = Field(gt=0.005, le=2)
    """Outer edge of the black square."""
    centre_m: Coordinate2
    """World x and y."""
    yaw_rad: float = Field(default=0.0, ge=-7, le=7)
    """Of the marker's own x axis, from world x, counterclockwise."""


class Bed(_Part):
    """The working area, centred on the world origin."""

    size_m: tuple[Annotated[float, Field(gt=0, le=50)], Annotated[float, Field(gt=0, le=50)]]
    """Extent along world x and y."""
    keep_in_world_m: tuple[Coordinate2, ...] | None = Field(default=None, min_length=3)
    """Polygon that no focus may leave; without it, the working area and a margin of 50 mm."""
    marker: tuple[Marker, ...] = ()

    @property
    def keep_in_polygon_world_m(self) -> NDArray[np.float64]:
        """(n, 2) corners of the keep-in polygon, world x and y, metres."""
        if self.keep_in_world_m is not None:
            return np.array(self.keep_in_world_m)
        half_x, half_y = self.size_m[0] / 2 + 0.05, self.size_m[1] / 2 + 0.05
        return np.array([(-half_x, -half_y), (half_x, -half_y), (half_x, half_y), (-half_x, half_y)])


class Park(_Part):
    """Where a run starts and ends: lens level, light spread, counters zero."""

    lens_centre_world_m: Coordinate3


class Camera(_Part):
    """Where the webcam stands, as well as its owner knows; the twin films from about here."""

    position_world_m: Coordinate3
    look_at_world_m: Coordinate3 = (0.0, 0.0, 0.0)
    horizontal_fov_deg: float = Field(gt=5, le=150)
    image_size_px: tuple[int, int] = (1280, 720)
    rate_hz: float = Field(default=30.0, gt=0.5, le=500)


class Machine(_Part):
    """A whole machine. Build one with :func:`load_machine`."""

    name: str = Field(min_length=1, max_length=60, pattern=r"^[A-Za-z0-9_.-]+$")
    description: str = ""
    frame: Frame
    lens: Lens
    winch: tuple[Winch, ...] = Field(min_length=WINCH_COUNT, max_length=WINCH_COUNT)
    drive: Drive
    limits: Limits
    control: Control
    sun: Sun
    wind: Wind
    sand: Sand
    bed: Bed
    park: Park
    camera: Camera

    @model_validator(mode="after")
    def _possible(self) -> Machine:
        _require_winches(self)
        _require_geometry(self)
        return self

    @property
    def pulleys_world_m(self) -> NDArray[np.float64]:
        """(8, 3) pulley exits, world frame, metres, winch order."""
        return np.array([winch.pulley_world_m for winch in self.winch])

    @property
    def attachments_lens_m(self) -> NDArray[np.float64]:
        """(8, 3) cable attachments, lens frame, metres, winch order."""
        return np.array([winch.attachment_lens_m for winch in self.winch])

    @property
    def tension_band_n(self) -> tuple[float, float]:
        """Lowest and highest tension to keep."""
        return self.limits.tension_min_n, self.limits.tension_max_n

    @property
    def sha256(self) -> str:
        """Fingerprint of every value of this machine, in hexadecimal."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def load_machine(source: str | Path | None = None) -> Machine:
    """Return the machine of a TOML file, or of a packaged name such as ``corner8`` (the default).

    Raises MachineFileError, on one line, with the key's path, its value and what is allowed.
    """
    name = str(source) if source is not None else "corner8"
    text = _read(name)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MachineFileError(f"machine file {name}: not TOML: {error}") from None
    return machine_from_table(table, name)


def machine_from_table(table: dict[str, Any], name: str = "machine") -> Machine:
    """Return the machine of a parsed TOML table; ``name`` is used in error messages.

    Raises MachineFileError like :func:`load_machine`.
    """
    try:
        return Machine.model_validate(table)
    except ValidationError as error:
        raise MachineFileError(f"machine file {name}: {_explain(error)}") from None


def packaged_machines() -> list[str]:
    """Return the names of the machine files that come with melter."""
    return sorted(p.stem for p in _models_folder().iterdir() if p.suffix == ".toml")


def _models_folder() -> Path:
    """The packaged ``models/``: beside this module in a wheel, beside the package in a checkout."""
    inside = Path(str(resources.files("melter"))) / "models"
    return inside if inside.is_dir() else inside.parent.parent / "models"


def _read(name: str) -> str:
    path = Path(name)
    if not path.exists() and path.suffix == "" and path.name == name:
        path = _models_folder() / f"{name}.toml"
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = ", ".join(packaged_machines())
        raise MachineFileError(f"machine file {name}: no such file; packaged machines: {known}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise MachineFileError(f"machine file {name}: cannot be read: {reason}") from None


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_winches(machine: Machine) -> None:
    names = [winch.name for winch in machine.winch]
    axes = tuple(winch.axis for winch in machine.winch)
    _require(len(set(names)) == WINCH_COUNT, f"winch.name: {names} has duplicates")
    _require(axes == AXES, f"winch.axis: {axes}, must be {AXES} in this order")


def _require_geometry(machine: Machine) -> None:
    """Refuse what no such machine can be: pulleys above the frame, a lens outside it, a buried focus."""
    height_m = machine.frame.height_m
    poles = np.array(machine.frame.poles_world_m)
    for winch in machine.winch:
        z = winch.pulley_world_m[2]
        _require(z <= height_m + 0.5, f"winch {winch.name}: pulley_world_m z = {z} m is above the frame ({height_m} m)")
    x, y, z = machine.park.lens_centre_world_m
    low, high = poles.min(axis=0), poles.max(axis=0)
    inside = low[0] < x < high[0] and low[1] < y < high[1] and machine.sand.height_m < z < height_m
    _require(inside, f"park.lens_centre_world_m = {[x, y, z]}: the lens is outside its frame")
    lengths = np.linalg.norm(machine.pulleys_world_m - machine.attachments_lens_m - np.array([x, y, z]), axis=1)
    limits = machine.limits
    for winch, length_m in zip(machine.winch, lengths, strict=True):
        _require(
            limits.cable_length_min_m < length_m < limits.cable_length_max_m,
            f"winch {winch.name}: {length_m:.3f} m of cable at park, must lie between "
            f"limits.cable_length_min_m = {limits.cable_length_min_m} and cable_length_max_m = {limits.cable_length_max_m}",
        )
    work_height_m = machine.lens.focal_length_m * np.cos(machine.sun.zenith_rad) + machine.sand.height_m
    _require(
        z < work_height_m,
        f"park.lens_centre_world_m z = {z} m: not below the work height {work_height_m:.3f} m, where the light is in focus",
    )
    _require(
        work_height_m < height_m,
        f"frame.height_m = {height_m}: below the lens at work ({work_height_m:.3f} m); its focus would lie under the sand",
    )


def _explain(error: ValidationError) -> str:
    """One line for the first thing that is wrong, with the key's path and what is allowed."""
    errors = error.errors()
    first = errors[0]
    path = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    kind, message = first["type"], first["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return f"{path}: unknown key{_nearest(first['loc'])}{more}"
    if kind == "missing":
        return f"{path}: missing{more}"
    value = first["input"]
    shown = f" = {value!r}" if isinstance(value, int | float | str | bool) else ""
    return f"{path}{shown}: {message}{more}" if path else f"{message}{more}"


def _nearest(location: tuple[int | str, ...]) -> str:
    """A hint at the key that was probably meant, its unit included."""
    model: Any = Machine
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        model = next(_models_in(model.model_fields[part].annotation), None)
        if model is None:
            return ""
    name = str(location[-1])
    fields = cast("list[str]", list(model.model_fields))
    with_unit = [field for field in fields if field.startswith(f"{name}_")]
    close = with_unit or difflib.get_close_matches(name, fields, n=1)
    if with_unit:
        return f"; a unit is missing: {close[0]}"
    return f"; did you mean {close[0]}?" if close else ""


def _models_in(annotation: Any) -> Iterator[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)
