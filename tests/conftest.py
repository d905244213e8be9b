"""What many tests share: the packaged machines, and a small policy made by hand."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from melter.machine import Machine, load_machine
from melter.observation import ObservationBuilder
from melter.safety.bundle import manifest_for, save_bundle
from melter.safety.net import PolicyNet

ROOT = Path(__file__).parent.parent

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def corner8() -> Machine:
    return load_machine()


@pytest.fixture(scope="session")
def vitrifier() -> Machine:
    return load_machine("vitrifier")


@pytest.fixture
def corner8_table() -> dict[str, Any]:
    """The nominal machine file as a table that a test may spoil."""
    return copy.deepcopy(tomllib.loads((ROOT / "models" / "corner8.toml").read_text(encoding="utf-8")))


@pytest.fixture
def hand_made(corner8: Machine) -> Callable[[Path], Path]:
    """Write a bundle that follows the plan and never looks at the light; return its folder."""

    def write(folder: Path) -> Path:
        builder = ObservationBuilder(corner8)
        weight = np.zeros((8, builder.size), np.float32)
        for i in range(8):
            weight[i, builder.slice_of("feed_forward").start + i] = 0.1
            weight[i, builder.slice_of("length_error").start + i] = 0.2
        net = PolicyNet(((weight, np.zeros(8, np.float32)),), "tanh", "clip")
        save_bundle(folder, net, manifest_for(net, corner8, builder.table, builder.sha256, "hand"))
        return folder

    return write
