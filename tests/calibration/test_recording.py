"""Recordings to tracks, and what is said of those that are no use."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from melter.calibration.recording import latitude_of, link_delay_s, track_of
from melter.errors import BadInput
from melter.machine import load_machine
from melter.safety.kinematics import Kinematics

MACHINE = load_machine()
PARK_M = Kinematics(MACHINE).park_lengths_m
LINK_S = 0.07


def way_m(t_s: float) -> np.ndarray:
    return 0.1 * np.sin(0.3 * t_s + np.arange(8))


def lines(seconds: float = 30.0, *, way: float = 1.0, status: str = "ok", **start: Any) -> list[dict[str, Any]]:
    """A recording of winches that go to and fro and a patch that is seen at each tick."""
    made: list[dict[str, Any]] = [{"kind": "start", "machine_sha256": MACHINE.sha256, **start}]
    for k in range(round(seconds * 20)):
        t_s = 100 + 0.05 * k
        made.append(
            {
                "kind": "tick",
                "mode": "policy",
                "approved_host_s": t_s,
                "approved_m_s": ((way_m(t_s + 0.05) - way_m(t_s)) * way / 0.05).tolist(),
                "lengths_host_s": t_s - 0.004,
                "lengths_m": (PARK_M + way * way_m(t_s - 0.004 - LINK_S)).tolist(),
                "patch_status": status,
                "patch_captured_host_s": t_s - 0.02,
                "patch_centre_m": [0.01, 0.02] if status != "lost" else None,
                "patch_semi_axes_m": [0.04, 0.02],
                "patch_angle_rad": np.pi / 2,
            }
        )
    return [*made, {"kind": "tick", "mode": "dark", "approved_host_s": t_s + 0.05, "approved_m_s": [0.0] * 8}]


def test_a_track_has_what_was_recorded() -> None:
    track = track_of(lines(sun_rad=[0.3, 2.0]), MACHINE, "a run")
    assert track.sun_rad == (0.3, 2.0)
    assert track.counters_m[7] == pytest.approx(way_m(100.35 - 0.004 - LINK_S))
    assert track.moments_m2[0] == pytest.approx([0.01**2, 0.0, 0.02**2], abs=1e-12)  # its large axis lies along y
    assert track.counted_m(np.array([110.0123]))[0] == pytest.approx(way_m(110.0123 - LINK_S), abs=1e-6)
    assert np.ptp(track.counted_m(np.array([500.0, 501.0])), axis=0).max() == 0.0


def test_readings_between_ticks_are_preferred() -> None:
    more = lines()
    times = np.arange(99.9, 131.0, 0.02)
    positions = [way_m(t - LINK_S).tolist() for t in times]
    more.insert(1, {"kind": "counters", "read_s": times.tolist(), "positions_m": positions})
    track = track_of(more, MACHINE, "a run")
    assert len(track.counter_s) == len(times)
    assert track.counted_m(np.array([110.0123]))[0] == pytest.approx(way_m(110.0123 - LINK_S), abs=1e-6)
    more[1]["read_s"] = times.tolist()[:-1]
    with pytest.raises(BadInput, match="not a recording"):
        track_of(more, MACHINE, "a run")


def test_a_frame_counts_once_and_saturated_ones_less() -> None:
    twice = lines()
    for tick in twice[1:-1]:
        tick["patch_captured_host_s"] = round(tick["approved_host_s"] / 0.1) * 0.1
    track = track_of(twice, MACHINE, "a run")
    assert np.diff(track.frame_s).min() > 0.09
    assert track_of(lines(status="saturated"), MACHINE, "b").share[0] == pytest.approx(2 * track.share[0])


def test_the_delay_of_the_link_is_found() -> None:
    found, deviation = link_delay_s(lines())
    assert found == pytest.approx(LINK_S, abs=0.003)
    assert 0 < deviation < 0.01


def test_the_latitude_is_told_if_it_is_known() -> None:
    assert latitude_of(lines()) is None
    assert latitude_of(lines(latitude_rad=0.8)) == 0.8


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (lines(machine_sha256="0" * 64), "made with machine 000000000000, not with corner8"),
        (lines(15.0), r"14\.\d s with the patch in sight, must be at least 20 s"),
        (lines(8.0), "the patch was seen in 159 frames, must be at least 200"),
        (lines(way=0.2), "moved 40 mm with the patch in sight, must be at least 50 mm"),
        (lines(status="lost"), "no light patch was seen"),
        (lines(status="occluded"), "no light patch was seen"),
        ([{"kind": "start"}], "0 counter readings"),
        ([{"kind": "tick", "mode": "policy", "lengths_host_s": 1.0}], "not a recording of a run"),
        ([], "0 counter readings"),
    ],
)
def test_what_is_missing_is_named(given: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint) as caught:
        track_of(given, MACHINE, "a run")
    assert "\n" not in str(caught.value)
    assert "a run" in str(caught.value)


def test_counters_that_are_not_finite_are_refused() -> None:
    broken = lines()
    broken[9]["lengths_m"][3] = None
    with pytest.raises(BadInput, match="not a recording"):
        track_of(broken, MACHINE, "a run")
