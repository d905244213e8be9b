"""Drivers by name, third-party ones included: the example of docs/drivers.md is registered and driven."""

import importlib.metadata
import re
import sys
import types
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from hw_bench import MACHINE, command

from melter.errors import BadInput, LinkFault, PortError
from melter.hw import drivers
from melter.hw.driver import MotorDriver
from melter.hw.drivers import driver_names, make_driver
from melter.hw.dynamixel import DynamixelDriver
from melter.hw.grbl_driver import GrblDriver

PAGE = Path(__file__).parents[2] / "docs" / "drivers.md"


@pytest.fixture
def paper(monkeypatch):
    """The page's example as an installed package would bring it."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    module = types.ModuleType("paper_winches")
    exec(compile(code, "paper_winches.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "paper_winches", module)
    register(monkeypatch, paper="paper_winches:PaperDriver")
    return module


def register(monkeypatch, **entries: str) -> None:
    points = importlib.metadata.EntryPoints(EntryPoint(name, value, drivers.GROUP) for name, value in entries.items())
    monkeypatch.setattr(drivers, "entry_points", lambda group: points.select(group=group))


def test_own_drivers():
    assert driver_names()[:2] == ["grblhal", "dynamixel"]
    assert isinstance(make_driver("grblhal", "/dev/nonesuch", MACHINE), GrblDriver)
    assert isinstance(make_driver("dynamixel", "/dev/nonesuch", MACHINE), DynamixelDriver)


@pytest.mark.usefixtures("paper")
def test_the_pages_example_works(tmp_path):
    assert "paper" in driver_names()
    assert 'paper = "paper_winches:PaperDriver"' in PAGE.read_text(encoding="utf-8")
    seen = []
    driver: MotorDriver = make_driver("paper", str(tmp_path / "sheet"), MACHINE, lambda *piece: seen.append(piece))
    with driver:
        driver.send(command(np.full(8, 0.01)))
        driver.send(command(np.full(8, -0.02)))
        assert driver.poll().positions_m == pytest.approx(np.full(8, -0.0002))
        with pytest.raises(TypeError):
            driver.send(np.zeros(8))
    driver.close()
    assert (tmp_path / "sheet").read_bytes() == (b"200 " * 8).strip() + b"\n" + (b"-400 " * 8).strip() + b"\n"
    assert len(seen) == 2
    with pytest.raises(LinkFault):
        driver.send(command(np.zeros(8)))
    with pytest.raises(PortError, match="cannot be opened"):
        make_driver("paper", str(tmp_path), MACHINE).connect()


@pytest.mark.usefixtures("paper")
def test_unknown_names_are_refused():
    with pytest.raises(BadInput, match=r"driver papre: no such driver; did you mean paper\?"):
        make_driver("papre", "/dev/null", MACHINE)


def test_broken_drivers_are_refused(monkeypatch):
    register(monkeypatch, gone="no_such_package:Driver", half="types:SimpleNamespace", grblhal="no_such_package:Evil")
    with pytest.raises(BadInput, match=r"driver gone \(no_such_package:Driver\): cannot be loaded"):
        make_driver("gone", "/dev/null", MACHINE)
    with pytest.raises(BadInput, match="driver half"):
        make_driver("half", "/dev/null", MACHINE)
    assert isinstance(make_driver("grblhal", "/dev/null", MACHINE), GrblDriver)  # own names cannot be taken over


def test_a_driver_that_lacks_something_is_refused(monkeypatch):
    module = types.ModuleType("half_winches")
    module.make = lambda port, machine, on_bytes: types.SimpleNamespace(connect=None)
    monkeypatch.setitem(sys.modules, "half_winches", module)
    register(monkeypatch, half="half_winches:make")
    with pytest.raises(BadInput, match="lacks promises, send"):
        make_driver("half", "/dev/null", MACHINE)


def test_the_package_for_motors_on_a_bus_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "dynamixel_sdk", None)
    with pytest.raises(BadInput, match=r"pip install melter\[dynamixel\]"):
        make_driver("dynamixel", "/dev/null", MACHINE).connect()
