#!/usr/bin/env python3
"""Reads an archive back and tells whether it holds every record of scripts/logs.py exactly once, in its hour.

    $PYTHON tests/reader/check.py --url s3://bucket/prefix --format json --records 2000000 [--receipts] [--json FILE]

Independent of the archiver: the objects are listed and read with the makers' own clients, decoded with Python's gzip,
zstandard and pyarrow, for Parquet counted once more by DuckDB, and each record is compared with what was produced. The
arguments that decide the set (--records, --seed, --start, --hours, --partitions, --mixed, --broken) must be those of
producing. Exit 0 only if every id is there exactly once, unchanged, in its own hour's folder, in offset order within an
object, with records of one Kafka partition an object; and payloads that are not JSON exactly once among the dead letters,
each with an identity (topic, Kafka partition, offset, index) of its own, or with --format raw among the rows, in whatever
hour.
"""

import argparse
import base64
import gzip
import hashlib
import io
import json
import os
import re
import sys
import tempfile
import time
from array import array
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "scripts")]
from logs import Logs, topic_ends  # noqa: E402
from receipts import check_receipts  # noqa: E402
from stores import open_store  # noqa: E402

EXTENSIONS = {
    "json": re.compile(r".+\.json(\.gz|\.zst)?"), "raw": re.compile(r".+\.txt(\.gz|\.zst)?"), "parquet": re.compile(r".+\.parquet"),
    "avro": re.compile(r".+\.avro")}
HIVE = re.compile(r"(?:^|/)(dt=\d{4}-\d\d-\d\d/hr=\d\d)/[^/]+$")
FLUENTD = re.compile(r"(?:^|/)(\d{4})/(\d\d)/(\d\d)/(\d\d)/[^/]+$")
ID = re.compile(rb'\{"id":(\d+),')
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
WHOLE_ROW_EVERY = 10  # of Parquet and Avro rows, each Nth is compared in all columns, the others in id and time
UNKNOWN = "unknown"
IDENTITY = ("topic", "partition", "offset", "index")  # what no two dead letters may have in common


@dataclass
class Object:
    """What one object was found to hold."""

    key: str
    bytes: int = 0
    sha256: str = ""
    rows: int | None = None
    without_hour: int = 0
    ids: array = field(default_factory=lambda: array("q"))
    faults: Counter = field(default_factory=Counter)
    kafka_partitions: set = field(default_factory=set)
    identities: list = field(default_factory=list)  # of dead letters
    error: str | None = None


# ---- one object ------------------------------------------------------------------------------------------------------


def plain(key, data):
    """The decompressed bytes of a text object, as a file."""
    if key.endswith(".gz"):
        return io.BufferedReader(gzip.GzipFile(fileobj=io.BytesIO(data)), 1 << 20)
    if key.endswith(".zst"):
        import zstandard

        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True), 1 << 20)
    return io.BytesIO(data)


def lines(key, data):
    with plain(key, data) as file:
        for line in file:
            if not line.endswith(b"\n"):
                raise ValueError("the last line has no end")
            yield line[:-1]


def merged(rest, row):
    """`row` with the fields that an output put aside."""
    for name, value in rest.items():
        both = isinstance(value, dict) and isinstance(row.get(name), dict)
        row[name] = merged(value, row[name]) if both else value
    return row


class Reader:
    """Reads objects of one archive. Lives in a worker process."""

    def __init__(self, url, format_name, set_arguments, temporary):
        self.store, self.format, self.temporary = open_store(url), format_name, temporary
        self.logs = Logs.of(set_arguments)
        self.hours = {self.logs.window(hour): hour for hour in range(self.logs.hours)}

    def read(self, key, dead):
        found = Object(key)
        try:
            data = self.store.read(key)
            found.bytes, found.sha256 = len(data), hashlib.sha256(data).hexdigest()
            if dead:
                self._dead(found, data)
            elif self.format == "parquet":
                self._parquet(found, data)
            elif self.format == "avro":
                self._avro(found, data)
            else:
                self._text(found, data)
            found.rows = len(found.ids)
        except Exception as error:  # whatever a broken object makes a decoder raise
            found.error = f"{type(error).__name__}: {error}"
        return found

    def has_no_hour(self, number):
        """A raw row without a readable time: the rule is the Kafka timestamp, which is not known here."""
        return self.format == "raw" and self.logs.is_broken(number)

    def _text(self, found, data):
        hour, logs, last = self.hours.get(window_of(found.key)), self.logs, -1
        for line in lines(found.key, data):
            match = ID.match(line)
            number = int(match[1]) if match else -1
            if not 0 <= number < logs.records or line != logs.line(number):
                number = self._not_as_produced(found, line)
            last = self._count(found, number, hour, last)

    def _not_as_produced(self, found, line):
        """The id of a line that is not byte for byte what was produced, as it is with kept columns."""
        try:
            row = json.loads(line)
            number = row["id"]
            expected = json.loads(self.logs.line(number)) if 0 <= number < self.logs.records else None
        except (ValueError, TypeError, KeyError):
            found.faults["altered"] += 1
            return -1
        if expected is None or self.format == "raw" or any(row.get(name, UNKNOWN) != value for name, value in expected.items()):
            found.faults["altered"] += 1
        return number

    def _parquet(self, found, data):
        import pyarrow
        import pyarrow.parquet

        if self.temporary:
            path = Path(self.temporary, found.key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        hour, logs, last = self.hours.get(window_of(found.key)), self.logs, -1
        for batch in pyarrow.parquet.ParquetFile(io.BytesIO(data)).iter_batches(20_000):
            at = batch.schema.get_field_index("time")
            if pyarrow.types.is_timestamp(batch.schema.field(at).type):
                milliseconds = batch.column(at).cast(pyarrow.timestamp("ms", "UTC")).cast(pyarrow.int64())
                batch = batch.set_column(at, "time", milliseconds)
            ids, times = batch.column("id").to_pylist(), batch.column("time").to_pylist()
            for number, event_ms in zip(ids, times):
                known = isinstance(number, int) and 0 <= number < logs.records
                found.faults["altered"] += not known or event_ms != logs.event_ms(number)
                last = self._count(found, number if known else -1, hour, last)
            for row in batch.take(list(range(0, len(ids), WHOLE_ROW_EVERY))).to_pylist():
                rest = row.pop("_rest", None)
                row = merged(json.loads(rest), row) if rest else row
                if isinstance(row["id"], int) and 0 <= row["id"] < logs.records:
                    expected = json.loads(logs.line(row["id"]))
                    found.faults["altered"] += any(row.get(name, UNKNOWN) != value for name, value in expected.items())

    def _avro(self, found, data):
        import fastavro

        hour, logs, last = self.hours.get(window_of(found.key)), self.logs, -1
        for at, row in enumerate(fastavro.reader(io.BytesIO(data))):
            number = row["id"]
            known = isinstance(number, int) and 0 <= number < logs.records
            event_ms = row["time"]
            if isinstance(event_ms, datetime):
                event_ms = (event_ms - EPOCH) // timedelta(milliseconds=1)
            found.faults["altered"] += not known or event_ms != logs.event_ms(number)
            last = self._count(found, number if known else -1, hour, last)
            if known and at % WHOLE_ROW_EVERY == 0:
                rest = row.pop("_rest", None)
                row = merged(json.loads(rest), row) if rest else row
                expected = json.loads(logs.line(number))
                row["time"] = event_ms
                found.faults["altered"] += any(row.get(name, UNKNOWN) != value for name, value in expected.items())

    def _dead(self, found, data):
        for line in lines(found.key, data):
            letter = json.loads(line)
            found.identities.append(tuple(letter[part] for part in IDENTITY))
            payload = base64.b64decode(letter["value_base64"], validate=True)
            match = ID.match(payload)
            number = int(match[1]) if match else -1
            if not 0 <= number < self.logs.records or payload != self.logs.line(number):
                found.faults["altered"] += 1
                number = -1
            found.ids.append(number)
            if number >= 0:
                found.kafka_partitions.add(self.logs.partition(number))

    def _count(self, found, number, hour, last):
        found.ids.append(number)
        if 0 <= number < self.logs.records:
            right_hour, kafka_partition = self.logs.place(number)
            if self.has_no_hour(number):
                found.without_hour += 1
            else:
                found.faults["wrong_hour"] += right_hour != hour
            found.faults["disordered"] += number <= last
            found.kafka_partitions.add(kafka_partition)
        return number


READER = None


def start_worker(*arguments):
    global READER
    READER = Reader(*arguments)


def read_one(item):
    return READER.read(*item)


# ---- the whole archive -----------------------------------------------------------------------------------------------


def window_of(key):
    """The hour's folder of an object, in Hive's form; None where it is in none."""
    if match := HIVE.search(key):
        return match[1]
    if match := FLUENTD.search(key):
        return f"dt={match[1]}-{match[2]}-{match[3]}/hr={match[4]}"
    return None


def sort_out(sizes, args):
    """Keys of data, of dead letters, and of everything else that a reader of the topic's folders would see."""
    data, dead, other = [], [], []
    for key in sizes:
        segments = key.split("/")
        if args.topic and args.topic not in key:
            continue
        if "_dead" in segments:
            dead.append(key)
        elif any(segment.startswith(("_", ".")) for segment in segments):
            continue
        elif EXTENSIONS[args.format].fullmatch(segments[-1]):
            data.append(key)
        else:
            other.append(key)
    return data, dead, other


class Tally:
    """Counts ids over all objects."""

    def __init__(self, logs, objects, expects):
        self.counts = bytearray(logs.records)
        self.foreign = 0
        for found in objects:
            for number in found.ids:
                if number < 0 or number >= logs.records:
                    self.foreign += 1
                elif self.counts[number] < 255:
                    self.counts[number] += 1
        self.records = sum(len(found.ids) for found in objects)
        self.distinct = logs.records - self.counts.count(0)
        self.lost = [n for n, count in enumerate(self.counts) if count == 0 and expects(n)]
        self.duplicated = [n for n, count in enumerate(self.counts) if count > 1]
        self.unexpected = [n for n, count in enumerate(self.counts) if count and not expects(n)]

    def copies(self):
        return sum(self.counts[n] - 1 for n in self.duplicated)


def duckdb_counts(folder, hive):
    """What DuckDB reads in the Parquet files: records, distinct ids, records by folder."""
    import duckdb

    source = f"read_parquet('{folder}/**/*.parquet', hive_partitioning={str(hive).lower()}, hive_types_autocast=false)"
    with duckdb.connect() as connection:
        records, distinct = connection.execute(f"select count(*), count(distinct id) from {source}").fetchone()
        if not hive:
            return records, distinct, None
        rows = connection.execute(f"select 'dt=' || dt || '/hr=' || hr, count(*) from {source} group by 1").fetchall()
    return records, distinct, dict(rows)


def check(args):
    began = time.monotonic()
    logs, store = Logs.of(args), open_store(args.url)
    sizes = dict(store.list())
    data, dead, other = sort_out(sizes, args)
    with tempfile.TemporaryDirectory(prefix="siltstone-check-") as temporary:
        keep = temporary if args.format == "parquet" else None
        work = [(key, False) for key in data] + [(key, True) for key in dead]
        with ProcessPoolExecutor(args.jobs, initializer=start_worker, initargs=(args.url, args.format, args, keep)) as pool:
            objects = list(pool.map(read_one, work, chunksize=max(1, min(16, len(work) // (4 * args.jobs)))))
        result = weigh(args, logs, objects[: len(data)], objects[len(data) :])
        if keep and result["records"] and not result["unreadable"]:
            count_again(args, logs, result, temporary, all(HIVE.search(key) for key in data))
    if args.receipts:
        ends = topic_ends(args.brokers, args.topic) if args.brokers and args.topic else None
        by_key = {found.key: found for found in objects}
        for key in other:  # another output of the same archive: its rows are not read here
            by_key[key] = Object(key, sizes[key], hashlib.sha256(store.read(key)).hexdigest())
        wrong, found = check_receipts(store, sizes, by_key, args.records, ends, args.topic)
        result["wrong"] += wrong
        result.update(found)
    result["other_objects"] = len(other)
    result["seconds"] = round(time.monotonic() - began, 1)
    return result


def weigh(args, logs, data, dead):
    """The balance of what was read."""
    takes_all = args.format == "raw"
    tally = Tally(logs, data, lambda n: takes_all or not logs.is_broken(n))
    dead_tally = Tally(logs, dead, lambda n: not takes_all and logs.is_broken(n))
    faults = sum((found.faults for found in data + dead), Counter())
    identities = Counter(identity for found in dead for identity in found.identities)
    alike = {identity: count for identity, count in identities.items() if count > 1}
    hours = {logs.window(hour): [0, 0] for hour in range(logs.hours)}
    for number in range(logs.records):
        if not logs.is_broken(number):
            hours[logs.window(logs.hour(number))][0] += 1
    for found in data:
        in_hour = len(found.ids) - found.without_hour
        if in_hour:
            hours.setdefault(window_of(found.key) or "(no hour)", [0, 0])[1] += in_hour
    result = {
        "records": tally.records, "distinct": tally.distinct, "duplicated": tally.copies(), "lost": len(tally.lost),
        "wrong_hour": faults["wrong_hour"], "altered": faults["altered"], "disordered": faults["disordered"],
        "foreign": tally.foreign + dead_tally.foreign, "unexpected": len(tally.unexpected),
        "unreadable": sum(found.error is not None for found in data + dead),
        "mixed_objects": sum(len(found.kafka_partitions) > 1 for found in data + dead),
        "dead": dead_tally.records, "dead_duplicated": dead_tally.copies(), "dead_lost": len(dead_tally.lost),
        "dead_unexpected": len(dead_tally.unexpected), "dead_alike": sum(count - 1 for count in alike.values()),
        "objects": len(data), "bytes": sum(found.bytes for found in data), "dead_objects": len(dead),
        "hours": hours, "wrong": [],
    }
    result["wrong"] += [f"{found.key}: {found.error}" for found in data + dead if found.error]
    result["wrong"] += where(tally, "duplicated", data) + where(dead_tally, "duplicated", dead)
    result["wrong"] += [f"{count} dead letters are {dict(zip(IDENTITY, identity))}" for identity, count in list(alike.items())[:20]]
    result["wrong"] += [f"{found.key}: {dict(+found.faults)}" for found in data + dead if +found.faults]
    result["wrong"] += [f"lost: {number}, which belongs into {logs.window(logs.hour(number))} from Kafka partition {logs.partition(number)}"
                        for number in tally.lost[:20]]
    if args.list_ids:
        with open(args.list_ids, "w") as file:
            for kind in ("lost", "duplicated", "unexpected"):
                file.writelines(f"{kind} {number}\n" for number in getattr(tally, kind))
    return result


def where(tally, kind, objects):
    """Which objects hold the duplicated ids."""
    wanted = set(getattr(tally, kind))
    if not wanted:
        return []
    inside = ((found.key, wanted.intersection(found.ids)) for found in objects)
    return [f"{kind}: {key} holds {len(ids)} of them, such as {min(ids)}" for key, ids in inside if ids]


def count_again(args, logs, result, folder, hive):
    """DuckDB must count what pyarrow counted, and each hour what was produced in it."""
    records, distinct, hours = duckdb_counts(folder, hive)
    result["duckdb"] = {"records": records, "distinct": distinct}
    if (records, distinct) != (result["records"], result["distinct"]):
        result["wrong"].append(f"DuckDB reads {records} records and {distinct} ids, pyarrow {result['records']} and {result['distinct']}")
    expected = {window: counts[0] for window, counts in result["hours"].items() if counts[0]}
    if hours is not None and hours != expected:
        result["wrong"].append(f"DuckDB counts by hour {hours}, produced were {expected}")


FAULTS = ("duplicated", "lost", "wrong_hour", "altered", "disordered", "foreign", "unexpected", "unreadable", "mixed_objects",
          "dead_duplicated", "dead_lost", "dead_unexpected", "dead_alike")


def is_right(result):
    right_hours = all(expected == found for expected, found in result["hours"].values())
    return right_hours and not result["wrong"] and not any(result[fault] for fault in FAULTS)


def show(result, file):
    print(f"{'hour':24} {'produced':>10} {'archived':>10}", file=file)
    for window, (expected, found) in sorted(result["hours"].items()):
        print(f"{window:24} {expected:10} {found:10}{'' if expected == found else '   <-- differs'}", file=file)
    for sentence in result["wrong"][:40]:
        print(f"wrong: {sentence}", file=file)
    if len(result["wrong"]) > 40:
        print(f"wrong: and {len(result['wrong']) - 40} more", file=file)
    names = ("records", "distinct", "duplicated", "lost", "wrong_hour", "altered", "dead", "objects", "bytes", "receipts", "seconds")
    extra = [fault for fault in FAULTS if fault not in names and result[fault]]
    print(" ".join(["right" if is_right(result) else "WRONG"] + [f"{name}={result[name]}" for name in [*names, *extra] if name in result]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--format", choices=sorted(EXTENSIONS), required=True)
    parser.add_argument("--topic", help="objects without it in their path are not looked at")
    parser.add_argument("--receipts", action="store_true", help="check the receipts too")
    parser.add_argument("--brokers", help="with --receipts and --topic: the receipts must end where the topic ends")
    parser.add_argument("--list-ids", metavar="FILE", help="write lost, duplicated and unexpected ids")
    parser.add_argument("--json", metavar="FILE", help="write the result")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 4))
    Logs.add_arguments(parser)
    args = parser.parse_args()
    result = check(args)
    show(result, sys.stdout)
    if args.json:
        Path(args.json).write_text(json.dumps(result))
    sys.exit(0 if is_right(result) else 1)


if __name__ == "__main__":
    main()
