"""What commands share that work beyond this machine: output URLs, and Ray."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melter.cli.common import require_in, say
from melter.errors import BadInput

if TYPE_CHECKING:
    from melter.cluster.ray_link import Cluster
    from melter.cluster.store import Store
    from melter.cluster.upload import Uploader


def with_default(argv: list[str], option: str, value: str) -> list[str]:
    """Return ``argv`` with ``value`` put after ``option`` where it stands alone."""
    if option not in argv:
        return argv
    at = argv.index(option) + 1
    alone = at == len(argv) or argv[at].startswith("-")
    return [*argv[:at], value, *argv[at:]] if alone else argv


def is_url(place: str | None) -> bool:
    """Return whether ``place`` is a URL, not a path on this machine."""
    return place is not None and "://" in place


def fetched(url: str) -> tuple[Path, Store]:
    """Copy the run at ``url`` into a folder under runs/ and return both; raise BadInput where that cannot be."""
    from melter.cluster.store import answered, one_line, open_store, writable_store
    from melter.cluster.upload import download
    from melter.policy.files import new_run_folder

    store = open_store(url, "--resume")
    held = answered(store.files, f"--resume {url}", "cannot be read")
    if "config.json" not in held:
        raise BadInput(f"--resume {url}: not a run folder of melter sim-train (no config.json)")
    store = writable_store(url, "--resume", may_hold=True)
    folder = new_run_folder(None, url.rstrip("/").rpartition("/")[2] or "run")
    say(f"fetching {url} into {folder}: {sum(held.values()) / 1e6:.1f} MB")
    try:
        download(store, folder)
    except Exception as error:
        raise BadInput(f"--resume {url}: cannot be fetched: {one_line(error)}") from None
    return folder, store


@contextmanager
def uploading(folder: Path, store: Store | None) -> Generator[Uploader | None]:
    """Copy ``folder`` to ``store`` while the context lasts; what is missing is sent at its end."""
    if store is None:
        yield None
        return
    from melter.cluster.upload import Uploader

    say(f"copying to {store.url} while it runs")
    with Uploader(folder, store, say) as uploader:
        yield uploader


@contextmanager
def ray_cluster(address: str | None, workers: int | None, nice: int) -> Generator[tuple[Cluster, int] | None]:
    """Join a Ray cluster for as long as the context lasts; with the number of workers. None: no Ray wanted.

    ``nice``: priority that workers of a Ray started here give up.
    """
    if address is None:
        if workers is not None:
            raise BadInput(f"--workers {workers}: goes with --ray only")
        yield None
        return
    from melter.cluster.ray_link import join, leave

    if workers is not None:
        require_in("--workers", workers, 1, 10_000)
    cluster = join(address, None if workers is None else workers + 1, nice)
    try:
        count = max(cluster.cores - 1, 1) if workers is None else workers
        if count > cluster.cores:
            raise BadInput(f"--workers {workers}: must be at most the cluster's {cluster.cores} cores")
        say(f"Ray at {cluster.address}: {cluster.nodes} nodes, {cluster.cores} cores, {count} workers")
        yield cluster, count
    finally:
        leave(cluster)


def simulations(joined: tuple[Cluster, int] | None) -> Any:
    """Return what makes simulations on the cluster, or None for simulations in this process."""
    if joined is None:
        return None
    from melter.cluster.streamed import simulations_on

    return simulations_on(*joined, say)
