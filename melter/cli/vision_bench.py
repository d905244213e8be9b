"""``melter vision bench``: how well the tracker sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from melter.cli.common import Common, emit, parse, require_in, say

if TYPE_CHECKING:
    from melter.vision.trial.score import Shot


@dataclass(frozen=True, kw_only=True)
class Bench(Common):
    """Run the tracker on rendered scenes: ray-traced patches on uneven sand, saturated, partly hidden, with sparkles,
    glass, reflections, clouds; and films in which something hides the patch for a second. Figures are against the
    irradiance centroid; each still is looked at without memory of the one before.
    """

    places: int = 6
    """Cameras over the bed, drawn at random (1 to 1000)."""
    each: int = 4
    """Stills of each kind at each place (1 to 1000)."""
    films: int = 2
    """Films of 3.5 s, at most one a place (0 to 1000)."""


def run(argv: list[str]) -> int:
    """Run the tracker over the trial; return 0."""
    options = parse(Bench, argv, "vision bench")
    require_in("--places", options.places, 1, 1000)
    require_in("--each", options.each, 1, 1000)
    require_in("--films", options.films, 0, 1000)
    require_in("--seed", options.seed, 0, 2**31 - 1)
    from melter.machine import load_machine
    from melter.vision.trial.scenes import EMPTY_KINDS, KINDS
    from melter.vision.trial.score import back_after_s, run_trial, summary

    machine = load_machine(options.machine)
    shots, films, blind = run_trial(machine, options.places, options.each, options.films, options.seed, say)
    rows = {kind: summary([shot for shot in shots if shot.kind == kind]) for kind in (*KINDS, *EMPTY_KINDS)}
    rows["empty, all"] = summary([shot for shot in shots if not shot.seen])
    rows["seen whole, not saturated"] = summary([shot for shot in shots if _plain(shot)])
    reels = [summary(reel) for reel in films]
    result: dict[str, Any] = {
        "rows": [{"name": name, **row} for name, row in rows.items()],
        "films": [{**row, "back_after_s": back_after_s(reel)} for row, reel in zip(reels, films, strict=True)],
        "places_without_markers": blind,
        "seed": options.seed,
    }
    emit(result, options.json, _text(result))
    return 0


def _plain(shot: Shot) -> bool:
    return shot.seen and shot.hidden < 0.01 and shot.status in ("ok", "ambiguous")


def _text(result: dict[str, Any]) -> str:
    head = (
        "",
        "n",
        "lost %",
        "stray %",
        "false %",
        "mm p50",
        "p95",
        "px p50",
        "p95",
        "axes %",
        "angle",
        "2 sig %",
        "ms",
    )
    lines = [_row(*head)]
    rows: list[dict[str, Any]] = [*result["rows"]]
    rows += [{"name": f"film {n}", **film} for n, film in enumerate(result["films"])]
    for row in rows:
        lines.append(
            _row(
                row["name"],
                str(row["n"]),
                _number(row["lost_share"], 100, 1),
                _number(row["stray_share"], 100, 1),
                _number(row["false_share"], 100, 1),
                _number(row["centre_mm_p50"], 1, 2),
                _number(row["centre_mm_p95"], 1, 1),
                _number(row["centre_px_p50"], 1, 2),
                _number(row["centre_px_p95"], 1, 2),
                _number(row["axes_off_p50"], 100, 1),
                _number(row["angle_off_deg_p50"], 1, 1),
                _number(row["within_two_sigma"], 100, 0),
                _number(row["ms_p50"], 1, 1),
            )
        )
        if "back_after_s" in row:
            lines.append(f"  back {1000 * row['back_after_s']:.0f} ms after it came out of hiding")
    return "\n".join(lines)


def _row(name: str, *cells: str) -> str:
    return f"{name:<26}" + "".join(f"{cell:>9}" for cell in cells)


def _number(value: float | None, scale: float, digits: int) -> str:
    return "-" if value is None else f"{scale * value:.{digits}f}"
