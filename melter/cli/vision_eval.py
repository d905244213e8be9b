"""``melter vision eval``: how far a pose network is off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tyro.conf import Positional

from melter.cli.common import Common, emit, parse, require_in, say
from melter.cli.progress import ShareDone


@dataclass(frozen=True, kw_only=True)
class Eval(Common):
    """Errors of a pose network on pictures rendered for this alone: like its dataset's with and without markers, and
    like the trial's, a renderer of which it has seen nothing. Exit code 1 when, on pictures like the dataset's, a median of
    the camera's is beyond 3 % of the distance or 2 degrees of azimuth or elevation.
    """

    model: Positional[str | None] = None
    """ONNX file of 'melter vision train'; without it, the one that comes with the machine."""
    images: int = 1000
    """Pictures like the dataset's (4 to 1000000)."""
    trial: int = 25
    """Places of the trial's renderer, two pictures each (0 to 10000)."""


def run(argv: list[str]) -> int:
    """Evaluate; return 0 when the medians are within the bar, else 1."""
    options = parse(Eval, argv, "vision eval")
    require_in("--images", options.images, 4, 1_000_000)
    require_in("--trial", options.trial, 0, 10_000)
    require_in("--seed", options.seed, 0, 2**31 - 1)
    from melter.machine import load_machine
    from melter.vision.pose.model import load_pose_model
    from melter.vision.pose.score import good_enough, run, summary, trial_pictures, unseen

    machine = load_machine(options.machine)
    model = load_pose_model(options.model, machine)
    with ShareDone("pictures like the dataset's") as done:
        misses = run(model, unseen(machine, options.images, options.seed), options.images, done)
    with ShareDone("pictures of the trial") as done:
        others = run(model, trial_pictures(machine, options.trial, options.seed), max(2 * options.trial, 1), done)
    rows = {
        "all": summary(misses),
        "with markers": summary([miss for miss in misses if miss.markers]),
        "without markers": summary([miss for miss in misses if not miss.markers]),
        "sure": summary([miss for miss in misses if miss.sure]),
        "trial": summary(others),
    }
    good = good_enough(rows["all"])
    result: dict[str, Any] = {
        "model": str(model.path),
        "good": good,
        "trained": {key: model.facts.get(key) for key in ("images", "epochs", "seconds")},
        "rows": [{"name": name, **row} for name, row in rows.items()],
        "seed": options.seed,
    }
    emit(result, options.json, _text(rows))
    if not good:
        say("a median of the camera's is beyond 3 % of the distance or 2 degrees of azimuth or elevation")
    return 0 if good else 1


COLUMNS = (
    "distance_percent",
    "azimuth_deg",
    "elevation_deg",
    "attitude_deg",
    "lens_mm",
    "lens_axis_deg",
    "lens_turn_deg",
)


def _text(rows: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'median / p95':<16}{'n':>6}" + "".join(f"{name:>18}" for name in (*COLUMNS, "quarter right", "sure"))]
    for name, row in rows.items():
        cells = [f"{_number(row[f'{c}_p50'])} / {_number(row[f'{c}_p95'])}" for c in COLUMNS]
        cells += [_share(row["quarter_right_share"]), _share(row["sure_share"])]
        lines.append(f"{name:<16}{row['n']:>6}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
