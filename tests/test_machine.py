"""The machine file: what it accepts, what it refuses and how it says so."""

from __future__ import annotations

import copy
import math
import tomllib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from melter.errors import BadInput, MachineFileError
from melter.machine import AXES, Machine, load_machine, machine_from_table, packaged_machines

SECTIONS = ("frame", "lens", "drive", "limits", "control", "sun", "wind", "sand", "camera")


def _bounds() -> list[tuple[str, str, float | None, bool, float | None, bool]]:
    """(section, key, low, low included, high, high included) of every plain number in the file."""
    found = []
    for section in SECTIONS:
        model: type[BaseModel] = Machine.model_fields[section].annotation  # type: ignore[assignment]
        for key, field in model.model_fields.items():
            if field.annotation is not float:
                continue
            low = high = None
            low_in = high_in = False
            for rule in field.metadata:
                low, low_in = (rule.ge, True) if hasattr(rule, "ge") else (low, low_in)
                low = rule.gt if hasattr(rule, "gt") else low
                high, high_in = (rule.le, True) if hasattr(rule, "le") else (high, high_in)
                high = rule.lt if hasattr(rule, "lt") else high
            found.append((section, key, low, low_in, high, high_in))
    return found


BOUNDS = _bounds()
KEYS = [f"{bound[0]}.{bound[1]}" for bound in BOUNDS]


def refusal(table: dict[str, Any]) -> str:
    """What the file is refused with: one line."""
    with pytest.raises(MachineFileError) as caught:
        machine_from_table(table, "test")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("machine file test: ")
    return message


@pytest.mark.parametrize("name", ["corner8", "vitrifier"])
def test_packaged_machines_load(name: str) -> None:
    machine = load_machine(name)
    assert name in packaged_machines()
    assert machine.name == name
    assert tuple(winch.axis for winch in machine.winch) == AXES
    assert machine.pulleys_world_m.shape == machine.attachments_lens_m.shape == (8, 3)


def test_default_is_the_nominal_machine_as_described() -> None:
    machine = load_machine()
    assert machine.name == "corner8"
    assert (machine.limits.tension_min_n, machine.limits.tension_max_n, machine.limits.tension_trip_n) == (15, 300, 400)
    assert (machine.limits.speed_normal_m_s, machine.limits.speed_max_m_s) == (0.050, 0.120)
    assert machine.limits.power_max_w == 38
    assert (machine.lens.short_edge_m, machine.lens.long_edge_m, machine.lens.focal_length_m) == (1.05, 1.40, 1.22)
    assert machine.park.lens_centre_world_m == (0.0, 0.0, 0.70)
    names = [f"{corner}-{end}" for corner in ("NE", "NW", "SW", "SE") for end in ("upper", "lower")]
    assert [winch.name for winch in machine.winch] == names
    # upper cables hang from the pole's top and go to the strut's lower end
    np.testing.assert_array_equal(machine.pulleys_world_m[::2, 2], 2.0)
    np.testing.assert_array_equal(machine.attachments_lens_m[::2, 2], -0.30)


def test_the_draft_machine_as_described(vitrifier: Machine) -> None:
    where = {winch.name.split("-")[0]: winch.pulley_world_m[:2] for winch in vitrifier.winch}
    assert where == {"W": (-1.5, 0), "E": (1.5, 0), "S": (0, -1.5), "N": (0, 1.5)}
    tied = {winch.name: winch.attachment_lens_m for winch in vitrifier.winch}
    assert tied["W-upper"] == tied["E-lower"] == (-0.525, 0.7, 0.0)
    assert tied["N-upper"] == tied["S-lower"] == (0.525, 0.7, 0.0)
    assert vitrifier.lens.moving_mass_kg == 3.5


def test_a_machine_is_frozen(corner8: Machine) -> None:
    with pytest.raises(ValueError, match="frozen"):
        corner8.lens.focal_length_m = 2.0  # type: ignore[misc]


def test_radians_beside_degrees(corner8: Machine) -> None:
    assert corner8.sun.zenith_rad == pytest.approx(0.4363323)
    assert corner8.sun.azimuth_rad == pytest.approx(math.pi)
    assert corner8.control.period_s == pytest.approx(0.05)


def test_keep_in_is_the_bed_and_a_margin(corner8: Machine, corner8_table: dict[str, Any]) -> None:
    np.testing.assert_allclose(np.abs(corner8.bed.keep_in_polygon_world_m), 0.45)
    corner8_table["bed"]["keep_in_world_m"] = [[0, 0], [1, 0], [0, 1]]
    assert machine_from_table(corner8_table).bed.keep_in_polygon_world_m.shape == (3, 2)


@pytest.mark.parametrize("bound", BOUNDS, ids=KEYS)
def test_every_range_from_outside(bound: Any, corner8_table: dict[str, Any]) -> None:
    section, key, low, low_in, high, high_in = bound
    outside = [math.nan, math.inf, -math.inf, "a", None]
    if low is not None:
        outside.append(np.nextafter(low, -math.inf) if low_in else low)
    if high is not None:
        outside.append(np.nextafter(high, math.inf) if high_in else high)
    for value in outside:
        table = copy.deepcopy(corner8_table)
        table[section][key] = float(value) if isinstance(value, np.floating) else value
        assert f"{section}.{key}" in refusal(table)


def assert_taken(table: dict[str, Any], section: str, key: str) -> None:
    """The value is taken as it is, or a rule between keys objects, never the value's own range."""
    message, taken = "", None
    try:
        taken = getattr(getattr(machine_from_table(table), section), key)
    except MachineFileError as error:
        message = str(error)
    own = f"machine file machine: {section}.{key} = {table[section][key]!r}: must be a finite number"
    assert taken == table[section][key] or not message.startswith(own)
    assert taken is not None or message


@pytest.mark.parametrize("bound", BOUNDS, ids=KEYS)
def test_every_range_from_inside(bound: Any, corner8_table: dict[str, Any]) -> None:
    """The ends themselves may break a rule between keys, but never their own range."""
    section, key, low, low_in, high, high_in = bound
    inside = []
    if low is not None:
        inside.append(low if low_in else float(np.nextafter(low, math.inf)))
    if high is not None:
        inside.append(high if high_in else float(np.nextafter(high, -math.inf)))
    for value in inside:
        table = copy.deepcopy(corner8_table)
        table[section][key] = value
        assert_taken(table, section, key)


@given(st.sampled_from(BOUNDS), st.floats(0, 1))
def test_values_inside_are_taken_as_they_are(bound: Any, share: float) -> None:
    section, key, low, _, high, _ = bound
    base = getattr(getattr(load_machine(), section), key)
    near_low, near_high = max(low or 0.0, base * 0.97), min(high or math.inf, base * 1.03)
    value = near_low + share * (near_high - near_low)
    table = tomllib.loads(load_text())
    table[section][key] = value
    assert_taken(table, section, key)


def load_text() -> str:
    from melter.machine import _models_folder

    return (_models_folder() / "corner8.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("section", "wrong", "hint"),
    [
        ("lens", "focal_lenght_m", "focal_length_m"),
        ("limits", "speed_maxi_m_s", "speed_max_m_s"),
        ("lens", "focal_length", "a unit is missing: focal_length_m"),
        ("sun", "zenith", "a unit is missing: zenith_deg"),
        ("control", "rate", "a unit is missing: rate_hz"),
    ],
)
def test_unknown_keys_name_the_nearest(section: str, wrong: str, hint: str, corner8_table: dict[str, Any]) -> None:
    corner8_table[section][wrong] = 1.0
    message = refusal(corner8_table)
    assert f"{section}.{wrong}: unknown key" in message
    assert hint in message


def test_unknown_keys_in_lists_and_at_the_top(corner8_table: dict[str, Any]) -> None:
    spoilt = copy.deepcopy(corner8_table)
    spoilt["winch"][3]["pulley_m"] = [0, 0, 0]
    assert "winch.3.pulley_m: unknown key" in refusal(spoilt)
    spoilt = copy.deepcopy(corner8_table)
    spoilt["bed"]["marker"][1]["size"] = 0.2
    assert "bed.marker.1.size: unknown key; a unit is missing: size_m" in refusal(spoilt)
    spoilt = copy.deepcopy(corner8_table)
    spoilt["lense"] = {}
    assert "lense: unknown key; did you mean lens?" in refusal(spoilt)


@pytest.mark.parametrize("path", ["lens.focal_length_m", "winch", "limits", "control.rate_hz", "bed.size_m"])
def test_missing_keys(path: str, corner8_table: dict[str, Any]) -> None:
    place, *rest = path.split(".")
    if rest:
        del corner8_table[place][rest[0]]
    else:
        del corner8_table[place]
    assert f"{path}: missing" in refusal(corner8_table)


def test_winches(corner8_table: dict[str, Any]) -> None:
    spoilt = copy.deepcopy(corner8_table)
    spoilt["winch"][1]["name"] = "NE-upper"
    assert "duplicates" in refusal(spoilt)
    spoilt = copy.deepcopy(corner8_table)
    spoilt["winch"][0]["axis"], spoilt["winch"][1]["axis"] = "Y", "X"
    assert "in this order" in refusal(spoilt)
    for count in (7, 9):
        spoilt = copy.deepcopy(corner8_table)
        spoilt["winch"] = (spoilt["winch"] * 2)[:count]
        assert "winch" in refusal(spoilt)
    spoilt = copy.deepcopy(corner8_table)
    spoilt["winch"][5]["pulley_world_m"][1] = math.nan
    assert "winch.5.pulley_world_m.1" in refusal(spoilt)
    spoilt = copy.deepcopy(corner8_table)
    spoilt["winch"][5]["pulley_world_m"] = [1.0, 2.0]
    assert "winch.5.pulley_world_m" in refusal(spoilt)


@pytest.mark.parametrize(
    "values",
    [
        {"tension_min_n": 300.0},
        {"tension_trip_n": 299.0},
        {"speed_normal_m_s": 0.13},
        {"cable_length_min_m": 4.6},
    ],
)
def test_limits_in_order(values: dict[str, float], corner8_table: dict[str, Any]) -> None:
    corner8_table["limits"] |= values
    assert next(iter(values)) in refusal(corner8_table)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t["park"].update(lens_centre_world_m=[1.8, 0, 0.7]), "outside its frame"),
        (lambda t: t["park"].update(lens_centre_world_m=[0, 0, 2.1]), "outside its frame"),
        (lambda t: t["park"].update(lens_centre_world_m=[0, 0, 0.0]), "outside its frame"),
        (lambda t: t["park"].update(lens_centre_world_m=[0, 0, 1.3]), "not below the work height"),
        (lambda t: t["lens"].update(focal_length_m=2.4), "focus would lie under the sand"),
        (lambda t: t["winch"][0].update(pulley_world_m=[1.75, 1.75, 2.6]), "above the frame"),
        (lambda t: t["limits"].update(cable_length_max_m=1.5), "of cable at park"),
        (lambda t: t["limits"].update(cable_length_min_m=1.9), "of cable at park"),
    ],
)
def test_impossible_geometry(change: Any, words: str, corner8_table: dict[str, Any]) -> None:
    change(corner8_table)
    assert words in refusal(corner8_table)


def _leaves(table: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(table, dict):
        return [leaf for key, value in table.items() for leaf in _leaves(value, (*path, key))]
    if isinstance(table, list):
        return [leaf for i, value in enumerate(table) for leaf in _leaves(value, (*path, i))]
    return [path]


def test_fingerprint_changes_with_every_value(corner8: Machine, corner8_table: dict[str, Any]) -> None:
    seen = {corner8.sha256}
    changed = 0
    for path in _leaves(corner8_table):
        table = copy.deepcopy(corner8_table)
        place = table
        for part in path[:-1]:
            place = place[part]
        old = place[path[-1]]
        new = f"{old}x" if isinstance(old, str) else old + 1 if isinstance(old, int) else old * 0.999 - 1e-9
        place[path[-1]] = new
        try:
            seen.add(machine_from_table(table).sha256)
            changed += 1
        except MachineFileError:
            pass  # axes, dictionaries and zeros that may not change
    assert changed > 100
    assert len(seen) == changed + 1
    assert len(corner8.sha256) == 64
    assert machine_from_table(corner8_table).sha256 == corner8.sha256


def test_files_that_cannot_be_read(tmp_path: Any) -> None:
    cases = {"broken.toml": b"[lens\n", "bytes.toml": b"\xff\xfe\x00", "empty.toml": b"", "list.toml": b"lens = 3\n"}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
    for name in (*cases, "none.toml", ""):
        with pytest.raises(BadInput) as caught:
            load_machine(tmp_path / name if name else tmp_path)
        assert "\n" not in str(caught.value)
    with pytest.raises(MachineFileError, match="packaged machines: corner8, vitrifier"):
        load_machine("corner9")


def test_a_file_of_ones_own(tmp_path: Any) -> None:
    (tmp_path / "mine.toml").write_text(load_text().replace('name = "corner8"', 'name = "mine"'), encoding="utf-8")
    assert load_machine(tmp_path / "mine.toml").name == "mine"
    assert load_machine(str(tmp_path / "mine.toml")).sha256 != load_machine().sha256
