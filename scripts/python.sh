#!/usr/bin/env bash
# Prints the path of a Python that has the packages of tests/parts/python/requirements.txt (and nothing else on standard
# output): PYTHON=$(scripts/python.sh). The first time it makes a virtual environment in SILTSTONE_CACHE.
# scripts/python.sh NAME is the same with tests/parts/NAME/requirements.txt, for what only some proofs need: spark, clickhouse.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
NAME=${1:-python}
# shellcheck source=tests/parts/common.sh
source "$ROOT/tests/parts/common.sh"
REQUIREMENTS=$ROOT/tests/parts/$NAME/requirements.txt
[[ $NAME =~ ^[a-z0-9][a-z0-9-]*$ && -f $REQUIREMENTS ]] || die "no Python of that name: $NAME"

PIP_FLAGS=(--only-binary :all:)
# chdb-core asks for data frames that nobody needs here, and a list cannot say so.
if [[ $NAME == clickhouse ]]; then PIP_FLAGS+=(--no-deps); fi

# The directory is named after the requirements and the Python version: a change makes a new one.
venv_directory() {
  local sum
  sum=$({ python3 --version && cat "$REQUIREMENTS"; } | sha256sum | cut -c1-8)
  echo "$SILTSTONE_CACHE/parts/$NAME-$sum"
}

make_venv() { # DIRECTORY
  local began=$SECONDS
  say "making the virtual environment $1"
  rm -rf "$1"
  if ! python3 -c 'import ensurepip' 2>/dev/null; then apt_install python3-venv; fi
  {
    python3 -m venv "$1"
    nice "$1/bin/python" -m pip install --quiet --disable-pip-version-check "${PIP_FLAGS[@]}" --requirement "$REQUIREMENTS"
  } >&2
  # A virtual environment holds its own path and cannot be moved into place, so a mark tells that it is complete.
  touch "$1/complete"
  record_install "$NAME" $((SECONDS - began))
}

need_command python3 python3
DIR=$(venv_directory)
if [[ ! -f $DIR/complete ]]; then
  mkdir -p "${DIR%/*}"
  exec 8>"$DIR.lock"
  flock 8
  [[ -f $DIR/complete ]] || make_venv "$DIR"
fi
echo "$DIR/bin/python"
