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
    with pytest.raises(BadInput, match=r"env, gate, learner, vision; did you mean gate\?"):
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
