"""``melter machine check``: can this machine hold its lens, where not, why, and what to change."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from melter.cli.common import Common, emit, parse
from melter.errors import BadInput

EXIT_HOLDS, EXIT_DOES_NOT = 0, 1
USAGE = """usage: melter machine check [FILE] [--plot FILE] [--json]

check    can this machine hold its lens, over the bed, for its sun and wind

melter machine check --help tells each option, its unit and its default.
"""


@dataclass(frozen=True, kw_only=True)
class CheckConfig(Common):
    """Can a machine hold its lens: over the bed, for suns from all sides up to its own zenith angle, in its wind.

    Exit code 0: it holds; 1: it does not; 2: the file cannot be used.
    """

    file: Positional[str | None] = None
    """Machine file (TOML), or the name of a packaged machine; the same as --machine."""
    plot: Path | None = None
    """Draw the map of what holds into this file (.png, .pdf or .svg)."""
    advice: bool = True
    """Look for the smallest change that would help (--no-advice: do not)."""


def run(argv: list[str]) -> int:
    """Run ``melter machine ...`` and return its exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return EXIT_HOLDS
    if argv[0] != "check":
        raise BadInput(f"machine {argv[0]}: no such command; known: check")
    return _check(parse(CheckConfig, argv[1:], "machine check"))


def _check(config: CheckConfig) -> int:
    from melter.cli.plots import require_plot_file
    from melter.geometry.check import assess
    from melter.geometry.improve import smallest_improvement
    from melter.geometry.shape import MachineShape
    from melter.machine import load_machine

    if config.plot is not None:
        require_plot_file(config.plot)
    machine = load_machine(config.file if config.file is not None else config.machine)
    shape = MachineShape.from_machine(machine)
    report = assess(shape)
    goal_deg = shape.sun_zenith_deg if not report.holds else max(report.by_zenith_deg)
    wanted = not report.holds or min(report.by_zenith_deg.values()) < 1
    better = smallest_improvement(shape, goal_deg) if config.advice and wanted else None
    if config.plot is not None:
        from melter.cli.plots import holding_figure, save

        save(holding_figure(machine.name, shape, report), config.plot)
    emit(_result(machine.name, report, better, config.plot), config.json, _screen(machine.name, shape, report, better))
    return EXIT_HOLDS if report.holds else EXIT_DOES_NOT


def _result(name: str, report: Any, better: Any, plot: Path | None) -> dict[str, Any]:
    change = None
    if better is not None:
        change = {
            "changes": [c.words for c in better.changes],
            "feasible_share": better.share,
            "up_to_zenith_deg": better.zenith_deg,
            "holds": better.enough,
            "problems": list(better.report.problems) if better.report is not None else [],
        }
    plain = (
        "holds", "zenith_deg", "feasible_share", "bed_share", "bed_limit", "bed_x_m", "bed_y_m", "limited_by",
        "limiting_cables", "min_clearance_m", "clearances_m", "margin_n", "wind_max_m_s", "park_holds", "way_share",
        "lowest_mode_hz", "spot_per_cable",
    )  # fmt: skip
    return {
        "machine": name,
        **{key: getattr(report, key) for key in plain},
        "by_zenith_deg": {f"{zenith:g}": share for zenith, share in report.by_zenith_deg.items()},
        "bed_by_zenith_deg": {f"{zenith:g}": share for zenith, share in report.bed_by_zenith_deg.items()},
        "problems": list(report.problems),
        "smallest_change": change,
        "plot": plot,
    }


def _screen(name: str, shape: Any, report: Any, better: Any) -> str:
    lines = [_verdict(name, shape, report)]
    if report.problems:
        lines += ["", "What is wrong:", *(f"  - {problem}" for problem in report.problems)]
    lines += ["", *_advice(report, better)] if better is not None else []
    bed = " x ".join(f"{side:g}" for side in shape.bed_size_m)
    lines += [
        "",
        f"Asked: light on every point of the {bed} m bed, lens facing the sun, the sun on all sides up to "
        f"{report.zenith_deg:g} deg",
        f"from the zenith, wind up to {shape.wind_m_s:g} m/s from any side, every cable between {shape.tension_min_n:g} and "
        f"{shape.tension_max_n:g} N.",
        "",
        f"Holds {report.feasible_share:.1%} of that. By the sun's zenith angle:",
        "  " + "  ".join(f"{zenith:g} deg {share:.1%}" for zenith, share in report.by_zenith_deg.items()),
        "Over the bed, north up, west left (# all suns asked for, 9: 90 %, ... 0: under 10 %):",
        *_bed_map(report),
    ]
    return "\n".join([*lines, *_facts(report)])


def _verdict(name: str, shape: Any, report: Any) -> str:
    """The answer in one sentence."""
    if report.holds:
        return (
            f"{name} holds its lens: in every pose asked for, with {report.margin_n:.0f} N to spare at both ends of the "
            f"tension band, and in wind up to {report.wind_max_m_s:.1f} m/s."
        )
    if report.feasible_share == 1:
        return f"{name} holds its lens in every pose asked for, but cannot work as it is: {report.problems[0]}."
    from melter.geometry.check import PUSH

    pushes = report.limited_by.get(PUSH, 0.0) >= 0.5
    lacks = (
        "a cable would have to push, and cables only pull"
        if pushes
        else f"a cable needs over {shape.tension_max_n:g} N"
    )
    share = 1 - report.feasible_share
    return (
        f"{name} does NOT hold its lens: in {share:.1%} of the poses asked for no tensions balance it; mostly {lacks}."
    )


def _facts(report: Any) -> list[str]:
    lines: list[str] = []
    if report.limited_by:
        why = ", ".join(f"{reason} {share:.0%}" for reason, share in report.limited_by.items())
        first = ", ".join(list(report.limiting_cables)[:4])
        lines += [f"Where it fails (all zenith angles above): {why}; first at their limit: {first}"]
    near = ", ".join(f"{what} {value * 1e3:.0f} mm" for what, value in report.clearances_m.items())
    return [
        *lines,
        f"Least distances: {near} (20 mm needed; below 0: inside)",
        f"Park {'holds' if report.park_holds else 'does NOT hold'}; of the way from park into work {report.way_share:.1%} holds",
        f"Slowest swing {report.lowest_mode_hz:.1f} Hz; a cable 1 mm off moves the spot by up to {report.spot_per_cable:.2f} mm",
    ]


def _advice(report: Any, better: Any) -> list[str]:
    words = [change.words for change in better.changes]
    sun = f"for suns up to {better.zenith_deg:g} deg from the zenith"
    if better.enough and report.holds:
        lead = f"Smallest change found with which it would hold {sun} too (changed machine checked as a whole):"
    elif better.enough:
        lead = (
            f"Smallest change found with which it holds and works {sun} (the changed machine was checked as a whole):"
        )
    else:
        lead = f"No change tried makes it hold {sun}; this one gets to {better.share:.1%}:"
    return [lead, *(f"  - {line}" for line in words)]


def _bed_map(report: Any) -> list[str]:
    """One row of tenths per grid line, from north to south: 9 for 90 %, # for all."""
    rows = report.bed_share.T[::-1]
    return ["  " + " ".join("#" if share == 1 else str(int(share * 10)) for share in row) for row in rows]
