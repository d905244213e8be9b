"""The beam: where the light is by the cable lengths, what it does there, and where it will be when the winches stop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely

from melter.errors import CommandRefused, MachineFileError
from melter.geometry.light import LensOptics, fast_patch, peak_irradiance_w_m2
from melter.geometry.pose import rotation_about_world_xy, rotation_facing, sun_direction_world, work_centre_world_m
from melter.machine import Machine, load_machine
from melter.safety.beam import Beam, KeepIn, Region, melting_w_m2, spot_speed_ratio
from melter.safety.gate import Gate
from melter.safety.interlock import State
from melter.safety.kinematics import Kinematics, Pose

MACHINE = load_machine()
KINEMATICS = Kinematics(MACHINE)
SUN = sun_direction_world(MACHINE.sun.zenith_rad, MACHINE.sun.azimuth_rad)
FACING = rotation_facing(SUN)


def changed(part: str, **values: Any) -> Machine:
    return MACHINE.model_copy(update={part: getattr(MACHINE, part).model_copy(update=values)})


def lengths_at(
    spot: tuple[float, float], *, raised_m: float = 0.0, rotation: np.ndarray = FACING, sun: np.ndarray = SUN
) -> np.ndarray:
    centre = work_centre_world_m(np.array(spot), sun, MACHINE.lens.focal_length_m + raised_m, MACHINE.sand.height_m)
    return KINEMATICS.lengths_m(Pose(centre, rotation))


def beam_of(machine: Machine = MACHINE) -> Beam:
    return Beam(machine, KeepIn(machine))


# -- the keep-in polygon ----------------------------------------------------------------------------------------


def test_spot_moves_faster_than_any_cable() -> None:
    """Every motion of the taut lens: the spot's speed over the fastest cable's stays below the ratio."""
    ratio, rng = spot_speed_ratio(MACHINE), np.random.default_rng(0)
    assert 1.0 < ratio < 5.0
    fastest = 0.0
    for spot in ((0.0, 0.0), (0.4, 0.4), (-0.4, 0.4)):
        pose = KINEMATICS.forward(lengths_at(spot), KINEMATICS.park)[0]  # type: ignore[index]
        jacobian = KINEMATICS.jacobian(pose)
        motions = np.concatenate([rng.normal(size=(500, 6)), np.eye(6), np.linalg.pinv(jacobian).T])
        spots = motions[:, :2] - motions[:, 2:3] * SUN[:2] / SUN[2]
        fastest = max(fastest, (np.hypot(*spots.T) / np.abs(motions @ jacobian.T).max(axis=1)).max())
    assert 0.3 * ratio < fastest <= ratio


def test_margin_is_what_the_spot_covers() -> None:
    unseen = 0.05 + 0.04 + 0.04 + 0.03
    by_hand = spot_speed_ratio(MACHINE) * (0.05 * unseen + 0.05**2 / 2)
    assert KeepIn(MACHINE).margin_m == pytest.approx(by_hand)


NOTCHED = ((-0.45, -0.45), (0.45, -0.45), (0.45, 0.45), (0.1, 0.45), (0.0, 0.0), (-0.1, 0.45), (-0.45, 0.45))


def test_a_polygon_that_is_not_convex() -> None:
    keep_in = KeepIn(changed("bed", keep_in_world_m=NOTCHED))
    assert keep_in.holds((0.3, 0.3))
    assert not keep_in.holds((0.0, 0.3))
    assert not keep_in.holds((0.0, 0.01))
    assert keep_in.contains((0.0, -0.01))
    assert not keep_in.holds((np.nan, 0.0))


@pytest.mark.parametrize(
    ("corners", "what"),
    [
        (((-0.4, -0.4), (0.4, 0.4), (0.4, -0.4), (-0.4, 0.4)), "sides cross"),
        (((0, 0), (0.02, 0), (0.02, 0.02)), "nothing is left"),
    ],
)
def test_polygons_that_cannot_be_kept(corners: Any, what: str) -> None:
    with pytest.raises(MachineFileError, match=what):
        KeepIn(changed("bed", keep_in_world_m=corners))


@pytest.mark.parametrize("clockwise", [False, True])
def test_region_agrees_with_shapely(clockwise: bool) -> None:
    ring = [(0, 0), (2, 0.3), (2.5, 2), (1, 3), (-0.5, 1.5)]
    polygon = shapely.Polygon(ring[::-1] if clockwise else ring)
    region, rng = Region(polygon), np.random.default_rng(3)
    assert region._sides is not None
    points = rng.uniform(-1, 4, (2000, 2))
    assert [region.holds(*p) for p in points.tolist()] == shapely.contains_xy(polygon, points).tolist()
    for odd in ((np.nan, 1), (1, np.inf), (-np.inf, 1)):
        assert not region.holds(*odd)
    assert not region.holds(0, 0)  # a corner is not inside


def test_regions_with_holes_parts_or_notches_ask_shapely() -> None:
    hole = shapely.Polygon([(0, 0), (3, 0), (3, 3), (0, 3)], [[(1, 1), (2, 1), (2, 2), (1, 2)]])
    parts = shapely.union(shapely.box(0, 0, 1, 1), shapely.box(2, 0, 3, 1))
    notch = shapely.Polygon([(0, 0), (3, 0), (3, 3), (1.5, 1), (0, 3)])
    many = shapely.Point(0, 0).buffer(1.0)
    for polygon, inside, outside in (
        (hole, (0.5, 0.5), (1.5, 1.5)),
        (parts, (2.5, 0.5), (1.5, 0.5)),
        (notch, (0.5, 1.5), (1.5, 1.5)),
        (many, (0.7, 0.7), (0.72, 0.72)),
    ):
        region = Region(polygon)
        assert region._sides is None
        assert region.holds(*inside)
        assert not region.holds(*outside)


# -- the sun ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sun", [(0, 0, 0), (0, 0, 2), (0, 1, 0), (0.6, 0, -0.8), (np.nan, 0, 1), (0, 0, np.inf), (0, 1), 1.0, (1, 0, 0.04)]
)
def test_suns_that_are_none(sun: Any) -> None:
    with pytest.raises(CommandRefused, match="sun_world"):
        beam_of().point_at(sun)
    gate = Gate(MACHINE)
    with pytest.raises(CommandRefused, match="sun_world"):
        gate.arm(0.0, gate.park_lengths_m, sun_world=sun)
    assert gate.state is State.FAULTED


def test_light_goes_where_the_sun_sends_it() -> None:
    beam, lengths = beam_of(), lengths_at((0.1, 0.0))
    assert beam.look(lengths, 0.0) is None
    here = beam.light
    beam.point_at(sun_direction_world(np.radians(25.5), np.radians(180)))
    assert beam.due(0.0)
    beam.look(lengths, 0.1)
    assert here is not None
    assert beam.light is not None
    moved = beam.light.spot_world_m[1] - here.spot_world_m[1]
    assert moved == pytest.approx(1.1056 * (np.tan(np.radians(25.5)) - np.tan(np.radians(25))), rel=0.15)


# -- looking ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spot", [(0.0, 0.0), (0.4, -0.4), (-0.2, 0.3)])
def test_light_at_work(spot: tuple[float, float]) -> None:
    beam = beam_of()
    assert beam.light is None
    assert beam.look(lengths_at(spot), 0.0) is None
    light = beam.light
    assert light is not None
    assert light.spot_world_m == pytest.approx(spot, abs=1e-3)
    assert 2e6 < light.peak_w_m2 < 4e6
    assert light.focus_height_m == pytest.approx(0.0, abs=1e-3)
    assert light.focus_w_m2 == pytest.approx(light.peak_w_m2, rel=1e-2)
    assert light.cable_w_m2 < 1e3
    assert light.frame_w_m2 == 0.0
    assert light.dwell_s == 0.0


def test_peak_is_the_light_models() -> None:
    beam = beam_of()
    beam.look(lengths_at((0.0, 0.0), raised_m=-0.05), 0.0)
    centre = work_centre_world_m((0.0, 0.0), SUN, MACHINE.lens.focal_length_m - 0.05, 0.0)
    optics = LensOptics.from_machine(MACHINE)
    peak = peak_irradiance_w_m2(optics, fast_patch(optics, centre, FACING, SUN, 0.0), MACHINE.sun.dni_w_m2)
    assert beam.light is not None
    assert beam.light.peak_w_m2 == pytest.approx(float(peak), rel=1e-3)
    assert beam.light.focus_height_m == pytest.approx(-0.05 * SUN[2], abs=1e-3)


@pytest.mark.parametrize(("raised_m", "good"), [(0.060, True), (0.070, False), (0.3, False)])
def test_focus_in_the_air(raised_m: float, good: bool) -> None:
    beam = beam_of()
    found = beam.look(lengths_at((0.0, 0.0), raised_m=raised_m), 0.0)
    assert beam.light is not None
    assert beam.light.focus_height_m == pytest.approx(raised_m * SUN[2], abs=2e-3)
    assert (found is None) is good
    if found:
        assert "above the sand, at most 0.06" in found


def test_a_focus_in_the_air_that_is_too_weak_to_matter() -> None:
    machine = changed("limits", stray_max_w_m2=4e6)
    assert beam_of(machine).look(lengths_at((0.0, 0.0), raised_m=0.3), 0.0) is None


def test_the_whole_way_from_park_to_work_forms_no_focus_in_the_air() -> None:
    for zenith in (0, 25, 40):
        sun = sun_direction_world(np.radians(zenith), np.radians(200))
        end = Pose(work_centre_world_m((0.2, -0.2), sun, MACHINE.lens.focal_length_m, 0.0), rotation_facing(sun))
        beam = beam_of()
        beam.point_at(sun)
        from melter.safety.kinematics import towards

        for share in np.linspace(0, 1, 12):
            beam.forget()
            assert beam.look(KINEMATICS.lengths_m(towards(KINEMATICS.park, end, float(share))), 0.0) is None


def test_light_on_a_cable() -> None:
    """A pulley moved to where its cable crosses the cone under the lens."""
    winches = list(MACHINE.winch)
    winches[0] = winches[0].model_copy(update={"pulley_world_m": (-1.75, -1.75, 0.1)})
    machine = MACHINE.model_copy(update={"winch": tuple(winches)})
    kinematics = Kinematics(machine)
    lengths = kinematics.lengths_m(Pose(work_centre_world_m((0.0, 0.0), SUN, 1.22, 0.0), FACING))
    beam = beam_of(machine)
    found = beam.look(lengths, 0.0)
    assert beam.light is not None
    assert 2e3 < beam.light.cable_w_m2 < 2e5
    generous = machine.model_copy(
        update={"limits": machine.limits.model_copy(update={"stray_max_w_m2": 0.9 * beam.light.cable_w_m2})}
    )
    found = beam_of(generous).look(lengths, 0.0)
    assert found is not None
    assert "W/m2 on a cable" in found


def test_light_on_things_is_no_less_than_the_light_model_says() -> None:
    """Along the middle of the cone, as far as the model of the patch reaches: near the focus, on level planes."""
    beam = beam_of()
    pose = KINEMATICS.forward(lengths_at((0.0, 0.0)), KINEMATICS.park)[0]  # type: ignore[index]
    points = pose.centre_world_m - SUN * np.linspace(0.9, 1.21, 30)[:, None]
    optics = LensOptics.from_machine(MACHINE)
    planes = fast_patch(optics, pose.centre_world_m, pose.rotation, SUN, points[:, 2])
    model = peak_irradiance_w_m2(optics, planes, MACHINE.sun.dni_w_m2)
    found = beam._on(points, pose)
    assert (found > model).all()
    assert (found < 6 * model).all()
    aside = points + np.array([0.8, 0.0, 0.0])
    assert (beam._on(aside, pose) == 0).all()
    assert beam._on((pose.centre_world_m + 0.1 * SUN)[None], pose)[0] == 0  # above the lens
    assert beam._on((pose.centre_world_m - 1.3 * SUN)[None], pose)[0] == 0  # under the sand


def test_light_on_a_pole() -> None:
    poles = ((0.0, 0.0), (-1.75, 1.75), (-1.75, -1.75), (1.75, -1.75))
    machine = MACHINE.model_copy(update={"frame": MACHINE.frame.model_copy(update={"poles_world_m": poles})})
    found = beam_of(machine).look(lengths_at((0.0, 0.0)), 0.0)
    assert found is not None
    assert "W/m2 on the frame" in found


def test_dwell_and_dose_are_bounded() -> None:
    lengths = lengths_at((0.0, 0.0))
    for field, limit, what in (("dwell_max_s", 3.0, "s on one place"), ("dose_max_j_m2", 8e6, "J/m2 on one place")):
        beam, found, now = beam_of(changed("limits", **{field: limit})), None, 0.0
        while found is None and now < 10.0:
            found = beam.look(lengths, now)
            now += 0.5
        assert found is not None
        assert what in found
        assert 2.5 <= now <= 4.5


def test_time_without_looking_is_not_booked_for_ever() -> None:
    beam = beam_of()
    beam.look(lengths_at((0.0, 0.0)), 0.0)
    beam.look(lengths_at((0.0, 0.0)), 1000.0)
    assert beam.light is not None
    assert beam.light.dwell_s == pytest.approx(1.0)
    beam.look(lengths_at((0.0, 0.0)), 5.0)  # a clock that ran back books nothing
    assert beam.light.dwell_s == pytest.approx(1.0)


@pytest.mark.parametrize("winch", [0, 5])
def test_lengths_that_fit_no_pose(winch: int) -> None:
    lengths = lengths_at((0.0, 0.0))
    lengths[winch] += 0.1
    beam = beam_of()
    found = beam.look(lengths, 0.0)
    assert found is not None
    assert MACHINE.winch[winch].name in found
    assert beam.light is None
    assert beam.due(0.0)
    assert beam.stop_outside(lengths.tolist(), [0] * 8) is None
    assert beam.disagrees((0.0, 0.0)) is None
    wild = lengths_at((0.0, 0.0)) + np.array([0.3, -0.3, 0.3, 0.3, -0.3, -0.3, 0.3, -0.3])
    assert "fit no pose of the lens:" in str(beam.look(wild, 0.1))


def test_due_by_time_and_by_way() -> None:
    beam, lengths = beam_of(), lengths_at((0.0, 0.0))
    assert beam.due(0.0)
    beam.look(lengths, 0.0)
    assert not beam.due(0.49)
    assert beam.due(0.5)
    beam.stop_outside((lengths + 0.0149).tolist(), [0] * 8)
    assert not beam.due(0.1)
    beam.stop_outside((lengths - 0.0149).tolist(), [-200] * 8)
    assert beam.due(0.1)
    beam.look(lengths, 0.0)
    beam.forget()
    assert beam.due(0.0)
    assert beam.light is None


# -- where it stops ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("towards_edge", [(0.43, 0.0), (0.0, -0.43), (-0.43, 0.0), (0.0, 0.43)])
def test_stops_inside_the_polygon(towards_edge: tuple[float, float]) -> None:
    """Followed along what is sent, both sides of the edge, for each winch speed that the way needs."""
    beam, at = beam_of(), np.array(towards_edge)
    beam.look(lengths_at(tuple(at.tolist())), 0.0)
    out = at / np.hypot(*at)
    for way, inside in ((0.0, True), (0.009, True), (0.011, False)):
        there = lengths_at(tuple((at + way * out).tolist()))
        assert (beam.stop_outside(there.tolist(), [0] * 8) is None) is inside
        start = lengths_at(tuple(at.tolist()))
        travel = np.rint((there - start) * 1e6).astype(int).tolist()
        assert (beam.stop_outside(start.tolist(), travel) is None) is inside
    assert "outside the keep-in polygon" in str(beam.stop_outside(there.tolist(), [0] * 8))


def test_light_that_does_not_melt_may_be_anywhere() -> None:
    beam = beam_of()
    tipped = rotation_about_world_xy(0.3, 0.0) @ FACING
    lengths = lengths_at((0.44, 0.0), raised_m=-0.15, rotation=tipped)
    beam.look(lengths, 0.0)
    assert beam.light is not None
    assert beam.light.peak_w_m2 < 0.8 * melting_w_m2(MACHINE)
    assert beam.stop_outside((lengths + 0.01).tolist(), [0] * 8) is None


@pytest.mark.parametrize(("off", "good"), [(0.059, True), (0.061, False)])
def test_camera_and_cables_must_agree(off: float, good: bool) -> None:
    beam = beam_of()
    beam.look(lengths_at((0.1, 0.1)), 0.0)
    assert beam.light is not None
    x, y = beam.light.spot_world_m
    for spot in ((x + off, y), (x, y - off)):
        assert (beam.disagrees(spot) is None) is good


# -- in the gate ------------------------------------------------------------------------------------------------


def drive(gate: Gate, lengths: np.ndarray, velocity: np.ndarray, ticks: int, **options: Any) -> np.ndarray:
    now = 100.0
    gate.arm(now, lengths, sun_world=SUN)
    for _ in range(ticks):
        pose = KINEMATICS.forward(lengths, KINEMATICS.park)[0]  # type: ignore[index]
        command = gate.approve(KINEMATICS.jacobian(pose) @ velocity, lengths, now, measured_host_s=now, **options)
        lengths = lengths + command.counts_um * 1e-6
        now += MACHINE.control.period_s
    return lengths


@pytest.mark.parametrize("mode", ["policy", "transit", "jog"])
def test_nothing_drives_the_spot_off_the_bed(mode: str) -> None:
    gate = Gate(MACHINE)
    velocity = np.array([0.04, 0.0, 0.0, 0, 0, 0])
    with pytest.raises(CommandRefused, match="keep-in polygon"):
        drive(gate, lengths_at((0.35, 0.0)), velocity, 200, mode=mode)
    assert gate.state is State.FAULTED
    assert gate.interventions["beam"] == 1
    pose = KINEMATICS.forward(np.array(gate._reckoning.sent_m), KINEMATICS.park)[0]  # type: ignore[union-attr, index]
    patch = fast_patch(LensOptics.from_machine(MACHINE), pose.centre_world_m, pose.rotation, SUN, 0.0)
    assert 0.42 < patch.centre_world_m[0] < 0.45


def test_nothing_lifts_the_focus_into_the_air() -> None:
    gate = Gate(MACHINE)
    with pytest.raises(CommandRefused, match="above the sand"):
        drive(gate, lengths_at((0.0, 0.0)), 0.04 * np.array([*SUN, 0, 0, 0]), 200)


@pytest.mark.parametrize(("mode", "good"), [("jog", True), ("policy", False), ("transit", False)])
def test_lengths_that_fit_no_pose_are_a_persons_affair(mode: Any, good: bool) -> None:
    lengths = lengths_at((0.0, 0.0))
    lengths[5] += 0.1
    gate = Gate(MACHINE)
    gate.arm(0.0, lengths)
    if good:
        gate.approve(np.full(8, 0.01), lengths, 0.0, measured_host_s=0.0, mode=mode)
        assert gate.light is None
        assert gate.state is State.WORK
    else:
        with pytest.raises(CommandRefused, match="fit no pose"):
            gate.approve(np.full(8, 0.01), lengths, 0.0, measured_host_s=0.0, mode=mode)


def test_camera_against_cables_in_the_gate() -> None:
    lengths = lengths_at((0.0, 0.0))
    gate = Gate(MACHINE)
    gate.arm(0.0, lengths)
    with pytest.raises(CommandRefused, match="from where the cables put it"):
        gate.approve(np.zeros(8), lengths, 0.0, measured_host_s=0.0, spot_world_m=(0.2, 0.0))
    assert gate.light is not None
