"""RLlib trains the environment: a test of minutes, in an environment of its own (RLlib 2.60 wants Gymnasium 1.2.2)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def python() -> str:
    """MELTER_RLLIB_PYTHON: the Python of an environment with ray[rllib] and melter in it; default: this one."""
    named = os.environ.get("MELTER_RLLIB_PYTHON", sys.executable)
    known = subprocess.run([named, "-c", "import ray.rllib, melter"], capture_output=True, timeout=120, check=False)
    if known.returncode != 0:
        pytest.skip("RLlib is not installed (see examples/rllib_ppo.py)")
    return named


@pytest.mark.long
def test_its_error_over_time_is_told(python: str, tmp_path: Path) -> None:
    """For the plot of ``melter bench cluster --convergence``."""
    command = [python, "-W", "ignore", "-m", "melter.cluster.rllib_curve", "--minutes=0.3", "--workers=1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(told) >= 2
    assert told[0]["steps"] == 0
    assert told[-1]["seconds"] >= 18
    assert told[-1]["steps"] > 0
    assert all(point["rms_mm"] > 0 for point in told)


@pytest.mark.long
def test_the_error_falls_to_half(python: str, tmp_path: Path) -> None:
    """In the example of this repository."""
    example = str(ROOT / "examples" / "rllib_ppo.py")
    command = [python, "-W", "ignore", example, "--minutes", "8"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "untrained" in done.stdout


def test_the_example_needs_nothing_to_be_read() -> None:
    """Its help answers where RLlib is not installed."""
    example = str(ROOT / "examples" / "rllib_ppo.py")
    done = subprocess.run([sys.executable, example, "--help"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert "--minutes" in done.stdout
