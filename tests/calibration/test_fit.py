"""The simulation against the twin's machine, and the fit against machines that it has not seen."""

from __future__ import annotations

import numpy as np
import pytest

from melter.calibration.excitation import Excitation
from melter.calibration.fit import fit
from melter.calibration.forward import Forward
from melter.calibration.parameters import Parameters
from melter.calibration.report import findings
from melter.calibration.track import Track
from melter.machine import load_machine
from melter.safety.kinematics import Kinematics
from melter.twin.machine import TwinMachine, hidden_values

MACHINE = load_machine()
SUN_RAD = (MACHINE.sun.zenith_rad, MACHINE.sun.azimuth_rad)
PARAMETERS = Parameters.for_machine(MACHINE)
FORWARD = Forward(MACHINE)
PARK_M = Kinematics(MACHINE).park_lengths_m


def track_of_way(counters_s: np.ndarray, counters_m: np.ndarray, frames_s: np.ndarray) -> Track:
    nothing = np.zeros((len(frames_s), 3))
    return Track(counters_s, counters_m, frames_s, nothing[:, :2], nothing, SUN_RAD, np.ones(len(frames_s)))


def excited(seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Times and counters from park into the first ``seconds`` of the excitation."""
    excitation = Excitation(MACHINE, SUN_RAD)
    times = np.arange(0, 14 + seconds, 0.05)
    rise = np.clip(times / 13, 0, 1)
    rise = (rise**3 * (10 - 15 * rise + 6 * rise**2))[:, None]
    way = np.array([excitation.lengths_m(t - 14) for t in times]) - PARK_M
    return times, way * rise


def test_the_simulation_does_what_the_twins_machine_does() -> None:
    """Another arrangement of the same parts, in steps of another length: 0.15 mm apart at most, without wind."""
    values = hidden_values(MACHINE, 4, {"wind_m_s": 0.0, "action_delay_s": 0.05, "latitude_deg": 30.0})
    twin = TwinMachine(MACHINE, values, np.random.default_rng(0), seed=4)
    times, way = excited(4.0)
    fine_s = np.arange(0, times[-1], twin.step_s)
    track = track_of_way(times, way, np.arange(12.0, times[-1] - 0.2, 0.11))
    at = np.array([track.counted_m(np.array([t]))[0] for t in fine_s])
    spots = []
    for position in at:
        twin.advance(position)
        spots.append(twin.snapshot().spot_world_m)
    truth = np.stack([np.interp(track.frame_s, fine_s, np.array(spots)[:, i]) for i in range(2)], axis=1)
    parameters = Parameters.for_machine(MACHINE, latitude_rad=np.radians(30.0))
    found = parameters.values(parameters.vector(values | {"seen_delay_s": np.array([[0.0]])}))
    motion = FORWARD.motion(found, track)
    apart = FORWARD.seen(motion, found, track).centre_world_m[0] - truth
    assert np.abs(apart).max() < 1.5e-4


def test_a_delay_shows_the_past_and_zeros_tell_how_it_was_hung() -> None:
    times, way = excited(1.0)
    late = np.array([[0.0], [0.1]])
    nominal = PARAMETERS.values(np.zeros((2, PARAMETERS.size)))
    higher = nominal["zero_position_m"] + [[0, 0, 0], [0, 0, 0.003]]
    values = nominal | {"seen_delay_s": late, "zero_position_m": higher}
    track = track_of_way(times, way, np.array([14.5, 14.6]))
    motion = FORWARD.motion(values, track)
    now = FORWARD.seen(motion, values | {"sun_rate": np.zeros((2, 2))}, track, np.array([0, 0])).centre_world_m
    assert now[1, 1] == pytest.approx(now[0, 0], abs=1e-9)
    # 3 mm higher: upper cables shorter, lower ones longer
    moved = motion.zeros_m[1] - motion.zeros_m[0]
    assert (moved[0::2] < -0.5e-3).all()
    assert (moved[1::2] > 0.5e-3).all()


def test_a_machine_is_found_from_what_a_camera_saw() -> None:
    """Made with the simulation itself and a noisy camera; intervals are wide enough, and narrower than before."""
    rng = np.random.default_rng(8)
    truth = np.clip(rng.standard_normal(PARAMETERS.size), -1.5, 1.5)
    for name in ("wind_push_n", "wind_turn_n_m", "view_offset_m", "view_scale"):
        truth[PARAMETERS.slice_of(name)] = 0.0
    times, way = excited(10.0)
    track = track_of_way(times, way, np.arange(13.0, times[-1], 0.05))
    values = PARAMETERS.values(truth)
    motion = FORWARD.motion(values, track)
    seen = FORWARD.seen(motion, values, track)
    centre = seen.centre_world_m[0] + 2e-4 * rng.standard_normal((len(track.frame_s), 2))
    centre[40] += 0.05  # a reflection, once
    moments = seen.moments_m2[0] * np.exp(0.06 * rng.standard_normal((len(track.frame_s), 1)))
    data = Track(times, way, track.frame_s, centre, moments, SUN_RAD, track.share)
    told: list[float] = []
    found = fit(FORWARD, PARAMETERS, [data], lambda share, _: told.append(share))
    assert told == sorted(told)
    assert found.residual_m < 4e-4 < 10e-4 < found.before_m
    assert 1 <= found.left_out <= 5
    rows = {row.name: row for row in findings(PARAMETERS, found.u, found.zeros_m, found)}
    expected = {row.name: row for row in findings(PARAMETERS, truth, motion.zeros_m[0])}
    for name, least in (("cable stiffness", 0.5), ("drum radius", 0.6), ("delay, counters to picture", 0.1)):
        assert rows[name].share < least, name
    inside = [
        abs(value - true) < 3.5 * deviation
        for name, row in rows.items()
        for value, true, deviation in zip(row.value, expected[name].value, row.deviation, strict=True)
    ]
    assert np.mean(inside) > 0.97
