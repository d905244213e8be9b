#!/bin/sh
# Installs what an extra of pyproject.toml needs, not melter itself. Usage: docker_packages.sh EXTRA
# TORCH_INDEX: where PyTorch's build without GPU libraries is; empty: wherever pip looks.
set -eu
cd "$(dirname "$0")"
extra=$1
if [ -n "${TORCH_INDEX:-}" ]; then
  pip install --constraint constraints.txt --index-url "$TORCH_INDEX" torch
fi
python - "$extra" > wanted.txt << 'END'
import sys
import tomllib

project = tomllib.load(open("pyproject.toml", "rb"))
for line in project["project"]["dependencies"] + project["project"]["optional-dependencies"][sys.argv[1]]:
    print(line)
for line in project["build-system"]["requires"]:
    print(line)
END
pip install --constraint constraints.txt torch --requirement wanted.txt
# opencv-python wants the system's libGL, which a slim image has not: its headless twin of the same version takes its place.
if ! python -c "import cv2" 2> /dev/null; then
  version=$(sed -n 's/^opencv-python==//p' constraints.txt)
  pip install --force-reinstall --no-deps "opencv-python-headless==$version"
  python -c "import cv2"
fi
