"""``melter enjoy``: policies at work, in a window or as a video."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tyro

from melter.cli.common import Common, emit, parse, require_in, say
from melter.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from melter.env.batch import SandMelterBatch
    from melter.policy.evaluate import Act

SETTLED_S = 2.0
"""Accuracy is counted from here on; from the middle of a shorter play."""
REPORT_EVERY_S = 2.0
PLAYERS_MAX = 4


@dataclass(frozen=True, kw_only=True)
class Enjoy(Common):
    """Show policies at work: in a window where there is a display, else as a video file.

    Several play the same episode side by side, such as one that was trained for seconds and one that was trained for
    minutes.
    """

    models: tyro.conf.Positional[tuple[str, ...]] = ()
    """Up to four run folders, bundle folders, policy.safetensors, or stable-baselines3 zips."""
    controller: Literal["policy", "servo"] = "policy"
    """policy, or servo: the classical visual servo as well, as the last one."""
    video: str | None = None
    """Video file to write, .mp4 or .gif. Without it and without a display: enjoy.mp4 beside the first model."""
    suite: Literal["nominal", "outdoor", "train"] = "nominal"
    """What the machine meets: the drawing's values, everything randomised, or what policies are trained on."""
    seconds: float = 20.0
    """How long to play, in seconds of the machine's time (0.5 to 3600)."""
    speed: int = 1
    """How many times faster than the machine the pictures run (1 to 100)."""
    force: bool = False
    """Overwrite the video if it exists."""


@dataclass(frozen=True, eq=False)
class _Player:
    """Somebody who steers one of the simulations."""

    name: str
    act: Act
    sha256: str | None


def run(argv: list[str]) -> int:
    """Play and return 0; raises BadInput (exit 2) before anything is written."""
    options = parse(Enjoy, argv, "enjoy")
    require_in("--seconds", options.seconds, 0.5, 3600.0, " s")
    require_in("--speed", options.speed, 1, 100)
    require_in("--seed", options.seed, 0, 2**31 - 1)
    count = len(options.models) + (options.controller == "servo")
    if not 1 <= count <= PLAYERS_MAX:
        raise BadInput(
            f"enjoy: {count} policies, must be 1 to {PLAYERS_MAX} models, --controller servo counting as one"
        )
    from melter.env.scenario import scenario_named
    from melter.machine import load_machine

    machine = load_machine(options.machine)
    players = _players(options, machine)
    from melter.env.batch import SandMelterBatch

    scenario = replace(scenario_named(options.suite), episode_s=options.seconds)
    batch = SandMelterBatch(machine, count, scenario)
    batch.reset(np.arange(count), np.full(count, options.seed), np.zeros(count, dtype=int))
    result = _play(options, players, batch)
    words = [f"{one['name']}: {_words(one)}" if count > 1 else _words(one) for one in result["players"]]
    words += [f"video: {result['video']}"] if result["video"] else []
    emit(result, options.json, "\n".join(words))
    return 0


def _players(options: Enjoy, machine: Any) -> list[_Player]:
    from melter.policy.load import load_for
    from melter.policy.servo import Servo

    policies = [(model, load_for(model, machine)) for model in options.models]
    players = [_Player(model, policy.net.act, policy.sha256) for model, policy in policies]
    return players + ([_Player("servo", Servo(machine).act, None)] if options.controller == "servo" else [])


def _words(one: dict[str, Any]) -> str:
    error = "no figure" if one["rms_mm"] is None else f"{one['rms_mm']:.2f} mm RMS"
    return f"spot error {error} over {one['seconds']:.1f} s ({one['ending']})"


def _play(options: Enjoy, players: list[_Player], batch: SandMelterBatch) -> dict[str, Any]:
    """Play one episode until every simulation has ended; return what happened."""
    period_s = batch.machine.control.period_s
    errors_m: list[list[float]] = [[] for _ in players]
    endings = np.zeros(len(players), dtype=np.intp)
    started_s = said_s = time.monotonic()
    with ExitStack() as stack:
        show, video = _screen(options, players, batch, stack)
        tick, watched = 0, show()
        while watched and not endings.all():
            observation = batch.observe()
            actions = np.concatenate([one.act(observation[i : i + 1]) for i, one in enumerate(players)])
            _, state = batch.step(np.where(endings[:, None] == 0, actions, 0.0))
            for i in np.flatnonzero(endings == 0):
                errors_m[i].append(float(state.spot_error_m[i]) if state.melting[i] else np.nan)
            endings = np.where(endings == 0, state.ending, endings)
            tick += 1
            now_s = time.monotonic()
            if now_s - said_s > REPORT_EVERY_S:
                said_s = now_s
                left_s = (now_s - started_s) * (batch.horizon / tick - 1)
                say(f"enjoy: {tick * period_s:.1f} of {options.seconds:.1f} s, about {left_s:.0f} s left")
            if tick % options.speed == 0 or endings.all():
                watched = show()
    told = [_told(one, errors_m[i], int(endings[i]), period_s) for i, one in enumerate(players)]
    first = {key: told[0][key] for key in ("rms_mm", "seconds", "ending", "model_sha256")}
    common = {"suite": options.suite, "seed": options.seed, "machine": batch.machine.name}
    return {"video": video, **first, **common, "players": told}


def _told(player: _Player, errors_m: list[float], ending: int, period_s: float) -> dict[str, Any]:
    from melter.env.batch import ENDINGS

    return {
        "name": player.name,
        "rms_mm": _rms_mm(errors_m, period_s),
        "seconds": len(errors_m) * period_s,
        "ending": ENDINGS[ending] if ending else "window closed",
        "model_sha256": player.sha256,
    }


def _screen(
    options: Enjoy, players: list[_Player], batch: SandMelterBatch, stack: ExitStack
) -> tuple[Callable[[], bool], str | None]:
    """Return what shows one moment (False: nobody looks any more), and the video's path."""
    from melter.env.view import PANEL_PX, SIZE_PX, SideBySide
    from melter.env.window import Window, has_display
    from melter.vision.video import VideoWriter

    titles, rate_hz = [one.name for one in players], batch.machine.control.rate_hz
    size_px = SIZE_PX if len(players) == 1 else PANEL_PX
    if options.video is None and has_display():
        window = stack.enter_context(Window(f"melter: {', '.join(titles)}"))
        view = SideBySide(batch, titles, size_px)
        stack.callback(view.close)
        return _in_real_time(lambda: window.show(view.picture()), batch.machine.control.period_s), None
    place = Path(options.video) if options.video is not None else _beside(options.models)
    video = stack.enter_context(VideoWriter(place, rate_hz, overwrite=options.force))
    view = SideBySide(batch, titles, size_px)
    stack.callback(view.close)

    def film() -> bool:
        video.write(view.picture())
        return True

    return film, str(place)


def _in_real_time(show: Callable[[], bool], period_s: float) -> Callable[[], bool]:
    due_s = time.monotonic()

    def shown() -> bool:
        nonlocal due_s
        due_s = max(due_s + period_s, time.monotonic())
        time.sleep(max(0.0, due_s - time.monotonic()))
        return show()

    return shown


def _beside(models: tuple[str, ...]) -> Path:
    place = Path(models[0]) if models else Path()
    return (place if place.is_dir() else place.parent) / "enjoy.mp4"


def _rms_mm(errors_m: list[float], period_s: float) -> float | None:
    """Root mean square after the first two seconds (or the first half, if that is less), millimetres; NaN: not melting."""
    first = min(round(SETTLED_S / period_s), len(errors_m) // 2)
    counted = [error for error in errors_m[first:] if error == error]
    return 1e3 * (sum(error * error for error in counted) / len(counted)) ** 0.5 if counted else None
