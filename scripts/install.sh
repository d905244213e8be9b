#!/usr/bin/env bash
# Makes .venv and installs melter into it, every version pinned by constraints.txt. Usage: scripts/install.sh [dev]
set -euo pipefail
cd "$(dirname "$0")/.."

python=""
for candidate in python3.11 python3.12 python3.13 python3; do
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    python=$candidate
    break
  fi
done
[ -n "$python" ] || { echo "melter needs Python 3.11 or newer; none was found" >&2; exit 2; }

if [ ! -x .venv/bin/python ]; then
  "$python" -m venv .venv || { echo "could not make .venv; on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
fi
export PIP_CONSTRAINT=$PWD/constraints.txt PIP_BUILD_CONSTRAINT=$PWD/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1
target=".[contrib]"
[ "${1:-}" = dev ] && target=".[dev]"
.venv/bin/pip install --quiet torch==2.13.0
.venv/bin/pip install --quiet --editable "$target"

# opencv-python wants the system's libGL; where that is missing, its headless twin of the same version takes its place.
if ! .venv/bin/python -c "import cv2" 2>/dev/null; then
  version=$(sed -n 's/^opencv-python==//p' constraints.txt)
  .venv/bin/pip install --quiet --force-reinstall --no-deps "opencv-python-headless==$version"
  .venv/bin/python -c "import cv2"
fi
