"""The house rules: who imports whom, docstrings, style, types."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "melter"
FILES = sorted(PACKAGE.rglob("*.py"))


def test_import_rules() -> None:
    pytest.importorskip("importlinter", reason="import-linter is not installed (pip install melter[dev])")
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_geometry_is_usable_with_numpy_only() -> None:
    """All of it but the linear programs (scipy) and outlines (shapely) imports without anything else."""
    code = (
        "import sys, importlib, pkgutil\n"
        "for name in ('pydantic', 'gymnasium', 'mujoco', 'cv2', 'torch', 'stable_baselines3', 'tyro', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "import melter.geometry as g\n"
        "names = [m.name for m in pkgutil.iter_modules(g.__path__) if m.name != 'sun']\n"
        "for name in names: importlib.import_module('melter.geometry.' + name)\n"
        "print(len(names))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 8


def test_importing_melter_is_light() -> None:
    code = "import sys, melter\nassert not {'torch', 'mujoco', 'cv2', 'stable_baselines3'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_public_things_have_docstrings_and_no_asserts_or_prints(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    if file.name != "__main__.py":
        assert ast.get_docstring(tree), f"{file.name} has no docstring"
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: assert outside tests"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"line {node.lineno}: print in library code"
    for node in tree.body:
        public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        assert not public or ast.get_docstring(node), f"line {node.lineno}: {node.name} has no docstring"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_global_randomness(file: Path) -> None:
    """Random numbers are handed in; stable-baselines3's own global state is only saved and put back."""
    allowed = {"default_rng", "Generator", "get_state", "set_state"}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("np.random", "numpy.random"):
            assert node.attr in allowed, f"line {node.lineno}: np.random.{node.attr}"
        if isinstance(node, ast.Import):
            assert "random" not in [alias.name for alias in node.names]


def test_rooms_are_those_of_the_style_page() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert rooms == {
        "geometry",
        "env",
        "policy",
        "safety",
        "hw",
        "vision",
        "loop",
        "twin",
        "cli",
        "cluster",
        "calibration",
    }


def test_ruff() -> None:
    if shutil.which("ruff") is None:
        pytest.skip("ruff is not installed (pip install melter[dev])")
    done = subprocess.run(
        ["ruff", "check", "--no-cache", "."], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.long
def test_pyright() -> None:
    """A minute; ./test.sh runs it before the tests."""
    if shutil.which("pyright") is None or shutil.which("node") is None:
        pytest.skip("pyright is not installed, or Node.js is missing")
    done = subprocess.run(["pyright"], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout
