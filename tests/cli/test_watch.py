"""``melter watch`` and ``sim-train --out URL``: what is told of a run, from a folder or from a store, whatever state its files are in."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from melter.cli.main import main
from melter.cluster.follow import source_of, standing
from melter.cluster.store import Store, open_store
from melter.policy import keeper
from melter.policy import train as training

SMALL = [
    "--preset",
    "smoke",
    "--set",
    "envs=8",
    "--set",
    "batch_size=64",
    "--set",
    "groups=1",
    "--threads",
    "1",
    "--nice",
    "0",
]
HEAD = "steps,error/median_mm,eval/outdoor_rms_mm,reward/total,time/seconds,time/steps_per_s"


@pytest.fixture
def url() -> Iterator[str]:
    yield f"memory://{uuid.uuid4().hex}/run"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    config = {"algorithm": "ppo", "machine": {"name": "corner8"}, "steps": 1000, "minutes": None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def rows(folder: Path, *lines: str) -> None:
    (folder / "progress.csv").write_text("\n".join([HEAD, *lines]) + "\n")


def test_where_a_run_stands(run: Path) -> None:
    assert standing(source_of(str(run))).text() == "ppo for corner8: no figures yet"
    rows(run, "250,2.0,,0.5,10,25", "500,1.0,0.8,0.7,20,30")
    now = standing(source_of(str(run)))
    assert now.share == 0.5
    assert now.left_s == pytest.approx(20)
    assert now.table()["best_outdoor_rms_mm"] == 0.8
    assert now.table()["error_mm"] == 1.0
    for word in ("50 %", "500 steps", "+0.70", "1.00 mm", "30 steps/s", "20 s left"):
        assert word in now.text()
    (run / "eval.json").write_text("{}")
    assert standing(source_of(str(run))).done
    assert "done" in standing(source_of(str(run))).text()


def test_a_budget_of_minutes(run: Path) -> None:
    config = {"algorithm": "ppo", "machine": {"name": "corner8"}, "steps": None, "minutes": 2.0}
    (run / "config.json").write_text(json.dumps(config))
    rows(run, "250,2.0,,0.5,30,25")
    assert standing(source_of(str(run))).share == pytest.approx(0.25)
    assert standing(source_of(str(run))).left_s == pytest.approx(90)


def test_half_written_rows_are_left_out(run: Path) -> None:
    (run / "progress.csv").write_text(f"{HEAD}\n250,2.0,,0.5,10,25\n500,1.0,0.")
    assert len(standing(source_of(str(run))).points) == 1
    (run / "progress.csv").write_text(f"{HEAD}\nx,y,z\n\n250,nan,,0.5,10,25\n")
    assert standing(source_of(str(run))).points == ()


def test_the_newest_video_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows(run, "500,1.0,0.8,0.7,20,30")
    for number, name in enumerate(["b.mp4", "a.mp4"]):
        (run / name).write_bytes(b"")
        import os

        os.utime(run / name, (number, number))
    assert main(["watch", str(run), "--once"]) == 0
    assert f"newest video: {run}/a.mp4" in capsys.readouterr().out


def test_the_newest_video_is_played(
    run: Path, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda place: opened.append(place) or len(opened) < 3)
    assert main(["watch", str(run), "--once", "--play"]) == 0
    assert opened == []
    assert "no video" in capsys.readouterr().err
    (run / "look.mp4").write_bytes(b"film")
    for path in run.iterdir():
        open_store(url).write(path.name, path.read_bytes())
    for place in (str(run), url, str(run)):
        assert main(["watch", place, "--once", "--play"]) == 0
    assert opened[0] == opened[2] == (run / "look.mp4").as_uri()
    assert Path(opened[1].removeprefix("file://")).read_bytes() == b"film"
    assert capsys.readouterr().err.count("nothing here shows videos") == 1


def test_one_json_object_and_a_picture(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows(run, "250,2.0,,0.5,10,25", "500,1.0,0.8,0.7,20,30")
    assert main(["watch", str(run), "--once", "--json", "--plot", str(tmp_path / "curves.png")]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out)["steps"] == 500
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_it_follows_until_the_run_is_done(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def train() -> None:
        for count in range(1, 4):
            rows(run, *(f"{250 * n},{2 / n},,0.5,{10 * n},25" for n in range(1, count + 1)))
            time.sleep(0.4)
        (run / "eval.json").write_text("{}")

    thread = threading.Thread(target=train)
    thread.start()
    assert main(["watch", str(run), "--every", "0.2"]) == 0
    thread.join()
    out, err = capsys.readouterr()
    assert err.count("steps/s") >= 3
    assert "done" in out


def test_a_store_that_is_away_for_a_while(
    run: Path, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows(run, "500,1.0,0.8,0.7,20,30")
    (run / "eval.json").write_text("{}")
    store = open_store(url)
    for path in run.iterdir():
        store.write(path.name, path.read_bytes())
    real, calls = Store.files, []

    def files(self: Store) -> dict[str, int]:
        calls.append(1)
        if len(calls) in (1, 2):
            raise ConnectionError("no route to host")
        return real(self)

    monkeypatch.setattr(Store, "files", files)
    assert main(["watch", url, "--every", "0.2"]) == 0
    err = capsys.readouterr().err
    assert err.count("cannot be read at the moment") == 1
    assert err.count("answers again") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere"], "nowhere"),
        (["nosuch://a/b"], "nosuch"),
        (["memory://empty/run"], "memory://empty/run"),
        ([".", "--every", "0"], "--every"),
        ([".", "--plot", "x.txt"], "--plot"),
    ],
)
def test_refusals(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.count("\n") == 1


# -- sim-train --out URL ---------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runs lie under a folder of their own; few episodes."""
    monkeypatch.chdir(tmp_path)
    for name in ("CONTEST_EPISODES", "EVAL_EPISODES", "CONTESTS"):
        monkeypatch.setattr(training if name == "EVAL_EPISODES" else keeper, name, 2)


@pytest.mark.usefixtures("quick")
def test_a_training_is_copied_and_goes_on_from_its_copy(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim-train", *SMALL, "--steps", "400", "--out", url, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["uploaded_to"] == url
    assert result["not_uploaded"] == []
    here = {
        p.relative_to(result["run"]).as_posix(): p.stat().st_size for p in Path(result["run"]).rglob("*") if p.is_file()
    }
    assert open_store(url).files() == here
    assert {"model.zip", "policy.safetensors", "progress.csv", "checkpoints/latest.pt", "eval.json"} <= set(here)
    assert main(["watch", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["done"] is True
    # nothing of it is overwritten; --resume fetches it and sends what is new
    assert main(["sim-train", *SMALL, "--steps", "400", "--out", url]) == 2
    capsys.readouterr()
    assert main(["sim-train", "--resume", url, "--steps", "700", "--nice", "0", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["steps"] >= 700
    assert again["run"] != result["run"]
    assert open_store(url).read("model.zip") == (Path(again["run"]) / "model.zip").read_bytes()


@pytest.mark.usefixtures("quick")
def test_a_store_that_fails_later_costs_no_training(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from melter.cluster import upload

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    healthy = Store.put
    monkeypatch.setattr(Store, "put", full)
    monkeypatch.setattr(
        upload.Uploader.__init__,
        "__kwdefaults__",
        {"every_s": 0.05, "first_wait_s": 0.05, "patience_s": 0.2, "slowest_s": 5.0},
    )
    assert main(["sim-train", *SMALL, "--steps", "400", "--out", url, "--json"]) == 3
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["steps"] >= 400
    assert "model.zip" in result["not_uploaded"]
    assert err.count("No space left on device") == 1
    assert "training goes on" in err
    assert f"melter push {result['run']} {url} --whole" in err
    assert Path(result["model"]).is_file()
    # what is missing can be sent later
    monkeypatch.setattr(Store, "put", healthy)
    assert main(["push", result["run"], url, "--whole"]) == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--out", "nosuch://bucket/run"], "nosuch"),
        (["--out", "file:///proc/melter/run"], "/proc/melter/run"),
        (["--resume", "memory://nothing/here"], "config.json"),
        (["--workers", "2"], "--workers"),
        (["--ray", "nowhere"], "HOST:PORT"),
        (["--ray", "127.0.0.1:1"], "127.0.0.1:1"),
    ],
)
@pytest.mark.usefixtures("quick")
def test_refused_before_training(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    assert main(["sim-train", "--steps", "400", *words]) == 2
    assert time.monotonic() - began < 20
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_ray_nothing_but_ray_is_missing(tmp_path: Path) -> None:
    """The commands of this room work where none of its optional packages is installed."""
    code = (
        "import sys\n"
        "for name in ('ray', 's3fs', 'gcsfs', 'huggingface_hub'): sys.modules[name] = None\n"
        "from melter.cli.main import main\n"
        "codes = [main(['sim-train', '--steps', '10', '--ray']), main(['push', '.', 'hf://a/b']),\n"
        "         main(['slurm', '--nodes', '2', '--cpus-per-task', '4', '--time', '60', '--json'])]\n"
        "sys.exit(0 if codes == [2, 2, 0] else 1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "pip install 'melter[cluster]'" in done.stderr
