"""The dispatcher: commands, exit codes, one line per complaint, and nothing heavy for --help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from melter.cli import main as main_module
from melter.cli.common import Common, emit, parse, plain, require_in
from melter.cli.main import COMMANDS, main
from melter.errors import (
    BadInput,
    CameraError,
    CommandRefused,
    LinkFault,
    MachineFileError,
    ModelFileError,
    OutputExists,
    PortError,
    SimulationDiverged,
    VisionFault,
)

CONTRACT = {
    "machine",
    "patch",
    "sim-train",
    "eval",
    "enjoy",
    "safety-check",
    "calibrate",
    "track",
    "hw",
    "twin",
    "real",
    "bench",
}

NEEDED = {"safety-check": ["model"], "enjoy": ["model"], "export": ["model"], "track": ["0"], "replay": ["run"]} | {
    "export-run": ["run"]
}
NEEDED |= {"watch": ["run"], "push": ["run", "place"], "pull": ["place"]}
NEEDED |= {"slurm": ["--nodes", "2", "--cpus-per-task", "2", "--time", "60"]}


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h"], ["help"]):
        assert main(words) == 0
        out, err = capsys.readouterr()
        assert err == ""
        for name in COMMANDS:
            assert f"  {name} " in out
    assert set(COMMANDS) >= CONTRACT


def test_help_loads_nothing_heavy() -> None:
    heavy = ("torch", "mujoco", "stable_baselines3", "cv2", "gymnasium", "tyro", "pydantic", "numpy", "serial", "scipy")
    loaded = python(
        "import sys\nfrom melter.cli.main import main\nmain(['--help'])\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)\n"
        f"assert not {{'torch', 'mujoco', 'stable_baselines3', 'cv2'}} & set(sys.modules), sorted(sys.modules)\n"
    )
    assert "sim-train" in loaded


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim-trian"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "sim-trian" in err
    assert "sim-train" in err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("melter 0.")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([name, "--help"])
    except SystemExit as stop:
        code = stop.code
    assert not code
    out, err = capsys.readouterr()
    assert err == ""
    assert len(out) > 100


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"machine", "calibrate", "hw"}))
def test_every_command_refuses_an_unknown_option_on_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, *NEEDED.get(name, []), "--surprise", "3"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("melter: ")
    assert "surprise" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadInput("a\nb"), 2),
        (MachineFileError("x"), 2),
        (ModelFileError("x"), 2),
        (OutputExists("x"), 2),
        (PortError("x"), 2),
        (CameraError("x"), 2),
        (CommandRefused("x"), 2),
        (LinkFault("x"), 3),
        (VisionFault("x"), 3),
        (SimulationDiverged("x"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: list[str]) -> int:
        raise error

    monkeypatch.setattr(main_module.importlib, "import_module", lambda _: SimpleNamespace(run=run))
    assert main(["eval"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m melter.cli.main patch --lens 0,0,1.22 --tilt-deg 0,0 --sun 0,180 | true",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr


def test_parsing_errors_are_one_line() -> None:
    for words in (["--seed", "x"], ["--sed", "3"], ["--machine"], ["stray"]):
        with pytest.raises(BadInput) as caught:
            parse(Common, words, "test")
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith("test: ")
    assert parse(Common, ["--seed", "4", "--json"], "test") == Common(seed=4, json=True)


def test_json_is_one_object_of_json_types(capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    emit({"a": np.array([1.0, np.nan]), "p": Path("x"), "n": np.float32(2), "t": (1, {2: np.inf})}, True, "")
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"a": [1.0, None], "p": "x", "n": 2.0, "t": [1, {"2": None}]}
    emit({"a": 1}, False, "words\n\n")
    assert capsys.readouterr().out == "words\n"
    assert plain({1}) == [1]


def test_ranges_refuse_nan() -> None:
    require_in("x", 1, 1, 2)
    for value in (0.99, 2.01, float("nan"), float("inf")):
        with pytest.raises(BadInput, match="must lie between 1 and 2 mm"):
            require_in("--x", value, 1, 2, " mm")
