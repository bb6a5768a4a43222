"""What archiving costs beside what it cannot do without: alternating runs in one session, each a process of its own.

    scripts/bench.sh [--runs 3] [--records 2000000] [--only consume,gzip,…] [--schema] [--no-build]

    consume         read the topic through librdkafka's batch queue and drop it      (tests/bench/parts.rs)
    read            read the same records from plain files, one for each Kafka partition and hour
    gzip            the same, compressed at level 6 (flate2 with zlib-rs), one stream for each file, into nothing
    parquet         the same, decoded by arrow-json and encoded by parquet with zstd level 3 and row groups of 16 MiB of rows
    kcat | gzip -6  into one local file: the naive floor
    run gzip        siltstone run --drain to the S3 server as hourly gzip JSON, read back by tests/reader/check.py after each run
    run parquet     the same as Parquet with an inferred schema; with --schema also once more with a given one

Then for the same records as LTSV, as Avro and as Protocol Buffers (tests/proofs/recode.py), and for JSON with a transform in VRL, each from a topic
of its own:

    consume X       as above
    decode X        decoded from plain files in the cheapest way known, and encoded as Parquet; of `transform`: parsed, run through the same
                    program, written and compressed
    run X           siltstone run --drain: to Parquet with a given schema; of `transform` to gzip JSON

CPU is user + system of the process alone, not of broker or store, and the figure to compare; wall is contention. The last
line is `ratio gzip=… parquet=… ltsv=… avro=… protobuf=… transform=…`: median CPU of run ÷ (consume + codec), where codec is what works on plain
files, less what reading these takes.
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

from transformed import PROGRAM
from trial import LOGS, ROOT, Failed, Trial, drain, drop_topic, measured, produce, program, services, tail

RECODE, TRANSFORMED = (ROOT / "tests" / "proofs" / name for name in ("recode.py", "transformed.py"))
LEVEL = 6
ROW_GROUP_MIB = 16
DECODED_MIB = 8  # of a row group in payloads that do not repeat the names of fields
DEADLINE = 900
DECODE = {  # as in the configuration
    "ltsv": '{ type = "ltsv", types = { id = "int", time = "int", status = "int", bytes = "int", duration = "float", geo = "json" }, nulls = ["-"] }',
    "avro": '{ type = "avro", schema = "@FOLDER@/hit.avsc" }',
    "protobuf": '{ type = "protobuf", descriptors = "@FOLDER@/hit.pb", message = "web.Hit" }'}
SUFFIXES = {"ltsv": "ltsv", "avro": "avro", "protobuf": "pb"}


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
    """The topics, the plain files and every kind of run."""

    def __init__(self, args, parts):
        self.args, self.parts = args, parts
        self.brokers, self.topic = os.environ["KAFKA_BROKERS"], f"bench-{secrets.token_hex(4)}"
        self.temporary = tempfile.TemporaryDirectory(prefix="siltstone-bench-")
        self.folder = Path(self.temporary.name)
        self.kinds = {**self.json_kinds(), **self.transform_kinds()}
        for name in SUFFIXES:
            self.kinds.update(self.recoded_kinds(name))
        if args.only:
            self.kinds = {name: kind for name, kind in self.kinds.items() if name in args.only}
        self.files, self.bytes = {}, {}
        self.topics = [self.topic]
        self.make_json()
        for name in SUFFIXES:
            if any(kind.endswith(f" {name}") for kind in self.kinds):
                self.make_recoded(name)

    def json_kinds(self):
        kinds = {
            "consume": lambda: self.consume("json"),
            "read": lambda: self.file_part("json", "read", self.files["json"], "jsonl", says=f"bytes={self.bytes['json']}"),
            "gzip": lambda: self.file_part("json", "gzip", self.files["json"], LEVEL, says=f"bytes={self.bytes['json']} "),
            "parquet": lambda: self.file_part("json", "parquet", self.files["json"], ROW_GROUP_MIB, says=f"records={self.args.records} "),
            "kcat": self.kcat,
            "run gzip": lambda: self.run("gzip"),
            "run parquet": lambda: self.run("parquet")}
        if self.args.schema:
            kinds["run parquet-schema"] = lambda: self.run("parquet-schema")
        return kinds

    def transform_kinds(self):
        program_path = self.folder / "transform.vrl"
        program_path.write_text(PROGRAM)
        return {
            "decode transform": lambda: self.file_part(
                "json", "transform", self.files["json"], program_path, LEVEL, says=f"records={self.args.records} "),
            "run transform": lambda: self.run_transform(program_path)}

    def recoded_kinds(self, name):
        suffix, records = SUFFIXES[name], self.args.records
        return {
            f"consume {name}": lambda: self.consume(name),
            f"read {name}": lambda: self.file_part(name, "read", self.files[name], suffix, says="bytes="),
            f"decode {name}": lambda: self.file_part(name, "decode", suffix, self.files[name], DECODED_MIB, says=f"records={records} "),
            f"run {name}": lambda: self.run_decoded(name)}

    def make_json(self):
        self.files["json"] = self.folder / "json"
        command = [sys.executable, LOGS, "files", "--dir", self.files["json"], "--records", str(self.args.records)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        produce(self.brokers, self.topic, self.args.records)
        self.bytes["json"] = sum(path.stat().st_size for path in self.files["json"].iterdir())

    def make_recoded(self, name):
        self.files[name] = self.folder / name
        self.topics.append(f"{self.topic}-{name}")
        command = [sys.executable, RECODE, "--kind", name, "--brokers", self.brokers, "--topic", self.topics[-1], "--dir", self.files[name],
                   "--records", str(self.args.records)]
        subprocess.run(command, check=True, stdout=sys.stderr)

    def consume(self, name):
        topic = self.topic if name == "json" else f"{self.topic}-{name}"
        exact = f" bytes={self.bytes['json'] - self.args.records}" if name == "json" else " "
        return self.part("consume", self.brokers, topic, says=f"records={self.args.records}{exact}")

    def part(self, name, *arguments, says):
        log = self.folder / f"{name}.log"
        used = measured([self.parts, name, *arguments], log, DEADLINE)
        if used.code != 0 or not used.output.startswith(says):
            raise Failed(f"parts {name} ended with {used.code}, printed {used.output!r}, should begin with {says!r}\n{tail(log)}")
        return used, used.output.strip()

    def file_part(self, name, *command, says):
        """Each finds the files in the page cache: what "read" costs is subtracted from the others."""
        for path in self.files[name].iterdir():
            with path.open("rb") as file:
                while file.read(1 << 20):
                    pass
        return self.part(*command, says=says)

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
        return self.drained(trial, trial.write_config())

    def drained(self, trial, config):
        used = drain(trial, program(release=True), config, deadline=DEADLINE)
        found = trial.check(self.args.records)
        trial.clean()
        return used, " ".join(f"{name}={found[name]}" for name in ("records", "distinct", "objects", "bytes"))

    def run_decoded(self, name):
        """The same rows as those of JSON, so the same reader."""
        decode = DECODE[name].replace("@FOLDER@", str(self.files[name]))
        trial = Trial("bench", "s3", "parquet-schema", f"{self.topic}-{name}")
        return self.drained(trial, trial.write_config(archive=[f"decode = {decode}"]))

    def run_transform(self, program_path):
        trial = Trial("bench", "s3", "gzip", self.topic)
        config = trial.write_config(archive=[f"transform = {json.dumps(str(program_path))}"])
        used = drain(trial, program(release=True), config, deadline=DEADLINE)
        checked = subprocess.run([sys.executable, TRANSFORMED, trial.url, str(self.args.records)], capture_output=True, text=True)
        if checked.returncode != 0:
            raise Failed(checked.stderr.strip())
        trial.clean()
        return used, checked.stdout.strip()

    def clean(self):
        for topic in self.topics:
            drop_topic(self.brokers, topic)
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


RATIOS = {  # name -> what run is held against: consume, codec, and what of the codec is reading files
    "gzip": ("consume", "gzip", "read"), "parquet": ("consume", "parquet", "read"), "transform": ("consume", "decode transform", "read"),
    **{name: (f"consume {name}", f"decode {name}", f"read {name}") for name in SUFFIXES}}


def ratio(results, name):
    """CPU of run ÷ (consume + codec); None where one of them was not run."""
    if not {f"run {name}", *RATIOS[name]} <= set(results):
        return None
    cpu = {kind: statistics.median(used.cpu for used in runs) for kind, runs in results.items()}
    consume, codec, read = (cpu[kind] for kind in RATIOS[name])
    return cpu[f"run {name}"] / (consume + codec - read)


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
    shown = {name: ratio(results, name) for name in RATIOS}
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
