"""``melter export-run``: a recorded run in formats of other tools."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from melter.cli.common import Common, emit, parse
from melter.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class ExportRun(Common):
    """Write a recorded run as a LeRobot dataset (format v3.0), or as a Rerun file. Both need: pip install 'melter[records]'"""

    run: Positional[str]
    """Run folder of `melter real`."""
    lerobot: str | None = None
    """New folder for a LeRobot dataset: an episode per stretch of work, states, commands; no pictures."""
    rerun: str | None = None
    """Rerun file (.rrd): path and spot on the bed, errors, commands, events, kept frames."""


def run(argv: list[str]) -> int:
    """Export; return the exit code."""
    options = parse(ExportRun, argv, "export-run")
    from melter.loop.run import load_run

    if options.lerobot is None and options.rerun is None:
        raise BadInput("export-run: give --lerobot DIR, --rerun FILE.rrd, or both")
    recorded = load_run(options.run)
    table: dict[str, Any] = {"run": options.run}
    text: list[str] = []
    if options.lerobot is not None:
        from melter.loop.lerobot import write_lerobot

        found = write_lerobot(recorded, Path(options.lerobot))
        table |= found
        text.append(f"LeRobot dataset  {options.lerobot}: {found['episodes']} episodes, {found['frames']} frames")
    if options.rerun is not None:
        from melter.loop.rerun import write_rerun

        shown = write_rerun(recorded, Path(options.rerun))
        table |= {"rerun": shown["rerun"], "pictures": shown["frames"]}
        text.append(f"Rerun file       {options.rerun}: {shown['ticks']} ticks, {shown['frames']} pictures")
    emit(table, options.json, "\n".join(text))
    return 0
