"""Recordings: append-only, readable after any kind of end, and never over another one."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from melter.errors import BadInput
from melter.loop.recorder import Recorder, read_recording
from melter.loop.truth import true_errors


def test_what_is_written_is_read(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a.jsonl") as recorder:
        recorder.write("tick", speeds=np.array([0.1, np.nan]), pair=(1, np.float32(2)), word="ä", none=None)
        recorder.write("event", event="parked", many=[np.inf, np.bool_(True), np.int64(3)])
    first, second = read_recording(tmp_path / "a.jsonl")
    assert first["speeds"] == [0.1, None]
    assert first["pair"] == [1, 2.0]
    assert (first["word"], first["none"], first["kind"]) == ("ä", None, "tick")
    assert second["many"] == [None, True, 3]
    assert second["host_s"] >= first["host_s"]


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_last_line_cut_short_is_left_out(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.jsonl"
    with Recorder(path) as recorder:
        for i in range(5):
            recorder.write("tick", number=i)
    path.write_bytes(path.read_bytes()[:-cut])
    numbers = [line["number"] for line in read_recording(path)]
    assert numbers == [0, 1, 2, 3] or (cut == 1 and numbers == [0, 1, 2, 3, 4])


def test_events_are_on_the_disk_at_once_and_ticks_soon(tmp_path: Path) -> None:
    """So that a kill costs at most the last second."""
    path = tmp_path / "a.jsonl"
    recorder = Recorder(path)
    recorder.write("event", event="armed")
    assert len(read_recording(path)) == 1
    recorder.write("tick", number=0)
    recorder._flushed_s -= 1
    recorder.write("tick", number=1)
    assert len(read_recording(path)) == 3
    with recorder:
        pass


def test_another_recording_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("mine\n")
    with pytest.raises(BadInput, match=r"a\.jsonl: cannot be written"):
        Recorder(path)
    assert path.read_text() == "mine\n"
    with pytest.raises(BadInput):
        Recorder(tmp_path / "none" / "a.jsonl")


def test_from_several_threads(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a.jsonl") as recorder:
        threads = [
            threading.Thread(target=lambda i=i: [recorder.write("tick", who=i) for _ in range(200)]) for i in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = read_recording(tmp_path / "a.jsonl")
    assert [sum(line["who"] == i for line in lines) for i in range(4)] == [200] * 4


def test_after_the_end_nothing_is_written(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a.jsonl") as recorder:
        recorder.write("event", event="x")
    recorder.write("event", event="late")
    assert len(read_recording(tmp_path / "a.jsonl")) == 1


def _written(path: Path, lines: list[dict]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_true_errors_by_hand(tmp_path: Path) -> None:
    """A spot that runs 2 mm beside its target; the first two seconds on the path do not count."""
    ticks = [
        {
            "kind": "tick",
            "approved_host_s": 10 + t,
            "t_s": t,
            "target_world_m": [0.01 * t, 0.0],
            "approved_m_s": [0.03] * 8,
        }
        for t in np.arange(-1, 6, 0.05).round(3).tolist()
    ]
    truth = [
        {
            "host_s": 10 + t,
            "spot_world_m": [0.01 * t, 0.002 if t >= 2 else 0.5],
            "tensions_n": [20 + t] * 8,
        }
        for t in np.arange(-3, 5, 0.03).round(3).tolist()
    ]
    found = true_errors(_written(tmp_path / "a", ticks), _written(tmp_path / "b", truth))
    for name in ("rms_mm", "p50_mm", "p95_mm", "max_mm"):
        assert found[name] == pytest.approx(2, abs=1e-6)
    assert found["bias_mm"] == pytest.approx([0, 2], abs=1e-6)
    assert found["command_max_m_s"] == 0.03
    assert 22 <= found["tension_min_n"] < found["tension_max_n"] < 25
    assert found["seconds"] == pytest.approx(3, abs=0.1)
    for wrong in ([], truth[:5]):
        with pytest.raises(BadInput):
            true_errors(tmp_path / "a", _written(tmp_path / "c", wrong))
    with pytest.raises(BadInput):
        true_errors(_written(tmp_path / "d", ticks[:1]), tmp_path / "b")
