"""The teller talks to rehearsal machines only."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from melter.loop.teller import Teller


class Camera:
    """An HTTP server that calls itself ``name`` and notes what it is asked."""

    def __init__(self, name: str) -> None:
        asked: list[tuple[str, str, bytes]] = []

        class Handler(BaseHTTPRequestHandler):
            server_version, sys_version = name, ""

            def do_HEAD(self) -> None:
                asked.append(("HEAD", self.path, b""))
                self.send_response(200)
                self.end_headers()

            def do_POST(self) -> None:
                asked.append(("POST", self.path, self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.asked = asked
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/camera.mjpg"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def camera(request: pytest.FixtureRequest) -> Iterator[Camera]:
    made = Camera(request.param)
    yield made
    made.close()


@pytest.mark.parametrize("camera", ["melter-twin"], indirect=True)
def test_a_twin_is_told(camera: Camera) -> None:
    with Teller(camera.url) as teller:
        teller.tell([0.1, -0.2])
        for _ in range(100):
            if len(camera.asked) > 1:
                break
            time.sleep(0.02)
    told = [json.loads(body) for how, path, body in camera.asked if (how, path) == ("POST", "/target")]
    assert told[0]["target_world_m"] == [0.1, -0.2]
    assert told[0]["host_s"] <= time.monotonic()


@pytest.mark.parametrize("camera", ["IP Webcam 1.0"], indirect=True)
def test_a_real_camera_is_left_alone(camera: Camera) -> None:
    with Teller(camera.url) as teller:
        for _ in range(5):
            teller.tell([0.1, -0.2])
        time.sleep(0.2)
    assert [how for how, _, _ in camera.asked] == ["HEAD"]


@pytest.mark.parametrize("source", ["0", "video.mp4", "rtsp://10.0.0.1/cam", "http://127.0.0.1:9/cam", "http://[bad"])
def test_other_sources(source: str) -> None:
    with Teller(source) as teller:
        teller.tell([0, 0])


def test_a_server_that_speaks_no_http() -> None:
    import socket

    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = server.accept()
        connection.recv(100)
        connection.sendall(b"220 some other protocol\r\n\r\n")
        connection.close()

    thread = threading.Thread(target=answer)
    thread.start()
    with Teller(f"http://127.0.0.1:{server.getsockname()[1]}/cam") as teller:
        teller.tell([0, 0])
    thread.join()
    server.close()
