"""Copies of a run elsewhere: complete, in time, and never in the training's way."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from melter.cluster import store as storing
from melter.cluster.store import Store, is_url, open_store, writable_store
from melter.cluster.upload import Uploader, download
from melter.errors import BadInput, OutputExists


@pytest.fixture
def url() -> Iterator[str]:
    name = f"memory://{uuid.uuid4().hex}/run"
    yield name
    fsspec.filesystem("memory").store.clear()


def contents(url: str) -> dict[str, bytes]:
    place = open_store(url)
    return {name: place.read(name) or b"" for name in place.files()}


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end, "did not come to be in 10 s"
        time.sleep(0.01)


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_what_changes_is_copied_while_it_runs(kind: str, url: str, tmp_path: Path) -> None:
    place = url if kind == "memory" else f"file://{tmp_path}/there/run"
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text("{}")
    with Uploader(run, writable_store(place), lambda _: None, every_s=0.02) as uploader:
        until(lambda: contents(place).get("config.json") == b"{}")
        (run / "progress.csv").write_text("steps\n1\n")
        (run / "checkpoints" / "latest.pt").write_bytes(b"\0" * 70_000)
        (run / ".progress.part.csv").write_text("half")
        until(lambda: len(contents(place)) == 3)
        with (run / "progress.csv").open("a") as file:
            file.write("2\n")
        until(lambda: contents(place)["progress.csv"] == b"steps\n1\n2\n")
        (run / "video.mp4").write_bytes(b"film")
    assert uploader.missing == []
    assert set(contents(place)) == {"config.json", "progress.csv", "checkpoints/latest.pt", "video.mp4"}
    back = tmp_path / "back"
    shares: list[float] = []
    assert download(open_store(place), back, lambda _, share: shares.append(share)) == 4
    assert shares[-1] == 1.0
    assert (back / "checkpoints" / "latest.pt").read_bytes() == b"\0" * 70_000


class Trouble:
    """A file system that fails for a while."""

    def __init__(self, store: Store, error: Exception) -> None:
        self.inner, self.error, self.broken, self.calls = store.system, error, True, 0

    def put_file(self, source: str, target: str) -> None:
        self.calls += 1
        if self.broken:
            raise self.error
        self.inner.put_file(source, target)

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), ConnectionError("lost"), RuntimeError("403 Forbidden"), TimeoutError()],
)
def test_trouble_is_told_once_and_made_up_for(error: Exception, url: str, tmp_path: Path) -> None:
    good = writable_store(url)
    trouble = Trouble(good, error)
    run, told = tmp_path / "run", []
    run.mkdir()
    for number in range(5):
        (run / f"{number}.bin").write_bytes(b"x")
    store = Store(good.url, trouble, good.root, good.whole)
    with Uploader(run, store, told.append, every_s=0.01, first_wait_s=0.01):
        until(lambda: trouble.calls > 8)
        assert len(told) == 1
        assert "fails" in told[0]
        assert "training goes on" in told[0]
        assert "\n" not in told[0]
        trouble.broken = False
        until(lambda: len(told) == 2)
    assert "again" in told[1]
    assert len(contents(url)) == 5


def test_one_bad_file_does_not_hold_up_the_others(url: str, tmp_path: Path) -> None:
    good = writable_store(url)

    class Picky(Trouble):
        def put_file(self, source: str, target: str) -> None:
            if source.endswith("a.bin"):
                raise OSError("name not allowed")
            self.inner.put_file(source, target)

    run = tmp_path / "run"
    run.mkdir()
    for name in "abc":
        (run / f"{name}.bin").write_bytes(b"x")
    store = Store(good.url, Picky(good, OSError()), good.root, good.whole)
    told: list[str] = []
    with Uploader(run, store, told.append, every_s=0.01, first_wait_s=0.01, patience_s=0.1) as uploader:
        until(lambda: len(contents(url)) == 2)
    assert uploader.missing == ["a.bin"]
    assert "1 files" in told[-1]
    assert str(run) in told[-1]


def test_a_store_that_hangs_holds_nobody_up(url: str, tmp_path: Path) -> None:
    good, forever = writable_store(url), threading.Event()

    class Hanging(Trouble):
        def put_file(self, source: str, target: str) -> None:
            forever.wait(30)

    run = tmp_path / "run"
    run.mkdir()
    (run / "a").write_text("x")
    began = time.monotonic()
    with Uploader(
        run, Store(url, Hanging(good, OSError()), good.root, True), lambda _: None, slowest_s=0.2
    ) as uploader:
        pass
    assert time.monotonic() - began < 10
    assert uploader.missing == ["a"]
    forever.set()


def test_a_half_copied_file_is_never_seen(tmp_path: Path) -> None:
    """On file systems that show files while they are written: beside, then renamed; nothing is left after a failure."""
    there = tmp_path / "there"
    store = writable_store(f"file://{there}")
    assert not store.whole
    (tmp_path / "a").write_bytes(b"x" * 100)
    store.put(tmp_path / "a", "sub/a")

    class Breaks(Trouble):
        def put_file(self, source: str, target: str) -> None:
            self.inner.pipe_file(target, b"half")
            raise self.error

    with pytest.raises(ConnectionError):
        Store(store.url, Breaks(store, ConnectionError()), store.root, False).put(tmp_path / "a", "sub/a")
    assert [path.name for path in there.rglob("*") if path.is_file()] == ["a"]
    assert (there / "sub" / "a").read_bytes() == b"x" * 100


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("nosuch://bucket/run", "nosuch"),
        ("memory://", "names no folder"),
        ("file:///proc/melter/run", "cannot be written"),
        ("file:///dev/null/run", "cannot be written"),
    ],
)
def test_refused_at_the_start(url: str, word: str) -> None:
    with pytest.raises(BadInput, match=word) as caught:
        writable_store(url)
    assert "\n" not in str(caught.value)
    assert url.split("/run")[0] in str(caught.value)


def test_a_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
    with pytest.raises(BadInput, match=r"melter\[cloud\]"):
        open_store("s3://bucket/run")


def test_no_rights_are_found_out_before_training(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: object) -> None:
        raise PermissionError(13, "Access Denied")

    monkeypatch.setattr(Store, "write", forbid)
    with pytest.raises(BadInput, match="Access Denied"):
        writable_store(url)


def test_no_answer_is_an_answer(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "ANSWER_S", 0.05)
    forever = threading.Event()
    monkeypatch.setattr(Store, "write", lambda *_: forever.wait(10))
    with pytest.raises(BadInput, match=r"no answer in 0\.05 s"):
        writable_store(url)
    forever.set()


def test_another_run_is_not_overwritten(url: str) -> None:
    open_store(url).write("config.json", b"{}")
    with pytest.raises(OutputExists, match="--resume"):
        writable_store(url)
    assert writable_store(url, may_hold=True)
    assert contents(url) == {"config.json": b"{}"}


def test_names_that_lead_out_of_the_folder_are_left_alone(url: str, tmp_path: Path) -> None:
    store = open_store(url)
    store.write("good", b"x")
    names = {"good": 1, "../evil": 1, "a/../../evil": 1, ".hidden": 1}
    object.__setattr__(store, "files", lambda: names)
    download(store, tmp_path / "in")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["good"]


def test_what_is_a_url() -> None:
    assert is_url("s3://a/b")
    assert not is_url("runs/a")
    assert not is_url("C:/runs")
