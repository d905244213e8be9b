"""The last known state: what is written is read, what is damaged is refused, and what follows from it at the next start."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from melter.errors import BadInput
from melter.loop import lastknown
from melter.loop.lastknown import LastKnown, LastKnownFile, place_for, read_last_known, write_last_known
from melter.loop.preflight import AGREE_M, WENT_ON_M, whereabouts
from melter.machine import load_machine

MACHINE = load_machine()
WORK = np.array([-0.6, 0.4, -0.6, 0.4, 0.1, -0.3, 0.1, -0.3])


def known(positions_m: np.ndarray, state: str = "work", *, moving: bool = False) -> LastKnown:
    return LastKnown(MACHINE.sha256, tuple(positions_m.tolist()), state, moving, "2026-06-21T10:00:00Z")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    assert read_last_known(file, MACHINE) is None
    write_last_known(file, known(WORK, moving=True))
    assert read_last_known(file, MACHINE) == known(WORK, moving=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": "x"}', '{"format": "melter-last-known-1", "positions_m": [1, 2]}']
)
def test_what_is_damaged_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(BadInput, match=r"a\.json: (cannot be read|damaged)"):
        read_last_known(file, MACHINE)


@pytest.mark.parametrize(
    ("name", "value"), [("positions_m", [0.0] * 7), ("positions_m", [float("nan")] * 8), ("extra", 1)]
)
def test_fields_that_do_not_fit(tmp_path: Path, name: str, value: object) -> None:
    file = tmp_path / "a.json"
    write_last_known(file, known(WORK))
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    with pytest.raises(BadInput, match="damaged"):
        read_last_known(file, MACHINE)


def test_another_machine(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_last_known(file, LastKnown("0" * 64, tuple(WORK.tolist()), "work", False, "-"))
    with pytest.raises(BadInput, match="another machine file"):
        read_last_known(file, MACHINE)


def test_a_file_per_machine_and_port(tmp_path: Path) -> None:
    names = {place_for(MACHINE, port, tmp_path).name for port in ("/dev/ttyUSB0", "/dev/ttyACM0", "COM3")}
    assert len(names) == 3
    assert all(name.startswith("corner8-") and "/" not in name for name in names)


def test_it_follows_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lastknown, "EVERY_S", 0.01)
    file = tmp_path / "deep" / "a.json"
    with LastKnownFile(file, MACHINE, "runs/x") as keeper:
        time.sleep(0.03)
        assert not file.exists()  # nothing is known yet
        keeper.note(WORK, "work")
        for _ in range(200):
            if file.exists():
                break
            time.sleep(0.01)
        found = read_last_known(file, MACHINE)
        assert found is not None
        assert found.moving
        keeper.note(np.zeros(8), "parked")
    found = read_last_known(file, MACHINE)
    assert found is not None
    assert found.parked
    assert found.log == "runs/x"


def test_without_a_file_the_counters_count() -> None:
    assert whereabouts(np.zeros(8), None).parked
    assert not whereabouts(WORK, None).parked


def test_a_board_that_restarted_while_the_lens_was_away() -> None:
    """The counters say zero, and are wrong."""
    found = whereabouts(np.zeros(8), known(WORK))
    assert not found.parked
    np.testing.assert_allclose(found.positions_m, WORK)
    np.testing.assert_allclose(found.offset_m, WORK)
    assert "restarted" in found.remark


@pytest.mark.parametrize(
    ("off_m", "moving", "agree"),
    [
        (AGREE_M - 1e-6, False, True),
        (AGREE_M + 1e-6, False, False),
        (WENT_ON_M - 1e-6, True, True),
        (WENT_ON_M + 1e-6, True, False),
    ],
)
def test_counters_that_kept_their_place(off_m: float, moving: bool, agree: bool) -> None:
    found = whereabouts(WORK + off_m, known(WORK, moving=moving))
    assert not found.parked
    assert not found.offset_m.any()
    assert ("agree" in found.remark) == agree


def test_parked_before_and_parked_now() -> None:
    assert whereabouts(np.zeros(8), known(np.full(8, 0.0004), "parked")).parked
