import numpy as np
import pytest

from melter.geometry.melting import absorbed_to_melt_w_m2, melting_irradiance_w_m2, molten_semi_axes_m


def test_sand_at_1700_kelvin_must_absorb_forty_watts_per_square_centimetre() -> None:
    assert absorbed_to_melt_w_m2(1700) == pytest.approx(0.40e6, rel=0.01)
    assert melting_irradiance_w_m2(1700, 0.68) == pytest.approx(0.592e6, rel=0.01)
    assert melting_irradiance_w_m2(1700, 0.68, emissivity=1.0) == pytest.approx(0.696e6, rel=0.01)


def test_thresholds_are_elementwise() -> None:
    found = melting_irradiance_w_m2([1500, 1850], [0.8, 0.5])
    np.testing.assert_array_equal(found, [melting_irradiance_w_m2(1500, 0.8), melting_irradiance_w_m2(1850, 0.5)])
    assert (np.diff(found) > 0).all()


def test_molten_part_of_a_patch() -> None:
    axes = molten_semi_axes_m([[0.02, 0.01], [0.02, 0.01], [0.02, 0.01]], [np.e**2, 1.0, 0.0], 1.0)
    np.testing.assert_allclose(axes, [[0.02, 0.01], [0, 0], [0, 0]], atol=1e-18)
