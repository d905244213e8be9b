"""What is shipped: machine files inside the wheel, exact versions, commands."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from melter.machine import load_machine, packaged_machines

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_machine_files_are_shipped_in_the_wheel() -> None:
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"models": "melter/models"}
    assert wheel["packages"] == ["melter"]
    assert packaged_machines() == sorted(path.stem for path in (ROOT / "models").glob("*.toml"))
    assert {"corner8", "vitrifier"} <= set(packaged_machines())
    for name in packaged_machines():
        assert load_machine(name).name == name


def test_an_installed_wheel_finds_them_beside_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from melter import machine

    (tmp_path / "melter" / "models").mkdir(parents=True)
    text = (ROOT / "models" / "corner8.toml").read_text(encoding="utf-8")
    (tmp_path / "melter" / "models" / "other.toml").write_text(text.replace('name = "corner8"', 'name = "other"'))
    monkeypatch.setattr(machine.resources, "files", lambda _: tmp_path / "melter")
    assert packaged_machines() == ["other"]
    assert load_machine("other").name == "other"


def test_data_files_lie_inside_the_package() -> None:
    assert (ROOT / "melter" / "policy" / "presets.toml").is_file()


def test_the_command_is_installed() -> None:
    assert PROJECT["project"]["scripts"] == {"melter": "melter.cli.main:main"}
    scripts = [point for point in entry_points(group="console_scripts") if point.name == "melter"]
    if not scripts:
        pytest.skip("melter is not installed here, only importable")
    assert scripts[0].value == "melter.cli.main:main"


def test_every_dependency_is_pinned_exactly() -> None:
    file = ROOT / "constraints.txt"
    lines = [line.split("#")[0].split(";")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    pins = [line for line in lines if line]
    for pin in pins:
        assert re.fullmatch(r"[A-Za-z0-9_.\-\[\]]+==[A-Za-z0-9.+!]+", pin), pin
    pinned = {re.sub(r"[-_.]+", "-", pin.split("==")[0].split("[")[0]).lower() for pin in pins}
    wanted = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"]
    named = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", item)[0]).lower() for item in wanted}
    assert named <= pinned


def test_python_and_licence() -> None:
    assert PROJECT["project"]["requires-python"] == ">=3.11"
    assert PROJECT["project"]["license"] == "MIT"
    assert "MIT" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert (ROOT / "CHANGELOG.md").is_file()
    assert (ROOT / "README.md").is_file()
