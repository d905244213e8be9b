"""How bright it is under the parked lens: by the ray trace, sun by sun, and what would help."""

from __future__ import annotations

import numpy as np
import pytest

from melter.geometry.light import LensOptics, fast_patch, peak_irradiance_w_m2
from melter.geometry.pose import rotation_facing, sun_direction_world
from melter.machine import Machine, load_machine
from melter.safety.park import ParkLight, _peak_w_m2, park_claims, park_light

MACHINE = load_machine()


def under(zenith_deg: float, height_m: float = 0.70) -> Machine:
    sun = MACHINE.sun.model_copy(update={"zenith_deg": zenith_deg})
    park = MACHINE.park.model_copy(update={"lens_centre_world_m": (0.0, 0.0, height_m)})
    return MACHINE.model_copy(update={"sun": sun, "park": park})


def test_overhead_the_trace_and_the_fast_model_agree() -> None:
    optics, sun = LensOptics.from_machine(MACHINE), sun_direction_world(0.0, 0.0)
    centre = np.array([0.0, 0.0, 0.70])
    fast = peak_irradiance_w_m2(optics, fast_patch(optics, centre, rotation_facing(sun), sun, 0.0), 900.0)
    assert _peak_w_m2(MACHINE, centre, 0.0, 400_000) == pytest.approx(float(fast), rel=0.25)


@pytest.mark.parametrize(("zenith_deg", "dark"), [(0.0, True), (15.0, True), (22.0, False), (40.0, False)])
def test_a_level_lens_is_dark_under_a_high_sun_only(zenith_deg: float, dark: bool) -> None:
    here, anywhere = park_claims(machine := under(zenith_deg), park_light(machine, quick=True))
    assert (here.status == "proven") is dark
    assert (here.bound is None, here.best is None) == (not dark, dark)
    assert anywhere.status == "falsified"
    assert not here.required
    assert "dark at 0°, 15°" in anywhere.method
    assert f"sun at {zenith_deg:g}°" in here.method


def test_what_would_help_is_said() -> None:
    machine = under(25.0)
    light = park_light(machine, quick=True)
    assert light.height_m == pytest.approx(0.50)
    assert "height of 0.50 m would do" in park_claims(machine, light)[0].method
    lower = under(25.0, 0.50)
    assert park_claims(lower, park_light(lower, quick=True))[0].status == "proven"
    low_sun = under(40.0)
    light = park_light(low_sun, quick=True)
    assert light.height_m is None
    assert "cover the lens" in park_claims(low_sun, light)[0].method


def test_the_limit_itself_is_not_dark() -> None:
    for peak, status in ((9_999.0, "proven"), (10_000.0, "falsified"), (float("nan"), "falsified")):
        light = ParkLight(peak, (0.0,), (peak,), 0.70)
        assert [claim.status for claim in park_claims(MACHINE, light)] == [status, status]


def test_no_light_where_no_ray_arrives() -> None:
    assert _peak_w_m2(MACHINE, np.array([0.0, 0.0, -0.5]), 0.0, 1000) == 0.0
