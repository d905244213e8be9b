"""``melter vision``: the bench in small, and what it refuses."""

from __future__ import annotations

import json

import pytest

from melter.cli.main import main


def test_bench_gives_one_object_with_a_row_for_each_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vision", "bench", "--places", "1", "--each", "1", "--films", "0", "--seed", "4", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in result["rows"]}
    assert {"clear", "saturated", "hidden", "empty dark", "empty, all"} <= set(rows)
    assert rows["clear"]["n"] == 1
    assert rows["clear"]["false_share"] is None
    assert rows["empty dark"]["centre_mm_p50"] is None


def test_help_without_a_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vision"]) == 0
    assert "bench" in capsys.readouterr().out


@pytest.mark.parametrize(
    "bad", [["blind"], ["bench", "--places", "0"], ["bench", "--each", "-1"], ["bench", "--machine", "nothing"]]
)
def test_bad_input_is_one_line_and_exit_2(bad: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vision", *bad]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
