#!/usr/bin/env python3
"""Proves the judges of pipelines with a registry: what is right must pass, and every way of being wrong must be seen.

    $PYTHON tests/proofs/test_pipelines.py [NAME...]

Without any service: archives are made here as they should be, and each case damages one thing.
"""

import base64
import gzip
import io
import json
import sys
import unittest
from collections import defaultdict
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent)]
import pyarrow  # noqa: E402
from pyarrow import parquet  # noqa: E402

from pipeline import avro, protobuf  # noqa: E402
from pipeline.base import PARTITIONS, Run  # noqa: E402
from trial import Failed  # noqa: E402

RECORDS = 3_200
TEXT, LONG, DOUBLE, INSTANT = pyarrow.string(), pyarrow.int64(), pyarrow.float64(), pyarrow.timestamp("ms", "UTC")
COLUMNS = {
    "id": LONG, "at": INSTANT, "host": TEXT, "size": LONG, "user": TEXT, "level": TEXT, "tags": pyarrow.list_(TEXT), "legacy": TEXT, "region": TEXT,
    "request": pyarrow.struct([("path", TEXT), ("took", DOUBLE), ("secure", pyarrow.bool_())]), "score": DOUBLE, "labels": pyarrow.map_(TEXT, TEXT),
    "created": INSTANT, "customer": TEXT, "state": TEXT, "note": TEXT, "token": pyarrow.binary(), "coupon": TEXT, "tax_cents": LONG, "channel": TEXT,
    "lines": pyarrow.list_(pyarrow.struct([("sku", TEXT), ("count", LONG), ("price", DOUBLE)])), "_kafka_partition": LONG, "_kafka_offset": LONG}


class Memory(Run):
    """A run of which only the objects exist."""

    def __init__(self, pipeline):
        self.pipeline, self.objects = pipeline, {}

    def keys(self):
        return [key for key in self.objects if not key.startswith("_dead/")], [key for key in self.objects if key.startswith("_dead/")]

    def read(self, key):
        return self.objects[key]

    def balance(self, records=None):
        return {}

    def put_rows(self, key, rows):
        columns = {name: COLUMNS[name] for name in rows[0]}
        out = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(rows, pyarrow.schema(list(columns.items()))), out)
        self.objects[key] = out.getvalue()

    def put_dead(self, payloads):
        lines = [json.dumps({"value_base64": base64.b64encode(payload).decode(), "stage": "decode", "reason": "broken"}) for payload in payloads]
        self.objects["_dead/x.json.gz"] = gzip.compress("\n".join(lines).encode())

    def change_rows(self, key, change):
        rows = parquet.read_table(io.BytesIO(self.objects[key])).to_pylist(maps_as_pydicts="strict")
        change(rows)
        self.put_rows(key, rows)


def batches(pipeline, cut_at=()):
    """(Kafka partition, version, numbers) of each batch: it ends where a newer version comes, and behind the numbers of `cut_at`."""
    for partition in range(PARTITIONS):
        version, numbers = 0, []
        for number in range(partition, pipeline.records, PARTITIONS):
            if not pipeline.is_broken(number) and pipeline.version(number) > version or number in cut_at:
                if numbers:
                    yield partition, version, numbers
                version, numbers = max(version, pipeline.version(number)), []
            numbers.append(number)
        yield partition, version, numbers


def placed(number, row):
    return {**row, "_kafka_partition": number % PARTITIONS, "_kafka_offset": number // PARTITIONS}


def made_avro(cut_at=()):
    pipeline = avro.Avro(RECORDS)
    pipeline.ids, pipeline.stranger = [11, 12, 13, 14, 15], 16
    run = Memory(pipeline)
    for partition, version, numbers in batches(pipeline, cut_at):
        rows = [placed(number, pipeline.resolved(number, version)) for number in numbers if not pipeline.is_broken(number)]
        if rows:
            run.put_rows(f"rows/dt=2025-11-21/hr=03/{partition}-{numbers[0]}.parquet", rows)
    run.put_dead(pipeline.broken().elements())
    return run


def made_protobuf():
    pipeline = protobuf.Protobuf(RECORDS)
    pipeline.ids, pipeline.is_late = [11, 12, 52], True
    pipeline.check_replay = lambda run, rows: {}
    run = Memory(pipeline)
    for partition, version, numbers in batches(pipeline):
        folders = defaultdict(list)
        for number in numbers:
            if not pipeline.is_broken(number):
                folders[pipeline.at(number).strftime("orders/dt=%Y-%m-%d/hr=%H")].append(placed(number, pipeline.values(number, version)))
        for folder, rows in folders.items():
            run.put_rows(f"{folder}/{partition}-{numbers[0]}.parquet", rows)
    run.put_dead(pipeline.broken().elements())
    payloads = (pipeline.payload(number) for number in range(RECORDS))
    run.objects["raw/dt=2025-11-21/0.gz"] = gzip.compress(b"".join(len(payload).to_bytes(4, "big") + payload for payload in payloads))
    return run


def twice(rows):
    rows.append(dict(rows[0]))


def other(name, value):
    def change(rows):
        rows[-1][name] = value
    return change


class Judges(unittest.TestCase):
    def sees(self, run, what):
        with self.assertRaisesRegex(Failed, what):
            run.pipeline.check(run)

    def damaged(self, make, prefix, change, what):
        run = make()
        run.change_rows(next(key for key in run.objects if key.startswith(prefix)), change)
        self.sees(run, what)

    def test_a_right_avro_archive(self):
        run = made_avro()
        found = run.pipeline.check(run)
        self.assertEqual((found["rows"], found["dead"]), (RECORDS * 99 // 100, RECORDS // 100))
        self.assertEqual(found["objects"], PARTITIONS * 5)

    def test_every_version_and_every_way_to_be_broken(self):
        pipeline = made_avro().pipeline
        self.assertEqual({pipeline.version(number) for number in range(RECORDS)}, {1, 2, 3, 4, 5})
        kinds = {(number % PARTITIONS, pipeline.kind(number, 7)) for number in range(RECORDS) if pipeline.is_broken(number)}
        self.assertEqual(len(kinds), 7 * PARTITIONS)

    def test_wrong_avro_archives(self):
        self.damaged(made_avro, "rows/", twice, "twice")
        self.damaged(made_avro, "rows/", list.pop, "missing")
        self.damaged(made_avro, "rows/", other("host", "elsewhere"), "is not")
        self.damaged(made_avro, "rows/", other("_kafka_partition", 3), "Kafka partitions")

    def test_an_alternation_that_makes_objects(self):
        self.sees(made_avro(cut_at=range(2_600, 3_000, 20)), "at most 5 were expected")

    def test_rows_of_a_newer_version_than_their_object(self):
        run = made_avro()
        first, last = [key for key in run.objects if key.startswith("rows/")][0], [key for key in run.objects if key.startswith("rows/")][4]
        newest = parquet.read_table(io.BytesIO(run.objects[last])).to_pylist()[-1]
        place = {name: newest[name] for name in ("_kafka_partition", "_kafka_offset")}
        run.change_rows(first, lambda rows: rows.append({**rows[0], **place}))
        self.sees(run, "columns of version 1")

    def test_a_right_protobuf_archive(self):
        run = made_protobuf()
        found = run.pipeline.check(run)
        self.assertEqual((found["rows"], found["dead"]), (RECORDS * 99 // 100, RECORDS // 100))

    def test_wrong_protobuf_archives(self):
        self.damaged(made_protobuf, "orders/", twice, "twice")
        self.damaged(made_protobuf, "orders/", list.pop, "missing")
        self.damaged(made_protobuf, "orders/", other("token", b""), "is not")

    def test_dead_letters_that_are_lost_or_changed(self):
        for make in (made_avro, made_protobuf):
            run = make()
            letters = list(run.pipeline.broken().elements())
            run.put_dead(letters[1:])
            self.sees(run, "dead letters: 1 are missing")
            run.put_dead([*letters[1:], letters[0] + b"x"])
            self.sees(run, "dead letters: 1 are missing.* 1 are too many")

    def test_raw_payloads_that_are_lost(self):
        run = made_protobuf()
        data = gzip.decompress(run.objects["raw/dt=2025-11-21/0.gz"])
        run.objects["raw/dt=2025-11-21/0.gz"] = gzip.compress(data[4 + int.from_bytes(data[:4], "big") :])
        self.sees(run, "raw payloads: 1 are missing")

    def test_a_replay_brings_the_third_version_once(self):
        run = made_protobuf()
        run.pipeline.is_late = False
        late = [number for number in range(RECORDS) if run.pipeline.is_of_third(number)]
        self.assertEqual({number % PARTITIONS for number in late}, set(range(PARTITIONS)))
        keys = lambda: run.keys()[0]  # noqa: E731
        with self.assertRaisesRegex(Failed, f"{len(late)} of"):
            run.pipeline.check_rows(run, keys())
        for number in late:
            folder = run.pipeline.at(number).strftime("orders/dt=%Y-%m-%d/hr=%H")
            run.put_rows(f"{folder}/replay-{number}.parquet", [placed(number, run.pipeline.values(number, 3))])
        self.assertEqual(run.pipeline.check_rows(run, keys()), RECORDS - len(run.pipeline.broken()))
        run.put_rows(f"{folder}/again-{number}.parquet", [placed(number, run.pipeline.values(number, 3))])
        with self.assertRaisesRegex(Failed, "twice"):
            run.pipeline.check_rows(run, keys())


if __name__ == "__main__":
    unittest.main()
