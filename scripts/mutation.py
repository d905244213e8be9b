#!/usr/bin/env python3
"""Mutation test of the safety layer: every change of its code must fail a test, or be justified in a file.

Usage: python scripts/mutation.py [MODULE ...]     (default: all of them, about half an hour on two cores)
       python scripts/mutation.py pace reckoning   (a bounded part, about a minute)

mutmut works on a copy of the tree in a temporary folder. Survivors are compared with tests/safety/survivors.toml by
function and changed lines. Exit 1 where one is not justified there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULES = (
    "interlock",
    "pace",
    "reckoning",
    "kinematics",
    "verify",
    "limiter",
    "batch",
    "dose",
    "beam",
    "lowering",
    "gate",
)
TESTS = (
    "interlock",
    "pace",
    "reckoning",
    "kinematics",
    "tick_limits",
    "limiter",
    "power",
    "fuzz",
    "dose",
    "beam",
    "lowering",
    "gate",
)
JUSTIFIED = ROOT / "tests" / "safety" / "survivors.toml"


def main() -> int:
    """Run mutmut on the modules named on the command line."""
    modules = sys.argv[1:] or list(MODULES)
    unknown = sorted(set(modules) - set(MODULES))
    if unknown:
        print(f"{unknown[0]}: must be one of {', '.join(MODULES)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        place = Path(folder)
        prepare(place, modules)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "mutmut"]
        log = (place / "log.txt").open("wb")
        run = subprocess.run([*command, "run"], cwd=place, env=environment, stdout=log, stderr=log, check=False)
        text = (place / "log.txt").read_text(errors="replace")
        counts = re.findall(r"(\d+)/(\d+)  🎉 (\d+) 🫥 (\d+)  ⏰ (\d+)  🤔 (\d+)  🙁 (\d+)", text)
        if run.returncode not in (0, 1) or not counts:
            print(text[-3000:], file=sys.stderr)
            return 1
        listed = subprocess.run(
            [*command, "results"], cwd=place, env=environment, capture_output=True, text=True, check=True
        )
        names = re.findall(r"(\S+__mutmut_\d+): (survived|no tests)", listed.stdout)
        found = [(name, *changed_lines(place, command, name)) for name, _ in names]
    return judge(modules, found, counts[-1])


def prepare(place: Path, modules: list[str]) -> None:
    """Copy what the tests need, and say what to mutate."""
    for name in ("melter", "models", "tests"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    tests = [f"tests/safety/test_{name}.py" for name in TESTS if (ROOT / f"tests/safety/test_{name}.py").exists()]
    config = [
        (ROOT / "pyproject.toml").read_text(encoding="utf-8"),
        "[tool.mutmut]",
        'source_paths = ["melter/"]',
        f"only_mutate = {[f'melter/safety/{name}.py' for name in modules]}",
        f"pytest_add_cli_args_test_selection = {tests}",
        'also_copy = ["models", "melter", "tests"]',
        "max_children = 2",
    ]
    (place / "pyproject.toml").write_text("\n".join(config) + "\n", encoding="utf-8")
    for name in ("README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, place / name)


def changed_lines(place: Path, command: list[str], name: str) -> tuple[str, str]:
    """Return the lines that a mutant takes out and puts in."""
    shown = subprocess.run([*command, "show", name], cwd=place, capture_output=True, text=True, check=True).stdout
    lines = [line for line in shown.splitlines() if not line.startswith(("---", "+++"))]
    gone = " ".join(line[1:].strip() for line in lines if line.startswith("-"))
    come = " ".join(line[1:].strip() for line in lines if line.startswith("+"))
    return gone, come


def judge(modules: list[str], found: list[tuple[str, str, str]], counts: tuple[str, ...]) -> int:
    """Print what survived and whether it is justified."""
    table = tomllib.loads(JUSTIFIED.read_text(encoding="utf-8")) if JUSTIFIED.exists() else {}
    known = {(entry["was"], entry["becomes"]) for entry in table.get("survivor", [])}
    rules = [re.compile(entry["becomes"]) for entry in table.get("rule", [])]
    bad = 0
    for name, gone, come in found:
        good = (gone, come) in known or any(rule.search(come) for rule in rules)
        bad += not good
        if not good:
            print(f"survived: {name}\n  was     {gone}\n  becomes {come}")
    _, total, killed, untested, late, odd, survived = counts
    print(
        f"{', '.join(modules)}: {total} mutants, {killed} killed, {late} timed out, {odd} suspicious, "
        f"{survived} survived, {untested} untested; not justified: {bad}"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
