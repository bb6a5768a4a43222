"""What archiving costs beside what it cannot do without: alternating runs in one session, each a process of its own.

    scripts/bench.sh [--runs 3] [--records 2000000] [--only consume,gzip,…] [--schema] [--no-build]

    consume         read the topic through librdkafka's batch queue and drop it      (tests/bench/parts.rs)
    read            read the same records from plain files, one for each Kafka partition and hour
    gzip            the same, compressed at level 6 (flate2 with zlib-rs), one stream for each file, into nothing
    parquet         the same, decoded by arrow-json and encoded by parquet with zstd level 3 and row groups of 16 MiB of rows
    kcat | gzip -6  into one local file: the naive floor
    run gzip        siltstone run --drain to the S3 server as hourly gzip JSON, read back by tests/reader/check.py after each run
    run parquet     the same as Parquet with an inferred schema; with --schema also once more with a given one

CPU is user + system of the process alone, not of broker or store, and the figure to compare; wall is contention. The last
line is `ratio gzip=… parquet=…`: median CPU of run ÷ (consume + codec), where codec is gzip or parquet less what reading
the plain files takes.
"""

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from trial import LOGS, ROOT, Failed, Trial, drain, drop_topic, measured, produce, program, services, tail

LEVEL = 6
ROW_GROUP_MIB = 16
DEADLINE = 900


def build():
    """Builds the archiver and the parts as released; gives the path of the parts."""
    command = ["nice", "cargo", "build", "--release", "--bins", "--bench", "parts", "--message-format=json-render-diagnostics"]
    printed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    messages = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    (parts,) = [m["executable"] for m in messages if m["reason"] == "compiler-artifact" and m["target"]["name"] == "parts" and m["executable"]]
    return Path(parts)


def newest_parts():
    """The parts as they were built before, or another build of them in SILTSTONE_PARTS."""
    if "SILTSTONE_PARTS" in os.environ:
        return Path(os.environ["SILTSTONE_PARTS"])
    found = [path for path in (ROOT / "target" / "release" / "deps").glob("parts-*") if not path.suffix]
    if not found:
        raise Failed("the bench binary is not built: leave --no-build out")
    return max(found, key=lambda path: path.stat().st_mtime)


class Session:
    """The topic, the plain files and every kind of run."""

    def __init__(self, args, parts):
        self.args, self.parts = args, parts
        self.brokers, self.topic = os.environ["KAFKA_BROKERS"], f"bench-{secrets.token_hex(4)}"
        self.temporary = tempfile.TemporaryDirectory(prefix="siltstone-bench-")
        self.folder = Path(self.temporary.name)
        self.files = self.folder / "files"
        files = [sys.executable, LOGS, "files", "--dir", self.files, "--records", str(args.records)]
        subprocess.run(files, check=True, stdout=sys.stderr)
        produce(self.brokers, self.topic, args.records)
        self.bytes = sum(path.stat().st_size for path in self.files.iterdir())
        self.kinds = {
            "consume": lambda: self.part("consume", self.brokers, self.topic, says=f"records={args.records} bytes={self.bytes - args.records}"),
            "read": lambda: self.file_part("read", says=f"bytes={self.bytes}"),
            "gzip": lambda: self.file_part("gzip", LEVEL, says=f"bytes={self.bytes} "),
            "parquet": lambda: self.file_part("parquet", ROW_GROUP_MIB, says=f"records={args.records} "),
            "kcat": self.kcat,
            "run gzip": lambda: self.run("gzip"),
            "run parquet": lambda: self.run("parquet"),
        }
        if args.schema:
            self.kinds["run parquet-schema"] = lambda: self.run("parquet-schema")
        if args.only:
            self.kinds = {name: kind for name, kind in self.kinds.items() if name in args.only}

    def part(self, name, *arguments, says):
        log = self.folder / f"{name}.log"
        used = measured([self.parts, name, *arguments], log, DEADLINE)
        if used.code != 0 or not used.output.startswith(says):
            raise Failed(f"parts {name} ended with {used.code}, printed {used.output!r}, should begin with {says!r}\n{tail(log)}")
        return used, used.output.strip()

    def file_part(self, name, *arguments, says):
        """Each finds the files in the page cache: what "read" costs is subtracted from the others."""
        for path in self.files.iterdir():
            with path.open("rb") as file:
                while file.read(1 << 20):
                    pass
        return self.part(name, self.files, *arguments, says=says)

    def kcat(self):
        out, log = self.folder / "kcat.gz", self.folder / "kcat.log"
        script = 'set -o pipefail; kcat -C -b "$1" -t "$2" -o beginning -e -q | gzip -6 >"$3"'
        used = measured(["bash", "-c", script, "-", self.brokers, self.topic, out], log, DEADLINE)
        counted = subprocess.run(["bash", "-c", 'gzip -dc "$1" | wc -l', "-", out], capture_output=True, text=True).stdout.strip()
        if used.code != 0 or counted != str(self.args.records):
            raise Failed(f"kcat | gzip ended with {used.code} and {counted} lines\n{tail(log)}")
        packed = out.stat().st_size
        out.unlink()
        return used, f"packed={packed}"

    def run(self, format_name):
        trial = Trial("bench", "s3", format_name, self.topic)
        used = drain(trial, program(release=True), trial.write_config(), deadline=DEADLINE)
        found = trial.check(self.args.records)
        trial.clean()
        return used, " ".join(f"{name}={found[name]}" for name in ("records", "distinct", "objects", "bytes"))

    def clean(self):
        drop_topic(self.brokers, self.topic)
        self.temporary.cleanup()


def spread(values, digits):
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}-{max(values):.{digits}f}]"


def report(results, records):
    print(f"\n{records} records, {len(next(iter(results.values())))} runs each, alternating: median [least-most]")
    print(f"{'':20} {'CPU s':>22} {'wall s':>22} {'peak MiB':>20}")
    for name, runs in results.items():
        columns = (spread([u.cpu for u in runs], 2), spread([u.wall for u in runs], 2), spread([u.peak_mib for u in runs], 0))
        shown = "kcat | gzip -6" if name == "kcat" else name
        print(f"{shown:20} {columns[0]:>22} {columns[1]:>22} {columns[2]:>20}")


def ratio(results, name):
    """CPU of run ÷ (consume + codec); None where one of them was not run."""
    if not {"consume", "read", name, f"run {name}"} <= set(results):
        return None
    cpu = {kind: statistics.median(used.cpu for used in runs) for kind, runs in results.items()}
    return cpu[f"run {name}"] / (cpu["consume"] + cpu[name] - cpu["read"])


def bench(args):
    services(["s3"])
    subprocess.run([ROOT / "scripts" / "services.sh", "install", "kcat"], check=True, stdout=sys.stderr)
    session = Session(args, newest_parts() if args.no_build else build())
    results = {name: [] for name in session.kinds}
    try:
        for number in range(args.runs):
            for name, kind in session.kinds.items():
                used, said = kind()
                results[name].append(used)
                print(f"{number + 1}/{args.runs} {name:20} cpu={used.cpu:.2f}s wall={used.wall:.2f}s peak={used.peak_mib:.0f}MiB {said}", flush=True)
    finally:
        session.clean()
    report(results, args.records)
    shown = {name: ratio(results, name) for name in ("gzip", "parquet")}
    print("ratio " + " ".join(f"{name}={'-' if value is None else f'{value:.2f}'}" for name, value in shown.items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--schema", action="store_true", help="run Parquet with a given schema, too")
    parser.add_argument("--only", type=lambda text: text.split(","), help="some of the kinds, by name")
    parser.add_argument("--no-build", action="store_true", help="take what target/release has")
    try:
        bench(parser.parse_args())
    except Failed as failed:
        sys.exit(f"error: {failed}")


if __name__ == "__main__":
    main()
