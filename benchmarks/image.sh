#!/bin/bash
# Builds the Dockerfile without a daemon and without pulling anything: the base image is made by debootstrap (Debian 12 has
# Python 3.11), then buildah installs in a chroot, and trains twice without a network, with different arguments.
# Needs root, debootstrap and buildah.
# Usage: benchmarks/image.sh SCRATCH_FOLDER [more options for buildah, such as -v /etc/pip.conf:/etc/pip.conf:ro]
set -euo pipefail
scratch=$(realpath "$1")
shift
source=$(realpath "$(dirname "$0")/..")
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
buildah=(buildah --root "$scratch/store" --runroot "$scratch/run")

if [[ ! -e $scratch/rootfs.tar ]]; then
  debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,python-is-python3,ca-certificates bookworm "$scratch/rootfs"
  tar -C "$scratch/rootfs" -cf "$scratch/rootfs.tar" .
  printf 'FROM scratch\nADD rootfs.tar /\n' > "$scratch/base.Dockerfile"
  "${buildah[@]}" bud -t docker.io/library/python:3.11-slim -f "$scratch/base.Dockerfile" "$scratch"
fi
"${buildah[@]}" bud --layers --network host "$@" --target melter "$source" > "$scratch/install.log" 2>&1
echo "installed: $SECONDS s from the start"
for args in "td3 --preset smoke --steps 3000 --envs 16" "ppo --preset smoke --steps 4000"; do
  out=$scratch/out-${args%% *}
  rm -rf "$out"
  mkdir "$out"
  begin=$SECONDS
  unshare --net "${buildah[@]}" bud --layers --network host "$@" --output "$out" --build-arg "ALGO_NAME=${args%% *}" --build-arg "ARGS=${args#* }" \
    "$source" > "$out.log" 2>&1
  echo "$args: $((SECONDS - begin)) s, $(grep -c 'Using cache' "$out.log") steps from the cache, results: $(ls "$out")"
done
