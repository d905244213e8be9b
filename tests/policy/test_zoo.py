"""rl_zoo3's own commands on the task, where rl_zoo3 is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = ROOT / "examples" / "rl_zoo3.yml"


@pytest.mark.long
@pytest.mark.skipif(find_spec("rl_zoo3") is None, reason="needs rl_zoo3; docs/training.md tells how to install it")
def test_train_and_enjoy_run_unmodified(tmp_path: Path) -> None:
    task = ["--algo", "ppo", "--env", "melter/SandMelter-v0", "--gym-packages", "melter", "-f", str(tmp_path)]
    train = ["rl_zoo3.train", *task, "-conf", str(SETTINGS), "-n", "2048", "--eval-freq", "-1"]
    enjoy = ["rl_zoo3.enjoy", *task, "-n", "300", "--no-render"]
    for words in (train, enjoy):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(
            [sys.executable, "-m", *words], capture_output=True, text=True, env=environment, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
    assert "Mean reward" in done.stdout
    assert (tmp_path / "ppo" / "melter-SandMelter-v0_1" / "melter-SandMelter-v0.zip").is_file()
