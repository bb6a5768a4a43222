#!/usr/bin/env python3
"""Reads an archive of several topics and outputs back and holds it against the ledgers of those who produced it.

    $PYTHON tests/reader/ledgers.py MANIFEST [--json FILE] [--jobs N]

The manifest: {"brokers": B or null, "topics": [{"name", "kind", "seed", "partitions", "hours", "lanes", "ledgers": [path...]}...],
"outputs": [{"name", "url", "format"}...], "second": S}; claims and receipts lie below the first output's URL, and objects of the
second layout below the folder S. Objects are read and decoded as check.py does, each record is compared with what was produced.

An id that the ledgers call acked must be in every output exactly once; one that was aborted in none. What became of ids of unknown
outcome, and of those that a later record with the same key replaced in a compacted topic, is read from the topics themselves:
what is in Kafka must be in every output exactly once; of unknown outcome and not in Kafka: in none; replaced and removed by
Kafka: at most once. Without brokers the manifest says it: {"in_kafka": {topic: [ids]}}.

Layouts and compressions may differ from object to object. Exit 0 only if all that holds, the receipts agree, and no
object lies there unvouched. Uploads in pieces that nobody ended are counted.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "proofs"), str(Path(__file__).parents[2] / "scripts")]
from check import EXTENSIONS, Reader  # noqa: E402
from feed import BLOCK, IDS_MAX, key_of  # noqa: E402
from logs import Logs, topic_ends  # noqa: E402
from receipts import check_receipts  # noqa: E402
from stores import open_store  # noqa: E402
from topics import ids_in_kafka  # noqa: E402

NEVER, ACKED, ABORTED, UNSENT, UNKNOWN, REPLACED, IN_KAFKA, NOT_IN_KAFKA, STILL_THERE, REMOVED = range(10)  # what is said of an id
OUTCOMES = {"acked": ACKED, "aborted": ABORTED, "unsent": UNSENT, "unknown": UNKNOWN}
NAMES = {
    ACKED: "acked", ABORTED: "aborted", UNSENT: "unsent", IN_KAFKA: "unknown, in Kafka", NOT_IN_KAFKA: "unknown, not in it",
    STILL_THERE: "replaced, in Kafka", REMOVED: "replaced, removed"}
LOOKED_UP = {UNKNOWN: (NOT_IN_KAFKA, IN_KAFKA), REPLACED: (REMOVED, STILL_THERE)}  # -> (not found, found)
ONCE, NOWHERE = (ACKED, IN_KAFKA, STILL_THERE), (ABORTED, UNSENT, NOT_IN_KAFKA)
MUST_BE, MUST_NOT_BE = (bytes(code in codes for code in range(256)) for codes in (ONCE, NOWHERE))
MENTIONED = 5  # of each kind of wrong ids, so many are named


def set_of(topic):
    return argparse.Namespace(records=IDS_MAX, seed=topic["seed"], start="2025-11-21T00:00:00Z", hours=topic["hours"],
                              partitions=topic["partitions"], mixed=True, broken=0.0)


class LedgerReader(Reader):
    """Reads the objects of one topic and output. Ids ascend with offsets only within each producer's lane."""

    def __init__(self, topic, url, format_name):
        super().__init__(url, format_name, set_of(topic), None)
        self.lanes, self.lasts = topic["lanes"], {}

    def read(self, key, dead):
        self.lasts = {}
        return super().read(key, dead)

    def _count(self, found, number, hour, last):
        lane = number // BLOCK % self.lanes
        super()._count(found, number, hour, self.lasts.get(lane, -1))
        self.lasts[lane] = number
        return number


READERS = {}


def start_worker(manifest):
    READERS.update(manifest=manifest)


def read_one(item):
    output, topic, key = item
    if (output, topic) not in READERS:
        told = READERS["manifest"]
        found = told["outputs"][output]
        READERS[output, topic] = LedgerReader(told["topics"][topic], found["url"], found["format"])
    return READERS[output, topic].read(key, False)


# ---- what the ledgers say --------------------------------------------------------------------------------------------


def read_ledgers(topic):
    """One byte an id."""
    blocks = []
    for path in topic["ledgers"]:
        for line in Path(path).read_text().splitlines():
            outcome, rest = line.split(" ", 1)
            if outcome != "tops":
                first, end = map(int, rest.split())
                blocks.append((first, end, OUTCOMES[outcome]))
    said = bytearray(max((end for _, end, _ in blocks), default=0))
    for first, end, outcome in blocks:
        if any(said[first:end]):
            raise ValueError(f"the ledgers of {topic['name']} speak twice of ids from {first}")
        said[first:end] = bytes([outcome]) * (end - first)
    if topic["kind"] == "compacted":
        mark_replaced(topic, said)
    return said


def mark_replaced(topic, said):
    """The last record of a key stays, the others may be compacted away."""
    logs, later = Logs.of(set_of(topic)), set()
    for number in range(len(said) - 1, -1, -1):
        if said[number] not in (ACKED, UNKNOWN):
            continue
        key, shared = key_of(number, logs.partition(number))
        if shared and said[number] == ACKED:
            if key in later:
                said[number] = REPLACED
            later.add(key)


def look_up(manifest, topic, said):
    """Decides what the ledgers leave open."""
    if not any(code in said for code in LOOKED_UP):
        return
    if manifest["brokers"]:
        there = ids_in_kafka(manifest["brokers"], topic["name"])
    else:
        there = bytearray(len(said))
        for number in manifest.get("in_kafka", {}).get(topic["name"], ()):
            there[number] = 1
    there.extend(bytes(max(0, len(said) - len(there))))
    for number, code in enumerate(said):
        if code in LOOKED_UP:
            said[number] = LOOKED_UP[code][there[number]]


# ---- the archive -----------------------------------------------------------------------------------------------------


def is_left_over(segments):
    """What a killed process leaves of a file it had not finished: on disk only, and hidden from every reader."""
    return segments[-1].startswith(".siltstone-") and "." not in segments[-1][1:]


def sort_out(manifest, output, keys):
    """(topic's number, key) of the data objects, and what should not be there."""
    data, strange = [], []
    for key in keys:
        segments = key.split("/")
        if segments[0] == "_siltstone" or is_left_over(segments):
            continue
        topics = [number for number, topic in enumerate(manifest["topics"]) if topic["name"] in segments]
        if len(topics) == 1 and EXTENSIONS[output["format"]].fullmatch(segments[-1]) and not any(part[0] in "._" for part in segments):
            data.append((topics[0], key))
        else:
            strange.append(f"{output['name']}: {key} is neither data of a known topic nor hidden in _siltstone")
    return data, strange


def weigh(name, topic, said, objects):
    """Counts of one topic in one output, and sentences about what is wrong."""
    counts, wrong, foreign = bytearray(len(said)), [], 0
    for found in objects:
        for number in found.ids:
            if number < 0 or number >= len(said) or said[number] == NEVER:
                foreign += 1
            elif counts[number] < 255:
                counts[number] += 1
    kinds = {
        "duplicated": [number for number, count in enumerate(counts) if count > 1],
        "lost": [number for number, count in enumerate(counts) if count == 0 and MUST_BE[said[number]]],
        "aborted seen": [number for number, count in enumerate(counts) if count and MUST_NOT_BE[said[number]]]}
    for kind, numbers in kinds.items():
        wrong += [f"{name}: {topic['name']}: {len(numbers)} ids {kind}, such as {numbers[:MENTIONED]}"] if numbers else []
        wrong += where(name, kind, numbers, objects) if kind != "lost" else []
    faults = sum((found.faults for found in objects), Counter())
    wrong += [f"{name}: {found.key}: {found.error}" for found in objects if found.error]
    wrong += [f"{name}: {found.key}: {dict(+found.faults)}" for found in objects if +found.faults]
    wrong += [f"{name}: {found.key} holds records of several Kafka partitions" for found in objects if len(found.kafka_partitions) > 1]
    wrong += [f"{name}: {topic['name']} holds {foreign} records that nobody produced"] if foreign else []
    tally = Counter({kind: len(numbers) for kind, numbers in kinds.items()})
    tally.update({"archived": sum(len(found.ids) for found in objects), "objects": len(objects), "altered": faults["altered"] + foreign,
                  "misplaced": faults["wrong_hour"] + faults["disordered"],
                  "removed before": sum(count == 0 and said[number] == REMOVED for number, count in enumerate(counts))})
    return tally, wrong


def where(name, kind, numbers, objects):
    wanted = set(numbers)
    inside = ((found.key, wanted.intersection(found.ids)) for found in objects)
    return [f"{name}: {kind}: {key} holds {len(ids)} of them, such as {min(ids)}" for key, ids in inside if ids][:MENTIONED] if wanted else []


def summary(manifest, output, by_topic):
    """What else there is to say of an output. `by_topic`: the objects of each topic, in the manifest's order."""
    kinds = Counter({topic["kind"]: sum(len(found.ids) for found in objects) for topic, objects in zip(manifest["topics"], by_topic)})
    layouts = Counter({"first": 0, "second": 0})
    for objects in by_topic:
        layouts.update("second" if found.key.split("/")[0] == manifest.get("second", "second") else "first" for found in objects)
    return {"kinds": dict(kinds), "layouts": dict(layouts), "largest": max((found.bytes for objects in by_topic for found in objects), default=0)}


def unexplained(late, objects, said):
    """Objects with more rows than their receipt says, and more than Kafka has removed since they were read."""
    removed = {key: sum(0 <= number < len(said) and said[number] == REMOVED for number in objects[key].ids) for key in late}
    return [f"{key} has {more} rows more than its receipt says, and only {removed[key]} of its records were removed by Kafka"
            for key, more in late.items() if more > removed[key]]


def check(manifest, jobs):
    began = time.monotonic()
    topics, outputs = manifest["topics"], manifest["outputs"]
    said = [read_ledgers(topic) for topic in topics]
    for topic, text in zip(topics, said):
        look_up(manifest, topic, text)
    ids = {NAMES[code]: sum(text.count(code) for text in said) for code in NAMES}
    result, wrong, sizes, work = {"outputs": {}, "left_over": 0, "unfinished": 0}, [], {}, []
    for number, output in enumerate(outputs):
        store = open_store(output["url"])
        found = dict(store.list())
        data, strange = sort_out(manifest, output, found)
        wrong += strange
        result["left_over"] += sum(is_left_over(key.split("/")) for key in found)
        result["unfinished"] += len(store.unfinished())
        sizes.update({key: size for key, size in found.items() if number == 0 or not key.startswith("_siltstone/")})
        work += [(number, topic, key) for topic, key in data]
    with ProcessPoolExecutor(jobs, initializer=start_worker, initargs=(manifest,)) as pool:
        objects = list(pool.map(read_one, work, chunksize=max(1, min(16, len(work) // (4 * jobs)))))
    by_topic = [{} for _ in topics]
    for number, output in enumerate(outputs):
        total, mine = Counter(), []
        for at, topic in enumerate(topics):
            mine.append([found for item, found in zip(work, objects) if item[:2] == (number, at)])
            tally, sentences = weigh(output["name"], topic, said[at], mine[at])
            total.update(tally)
            wrong += sentences
            by_topic[at].update({found.key: found for found in mine[at]})
        result["outputs"][output["name"]] = {key: total[key] for key in (
            "objects", "archived", "duplicated", "lost", "aborted seen", "altered", "misplaced", "removed before")}
        result["outputs"][output["name"]].update(summary(manifest, output, mine))
    result.update(receipts=0, kept=0, late=0)
    store = open_store(outputs[0]["url"])
    for at, topic in enumerate(topics):
        ends = topic_ends(manifest["brokers"], topic["name"]) if manifest["brokers"] else None
        # Elsewhere offsets may have no record.
        records = said[at].count(ACKED) if topic["kind"] in ("plain", "large") else None
        sentences, found = check_receipts(store, sizes, by_topic[at], records, ends, topic["name"], topic["kind"] == "compacted")
        wrong += sentences + unexplained(found["late"], by_topic[at], said[at])
        result["late"] += len(found["late"])
        result["receipts"] += found["receipts"]
        result["kept"] += found["kept"]
    result.update(ids=ids, wrong=wrong, seconds=round(time.monotonic() - began, 1))
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--json", metavar="FILE", help="write the result")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 4))
    args = parser.parse_args()
    result = check(json.loads(args.manifest.read_text()), args.jobs)
    for sentence in result["wrong"][:60]:
        print(f"wrong: {sentence}")
    if len(result["wrong"]) > 60:
        print(f"wrong: and {len(result['wrong']) - 60} more")
    for name, output in result["outputs"].items():
        print(name, " ".join(f"{what.replace(' ', '_')}={count}" for what, count in output.items()))
    print("WRONG" if result["wrong"] else "right", f"ids={result['ids']} receipts={result['receipts']} seconds={result['seconds']}")
    if args.json:
        Path(args.json).write_text(json.dumps(result))
    sys.exit(1 if result["wrong"] else 0)


if __name__ == "__main__":
    main()
