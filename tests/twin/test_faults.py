"""Every fault of the twin: the driver notices what is on the wire or in the counters, the picture or the truth shows the rest."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from melter.env.params import nominal_values
from melter.errors import LinkFault
from melter.hw.grbl_driver import GrblDriver
from melter.machine import load_machine
from melter.safety import gate
from melter.safety.gate import ApprovedCommand
from melter.twin.faults import FAULTS, parse_fault
from melter.twin.machine import TwinMachine, hidden_values
from melter.twin.process import Twin, TwinOptions

MACHINE = load_machine()
ASKED = (
    *(
        "serial cut",
        "garbage bytes",
        "byte loss",
        "slow answers",
        "firmware reset",
        "alarm",
        "winch dead",
        "winch stuck",
    ),
    *("cable snapped", "cable slack", "encoder slip", "camera frozen", "camera gone", "camera dark", "cloud", "gust"),
    *("marker covered", "clock jump"),
)
ON_THE_WIRE = {
    "serial-cut": {"hangup"},
    "garbage-bytes": {"noise"},
    "byte-loss": {"noise", "refused", "silence", "jump", "lag", "alarm", "reset", "stall"},
    "slow-answers": {"silence"},
    "firmware-reset": {"reset", "alarm"},
    "alarm": {"alarm"},
    "encoder-slip": {"jump"},
    "clock-jump": {"silence"},
}
NOT_ON_THE_WIRE = sorted(set(FAULTS) - set(ON_THE_WIRE))


def command(speed_m_s: float) -> ApprovedCommand:
    counts = np.full(8, round(speed_m_s * 0.05 * 1e6))
    return ApprovedCommand(counts / 5e4, counts, 0.05, time.monotonic(), 0, gate._KEY)


@contextlib.contextmanager
def running(**options: Any) -> Iterator[Twin]:
    with Twin(TwinOptions(machine=MACHINE, seed=5, **options)) as twin:
        end = threading.Event()
        thread = threading.Thread(target=lambda: [twin.run(twin.machine.t_s + 0.05) for _ in iter(end.is_set, True)])
        thread.start()
        try:
            yield twin
        finally:
            end.set()
            thread.join()


def test_all_of_them_can_be_asked_for() -> None:
    assert {parse_fault(f"{name}@1").name for name in ASKED} == set(FAULTS)
    assert parse_fault("camera_gone@2").name == "camera-gone"


def struck(name: str) -> tuple[str, ...]:
    """What the driver says of a fault while the winches move."""
    with running() as twin, GrblDriver(twin.port.path, MACHINE) as driver:
        with contextlib.suppress(LinkFault):
            for tick in range(60):
                driver.send(command(0.01 if tick % 20 < 10 else -0.01))
                if tick == 8:
                    FAULTS[name](twin)
                time.sleep(0.05)
        return driver.poll().faults


@pytest.mark.parametrize("name", sorted(ON_THE_WIRE))
def test_the_driver_notices(name: str) -> None:
    faults = struck(name)
    assert faults
    assert faults[0].split(":")[0] in ON_THE_WIRE[name]


def test_the_driver_cannot_notice_the_others() -> None:
    """All at once: the counters tell what the board did, and it did all that it was told."""
    with running() as twin, GrblDriver(twin.port.path, MACHINE) as driver:
        for name in NOT_ON_THE_WIRE:
            FAULTS[name](twin)
        for _ in range(10):
            driver.send(command(0.01))
            time.sleep(0.05)
        assert driver.poll().faults == ()


def still_twin() -> TwinMachine:
    fixed = {name: value.tolist() for name, value in nominal_values(MACHINE).items()} | {"wind_m_s": 0.0}
    return TwinMachine(MACHINE, hidden_values(MACHINE, 0, fixed), np.random.default_rng(0))


def paid_out(twin: TwinMachine, steps: int, speed_m_s: float = 0.01) -> None:
    at_m = twin._steps[-1]
    for step in range(1, steps + 1):
        twin.advance(at_m + speed_m_s * twin.step_s * step)


@pytest.mark.parametrize("how", ["dead", "stuck"])
def test_a_winch_that_no_longer_turns(how: str) -> None:
    twin = still_twin()
    before = twin.snapshot().tensions_n
    if how == "dead":
        twin.dead[2] = True
    else:
        twin.winches.jammed[0, 2] = True
    paid_out(twin, 80)
    now = twin.snapshot()
    assert now.cable_speed_m_s[2] == pytest.approx(0, abs=1e-6)
    assert now.cable_speed_m_s[3] == pytest.approx(0.01, rel=0.1)
    assert np.abs(now.tensions_n - before).max() > 20  # the others pull the lens away from it


def test_a_cable_that_slips_and_one_that_snaps() -> None:
    twin = still_twin()
    before = twin.snapshot()
    twin.slacken(0)
    paid_out(twin, 60, 0.0)
    slack = twin.snapshot()
    assert slack.tensions_n[0] < 0.7 * before.tensions_n[0]
    assert np.hypot(*(slack.centre_world_m - before.centre_world_m)[:2]) > 1e-3
    twin.snap(5)
    paid_out(twin, 60, 0.0)
    assert twin.snapshot().tensions_n[5] == 0
    assert np.isfinite(twin.snapshot().centre_world_m).all()


def test_an_encoder_slip_moves_the_counters_and_nothing_else() -> None:
    with Twin(TwinOptions(machine=MACHINE, seed=5, faults=(parse_fault("encoder slip@0.1"),))) as twin:
        before = twin.machine.winches.counted_m.copy()
        twin.run(0.5)
        assert np.abs(twin.firmware.position_m).max() == pytest.approx(0.010, abs=1e-4)
        assert np.abs(twin.machine.winches.counted_m - before).max() < 1e-9


def test_a_gust_and_a_cloud() -> None:
    """Level, the lens does not feel a level wind: it is tilted first."""
    tilted = np.array([0.02, -0.015, -0.02, 0.015, -0.02, 0.015, 0.02, -0.015])
    calm, stormy = still_twin(), still_twin()
    for share in np.linspace(0, 1, 100):
        for twin in (calm, stormy):
            twin.advance(share * tilted)
    stormy.gust, stormy.sun_share = 2.0, 0.02
    paid_out(calm, 60, 0.0)
    paid_out(stormy, 60, 0.0)
    assert stormy.snapshot().power_w < 0.05 * calm.snapshot().power_w
    assert np.abs(stormy.snapshot().tensions_n - calm.snapshot().tensions_n).max() > 1e-3


def test_the_cameras_faults() -> None:
    with running() as twin:

        def look() -> np.ndarray:
            return twin.film.picture(twin.machine.snapshot()).astype(float)

        film = twin.film
        number, _ = film.wait(0, 3.0)
        clear = look()
        FAULTS["marker-covered"](twin)
        changed = np.abs(look() - clear).max(axis=2) > 60
        assert 500 < changed.sum() < 0.05 * changed.size
        film.covered = None
        FAULTS["camera-dark"](twin)
        assert look().mean() < 0.2 * clear.mean()
        FAULTS["camera-frozen"](twin)
        time.sleep(0.2)
        frozen, _ = film.wait(10**9, 0.05)
        later, _ = film.wait(10**9, 0.3)
        assert later == frozen >= number
        assert film.running
        FAULTS["camera-gone"](twin)
        assert not film.running


def test_a_jump_of_the_clock_is_not_made_up_for() -> None:
    with Twin(TwinOptions(machine=MACHINE, seed=5, faults=(parse_fault("clock-jump@0.2"),))) as twin:
        began_s = time.monotonic()
        twin.run(0.6)
        assert time.monotonic() - began_s > 0.6 + 1.4
