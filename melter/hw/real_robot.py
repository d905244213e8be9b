"""The real machine as a Robot: a motor driver and whatever watches the light patch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from melter.errors import LinkFault
from melter.hw.driver import MotorDriver
from melter.machine import Machine
from melter.observation import Measurement, PatchEstimate
from melter.robot import Reading
from melter.safety.gate import ApprovedCommand

Array = NDArray[np.float64]

FRESH_PERIODS = 2.0
"""A patch seen at most this many control periods ago (beyond the camera's delay) is fresh."""
EXTRAPOLATE_S = 0.1
"""Counters are carried on by the last command for at most this long."""


class PatchSource(Protocol):
    """Whoever knows where the patch is."""

    def newest(self) -> PatchEstimate | None:
        """Return the newest estimate; raise VisionFault when the camera is gone or stale."""
        ...


class RealRobot:
    """Winches behind a driver, light behind a patch source. Counters are zero at park."""

    def __init__(
        self,
        machine: Machine,
        driver: MotorDriver,
        patches: PatchSource,
        park_lengths_m: Array,
        sun_rad: tuple[float, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``park_lengths_m``: (8,) stress-free cable out at park. ``sun_rad``: zenith, azimuth; default the machine file's."""
        self.machine, self._driver, self._patches, self._clock = machine, driver, patches, clock
        self._park_m = np.array(park_lengths_m, dtype=float)
        self._sun_rad = (machine.sun.zenith_rad, machine.sun.azimuth_rad) if sun_rad is None else sun_rad
        self._seen: PatchEstimate | None = None
        self._speeds_m_s = np.zeros(len(self._park_m))

    def measure(self) -> Reading:
        """Return counters and patch as they stand; raise LinkFault or VisionFault."""
        status = self._driver.poll()
        if status.faults:
            raise LinkFault(status.faults[0])
        estimate = self._patches.newest()
        if estimate is not None and estimate.centre_world_m is not None:
            self._seen = estimate
        now_s = self._clock()
        counted = self._park_m + status.positions_m
        carried = counted + self._speeds_m_s * min(max(now_s - status.read_host_s, 0.0), EXTRAPOLATE_S)
        return Reading(self._measurement(carried, now_s), counted, status.read_host_s, estimate)

    def _measurement(self, lengths_m: Array, now_s: float) -> Measurement:
        control, seen = self.machine.control, self._seen
        known = seen is not None and seen.centre_world_m is not None
        age_s = now_s - seen.captured_host_s + control.camera_delay_s if seen is not None else 10.0
        return Measurement(
            patch_age_s=np.array(age_s),
            patch_centre_world_m=np.array(seen.centre_world_m if seen is not None and known else [0.0, 0.0]),
            patch_semi_axes_m=np.array(seen.semi_axes_m if seen is not None and known else [0.1, 0.1]),
            patch_angle_rad=np.array(seen.angle_rad if seen is not None and known else 0.0),
            patch_seen=np.array(known and age_s < control.camera_delay_s + FRESH_PERIODS * control.period_s),
            cable_length_m=lengths_m,
            sun_zenith_rad=np.array(self._sun_rad[0]),
            sun_azimuth_rad=np.array(self._sun_rad[1]),
        )

    def lengths_m(self) -> Array | None:
        """Return the counted lengths, or None when the counters may no longer tell them."""
        status = self._driver.poll()
        return (
            self._park_m + status.positions_m if status.position_trusted and np.isfinite(status.read_host_s) else None
        )

    def send(self, command: ApprovedCommand) -> ApprovedCommand:
        """Pass the command on."""
        sent = self._driver.send(command)
        self._speeds_m_s = np.array(sent.speeds_m_s)
        return sent

    def recover(self) -> None:
        """Bring the link back for the way to dark."""
        self._driver.recover()

    def stop(self) -> None:
        """Brake all winches."""
        self._speeds_m_s = np.zeros_like(self._speeds_m_s)
        self._driver.stop()
