"""``melter pull``: fetch a shared policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from melter.cli.common import Common, emit, parse


@dataclass(frozen=True, kw_only=True)
class Pull(Common):
    """Fetch a policy that melter push shared. Every file is checked by its sha256; nothing of it is ever run."""

    place: Annotated[str, tyro.conf.Positional]
    """Folder, URL (s3://bucket/name, gs://…), or hf://OWNER/NAME."""
    out: str | None = None
    """New folder for it. Default: runs/ and the last part of the place."""


def run(argv: list[str]) -> int:
    """Fetch; return 0."""
    options = parse(Pull, argv, "pull")
    from melter.cluster.share import SENDERS_CERTIFICATE, pull

    out = Path("runs") / options.place.rstrip("/").rpartition("/")[2] if options.out is None else Path(options.out)
    shared = pull(options.place, out)
    text = (
        f"{out}: {len(shared.files)} files, all as they were sent; before it moves a machine: melter safety-check {out}"
    )
    if SENDERS_CERTIFICATE in shared.files:
        text += f"\nthe sender's certificate is in {SENDERS_CERTIFICATE}, for reading only"
    emit({"out": out, "files": shared.files, "weights_sha256": shared.weights_sha256}, options.json, text)
    return 0
