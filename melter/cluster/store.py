"""A folder somewhere else: any file system that fsspec knows, by URL (s3://…, gs://…, file:///…, memory://…).

Files appear whole: object stores write them so, elsewhere they are written beside their name and renamed.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from melter.errors import BadInput, OutputExists

ANSWER_S = 30.0
"""How long a store may take to answer at the start."""
WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "memory", "oss"})
"""Protocols whose files appear only when they are complete."""
Result = TypeVar("Result")


def is_url(place: str) -> bool:
    """Return whether ``place`` is a URL, not a path on this machine."""
    return "://" in place


@dataclass(frozen=True)
class Store:
    """One folder of a file system that fsspec knows. All names are relative to it, with forward slashes."""

    url: str
    system: Any
    """The fsspec file system."""
    root: str
    """The folder's path within it."""
    whole: bool
    """Whether a file appears only when it is complete."""

    def path(self, name: str) -> str:
        """Return the path of a file within the file system."""
        return f"{self.root}/{name}"

    def put(self, source: Path, name: str) -> None:
        """Copy a local file there. Raises whatever the file system raises."""
        target = self.path(name)
        if "/" in name and not self.whole:
            self.system.makedirs(target.rpartition("/")[0], exist_ok=True)
        if self.whole:
            self.system.put_file(str(source), target)
            return
        beside = f"{target}.{uuid.uuid4().hex[:8]}.part"
        try:
            self.system.put_file(str(source), beside)
            self.system.mv(beside, target)
        except BaseException:
            _quietly(lambda: self.system.rm_file(beside))
            raise

    def write(self, name: str, content: bytes) -> None:
        """Write a small file there."""
        self.system.pipe_file(self.path(name), content)

    def read(self, name: str) -> bytes | None:
        """Return a file's content, or None where there is none."""
        try:
            return self.system.cat_file(self.path(name))
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Remove a file."""
        self.system.rm_file(self.path(name))

    def files(self) -> dict[str, int]:
        """Return the sizes of all files (bytes), by name; nothing where the folder does not exist."""
        self.system.invalidate_cache()
        try:
            found = self.system.find(self.root, detail=True)
        except FileNotFoundError:
            return {}
        start = self.root.strip("/") + "/"
        inside = ((str(path).lstrip("/"), detail) for path, detail in found.items())
        return {path.removeprefix(start): int(detail["size"] or 0) for path, detail in inside if path.startswith(start)}

    def get(self, name: str, target: Path) -> None:
        """Copy a file here, written beside its name and renamed."""
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.part")
        try:
            self.system.get_file(self.path(name), str(beside))
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)


def open_store(url: str, option: str = "--out") -> Store:
    """Return the folder at ``url``; raise BadInput where its protocol is unknown or its driver is missing."""
    import fsspec
    from fsspec.core import url_to_fs

    protocol = url.partition("://")[0]
    try:
        system, root = url_to_fs(url, **({"auto_mkdir": True} if protocol in ("file", "local") else {}))
    except ImportError as error:
        raise BadInput(f"{option} {url}: {one_line(error)}; pip install 'melter[cloud]'") from None
    except ValueError:
        known = ", ".join(sorted({"file", "gs", "memory", "s3", "sftp"} & set(fsspec.available_protocols())))
        raise BadInput(f"{option} {url}: protocol {protocol} is not known; such as {known}") from None
    except Exception as error:
        raise BadInput(f"{option} {url}: cannot be opened: {one_line(error)}") from None
    if not root.strip("/"):
        raise BadInput(f"{option} {url}: names no folder; must be like {protocol}://bucket/folder")
    return Store(url.rstrip("/"), system, root.rstrip("/"), protocol in WHOLE)


def writable_store(url: str, option: str = "--out", *, may_hold: bool = False) -> Store:
    """Return the folder at ``url`` after writing a small file there and removing it.

    Raises BadInput where that is not allowed or takes too long, OutputExists where files are there and ``may_hold`` is False.
    """
    store, probe = open_store(url, option), f".melter-{uuid.uuid4().hex[:8]}"

    def attempt() -> bool:
        held = bool(store.files())
        if held and not may_hold:
            return True
        store.write(probe, b"melter asks whether it may write here\n")
        store.remove(probe)
        return held

    held = answered(attempt, f"{option} {url}", "cannot be written to")
    if held and not may_hold:
        raise OutputExists(f"{option} {url}: is not empty; choose another, or --resume {url} to go on with it")
    return store


def answered(ask: Callable[[], Result], name: str, what: str) -> Result:
    """Return ``ask()``; raise BadInput where it raises, or gives no answer in time."""
    answer: list[Result] = []
    trouble: list[Exception] = []

    def work() -> None:
        try:
            answer.append(ask())
        except Exception as error:
            trouble.append(error)

    thread = threading.Thread(target=work, daemon=True, name="melter-store")
    thread.start()
    thread.join(ANSWER_S)
    if trouble:
        raise BadInput(f"{name}: {what}: {one_line(trouble[0])}")
    if not answer:
        raise BadInput(f"{name}: {what}: no answer in {ANSWER_S:g} s")
    return answer[0]


def _quietly(work: Callable[[], object]) -> None:
    try:
        work()
    except Exception:
        return


def one_line(error: BaseException) -> str:
    """What an error says, on one short line."""
    words = " ".join(str(getattr(error, "strerror", None) or error).split())
    return (words or type(error).__name__)[:200]
