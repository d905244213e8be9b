import json

import pytest

from melter.cli import bench
from melter.cli.bench import BENCHES, run
from melter.errors import BadInput
from melter.policy import contenders
from melter.timing import Contender, measure

TINY = ["--seconds", "0.05", "--envs", "2", "--threads", "1", "--workers", "2", "--json"]


@pytest.mark.parametrize("what", sorted(set(BENCHES) - {"learner"}))
def test_rows_and_one_json_object(what, capsys):
    assert run([what, *TINY]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) >= 2
    for row in rows:
        assert row["rate"] > 0
        assert row["unit"].endswith("/s")
        assert row["name"] not in row["ratio_to"]


def test_env_is_compared_with_its_peers(capsys):
    run(["env", *TINY])
    first = json.loads(capsys.readouterr().out)["rows"][0]
    assert first["name"].startswith("native batch of 2")
    assert any(name.startswith("SubprocVecEnv") for name in first["ratio_to"])
    assert any(name.startswith("physics alone") for name in first["ratio_to"])


def test_learners_are_compared_with_stable_baselines3s(capsys, monkeypatch):
    for name, value in (("ROLLOUT", 32), ("OFF_STEPS", 1), ("OFF_BATCH", 16), ("OFF_ARCH", [16, 16])):
        monkeypatch.setattr(contenders, name, value)
    monkeypatch.setattr(bench, "ROUNDS", 1)
    run(["learner", *TINY])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert all(row["rate"] > 0 and row["unit"].endswith(("/s", "learning included")) for row in rows)
    for word in ("PPO", "TD3", "SAC"):
        mine = [row for row in rows if row["name"].startswith("melter's " + word)]
        assert mine
        assert all(any(name.startswith("stable-baselines3's " + word) for name in row["ratio_to"]) for row in mine)


def test_unknown_bench_names_the_known_ones():
    with pytest.raises(BadInput, match=r"env, gate, learner, vision, cluster; did you mean gate\?"):
        run(["gat"])


@pytest.mark.parametrize("more", [["--seconds", "0"], ["--envs", "0"], ["--workers", "0"], ["--threads", "0"]])
def test_refuses_sizes(more):
    with pytest.raises(BadInput, match=more[0]):
        run(["gate", *more])


def test_rates_and_ratios_come_from_the_counts():
    closed = []
    contenders = [
        Contender("ten", "things/s", lambda: 10, lambda: closed.append("ten")),
        Contender("other", "words/s", lambda: 1, lambda: closed.append("other")),
    ]
    rows = measure(contenders, 0.02, 2)
    assert [row.name for row in rows] == ["ten", "other"]
    assert rows[0].rate > rows[1].rate > 0
    assert rows[0].ratio_to == {}
    assert closed == ["ten", "other"]


def test_contenders_are_closed_after_an_error():
    closed = []

    def broken() -> int:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        measure([Contender("a", "things/s", broken, lambda: closed.append("a"))], 0.02, 2)
    assert closed == ["a"]


def test_a_curve_over_threads(capsys, tmp_path):
    plot = tmp_path / "curve.png"
    assert run(["env", "--seconds", "0.05", "--envs", "2", "--threads", "1,2", "--json", "--plot", str(plot)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["name"].split(" of ")[0] for row in told["rows"]] == ["native batch"] * 2 + ["physics alone"] * 2
    assert 0 <= told["outside_mujoco_share"] <= 1
    for law in told["scaling"]:
        assert set(law["predicted"]) == {"16", "60", "192"}
        assert all(rate > 0 for rate in law["predicted"].values())
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("words", ["", "x", "1,x", "0", "1,0", "-1", "1.5", "2000", "2,4"])
def test_refuses_counts(words):
    with pytest.raises(BadInput, match="--threads"):
        run(["env", "--threads", words])


@pytest.mark.parametrize(
    "more", [["gate", "--plot", "x.png"], ["env", "--plot", "x.png", "--threads", "1"], ["gate", "--threads", "1,2"]]
)
def test_a_curve_is_of_cores(more):
    with pytest.raises(BadInput):
        run(more)


@pytest.mark.long
def test_workers_are_compared_with_one_process(capsys):
    pytest.importorskip("ray", reason="Ray is not installed (pip install melter[cluster])")
    assert run(["cluster", "--seconds", "0.5", "--envs", "16", "--threads", "1,2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    names = [row["name"] for row in told["rows"]]
    assert [name.split(",")[0] for name in names[:3]] == ["one process", "Ray", "Ray"]
    assert any(row["unit"] == "MB/s" and row["rate"] > 0 for row in told["rows"])
    for one in told["communication"]:
        assert one["computing_share"] + one["communication_share"] == pytest.approx(1, abs=1e-6)
        assert one["mb_per_s"] > 0
