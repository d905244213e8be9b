"""What ``melter real`` makes sure of, and what follows from each tick: sky, counters, pictures, screen, last known state."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from melter.cli import real_preflight
from melter.cli.main import main
from melter.cli.real_preflight import Sky, require_parked, require_sky, sky_of, told, wait_for_key, write_pictures
from melter.cli.real_show import Show
from melter.errors import BadInput, CommandRefused
from melter.geometry.paths import parse_path
from melter.loop.lastknown import LastKnown, place_for, write_last_known
from melter.loop.preflight import highest_zenith_deg
from melter.loop.screen import View
from melter.machine import Machine

PORT = "/dev/ttyUSB0"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_sky(corner8: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machines = corner8.sun.zenith_rad, corner8.sun.azimuth_rad
    assert sky_of(None, None, corner8) == Sky(machines, None)
    assert sky_of("30, 170", None, corner8).sun_rad == pytest.approx(np.radians([30, 170]))
    assert sky_of(None, "48,11", corner8) == Sky(machines, pytest.approx(np.radians(48)))

    class Noon(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime(2026, 6, 21, 11, 16, tzinfo=UTC)  # near noon at 11 degrees east

    monkeypatch.setattr(real_preflight, "datetime", Noon)
    now = sky_of("now", "48,11", corner8)
    assert np.degrees(now.sun_rad) == pytest.approx([48 - 23.43, 180], abs=1.0)


@pytest.mark.parametrize(
    ("sun", "place", "named"),
    [
        ("now", None, "--place"),
        ("30", None, "--sun 30"),
        ("91,0", None, "--sun zenith 91"),
        ("nan,0", None, "--sun zenith"),
        ("30,361", None, "--sun azimuth"),
        (None, "91,0", "--place latitude"),
        (None, "0,181", "--place longitude"),
        (None, "here", "--place here"),
    ],
)
def test_a_sky_that_cannot_be(sun: str | None, place: str | None, named: str, corner8: Machine) -> None:
    with pytest.raises(BadInput, match=named):
        sky_of(sun, place, corner8)


def test_a_sun_that_sinks_too_low_during_the_run(corner8: Machine) -> None:
    path = parse_path("square:0.3", 0.0005)  # forty minutes
    highest = highest_zenith_deg(corner8, path, float(np.radians(230.0)))
    assert highest is not None
    afternoon = Sky((float(np.radians(highest - 0.5)), float(np.radians(230.0))), float(np.radians(48.0)))
    require_sky(corner8, path, Sky(afternoon.sun_rad, None), None)
    with pytest.raises(BadInput, match="at the end of the run, 40 min from now: the cables cannot hold"):
        require_sky(corner8, path, afternoon, None)


def test_what_the_person_is_told(corner8: Machine) -> None:
    words = told(corner8, Sky((0.5, 3.0), None))
    assert "zenith 28.6 deg" in words
    assert "until the light tells" in words
    assert "(0.45, 0.45)" in words
    assert "followed" in told(corner8, Sky((0.5, 3.0), 0.8))


def known(corner8: Machine, positions_m: np.ndarray, state: str) -> None:
    file = place_for(corner8, PORT)
    file.parent.mkdir(parents=True)
    write_last_known(file, LastKnown(corner8.sha256, tuple(positions_m.tolist()), state, False, "2026-06-21T10:00:00Z"))


def test_at_park(corner8: Machine) -> None:
    require_parked(np.zeros(8), corner8, PORT)
    known(corner8, np.full(8, 0.0003), "parked")
    require_parked(np.zeros(8), corner8, PORT)


def test_not_at_park(corner8: Machine) -> None:
    away = np.zeros(8)
    away[2] = -0.0021
    with pytest.raises(BadInput, match=r"NW-upper stands -2\.1 mm from park.*melter real --recover or by hand"):
        require_parked(away, corner8, PORT)


def test_counters_at_zero_of_a_board_that_restarted(corner8: Machine) -> None:
    """The dangerous case: all looks parked, and the lens hangs in work."""
    known(corner8, np.linspace(-0.6, 0.4, 8), "work")
    with pytest.raises(
        BadInput, match=r"the board has restarted.*melter real --recover; if the lens is at park, remove"
    ):
        require_parked(np.zeros(8), corner8, PORT)
    require_parked(np.zeros(8), corner8, "/dev/another")


def test_recovering_needs_a_person(corner8: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["real", "--recover", "--camera", "0", "--port", PORT, "--arm"]) == 2
    assert "--recover: a person" in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "armed"), [("\n", True), ("y\n", False), ("", False)])
def test_the_key(typed: str, armed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    if armed:
        wait_for_key()
    else:
        with pytest.raises(CommandRefused, match="not armed"):
            wait_for_key()


def test_the_pictures(corner8: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from melter.vision.opencv import cv2
    from melter.vision.preflight import KEEP_IN, PATH
    from melter.vision.scene import SceneOptions, SceneRenderer
    from melter.vision.tracker import PatchTracker

    renderer = SceneRenderer(corner8, np.random.default_rng(1), SceneOptions())
    centre = np.array(corner8.park.lens_centre_world_m)
    image = renderer.render(centre, np.eye(3), np.zeros(2), np.array([1e-4, 0, 1e-4]), 1.0, exposure=1.0, sun_share=1.0)
    tracker = PatchTracker(corner8)
    tracker.set_reference(image)
    write_pictures(tmp_path, image, tracker, corner8, parse_path("square:0.3", 0.003))
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "reference.png")), image)
    drawn = cv2.imread(str(tmp_path / "preflight.png")).astype(int)
    for colour in (KEEP_IN, PATH):
        assert (np.abs(drawn - colour).max(axis=2) < 40).sum() > 100


def test_what_follows_from_a_tick() -> None:
    noted: list[Any] = []
    kept: list[float] = []
    told_to: list[Any] = []
    result = SimpleNamespace(errors_mm=[1.0] * 30, ticks=7, late=1, faults=[])
    session: Any = SimpleNamespace(result=result, gate=SimpleNamespace(park_lengths_m=np.ones(8)))
    view = View(10.0)
    keeper: Any = SimpleNamespace(note=lambda positions, state: noted.append((positions, state)))
    frames: Any = SimpleNamespace(fault=kept.append)
    show = Show(session, view, keeper, frames, told_to.append)
    show({"state": "work", "lengths_m": np.full(8, 1.25), "target_world_m": [0.1, 0.2]})
    np.testing.assert_allclose(noted[0][0], 0.25)
    assert noted[0][1] == "work"
    assert told_to == [[0.1, 0.2]]
    assert (view.state, view.ticks, view.late, len(view.errors_mm)) == ("work", 7, 1, 20)
    assert kept == []
    result.faults.append("Fault: shadow")
    show({"state": "darkening", "lengths_m": None})
    show({"state": "darkening", "lengths_m": None})
    assert view.faults == ("Fault: shadow",)
    assert len(kept) == 1
    assert len(noted) == 1
    assert json.dumps(view.state) == '"darkening"'
