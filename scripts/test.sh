#!/usr/bin/env bash
# Every test, on a machine where nothing of ours may be installed: installs what is missing, starts the real Kafka, S3, GCS and
# Azure parts on loopback, runs the Rust tests and the end-to-end proofs, and stops what it started. A service that does
# not come up is a failure. The long proofs (2,000,000 records, 20 kills, half an hour of torture, benchmarks) are scripts to be
# run by hand.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

SERVICES=(kafka s3 gcs azure)
OTHER_SERVICES=(registry kafka3 toxiproxy) # started by what needs them
TOOLS=(rsyslog)
started_at=$SECONDS
step() { printf '\n== %s (%d s so far)\n' "$1" "$((SECONDS - started_at))"; }

step "what a build needs"
scripts/prepare.sh
cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
cargo clippy --version >/dev/null 2>&1 || rustup component add clippy

step "services are installed beside the build"
log=$(mktemp)
(scripts/python.sh && scripts/services.sh install "${SERVICES[@]}" "${OTHER_SERVICES[@]}" "${TOOLS[@]}") >"$log" 2>&1 &
installing=$!

step "formatting"
cargo fmt --check

step "build"
# One library serves all: the simulation alone plants bugs, which nothing but a test of it can (src/planted.rs).
export CARGO_TERM_COLOR=never
cargo build --tests --bins --features test-util
simulation=$(cargo test --features test-util --test sim --no-run 2>&1 | tee >(cat >&2) | sed -n 's/^ *Executable .*(\(.*\))$/\1/p')
[[ -x "$simulation" ]] || { echo "cargo does not say where the simulation lies" >&2; exit 1; }
# All but the simulation, which goes on beside them.
targets=(--lib --bins)
for name in $(sed -n '/^\[\[test\]\]/{n;s/^name = "\(.*\)"$/\1/p}' Cargo.toml); do
    [[ "$name" == sim ]] || targets+=(--test "$name")
done
# Each is two words, and one is left out.
((${#targets[@]} == 2 * $(grep -c '^\[\[test\]\]' Cargo.toml))) || { echo "not every [[test]] of Cargo.toml begins with its name" >&2; exit 1; }

step "clippy"
cargo clippy --all-targets --features test-util -- -D warnings
# What a release is made of.
cargo clippy --bins -- -D warnings

step "the demo needs no service"
demo=$(mktemp -d)
# As scripts/demo.sh, but with the program that is there: building it alone, without what tests need, would build it anew.
"${CARGO_TARGET_DIR:-target}/debug/siltstone" demo --dir "$demo/demo" --records 50000
rm -rf "$demo"

step "services"
if ! wait "$installing"; then
    cat "$log" >&2
    echo "installing the services failed" >&2
    exit 1
fi
already=$(scripts/services.sh status "${SERVICES[@]}" "${OTHER_SERVICES[@]}" | awk '$3 == "running," || $3 == "running" {print $1}' || true)
was_running() { grep -qxE "$1(-1)?" <<<"$already"; } # NAME; a part of several processes by its first
stop_ours() {
    local failed=$?
    ((failed == 0)) || tell_why || true
    if [[ -n "${simulating:-}" ]] && kill "$simulating" 2>/dev/null; then
        cat "$simulated"
    fi
    for name in "${SERVICES[@]}" "${OTHER_SERVICES[@]}"; do
        was_running "$name" || scripts/services.sh stop "$name" || true
    done
}
# Whether it is the machine that failed, or a server: nobody can look there afterwards.
tell_why() {
    printf '\n== the machine and the servers as it failed\n'
    uptime
    free -m
    df -h "${TMPDIR:-/tmp}" /dev/shm
    grep -H . /proc/pressure/* 2>/dev/null || true
    for name in "${SERVICES[@]}"; do
        printf -- '-- %s\n' "$name"
        tail -n 15 "${SILTSTONE_CACHE:-$HOME/.cache/siltstone}/run/$name/log" 2>/dev/null || true
    done
}
trap stop_ours EXIT
scripts/services.sh start "${SERVICES[@]}"
set -a
eval "$(scripts/services.sh env)"
set +a
python=$(scripts/python.sh)

step "rust tests, and beside them and what follows the simulation"
simulated=$(mktemp)
nice "$simulation" --nocapture >"$simulated" 2>&1 &
simulating=$!
# Most of them wait for Kafka most of the time.
RUST_TEST_THREADS=6 cargo test --features test-util "${targets[@]}"

step "the independent reader sees what is wrong"
"$python" tests/reader/test_ledgers.py &
ledgers=$!
"$python" tests/reader/test_check.py
"$python" tests/proofs/test_siege.py
"$python" tests/proofs/test_pipelines.py
wait "$ledgers"

step "Kafka to every store and back"
scripts/e2e.sh --records 200000 --store s3,gcs,azure,file --format gzip,parquet
scripts/e2e.sh --records 100000 --store s3 --format raw,zstd,parquet-schema --broken 0.01

step "whole pipelines"
scripts/pipelines.sh --records 200000

step "an archive that is begun late, damaged, mended and brought back"
scripts/rescue.sh --records 60000

step "two processes, killed"
scripts/kills.sh --kills 6 --format gzip
scripts/kills.sh --kills 6 --format parquet

step "what the simulation says"
wait "$simulating" || simulation_failed=1
simulating=
# Its table of planted bugs and its counts of faults are worth a look also where all is well.
cat "$simulated"
[[ -z "${simulation_failed:-}" ]] || { echo "the simulation failed" >&2; exit 1; }

step "processes, brokers and links that fail for three minutes"
# Only its own two services and the S3 server: two cores have enough to do with that.
for name in kafka gcs azure registry; do was_running "$name" || scripts/services.sh stop "$name"; done
scripts/torture.sh --minutes 3 --seed "${TORTURE_SEED:-4}"

step "done"
echo "everything passed in $((SECONDS - started_at)) s"
