"""Calibrated files: TOML that reads back, values in their places, ranges that training can use."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest

from melter.calibration.fit import Posterior
from melter.calibration.machine_file import calibrated_table, confidence, narrowed_table, to_toml
from melter.calibration.noise import Noise
from melter.calibration.parameters import Parameters
from melter.calibration.report import INTERVAL, findings
from melter.env.noise import keys_of
from melter.env.params import QUANTITIES, Randomisation
from melter.errors import BadInput
from melter.machine import load_machine, machine_from_table, packaged_machines

MACHINE = load_machine()
PARAMETERS = Parameters.for_machine(MACHINE)


def posterior(u: np.ndarray, deviation: float = 0.2) -> Posterior:
    slope = np.zeros((PARAMETERS.size, 8))
    slope[0] = 1e-3
    return Posterior(
        parameters=PARAMETERS,
        u=u,
        covariance=np.eye(PARAMETERS.size) * deviation**2,
        zeros_m=np.linspace(-0.004, 0.004, 8),
        zeros_slope=slope,
        tension_n=np.array([[20.0] * 8, [250.0] * 8]),
        noise=(Noise(5e-4, 1e-4, 2e-4),) * 3,
        residual_m=4e-4,
        before_m=4e-3,
        frames=2000,
        left_out=3,
    )


@pytest.mark.parametrize("name", packaged_machines())
def test_a_machine_reads_back_from_its_toml(name: str) -> None:
    machine = load_machine(name)
    text = to_toml(machine.model_dump(exclude_none=True), {"drive.drum_radius_m": "a remark"}, "two\nlines")
    assert machine_from_table(tomllib.loads(text)) == machine
    assert "# a remark" in text


def test_values_stand_in_their_places() -> None:
    u = PARAMETERS.vector({"cable_stiffness_n": np.array([[42e3]]), "drum_gain": np.array([[1.004]])})[0]
    u[PARAMETERS.slice_of("pulley_m")] = 1.0
    table, remarks = calibrated_table(MACHINE, posterior(u), 0.081)
    found = machine_from_table(tomllib.loads(to_toml(table, remarks, "x")))
    assert found.drive.cable_stiffness_n == pytest.approx(42e3)
    assert found.drive.drum_radius_m == pytest.approx(1.004 * MACHINE.drive.drum_radius_m)
    assert found.drive.steps_per_mm == MACHINE.drive.steps_per_mm
    assert found.control.action_delay_s == pytest.approx(0.081)
    assert found.pulleys_world_m == pytest.approx(MACHINE.pulleys_world_m + 0.003 / np.sqrt(3), abs=1e-5)
    assert found.limits == MACHINE.limits
    assert found.park == MACHINE.park


def test_an_impossible_machine_is_refused() -> None:
    u = np.zeros(PARAMETERS.size)
    u[PARAMETERS.slice_of("cable_stiffness_n")] = 40.0
    with pytest.raises(BadInput, match=r"cable_stiffness_n"):
        calibrated_table(MACHINE, posterior(u), 0.08)


def test_training_ranges_are_narrower_and_hold_what_was_found(tmp_path: Path) -> None:
    u = np.zeros(PARAMETERS.size)
    u[PARAMETERS.slice_of("cable_stiffness_n")] = 1.7  # at the end of the table
    file = tmp_path / "narrow.toml"
    file.write_text(narrowed_table(posterior(u), 0.081), encoding="utf-8")
    drawn = Randomisation.from_file(file).draw(keys_of(np.arange(200), np.zeros(200, dtype=int)), MACHINE)
    table = {quantity.name: quantity for quantity in QUANTITIES}
    stiffness = drawn["cable_stiffness_n"]
    assert 85e3 < stiffness.min() < stiffness.max() <= table["cable_stiffness_n"].high * 1.000001
    assert np.ptp(drawn["drum_gain"]) < 0.25 * 0.02
    # what the fit does not tell is as unknown as it was, and every quantity is there
    assert np.ptp(drawn["wind_m_s"]) > 5.0
    assert np.ptp(drawn["zero_position_m"]) > 0.007
    assert np.ptp(drawn["pulley_m"][:, 0]) < 0.25 * 0.006
    assert np.ptp(drawn["camera_delay_s"]) < 0.25 * 0.19
    assert 0.070 < drawn["action_delay_s"].min() < drawn["action_delay_s"].max() < 0.092
    assert {quantity.name for quantity in Randomisation.from_file(file).quantities} == set(table)
    assert set(Randomisation.from_file(file).only) == set(table)


def test_intervals_are_those_of_the_posterior() -> None:
    u = np.zeros(PARAMETERS.size)
    rows = {row.name: row for row in findings(PARAMETERS, u, np.zeros(8), posterior(u))}
    mass = rows["moving mass"]
    assert mass.deviation[0] == pytest.approx(0.2 * mass.prior[0])
    assert mass.share == pytest.approx(0.2)
    # a drum's radius: what all share and its own add up
    expected = 0.020 * np.hypot(0.02, 0.004) / np.sqrt(12)
    assert rows["drum radius"].prior == pytest.approx([expected] * 8, rel=0.01)
    assert rows["cable zero"].deviation == pytest.approx([0.2e-3] * 8)
    told = confidence(list(rows.values()), ["a"] * 8)
    assert told["moving mass"]["high"] - told["moving mass"]["value"] == pytest.approx(INTERVAL * mass.deviation[0])
    assert len(told["cable zero"]["low"]) == 8
