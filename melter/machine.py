"""The machine file as frozen, range-checked values.

One TOML file describes one machine: frame, lens, winches, limits, bed, sun. Everything else in melter
(the simulation, the gate, the tracker, the firmware settings) takes its numbers from here and has none of
its own. Lengths in metres, angles in degrees where a person writes them (``*_deg``) with radian properties
beside them. Frames: see ``docs/frames.md``.
"""

from __future__ import annotations

import hashlib
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from melter.errors import MachineFileError
from melter.machine_limits import KEEP_IN_MARGIN_M, LIMITS
from melter.machine_rules import AXES as AXES
from melter.machine_rules import GEOMETRY, require
from melter.machine_words import explain

WINCH_COUNT = 8

Coordinate2 = tuple[Annotated[float, Field(ge=-50, le=50)], Annotated[float, Field(ge=-50, le=50)]]
Coordinate3 = tuple[
    Annotated[float, Field(ge=-50, le=50)],
    Annotated[float, Field(ge=-50, le=50)],
    Annotated[float, Field(ge=-50, le=50)],
]
Pixels = Annotated[int, Field(ge=32, le=20_000)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Frame(_Part):
    """The poles that carry the pulleys."""

    height_m: float = Field(gt=0.1, le=20)
    """Top of the poles above the sand."""
    poles_world_m: tuple[Coordinate2, ...] = Field(min_length=3, max_length=16)
    """Foot of each pole, world x and y, in order around the bed."""
    pole_flex_m_per_n: float = Field(default=0.0, ge=0, le=1e-3)
    """How far a pole's top gives way per newton of cable tension."""


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
    pulley_loss: float = Field(default=0.03, ge=0, le=0.5)
    """Share of a cable's tension that a pulley holds back before cable passes."""
    pulley_friction_n: float = Field(default=1.0, ge=0, le=50)
    """Tension that it holds back in any case."""
    pulley_radius_m: float = Field(default=0.025, ge=0, le=0.5)
    """Cable centre to pulley centre; ``pulley_world_m`` is where the cable leaves the pulley."""
    cable_diameter_m: float = Field(default=0.002, gt=0, le=0.05)
    """Of one cable: the pitch of turns side by side, and of layers, on the drum."""
    drum_width_m: float = Field(default=0.030, gt=0, le=2)
    """Room for turns side by side on the drum; what does not fit winds up in the next layer."""
    drum_below_pulley_m: float = Field(default=0.3, ge=0, le=20)
    """Cable between a drum and a pulley at the foot of its pole; to a higher one, its height more."""
    backlash_m: float = Field(default=0.0, ge=0, le=0.02)
    """Cable that a winch's gears lose when the tension goes."""
    cable_creep: float = Field(default=0.0, ge=0, le=0.05)
    """Strain that 100 N add in the long run."""


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
    power_total_max_w: float | None = Field(default=None, gt=0, le=100_000)
    """Mechanical, all winches together, as far as their supply goes; without it, the sum of what each may have."""
    cable_length_min_m: float = Field(ge=0, le=50)
    """Pulley to attachment, shortest."""
    cable_length_max_m: float = Field(gt=0, le=50)
    """Pulley to attachment, longest."""
    dwell_max_s: float = Field(default=120.0, gt=0, le=86_400)
    """Longest that light which melts may stay on one place (20 mm) without a break."""
    dose_max_j_m2: float = Field(default=4e8, gt=0, le=1e13)
    """Most radiant energy on one place, forgotten as the sand cools (time constant ten minutes)."""
    focus_height_max_m: float = Field(default=0.06, gt=0, le=20)
    """Highest above the sand that a focus may form; above, it counts as a focus in the air."""
    stray_max_w_m2: float = Field(default=50e3, gt=0, le=1e8)
    """Most light on a cable or on the frame, as long as nobody knows better what they bear."""

    @property
    def power_total_w(self) -> float:
        """Mechanical, all winches together."""
        return WINCH_COUNT * self.power_max_w if self.power_total_max_w is None else self.power_total_max_w

    @model_validator(mode="after")
    def _ordered(self) -> Limits:
        for low, high, strictly in (
            ("tension_min_n", "tension_max_n", True),
            ("tension_max_n", "tension_trip_n", False),
            ("speed_normal_m_s", "speed_max_m_s", False),
            ("cable_length_min_m", "cable_length_max_m", True),
        ):
            below, above = float(getattr(self, low)), float(getattr(self, high))
            require(
                below < above or (below == above and not strictly),
                f"{low} = {below:g}: must be {'below' if strictly else 'at most'} {high} = {above:g}",
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

    dictionary: str = Field(pattern=r"^DICT_[A-Za-z0-9_]+$")
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
        half_x, half_y = self.size_m[0] / 2 + KEEP_IN_MARGIN_M, self.size_m[1] / 2 + KEEP_IN_MARGIN_M
        return np.array([(-half_x, -half_y), (half_x, -half_y), (half_x, half_y), (-half_x, half_y)])


class Park(_Part):
    """Where a run starts and ends: lens level, light spread, counters zero."""

    lens_centre_world_m: Coordinate3


class Camera(_Part):
    """Where the webcam stands, as well as its owner knows; the twin films from about here."""

    position_world_m: Coordinate3
    look_at_world_m: Coordinate3 = (0.0, 0.0, 0.0)
    horizontal_fov_deg: float = Field(gt=5, le=150)
    image_size_px: tuple[Pixels, Pixels] = (1280, 720)
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
        for rule in (*GEOMETRY, *LIMITS):
            rule(self)
        return self

    @property
    def drum_side_m(self) -> NDArray[np.float64]:
        """(8,) metres of cable between each drum, at the foot of its pole, and its pulley."""
        return np.maximum(self.pulleys_world_m[:, 2], 0.0) + self.drive.drum_below_pulley_m

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
        return Machine.model_validate(_fixed(table))
    except ValidationError as error:
        raise MachineFileError(f"machine file {name}: {explain(error, Machine)}") from None


def packaged_machines() -> list[str]:
    """Return the names of the machine files that come with melter."""
    return sorted(p.stem for p in _models_folder().iterdir() if p.suffix == ".toml")


def packaged_path(name: str) -> Path:
    """Return where a file that comes with melter lies, such as ``pose-corner8.onnx``; it need not exist."""
    return _models_folder() / name


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


def _fixed(value: Any) -> Any:
    """Lists of a table as tuples, all the way down: what frozen values are made of."""
    if isinstance(value, dict):
        return {key: _fixed(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return tuple(_fixed(item) for item in cast("list[Any]", value))
    return value
