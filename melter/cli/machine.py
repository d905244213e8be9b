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
        }
    return {
        "machine": name,
        "holds": report.holds,
        "zenith_deg": report.zenith_deg,
        "feasible_share": report.feasible_share,
        "by_zenith_deg": {f"{zenith:g}": share for zenith, share in report.by_zenith_deg.items()},
        "bed_share": report.bed_share,
        "bed_x_m": report.bed_x_m,
        "bed_y_m": report.bed_y_m,
        "limited_by": report.limited_by,
        "limiting_cables": report.limiting_cables,
        "min_clearance_m": report.min_clearance_m,
        "clearances_m": report.clearances_m,
        "park_holds": report.park_holds,
        "way_share": report.way_share,
        "lowest_mode_hz": report.lowest_mode_hz,
        "spot_per_cable": report.spot_per_cable,
        "problems": list(report.problems),
        "smallest_change": change,
        "plot": plot,
    }


def _screen(name: str, shape: Any, report: Any, better: Any) -> str:
    verdict = "holds its lens" if report.holds else "does NOT hold its lens"
    bed = " x ".join(f"{side:g}" for side in shape.bed_size_m)
    lines = [
        f"{name} {verdict}: bed {bed} m, sun up to {report.zenith_deg:g} deg from the zenith from all sides,",
        f"wind {shape.wind_m_s:g} m/s, tension {shape.tension_min_n:g}-{shape.tension_max_n:g} N.",
        "",
        f"holds {report.feasible_share:7.1%} of these poses; by zenith angle:",
        "  " + "  ".join(f"{zenith:g} deg {share:.1%}" for zenith, share in report.by_zenith_deg.items()),
        "over the bed (north up, west left; share of suns up to the machine's zenith angle):",
        *_bed_map(report),
    ]
    if report.limited_by:
        why = ", ".join(f"{reason} {share:.0%}" for reason, share in report.limited_by.items())
        first = ", ".join(list(report.limiting_cables)[:4])
        lines += [f"limits (all zenith angles): {why}", f"  first cables: {first}"]
    park, spot = "holds" if report.park_holds else "does NOT hold", report.spot_per_cable
    near = ", ".join(f"{what} {value * 1e3:.0f} mm" for what, value in report.clearances_m.items())
    lines += [
        f"clearance: {near}",
        f"park {park}; way from park into work holds {report.way_share:.1%}",
        f"lowest mode {report.lowest_mode_hz:.1f} Hz; 1 mm of one cable moves the spot up to {spot:.2f} mm",
    ]
    lines += ["problems:", *(f"  - {problem}" for problem in report.problems)] if report.problems else ["no problems"]
    return "\n".join([*lines, _advice(better)]).rstrip()


def _advice(better: Any) -> str:
    if better is None:
        return ""
    what = "makes it hold" if better.enough else "helps, but not everywhere or not freely"
    return f"smallest change found that {what} up to {better.zenith_deg:g} deg ({better.share:.1%}):\n" + "\n".join(
        f"  - {change.words}" for change in better.changes
    )


def _bed_map(report: Any) -> list[str]:
    """One row of tenths per grid line, from north to south: 9 for 90 %, # for all."""
    rows = report.bed_share.T[::-1]
    return ["  " + " ".join("#" if share == 1 else str(int(share * 10)) for share in row) for row in rows]
