#!/usr/bin/env bash
# See tests/proofs/e2e.py, or scripts/e2e.sh --help.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=$("$ROOT/scripts/python.sh")
exec "$PYTHON" "$ROOT/tests/proofs/e2e.py" "$@"
