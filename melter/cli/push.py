"""``melter push``: share a policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from melter.cli.common import Common, emit, parse, say
from melter.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Push(Common):
    """Share a policy with its results, its certificate, its newest video and a page about it: no code, no pickle."""

    run: Annotated[str, tyro.conf.Positional]
    """Run folder of melter sim-train."""
    place: Annotated[str, tyro.conf.Positional]
    """New folder, URL (s3://bucket/name, gs://…), or hf://OWNER/NAME for the Hugging Face hub."""
    public: bool = False
    """With hf://: let everybody see a repository that is made for it. Default: only you."""
    whole: bool = False
    """Copy the whole run folder instead, checkpoints included: what an upload could not finish (folder or URL only)."""


def run(argv: list[str]) -> int:
    """Share; return the exit code."""
    options = parse(Push, argv, "push")
    folder = Path(options.run)
    if not folder.is_dir():
        raise BadInput(f"push {folder}: no such folder")
    if options.whole:
        return _whole(options, folder)
    from melter.cluster.share import push

    shared = push(folder, options.place, private=not options.public)
    result = {"place": shared.place, "files": shared.files, "weights_sha256": shared.weights_sha256}
    emit(result, options.json, f"shared at {shared.place}: {', '.join(sorted(shared.files))}")
    return 0


def _whole(options: Push, folder: Path) -> int:
    """Copy everything that is in the run folder."""
    from melter.cluster.store import is_url, writable_store
    from melter.cluster.upload import Uploader

    if options.place.startswith("hf://"):
        raise BadInput(f"--whole: does not go with {options.place}; give a folder or another URL")
    place = options.place if is_url(options.place) else Path(options.place).resolve().as_uri()
    with Uploader(folder, writable_store(place, "push", may_hold=True), say) as uploader:
        pass
    emit({"place": place, "missing": uploader.missing}, options.json, f"copied {folder} to {place}")
    return 3 if uploader.missing else 0
