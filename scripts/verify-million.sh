#!/usr/bin/env bash
# See tests/proofs/million.py, or scripts/verify-million.sh --help. Needs nothing but Python itself.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
exec python3 "$ROOT/tests/proofs/million.py" "$@"
