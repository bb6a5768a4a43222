#!/usr/bin/env bash
# See tests/proofs/torture.py, or scripts/torture.sh --help.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=$("$ROOT/scripts/python.sh")
exec "$PYTHON" "$ROOT/tests/proofs/torture.py" "$@"
