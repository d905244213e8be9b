"""``melter watch``: follow a run live, here or elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from melter.cli.common import Common, emit, parse, require_in, say
from melter.cli.curves import training_figure
from melter.cli.plots import require_plot_file, save
from melter.errors import BadInput

if TYPE_CHECKING:
    from melter.cluster.follow import Source, Standing

SILENCE_S = 120.0
"""Time without news after which that is told."""


@dataclass(frozen=True, kw_only=True)
class Watch(Common):
    """Follow a training as it runs, from its run folder or from the URL that it is copied to, until it is done or Ctrl-C."""

    run: Annotated[str, tyro.conf.Positional]
    """Run folder, or URL given to sim-train --out."""
    every: float = 5.0
    """Time between two looks (s, 0.2 to 3600)."""
    once: bool = False
    """Tell where it stands now, and end."""
    play: bool = False
    """At the end, show the newest video in the run's folder with this computer's own viewer."""
    plot: str | None = None
    """Image file that the curves are drawn into, anew with every report (png, svg or pdf)."""


def run(argv: list[str]) -> int:
    """Follow; return the exit code."""
    options = parse(Watch, argv, "watch")
    require_in("--every", options.every, 0.2, 3600, " s")
    if options.plot is not None:
        require_plot_file(Path(options.plot))
    from melter.cluster.follow import source_of

    source = source_of(options.run)
    last = _follow(options, source)
    if options.play:
        _play(options, last)
    emit({"run": options.run, **last.table()}, options.json, last.text() + _video(options, last))
    return 0


def _follow(options: Watch, source: Source) -> Standing:
    """Tell every report as it comes; return where the run stands at the end."""
    from melter.cluster.follow import standing
    from melter.cluster.store import one_line

    told, heard_s, well, silent, now = -1, time.monotonic(), True, False, None
    while True:
        try:
            now, back = standing(source), not well
            well = True
            if back:
                say("it answers again")
        except BadInput:
            raise
        except Exception as error:
            if well:
                say(f"cannot be read at the moment ({one_line(error)}); trying on")
            well = False
        if now is not None and len(now.points) != told:
            told, heard_s, silent = len(now.points), time.monotonic(), False
            if not (now.done or options.once):
                say(now.text())
            if options.plot and now.points:
                save(training_figure(now), Path(options.plot))
        if now is not None and (now.done or options.once):
            return now
        if time.monotonic() - heard_s > SILENCE_S and not silent:
            silent = True
            say(f"no news for {SILENCE_S:.0f} s")
        time.sleep(options.every)


def _video(options: Watch, now: Standing) -> str:
    return f"\nnewest video: {options.run.rstrip('/')}/{now.video}" if now.video else ""


def _play(options: Watch, now: Standing) -> None:
    """Open the newest video; one that lies elsewhere is fetched first."""
    import tempfile
    import webbrowser

    from melter.cluster.store import answered, is_url, open_store

    if now.video is None:
        say("no video in the run's folder; make one with melter enjoy --video")
        return
    path = Path(options.run) / now.video
    if is_url(options.run):
        store, name = open_store(options.run, "watch"), now.video
        path = Path(tempfile.mkdtemp(prefix="melter-")) / Path(name).name
        answered(lambda: store.get(name, path), f"watch {options.run}", f"{name} cannot be fetched")
    if not webbrowser.open(path.resolve().as_uri()):
        say(f"nothing here shows videos; the file is {path}")
