#!/usr/bin/env bash
# Runs every fuzz target (tests/fuzz) for some time, one behind the other: scripts/fuzz.sh [--seconds N] [NAME...]
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=60
if [[ ${1:-} == --seconds ]]; then
  seconds=${2:?"--seconds needs a number"}
  shift 2
fi
SILTSTONE_FUZZ_SECONDS=$seconds exec cargo test --test fuzz -- --test-threads 2 "$@"
