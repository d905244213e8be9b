"""``melter real --recover``: the lens back to park after a power cut or a crash, from the cable lengths last known."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from melter.cli.common import emit, say
from melter.errors import BadInput, CameraError, Fault, VisionFault

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from melter.cli.real import Real
    from melter.cli.real_preflight import Sky
    from melter.machine import Machine


def recover(options: Real, machine: Machine, sky: Sky) -> int:
    """Find out where the lens is, let a person decide, lower it to park through the gate; return the exit code."""
    from melter.cli.real_preflight import told, wait_for_key
    from melter.hw.drivers import make_driver
    from melter.loop.lastknown import place_for, read_last_known
    from melter.loop.preflight import whereabouts
    from melter.safety.gate import Gate

    if not sys.stdin.isatty():
        raise BadInput("--recover: a person has to look at the machine and press a key; run it in a terminal")
    file = place_for(machine, options.port)
    known = read_last_known(file, machine)
    with contextlib.ExitStack() as stack:
        driver = stack.enter_context(make_driver(options.driver, options.port, machine))
        gate = Gate(machine, speed_factor=driver.promises.speed_factor)
        found = whereabouts(driver.poll().positions_m, known)
        say(found.remark)
        if found.parked:
            emit({"dark": True, "moved": False, "faults": []}, options.json, "the lens is at park; nothing to do")
            return 0
        for winch, position in zip(machine.winch, found.positions_m.tolist(), strict=True):
            say(f"  {winch.name:9} {position * 1e3:+8.1f} mm from park")
        say(told(machine, sky))
        say(_camera_says(options.camera, machine, gate.park_lengths_m + found.positions_m, sky))
        say(
            "The lens goes down to park from there. If it does not hang where the table says, do not arm: use melter hw jog."
        )
        wait_for_key()
        result = _lower(machine, driver, gate, found, sky, file, options)
    table = {"dark": result.dark, "moved": True, "faults": result.faults}
    if result.faults or not result.dark:
        if options.json:
            emit(table, True, "")
        reason = result.faults[0] if result.faults else "park was not reached"
        raise Fault(
            f"{reason}; " + ("the lens is at park" if result.dark else "THE LENS COULD NOT BE LOWERED: cover it")
        )
    restart = "; restart the board now: its counters then are zero at park" if found.offset_m.any() else ""
    emit(table, options.json, f"the lens is at park{restart}")
    return 0


def _lower(machine: Machine, driver: Any, gate: Any, found: Any, sky: Sky, file: Any, options: Real) -> Any:
    import numpy as np

    from melter.geometry.paths import SandPath
    from melter.hw.real_robot import RealRobot
    from melter.loop.lastknown import LastKnownFile
    from melter.loop.recorder import Recorder
    from melter.loop.session import Session
    from melter.policy.files import new_run_folder

    folder = new_run_folder(options.out, f"recover-{machine.name}")
    robot = RealRobot(machine, driver, _NoCamera(), gate.park_lengths_m + found.offset_m, sky.sun_rad)
    nowhere = SandPath(np.array([(0.0, 0.0), (1e-3, 0.0)]), 1e-3)
    with Recorder(folder / "recording.jsonl") as recorder, LastKnownFile(file, machine, str(folder)) as known:
        recorder.write("start", recover=found.remark, positions_m=found.positions_m, machine_sha256=machine.sha256)
        session = Session(machine, robot, gate, _nobody, nowhere, recorder, sun_rad=sky.sun_rad)

        def note(tick: Any) -> None:
            if tick.get("lengths_m") is not None:
                known.note(np.asarray(tick["lengths_m"]) - gate.park_lengths_m, tick["state"])

        session.on_tick = note
        result = session.bring_to_park()
        recorder.write("end", dark=result.dark, faults=result.faults)
    return result


def _camera_says(source: str, machine: Machine, lengths_m: NDArray[np.float64], sky: Sky) -> str:
    """What the camera makes of these cable lengths: it sees the light, not the lens."""
    import numpy as np

    from melter.geometry.pose import sun_direction_world
    from melter.loop.preflight import SPOT_AGREES_M, spot_of_lengths_m
    from melter.vision.camera import open_camera
    from melter.vision.tracker import PatchTracker

    expected = spot_of_lengths_m(machine, lengths_m, sun_direction_world(*sky.sun_rad))
    if expected is None:
        return "camera: not asked; these cable lengths fit no pose of the lens. Lower it by hand"
    try:
        with open_camera(source) as camera:
            tracker = PatchTracker(machine)
            frame = camera.latest(timeout_s=2.0)
            tracker.set_reference(frame.image)
            estimate = tracker.track(frame.image, frame.captured_host_s, frame.number)
    except (CameraError, VisionFault) as error:
        return f"camera: cannot check: {error}"
    where = f"({expected[0]:.2f}, {expected[1]:.2f}) m"
    if estimate.centre_world_m is None:
        return f"camera: no patch seen; by the cable lengths the light falls on {where}"
    apart = float(np.hypot(*(estimate.centre_world_m - expected)))
    verdict = "agrees" if apart <= SPOT_AGREES_M else "DOES NOT AGREE: do not arm"
    return f"camera: patch {apart * 1e3:.0f} mm from {where}, where the cable lengths put it: {verdict}"


def _nobody(_: Any) -> Any:
    raise Fault("nobody drives on the way to park")


class _NoCamera:
    """The way to park needs no light."""

    def newest(self) -> None:
        return None
