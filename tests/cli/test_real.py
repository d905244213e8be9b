"""``melter real``: everything it refuses before anything moves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from melter.cli.main import main
from melter.errors import BadInput
from melter.machine import Machine
from melter.vision.opencv import cv2

Made = Callable[[Path], Path]


@pytest.fixture
def certified(hand_made: Made, corner8: Machine, tmp_path: Path) -> Path:
    """A run with a certificate, as a passed safety check would leave it."""
    from melter.safety.bundle import load_policy
    from melter.safety.claims import CERTIFICATE_FORMAT

    folder = hand_made(tmp_path / "runs" / "good")
    table = {
        "format": CERTIFICATE_FORMAT,
        "verdict": "pass",
        "model_sha256": load_policy(folder).sha256,
        "machine_sha256": corner8.sha256,
    }
    (folder / "certificate.json").write_text(json.dumps(table))
    return folder


@pytest.fixture
def grey(tmp_path: Path) -> Path:
    """A camera that sees nothing: one grey picture."""
    file = tmp_path / "grey.png"
    cv2.imwrite(str(file), np.full((480, 640), 128, np.uint8))
    return file


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(words: list[str], capsys: pytest.CaptureFixture[str], folder: Path) -> str:
    before = sorted(folder.rglob("*"))
    assert main(["real", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("melter: ")]
    assert len(lines) == 1
    assert "Traceback" not in err
    assert sorted(folder.rglob("*")) == before
    return lines[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--camera", ""], "--camera"),
        (["--port", ""], "--port"),
        (["--minutes", "-1"], "--minutes"),
        (["--minutes", "nan"], "--minutes"),
        (["--feed-mm-s", "0"], "--feed-mm-s"),
        (["--feed-mm-s", "100"], "--feed-mm-s"),
        (["--path", "heart:0.1"], "--path|path"),
        (["--path", "square:2"], "outside the bed"),
        (["--path", "none.csv"], "none.csv"),
        (["--sun", "25"], "--sun"),
        (["--sun", "80,180"], "cannot hold"),
        (["--sun", "95,180"], "--sun zenith"),
        (["--sun", "now"], "--place"),
        (["--place", "100,0"], "--place latitude"),
        (["--place", "x"], "--place"),
        (["--keep-frames", "-1"], "--keep-frames"),
        (["--sun", "nan,180"], "--sun zenith"),
        (["--machine", "nowhere"], "nowhere"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_options(
    words: list[str], told: str, certified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"--camera": "0", "--port": "/dev/none", "--model": str(certified)} | dict([words])
    flat = [word for pair in options.items() for word in pair]
    message = refused([*flat, "--arm"], capsys, tmp_path)
    assert any(part in message for part in told.split("|"))


def test_nobody_there_to_arm(certified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--arm" in refused(["--camera", "0", "--port", "/dev/none", "--model", str(certified)], capsys, tmp_path)


def test_a_model_without_a_certificate(hand_made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = hand_made(tmp_path / "fresh")
    words = ["--camera", "0", "--port", "/dev/none", "--arm"]
    assert "melter safety-check" in refused([*words, "--model", str(model)], capsys, tmp_path)
    assert "no certified run" in refused(words, capsys, tmp_path)


def test_a_certificate_for_another_machine_or_model(
    certified: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--camera", "0", "--port", "/dev/none", "--arm", "--model", str(certified)]
    (tmp_path / "heavy.toml").write_text(
        (root / "models" / "corner8.toml").read_text().replace("moving_mass_kg = 6.0", "moving_mass_kg = 6.5")
    )
    assert "machine" in refused([*words, "--machine", "heavy.toml"], capsys, tmp_path)
    table = json.loads((certified / "certificate.json").read_text())
    (certified / "certificate.json").write_text(json.dumps(table | {"model_sha256": "0" * 64}))
    assert "certificate" in refused(words, capsys, tmp_path)
    (certified / "certificate.json").write_text(json.dumps(table | {"verdict": "fail"}))
    assert "certificate" in refused(words, capsys, tmp_path)


def test_the_newest_certified_run_is_taken(certified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["real", "--camera", "none.mp4", "--port", "/dev/none", "--arm"]) == 2
    assert str(certified.relative_to(tmp_path)) in capsys.readouterr().err


@pytest.mark.parametrize("camera", ["none.mp4", "/dev/null", "empty"])
def test_a_camera_that_gives_no_frame(
    camera: str, certified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    words = ["--camera", camera, "--port", "/dev/none", "--arm", "--model", str(certified)]
    assert camera in refused(words, capsys, tmp_path)


def test_a_camera_that_sees_no_markers(
    certified: Path, grey: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--camera", str(grey), "--port", "/dev/none", "--arm", "--model", str(certified)]
    assert "grey.png" in refused(words, capsys, tmp_path)


class _Watcher:
    def __init__(self, *_: object, **__: object) -> None:
        pass

    def take_reference(self) -> object:
        return object()


@pytest.mark.parametrize("kind", ["none", "busy"])
def test_a_port_that_is_not_there_or_busy(
    kind: str,
    certified: Path,
    grey: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import fcntl
    import os

    from melter.vision import watch

    monkeypatch.setattr(watch, "PatchWatcher", _Watcher)
    port, held = "/dev/none", None
    if kind == "busy":
        device, host = os.openpty()
        held, port = (device, host), os.ttyname(host)
        fcntl.flock(host, fcntl.LOCK_EX | fcntl.LOCK_NB)
    words = ["--camera", str(grey), "--port", port, "--arm", "--model", str(certified), "--out", str(tmp_path / "out")]
    assert port in refused(words, capsys, tmp_path)
    for fd in held or ():
        os.close(fd)


def test_figures_before_and_after_learning(corner8: Machine, tmp_path: Path) -> None:
    from melter.cli import real_figures
    from melter.loop.session import Result
    from melter.policy.adapt import Adapter

    result = Result()
    for error_mm in [100.0] * 40 + [3.0] * 600 + [50.0] * 20 + [1.0] * 1300:
        result.note_error(np.array([error_mm * 1e-3, 0.0]), np.zeros(2))
    session: Any = SimpleNamespace(machine=corner8, result=result, learning_from=640, pole=None)
    table = real_figures.before_and_after(Adapter(corner8), session, tmp_path)
    assert table["before"]["rms_mm"] == pytest.approx(3)
    assert table["after"]["rms_mm"] == table["after"]["smooth_rms_mm"] == pytest.approx(1)
    assert (tmp_path / "learned.json").exists()
    assert real_figures.before_and_after(None, session, tmp_path)["after"] is None
    assert real_figures.figures(Result(), 20.0, 40)["rms_mm"] is None
    moving = Result()
    for _ in range(60):
        moving.note_error(np.array([0.001, 0.0]), np.array([0.010, 0.0]))
    assert real_figures.figures(moving, 20.0, 0, late_s=0.1)["rms_mm"] == pytest.approx(0, abs=1e-9)


def test_what_was_learnt_on_another_machine_is_refused(corner8: Machine, tmp_path: Path) -> None:
    from melter.cli import real_figures

    for text in ("", "{}", '{"machine_sha256": "0", "state": [0], "covariance": [[0]]}'):
        (tmp_path / "learned.json").write_text(text)
        with pytest.raises(BadInput, match="learned"):
            real_figures.learner_for(corner8, no_learn=False, learned=str(tmp_path))
    with pytest.raises(BadInput, match="--no-learn"):
        real_figures.learner_for(corner8, no_learn=True, learned=str(tmp_path))


def test_the_pole_of_an_earlier_run_is_where_the_next_one_begins(corner8: Machine, tmp_path: Path) -> None:
    from melter.cli.real_figures import take_up_pole
    from melter.loop.pole import ANYWHERE_WORLD, PoleFinder

    session: Any = SimpleNamespace(pole=PoleFinder(corner8, np.array([0.0, 0.0, 1.0])))
    take_up_pole(session, None)
    for strange in ({}, {"pole_world": [0.0, 9.0, 0.0]}, {"pole_world": [0.0, None, 1.0]}, {"pole_world": 3}):
        (tmp_path / "learned.json").write_text(json.dumps(strange), encoding="utf-8")
        take_up_pole(session, str(tmp_path))
        np.testing.assert_array_equal(session.pole.pole_world, ANYWHERE_WORLD)
    (tmp_path / "learned.json").write_text(json.dumps({"pole_world": [0.0, 0.6, 0.8]}), encoding="utf-8")
    take_up_pole(session, str(tmp_path))
    np.testing.assert_array_equal(session.pole.pole_world, [0.0, 0.6, 0.8])
    take_up_pole(SimpleNamespace(pole=None), str(tmp_path))  # type: ignore[arg-type]
