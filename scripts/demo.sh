#!/usr/bin/env bash
# Installs what a build needs, builds, and runs `siltstone demo`: no Kafka, no bucket, no configuration.
# Arguments go to the demo: scripts/demo.sh --dir /tmp/mine --records 50000
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/prepare.sh
echo "building (the first time takes some minutes)" >&2
cargo build --quiet --bin siltstone
exec "${CARGO_TARGET_DIR:-target}/debug/siltstone" demo "$@"
