"""Randomised quantities: ranges, one at a time, refusals, nominal values from the machine file."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from melter.env.noise import keys_of
from melter.env.params import NAMES, NOMINAL, QUANTITIES, Quantity, Randomisation, nominal_values
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
    # the whole range is used, and each lane on its own
    assert (values.min(axis=0) < low + 0.05 * width).all()
    assert (values.max(axis=0) > high - 0.08 * width).all()


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
    with pytest.raises(BadInput, match="unknown quantity gravity; known: cable_stiffness_n"):
        Randomisation(only=("gravity",))


def test_names_and_units_are_told() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(quantity.unit for quantity in QUANTITIES)
    assert dataclasses.replace(QUANTITIES[0], low=1e3).low == 1e3
