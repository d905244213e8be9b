"""Sources of frames: files, folders, streams that stall, change size, break and come back."""

from __future__ import annotations

import http.server
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from melter.errors import CameraError, VisionFault
from melter.vision.camera import BrokenFrame, Frame, open_camera, read_image
from melter.vision.live import LiveCamera


def grey(code: int, size=(32, 24)) -> np.ndarray:
    return np.full((size[1], size[0]), code, np.uint8)


def test_a_folder_is_read_in_natural_order_and_broken_files_are_told(tmp_path: Path) -> None:
    for n in (10, 9, 1):
        cv2.imwrite(str(tmp_path / f"f{n}.png"), grey(n))
    (tmp_path / "f11.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    (tmp_path / "f12.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no picture")
    with open_camera(str(tmp_path)) as stream:
        frames = list(stream.frames())
        assert [int(f.image[0, 0]) for f in frames if isinstance(f, Frame)] == [1, 9, 10]
        assert [f.number for f in frames] == [0, 1, 2, 3, 4]
        assert all(isinstance(f, BrokenFrame) and f.reason for f in frames[3:])
        assert stream.stats.frames == 3
        assert stream.stats.broken == 2


def test_sixteen_bits_and_alpha_are_kept_and_dropped(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((20, 20), 40_000, np.uint16))
    cv2.imwrite(str(tmp_path / "b.png"), np.full((20, 20, 4), 7, np.uint8))
    assert read_image(tmp_path / "a.png").dtype == np.uint16
    assert read_image(tmp_path / "b.png").shape == (20, 20, 3)


def test_a_video_file(tmp_path: Path) -> None:
    path = str(tmp_path / "v.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
    for n in range(5):
        writer.write(np.full((48, 64, 3), 40 * n, np.uint8))
    writer.release()
    with open_camera(path) as stream:
        frames = list(stream.frames())
    assert len(frames) == 5
    assert frames[4].t_s == pytest.approx(0.2)


@pytest.mark.parametrize("source", ["/nowhere/at/all.png", "http://127.0.0.1:9/none", "ftp//x", "97"])
def test_what_cannot_be_opened_says_so_in_one_line(source: str) -> None:
    with pytest.raises(CameraError) as caught:
        open_camera(source, timeout_s=1.0)
    assert source in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_and_a_text_file(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match="no images"):
        open_camera(str(tmp_path))
    (tmp_path / "x.mp4").write_text("not a video")
    with pytest.raises(CameraError, match="neither a picture nor a video"):
        open_camera(str(tmp_path / "x.mp4"))


class Device:
    """A camera that does what its script says."""

    def __init__(self, script) -> None:
        self.script = iter(script)

    def read(self):
        item = next(self.script, "gone")
        if isinstance(item, float):
            time.sleep(item)
            item = grey(1)
        if isinstance(item, str):
            raise CameraError(item)
        return None if item is None else item.copy()

    def close(self) -> None:
        pass


def wait_for(condition, seconds=5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


def test_the_newest_frame_is_held_and_skipped_ones_are_counted() -> None:
    hold = threading.Event()

    class Slow(Device):
        def read(self):
            item = super().read() if not hold.is_set() else grey(99)
            time.sleep(0.01 if hold.is_set() else 0)
            return item

    with LiveCamera("x", lambda: Slow([grey(n) for n in range(1, 6)] + [0.3] * 20), 2.0) as camera:
        wait_for(lambda: camera.stats.frames >= 5)
        hold.set()
        frame = camera.latest(3)
        assert frame.number >= 4
        assert camera.stats.skipped >= 1
        newer = camera.latest(frame.number)
        assert newer.number > frame.number
        assert newer.captured_host_s > frame.captured_host_s


def test_a_silent_camera_is_a_fault_and_no_old_frame_is_given() -> None:
    with LiveCamera("x", lambda: Device([grey(1), 30.0]), 2.0) as camera:
        number = camera.latest().number
        with pytest.raises(VisionFault, match="no new frame"):
            camera.latest(number, timeout_s=0.05)
        time.sleep(0.1)
        with pytest.raises(VisionFault):
            camera.latest(-1, timeout_s=0.05)
        camera._closing.set()


def test_reconnects_broken_pictures_and_size_changes_are_counted() -> None:
    scripts = iter([[grey(1), None, grey(2, (64, 48)), "cable out"], [grey(3), grey(4)] + [0.05] * 100])
    with LiveCamera("x", lambda: Device(next(scripts)), 2.0) as camera:
        wait_for(lambda: camera.stats.reconnects == 1)
        wait_for(lambda: camera.stats.frames >= 4)
        stats = camera.stats
    assert stats.broken == 1
    assert stats.stalls == 1
    assert stats.size_changes >= 1


def test_mjpeg_over_http() -> None:
    pictures = [cv2.imencode(".jpg", grey(40 * n, (64, 48)))[1].tobytes() for n in range(1, 6)]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for coded in pictures:
                self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + coded + b"\r\n")
                time.sleep(0.02)

        def log_message(self, *args) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with open_camera(f"http://127.0.0.1:{server.server_address[1]}/", timeout_s=3.0) as camera:
            assert camera.live
            wait_for(lambda: camera.stats.reconnects >= 1)
            assert camera.latest(timeout_s=2.0).image.shape[:2] == (48, 64)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
