"""``melter replay``: a recorded run drawn, filmed, or fed through the protocol core and the tracker again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from melter.cli.common import Common, emit, parse, say
from melter.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Replay(Common):
    """Show a recorded run of `melter real`: what happened, as a figure or a video; feed its bytes and frames through the code again."""

    run: Positional[str]
    """Run folder, with recording.jsonl."""
    plot: str | None = None
    """Write a figure (.png, .pdf, .svg): path and spot, error over time, commands against limits, faults."""
    video: str | None = None
    """Write a video (.mp4, .avi, .mkv): target and spot from above, tick by tick, kept frames beside them."""
    feed: bool = False
    """Feed the recorded bytes to the protocol core and the kept frames to the tracker; compare with what was recorded."""


def run(argv: list[str]) -> int:
    """Replay; return 1 where something fed again came out differently."""
    options = parse(Replay, argv, "replay")
    from melter.cli.plots import require_plot_file, save
    from melter.loop.run import load_run

    if options.plot is not None:
        require_plot_file(Path(options.plot))
    if options.video is not None:
        from melter.vision.replay_video import require_video_file

        require_video_file(options.video)
    recorded = load_run(options.run)
    figures = recorded.figures()
    table: dict[str, Any] = {"run": options.run, **figures, "fed": None}
    text = _story(recorded, figures)
    if options.plot is not None:
        from melter.cli.run_plots import run_figure

        save(run_figure(recorded), Path(options.plot))
        text.append(f"figure     {options.plot}")
    if options.video is not None:
        _film(recorded, options.video)
        text.append(f"video      {options.video}")
    differs = False
    if options.feed:
        table["fed"], words, differs = _feed(recorded)
        text += words
    emit(table, options.json, "\n".join(text))
    return int(differs)


def _story(recorded: Any, figures: dict[str, Any]) -> list[str]:
    """Events of the run, and its figures."""
    text = [
        f"{line['host_s'] - recorded.begun_s:8.2f} s  "
        + (line["event"] if line["kind"] == "event" else f"FAULT {line['fault']}: {line['reason']}")
        for line in recorded.events
    ]
    if figures["rms_mm"] is not None:
        text.append(
            f"spot error as the camera saw it: rms {figures['rms_mm']:.2f} mm, p95 {figures['p95_mm']:.2f} mm, max {figures['max_mm']:.2f} mm"
        )
    cut = "" if recorded.end else "; cut off: no end was recorded"
    text.append(f"{figures['ticks']} ticks in {figures['seconds']:.1f} s, {figures['faults']} faults{cut}")
    return text


def _feed(recorded: Any) -> tuple[dict[str, Any], list[str], bool]:
    from melter.cli.progress import ShareDone
    from melter.loop.refeed import feed_bytes, feed_frames

    wire = feed_bytes(recorded)
    fed: dict[str, Any] = {"bytes": wire, "frames": None}
    differ_mm = wire["counters_differ_mm"]
    text = [
        f"bytes      {wire['reports']} reports; counters of {wire['ticks_compared']} ticks differ by at most "
        + ("-" if differ_mm is None else f"{differ_mm:.3f} mm"),
        f"           {wire['jogs']} jogs, {wire['unapproved_jogs']} without an approval before them",
    ]
    differs = wire["unapproved_jogs"] > 0 or (differ_mm is not None and differ_mm > 0.001)
    if (recorded.folder / "frames").is_dir():
        with ShareDone("frames") as progress:
            frames = fed["frames"] = feed_frames(recorded, progress)
        text.append(
            f"frames     {frames['frames']} kept, {frames['frames_compared']} compared: {frames['same_status']} with the same status"
            + (
                ""
                if frames["centre_apart_max_mm"] is None
                else f", centres at most {frames['centre_apart_max_mm']:.2f} mm apart"
            )
        )
        differs = differs or frames["centres_moved"] > 0
    else:
        say("frames: none were kept")
    return fed, text, differs


def _film(recorded: Any, file: str) -> None:
    from melter.cli.progress import ShareDone
    from melter.vision.replay_video import Scene, film

    if recorded.machine is None or not recorded.work:
        raise BadInput(f"run {recorded.folder}: nothing to film: no work on the path, or no machine in config.json")
    scene = Scene(recorded.machine.bed.size_m, recorded.machine.bed.keep_in_polygon_world_m, recorded.folder / "frames")
    with ShareDone("video") as progress:
        film(recorded.work, scene, file, recorded.machine.control.rate_hz, progress)
