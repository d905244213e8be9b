"""Randomised quantities: ranges, one at a time, refusals, nominal values from the machine file."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from melter.env.noise import keys_of
from melter.env.params import (
    NAMES,
    NOMINAL,
    QUANTITIES,
    Quantity,
    Randomisation,
    nominal_values,
    sun_is_held,
    sun_motion_per_s,
)
from melter.errors import BadInput
from melter.machine import Machine

KEYS = keys_of(np.arange(500), np.zeros(500, dtype=int))


def test_nominal_is_the_machine_file(corner8: Machine) -> None:
    values = nominal_values(corner8)
    assert set(values) == set(NAMES)
    drawn = NOMINAL.draw(KEYS, corner8)
    for quantity in QUANTITIES:
        assert values[quantity.name].shape == (quantity.size,)
        assert (drawn[quantity.name] == values[quantity.name]).all()
    assert values["cable_stiffness_n"] == 60e3
    assert values["moving_mass_kg"] == 6
    np.testing.assert_array_equal(values["pulley_m"].reshape(8, 3), corner8.pulleys_world_m)


@pytest.mark.parametrize("quantity", QUANTITIES, ids=NAMES)
def test_each_alone(quantity: Quantity, corner8: Machine) -> None:
    nominal = nominal_values(corner8)
    drawn = Randomisation(only=(quantity.name,)).draw(KEYS, corner8)
    for name in NAMES:
        if name != quantity.name:
            assert (drawn[name] == nominal[name]).all()
    values, base = drawn[quantity.name], nominal[quantity.name]
    low, high = quantity.low, quantity.high
    if quantity.kind == "factor":
        low, high = base * low, base * high
    elif quantity.kind == "offset":
        low, high = base + low, base + high
    width = np.asarray(high) - np.asarray(low)
    assert (values >= low - 1e-12).all()
    assert (values <= high + 1e-12).all()
    if quantity.name in ("sun_zenith_deg", "sun_azimuth_deg"):  # only where the machine can work
        assert np.ptp(values) > 0.5 * width
        return
    # the whole range is used, and each lane on its own
    assert (values.min(axis=0) < low + 0.05 * width).all()
    assert (values.max(axis=0) > high - 0.08 * width).all()


def test_suns_are_those_that_the_machine_holds(corner8: Machine) -> None:
    drawn = Randomisation().draw(KEYS, corner8)
    zenith, azimuth = drawn["sun_zenith_deg"][:, 0], drawn["sun_azimuth_deg"][:, 0]
    own = zenith == corner8.sun.zenith_deg  # the last resort
    assert sun_is_held(corner8, zenith, azimuth)[~own].all()
    assert own.mean() < 0.02
    assert zenith.max() > 28
    assert not sun_is_held(corner8, np.array([60.0, 44.0]), np.array([180.0, 180.0])).any()


def test_all_together_in_the_ranges_of_the_machine_page(corner8: Machine) -> None:
    drawn = Randomisation().draw(KEYS, corner8)
    for name, low, high in (
        ("cable_stiffness_n", 25e3, 120e3),
        ("cable_damping_ratio", 0.01, 0.08),
        ("moving_mass_kg", 5, 8),
        ("focal_length_m", 1.22 * 0.98, 1.22 * 1.02),
        ("facet_error_mrad", 4, 9),
        ("dni_w_m2", 500, 1000),
        ("transmission", 0.5, 0.75),
        ("motor_lag_s", 0.010, 0.050),
    ):
        assert drawn[name].min() >= low - 1e-9
        assert drawn[name].max() <= high + 1e-9


def test_share_leaves_the_rest_nominal(corner8: Machine) -> None:
    nominal = nominal_values(corner8)["moving_mass_kg"]
    for share, low, high in ((0.0, 0, 0), (1.0, 500, 500), (0.5, 200, 300)):
        varied = int((Randomisation(share=share).draw(KEYS, corner8)["moving_mass_kg"] != nominal).sum())
        assert low <= varied <= high


def test_a_draw_depends_on_the_key_only(corner8: Machine) -> None:
    whole = Randomisation(share=0.5).draw(KEYS, corner8)
    for i in (0, 7, 499):
        alone = Randomisation(share=0.5).draw(KEYS[i : i + 1], corner8)
        for name in NAMES:
            np.testing.assert_array_equal(alone[name][0], whole[name][i])


def test_switching_one_quantity_off_leaves_the_others_as_drawn(corner8: Machine) -> None:
    everything = Randomisation().draw(KEYS, corner8)
    less = Randomisation(only=tuple(name for name in NAMES if name != "wind_m_s")).draw(KEYS, corner8)
    for name in NAMES:
        if name != "wind_m_s":
            np.testing.assert_array_equal(less[name], everything[name])


def test_refusals() -> None:
    with pytest.raises(BadInput, match="moving_mass_kg: low 2 must not exceed high 1 kg"):
        Quantity("moving_mass_kg", "kg", "absolute", 2, 1)
    for low, high in ((np.nan, 1), (0, np.inf)):
        with pytest.raises(BadInput, match="wind_m_s"):
            Quantity("wind_m_s", "m/s", "absolute", low, high)
    with pytest.raises(BadInput, match="cable_stiffness_n: low 0 must be above 0 N"):
        Quantity("cable_stiffness_n", "N", "log", 0, 1)
    with pytest.raises(BadInput, match="unknown quantity gravity; known: cable_stiffness_n"):
        Randomisation(only=("gravity",))


def test_names_and_units_are_told() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(quantity.unit for quantity in QUANTITIES)
    assert dataclasses.replace(QUANTITIES[0], low=1e3).low == 1e3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'wind_m_s = { unit = "m/s", kind = "absolute", low = 4, high = 3 }',
            "wind_m_s: low 4 must not exceed high 3 m/s",
        ),
        (
            'wind_ms = { unit = "m/s", kind = "absolute", low = 0, high = 3 }',
            "unknown quantity wind_ms; did you mean wind_m_s",
        ),
        (
            'wind_m_s = { unit = "km/h", kind = "absolute", low = 0, high = 3 }',
            "wind_m_s has 1 in km/h, must be 1 in m/s",
        ),
        ('wind_m_s = { unit = "m/s", kind = "absolute", low = 0 }', "wind_m_s: lacks high"),
        ('wind_m_s = { unit = "m/s", kind = "gauss", low = 0, high = 3 }', "wind_m_s.kind = gauss: must be one of"),
        (
            'wind_m_s = { unit = "m/s", kind = "absolute", low = "a", high = 3 }',
            "wind_m_s: low, high and size must be numbers",
        ),
        ('wind_m_s = { unit = "m/s", kind = "absolute", low = 0, high = 3, mean = 1 }', "wind_m_s: unknown key mean"),
        ("wind_m_s = 3", "wind_m_s = 3: must be a table"),
        ("wind_m_s = ", "not TOML"),
    ],
)
def test_bad_files_are_refused_by_name(text: str, message: str, tmp_path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(BadInput, match=message):
        Randomisation.from_file(path)


def test_a_file_of_ones_own(tmp_path, corner8: Machine) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('wind_m_s = { unit = "m/s", kind = "absolute", low = 4, high = 5 }')
    drawn = Randomisation.from_file(path).draw(KEYS, corner8)
    assert 4 <= drawn["wind_m_s"].min() < drawn["wind_m_s"].max() <= 5
    assert (drawn["moving_mass_kg"] == 6).all()
    with pytest.raises(BadInput, match="cannot be read"):
        Randomisation.from_file(tmp_path / "absent.toml")


def test_the_sun_moves_as_the_ephemeris_says() -> None:
    """pvlib's positions a minute apart, near the equinox, north and south of the equator."""
    pandas, pvlib = pytest.importorskip("pandas"), pytest.importorskip("pvlib")
    times = pandas.date_range("2026-09-22 09:00", periods=2, freq="60s", tz="UTC")
    for latitude, longitude in ((48.0, 11.0), (-33.0, 18.0), (0.0, 0.0)):
        seen = pvlib.solarposition.get_solarposition(times, latitude, longitude)
        zenith, azimuth = np.radians(seen["zenith"].to_numpy()), np.radians(seen["azimuth"].to_numpy())
        suns = np.stack([np.sin(zenith) * np.sin(azimuth), np.sin(zenith) * np.cos(azimuth), np.cos(zenith)], axis=1)
        motion = sun_motion_per_s(suns[:1], {"latitude_deg": np.array([[latitude]])})
        np.testing.assert_allclose(motion[0] * 60, suns[1] - suns[0], atol=2e-5)
