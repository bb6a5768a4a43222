"""`siltstone verify` over a large archive made up in a local folder: how long it takes, how much memory, and that it finds
exactly what is wrong.

Makes an archive of one topic as `run` leaves it (claims, receipts, objects, layout), of 1,000,000 objects and 100,000 receipts in 20 Kafka
partitions if not told otherwise, and a 21st partition that `siltstone compact` then compacts. Verifies it clean, and once more when `siltstone
fold` has folded what can be folded. Plants 20 faults of every kind that a listing can tell and verifies it again; then 20 of each kind that only
bytes tell, in one Kafka partition, and verifies that with `--deep`. Each run is `siltstone verify --json` under `time -v`. Fails where another set of
faults is found, where a run takes more than 200 MiB, or one over the whole archive more than 2 minutes. What only Kafka can tell (beyond_log,
topic_id, count) is planted in the tests with Kafka. Removes what it made.
"""

import argparse
import collections
import datetime
import gzip
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOPIC = "t"
BATCH = 1_000
START = datetime.datetime(2025, 11, 1, tzinfo=datetime.timezone.utc)
SECONDS_MAX = 120
MIB_MAX = 200
CONTENT = gzip.compress(b"{}\n", mtime=0)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "{topic}+{partition:05}+{first:020}-{end:020}"


def place(url, path):
    return {"path": path, "name": NAME, "zone": "UTC", "destinations": [url]}


def layout(url):
    """A stored layout: its text, whose SHA-256 is its fingerprint."""
    value = {
        "version": 1,
        "code": {"rows": 1, "tzdata": "2026a"},
        "archive": TOPIC,
        "generation": 1,
        "decode": {"type": "json", "validate": False},
        "timestamp": {"source": "kafka", "format": "auto", "zone": "UTC", "fallback": "kafka"},
        "tombstones": "keep",
        "outputs": [
            {
                "name": "json",
                "format": {"type": "json", "compression": {"codec": "gzip", "level": 6}},
                "keep": None,
                "place": place(url, "{topic}/dt=%Y-%m-%d/hr=%H"),
            }
        ],
        "dead_letters": {"place": place(url, "_dead/{topic}/dt=%Y-%m-%d")},
    }
    text = json.dumps(value, separators=(",", ":"))
    return text, hashlib.sha256(text.encode()).hexdigest()[:32]


def write(path, data):
    """Without a sync: nobody needs it after a power cut."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.write(file, data)
    os.close(file)


class Archive:
    """Names and documents. Batch n of a Kafka partition has objects in the hours n // 10 and behind."""

    def __init__(self, root, partitions, batches, windows):
        self.root, self.partitions, self.batches, self.windows = str(root), partitions, batches, windows
        # Batches of one Kafka partition more, which is compacted.
        self.compacted = min(batches, 400)
        self.url = f"file://{root}"
        self.layout, self.fingerprint = layout(self.url)

    def folder(self, hour):
        return (START + datetime.timedelta(hours=hour)).strftime(f"{TOPIC}/dt=%Y-%m-%d/hr=%H")

    def name(self, partition, first, end):
        return f"{TOPIC}+{partition:05}+{first:020}-{end:020}.json.gz"

    def key(self, partition, number, window, end=None):
        first = number * BATCH
        return f"{self.folder(number // 10 + window)}/{self.name(partition, first, end or first + BATCH)}"

    def document(self, partition, number, ending):
        return f"{self.root}/_siltstone/receipts/v1/{TOPIC}/{partition:05}/{number * BATCH:020}.{ending}"

    def receipt(self, partition, number):
        objects = []
        for window in range(self.windows):
            key = self.key(partition, number, window)
            start = START + datetime.timedelta(hours=number // 10 + window)
            start_ms = int(start.timestamp() * 1_000)
            objects.append(
                {
                    "output": "json", "destination": self.url, "key": key, "folder": key.rsplit("/", 1)[0],
                    "records": 1, "rows": 1, "bytes": len(CONTENT), "sha256": SHA256,
                    "event_min_ms": start_ms, "event_max_ms": start_ms + 3_599_999,
                }
            )  # fmt: skip
        balance = {"archived": self.windows, "rows": self.windows, "dead_lettered": 0}
        first = number * BATCH
        return {
            "version": 1, "topic": TOPIC, "partition": partition, "first": first, "end": first + BATCH, "cluster_id": "c",
            "archive": TOPIC, "generation": 1, "fingerprint": self.fingerprint, "writer": "0.1.0", "reason": "age",
            "written_ms": int(START.timestamp() * 1_000),
            "balance": {"consumed": self.windows, "outputs": {"json": balance}}, "objects": objects,
        }  # fmt: skip

    def claim(self, receipt):
        names = ("topic", "partition", "first", "end", "fingerprint", "generation")
        keys = [{name: object[name] for name in ("output", "destination", "key")} for object in receipt["objects"]]
        return {"version": 1, "spool_bytes": 1, "keys": keys} | {name: receipt[name] for name in names}

    def put_receipt(self, receipt, partition, number):
        write(self.document(partition, number, "json"), json.dumps(receipt).encode())

    def make_folders(self):
        for hour in range(self.batches // 10 + self.windows + 1):
            os.makedirs(f"{self.root}/{self.folder(hour)}", exist_ok=True)
        for partition in range(self.partitions + 1):
            os.makedirs(os.path.dirname(self.document(partition, 0, "json")))
        os.makedirs(f"{self.root}/_siltstone/layouts")
        write(f"{self.root}/_siltstone/layouts/{self.fingerprint}.json", self.layout.encode())
        identity = {"format": 1, "cluster_id": "c", "group": "siltstone"}
        write(f"{self.root}/_siltstone/archive.json", json.dumps(identity).encode())

    def fill(self, partition):
        for number in range(self.batches if partition < self.partitions else self.compacted):
            receipt = self.receipt(partition, number)
            write(self.document(partition, number, "claim"), json.dumps(self.claim(receipt)).encode())
            self.put_receipt(receipt, partition, number)
            for object in receipt["objects"]:
                write(f"{self.root}/{object['key']}", CONTENT)


class Faults:
    """Plants faults, each in a batch of its own, and remembers what must be told."""

    def __init__(self, archive, partitions, compacted=()):
        self.archive, self.partitions, self.expected = archive, partitions, collections.Counter()
        self.compacted, self.planted, self.taken = list(compacted), collections.Counter(), set()

    def next(self, behind_folds):
        """A Kafka partition, and the number of a batch with good neighbours; what is in a fold cannot be altered."""
        count = self.planted[behind_folds]
        self.planted[behind_folds] += 1
        partition = self.partitions[count % len(self.partitions)]
        step = 4 * (count // len(self.partitions))
        number = self.archive.batches - 4 - step if behind_folds else 1 + step
        for taken in range(number - 1, number + 3):
            if not 0 <= taken < self.archive.batches or (partition, taken) in self.taken:
                sys.exit(f"{self.archive.batches} batches in a Kafka partition are too few for so many faults")
        self.taken.update((partition, taken) for taken in range(number, number + 2))
        return partition, number

    def told(self, kind, partition, first):
        self.expected[kind, partition, first] += 1

    def path(self, key):
        return f"{self.archive.root}/{key}"

    def plant(self, kind):
        if kind == "returned":
            self.planted[kind] += 1
            key, first, content = self.compacted[7 * self.planted[kind]]
            write(self.path(key), content)
            self.told(kind, self.archive.partitions, first)
            return
        partition, number = self.next(behind_folds=kind not in ("missing", "size", "doubled", "unvouched", "checksum"))
        archive, first = self.archive, number * BATCH
        receipt = archive.receipt(partition, number)
        key = receipt["objects"][0]["key"]
        if kind == "gap":
            for object in receipt["objects"]:
                os.remove(self.path(object["key"]))
            os.remove(archive.document(partition, number, "json"))
            os.remove(archive.document(partition, number, "claim"))
        elif kind == "overlap":
            first += 10
            other = receipt | {"first": first, "end": first + 10, "objects": []}
            other["balance"] = {"consumed": 0, "outputs": {"json": {"archived": 0, "rows": 0}}}
            path = archive.document(partition, number, "json").replace(f"{number * BATCH:020}", f"{first:020}")
            write(path, json.dumps(other).encode())
        elif kind == "missing":
            os.remove(self.path(key))
        elif kind == "size":
            write(self.path(key), CONTENT + b"x")
        elif kind == "doubled":
            write(self.path(archive.key(partition, number, 0, end=first + BATCH + 7)), CONTENT)
        elif kind == "named twice":
            kind, behind = "doubled", archive.receipt(partition, number + 1)
            behind["objects"].append(receipt["objects"][0] | {"output": "dead_letters"})
            archive.put_receipt(behind, partition, number + 1)
            first += BATCH
        elif kind == "unvouched":
            first += 33
            write(f"{self.path(key).rsplit('/', 1)[0]}/{archive.name(partition, first, first + 1)}", CONTENT)
        elif kind == "unbalanced":
            receipt["balance"]["consumed"] += 1
            archive.put_receipt(receipt, partition, number)
        elif kind == "unreadable":
            write(archive.document(partition, number, "json"), b'{"version":1,')
        elif kind == "unfinished":
            os.remove(archive.document(partition, number, "json"))
        elif kind == "unreached":
            # Told once for each destination and Kafka partition.
            self.planted[kind] += 1
            copy = receipt["objects"][0] | {"destination": f"s3://elsewhere-{self.planted[kind]}", "output": "dead_letters"}
            receipt["objects"].append(copy)
            archive.put_receipt(receipt, partition, number)
        elif kind == "checksum":
            write(self.path(key), CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
        elif kind == "rows":
            receipt["objects"][0] |= {"rows": 2, "records": 2}
            receipt["balance"] = {"consumed": archive.windows + 1}
            receipt["balance"]["outputs"] = {"json": {"archived": archive.windows + 1, "rows": archive.windows + 1}}
            archive.put_receipt(receipt, partition, number)
        else:
            raise ValueError(kind)
        self.told(kind, partition, first)


LISTED = [
    "gap", "overlap", "missing", "size", "doubled", "named twice", "unvouched", "unbalanced", "unreadable", "unfinished",
    "unreached", "returned",
]  # fmt: skip
READ = ["checksum", "rows"]
OF_EACH = 20


def verify(binary, config, arguments):
    """Findings, summary, seconds, MiB."""
    command = ["/usr/bin/time", "-v", str(binary), "verify", "-c", str(config), "--json", *arguments]
    began = time.monotonic()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    if ended.returncode not in (0, 8):
        sys.exit(f"verify ended with {ended.returncode}:\n{ended.stderr}")
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    found = re.search(r"Maximum resident set size \(kbytes\): (\d+)", ended.stderr)
    notes = [line for line in lines if line["kind"] == "note"]
    if notes:
        sys.exit(f"unexpected notes: {notes[:3]}")
    findings = [line for line in lines[:-1] if line["kind"] != "note"]
    return findings, lines[-1], seconds, int(found[1]) / 1024


def siltstone(binary, config, *arguments):
    """A command that must end well."""
    ended = subprocess.run([str(binary), arguments[0], "-c", str(config), "--json", *arguments[1:]], capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        sys.exit(f"{arguments[0]} ended with {ended.returncode}:\n{ended.stderr}")
    return [json.loads(line) for line in ended.stdout.splitlines()]


def compare(findings, expected):
    """Whether these were told, and nothing else. One that names a destination that is not there is told of the Kafka partition."""
    found = collections.Counter((line["kind"], line["partition"], line["first"]) for line in findings)
    for what, difference in (("not found", expected - found), ("not planted", found - expected)):
        for kind, partition, first in difference:
            print(f"FAIL  {what}: {kind} of {TOPIC}/{partition} at {first}")
    return found == expected


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--receipts", type=int, default=100_000, help="of 20 Kafka partitions")
    parser.add_argument("--windows", type=int, default=10, help="objects of each")
    parser.add_argument("--binary", type=Path, help="instead of a release build of this tree")
    parser.add_argument("--dir", type=Path, help="where the archive is made; a temporary folder if not given")
    arguments = parser.parse_args()
    binary = arguments.binary
    if binary is None:
        subprocess.run(["cargo", "build", "--release", "--bin", "siltstone"], cwd=ROOT, check=True)
        binary = ROOT / "target/release/siltstone"
    folder = Path(tempfile.mkdtemp(prefix="siltstone-million-", dir=arguments.dir))
    try:
        good = prove(binary, folder, arguments.receipts // 20, arguments.windows)
    finally:
        shutil.rmtree(folder)
    sys.exit(0 if good else 1)


def compact(binary, config, archive):
    """Compacts the last Kafka partition; gives what was replaced: keys, first offsets, bytes."""
    steps = siltstone(binary, config, "compact", "--before", "1d", "--min-age", "0s", "--partition", str(archive.partitions))
    replaced = []
    for number in range(archive.compacted):
        for object in archive.receipt(archive.partitions, number)["objects"]:
            if not os.path.exists(f"{archive.root}/{object['key']}"):
                replaced.append((object["key"], number * BATCH, CONTENT))
    print(f"compacted: {steps[-1]['inputs']} objects became {steps[-1]['objects']}", flush=True)
    assert len(replaced) == steps[-1]["inputs"] > 8 * OF_EACH, "what a compaction replaced is deleted"
    return replaced, steps[-1]["inputs"] - steps[-1]["objects"]


def prove(binary, folder, batches, windows):
    archive = Archive(folder / "archive", 20, batches, windows)
    began = time.monotonic()
    archive.make_folders()
    with multiprocessing.Pool(2) as pool:
        pool.map(archive.fill, range(archive.partitions + 1), chunksize=1)
    objects = (archive.partitions * batches + archive.compacted) * windows
    print(f"made {objects} objects and {archive.partitions * batches + archive.compacted} receipts in {time.monotonic() - began:.0f} s", flush=True)
    config = folder / "siltstone.toml"
    config.write_text(
        f'[kafka]\nbrokers = "127.0.0.1:1"\ngroup = "siltstone"\n[destinations.main]\nurl = "{archive.url}"\n'
        f'[spool]\ndir = "{folder}/spool"\n[[archive]]\nname = "{TOPIC}"\ntopics = ["{TOPIC}"]\n'
    )
    replaced, fewer = compact(binary, config, archive)
    good = True

    def run(what, expected, arguments=(), listed=None):
        nonlocal good
        findings, summary, seconds, mib = verify(binary, config, list(arguments))
        good &= compare(findings, expected) and listed in (None, summary["listed"])
        counts = f"{summary['listed']} listed, {summary['receipts']} receipts, {summary['read_back']} read back, {summary['passes']} passes"
        print(f"{what}: {counts}, {len(findings)} findings of {expected.total()}, {seconds:.1f} s, {mib:.0f} MiB", flush=True)
        if mib > MIB_MAX or (listed is not None and seconds > SECONDS_MAX):
            print(f"FAIL  at most {SECONDS_MAX} s and {MIB_MAX} MiB are allowed")
            good = False
        return summary["listed"]

    listed = run("clean", collections.Counter(), listed=objects - fewer)
    folds = siltstone(binary, config, "fold", "--min-age", "0s")
    folded = sum(of.get("receipts", 0) for of in folds)
    print(f"folded: {folded} receipts", flush=True)
    # A thousand each, and the newest thousand of each Kafka partition stay.
    if folded != 20 * 1_000 * max(0, (batches - 1_000) // 1_000):
        print("FAIL  that is not what was to be folded")
        good = False
    run("clean, folded", collections.Counter(), listed=listed)
    faults = Faults(archive, list(range(19)), replaced)
    for kind in LISTED * OF_EACH:
        faults.plant(kind)
    # As many objects more as came than went.
    findings = faults.expected
    changed = sum(findings[of] * {"missing": -1, "gap": -windows, "unvouched": 1, "returned": 1}.get(of[0], 0) for of in findings)
    run(f"{OF_EACH} faults of each kind", findings, listed=listed + changed + OF_EACH)
    # What only bytes tell, in the last whole Kafka partition alone.
    faults = Faults(archive, [19])
    for kind in READ * OF_EACH:
        faults.plant(kind)
    run("--deep, one Kafka partition", faults.expected, ["--deep", "--partition", "19"])
    return good


if __name__ == "__main__":
    main()
