#!/usr/bin/env bash
# Installs melter with what its tests need, then runs all checks: style, types, import rules, tests.
# Options go to pytest: ./test.sh -m long runs the long tests.
set -euo pipefail
cd "$(dirname "$0")"
scripts/install.sh dev
PATH=$PWD/.venv/bin:$PATH
ruff check .
if pyright --version >/dev/null 2>&1; then
  pyright
else
  echo "pyright cannot start here (it needs Node.js); types are not checked" >&2
fi
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
python -m pytest -n 2 "$@"
