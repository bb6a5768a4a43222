#!/usr/bin/env bash
# Every test, on a machine where nothing of ours may be installed: installs what is missing, starts the real Kafka, S3, GCS, Azure,
# Hive Metastore, BigQuery and HDFS parts on loopback, runs the Rust tests and the end-to-end proofs, and stops what it started. A service that does
# not come up is a failure. The long proofs (2,000,000 records, 20 kills, half an hour of torture, benchmarks) are scripts to be
# run by hand.
#
# Much of it waits, for sessions to end and for processes to come back, so what only computes goes on beside it: see `beside`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

SERVICES=(kafka s3 gcs azure hms bigquery)
OTHER_SERVICES=(registry kafka3 toxiproxy hdfs) # started by what needs them
TOOLS=(rsyslog)
export CARGO_TERM_COLOR=never
started_at=$SECONDS
step() { printf '\n== %s (%d s so far)\n' "$1" "$((SECONDS - started_at))"; }

logs=$(mktemp -d)
declare -A running=()
# NAME COMMAND...: begins it; what it says is kept until somebody asks.
beside() {
    local name=$1
    shift
    "$@" >"$logs/$name" 2>&1 &
    running[$name]=$!
}
# NAME...: waits for these, shows what they said, and fails if one has failed.
said() {
    local name failed=0
    for name in "$@"; do
        wait "${running[$name]}" || failed=1
        unset "running[$name]"
        printf -- '-- %s\n' "$name"
        cat "$logs/$name"
    done
    ((failed == 0)) || { echo "failed: $*" >&2; exit 1; }
}

step "what a build needs"
scripts/prepare.sh
cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
cargo clippy --version >/dev/null 2>&1 || rustup component add clippy

step "services are installed beside the build"
install_all() {
    local name
    for name in python duckdb clickhouse spark; do scripts/python.sh "$name" || return; done
    scripts/services.sh install "${SERVICES[@]}" "${OTHER_SERVICES[@]}" "${TOOLS[@]}"
}
beside install install_all

step "formatting"
cargo fmt --check

step "build"
# One library serves all: the simulation alone plants bugs, which nothing but a test of it can (src/planted.rs).
cargo build --tests --bins --features test-util
declare -A programs=() # test programs by name
while read -r name path; do
    programs[$name]=$path
done < <(cargo test --features test-util --no-run --message-format=json 2>/dev/null | scripts/programs.py)
wanted="lib bin $(sed -n 's/^name = "\(.*\)"$/\1/p' <<<"$(grep -A1 '^\[\[test\]\]' Cargo.toml)" | xargs)"
((${#programs[@]} == 2 + $(grep -c '^\[\[test\]\]' Cargo.toml))) || { echo "wanted $wanted, found ${!programs[*]}" >&2; exit 1; }
for name in $wanted; do
    [[ -x "${programs[$name]:-}" ]] || { echo "no test program $name was built" >&2; exit 1; }
done

step "the demo needs no service"
demo=$(mktemp -d)
# As scripts/demo.sh, but with the program that is there: building it alone, without what tests need, would build it anew.
"${CARGO_TARGET_DIR:-target}/debug/siltstone" demo --dir "$demo/demo" --records 50000
rm -rf "$demo"

step "services"
said install
already=$(scripts/services.sh status "${SERVICES[@]}" "${OTHER_SERVICES[@]}" | awk '$3 == "running," || $3 == "running" {print $1}' || true)
was_running() { grep -qxE "$1(-1)?" <<<"$already"; } # NAME; a part of several processes by its first
stop_ours() {
    local failed=$? name
    ((failed == 0)) || tell_why || true
    for name in "${!running[@]}"; do
        pkill -P "${running[$name]}" 2>/dev/null || true # what a function of ours has begun
        kill "${running[$name]}" 2>/dev/null || true
        printf -- '-- %s, which was under way\n' "$name"
        tail -n 50 "$logs/$name"
    done
    for name in "${SERVICES[@]}" "${OTHER_SERVICES[@]}"; do
        was_running "$name" || scripts/services.sh stop "$name" || true
    done
    rm -rf "$logs"
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

step "rust tests, and beside them and what follows the simulation and clippy"
lint() {
    cargo clippy --all-targets --features test-util -- -D warnings
    # What a release is made of.
    cargo clippy --bins -- -D warnings
}
beside simulation nice "${programs[sim]}" --nocapture
export -f lint
beside clippy nice bash -euc lint
# These need no Kafka, or little of it.
alone() {
    local name
    for name in lib bin config fuzz; do
        "${programs[$name]}"
    done
    "${programs[stores]}" --skip hdfs --skip hadoop
}
# By themselves: one of them kills the namenode.
hadoop() {
    scripts/services.sh start hdfs
    set -a
    eval "$(scripts/services.sh env hdfs)"
    set +a
    "${programs[stores]}" hdfs hadoop
    RUST_TEST_THREADS=1 "${programs[it]}" hdfs::
    was_running hdfs || scripts/services.sh stop hdfs
}
beside alone alone
# Most of these wait for Kafka most of the time.
RUST_TEST_THREADS=6 "${programs[it]}" --skip hdfs::
RUST_TEST_THREADS=6 "${programs[kafka_parts]}"
said alone
beside hadoop hadoop

step "the independent reader sees what is wrong"
beside ledgers "$python" tests/reader/test_ledgers.py
"$python" tests/reader/test_check.py
"$python" tests/proofs/test_siege.py
"$python" tests/proofs/test_pipelines.py
said ledgers

step "Kafka to every store and back"
scripts/e2e.sh --records 200000 --store s3,gcs,azure,file --format gzip,parquet
scripts/e2e.sh --records 100000 --store s3 --format raw,zstd,parquet-schema --broken 0.01

step "what HDFS says"
said hadoop

step "whole pipelines"
scripts/pipelines.sh --records 200000

step "tables of DuckDB, Spark and ClickHouse over what is archived"
scripts/ddl.sh --records 5000

step "an archive that is begun late, damaged, mended and brought back; two processes, killed"
beside kills-gzip scripts/kills.sh --kills 6 --format gzip
beside kills-parquet scripts/kills.sh --kills 6 --format parquet
scripts/rescue.sh --records 60000
said kills-gzip kills-parquet

step "what clippy and the simulation say"
# Its table of planted bugs and its counts of faults are worth a look also where all is well.
said clippy simulation

step "processes, brokers and links that fail for three minutes"
# Only its own two services and the S3 server: two cores have enough to do with that.
for name in kafka gcs azure hms bigquery registry; do was_running "$name" || scripts/services.sh stop "$name"; done
scripts/torture.sh --minutes 3 --seed "${TORTURE_SEED:-4}"

step "done"
echo "everything passed in $((SECONDS - started_at)) s"
