#!/usr/bin/env python3
"""Proves the reader of ledgers: a right archive of three topics and two outputs passes, and every way of being wrong is named.

    $PYTHON tests/reader/test_ledgers.py [NAME...]

Archives are made by hand in local folders: two batches a Kafka partition, the second under another layout and compression.
"""

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
sys.path[:0] = [str(HERE), str(HERE.parent / "proofs"), str(HERE.parents[1] / "scripts")]
from feed import BLOCK, key_of  # noqa: E402
from ledgers import set_of  # noqa: E402
from logs import Logs  # noqa: E402

BLOCKS = 12
OUTPUTS = ("json", "parquet")
# Block -> what became of it; acked where nothing is said.
TROUBLES = {"plain": {}, "transactions": {1: "aborted", 4: "unsent", 6: "unknown", 7: "unknown"}, "compacted": {}, "large": {}}
COMMITTED, NOT_COMMITTED = 6, 7  # of the blocks of unknown outcome: nobody was told, and the topic knows


class Topic:
    """One topic as it lies in Kafka, its ledgers, and its batches."""

    def __init__(self, folder, kind, seed, lanes):
        self.kind, self.name, self.lanes = kind, f"t-{kind}", lanes
        self.told = {"name": self.name, "kind": kind, "seed": seed, "partitions": 2, "hours": 2, "lanes": lanes,
                     "ledgers": [str(folder / f"{kind}-{lane}") for lane in range(lanes)]}
        self.logs = Logs.of(set_of(self.told))
        outcomes = {block: TROUBLES[kind].get(block, "acked") for block in range(BLOCKS)}
        for lane, path in enumerate(self.told["ledgers"]):
            lines = [f"{outcome} {block * BLOCK} {(block + 1) * BLOCK}\n" for block, outcome in outcomes.items() if block % lanes == lane]
            Path(path).write_text("".join(lines) + 'tops {"0": 1}\n')
        # Lanes overtake each other: of every two blocks the second comes first where there are two lanes.
        order = sorted(outcomes, key=lambda block: block ^ (lanes - 1))
        self.visible = [number for block in order if outcomes[block] == "acked" or outcomes[block] == "unknown" and block == COMMITTED
                        for number in range(block * BLOCK, (block + 1) * BLOCK)]
        self.in_kafka = set(self.visible)


class Archive:
    def __init__(self, folder):
        self.folder, self.rows, self.batches = folder, {}, []
        self.after = lambda receipt: None  # what else becomes of a receipt
        self.topics = {topic.kind: topic for topic in (
            Topic(folder, "plain", 1, 1), Topic(folder, "transactions", 2, 2), Topic(folder, "compacted", 3, 1), Topic(folder, "large", 4, 1))}
        for topic in self.topics.values():
            for partition in range(2):
                numbers = [number for number in topic.visible if topic.logs.partition(number) == partition]
                skips = topic.kind in ("transactions", "compacted")  # then offsets are twice as many as records
                middle, whole = len(numbers) // 2, len(numbers)
                for first, end, path in ((0, middle, "{}"), (middle, whole, "second/{}")):
                    self._batch(topic, partition, (first << skips, end << skips), path.format(topic.name), numbers[first:end])

    def _batch(self, topic, partition, offsets, path, numbers):
        name = f"{topic.name}+{partition:05}+{offsets[0]:020}-{offsets[1]:020}"
        for output, extension in zip(OUTPUTS, ("json.zst" if "second" in path else "json.gz", "parquet")):
            by_window = defaultdict(list)
            for number in numbers:
                by_window[topic.logs.window(topic.logs.hour(number))].append(number)
            keys = [f"{path}/{window}/{name}.{extension}" for window in by_window]
            self.rows.update({(output, key): (topic, ids) for key, ids in zip(keys, by_window.values())})
            self.batches.append((topic, partition, offsets, output, keys, len(numbers)))

    def key(self, output, kind, part=0):
        """A key of the topic's objects of that output."""
        return sorted(key for out, key in self.rows if out == output and f"t-{kind}/" in key)[part]

    def ids(self, output, key):
        return self.rows[output, key][1]

    def encode(self, key, topic, ids):
        lines = [topic.logs.line(number) for number in ids]
        if key.endswith("parquet"):
            import pyarrow
            import pyarrow.parquet

            out = io.BytesIO()
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([json.loads(line) for line in lines]), out)
            return out.getvalue()
        text = b"".join(line + b"\n" for line in lines)
        if key.endswith("zst"):
            import zstandard

            return zstandard.ZstdCompressor().compress(text)
        return gzip.compress(text, mtime=0)

    def put(self, output, key, data):
        path = self.folder / output / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def write(self):
        for (output, key), (topic, ids) in self.rows.items():
            self.put(output, key, self.encode(key, topic, ids))
        receipts = {}
        for topic, partition, (first, end), output, keys, count in self.batches:
            place = f"_siltstone/receipts/v1/{topic.name}/{partition:05}/{first:020}"
            receipt = receipts.setdefault(place, {"topic": topic.name, "partition": partition, "first": first, "end": end, "objects": [],
                                                  "balance": {"consumed": count, "outputs": {}}})
            rows = 0
            for key in keys:
                data = (self.folder / output / key).read_bytes()
                rows += len(self.ids(output, key))
                receipt["objects"].append({"output": output, "destination": output, "key": key, "folder": key.rpartition("/")[0],
                                           "rows": len(self.ids(output, key)), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
            receipt["balance"]["outputs"][output] = {"archived": count, "rows": rows}
            self.after(receipt)
        for place, receipt in receipts.items():
            self.put("json", place + ".json", json.dumps(receipt).encode())
            self.put("json", place + ".claim", b"{}")
        return self

    def manifest(self):
        outputs = [{"name": name, "url": f"file://{self.folder / name}", "format": name} for name in OUTPUTS]
        path = self.folder / "manifest.json"
        path.write_text(json.dumps({
            "brokers": None, "topics": [topic.told for topic in self.topics.values()], "outputs": outputs, "second": "second",
            "in_kafka": {topic.name: sorted(topic.in_kafka) for topic in self.topics.values()}}))
        return path


class Case(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory(prefix="siltstone-ledgers-")
        self.addCleanup(temporary.cleanup)
        self.archive = Archive(Path(temporary.name))

    def check(self):
        """Runs the reader as its users do."""
        self.archive.write()
        out = self.archive.folder / "result.json"
        command = [sys.executable, HERE / "ledgers.py", self.archive.manifest(), "--json", out]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120)
        self.assertTrue(out.exists(), run.stdout + run.stderr)
        return run.returncode, json.loads(out.read_text()), run.stdout

    def assert_right(self):
        code, result, output = self.check()
        self.assertEqual((code, result["wrong"]), (0, []), output)
        return result

    def assert_wrong(self, output, says="", **expected):
        code, result, printed = self.check()
        self.assertEqual(code, 1, printed)
        found = result["outputs"][output]
        self.assertEqual({name: found[name.replace("_", " ")] for name in expected}, expected, printed)
        self.assertIn(says, "\n".join(result["wrong"]), printed)


class Ledgers(Case):
    def test_right(self):
        result = self.assert_right()
        archived = sum(len(topic.visible) for topic in self.archive.topics.values())
        for output in OUTPUTS:
            self.assertEqual(result["outputs"][output]["archived"], archived)
            self.assertEqual(result["outputs"][output]["kinds"], {kind: len(topic.visible) for kind, topic in self.archive.topics.items()})
            layouts = result["outputs"][output]["layouts"]
            self.assertEqual((sum(layouts.values()), min(layouts.values()) > 0), (result["outputs"][output]["objects"], True))
            sizes = [path.stat().st_size for path in (self.archive.folder / output).rglob("*+*")]
            self.assertEqual(result["outputs"][output]["largest"], max(sizes))
        replaced = result["ids"]["replaced, in Kafka"]
        self.assertGreater(replaced, 0)
        self.assertEqual(result["ids"], {
            "acked": 44 * BLOCK - replaced, "aborted": BLOCK, "unsent": BLOCK, "unknown, in Kafka": BLOCK, "unknown, not in it": BLOCK,
            "replaced, in Kafka": replaced, "replaced, removed": 0})

    def test_one_lost(self):
        for output in OUTPUTS:
            with self.subTest(output):
                self.setUp()
                self.archive.ids(output, self.archive.key(output, "plain")).pop()
                self.assert_wrong(output, lost=1, duplicated=0)

    def test_one_twice_in_one_object(self):
        ids = self.archive.ids("json", self.archive.key("json", "plain"))
        ids.insert(1, ids[0])
        self.assert_wrong("json", "holds 1 of them", duplicated=1, lost=0, misplaced=1)

    def test_a_whole_object_under_two_layouts(self):
        key = self.archive.key("parquet", "transactions")
        topic, ids = self.archive.rows["parquet", key]
        self.archive.rows["parquet", "third/" + key] = topic, ids
        self.assert_wrong("parquet", "no receipt names third/", duplicated=len(ids))

    def test_aborted_seen(self):
        key = self.archive.key("json", "transactions")
        topic, ids = self.archive.rows["json", key]
        hour = topic.logs.hour(ids[0])
        aborted = next(number for number in range(BLOCK, 2 * BLOCK) if topic.logs.place(number) == (hour, topic.logs.partition(ids[0])))
        ids.append(aborted)
        self.assert_wrong("json", "aborted seen", aborted_seen=1, duplicated=0, lost=0)

    def test_what_was_never_sent_is_seen(self):
        self.add("json", "transactions", 4)
        self.assert_wrong("json", "aborted seen", aborted_seen=1, duplicated=0, lost=0)

    def add(self, output, kind, block):
        """One id of the block into an object of its hour and Kafka partition."""
        key = self.archive.key(output, kind)
        topic, ids = self.archive.rows[output, key]
        place = topic.logs.place(ids[0])
        ids.append(next(number for number in range(block * BLOCK, (block + 1) * BLOCK) if topic.logs.place(number) == place))

    def drop(self, output, kind, block):
        """All ids of the block that are in that output; how many."""
        wanted, dropped = range(block * BLOCK, (block + 1) * BLOCK), 0
        for (out, _), (topic, ids) in self.archive.rows.items():
            if out == output and topic.kind == kind:
                before = len(ids)
                ids[:] = [number for number in ids if number not in wanted]
                dropped += before - len(ids)
        return dropped

    def test_unknown_and_in_kafka_must_be_there(self):
        dropped = self.drop("json", "transactions", COMMITTED)
        self.assertGreater(dropped, 0)
        self.assert_wrong("json", "ids lost", lost=dropped, duplicated=0)

    def test_unknown_and_not_in_kafka_must_not_be_there(self):
        self.add("parquet", "transactions", NOT_COMMITTED)
        self.assert_wrong("parquet", "aborted seen", aborted_seen=1, lost=0)

    def test_compaction_took_what_it_may(self):
        taken = self.compact("json")
        code, result, output = self.check()
        self.assertGreater(taken, 0)
        found = result["outputs"]["json"]
        self.assertEqual((found["removed before"], found["lost"], result["ids"]["replaced, removed"]), (taken, 0, taken), output)
        self.assertTrue(all("the balance of json has" in sentence for sentence in result["wrong"]), output)

    def test_what_compaction_did_not_take_must_be_there(self):
        topic = self.archive.topics["compacted"]
        taken = self.compact("json")
        topic.in_kafka = set(topic.visible)
        self.assert_wrong("json", "ids lost", lost=taken, removed_before=0)

    def vouched_for_fewer(self, kind, fewer):
        """A process that was out of the group put its objects late; who vouched had `fewer` records in one of them."""
        key = self.archive.key("json", kind)
        _, ids = self.archive.rows["json", key]

        def second(receipt):
            for entry in receipt["objects"]:
                if entry["key"] == key and entry["rows"] == len(ids):
                    entry.update(rows=len(ids) - fewer, bytes=entry["bytes"] - 1, sha256="0" * 64)
                    for counts in receipt["balance"]["outputs"].values():
                        counts["archived"] -= fewer
                        counts["rows"] -= fewer
                    receipt["balance"]["consumed"] -= fewer

        self.archive.after = second
        return ids

    def test_a_late_object_with_more_rows_is_counted_where_kafka_removed_them(self):
        ids = self.vouched_for_fewer("compacted", 1)
        topic = self.archive.topics["compacted"]
        keys = {number: key_of(number, topic.logs.partition(number)) for number in topic.visible}
        replaced = next(number for number in ids if keys[number][1] and any(later > number and keys[later] == keys[number] for later in keys))
        topic.in_kafka.discard(replaced)
        code, result, output = self.check()
        self.assertEqual(result["late"], 1, output)
        self.assertTrue(all("the balance of parquet" in sentence for sentence in result["wrong"]), output)

    def test_a_late_object_with_more_rows_than_kafka_removed(self):
        self.vouched_for_fewer("compacted", 1)
        self.assert_wrong("json", "removed by Kafka", lost=0, duplicated=0)

    def test_in_no_other_topic_an_object_has_more_rows_than_its_receipt(self):
        self.vouched_for_fewer("transactions", 1)
        self.assert_wrong("json", "rows, the receipt says", lost=0, duplicated=0)

    def compact(self, output):
        """As if Kafka had removed some replaced records before they were read."""
        taken = 0
        for (out, key), (topic, ids) in self.archive.rows.items():
            if out == output and topic.kind == "compacted" and "second" not in key:
                shared = [number for number in ids if key_of(number, topic.logs.partition(number))[1] and number < BLOCK]
                for number in shared[:1]:
                    ids.remove(number)
                    topic.in_kafka.discard(number)
                    taken += 1
        return taken

    def test_an_object_kept_from_before_compaction(self):
        def fewer(receipt):
            """As a second try writes it that found ten records fewer in Kafka."""
            balance = receipt["balance"]
            if receipt["topic"] == "t-compacted" and receipt["first"] == 0 and "parquet" in balance["outputs"]:
                balance["consumed"] -= 10
                for counts in balance["outputs"].values():
                    counts["archived"] -= 10
                    counts["rows"] -= 10
                for entry in receipt["objects"]:
                    entry.update(kept)

        self.archive.after, kept = fewer, {"kept": "it was there before"}
        self.assert_right()
        kept.clear()
        self.assert_wrong("json", "the balance of json has")

    def test_compaction_took_the_only_one(self):
        key = self.archive.key("json", "compacted")
        topic, ids = self.archive.rows["json", key]
        ids.remove(next(number for number in ids if not key_of(number, 0)[1]))
        self.assert_wrong("json", lost=1)

    def test_nobody_produced_it(self):
        key = self.archive.key("json", "plain")
        topic, ids = self.archive.rows["json", key]
        ids.append(next(number for number in range(BLOCKS * BLOCK, 2 * BLOCKS * BLOCK) if topic.logs.place(number) == topic.logs.place(ids[0])))
        self.assert_wrong("json", "nobody produced", altered=1, lost=0)

    def test_a_record_in_another_topic(self):
        wrong, right = self.archive.key("json", "plain"), self.archive.key("json", "compacted")
        self.archive.rows["json", wrong] = self.archive.rows["json", right]
        self.assert_wrong("json", "altered")

    def test_out_of_order_within_a_lane(self):
        self.archive.ids("json", self.archive.key("json", "plain")).reverse()
        code, result, output = self.check()
        self.assertEqual((code, result["outputs"]["json"]["lost"]), (1, 0), output)
        self.assertGreater(result["outputs"]["json"]["misplaced"], 0)

    def test_a_stranger(self):
        self.archive.put("parquet", "t-plain/dt=2025-11-21/hr=00/part-0.tmp", b"x")
        self.assert_wrong("parquet", "neither data")

    def test_unfinished_hidden_files_are_counted(self):
        self.archive.put("parquet", "t-plain/dt=2025-11-21/hr=00/.siltstone-6a91-f8be44c2394021d8-45", b"x")
        self.assertEqual(self.assert_right()["left_over"], 1)
        self.archive.put("parquet", "t-plain/dt=2025-11-21/hr=00/.siltstone-6a91.parquet", b"x")
        self.assert_wrong("parquet", "neither data")

    def test_gap_between_receipts(self):
        self.archive.batches = [batch for batch in self.archive.batches if batch[0].kind != "transactions" or batch[2][0] > 0]
        self.assert_wrong("json", "gap:")

    def test_ledgers_that_contradict_each_other(self):
        path = Path(self.archive.topics["plain"].told["ledgers"][0])
        path.write_text("aborted 0 64\n" + path.read_text())
        run = subprocess.run([sys.executable, HERE / "ledgers.py", self.archive.write().manifest()], capture_output=True, text=True)
        self.assertEqual(run.returncode, 1)
        self.assertIn("speak twice", run.stderr)


if __name__ == "__main__":
    unittest.main()
