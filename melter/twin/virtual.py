"""The rehearsal machine under a clock of its own: firmware, machine, camera, tracker and driver protocol in one thread.

Time passes only while the loop waits for it, as fast as the computer can, and every run from the same seed is the same. What is
left out of the real chain: threads, the pseudo-terminal, HTTP, JPEG. Bytes, steps, pictures and the tracker are the same.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray

from melter.env.camera import DIMMEST_W_M2
from melter.errors import LinkFault, PortError, VisionFault
from melter.hw.board import settings_for
from melter.hw.driver import MotorStatus, Promises
from melter.hw.firmware import Firmware
from melter.hw.grbl_driver import RECOVER_S, after_a_look, promises_of
from melter.hw.handshake import Board, Talk
from melter.hw.link import FAULTS_KEPT, Link
from melter.hw.rough import take_over
from melter.hw.serial_port import SerialPort
from melter.hw.session import Session
from melter.machine import WINCH_COUNT, Machine
from melter.observation import PatchEstimate
from melter.safety.gate import ApprovedCommand
from melter.twin.camera import Film, Webcam
from melter.twin.faults import FAULTS, Fault
from melter.twin.line import Line
from melter.twin.machine import Snapshot, TwinMachine, hidden_values
from melter.vision.scene import SceneOptions, SceneRenderer
from melter.vision.tracker import PatchTracker

Array = NDArray[np.float64]

START_S = 1000.0
"""What the clock shows at first."""
SERIAL_S = 0.002
"""The firmware looks at its line this often."""
DRIVER_S = 0.004
"""The driver looks at the clock this often."""
TRACK_S = 0.015
"""From a frame's arrival to its estimate."""
STALE_S = 0.5
"""Without a new estimate for this long the camera is a fault."""
IN_FOCUS_W_M2 = 3e5
"""Peak from which a patch counts for the tracker's accuracy."""
CAMERA_JITTER_M, CAMERA_JITTER_RAD = 0.02, 0.01
"""How far the camera stands from where the machine file has it."""


@dataclass(frozen=True, kw_only=True)
class VirtualOptions:
    """How to set it up."""

    machine: Machine
    seed: int = 0
    params: dict[str, object] | None = None
    """Hidden parameters that are given instead of drawn."""
    faults: tuple[Fault, ...] = ()
    pictures: bool = True
    """Render frames and track them; otherwise the patch is told with the hidden camera's delay, jitter, loss and noise only."""


class VirtualTwin:
    """A rehearsal machine whose time the loop drives: pass ``self`` as the loop's clock.

    ``driver`` is a MotorDriver, ``newest`` makes it a patch source, ``truth`` holds a line per control period like the twin's
    truth file.
    """

    def __init__(self, options: VirtualOptions) -> None:
        machine = options.machine
        self.options, self.rng = options, np.random.default_rng(options.seed)
        self.values = hidden_values(machine, options.seed, options.params)
        self.machine = TwinMachine(machine, self.values, self.rng, seed=options.seed)
        self.firmware = Firmware(settings_for(machine))
        self.line = Line(np.random.default_rng(options.seed + 3))
        scene = SceneOptions(camera_jitter_m=CAMERA_JITTER_M, camera_jitter_rad=CAMERA_JITTER_RAD)
        renderer = SceneRenderer(machine, np.random.default_rng(options.seed + 1), scene)
        self._webcam = Webcam.from_values(self.values, 1.0)
        self.film = Film(machine, renderer, self._webcam, np.random.default_rng(options.seed + 2))
        self._dice = np.random.default_rng(options.seed + 4)
        self.tracker: PatchTracker | None = PatchTracker(machine) if options.pictures else None
        self.port = _Wire()
        self.truth: list[dict[str, object]] = []
        self._now_s, self._frame_s, self._frames, self._log_s = START_S, START_S, 0, 0.0
        self._snapshots: deque[tuple[float, Snapshot]] = deque(maxlen=200)
        self._coming: deque[tuple[float, PatchEstimate]] = deque()
        self._newest: PatchEstimate | None = None
        self._seen: list[tuple[float, Array]] = []
        self._waiting = sorted(options.faults, key=lambda fault: fault.at_s)
        self.driver = VirtualDriver(self)
        self.port.to_host += self.firmware.power_up()
        self._snapshots.append((self._now_s, self.machine.snapshot()))

    def take_reference(self) -> None:
        """Solve the bed from a picture with the lens parked; raise CameraError where the markers cannot be seen."""
        if self.tracker is not None:
            self.tracker.set_reference(self.film.picture(self._snapshots[-1][1]))

    # -- the clock ------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds."""
        return self._now_s

    def sleep_until(self, at_s: float) -> None:
        """Let everything happen up to ``at_s``."""
        while self._now_s < at_s - 1e-9:
            self.step(min(SERIAL_S, at_s - self._now_s))

    def step(self, dt_s: float) -> None:
        """Let ``dt_s`` pass, at most :data:`SERIAL_S`."""
        self._now_s += dt_s
        sent = self.line.to_board(self.port.take_to_board())
        answer = (self.firmware.feed(sent) if sent else b"") + self.firmware.advance(dt_s)
        if self.port.open:
            self.port.to_host += self.line.to_host(answer, self._now_s)
        self.driver.pump()
        while self.machine.t_s + self.machine.step_s <= self._now_s - START_S:
            while self._waiting and self._waiting[0].at_s <= self.machine.t_s:
                FAULTS[self._waiting.pop(0).name](cast("object", self))  # pyright: ignore[reportArgumentType]
            self.machine.advance(self.firmware.position_m)
            self._note(self.machine.snapshot())
        self._film()

    def _note(self, snapshot: Snapshot) -> None:
        self._snapshots.append((self._now_s, snapshot))
        if snapshot.t_s < self._log_s:
            return
        self._log_s += self.options.machine.control.period_s
        self.truth.append(
            {
                "t_s": snapshot.t_s,
                "host_s": self._now_s,
                "spot_world_m": snapshot.spot_world_m,
                "tensions_n": snapshot.tensions_n,
                "lens_pose_world": np.concatenate([snapshot.centre_world_m, snapshot.quaternion_wxyz]),
                "peak_w_m2": snapshot.peak_w_m2,
                "cable_speed_m_s": snapshot.cable_speed_m_s,
            }
        )

    # -- the camera -----------------------------------------------------------------------------------------------

    def _film(self) -> None:
        while self._coming and self._coming[0][0] <= self._now_s:
            self._newest = self._coming.popleft()[1]
        if self._now_s < self._frame_s:
            return
        self._frame_s += 1.0 / self.options.machine.camera.rate_hz
        webcam, dice = self._webcam, self._dice.random(2)
        moment_s = self._now_s - webcam.delay_s - webcam.jitter_s * dice[0]
        taken = [snapshot for at_s, snapshot in self._snapshots if at_s <= moment_s]
        if not taken or self.film.mode in ("frozen", "gone") or dice[1] < webcam.loss:
            return
        self._frames += 1
        estimate = self._estimate(taken[-1])
        if estimate.centre_world_m is not None and taken[-1].peak_w_m2 > IN_FOCUS_W_M2:
            self._seen.append((taken[-1].t_s, estimate.centre_world_m - taken[-1].spot_world_m))
        self._coming.append((self._now_s + TRACK_S, estimate))

    def seen_error_mm(self, over_s: float = 0.0) -> float:
        """RMS distance of the tracker's centres, or of their means over ``over_s``, from the true ones, in focus, millimetres."""
        if not self._seen:
            return 0.0
        moments, away = (np.array(column) for column in zip(*self._seen, strict=True))
        if over_s > 0:
            _, which = np.unique(np.floor(moments / over_s), return_inverse=True)
            away = np.stack([np.bincount(which, away[:, i]) / np.bincount(which) for i in range(2)], axis=1)
        return float(1e3 * np.sqrt((away**2).sum(axis=1).mean()))

    def _estimate(self, taken: Snapshot) -> PatchEstimate:
        if self.tracker is not None:
            return self.tracker.track(self.film.picture(taken), self._now_s, self._frames)
        noise_m = max(self._webcam.noise_m, 1e-5)
        xx, xy, yy = taken.covariance_m2
        large, small = np.sqrt(np.linalg.eigvalsh(np.array([[xx, xy], [xy, yy]]))[::-1])
        sunless = taken.sun_share * float(self.values["dni_w_m2"][0, 0]) < DIMMEST_W_M2
        if sunless or self.film.mode != "on":
            return PatchEstimate("lost", self._now_s, frame=self._frames, sunless=sunless and self.film.mode == "on")
        return PatchEstimate(
            "ok",
            self._now_s,
            taken.spot_world_m + noise_m * self._dice.standard_normal(2),
            np.array([2 * large, 2 * small]),
            float(0.5 * np.arctan2(2 * xy, xx - yy)),
            np.eye(2) * noise_m**2,
            self._frames,
        )

    def newest(self) -> PatchEstimate | None:
        """Return the newest estimate; raise VisionFault when frames have stopped coming."""
        if self._newest is not None and self._now_s - self._newest.captured_host_s > STALE_S + TRACK_S:
            raise VisionFault(f"camera: no new frame for {self._now_s - self._newest.captured_host_s:.1f} s")
        return self._newest

    # -- what faults do -------------------------------------------------------------------------------------------

    def cut_serial(self) -> None:
        """Pull the USB plug."""
        self.port.open = False

    def freeze(self, seconds: float) -> None:
        """Let the host's clock jump: everything here stands still meanwhile."""
        self._now_s += seconds
        self._frame_s += seconds


class _Wire:
    """A serial line without a device: two byte queues."""

    device = "virtual"

    def __init__(self) -> None:
        self.to_board, self.to_host, self.open = b"", b"", True

    def write(self, data: bytes) -> None:
        """What comes from the board's side, as a fault puts it there."""
        self.to_host += data

    def take_to_board(self) -> bytes:
        data, self.to_board = self.to_board, b""
        return data if self.open else b""

    def take_to_host(self) -> bytes:
        data, self.to_host = self.to_host, b""
        return data


class _HostEnd:
    """The wire as the handshake sees it: reading lets time pass."""

    device = "virtual"

    def __init__(self, twin: VirtualTwin) -> None:
        self._twin = twin

    def read(self, timeout_s: float) -> bytes:
        """Return what came, as soon as something has."""
        until_s = self._twin.now() + timeout_s
        while not self._twin.port.to_host and self._twin.now() < until_s:
            self._twin.step(SERIAL_S)
        return self._twin.port.take_to_host()

    def write(self, data: bytes) -> None:
        """Send bytes; raise LinkFault when the plug is out."""
        if not self._twin.port.open:
            raise LinkFault("hangup: port virtual: no device")
        self._twin.port.to_board += data


class VirtualDriver:
    """The grblHAL driver's protocol core on the twin's wire; a MotorDriver. Connected by ``with``."""

    def __init__(self, twin: VirtualTwin) -> None:
        self._twin, self._session, self._ticked_s = twin, cast("Link | None", None), 0.0
        self._past_faults: tuple[str, ...] = ()
        self._board: Board | None = None
        self._zero_um: NDArray[np.int64] = np.zeros(WINCH_COUNT, dtype=np.int64)
        self._giving_up_s: float | None = None
        self._last = MotorStatus(positions_m=np.zeros(WINCH_COUNT), state="unknown", read_host_s=-np.inf, queue_depth=0)

    @property
    def promises(self) -> Promises:
        """The same as the grblHAL driver's."""
        return promises_of(self._twin.options.machine)

    def connect(self) -> None:
        """Talk to the board. Raises PortError."""
        board = self._talk(wake_s=None)
        machine = self._twin.options.machine
        self._session = Session(machine, board.facts(machine), board.winch_positions_um(machine), self._twin.now())

    def _talk(self, wake_s: float | None) -> Board:
        self._session = None
        talk = Talk(cast("SerialPort", _HostEnd(self._twin)), self._twin.now, wake_s=wake_s)
        self._board = talk.begin(known=self._board)
        if wake_s is not None and self._board.alarm is not None:
            talk.unlock()
        return self._board

    def pump(self) -> None:
        """Move bytes both ways; called by the twin as time passes."""
        session, now_s = self._session, self._twin.now()
        if session is None or now_s < self._ticked_s + DRIVER_S:
            return
        self._ticked_s = now_s
        data = self._twin.port.take_to_host()
        out = session.receive(data, now_s) if data else b""
        out += session.tick(now_s)
        if out and not self._twin.port.open:
            session.latch("hangup: port virtual: no device")
            session.state = "unknown"
        self._twin.port.to_board += out

    def _live(self) -> Link:
        if self._session is None:
            raise LinkFault("hangup: port virtual: not connected")
        return self._session

    def send(self, command: ApprovedCommand) -> ApprovedCommand:
        """Pass on one period's motion. Raises LinkFault when a fault is latched."""
        session = self._live()
        counts_um = np.asarray(command.counts_um, dtype=np.int64)
        self._twin.port.to_board += session.push(counts_um, command.period_s, self._twin.now())
        if session.faults:
            raise LinkFault(f"port virtual: {session.faults[0]}")
        return command

    def poll(self) -> MotorStatus:
        """Return the newest status."""
        session = self._session
        if session is None:
            return self._last
        self._last = session.status(self._zero_um, self._past_faults)
        return self._last

    def stop(self) -> None:
        """Cancel what runs and drop what is queued."""
        self._twin.port.to_board += self._live().stop(self._twin.now())

    def recover(self) -> None:
        """Bring the link back for the way to dark; raises LinkFault."""
        before, twin, machine = self.poll(), self._twin, self._twin.options.machine
        self._past_faults = tuple(dict.fromkeys(before.faults))[:FAULTS_KEPT]
        if isinstance(self._session, Session) and twin.port.open:
            self._session = take_over(self._session, machine, twin.now())
            if self._session is not None:
                return
        self._giving_up_s = deadline_s = self._giving_up_s or twin.now() + RECOVER_S
        while True:
            try:
                board = self._talk(wake_s=0.5)
                break
            except (PortError, LinkFault) as error:
                if twin.now() > deadline_s:
                    raise LinkFault(f"port virtual: not back within {RECOVER_S:g} s: {error}") from None
                twin.sleep_until(twin.now() + 0.1)
        self._giving_up_s = None
        self._session, self._zero_um = after_a_look(board, before, self._zero_um, machine, twin.now())

    def close(self) -> None:
        """Stop."""
        if self._session is not None:
            self.stop()

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
