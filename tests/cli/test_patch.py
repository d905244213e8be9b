import json
from pathlib import Path

import numpy as np
import pytest

from melter.cli.main import main


def _patch(capsys, *argv: str) -> dict:
    assert main(["patch", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("defocus_m", [-0.12, 0.1])
def test_the_three_models_agree_away_from_focus(capsys, defocus_m) -> None:
    zenith = np.radians(20)
    centre = (1.22 - defocus_m) * np.array([0, -np.sin(zenith), np.cos(zenith)])
    pose = ("--lens", ",".join(map(str, centre)), "--sun", "20,180")
    conic, blur, traced = (_patch(capsys, *pose, "--model", m) for m in ("conic", "blur", "traced"))
    assert {p["kind"] for p in (conic, blur, traced)} == {"ellipse"}
    np.testing.assert_allclose(blur["centre_m"], traced["centre_m"], atol=1e-3)
    np.testing.assert_allclose(blur["semi_axes_m"], traced["semi_axes_m"], rtol=0.05)
    np.testing.assert_allclose(conic["semi_axes_m"], traced["semi_axes_m"], rtol=0.15)
    # The ellipse's middle is not its centroid: where rays are slant, light thins out.
    np.testing.assert_allclose(conic["centre_m"], traced["centre_m"], atol=20e-3)
    assert conic["defocus_m"] == pytest.approx(defocus_m, abs=1e-9)


def test_in_focus_the_cone_is_a_point_and_the_trace_has_three_suns_thousand(capsys) -> None:
    point = _patch(capsys, "--lens", "0,0,1.22", "--sun", "0,0", "--model", "conic")
    assert point["kind"] == "point"
    assert point["peak_w_m2"] is None
    traced = _patch(capsys, "--lens", "0,0,1.22", "--sun", "0,0", "--model", "traced")
    assert traced["peak_w_m2"] == pytest.approx(3.1e6, rel=0.15)
    assert traced["power_w"] + sum(traced["lost_w"].values()) == pytest.approx(traced["incident_w"])


def test_the_three_models_peaks_agree_away_from_focus(capsys) -> None:
    """Sharp, blurred and traced: the brightest place lies under the lens's higher edge."""
    pose = ("--lens", "0,0.4,1.0", "--sun", "30,0", "--model")
    conic, blur, traced = (_patch(capsys, *pose, model)["peak_w_m2"] for model in ("conic", "blur", "traced"))
    assert conic == pytest.approx(traced, rel=0.25)
    assert blur == pytest.approx(traced, rel=0.25)


def test_the_sun_of_a_place_and_time(capsys) -> None:
    at = _patch(capsys, "--at", "48.1,11.6,2026-06-21T13:15+02:00")
    assert np.degrees(at["sun_zenith_rad"]) == pytest.approx(48.1 - 23.44, abs=0.1)
    assert np.degrees(at["sun_azimuth_rad"]) == pytest.approx(180, abs=3)
    south = _patch(capsys, "--at", "-33.9,18.4,2026-12-21T12:45+02:00")
    assert np.degrees(south["sun_azimuth_rad"]) % 360 == pytest.approx(0, abs=20) or south["sun_azimuth_rad"] > 6


def test_the_outline_of_light_past_the_horizon_is_cut_off(capsys) -> None:
    edge = _patch(capsys, "--lens", "0,0,1.22", "--sun", "0,0", "--tilt-deg", "70,0", "--model", "conic")
    outline = np.array(edge["outline_m"])
    assert len(outline) >= 3
    assert np.abs(outline).max() == pytest.approx(10)
    assert 0 < edge["peak_w_m2"] < 1e5


def test_a_lens_on_edge_gives_a_hyperbola(capsys) -> None:
    assert (
        _patch(capsys, "--lens", "0,0,1.22", "--sun", "0,0", "--tilt-deg", "70,0", "--model", "conic")["kind"]
        == "hyperbola"
    )


def test_negative_numbers_and_tilt_about_world_axes(capsys) -> None:
    """A turn about world x moves the light along y, by about a millimetre per degree."""
    straight = _patch(capsys, "--lens", "-0.1,-0.2,1.22", "--sun", "0,0")
    tilted = _patch(capsys, "--lens", "-0.1,-0.2,1.22", "--sun", "0,0", "--tilt-deg", "-2,0")
    np.testing.assert_allclose(straight["centre_m"], [-0.1, -0.2], atol=1e-5)
    moved = np.array(tilted["centre_m"]) - straight["centre_m"]
    assert abs(moved[0]) < 1e-5
    assert 1e-3 < abs(moved[1]) < 4e-3
    assert tilted["tilt_rad"] == pytest.approx(np.radians(2))


@pytest.mark.parametrize("model", ["conic", "blur", "traced"])
def test_plots(capsys, tmp_path: Path, model) -> None:
    plot = tmp_path / "patch.svg"
    _patch(capsys, "--lens", "0,0,1.15", "--sun", "0,0", "--model", model, "--plot", str(plot), "--rays", "20000")
    assert "<svg" in plot.read_text()


@pytest.mark.parametrize(
    "argv",
    [
        ["--lens", "0,0"],
        ["--lens", "0,0,nan"],
        ["--lens", "0,0,-1"],
        ["--sun", "90,0"],
        ["--tilt-deg", "1e9,0"],
        ["--tilt-deg", "85,0", "--sun", "0,0"],
        ["--model", "guess"],
        ["--rays", "0"],
        ["--dni-w-m2", "-1"],
        ["--at", "48.1,11.6"],
        ["--at", "48.1,11.6,noon"],
        ["--at", "48.1,11.6,2026-06-21T12:00"],
        ["--at", "98.1,11.6,2026-06-21T12:00+00:00"],
        ["--at", "48.1,11.6,2026-06-21T23:00+00:00"],
        ["--at", "48.1,11.6,2026-06-21T12:00+00:00", "--sun", "20,0"],
    ],
)
def test_bad_input_is_one_line_and_exit_2(argv, capsys) -> None:
    assert main(["patch", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1
