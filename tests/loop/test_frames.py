"""Kept frames: one now and then, all around a fault, and never more than the bound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from melter.errors import BadInput
from melter.loop.frames import AROUND_FAULT_S, KeptFrames
from melter.vision.camera import Frame


def frame(number: int, rate_hz: float = 10.0, dtype: Any = np.uint8) -> Frame:
    return Frame(np.full((48, 64), 100, dtype), 1000.0 + number / rate_hz, number, "test", 0.0)


def kept(folder: Path) -> list[int]:
    lines = [json.loads(text) for text in (folder / "frames.jsonl").read_text().splitlines()]
    for line in lines:
        assert (folder / line["file"]).stat().st_size > 0
    return [line["frame"] for line in lines]


def test_one_a_second(tmp_path: Path) -> None:
    with KeptFrames(tmp_path / "f", 1.0) as frames:
        for number in range(100):
            frames.see(frame(number))
    assert kept(tmp_path / "f") == list(range(0, 100, 10))
    assert frames.kept == 10


def test_all_around_a_fault(tmp_path: Path) -> None:
    with KeptFrames(tmp_path / "f", 1.0) as frames:
        for number in range(200):
            frames.see(frame(number))
            if number == 100:
                frames.fault(1000.0 + number / 10)
    numbers = sorted(kept(tmp_path / "f"))
    around = round(AROUND_FAULT_S * 10)
    assert set(range(100 - around, 100 + around + 1)) <= set(numbers)
    assert len(numbers) == len(set(numbers)) < 125


def test_bounded(tmp_path: Path) -> None:
    with KeptFrames(tmp_path / "f", 0.0, bytes_max=3000) as frames:
        for number in range(200):
            frames.see(frame(number))
    written = sum(path.stat().st_size for path in (tmp_path / "f").glob("*.jpg"))
    assert 3000 <= written < 3000 + 2000


def test_sixteen_bits(tmp_path: Path) -> None:
    with KeptFrames(tmp_path / "f", 1.0) as frames:
        frames.see(frame(0, dtype=np.uint16))
    assert kept(tmp_path / "f") == [0]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be written"):
        KeptFrames(tmp_path / "none" / "f", 1.0)
