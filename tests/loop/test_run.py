"""Recorded runs read again: figures by hand, bytes against approvals, damaged and cut folders, other tools' formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded import MACHINE, finish, write_frames, write_serial

from melter.errors import BadInput, OutputExists
from melter.loop.approvals import compare_wire, unapproved_jogs
from melter.loop.refeed import feed_bytes, feed_frames
from melter.loop.run import load_run


@pytest.fixture
def folder(bench: Any) -> Path:
    """A run of the servo on the machine without physics."""
    assert bench.run().finished
    timing = {"light_to_command_ms": {"p50": 31.0}, "jitter_ms": {"p99": 2.0}}
    return finish(bench.folder, {"late": 0, "timing": timing})


def test_figures(folder: Path, bench: Any) -> None:
    run = load_run(folder)
    assert run.machine is not None
    assert run.machine.limits == MACHINE.limits
    assert len(run.work) == len([line for line in bench.lines("tick") if line.get("t_s") is not None])
    assert run.faults == []
    figures = run.figures()
    assert figures["ticks"] == len(run.ticks)
    assert figures["reaction_ms"] == 31.0
    assert figures["late"] == 0
    assert figures["seconds"] > 20
    assert len(run.errors)


def test_errors_by_hand(tmp_path: Path) -> None:
    """A spot that is seen 3 mm beside its target, with a camera that is 80 ms late on a path of 10 mm/s."""
    lines: list[dict[str, Any]] = [{"kind": "start", "host_s": 99.0}]
    delay_s = MACHINE.control.camera_delay_s
    for number in range(200):
        at = 100 + 0.05 * number
        lines.append(
            {
                "kind": "tick",
                "host_s": at,
                "approved_host_s": at,
                "t_s": 0.05 * number,
                "target_world_m": [0.01 * 0.05 * number, 0.0],
                "patch_captured_host_s": at - 0.01,
                "patch_status": "ok",
                "patch_centre_m": [0.01 * (0.05 * number - 0.01 - delay_s), 0.003],
                "approved_m_s": [0.0] * 8,
            }
        )
    (tmp_path / "recording.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "config.json").write_text(json.dumps({"machine_values": json.loads(json.dumps(MACHINE.model_dump()))}))
    figures = load_run(tmp_path).figures()
    for name in ("rms_mm", "p50_mm", "p95_mm", "max_mm"):
        assert figures[name] == pytest.approx(3.0, abs=1e-6)


def test_bytes_agree_with_the_approvals(folder: Path) -> None:
    wire = compare_wire(folder)
    assert wire.jogs > 400
    assert wire.remarks == []
    fed = feed_bytes(load_run(folder))
    assert fed["unapproved_jogs"] == 0
    assert fed["ticks_compared"] > 400
    assert fed["counters_differ_mm"] < 0.001


def test_a_jog_that_nobody_approved_is_found(folder: Path) -> None:
    write_serial(folder, skip_approval_of=200)
    assert unapproved_jogs(folder) >= 1
    assert "off the approved way" in compare_wire(folder).remarks[0]


def test_a_jog_before_any_approval_is_found(folder: Path) -> None:
    first = (folder / "serial.jsonl").read_text().splitlines()
    stray = json.dumps({"t_s": 1.0, "dir": "tx", "hex": b"$J=G91G21X1.000F100.0\n".hex()})
    (folder / "serial.jsonl").write_text("\n".join([stray, *first]) + "\n")
    assert "before any approval" in compare_wire(folder).remarks[0]


def test_a_run_that_never_moved(folder: Path) -> None:
    lines = (folder / "recording.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["kind"] != "tick"]
    (folder / "recording.jsonl").write_text("\n".join(kept) + "\n")
    wire = compare_wire(folder)
    assert wire.jogs == wire.unapproved > 0  # all of what was sent
    (folder / "serial.jsonl").write_text("")
    fed = feed_bytes(load_run(folder))
    assert (fed["jogs"], fed["unapproved_jogs"], fed["counters_differ_mm"]) == (0, 0, None)
    assert load_run(folder).figures()["rms_mm"] is None


def test_counters_that_differ_are_told(folder: Path) -> None:
    lines = (folder / "recording.jsonl").read_text().splitlines()
    changed = [json.loads(line) for line in lines]
    ticks = [line for line in changed if line["kind"] == "tick" and line.get("lengths_host_s")]
    ticks[100]["lengths_m"][3] += 0.002
    (folder / "recording.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed))
    assert feed_bytes(load_run(folder))["counters_differ_mm"] == pytest.approx(2.0, abs=0.01)


def test_a_run_that_was_cut_off(folder: Path) -> None:
    text = (folder / "recording.jsonl").read_text()
    (folder / "recording.jsonl").write_text(text[: len(text) * 2 // 3])
    (folder / "result.json").unlink()
    run = load_run(folder)
    assert run.end == {}
    assert run.figures()["late"] is None
    assert compare_wire(folder).jogs > 100


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("recording.jsonl", ""),
        ("recording.jsonl", '{"a": 1}\n'),
        ("recording.jsonl", '{"kind": "tick", "host_s": 1, "approved_m_s": [1]}\n'),
        ("config.json", "{"),
    ],
)
def test_what_is_no_run(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(BadInput, match=r"run .*(recording\.jsonl|config\.json)"):
        load_run(folder)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"recording\.jsonl cannot be read"):
        load_run(tmp_path)


def test_frames_need_their_reference(folder: Path) -> None:
    with pytest.raises(BadInput, match="no frames were kept"):
        feed_frames(load_run(folder))
    write_frames(folder, [3, 1, 2])
    with pytest.raises(BadInput, match=r"reference\.png cannot be read"):
        feed_frames(load_run(folder))


def test_a_lerobot_dataset(folder: Path, tmp_path: Path) -> None:
    """Read back with pyarrow and pandas as the format says; not with this package."""
    pq = pytest.importorskip("pyarrow.parquet")
    pd = pytest.importorskip("pandas")
    from melter.loop.lerobot import TASK, write_lerobot

    run, out = load_run(folder), tmp_path / "set"
    made = write_lerobot(run, out)
    info = json.loads((out / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_episodes"]) == ("v3.0", 20, 1)
    assert made["frames"] == info["total_frames"] == len(run.work)
    data = pq.read_table(out / info["data_path"].format(chunk_index=0, file_index=0))
    assert data.column_names == list(info["features"])
    for name, feature in info["features"].items():
        column = data.column(name)
        assert len(column) == info["total_frames"]
        size = 1 if feature["shape"] == [1] else len(column[0].as_py())
        assert [size] == feature["shape"]
        assert feature["names"] is None or len(feature["names"]) == size
    np.testing.assert_allclose(data.column("action").to_pylist()[5], np.float32(run.work[5]["approved_m_s"]), rtol=1e-6)
    np.testing.assert_allclose(data.column("timestamp").to_numpy(), np.arange(len(run.work)) / 20, atol=1e-5)
    episodes = pd.read_parquet(out / "meta/episodes/chunk-000/file-000.parquet")
    assert list(episodes["dataset_to_index"] - episodes["dataset_from_index"]) == list(episodes["length"])
    assert list(episodes["tasks"][0]) == [TASK]
    tasks = pd.read_parquet(out / "meta/tasks.parquet")
    assert list(tasks.index) == [TASK]
    stats = json.loads((out / "meta/stats.json").read_text())
    assert set(stats) == set(info["features"])
    np.testing.assert_allclose(stats["action"]["max"], run.column("approved_m_s", 8, run.work).max(axis=0))
    with pytest.raises(OutputExists):
        write_lerobot(run, out)


def test_a_pause_begins_another_episode(bench: Any, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from test_pause import Script, paused

    from melter.loop.lerobot import write_lerobot

    bench.more["hands"] = Script((bench.in_work(0.7), "pause"), (paused(bench, 0.5), "resume"))
    assert bench.run().finished
    assert write_lerobot(load_run(finish(bench.folder)), tmp_path / "set")["episodes"] == 2


def test_a_rerun_file(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    from melter.loop.rerun import write_rerun

    write_frames(folder, [1, 2])
    run, out = load_run(folder), tmp_path / "run.rrd"
    made = write_rerun(run, out)
    assert made["frames"] == 2
    assert out.read_bytes()[:4] == b"RRF2"
    assert out.stat().st_size > 20_000
    with pytest.raises(OutputExists):
        write_rerun(run, out)
    with pytest.raises(BadInput, match=r"must end in \.rrd"):
        write_rerun(run, tmp_path / "run.bin")


def test_frames_are_tracked_again(folder: Path) -> None:
    """Rendered frames of a patch; what is recorded of one of them is spoilt."""
    from melter.loop.frames import KeptFrames
    from melter.vision.camera import Frame, decode_image
    from melter.vision.preflight import write_picture
    from melter.vision.scene import SceneOptions, SceneRenderer
    from melter.vision.tracker import PatchTracker

    renderer = SceneRenderer(MACHINE, np.random.default_rng(1), SceneOptions())
    turn, narrow = np.eye(3), np.array([4e-5, 0.0, 4e-5])
    exposure = renderer.exposure_for(900.0 / (2 * np.pi * 4e-5), 0.6)
    park = np.array(MACHINE.park.lens_centre_world_m)
    reference = renderer.render(park, turn, np.zeros(2), np.array([1e-2, 0, 1e-2]), 900.0, exposure=1.0, sun_share=1.0)
    write_picture(folder / "reference.png", reference)
    with KeptFrames(folder / "frames", 0.0) as kept:
        for number in range(3):
            spot = np.array([0.02 * number, 0.01])
            high = np.array([0.0, -0.5, 1.1])
            shown = renderer.render(high, turn, spot, narrow, 900.0, exposure=exposure, sun_share=1.0)
            kept.see(Frame(shown, 100.0 + number, number, "test", 0.0))
    tracker = PatchTracker(MACHINE)
    tracker.set_reference(reference)
    lines = [json.loads(text) for text in (folder / "recording.jsonl").read_text().splitlines()]
    ticks = [line for line in lines if line["kind"] == "tick"]
    for number in range(3):
        image = decode_image((folder / "frames" / f"{number:08d}.jpg").read_bytes(), "frame")
        found = tracker.track(image, 100.0 + number, number)
        assert found.centre_world_m is not None
        np.testing.assert_allclose(found.centre_world_m, [0.02 * number, 0.01], atol=0.01)
        ticks[number] |= {
            "frame": number,
            "patch_status": found.status,
            "patch_centre_m": found.centre_world_m.tolist(),
        }
    for line in ticks[3:]:
        line["frame"] = None
    (folder / "recording.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    fed = feed_frames(load_run(folder))
    assert (fed["frames"], fed["frames_compared"], fed["same_status"], fed["centres_moved"]) == (3, 3, 3, 0)
    assert fed["centre_apart_max_mm"] < 0.01
    ticks[1]["patch_centre_m"][0] += 0.005
    (folder / "recording.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert feed_frames(load_run(folder))["centres_moved"] == 1
