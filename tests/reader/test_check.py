#!/usr/bin/env python3
"""Proves the reader: what is right must pass, and every way of being wrong must be seen and named.

    $PYTHON tests/reader/test_check.py [NAME...]

Archives are made by hand in a local folder, two batches a Kafka partition, with receipts as the archiver writes them;
each case damages one thing.
"""

import base64
import gzip
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import unittest
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "scripts")]
import check  # noqa: E402
import receipts  # noqa: E402
from logs import Logs  # noqa: E402

RECORDS, TOPIC = 4000, "access"


def avro_record(name, rows):
    """The Avro schema of objects, all fields nullable."""
    values = {}
    for row in rows:
        for field, value in row.items():
            values.setdefault(field, []).append(value)
    fields = []
    for field, found in values.items():
        found = [value for value in found if value is not None]
        kinds = {bool: "boolean", int: "long", float: "double", str: "string"}
        kind = avro_record(f"{name}_{field}", found) if isinstance(found[0], dict) else kinds[type(found[0])]
        fields.append({"name": field, "type": ["null", kind], "default": None})
    return {"type": "record", "name": name, "fields": fields}


class Archive:
    """A right archive, as files."""

    def __init__(self, folder, format_name, broken=0.0):
        self.folder, self.format = Path(folder), format_name
        self.logs = Logs(RECORDS, broken=broken)
        self.batches, self.rows, self.dead, self.coordinates = {}, {}, {}, {}
        offsets = defaultdict(list)
        for number in range(RECORDS):
            partition = self.logs.partition(number)
            self.coordinates[number] = {"topic": TOPIC, "partition": partition, "offset": len(offsets[partition]), "index": 0}
            offsets[partition].append(number)
        for partition, numbers in offsets.items():
            middle = len(numbers) // 2
            for first, end in ((0, middle), (middle, len(numbers))):
                self._batch(partition, first, end, numbers[first:end])

    def _batch(self, partition, first, end, numbers):
        keys = set()
        for number in numbers:
            name = f"{TOPIC}+{partition:05}+{first:020}-{end:020}"
            if self.logs.is_broken(number) and self.format != "raw":
                key = f"_dead/{TOPIC}/dt=2025-11-21/{name}.json.gz"
                self.dead.setdefault(key, []).append(number)
            else:
                window = "dt=2026-01-01/hr=07" if self.logs.is_broken(number) else self.logs.window(self.logs.hour(number))
                key = f"{TOPIC}/{window}/{name}.{self.extension()}"
                self.rows.setdefault(key, []).append(number)
            keys.add(key)
        self.batches[partition, first] = (end, sorted(keys))

    def extension(self):
        return {"json": "json.gz", "json.zst": "json.zst", "raw": "txt.gz", "parquet": "parquet", "avro": "avro"}[self.format]

    def encode(self, numbers):
        lines = [self.logs.line(number) for number in numbers]
        if self.format == "parquet":
            import pyarrow
            import pyarrow.parquet

            out = io.BytesIO()
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([json.loads(line) for line in lines]), out)
            return out.getvalue()
        if self.format == "avro":
            import fastavro

            rows = [json.loads(line) for line in lines]
            fastavro.writer(out := io.BytesIO(), avro_record("row", rows), rows, codec="deflate")
            return out.getvalue()
        return self.compress(b"".join(line + b"\n" for line in lines))

    def compress(self, text):
        if self.format == "json.zst":
            import zstandard

            half = len(text) // 2  # two frames, as the archiver's blocks
            return b"".join(zstandard.ZstdCompressor().compress(part) for part in (text[:half], text[half:]))
        return gzip.compress(text, mtime=0)

    def dead_letters(self, key, numbers):
        payloads = ((n, base64.b64encode(self.logs.line(n)).decode()) for n in numbers)
        entries = (self.coordinates[n] | {"value_base64": payload, "stage": "decode"} for n, payload in payloads)
        return gzip.compress(b"".join(json.dumps(entry).encode() + b"\n" for entry in entries), mtime=0)

    def write(self, receipts=True):
        for key, numbers in self.rows.items():
            self.put(key, self.encode(numbers))
        for key, numbers in self.dead.items():
            self.put(key, self.dead_letters(key, numbers))
        if receipts:
            self.write_receipts()
        return self

    def write_receipts(self):
        for (partition, first), (end, keys) in self.batches.items():
            objects = []
            for key in keys:
                data = (self.folder / key).read_bytes()
                rows = len((self.rows | self.dead)[key])
                output = "dead_letters" if key in self.dead else "json"
                objects.append({"output": output, "destination": "main", "key": key, "folder": key.rpartition("/")[0], "rows": rows,
                                "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
            dead = sum(entry["rows"] for entry in objects if entry["output"] == "dead_letters")
            counts = {"archived": end - first - dead, "rows": end - first - dead, "dead_lettered": dead}
            balance = {"consumed": end - first, "outputs": {"json": counts}}
            receipt = {"topic": TOPIC, "partition": partition, "first": first, "end": end, "balance": balance, "objects": objects}
            self.put(self.receipt_key(partition, first), json.dumps(receipt).encode())
            self.put(self.receipt_key(partition, first, "claim"), b"{}")

    @staticmethod
    def receipt_key(partition, first, kind="json"):
        return f"_siltstone/receipts/v1/{TOPIC}/{partition:05}/{first:020}.{kind}"

    def put(self, key, data):
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def change_receipt(self, partition, first, change):
        path = self.folder / self.receipt_key(partition, first)
        receipt = json.loads(path.read_bytes())
        change(receipt)
        path.write_text(json.dumps(receipt))


class Case(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory(prefix="siltstone-reader-")
        self.addCleanup(self.temporary.cleanup)
        self.folder = Path(self.temporary.name, "archive")
        self.folder.mkdir()

    def check(self, archive, *options):
        """Runs the reader as its users do; gives exit code, result and output."""
        out = Path(self.temporary.name, "result.json")
        name = archive.format.split(".")[0]
        command = [sys.executable, HERE / "check.py", "--url", f"file://{self.folder}", "--format", name, "--records", str(RECORDS),
                   "--json", out, *options]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120)
        self.assertTrue(out.exists(), run.stdout + run.stderr)
        return run.returncode, json.loads(out.read_text()), run.stdout

    def assert_right(self, archive, *options):
        code, result, output = self.check(archive, *options)
        self.assertEqual((code, result["distinct"], result["wrong"]), (0, result["records"], []), output)
        return result

    def assert_wrong(self, archive, *options, says="", **expected):
        code, result, output = self.check(archive, *options)
        self.assertEqual(code, 1, output)
        self.assertEqual({name: result[name] for name in expected}, expected, output)
        self.assertIn(says, "\n".join(result["wrong"]), output)


class RightArchives(Case):
    def test_every_format_with_receipts(self):
        for format_name in ("json", "json.zst", "raw", "parquet", "avro"):
            with self.subTest(format_name):
                archive = Archive(self.folder / format_name, format_name).write()
                self.folder, parent = self.folder / format_name, self.folder
                result = self.assert_right(archive, "--receipts", "--topic", TOPIC)
                self.folder = parent
                self.assertEqual((result["records"], result["receipts"]), (RECORDS, 8))

    def test_broken_payloads_are_dead_letters_or_raw_rows(self):
        dead = self.assert_right(Archive(self.folder, "json", broken=0.01).write(), "--broken", "0.01", "--receipts")
        self.assertGreater(dead["dead"], 10)
        self.assertEqual(dead["records"] + dead["dead"], RECORDS)
        self.folder = self.folder / "raw"
        raw = self.assert_right(Archive(self.folder, "raw", broken=0.01).write(), "--broken", "0.01", "--receipts")
        self.assertEqual((raw["records"], raw["dead"]), (RECORDS, 0))

    def test_hidden_objects_are_no_data(self):
        archive = Archive(self.folder, "json").write()
        for key in (f"{TOPIC}/dt=2025-11-21/hr=00/.part.json.gz", f"{TOPIC}/dt=2025-11-21/hr=00/_SUCCESS", "_tmp/x.json.gz"):
            archive.put(key, b"junk")
        self.assert_right(archive, "--receipts")

    def test_kept_columns_and_other_order_are_the_same_record(self):
        archive = Archive(self.folder, "json").write(receipts=False)
        key, numbers = next(iter(archive.rows.items()))
        rows = [{**dict(reversed(json.loads(archive.logs.line(n)).items())), "_offset": n} for n in numbers]
        archive.put(key, archive.compress(b"".join(json.dumps(row).encode() + b"\n" for row in rows)))
        self.assert_right(archive)


class Replays(Case):
    """A replay of one dead letter, as it is and with everything wrong with it that is looked for."""

    PLACE = f"_siltstone/replays/v1/{TOPIC}/00000/{0:020}"

    def wrong(self, change=None, without=(), **more):
        data = b"x"
        key = f"{TOPIC}/dt=2025-11-21/hr=00/x+replay-1.json.gz"
        entry = {"output": "json", "destination": "main", "key": key, "folder": key.rpartition("/")[0], "rows": 1, "bytes": 1,
                 "sha256": hashlib.sha256(data).hexdigest()}
        replay = {"version": 1, "topic": TOPIC, "partition": 0, "first": 0, "end": 9, "n": 1, "object": {"key": "d"}, "fingerprint": "f",
                  "rows": {"json": [[4, 0]]}, "objects": [entry]}
        if change:
            change(replay)
        claim = {**replay, **more}
        documents = {f"{self.PLACE}.1.claim": claim, f"{self.PLACE}.1.json": replay}
        if replay.get("again"):
            again = {**replay, "n": replay["again"], "objects": []}
            documents |= {f"{self.PLACE}.{again['n']}.{kind}": again for kind in ("claim", "json")}
        texts = {key: json.dumps(document) for key, document in documents.items() if key.rpartition(".")[2] not in without}
        store = type("Store", (), {"read": lambda _, key: texts[key]})()
        read = {key: check.Object(key, 1, hashlib.sha256(data).hexdigest(), 1)}
        return list(receipts.check_replays(store, {**dict.fromkeys(texts, 9), key: 1}, read, TOPIC, {}))

    def test_what_is_right_and_what_is_not(self):
        self.assertEqual(self.wrong(), [])
        for says, wrong in {
            "no receipt": self.wrong(without=["json"]),
            "no claim": self.wrong(without=["claim"]),
            "differ in rows": self.wrong(rows={"json": []}),
            "another batch": self.wrong(lambda replay: replay["rows"].update(json=[[9, 0]])),
            "named already": self.wrong(lambda replay: replay.update(again=2)),
            "have the numbers [1, 3]": self.wrong(lambda replay: replay.update(again=3, rows={})),
            "another one": self.wrong(lambda replay: replay.update(n=2)),
            "the receipt says 2": self.wrong(lambda replay: replay["objects"][0].update(rows=2)),
        }.items():
            self.assertIn(says, "\n".join(wrong))


class WrongArchives(Case):
    """Each of them as JSON, as Parquet and as Avro, where the format allows."""

    def damaged(self, damage, **expected):
        for format_name in ("json", "parquet", "avro"):
            with self.subTest(format_name):
                archive = Archive(self.folder / format_name, format_name)
                damage(archive)
                archive.write(receipts=False)
                parent, self.folder = self.folder, self.folder / format_name
                self.assert_wrong(archive, **expected)
                self.folder = parent

    @staticmethod
    def some_key(archive):
        return sorted(archive.rows)[3]

    def test_one_record_lost(self):
        self.damaged(lambda a: a.rows[self.some_key(a)].pop(5), lost=1, duplicated=0, says="lost: ")

    def test_one_record_twice_in_one_object(self):
        self.damaged(lambda a: a.rows[self.some_key(a)].insert(5, a.rows[self.some_key(a)][5]), lost=0, duplicated=1, says="duplicated: ")

    def test_a_batch_archived_under_two_names(self):
        """What an archiver does that uploads, dies before the commit and cuts elsewhere the next time."""

        def damage(archive):
            key = self.some_key(archive)
            archive.rows[key.replace("-0", "-9", 1)] = archive.rows[key][:-3]

        def count(archive):
            return len(archive.rows[self.some_key(archive)]) - 3

        self.damaged(damage, lost=0, duplicated=count(Archive(self.folder, "json")))

    def test_a_whole_object_lost(self):
        self.damaged(lambda a: a.rows.pop(self.some_key(a)), duplicated=0, lost=len(Archive("x", "json").rows[self.some_key(Archive("x", "json"))]))

    def test_one_record_in_the_wrong_hour(self):
        def damage(archive):
            here = self.some_key(archive)
            there = next(key for key in archive.rows if key.split("/")[-1] == here.split("/")[-1] and key != here)
            archive.rows[there].append(archive.rows[here].pop())
            archive.rows[there].sort()

        self.damaged(damage, lost=0, duplicated=0, wrong_hour=1)

    def test_one_record_for_another(self):
        """Totals stay right: only identity tells."""

        def damage(archive):
            numbers = archive.rows[self.some_key(archive)]
            numbers[5] = numbers[4]

        self.damaged(damage, records=RECORDS, lost=1, duplicated=1)

    def test_an_object_in_no_hour(self):
        def damage(archive):
            key = self.some_key(archive)
            archive.rows["stray/" + key.split("/")[-1]] = archive.rows.pop(key)

        self.damaged(damage, lost=0, duplicated=0)

    def test_records_out_of_order(self):
        self.damaged(lambda a: a.rows[self.some_key(a)].reverse(), lost=0, duplicated=0)

    def test_two_kafka_partitions_in_one_object(self):
        def damage(archive):
            window = "hr=01/"
            one, other = (next(k for k in archive.rows if window in k and f"+{p:05}+" in k) for p in (0, 1))
            archive.rows[one] = sorted(archive.rows[one] + archive.rows.pop(other))

        self.damaged(damage, lost=0, duplicated=0, mixed_objects=1)

    def test_changed_payload(self):
        archive = Archive(self.folder, "json").write(receipts=False)
        key, numbers = next(iter(archive.rows.items()))
        text = b"".join(archive.logs.line(n) + b"\n" for n in numbers).replace(b'"method":"GET"', b'"method":"PUT"', 1)
        archive.put(key, archive.compress(text))
        self.assert_wrong(archive, lost=0, altered=1)

    def test_changed_parquet_value(self):
        import pyarrow
        import pyarrow.parquet

        archive = Archive(self.folder, "parquet").write(receipts=False)
        key, numbers = next(iter(archive.rows.items()))
        rows = [json.loads(archive.logs.line(n)) for n in numbers]
        rows[10]["geo"]["city"], rows[11]["time"] = "Rome", rows[11]["time"] + 1
        out = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out)
        archive.put(key, out.getvalue())
        self.assert_wrong(archive, lost=0, altered=2)

    def test_objects_that_do_not_read(self):
        for format_name in ("json", "json.zst", "parquet"):
            with self.subTest(format_name):
                archive = Archive(self.folder / format_name, format_name).write(receipts=False)
                parent, self.folder = self.folder, self.folder / format_name
                path = self.folder / self.some_key(archive)
                path.write_bytes(path.read_bytes()[:-20])
                self.assert_wrong(archive, unreadable=1)
                self.folder = parent

    def test_dead_letters_lost_and_doubled(self):
        archive = Archive(self.folder, "json", broken=0.01)
        numbers = max(archive.dead.values(), key=len)
        numbers[0] = numbers[1]
        self.assert_wrong(archive.write(receipts=False), "--broken", "0.01", lost=0, dead_lost=1, dead_duplicated=1)

    def test_dead_letters_of_one_identity(self):
        archive = Archive(self.folder, "json", broken=0.01)
        dead = sorted(number for numbers in archive.dead.values() for number in numbers)
        first, second = dead[:2]
        archive.coordinates[second] = archive.coordinates[first]
        self.assert_wrong(archive.write(), "--broken", "0.01", "--receipts", lost=0, dead_lost=0, dead_duplicated=0, dead_alike=1)
        archive.coordinates[second] = archive.coordinates[first] | {"index": 1}
        self.assert_right(archive.write(), "--broken", "0.01", "--receipts")

    def test_dead_letters_that_are_none(self):
        archive = Archive(self.folder, "json", broken=0.01)
        key = self.some_key(archive)
        next(iter(archive.dead.values())).append(archive.rows[key].pop())
        self.assert_wrong(archive.write(receipts=False), "--broken", "0.01", lost=1, dead_unexpected=1)


class WrongReceipts(Case):
    def setUp(self):
        super().setUp()
        self.archive = Archive(self.folder, "json").write()
        self.first = self.archive.batches[0, 0][0]

    def assert_says(self, text):
        self.assert_wrong(self.archive, "--receipts", lost=0, duplicated=0, says=text)

    def test_gap(self):
        self.archive.change_receipt(0, 0, lambda receipt: receipt.update(end=receipt["end"] - 1))
        self.assert_says(f"access/0: gap: [{self.first}, ")

    def test_overlap(self):
        self.archive.change_receipt(0, 0, lambda receipt: receipt.update(end=receipt["end"] + 1))
        self.assert_says(f"access/0: overlap: [{self.first}, ")

    def test_missing_receipt(self):
        (self.folder / self.archive.receipt_key(0, self.first)).unlink()
        self.assert_says("no receipt names access/")
        self.assert_says(f"the claim of access/0 at {self.first} has no receipt")

    def test_missing_first_receipt(self):
        (self.folder / self.archive.receipt_key(0, 0)).unlink()
        self.assert_says("access/0: gap")

    def test_missing_claim(self):
        (self.folder / self.archive.receipt_key(0, 0, "claim")).unlink()
        self.assert_says("has a receipt but no claim")

    def test_wrong_size_sum_and_rows(self):
        for name, text in (("bytes", "bytes, the receipt says"), ("sha256", "has SHA-256"), ("rows", "rows, the receipt says")):
            with self.subTest(name):
                self.archive.write_receipts()
                self.archive.change_receipt(0, 0, lambda receipt: receipt["objects"][0].update({name: "0" * 64 if name == "sha256" else 1}))
                self.assert_says(text)

    def test_balance_that_does_not_add_up(self):
        self.archive.change_receipt(0, 0, lambda receipt: receipt["balance"]["outputs"]["json"].update(dropped={"rule": 1}))
        self.assert_says("the balance of json does not add up")

    def test_balance_and_objects_disagree(self):
        self.archive.change_receipt(0, 0, lambda receipt: receipt["balance"]["outputs"]["json"].update(rows=1))
        self.assert_says("the balance of json has 1 rows")

    def test_fewer_consumed_than_covered(self):
        def change(receipt):
            receipt["balance"]["consumed"] -= 1
            receipt["balance"]["outputs"]["json"]["archived"] -= 1

        self.archive.change_receipt(0, 0, change)
        self.assert_says("were absent")

    def test_named_object_missing(self):
        self.archive.change_receipt(0, 0, lambda receipt: receipt["objects"].append({**receipt["objects"][0], "key": "access/none.json.gz"}))
        self.assert_says("names access/none.json.gz, which is not there")

    def test_unvouched_object(self):
        """Also one of a format that is not being read."""
        self.archive.put("access/dt=2025-11-21/hr=00/extra.parquet", b"x")
        self.assert_says("no receipt names access/dt=2025-11-21/hr=00/extra.parquet")

    def test_object_named_twice(self):
        self.archive.change_receipt(0, 0, lambda receipt: receipt["objects"].append(receipt["objects"][0]))
        self.assert_says("is named by")

    def test_receipt_of_another_place(self):
        self.archive.change_receipt(0, 0, lambda receipt: receipt.update(partition=3))
        self.assert_says("says access/3 from 0")


if __name__ == "__main__":
    unittest.main()
