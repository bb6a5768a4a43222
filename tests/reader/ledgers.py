#!/usr/bin/env python3
"""Reads an archive of several topics and outputs back and holds it against the ledgers of those who produced it.

    $PYTHON tests/reader/ledgers.py MANIFEST [--json FILE] [--jobs N]

The manifest: {"brokers": B or null, "topics": [{"name", "kind", "seed", "partitions", "hours", "lanes", "ledgers": [path...]}...],
"outputs": [{"name", "url", "format"}...]}; claims and receipts lie below the first output's URL. Objects are read and decoded as
check.py does, each record is compared with what was produced. An id that the ledgers call acked must be in every output exactly
once; an aborted one in none; one that a later record with the same key replaced in a compacted topic, or one of unknown
outcome, at most once. Layouts and compressions may differ from object to object. Exit 0 only if all that holds, the
receipts agree, and no object lies there unvouched.
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

NEVER, ACKED, ABORTED, UNKNOWN, REPLACED = range(5)  # what the ledgers say of an id
OUTCOMES = {"acked": ACKED, "aborted": ABORTED, "unknown": UNKNOWN}
NAMES = {ACKED: "acked", ABORTED: "aborted", UNKNOWN: "unknown", REPLACED: "replaced"}
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
        "lost": [number for number, count in enumerate(counts) if count == 0 and said[number] == ACKED],
        "aborted seen": [number for number, count in enumerate(counts) if count and said[number] == ABORTED]}
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
                  "compacted away": sum(count == 0 and said[number] == REPLACED for number, count in enumerate(counts))})
    return counts, tally, wrong


def where(name, kind, numbers, objects):
    wanted = set(numbers)
    inside = ((found.key, wanted.intersection(found.ids)) for found in objects)
    return [f"{name}: {kind}: {key} holds {len(ids)} of them, such as {min(ids)}" for key, ids in inside if ids][:MENTIONED] if wanted else []


def check(manifest, jobs):
    began = time.monotonic()
    topics, outputs = manifest["topics"], manifest["outputs"]
    said = [read_ledgers(topic) for topic in topics]
    ids = Counter({NAMES[code]: sum(text.count(code) for text in said) for code in NAMES})
    result, wrong, sizes, work = {"outputs": {}, "left_over": 0}, [], {}, []
    for number, output in enumerate(outputs):
        found = dict(open_store(output["url"]).list())
        data, strange = sort_out(manifest, output, found)
        wrong += strange
        result["left_over"] += sum(is_left_over(key.split("/")) for key in found)
        sizes.update({key: size for key, size in found.items() if number == 0 or not key.startswith("_siltstone/")})
        work += [(number, topic, key) for topic, key in data]
    with ProcessPoolExecutor(jobs, initializer=start_worker, initargs=(manifest,)) as pool:
        objects = list(pool.map(read_one, work, chunksize=max(1, min(16, len(work) // (4 * jobs)))))
    by_topic = [{} for _ in topics]
    counts = {}
    for number, output in enumerate(outputs):
        total = Counter()
        for at, topic in enumerate(topics):
            mine = [found for item, found in zip(work, objects) if item[:2] == (number, at)]
            counts[number, at], tally, sentences = weigh(output["name"], topic, said[at], mine)
            total.update(tally)
            wrong += sentences
            by_topic[at].update({found.key: found for found in mine})
        result["outputs"][output["name"]] = {key: total[key] for key in (
            "objects", "archived", "duplicated", "lost", "aborted seen", "altered", "misplaced", "compacted away")}
    for at, topic in enumerate(topics):  # both outputs take the same records; only compaction between two attempts may differ
        for number in range(1, len(outputs)):
            differing = sum(said[at][at_id] == UNKNOWN and one != other
                            for at_id, (one, other) in enumerate(zip(counts[0, at], counts[number, at])))
            wrong += [f"{topic['name']}: of {differing} ids of unknown outcome, one output has what another has not"] if differing else []
    result["receipts"] = 0
    store = open_store(outputs[0]["url"])
    for at, topic in enumerate(topics):
        ends = topic_ends(manifest["brokers"], topic["name"]) if manifest["brokers"] else None
        acked = said[at].count(ACKED)
        sentences, found = check_receipts(store, sizes, by_topic[at], None if topic["kind"] != "plain" else acked, ends, topic["name"])
        wrong += sentences
        result["receipts"] += found["receipts"]
    ids["acked"] += ids["replaced"]
    result.update(ids=dict(ids), wrong=wrong, seconds=round(time.monotonic() - began, 1))
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
