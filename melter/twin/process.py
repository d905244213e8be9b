"""One twin: firmware, machine and camera, run against the host's clock until it is told to stop."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from melter.errors import BadInput, OutputExists
from melter.hw.board import settings_for
from melter.hw.firmware import Firmware
from melter.hw.pty_port import PtyPort
from melter.machine import Machine
from melter.twin.camera import CameraServer, Film, Webcam
from melter.twin.faults import FAULTS, Fault
from melter.twin.line import Line
from melter.twin.machine import TwinMachine, hidden_values
from melter.vision.scene import SceneOptions, SceneRenderer

SERIAL_S = 0.002
"""The firmware looks at its line this often."""
FLUSH_S = 0.5


@dataclass(frozen=True, kw_only=True)
class TwinOptions:
    """How to set a twin up."""

    machine: Machine
    seed: int = 0
    port_link: str | None = None
    http_port: int = 0
    truth: str | None = None
    params: dict[str, object] = field(default_factory=dict)
    """Hidden parameters that are given instead of drawn."""
    faults: tuple[Fault, ...] = ()
    speed: float = 1.0
    """Simulated seconds per second."""

    def __post_init__(self) -> None:
        if not 0.01 <= self.speed <= 100:
            raise BadInput(f"--speed {self.speed:g}: must lie between 0.01 and 100")
        if self.seed < 0:
            raise BadInput(f"--seed {self.seed}: must be 0 or above")
        if not 0 <= self.http_port <= 65535:
            raise BadInput(f"--http {self.http_port}: must lie between 0 and 65535")


class Twin:
    """A rehearsal machine; a context manager. ``port`` and ``camera_url`` are where to find it."""

    def __init__(self, options: TwinOptions) -> None:
        machine = options.machine
        self.options, self.rng = options, np.random.default_rng(options.seed)
        values = hidden_values(machine, options.seed, options.params)
        self.machine = TwinMachine(machine, values, self.rng, seed=options.seed)
        self.firmware = Firmware(settings_for(machine))
        self.line = Line(np.random.default_rng(options.seed + 3))
        scene = SceneOptions(camera_jitter_m=0.02, camera_jitter_rad=0.01)
        renderer = SceneRenderer(machine, np.random.default_rng(options.seed + 1), scene)
        webcam = Webcam.from_values(values, options.speed)
        self.film = Film(machine, renderer, webcam, np.random.default_rng(options.seed + 2))
        self._told: dict[str, Any] = {}
        with contextlib.ExitStack() as undo:
            self._http = CameraServer(self.film, options.http_port, self._tell)
            undo.callback(self._http.close)
            self.port = PtyPort(options.port_link)
            undo.callback(self.port.close)
            self._truth = _truth_file(options.truth)
            undo.pop_all()
        self._port_open = True
        self._waiting = sorted(options.faults, key=lambda fault: fault.at_s)
        self._log_s, self._flushed_s = 0.0, -np.inf
        self._frozen_s = 0.0

    @property
    def camera_url(self) -> str:
        """The MJPEG stream."""
        return self._http.url

    def __enter__(self) -> Twin:
        self.film.put(self.machine.snapshot())
        self.film.start()
        self._http.start()
        self.port.write(self.firmware.power_up())
        return self

    def __exit__(self, *_: object) -> None:
        self.film.stop()
        self._http.stop()
        self.cut_serial()
        if self._truth is not None:
            self._truth.close()

    def cut_serial(self) -> None:
        """Pull the USB plug."""
        if self._port_open:
            self._port_open = False
            self.port.close()

    def freeze(self, seconds: float) -> None:
        """Let everything here stand still for so long, and then go on as if no time had passed."""
        self._frozen_s += seconds

    def run(self, seconds: float | None = None) -> None:
        """Run until ``seconds`` of simulated time are over, or for ever."""
        speed, start = self.options.speed, time.monotonic()
        serial_s = 0.0
        while seconds is None or self.machine.t_s < seconds:
            if self._frozen_s:
                time.sleep(self._frozen_s / speed)
                start, self._frozen_s = start + self._frozen_s / speed, 0.0
            now = (time.monotonic() - start) * speed
            if now - serial_s > 1.0:
                start += (now - serial_s - 0.1) / speed
                now = serial_s + 0.1
            if now < serial_s + SERIAL_S:
                time.sleep((serial_s + SERIAL_S - now) / speed)
                continue
            now = min(now, serial_s + self.machine.step_s)  # when late, catch up step by step: motors do not jump
            self._serve_serial(now - serial_s)
            serial_s = now
            while self.machine.t_s + self.machine.step_s <= now:
                self._strike()
                self.machine.advance(self.firmware.position_m)
                self._note()

    def _serve_serial(self, dt_s: float) -> None:
        if not self._port_open:
            self.firmware.advance(dt_s)
            return
        answer = self.firmware.feed(self.line.to_board(self.port.read()))
        self.port.write(self.line.to_host(answer + self.firmware.advance(dt_s), time.monotonic()))

    def _strike(self) -> None:
        while self._waiting and self._waiting[0].at_s <= self.machine.t_s:
            FAULTS[self._waiting.pop(0).name](self)

    def _tell(self, told: dict[str, Any]) -> None:
        target = [float(v) for v in told["target_world_m"]]
        if len(target) != 2 or not np.isfinite(target).all():
            raise ValueError
        self._told = {"target_world_m": target, "told_host_s": float(told["host_s"])}

    def _note(self) -> None:
        snapshot = self.machine.snapshot()
        self.film.put(snapshot)
        if self._truth is None or snapshot.t_s < self._log_s:
            return
        self._log_s += self.options.machine.control.period_s
        line = {
            "t_s": round(snapshot.t_s, 4),
            "host_s": time.monotonic(),
            "spot_world_m": snapshot.spot_world_m.tolist(),
            "target_world_m": self._told.get("target_world_m"),
            "told_host_s": self._told.get("told_host_s"),
            "tensions_n": snapshot.tensions_n.round(3).tolist(),
            "lens_pose_world": [*snapshot.centre_world_m.tolist(), *snapshot.quaternion_wxyz.tolist()],
            "peak_w_m2": round(snapshot.peak_w_m2, 1),
            "cable_speed_m_s": snapshot.cable_speed_m_s.tolist(),
        }
        self._truth.write(json.dumps(line) + "\n")
        if time.monotonic() - self._flushed_s > FLUSH_S:
            self._flushed_s = time.monotonic()
            self._truth.flush()


def _truth_file(name: str | None) -> TextIO | None:
    if name is None:
        return None
    path = Path(name)
    if path.exists():
        raise OutputExists(f"--truth {name}: exists already; choose another file")
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"--truth {name}: cannot be written: {error.strerror}") from None


def load_params(name: str | None) -> dict[str, object]:
    """Return the hidden parameters of a JSON file by name; raise BadInput."""
    if name is None:
        return {}
    with contextlib.suppress(OSError, ValueError):
        table = json.loads(Path(name).read_text(encoding="utf-8"))
        if isinstance(table, dict):
            return table  # pyright: ignore[reportUnknownVariableType]
    raise BadInput(f"--params {name}: must be a JSON object of hidden parameters by name")
