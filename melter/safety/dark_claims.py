"""What the drills say of going dark, as claims."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from melter.geometry.light import LensOptics, fast_patch, peak_irradiance_w_m2
from melter.geometry.pose import sun_direction_world
from melter.machine import Machine
from melter.safety.claims import Claim
from melter.safety.drill import COOL_ABOVE_S, COOL_WITHIN_S, SAFE_W_M2, DarkDrill, Drill

Flags = NDArray[np.bool_]


def kinematic_claims(drill: Drill) -> list[Claim]:
    """Return the claims of the drill that moves lens and light exactly as the cables say."""
    claims: list[Claim] = []
    for name, times, allowed in (
        ("going dark: below melting", drill.melting_s, COOL_WITHIN_S),
        ("going dark: below 10 kW/m²", drill.bright_s, COOL_ABOVE_S),
    ):
        worst = float(times.max())
        how = f"kinematic drill from {drill.starts} states (corners of the bed, states visited); proven for these"
        good = worst <= allowed and not drill.outside.any() and not drill.lost.any()
        claims.append(Claim(name, "layer", "proven" if good else "falsified", worst, allowed, "s", how))
    return claims


def park_claim(machine: Machine) -> Claim:
    """Return how bright the sand is under a parked lens, and from which sun on that is too much."""
    pose = np.array(machine.park.lens_centre_world_m), np.eye(3)
    zeniths = np.radians(np.append(np.arange(0.0, 38.0, 0.5), machine.sun.zenith_deg))
    suns = sun_direction_world(zeniths, np.full(zeniths.shape, machine.sun.azimuth_rad))
    optics = LensOptics.from_machine(machine)
    peaks = peak_irradiance_w_m2(optics, fast_patch(optics, *pose, suns, machine.sand.height_m), machine.sun.dni_w_m2)
    over = np.flatnonzero(~(peaks[:-1] < SAFE_W_M2))
    until = f"up to a zenith of {np.degrees(zeniths[over[0] - 1]):.1f}°" if len(over) else "up to 37.5°"
    here = float(peaks[-1])
    status = "proven" if here < SAFE_W_M2 else "falsified"
    how = f"light model, lens level at park under the machine file's sun and DNI; stays below {until}"
    return Claim("parked: light on the sand", "layer", status, here, SAFE_W_M2, "W/m²", how, required=False)


def dynamic_claims(drill: DarkDrill) -> list[Claim]:
    """Return the claims of the drill in the randomised simulator, faults excused by physics in a line of their own."""
    able = drill.held & (drill.excused == "")
    blocked = drill.held & (drill.excused != "")
    names = ", ".join(f"{number} {name}" for name, number in sorted(Counter(drill.fault[drill.held].tolist()).items()))
    how = f"{int(drill.held.sum())} machines of the randomised simulator at work, one fault each ({names}); "
    how += f"from the beginning of the way, {drill.reported_s:g} s after the fault"
    claims = [
        _claim("going dark with dynamics: below melting", able, drill.melting_s, COOL_WITHIN_S, how, required=True),
        _claim("going dark with dynamics: below 10 kW/m²", able, drill.bright_s, COOL_ABOVE_S, how, required=False),
        _outside(drill),
    ]
    for excuse in sorted(set(drill.excused[blocked].tolist())):
        there = blocked & (drill.excused == excuse)
        late = int(((drill.bright_s > COOL_ABOVE_S) | (drill.melting_s > COOL_WITHIN_S))[there].sum())
        why = f"{excuse}; {late} of {int(there.sum())} stay brighter than they should, "
        why += f"{int((drill.melting_s > COOL_WITHIN_S)[there].sum())} of them melting"
        name = f"going dark after a {drill.fault[there][0]}"
        status = "falsified" if late else "not proven"
        claims.append(Claim(name, "behind the layer", status, None, 0.0, "machines", why, float(late), required=False))
    return claims


def _claim(name: str, able: Flags, times: NDArray[np.float64], allowed: float, how: str, *, required: bool) -> Claim:
    times = times[able] if able.any() else np.zeros(1)
    late = int((times > allowed).sum())
    how += f"; median {np.median(times):.2f} s, {late} of {int(able.sum())} too late"
    status = "falsified" if late else "not proven"
    worst = float(times.max())
    return Claim(name, "behind the layer", status, None, allowed, "s", how, worst, required=required)


def _outside(drill: DarkDrill) -> Claim:
    count = int((drill.outside & drill.held).sum())
    return Claim(
        "going dark with dynamics: melting light on the bed",
        "behind the layer",
        "falsified" if count else "not proven",
        None,
        0.0,
        "machines",
        f"of {int(drill.held.sum())}, all faults, whose spot left the keep-in polygon while it could melt",
        float(count),
    )
