"""What has to be true of sun, path and counters before anything moves. Pure: values in, BadInput or nothing out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melter.errors import BadInput
from melter.geometry.holding import sun_is_held
from melter.geometry.paths import SandPath
from melter.geometry.shape import MachineShape
from melter.loop.lastknown import LastKnown
from melter.machine import Machine
from melter.safety.gate import PARKED_M
from melter.safety.kinematics import Kinematics

Array = NDArray[np.float64]

POINTS = 24
"""Of a long path, that holding is worked out for."""
HORIZON_RAD = np.radians(90.0)
AGREE_M = 0.003
"""Counters this near to what was last known are the same; while moving, they went on for a moment longer."""
WENT_ON_M = 0.080
"""How far a winch may have gone on after the last known state was written: half a second at full speed, and braking."""
SPOT_AGREES_M = 0.060
"""A patch this near to where the cable lengths put it confirms them."""


def require_path_inside(path: SandPath, machine: Machine, name: str) -> None:
    """Raise BadInput unless the whole path lies on the bed's working area."""
    half_x, half_y = machine.bed.size_m[0] / 2, machine.bed.size_m[1] / 2
    for x, y in path.points_world_m:
        if abs(x) > half_x or abs(y) > half_y:
            size = f"{machine.bed.size_m[0]} x {machine.bed.size_m[1]} m"
            raise BadInput(f"--path {name}: point ({x:.3f}, {y:.3f}) m lies outside the bed of {size}")


def require_sun(machine: Machine, path: SandPath, sun_rad: tuple[float, float], when: str = "") -> None:
    """Raise BadInput unless the lens, facing this sun, can be held at every corner of the path with tensions in the band."""
    zenith_deg, azimuth_deg = np.degrees(sun_rad)
    where = f"sun at zenith {zenith_deg:.1f} deg, azimuth {azimuth_deg:.1f} deg{when}"
    if sun_rad[0] >= HORIZON_RAD:
        raise BadInput(f"{where}: it is below the horizon; zenith must be below 90 deg")
    if not _held(machine, path, np.array([sun_rad[0]]), sun_rad[1])[0]:
        highest = highest_zenith_deg(machine, path, sun_rad[1])
        allowed = "for no sun on this azimuth" if highest is None else f"up to zenith {highest} deg on this azimuth"
        low, high = machine.tension_band_n
        raise BadInput(
            f"{where}: the cables cannot hold the lens over the path within {low:g} to {high:g} N; this machine can {allowed}"
        )


def highest_zenith_deg(machine: Machine, path: SandPath, azimuth_rad: float) -> int | None:
    """Return the zenith angle (whole degrees) up to which the lens is held over the path; None: not even at 0."""
    held = _held(machine, path, np.radians(np.arange(90.0)), azimuth_rad)
    count = int(np.argmin(np.append(held, False)))
    return count - 1 if count else None


def _held(machine: Machine, path: SandPath, zenith_rad: Array, azimuth_rad: float) -> NDArray[np.bool_]:
    """(n,) whether the lens is held over all corners of the path, no wind, for suns at these zenith angles (n,)."""
    points = path.points_world_m
    points = points[np.unique(np.linspace(0, len(points) - 1, POINTS).astype(int))] if len(points) > POINTS else points
    shape = MachineShape.from_machine(machine)
    held: NDArray[np.bool_] = np.atleast_2d(sun_is_held(shape, zenith_rad[:, None], azimuth_rad, points[None]))
    return np.logical_and.reduce(held, axis=1)


@dataclass(frozen=True, eq=False)
class Whereabouts:
    """Where the winches stand, by the board's counters and what was last known."""

    positions_m: Array
    """(8,) cable paid out since park, the best that is known."""
    offset_m: Array
    """(8,) to add to the board's counters: not zero where they have lost their place."""
    remark: str
    parked: bool


def whereabouts(positions_m: Array, known: LastKnown | None) -> Whereabouts:
    """Compare the board's counters (8,) with what was last known of the machine."""
    zero = np.zeros_like(positions_m)
    at_park = bool((np.abs(positions_m) <= PARKED_M).all())
    if known is None:
        return Whereabouts(positions_m, zero, "no last known state: the counters are taken as they are", at_park)
    last = np.array(known.positions_m)
    apart = float(np.abs(positions_m - last).max())
    tolerance = WENT_ON_M if known.moving else AGREE_M
    if apart <= tolerance or (known.parked and at_park):
        return Whereabouts(positions_m, zero, f"counters agree with {known.wall_time} to {1e3 * apart:.1f} mm", at_park)
    if at_park:
        remark = f"the counters are zero, but at {known.wall_time} the lens was away from park ({known.state}): the board has restarted"
        return Whereabouts(last, last - positions_m, remark, parked=False)
    remark = f"the counters differ from {known.wall_time} by up to {1e3 * apart:.0f} mm; they are taken as they are"
    return Whereabouts(positions_m, zero, remark, at_park)


def spot_of_lengths_m(machine: Machine, lengths_m: Array, sun_world: Array) -> Array | None:
    """Return the (2,) place on the sand where (8,) cable lengths put the light, world x and y; None where they fit no pose."""
    kinematics = Kinematics(machine)
    found = kinematics.forward(lengths_m, kinematics.park)
    if found is None:
        return None
    centre = found[0].centre_world_m
    return np.asarray((centre - sun_world * (centre[2] - machine.sand.height_m) / sun_world[2])[:2])
