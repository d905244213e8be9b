import json

import numpy as np
import pytest
from PIL import Image

from melter.cli.enjoy import run
from melter.cli.main import main
from melter.env import gl, window
from melter.errors import BadInput, OutputExists
from melter.machine import load_machine
from melter.observation import ObservationBuilder
from melter.safety.bundle import manifest_for, save_bundle
from melter.safety.net import PolicyNet
from melter.vision.opencv import cv2


@pytest.fixture(autouse=True)
def no_screen(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MUJOCO_GL", "disable")
    gl.working_gl.cache_clear()
    yield
    gl.working_gl.cache_clear()


@pytest.fixture
def model(tmp_path):
    """A policy that follows the plan and never looks at the light."""
    machine = load_machine()
    builder = ObservationBuilder(machine)
    weight = np.zeros((8, builder.size), np.float32)
    for i in range(8):
        weight[i, builder.slice_of("feed_forward").start + i] = 0.1
        weight[i, builder.slice_of("length_error").start + i] = 0.2
    net = PolicyNet(((weight, np.zeros(8, np.float32)),), "tanh", "clip")
    save_bundle(tmp_path / "run", net, manifest_for(net, machine, builder.table, builder.sha256, "hand"))
    return tmp_path / "run"


def test_video_and_error_as_json(model, tmp_path, capsys):
    video = tmp_path / "a.mp4"
    assert run([str(model), "--video", str(video), "--seconds", "1", "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["video"] == str(video)
    assert 0 < out["rms_mm"] < 50
    assert out["ending"] == "time is up"
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) == 21


def test_default_video_lies_beside_the_model_and_is_never_overwritten(model, capsys):
    assert run([str(model / "policy.safetensors"), "--seconds", "0.5"]) == 0
    before = (model / "enjoy.mp4").read_bytes()
    with pytest.raises(OutputExists, match="--force"):
        run([str(model), "--seconds", "0.5"])
    assert (model / "enjoy.mp4").read_bytes() == before
    assert run([str(model), "--seconds", "1", "--force"]) == 0
    assert (model / "enjoy.mp4").read_bytes() != before
    assert "mm RMS" in capsys.readouterr().out


def test_same_seed_same_play(model, tmp_path, capsys):
    errors = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run(
            [
                str(model),
                "--video",
                f"{tmp_path}/{name}.mp4",
                "--seconds",
                "0.5",
                "--seed",
                seed,
                "--json",
                "--suite",
                "train",
            ]
        )
        errors.append(json.loads(capsys.readouterr().out)["rms_mm"])
    assert errors[0] == errors[1] != errors[2]


@pytest.mark.parametrize(
    "more",
    [
        ["--seconds", "0.1"],
        ["--seconds", "nan"],
        ["--seed", "-1"],
        ["--suite", "moon"],
        ["--machine", "gone"],
        ["--video", "gone/a.mp4"],
        ["--speed", "0"],
        ["--speed", "101"],
        ["a", "b", "c", "d"],
    ],
)
def test_bad_input_writes_nothing(model, more, capsys):
    before = sorted(model.iterdir())
    assert main(["enjoy", str(model), *more]) == 2
    assert sorted(model.iterdir()) == before
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_several_play_the_same_episode_side_by_side(model, tmp_path, capsys):
    video = tmp_path / "both.gif"
    words = ["--controller", "servo", "--video", str(video), "--seconds", "1", "--suite", "train", "--json"]
    assert run([str(model), *words]) == 0
    both = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in both["players"]] == [str(model), "servo"]
    assert both["rms_mm"] == both["players"][0]["rms_mm"] != both["players"][1]["rms_mm"]
    assert run([str(model), *words[4:], "--video", str(tmp_path / "one.mp4")]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["rms_mm"] == both["rms_mm"], "who plays beside it changes nothing"
    assert alone["seconds"] == pytest.approx(1.0)
    with Image.open(video) as picture:
        assert picture.size == (1600, 540)


def test_faster_than_the_machine(model, tmp_path):
    video = tmp_path / "a.mp4"
    assert run([str(model), "--video", str(video), "--seconds", "2", "--speed", "4"]) == 0
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) == 11


def test_a_live_window_where_there_is_a_display(model, monkeypatch, capsys):
    shown = []

    class Shown:
        def __init__(self, title):
            assert "servo" in title

        def __enter__(self):
            return self

        def __exit__(self, *_):
            shown.append("closed")

        def show(self, picture):
            shown.append(picture.shape)
            return len(shown) < 4

    monkeypatch.setattr(window, "has_display", lambda: True)
    monkeypatch.setattr(window, "Window", Shown)
    assert run([str(model), "--controller", "servo", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["video"], result["ending"]) == (None, "window closed")
    assert shown == [(540, 1600, 3)] * 4 + ["closed"]
    assert not list(model.glob("*.mp4"))


def test_no_such_model():
    with pytest.raises(BadInput, match="gone"):
        run(["gone"])


def test_interrupt_keeps_the_video_so_far(model, tmp_path, monkeypatch):
    from melter.env.view import SideBySide

    whole, count = SideBySide.picture, 0

    def picture(self):
        nonlocal count
        count += 1
        if count > 5:
            raise KeyboardInterrupt
        return whole(self)

    monkeypatch.setattr(SideBySide, "picture", picture)
    assert main(["enjoy", str(model), "--video", str(tmp_path / "a.mp4")]) == 130
    assert cv2.VideoCapture(str(tmp_path / "a.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 5
