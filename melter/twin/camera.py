"""The twin's webcam: renders what it would see, late as a real one, and serves it as MJPEG over HTTP on loopback."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melter.errors import BadInput
from melter.machine import Machine
from melter.twin.machine import Snapshot
from melter.vision.jpeg import encode_jpeg
from melter.vision.scene import SceneRenderer

SERVER = "melter-twin"
"""What the server calls itself; a controller that sees it may tell it the target."""
BOUNDARY = "frame"
HIGHLIGHT = 0.6
"""Linear light that the automatic exposure gives the brightest sand, of full scale 1."""
FASTEST_EXPOSURE = 2e-5
ADAPT_S = 0.3
"""Time the automatic exposure takes to follow."""
MAKING_SHARE = 0.1
"""Weight of the newest picture in the mean of what pictures take to be made."""


@dataclass(frozen=True)
class Webcam:
    """The camera's hidden parameters."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    noise_m: float = 0.0
    """How far the air's shimmer shifts the patch, each frame anew."""
    loss: float = 0.0
    """Share of frames that never come."""
    saturation_w_m2: float = np.inf
    """Light on the sand that is full scale at the camera's shortest exposure."""

    @classmethod
    def from_values(cls, values: dict[str, NDArray[np.float64]], speed: float) -> Webcam:
        """Return the camera of drawn values (``melter.env.params``), ``speed`` simulated seconds per second."""
        names = ("delay_s", "jitter_s", "noise_m", "loss", "saturation_w_m2")
        delay_s, jitter_s, noise_m, loss, saturation = (float(values[f"camera_{name}"][0, 0]) for name in names)
        return cls(delay_s / speed, jitter_s / speed, noise_m, loss, saturation)


class Film:
    """A thread that turns snapshots into JPEG frames at the camera's rate."""

    def __init__(self, machine: Machine, renderer: SceneRenderer, webcam: Webcam, rng: np.random.Generator) -> None:
        self._machine, self._renderer, self._webcam, self._rng = machine, renderer, webcam, rng
        self._period_s = 1.0 / machine.camera.rate_hz
        self._shortest = max(FASTEST_EXPOSURE, renderer.exposure_for(min(webcam.saturation_w_m2, 1e12), 1.0))
        self._snapshots: deque[tuple[float, Snapshot]] = deque(maxlen=400)
        self._new = threading.Condition()
        self._jpeg, self._number = b"", 0
        self._exposure = 1.0
        self._making_s = 0.0
        """What a picture takes to be made: part of the delay, not more of it."""
        self._running = True
        self.mode = "on"
        """on, frozen, dark or gone: the camera's faults."""
        self.covered: int | None = None
        """Index of the marker that something lies on."""
        self._thread = threading.Thread(target=self._run, name="film", daemon=True)

    def start(self) -> None:
        """Start filming."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._running = False
        with self._new:
            self._new.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def put(self, snapshot: Snapshot) -> None:
        """Hand in the truth of now."""
        self._snapshots.append((time.monotonic(), snapshot))

    def wait(self, after: int, timeout_s: float = 1.0) -> tuple[int, bytes]:
        """Return the first frame after number ``after``, or the last one when none came in time."""
        with self._new:
            self._new.wait_for(lambda: self._number > after or not self._running, timeout_s)
            return self._number, self._jpeg

    @property
    def running(self) -> bool:
        """Whether frames still come."""
        return self._running and self.mode != "gone"

    def _run(self) -> None:
        due_s = time.monotonic()
        while self._running:
            due_s = max(due_s + self._period_s, time.monotonic() - self._period_s)
            time.sleep(max(0.0, due_s - time.monotonic()))
            webcam, begun_s = self._webcam, time.monotonic()
            taken = self._taken(begun_s + self._making_s - webcam.delay_s - webcam.jitter_s * self._rng.random())
            if taken is None or self.mode in ("frozen", "gone") or self._rng.random() < webcam.loss:
                continue
            jpeg = encode_jpeg(self.picture(taken))
            self._making_s += MAKING_SHARE * (time.monotonic() - begun_s - self._making_s)
            with self._new:
                self._jpeg, self._number = jpeg, self._number + 1
                self._new.notify_all()

    def _taken(self, moment_s: float) -> Snapshot | None:
        """The snapshot nearest before ``moment_s``."""
        best = None
        for at_s, snapshot in list(self._snapshots):
            if at_s > moment_s and best is not None:
                break
            best = snapshot
        return best

    def picture(self, snapshot: Snapshot) -> NDArray[np.uint8]:
        """Return what the camera sees of that moment, (h, w, 3) BGR; the automatic exposure goes on by one frame."""
        wanted = self._renderer.exposure_for(max(snapshot.peak_w_m2, 1.0), HIGHLIGHT)
        wanted = float(np.clip(wanted, self._shortest, 1.0))
        if self.mode == "dark":
            wanted = FASTEST_EXPOSURE / 100
        follow = -np.expm1(-self._period_s / ADAPT_S)
        self._exposure *= (wanted / self._exposure) ** (1.0 if wanted < self._exposure else follow)
        frame = self._renderer.render(
            snapshot.centre_world_m,
            snapshot.rotation,
            snapshot.spot_world_m + self._webcam.noise_m * self._rng.standard_normal(2),
            snapshot.covariance_m2,
            snapshot.power_w / max(snapshot.sun_share, 1e-6),
            exposure=self._exposure,
            sun_share=snapshot.sun_share,
        )
        return self._cover(frame) if self.covered is not None else frame

    def _cover(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Lay something grey over a marker."""
        markers = self._machine.bed.marker
        if self.covered is None or self.covered >= len(markers):
            return frame
        marker = markers[self.covered]
        half = marker.size_m * 0.8
        x, y = marker.centre_m
        corners = np.array([(x + dx, y + dy, 0.0) for dx in (-half, half) for dy in (-half, half)])
        pixels = self._renderer.project_px(corners)
        height, width = frame.shape[:2]
        (left, top), (right, bottom) = pixels.min(axis=0), pixels.max(axis=0)
        frame = frame.copy()
        columns = slice(int(np.clip(left, 0, width)), int(np.clip(right + 1, 0, width)))
        frame[int(np.clip(top, 0, height)) : int(np.clip(bottom + 1, 0, height)), columns] = 90
        return frame


class CameraServer:
    """HTTP on loopback: ``/camera.mjpg``, ``/frame.jpg``, and ``POST /target`` for a controller to tell its target."""

    def __init__(self, film: Film, port: int, on_target: Callable[[dict[str, Any]], None]) -> None:
        handler = type("Handler", (_Handler,), {"film": film, "on_target": staticmethod(on_target)})
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        except (OSError, OverflowError) as error:
            raise BadInput(f"--http {port}: cannot listen there: {error}") from None
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/camera.mjpg"

    def start(self) -> None:
        """Start serving."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and let the port go."""
        self._server.shutdown()
        self.close()
        self._thread.join(timeout=5)

    def close(self) -> None:
        """Let the port go."""
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server_version = SERVER
    sys_version = ""
    film: Film
    on_target: Callable[[dict[str, Any]], None]

    def do_HEAD(self) -> None:
        self._head("multipart/x-mixed-replace; boundary=" + BOUNDARY)

    def do_GET(self) -> None:
        if self.path == "/frame.jpg":
            _, jpeg = self.film.wait(-1)
            self._head("image/jpeg", len(jpeg))
            self.wfile.write(jpeg)
        elif self.path == "/camera.mjpg":
            self._stream()
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        try:
            size = int(self.headers.get("Content-Length", "0"))
            told = json.loads(self.rfile.read(min(size, 10_000)))
            self.on_target(told)
        except (ValueError, KeyError, TypeError):
            self.send_error(400)
            return
        self.send_response(204)
        self.end_headers()

    def _stream(self) -> None:
        self._head(f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        number = -1
        try:
            while self.film.running:
                new, jpeg = self.film.wait(number)
                if new == number or not jpeg:
                    continue
                number = new
                self.wfile.write(
                    f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
                )
                self.wfile.write(jpeg + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _head(self, kind: str, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keep quiet."""
