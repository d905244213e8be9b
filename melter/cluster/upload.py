"""Copies a run folder to a store while training runs; nothing that goes wrong there stops the training."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from melter.cluster.store import Store, one_line

EVERY_S = 10.0
"""Time between two looks at the folder."""
FIRST_WAIT_S, LONGEST_WAIT_S = 5.0, 300.0
"""Time until a failed upload is tried again; it doubles each time, up to the longest."""
GIVE_UP_AFTER = 3
"""Files that fail, one after another, before it is left for later."""
LAST = ("manifest.json", "eval.json")
"""Files that say that others are there: sent after them."""
Signature = tuple[int, int]


class Uploader:
    """Copies what is new or changed in ``folder`` to ``store``, in a thread of its own. A context manager.

    ``tell`` hears when uploads begin to fail and when they work again, once each. Leaving the context sends what is missing;
    what then still cannot be sent is in ``missing``.
    """

    def __init__(
        self,
        folder: Path,
        store: Store,
        tell: Callable[[str], None],
        *,
        every_s: float = EVERY_S,
        first_wait_s: float = FIRST_WAIT_S,
        patience_s: float = 60.0,
        slowest_s: float = 1800.0,
    ) -> None:
        """At the end: ``patience_s``, how long to go on trying while it fails; ``slowest_s``, while it does not fail but takes long (s)."""
        self.folder, self.store = folder, store
        self._tell, self._every_s, self._first_wait_s, self._patience_s = tell, every_s, first_wait_s, patience_s
        self._slowest_s = slowest_s
        self._sent: dict[str, Signature] = {}
        self._failing = False
        self._stop = threading.Event()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="melter-upload")
        self.missing: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Send what is missing, for as long as patience lasts, and stop."""
        left, begun = len(self._changed()), time.monotonic()
        if left:
            self._tell(f"sending the last {left} files to {self.store.url}; Ctrl-C leaves them")
        self._stop.set()
        self._hurry.set()
        while self._thread.is_alive():
            self._thread.join(0.1)
            if time.monotonic() - begun > (self._patience_s if self._failing else self._slowest_s):
                break
        self.missing = [name for name, _ in self._changed()]
        if self.missing:
            self._tell(f"not uploaded to {self.store.url}: {len(self.missing)} files; all of them are in {self.folder}")

    def _work(self) -> None:
        wait_s, until = self._first_wait_s, float("inf")
        while True:
            stopping = self._stop.is_set()
            if stopping and until == float("inf"):
                until, wait_s = time.monotonic() + self._patience_s, self._first_wait_s
            began = time.monotonic()
            well = self._send_all()
            if stopping and (well or time.monotonic() > until):
                return
            took_s = time.monotonic() - began
            pause_s = max(self._every_s, took_s) if well else wait_s
            wait_s = self._first_wait_s if well else min(2 * wait_s, LONGEST_WAIT_S)
            self._hurry.wait(min(pause_s, max(until - time.monotonic(), 0.0)))
            self._hurry.clear()

    def _send_all(self) -> bool:
        """Send everything that is new or changed; return whether all of it went through."""
        failed = 0
        for name, signature in self._changed():
            try:
                self.store.put(self.folder / name, name)
            except Exception as error:
                if not (self.folder / name).exists():
                    continue  # removed in the meantime
                self._failed(name, error)
                failed += 1
                if failed == GIVE_UP_AFTER:
                    break
                continue
            self._sent[name] = signature
        if failed:
            return False
        if self._failing:
            self._failing = False
            self._tell(f"uploading to {self.store.url} works again; everything is there")
        return True

    def _failed(self, name: str, error: Exception) -> None:
        if not self._failing:
            self._failing = True
            why = one_line(error)
            self._tell(f"uploading {name} to {self.store.url} fails ({why}); it is tried again, training goes on")

    def _changed(self) -> list[tuple[str, Signature]]:
        """Names and signatures (modified ns, bytes) of files that are not there as they are here."""
        found: list[tuple[str, Signature]] = []
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            if path.name.startswith("."):
                continue
            try:
                stat = path.stat()
            except OSError:
                continue
            signature = stat.st_mtime_ns, stat.st_size
            if path.is_file() and self._sent.get(name) != signature:
                found.append((name, signature))
        return sorted(found, key=lambda one: (one[0] in LAST, one[0]))


def download(store: Store, folder: Path, tell: Callable[[str, float], None] = lambda _name, _share: None) -> int:
    """Copy everything from ``store`` into ``folder``; return the number of files. Raises what the file system raises."""
    sizes = store.files()
    total, done = max(sum(sizes.values()), 1), 0
    for name, size in sorted(sizes.items()):
        if any(part in ("..", "") or part.startswith(".") for part in name.split("/")):
            continue
        store.get(name, folder / name)
        done += size
        tell(name, done / total)
    return len(sizes)
