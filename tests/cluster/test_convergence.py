"""Error over time by each way: what is told, what is left out, what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from melter.cli import bench_cores
from melter.cli.main import main
from melter.cluster import convergence
from melter.cluster.convergence import Curve, curves, rllib_python
from melter.errors import BadInput, Fault
from melter.policy.request import TrainRequest

RequestOf = Callable[..., TrainRequest]


def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both trainings in this process."""
    monkeypatch.setattr(convergence, "join", lambda *_: None)
    monkeypatch.setattr(convergence, "leave", lambda _: None)
    monkeypatch.setattr(convergence, "simulations_on", lambda *_: None)


def test_points_of_one_process_and_of_workers(request_of: RequestOf, monkeypatch: pytest.MonkeyPatch) -> None:
    no_ray(monkeypatch)
    monkeypatch.delenv(convergence.RLLIB_PYTHON, raising=False)
    told: list[str] = []
    found = curves(request_of(), "corner8", 2, told.append)
    assert [curve.name for curve in found] == ["one process, one core", "Ray, 2 workers"]
    for curve in found:
        assert curve.steps >= 1000
        assert len(curve.points) >= 2
        assert all(seconds > 0 and rms > 0 for seconds, rms in curve.points)
    assert any(convergence.RLLIB_PYTHON in line for line in told)


def fake_python(folder: Path, lines: list[str], code: int) -> str:
    """An interpreter that knows RLlib and says what it is told to."""
    path = folder / "python"
    said = "".join(f"print({line!r}, flush=True)\n" for line in lines)
    path.write_text(
        f"#!{sys.executable}\nimport sys\nif '-c' in sys.argv:\n    sys.exit(0)\n{said}"
        f"print('ray.Trouble: no luck', file=sys.stderr)\nsys.exit({code})\n"
    )
    path.chmod(0o755)
    return str(path)


def test_rllib_s_curve_comes_line_by_line(
    request_of: RequestOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    points = [{"seconds": 0.5 * i, "rms_mm": 30.0 - i, "steps": 100 * i} for i in range(3)]
    monkeypatch.setenv(convergence.RLLIB_PYTHON, fake_python(tmp_path, [json.dumps(point) for point in points], 0))
    monkeypatch.setattr(convergence, "_trained", lambda _, name, *__: Curve(name, ((1.0, 2.0),), 5))
    no_ray(monkeypatch)
    last = curves(request_of(minutes=1.0), "corner8", 2, lambda _: None)[-1]
    assert last == Curve("RLlib's PPO, 2 workers", ((0.0, 30.0), (0.5, 29.0), (1.0, 28.0)), 200)
    monkeypatch.setenv(convergence.RLLIB_PYTHON, fake_python(tmp_path, [], 1))
    with pytest.raises(Fault, match=r"RLlib's PPO, 2 workers: ended with 1: ray\.Trouble: no luck"):
        curves(request_of(minutes=1.0), "corner8", 2, lambda _: None)


@pytest.mark.parametrize("python", ["/nowhere/python", "/bin/false"])
def test_an_interpreter_without_rllib_is_refused(python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(convergence.RLLIB_PYTHON, python)
    with pytest.raises(BadInput, match=python) as caught:
        rllib_python()
    assert "\n" not in str(caught.value)


def test_one_plot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Any] = []

    def made(request: TrainRequest, machine: str, workers: int, _: Any) -> list[Curve]:
        asked.append((request.minutes, machine, workers))
        return [Curve("one", ((1.0, 3.0), (2.0, 1.0)), 100), Curve("other", ((0.5, 2.0), (2.0, 0.5)), 900)]

    monkeypatch.setattr(convergence, "curves", made)
    monkeypatch.setattr(bench_cores, "free_cores", lambda: 3)
    plot = tmp_path / "c.png"
    assert main(["bench", "cluster", "--convergence", "--minutes", "2", "--plot", str(plot), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert asked == [(2.0, "corner8", 3)]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert told["curves"][1] == {"name": "other", "points": [[0.5, 2.0], [2.0, 0.5]], "steps": 900}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["env", "--convergence"], "--convergence: goes with bench cluster only"),
        (["cluster", "--plot", "a.png"], "--plot a.png"),
        (["cluster", "--convergence", "--minutes", "0"], "--minutes"),
        (["cluster", "--convergence", "--preset", "scrach"], "preset scrach"),
        (["cluster", "--convergence", "--plot", "a.txt"], "--plot a.txt: must end in"),
    ],
)
def test_what_does_not_go_together(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1


def test_cores_that_are_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two looks at what the system counts: one core idle, one half, one busy; others do not count."""
    looks = [
        {0: (100, 1000), 1: (100, 1000), 2: (100, 1000)},
        {0: (200, 1100), 1: (140, 1100), 2: (100, 1100)},
    ]
    monkeypatch.setattr(bench_cores, "_idle_shares", lambda _: looks.pop(0))
    assert bench_cores.free_cores(0.0) == 1
    monkeypatch.setattr(bench_cores, "_idle_shares", lambda _: {})
    assert bench_cores.free_cores(0.0) >= 1
    monkeypatch.undo()
    assert bench_cores.free_cores(0.05) >= 1


def test_more_workers_than_free_cores_are_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    asked: Any = SimpleNamespace(threads="1,4")
    assert bench_cores._workers(asked, [1, 4], 2) == 4
    assert "4 workers on 2 free cores" in capsys.readouterr().err
    assert bench_cores._workers(SimpleNamespace(threads=None), [4], 2) == 2  # type: ignore[arg-type]
