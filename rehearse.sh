#!/usr/bin/env bash
# Installs melter, then does the whole loop once: train, safety check, video, a run on the rehearsal machine.
set -euo pipefail
cd "$(dirname "$0")"
scripts/install.sh
exec .venv/bin/melter rehearse "$@"
