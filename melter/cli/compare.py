"""``melter compare``: several runs side by side."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from melter.cli.common import Common, emit, parse
from melter.errors import BadInput

if TYPE_CHECKING:
    from melter.loop.run import Run

COLUMNS = ("rms_mm", "p95_mm", "max_mm", "seconds", "ticks", "late", "faults", "interventions", "reaction_ms")
HEADS = ("rms mm", "p95 mm", "max mm", "s", "ticks", "late", "faults", "gate", "light-command ms")


@dataclass(frozen=True, kw_only=True)
class Compare(Common):
    """Compare runs: folders of `melter real` (machine or rehearsal machine), and trained runs by the figures of their eval.json."""

    runs: Positional[tuple[str, ...]]
    """Run folders."""
    plot: str | None = None
    """Write a figure (.png, .pdf, .svg) of the errors."""


def run(argv: list[str]) -> int:
    """Compare; return the exit code."""
    options = parse(Compare, argv, "compare")
    from melter.cli.plots import require_plot_file, save

    if not options.runs:
        raise BadInput("compare: must be given at least one run folder")
    if options.plot is not None:
        require_plot_file(Path(options.plot))
    rows: list[dict[str, Any]] = []
    recorded: list[Run] = []
    for name in options.runs:
        rows += _rows(name, recorded)
    if options.plot is not None:
        from melter.cli.run_plots import compare_figure

        save(compare_figure(rows, recorded), Path(options.plot))
    emit({"runs": rows, "plot": options.plot}, options.json, _table(rows))
    return 0


def _rows(name: str, recorded: list[Run]) -> list[dict[str, Any]]:
    """The lines of one folder: one of a recording, one per suite of a trained run."""
    from melter.loop.run import load_run

    folder = Path(name)
    evaluated = folder / "eval.json"
    if not (folder / "recording.jsonl").is_file() and evaluated.is_file():
        return _evaluated(folder, evaluated)
    found = load_run(folder)
    recorded.append(found)
    return [{"name": folder.name, "kind": "run", **found.figures()}]


def _evaluated(folder: Path, file: Path) -> list[dict[str, Any]]:
    try:
        suites: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        return [
            {
                "name": f"{folder.name} ({suite})",
                "kind": "eval",
                **dict.fromkeys(COLUMNS),
                **{column: figures[column] for column in ("rms_mm", "p95_mm", "max_mm")},
                "faults": figures.get("terminated"),
                "episodes": figures.get("episodes"),
            }
            for suite, figures in suites.items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(f"run {folder}: eval.json is not one of melter sim-train or melter eval") from None


def _table(rows: list[dict[str, Any]]) -> str:
    width = max(4, *(len(row["name"]) for row in rows))
    text = [f"{'run':{width}}  " + "  ".join(f"{head:>8}" for head in HEADS)]
    for row in rows:
        cells = [_cell(row[column]) for column in COLUMNS]
        text.append(
            f"{row['name']:{width}}  "
            + "  ".join(f"{cell:>{max(8, len(head))}}" for cell, head in zip(cells, HEADS, strict=True))
        )
    first = [f"{row['name']}: {row['first_fault']}" for row in rows if row.get("first_fault")]
    return "\n".join([*text, *first])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
