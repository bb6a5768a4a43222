#!/usr/bin/env bash
# See tests/proofs/ddl.py, or scripts/ddl.sh --help.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=$("$ROOT/scripts/python.sh")
exec "$PYTHON" "$ROOT/tests/proofs/ddl.py" "$@"
