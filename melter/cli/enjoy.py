"""``melter enjoy``: a policy at work, in a window or as a video."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from melter.cli.common import Common, emit, parse, require_in, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from melter.env.batch import SandMelterBatch
    from melter.safety.bundle import LoadedPolicy

SETTLED_S = 2.0
"""Accuracy is counted from here on; from the middle of a shorter play."""
REPORT_EVERY_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Enjoy(Common):
    """Play a policy in one simulation: in a window where there is a display, else into a video file."""

    model: Annotated[str, tyro.conf.Positional]
    """Run folder, bundle folder, policy.safetensors, or a stable-baselines3 zip."""
    video: str | None = None
    """Video file to write, .mp4 or .gif. Without it and without a display: enjoy.mp4 beside the model."""
    suite: Literal["nominal", "outdoor", "train"] = "nominal"
    """What the machine meets: the drawing's values, everything randomised, or what policies are trained on."""
    seconds: float = 20.0
    """How long to play, in seconds of the machine's time (0.5 to 3600)."""
    force: bool = False
    """Overwrite the video if it exists."""


def run(argv: list[str]) -> int:
    """Play and return 0; raises BadInput (exit 2) before anything is written."""
    options = parse(Enjoy, argv, "enjoy")
    require_in("--seconds", options.seconds, 0.5, 3600.0, " s")
    require_in("--seed", options.seed, 0, 2**31 - 1)
    from melter.env.scenario import scenario_named
    from melter.machine import load_machine
    from melter.policy.load import load_for

    machine = load_machine(options.machine)
    policy = load_for(options.model, machine)
    from melter.env.batch import SandMelterBatch

    scenario = replace(scenario_named(options.suite), episode_s=options.seconds)
    batch = SandMelterBatch(machine, 1, scenario)
    batch.reset(np.array([0]), [options.seed], [0])
    result = _play(options, policy, batch)
    words = [f"spot error {result['rms_mm']:.2f} mm RMS over {result['seconds']:.1f} s ({result['ending']})"]
    words += [f"video: {result['video']}"] if result["video"] else []
    emit(result, options.json, "\n".join(words))
    return 0


def _play(options: Enjoy, policy: LoadedPolicy, batch: SandMelterBatch) -> dict[str, Any]:
    """Play one episode; return what happened."""
    from melter.env.batch import ENDINGS

    errors_m: list[float] = []
    ending, period_s = 0, batch.machine.control.period_s
    started_s = said_s = time.monotonic()
    with ExitStack() as stack:
        show, video = _screen(options, batch, stack)
        while ending == 0 and show():
            _, state = batch.step(policy.net.act(batch.observe()))
            errors_m.append(float(state.spot_error_m[0]))
            ending = int(state.ending[0])
            now_s = time.monotonic()
            if now_s - said_s > REPORT_EVERY_S:
                said_s = now_s
                left_s = (now_s - started_s) * (batch.horizon / len(errors_m) - 1)
                say(f"enjoy: {len(errors_m) * period_s:.1f} of {options.seconds:.1f} s, about {left_s:.0f} s left")
        if ending:
            show()
    return {
        "video": video,
        "rms_mm": _rms_mm(errors_m, period_s),
        "seconds": len(errors_m) * period_s,
        "ending": ENDINGS[ending] if ending else "window closed",
        "suite": options.suite,
        "seed": options.seed,
        "machine": batch.machine.name,
        "model_sha256": policy.sha256,
    }


def _screen(options: Enjoy, batch: SandMelterBatch, stack: ExitStack) -> tuple[Callable[[], bool], str | None]:
    """Return what shows one moment (False: nobody looks any more), and the video's path."""
    from melter.env.window import Window, has_display

    if options.video is None and has_display():
        window = stack.enter_context(Window(batch))
        return _in_real_time(window.show, batch.machine.control.period_s), None
    from melter.env.view import View
    from melter.vision.video import VideoWriter

    place = Path(options.video) if options.video is not None else _beside(options.model)
    video = stack.enter_context(VideoWriter(place, batch.machine.control.rate_hz, overwrite=options.force))
    view = View(batch)
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


def _beside(model: str) -> Path:
    place = Path(model)
    return (place if place.is_dir() else place.parent) / "enjoy.mp4"


def _rms_mm(errors_m: list[float], period_s: float) -> float | None:
    """Root mean square after the first two seconds (or the first half, if that is less), millimetres."""
    first = min(round(SETTLED_S / period_s), len(errors_m) // 2)
    counted = errors_m[first:]
    return 1e3 * (sum(e * e for e in counted) / len(counted)) ** 0.5 if counted else None
