"""Cable lengths to pose and back: slopes against differences, and lengths that nobody may change."""

from __future__ import annotations

import numpy as np
import pytest

from melter.geometry.pose import rotation_from_vector
from melter.machine import load_machine
from melter.safety.kinematics import Kinematics, Pose

KINEMATICS = Kinematics(load_machine())


def test_the_jacobian_is_the_slope_of_the_lengths() -> None:
    """Of stress-free lengths, which are a few per mille shorter than the straight lines: no other scale will do."""
    start = Pose(np.array([0.1, -0.2, 0.9]), rotation_from_vector(np.array([0.2, -0.1, 0.05])))
    slope, step = KINEMATICS.jacobian(start), 1e-6
    for axis in range(6):
        twist = step * np.eye(6)[axis]
        moved = Pose(start.centre_world_m + twist[:3], rotation_from_vector(twist[3:]) @ start.rotation)
        found = (KINEMATICS.lengths_m(moved) - KINEMATICS.lengths_m(start)) / step
        assert found == pytest.approx(slope[:, axis], rel=1e-4, abs=1e-4)


def test_park_lengths_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        KINEMATICS.park_lengths_m[0] = 0.0
