"""Priors from the randomisation table, and vectors to values and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melter.calibration.parameters import FITTED, Parameters
from melter.env.noise import keys_of
from melter.env.params import Randomisation
from melter.errors import BadInput
from melter.machine import load_machine

MACHINE = load_machine()
PARAMETERS = Parameters.for_machine(MACHINE)


def test_the_prior_is_the_table_in_standard_units() -> None:
    drawn = Randomisation().draw(keys_of(np.arange(4000), np.zeros(4000, dtype=int)), MACHINE)
    u = PARAMETERS.vector({name: drawn[name] for name in FITTED})
    for name in FITTED:
        at = PARAMETERS.slice_of(name)
        assert np.abs(u[:, at].mean(axis=0)).max() < 0.08, name
        assert u[:, at].std(axis=0) == pytest.approx(1.0, abs=0.06), name


def test_values_and_vectors_undo_each_other() -> None:
    u = np.random.default_rng(3).normal(0, 0.5, (5, PARAMETERS.size))
    values = PARAMETERS.values(u)
    back = PARAMETERS.vector({quantity.name: values[quantity.name] for quantity in PARAMETERS.quantities})
    assert back == pytest.approx(u, abs=1e-9)
    assert values["pulley_m"].shape == (5, 24)
    assert values["sun_zenith_deg"][:, 0] == pytest.approx(MACHINE.sun.zenith_deg)  # not looked for: as drawn


def test_every_number_has_a_name_of_its_own() -> None:
    labels = PARAMETERS.labels
    assert len(labels) == PARAMETERS.size == len(set(labels))
    assert "pulley_m NE-upper z" in labels


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=PARAMETERS.size, max_size=PARAMETERS.size))
def test_no_negative_friction_or_delay(u: list[float]) -> None:
    values = PARAMETERS.values(PARAMETERS.bounded(np.array(u)))
    for name in ("pulley_loss", "pulley_friction_n", "motor_lag_s", "cable_creep", "pole_flex_m_per_n", "seen_delay_s"):
        assert values[name].min() >= -1e-12, name
    assert values["cable_stiffness_n"].min() > 0


def test_what_was_measured_takes_the_place_of_the_table() -> None:
    weighed = Parameters.for_machine(MACHINE, measured={"moving_mass_kg": (6.2, 0.05)})
    at = weighed.slice_of("moving_mass_kg")
    assert (weighed.mean[at], weighed.spread[at]) == (pytest.approx(6.2), pytest.approx(0.05))
    assert PARAMETERS.spread[at] > 0.5


@pytest.mark.parametrize(
    ("name", "value", "deviation"),
    [("weight", 6.0, 0.1), ("pulley_m", 0.0, 0.1), ("moving_mass_kg", 6.0, 0.0), ("moving_mass_kg", np.nan, 0.1)],
)
def test_what_cannot_have_been_measured_is_refused(name: str, value: float, deviation: float) -> None:
    with pytest.raises(BadInput, match="measured"):
        Parameters.for_machine(MACHINE, measured={name: (value, deviation)})


def test_a_known_latitude_tells_the_suns_way() -> None:
    known = Parameters.for_machine(MACHINE, latitude_rad=np.radians(45.0))
    at = known.slice_of("sun_rate")
    assert known.spread[at].max() < 0.1 * PARAMETERS.spread[at].max()
    # south at noon: the sun goes west, the earth turning once a day, times the cosine of its declination (20 degrees)
    assert known.mean[at][0] == pytest.approx(-2 * np.pi / 86_400 * np.cos(np.radians(20)), rel=1e-3)
