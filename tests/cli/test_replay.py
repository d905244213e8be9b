"""``melter replay``, ``compare`` and ``export-run``: what they say, write and refuse."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from melter.cli.main import main

LOOP_TESTS = Path(__file__).parent.parent / "loop"


def _module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"loop_{name}", LOOP_TESTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with bytes and frames."""
    place = tmp_path_factory.mktemp("runs") / "one"
    place.mkdir()
    conftest = _module("conftest")
    bench = conftest.Bench(place)
    bench.path = conftest.SandPath(np.array([(-0.02, 0.0), (0.02, 0.0)]), 0.010)  # four seconds
    assert bench.run().finished
    recorded = _module("recorded")
    recorded.finish(place, {"late": 0})
    return place


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    return err


def test_replay_tells_the_story(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(folder)]) == 0
    told = capsys.readouterr().out
    for word in ("armed", "transit", "work", "parked", "spot error", "ticks"):
        assert word in told


def test_replay_draws_and_films(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure, video = tmp_path / "a.png", tmp_path / "a.mp4"
    assert main(["replay", str(folder), "--plot", str(figure), "--video", str(video), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["faults"] == 0
    assert figure.stat().st_size > 20_000
    assert video.stat().st_size > 5_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "a.png"]


def test_replay_feeds_the_bytes_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(folder), "--feed", "--json"]) == 0
    fed = json.loads(capsys.readouterr().out)["fed"]["bytes"]
    assert fed["unapproved_jogs"] == 0
    assert fed["jogs"] > 400


def test_what_comes_out_differently_is_an_answer_of_no(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(folder, other)
    _module("recorded").write_serial(other, skip_approval_of=100)
    assert main(["replay", str(other), "--feed"]) == 1
    assert "without an approval" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--plot", "a.bmp"], "--plot"),
        (["--plot", "none/a.png"], "--plot"),
        (["--video", "a.gif"], "--video"),
        (["--video", "none/a.mp4"], "--video"),
    ],
)
def test_replay_refuses(more: list[str], told: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told in refused(["replay", str(folder), *more], capsys)


@pytest.mark.parametrize("command", ["replay", "compare"])
def test_no_run(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "recording.jsonl" in refused([command, str(tmp_path)], capsys)


def test_compare(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = tmp_path / "trained"
    trained.mkdir()
    suite = {"rms_mm": 0.3, "p95_mm": 0.7, "max_mm": 2.0, "terminated": 1, "episodes": 64}
    (trained / "eval.json").write_text(json.dumps({"outdoor": suite}))
    figure = tmp_path / "c.png"
    assert main(["compare", str(folder), str(folder), str(trained), "--plot", str(figure), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["runs"]
    assert [row["kind"] for row in rows] == ["run", "run", "eval"]
    assert rows[2]["rms_mm"] == 0.3
    assert rows[0]["ticks"] > 400
    assert figure.stat().st_size > 10_000
    assert main(["compare", str(folder), str(trained)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "trained (outdoor)" in lines[2]


def test_compare_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "at least one" in refused(["compare"], capsys)
    (tmp_path / "eval.json").write_text("[]")
    assert "eval.json" in refused(["compare", str(tmp_path)], capsys)


def test_export(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("rerun")
    words = [
        "export-run",
        str(folder),
        "--lerobot",
        str(tmp_path / "set"),
        "--rerun",
        str(tmp_path / "r.rrd"),
        "--json",
    ]
    assert main(words) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["episodes"] == 1
    assert np.isfinite(table["frames"])
    assert (tmp_path / "r.rrd").is_file()
    assert "exists already" in refused(words, capsys)


def test_export_without_the_libraries(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "rerun", None)
    for option, name in (("--lerobot", "set"), ("--rerun", "r.rrd")):
        told = refused(["export-run", str(folder), option, str(tmp_path / name)], capsys)
        assert "pip install 'melter[records]'" in told
    assert list(tmp_path.iterdir()) == []


def test_export_needs_a_format(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--lerobot" in refused(["export-run", str(folder)], capsys)
