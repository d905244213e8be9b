"""What the drills say of going dark, as claims."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from melter.safety.claims import Claim
from melter.safety.drill import COOL_ABOVE_S, COOL_WITHIN_S, DarkDrill, Drill

Flags = NDArray[np.bool_]
_ROUNDED_S = 1e-9
"""Sums of control periods are no exact decimals."""


def kinematic_claims(drill: Drill) -> list[Claim]:
    """Return the claims of the drill that moves lens and light exactly as the cables say."""
    claims: list[Claim] = []
    for name, times, allowed in (
        ("going dark: below melting", drill.melting_s, COOL_WITHIN_S),
        ("going dark: below 10 kW/m²", drill.bright_s, COOL_ABOVE_S),
    ):
        worst = float(times.max())
        how = f"kinematic drill with the simulation's light from {drill.starts} states (corners of the bed, states "
        how += "visited); proven for these"
        good = worst <= allowed and not drill.outside.any() and not drill.lost.any()
        claims.append(Claim(name, "layer", "proven" if good else "falsified", worst, allowed, "s", how))
    return claims


def dynamic_claims(drill: DarkDrill) -> list[Claim]:
    """Return the claims of the drill in the randomised simulator, faults excused by physics in a line of their own."""
    able = drill.held & (drill.excused == "")
    blocked = drill.held & (drill.excused != "")
    names = ", ".join(f"{number} {name}" for name, number in sorted(Counter(drill.fault[drill.held].tolist()).items()))
    how = f"{int(drill.held.sum())} machines of the randomised simulator at work, one fault each ({names}); "
    late = f"{drill.reported_s:g} s for its detection included; "
    how_way = how + f"from the beginning of the way, {drill.reported_s:g} s after the fault"
    melting_s, bright_s = drill.since_fault(drill.melting_s), drill.since_fault(drill.bright_s)
    claims = [
        _claim("going dark with dynamics: below melting", able, drill.melting_s, COOL_WITHIN_S, how_way, required=True),
        _claim("from the fault on: below melting", able, melting_s, COOL_WITHIN_S, how + late, required=False),
        _claim("from the fault on: below 10 kW/m²", able, bright_s, COOL_ABOVE_S, how + late, required=False),
        _outside(drill),
    ]
    for excuse in sorted(set(drill.excused[blocked].tolist())):
        there = blocked & (drill.excused == excuse)
        slow = (bright_s > COOL_ABOVE_S + _ROUNDED_S) | (melting_s > COOL_WITHIN_S + _ROUNDED_S)
        count = int(slow[there].sum())
        why = f"{excuse}; {count} of {int(there.sum())} stay brighter than they should, "
        why += f"{int((melting_s > COOL_WITHIN_S + _ROUNDED_S)[there].sum())} of them melting{_from_where(drill, there & slow)}"
        title = f"going dark after a {drill.fault[there][0]}"
        status = "falsified" if count else "not proven"
        claims.append(
            Claim(title, "behind the layer", status, None, 0.0, "machines", why, float(count), required=False)
        )
    return claims


def _claim(name: str, able: Flags, times: NDArray[np.float64], allowed: float, how: str, *, required: bool) -> Claim:
    times = times[able] if able.any() else np.zeros(1)
    late = int((times > allowed + _ROUNDED_S).sum())
    how = how.removesuffix("; ") + f"; median {np.median(times):.2f} s, {late} of {int(able.sum())} too late"
    status = "falsified" if late else "not proven"
    worst = float(times.max())
    return Claim(name, "behind the layer", status, None, allowed, "s", how, worst, required=required)


def _from_where(drill: DarkDrill, rows: Flags) -> str:
    """Under which suns and after the faults of which winches."""
    if not rows.any():
        return ""
    zeniths = np.degrees(drill.zenith_rad[rows])
    return f"; zenith {zeniths.min():.0f}° to {zeniths.max():.0f}°"


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
