from pathlib import Path

import numpy as np
import pytest

from melter.errors import BadInput, OutputExists
from melter.vision.opencv import cv2
from melter.vision.video import VideoWriter


def picture(i: int, height: int = 48, width: int = 64) -> np.ndarray:
    out = np.zeros((height, width, 3), dtype=np.uint8)
    out[..., 0] = 20 * i
    out[: height // 2, : width // 2, 2] = 200
    return out


def frames_of(path: Path) -> list[np.ndarray]:
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        good, frame = capture.read()
        if not good:
            return frames
        frames.append(frame[:, :, ::-1])


def test_mp4_opens_again_with_its_size_rate_and_colours(tmp_path):
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 20.0) as video:
        for i in range(10):
            video.write(picture(i))
    frames = frames_of(path)
    assert [f.shape for f in frames] == [(48, 64, 3)] * 10
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(20)
    assert frames[9][40, 60, 0] == pytest.approx(180, abs=12)
    assert frames[9][40, 60, 2] < 30
    assert frames[9][5, 5, 2] > 150
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_odd_sizes_keep_every_pixel(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 20.0) as video:
        video.write(picture(3, 31, 45))
    assert frames_of(tmp_path / "a.mp4")[0].shape == (32, 46, 3)


def test_gif_has_its_pictures_and_its_time(tmp_path):
    image = pytest.importorskip("PIL.Image")
    with VideoWriter(tmp_path / "a.gif", 30.0) as video:
        for i in range(10):
            video.write(picture(i))
    with image.open(tmp_path / "a.gif") as gif:
        assert gif.size == (64, 48)
        assert gif.n_frames == 10
        total_ms = 0
        for i in range(gif.n_frames):
            gif.seek(i)
            total_ms += gif.info["duration"]
    assert total_ms == pytest.approx(333, abs=10)


@pytest.mark.parametrize(("name", "word"), [("a.avi", ".avi"), ("a", "(none)"), ("gone/a.mp4", "no such folder")])
def test_refuses_paths(tmp_path, name, word):
    with pytest.raises(BadInput, match=word.replace("(", r"\(").replace(")", r"\)")):
        VideoWriter(tmp_path / name, 20.0)


def test_never_overwrites_unless_asked(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"mine")
    with pytest.raises(OutputExists):
        VideoWriter(path, 20.0)
    assert path.read_bytes() == b"mine"
    with VideoWriter(path, 20.0, overwrite=True) as video:
        video.write(picture(1))
    assert len(frames_of(path)) == 1


def test_a_file_that_appeared_meanwhile_stays(tmp_path):
    video = VideoWriter(tmp_path / "a.mp4", 20.0)
    video.write(picture(1))
    (tmp_path / "a.mp4").write_bytes(b"mine")
    with pytest.raises(OutputExists):
        video.close()
    assert (tmp_path / "a.mp4").read_bytes() == b"mine"
    assert len(list(tmp_path.iterdir())) == 1


def break_off(path: Path, error: type[BaseException]) -> None:
    with VideoWriter(path, 20.0) as video:
        video.write(picture(1))
        raise error


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_an_error_leaves_nothing_and_an_interrupt_keeps_what_was_written(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with pytest.raises(RuntimeError):
        break_off(path, RuntimeError)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt):
        break_off(path, KeyboardInterrupt)
    assert len(frames_of(path)) == 1
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_no_picture_no_file(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 20.0):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_refuses_what_is_no_picture(tmp_path, bad):
    with VideoWriter(tmp_path / "a.mp4", 20.0) as video, pytest.raises(BadInput):
        video.write(bad)


def test_all_pictures_have_one_size(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 20.0) as video:
        video.write(picture(1))
        with pytest.raises(BadInput, match="like the first"):
            video.write(picture(1, 50, 64))


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, 241.0, float("nan")])
def test_refuses_rates(tmp_path, rate_hz):
    with pytest.raises(BadInput, match="rate"):
        VideoWriter(tmp_path / "a.mp4", rate_hz)
