"""What ``melter real`` makes sure of before anything moves, and what it tells the person who arms the machine."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melter.cli.common import require_in, say
from melter.errors import BadInput, CommandRefused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from melter.geometry.paths import SandPath
    from melter.machine import Machine


@dataclass(frozen=True)
class Sky:
    """Where the sun stands at the start, and how it goes on."""

    sun_rad: tuple[float, float]
    """Zenith, azimuth."""
    latitude_rad: float | None
    """None: not known; the light tells how the sun moves."""


def sky_of(sun: str | None, place: str | None, machine: Machine) -> Sky:
    """Return the sky that ``--sun`` and ``--place`` ask for. Raises BadInput."""
    where = None if place is None else _pair("--place", place, "LATITUDE,LONGITUDE in degrees")
    if where is not None:
        require_in("--place latitude", where[0], -90, 90, " deg")
        require_in("--place longitude", where[1], -180, 180, " deg")
    latitude_rad = None if where is None else math.radians(where[0])
    if sun is None:
        return Sky((machine.sun.zenith_rad, machine.sun.azimuth_rad), latitude_rad)
    if sun.strip().lower() == "now":
        from melter.geometry.sun import sun_position_rad

        if where is None:
            raise BadInput("--sun now: needs --place LATITUDE,LONGITUDE")
        return Sky(sun_position_rad(*where, datetime.now(UTC)), latitude_rad)
    zenith, azimuth = _pair("--sun", sun, "ZENITH,AZIMUTH in degrees, or now")
    require_in("--sun zenith", zenith, 0, 90, " deg")
    require_in("--sun azimuth", azimuth, 0, 360, " deg")
    return Sky((math.radians(zenith), math.radians(azimuth)), latitude_rad)


def require_sky(machine: Machine, path: SandPath, sky: Sky, minutes: float | None) -> None:
    """Raise BadInput unless the machine can hold its lens over the path for the sun at the start, and at the end of the run."""
    from melter.loop.preflight import require_sun
    from melter.loop.sun import Sun
    from melter.observation import ObservationBuilder

    require_sun(machine, path, sky.sun_rad)
    if sky.latitude_rad is not None:
        run_s = path.duration_s if minutes is None else min(path.duration_s, 60 * minutes)
        later = Sun(ObservationBuilder(machine), sky.sun_rad, sky.latitude_rad).angles_rad(run_s + 60.0)
        require_sun(machine, path, later, f" at the end of the run, {run_s / 60:.0f} min from now")


def told(machine: Machine, sky: Sky) -> str:
    """Return what the person who arms has to know of sun and beam."""
    zenith, azimuth = (math.degrees(value) for value in sky.sun_rad)
    moves = (
        "taken to move as anywhere on earth until the light tells (give --place)"
        if sky.latitude_rad is None
        else "followed as the sky turns"
    )
    corners = " ".join(f"({x:.2f}, {y:.2f})" for x, y in machine.bed.keep_in_polygon_world_m.tolist())
    return f"sun at zenith {zenith:.1f} deg, azimuth {azimuth:.1f} deg, {moves}; the beam stays inside {corners} m"


def require_parked(positions_m: NDArray[np.float64], machine: Machine, port: str) -> None:
    """Raise BadInput unless the counters say park, and what was last known does not say otherwise."""
    import numpy as np

    from melter.loop.lastknown import place_for, read_last_known
    from melter.loop.preflight import whereabouts

    file = place_for(machine, port)
    found = whereabouts(positions_m, read_last_known(file, machine))
    if found.parked:
        return
    worst = int(np.abs(found.positions_m).argmax())
    stands = f"{machine.winch[worst].name} stands {found.positions_m[worst] * 1e3:+.1f} mm from park"
    lost = bool(found.offset_m.any())
    clear = f"; if the lens is at park, remove {file}" if lost else " or by hand (melter hw jog)"
    raise BadInput(f"controller: {stands}; {found.remark}; bring the lens to park: melter real --recover{clear}")


def wait_for_key() -> None:
    """Return once a person has pressed Enter alone; raise CommandRefused for anything else."""
    sys.stderr.write("Nobody near the beam, eyes protected? Enter arms the machine, anything else ends: ")
    sys.stderr.flush()
    if sys.stdin.readline() != "\n":
        raise CommandRefused("not armed")


def write_pictures(folder: Path, image: Any, tracker: Any, machine: Machine, path: SandPath) -> None:
    """Write the reference frame, and the same with the keep-in polygon and the path drawn in."""
    from melter.vision.preflight import draw_preflight, write_picture

    write_picture(folder / "reference.png", image)
    if tracker.view is not None:
        keep_in = machine.bed.keep_in_polygon_world_m
        write_picture(folder / "preflight.png", draw_preflight(image, tracker.view, keep_in, path.points_world_m))
        say(f"picture with beam limits and path: {folder / 'preflight.png'}")


def _pair(name: str, text: str, what: str) -> tuple[float, float]:
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        raise BadInput(f"{name} {text}: must be {what}") from None
    return first, second
