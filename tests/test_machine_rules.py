"""What a machine file's values must be to each other: both sides of every rule, and the words of the refusal."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest

from melter.errors import MachineFileError
from melter.geometry.pose import rotation_facing, sun_direction_world, work_centre_world_m
from melter.machine import Machine, machine_from_table
from melter.machine_limits import CREEP_M_S, _half_width_m, _spot_per_cable
from melter.machine_rules import DICTIONARIES, EDGE_M, _hull, _outside_m, named_poses
from melter.safety.beam import KeepIn, spot_speed_ratio
from melter.safety.limiter import TickLimits

NAN = math.nan


def put(table: dict[str, Any], path: str, value: Any) -> None:
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in way:
        table = table[part]  # type: ignore[index]
    table[last] = value  # type: ignore[index]


def read(table: dict[str, Any], changes: dict[str, Any]) -> Machine:
    spoilt = copy.deepcopy(table)
    for path, value in changes.items():
        put(spoilt, path, value)
    return machine_from_table(spoilt, "mine.toml")


def refusal(table: dict[str, Any], changes: dict[str, Any]) -> str:
    with pytest.raises(MachineFileError) as caught:
        read(table, changes)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("machine file mine.toml: ")
    return message


# What changes; the last value taken; the first refused; words that the refusal must have.
EDGES = [
    ("park.lens_centre_world_m", [1.22, 0, 0.7], [1.23, 0, 0.7], "lens is outside its frame"),
    ("park.lens_centre_world_m", [0, -1.04, 0.7], [0, -1.06, 0.7], "lens is outside its frame"),
    ("park.lens_centre_world_m", [0, 0, 0.301], [0, 0, 0.299], "must be above the sand at 0 m"),
    ("park.lens_centre_world_m", [0, 0, 1.1], [0, 0, 1.11], "not below the work height 1.106 m"),
    ("park.lens_centre_world_m", [0, 0, 0.7], [0, 0, 2.01], "must be below frame.height_m = 2 m"),
    ("park.lens_centre_world_m", [0, 0, 0.7], [0, 0, -0.01], "under the sand; z must be above 0 m"),
    ("lens.focal_length_m", 1.99, 2.0, "focus would lie under the sand"),
    ("lens.focal_length_m", 0.78, 0.77, "not below the work height"),
    ("frame.height_m", 1.51, 1.22, "focus would lie under the sand"),
    ("frame.height_m", 1.51, 1.49, "winch.0.pulley_world_m = [1.75, 1.75, 2.0] (NE-upper): above the frame"),
    ("winch.2.pulley_world_m", [-1.75, 1.75, 2.5], [-1.75, 1.75, 2.51], "z must be at most 2.5 m"),
    ("winch.3.pulley_world_m", [-1.75, 1.75, -1.0], [-1.75, 1.75, -1.01], "z must be at least -1 m"),
    ("winch.3.pulley_world_m", [-2.25, 1.75, 0], [-2.26, 1.75, 0], "0.51 m outside the poles"),
    ("lens.short_edge_m", 3.49, 3.51, "lens is outside its frame, 0.005 m beyond"),
    ("bed.size_m", [3.5, 0.8], [3.51, 0.8], "working area reaches outside the poles"),
    ("winch.5.attachment_lens_m", [-0.526, -0.70, 0.30], [0.1, 0.1, 0.30], "(SW-lower): at park its cable crosses the lens"),
    ("winch.1.axis", "Y", "X", "in this order, none twice"),
    ("winch.1.name", "NE-other", "NE-upper", "NE-upper given more than once"),
    ("bed.marker.1.id", 4, 0, "same marker"),
    ("bed.marker.0.id", 49, 50, "has 0 to 49"),
    ("bed.marker.0.dictionary", "DICT_APRILTAG_36h11", "DICT_8X8_50", "must be one of DICT_4X4_50"),
    ("bed.marker.1.centre_m", [0.86, 1.15], [0.88, 1.15], "at least 0.280 m apart"),
    ("bed.marker.0.size_m", 2.0, 2.001, "above 0.005, at most 2"),
    ("bed.marker.0.size_m", 0.006, 0.005, "above 0.005, at most 2"),
    ("limits.tension_min_n", 299.9, 300.0, "limits.tension_min_n = 300: must be below tension_max_n = 300"),
    ("limits.tension_trip_n", 300.0, 299.9, "limits.tension_max_n = 300: must be at most tension_trip_n = 299.9"),
    ("limits.speed_normal_m_s", 0.12, 0.1201, "must be at most speed_max_m_s = 0.12"),
    ("limits.power_max_w", 0.91, 0.89, "limits.power_max_w = 0.89: creeping at 3 mm/s"),
    ("limits.power_total_max_w", 7.3, 7.1, "limits.power_total_max_w = 7.1: creeping"),
    ("limits.tension_max_n", 399.0, 0.0, "limits.tension_max_n = 0.0: must be a finite number above 0"),
    ("limits.acceleration_max_m_s2", 0.031, 0.029, "limits.acceleration_max_m_s2 = 0.029"),
    ("limits.acceleration_max_m_s2", 1.0, 3e-4, "less than one micrometre in a control period"),
    ("limits.speed_max_m_s", 1.0, 2.0, "braking from speed_max_m_s = 2.0 takes 2.050 m"),
    ("limits.cable_length_max_m", 2.32, 2.30, "m of cable at park, must lie between"),
    ("control.rate_hz", 1.25, 1.1, "control.rate_hz = 1.1"),
    ("control.action_delay_s", 0.85, 0.9, "between a spot being seen and its standing still"),
    ("camera.look_at_world_m", [0, 2.8, 1.9], [0, 2.9, 1.9], "must differ from position_world_m"),
    ("camera.position_world_m", [0, 2.9, 0.01], [0, 2.9, -0.01], "under the sand"),
    ("camera.image_size_px", [32, 32], [31, 32], "must be a whole number at least 32"),
    ("bed.keep_in_world_m", [[-0.1, -0.1], [0.1, -0.1], [0.1, 0.1], [-0.1, 0.1]], [[0, 0], [1, 1], [1, 0], [0, 1]], "cross"),
    ("bed.keep_in_world_m", [[0, 0], [0.2, 0], [0, 0.2]], [[0, 0], [0.1, 0], [0, 0.1]], "keep-in polygon"),
    ("lens.moving_mass_kg", 7, "7", "lens.moving_mass_kg = '7': must be a finite number above 0.1, at most 200"),
    ("lens.moving_mass_kg", 0.2, -3.0, "lens.moving_mass_kg = -3.0: must be a finite number above 0.1, at most 200"),
    ("lens.moving_mass_kg", 6.0, True, "lens.moving_mass_kg = True"),
    ("lens.centre_of_mass_lens_m", [0, 0, 0.1], [0, 0, NAN], "lens.centre_of_mass_lens_m.2 = nan: must be a finite"),
    ("winch.0.pulley_world_m", [1.75, 1.75, 2], [1.75, 1.75], "winch.0.pulley_world_m.2: missing"),
    ("frame.pole_flex_m_per_n", 1e-3, 1.1e-3, "at least 0, at most 0.001"),
    ("drive.pulley_loss", 0.5, -0.01, "drive.pulley_loss = -0.01: must be a finite number at least 0, at most 0.5"),
    ("drive.drum_width_m", 0.001, 0.0, "drive.drum_width_m = 0.0: must be a finite number above 0"),
    ("lens", {"short_edge_m": 1.05, "long_edge_m": 1.4, "focal_length_m": 1.22, "transmission": 0.6, "facet_error_mrad": 6,
              "moving_mass_kg": 6}, 3, "lens = 3: must be a table"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "taken", "refused", "words"), EDGES, ids=[f"{e[0]}-{e[3][:24]}" for e in EDGES])
def test_both_sides(path: str, taken: Any, refused: Any, words: str, corner8_table: dict[str, Any]) -> None:
    read(corner8_table, {path: taken})
    assert words in refusal(corner8_table, {path: refused})


def test_poles_must_enclose_the_bed_and_the_lens(corner8_table: dict[str, Any]) -> None:
    line = [[-1.75, -1.75], [0.0, 0.0], [1.75, 1.75]]
    assert "enclose no area" in refusal(corner8_table, {"frame.poles_world_m": line})
    small = [[0.6 * i, 0.6 * j] for i, j in ((1, 1), (-1, 1), (-1, -1), (1, -1))]
    assert "lens is outside its frame" in refusal(corner8_table, {"frame.poles_world_m": small})
    shuffled = [[1.75, 1.75], [-1.75, -1.75], [-1.75, 1.75], [1.75, -1.75]]
    read(corner8_table, {"frame.poles_world_m": shuffled})


def test_at_least_one_cable_must_pull_up(corner8_table: dict[str, Any]) -> None:
    low = {f"winch.{i}.pulley_world_m.2": 0.0 for i in range(0, 8, 2)}
    assert "at least one must be above" in refusal(corner8_table, low)


def test_a_lens_that_leaves_its_frame_under_its_own_sun(corner8_table: dict[str, Any]) -> None:
    changes = {"sun.zenith_deg": 75, "lens.focal_length_m": 1.9, "park.lens_centre_world_m": [0, 0, 0.4]}
    assert "outside its frame" in refusal(corner8_table, changes)


def test_a_cable_that_crosses_the_lens_only_at_work(corner8_table: dict[str, Any]) -> None:
    """From above the northern half to a pulley in the north: free while level, through the edge when the lens leans south."""
    tied = {"winch.7.attachment_lens_m": [0.0, 0.6, 0.05], "winch.7.pulley_world_m": [0.0, 1.75, 1.2]}
    assert "(SE-lower): at work over the middle of the bed its cable crosses the lens" in refusal(corner8_table, tied)
    read(corner8_table, tied | {"winch.7.attachment_lens_m": [0.0, 0.6, -0.05]})


@pytest.mark.parametrize("edge", [-1, 1])
def test_the_edge_of_the_lens_itself(edge: int, corner8_table: dict[str, Any]) -> None:
    """A cable straight up through the plane of the lens, 1 mm inside and 1 mm outside of the long edge."""
    x = 0.525 + edge * 0.001
    changes = {
        "winch.0.attachment_lens_m": [x, 0.0, -0.3],
        "winch.0.pulley_world_m": [x, 0.0, 2.0],
        "sun.zenith_deg": 0,
    }
    if edge < 0:
        assert "at park its cable crosses the lens at x = 0.524, y = 0.000 m" in refusal(corner8_table, changes)
    else:
        read(corner8_table, changes)
    assert EDGE_M < 1e-3


def test_the_first_draft_loads_although_it_does_not_hold(vitrifier: Machine) -> None:
    assert vitrifier.name == "vitrifier"


def test_the_rules_agree_with_what_the_other_rooms_work_out(corner8: Machine, vitrifier: Machine) -> None:
    for machine in (corner8, vitrifier):
        _, centre, rotation = named_poses(machine)[1]
        sun = sun_direction_world(machine.sun.zenith_rad, machine.sun.azimuth_rad)
        np.testing.assert_allclose(rotation, rotation_facing(sun), atol=1e-15)
        np.testing.assert_allclose(centre, work_centre_world_m([0, 0], sun, machine.lens.focal_length_m), atol=1e-15)


@pytest.mark.parametrize("rate_hz", [1.2, 2.0, 20.0, 200.0])
@pytest.mark.parametrize("speed", [0.05, 0.4, 1.0, 1.9])
def test_a_file_that_is_read_gives_limits_to_the_safety_layer(
    rate_hz: float, speed: float, corner8_table: dict[str, Any]
) -> None:
    """Never a file that loads and is then refused by the limiter or the keep-in polygon."""
    for acceleration in (0.04, 0.5, 50.0):
        changes = {
            "control.rate_hz": rate_hz,
            "limits.speed_max_m_s": speed,
            "limits.acceleration_max_m_s2": acceleration,
        }
        try:
            machine = read(corner8_table, changes)
        except MachineFileError:
            continue
        TickLimits.from_machine(machine)
        assert KeepIn(machine).margin_m < 0.45


def test_some_of_those_files_are_read_and_some_are_not(corner8_table: dict[str, Any]) -> None:
    read(corner8_table, {"control.rate_hz": 200.0, "limits.speed_max_m_s": 1.0})
    refusal(corner8_table, {"control.rate_hz": 1.2, "limits.speed_max_m_s": 1.9})


def test_spot_speed_is_the_beams(corner8: Machine, vitrifier: Machine) -> None:
    for machine in (corner8, vitrifier):
        assert _spot_per_cable(machine) == pytest.approx(spot_speed_ratio(machine), rel=1e-9)


def test_hull_and_distance() -> None:
    rng = np.random.default_rng(0)
    points = np.vstack([rng.uniform(-1, 1, (200, 2)), [[-1, -1], [1, -1], [1, 1], [-1, 1]]])
    hull = _hull(points)
    assert sorted(map(tuple, hull.tolist())) == [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    np.testing.assert_allclose(_outside_m(np.array([[0, 0], [1.5, 0], [0.9, 0.2], [1, 1]]), hull), [-1, 0.5, -0.1, 0])
    assert _half_width_m(hull) == pytest.approx(1, rel=1e-3)


def test_dictionaries_are_opencvs() -> None:
    cv2 = pytest.importorskip("cv2")
    theirs = {name.upper() for name in dir(cv2.aruco) if name.startswith("DICT_")}
    assert theirs == set(DICTIONARIES)
    for name, count in DICTIONARIES.items():
        assert len(cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, name)).bytesList) == count


def test_creep_is_the_fastest_feed() -> None:
    assert CREEP_M_S == 0.003


def test_an_unknown_key_is_told_before_the_missing_one(corner8_table: dict[str, Any]) -> None:
    del corner8_table["lens"]["focal_length_m"]
    message = refusal(corner8_table, {"lens.focal_length_mm": 1220})
    assert "lens.focal_length_mm: unknown key; did you mean focal_length_m? (and 1 more)" in message
    assert "lens.focal_length_m: missing; must be a finite number above 0.1, at most 10" in refusal(corner8_table, {})
