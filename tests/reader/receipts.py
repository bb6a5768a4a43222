"""The receipts of an archive, read as plain JSON and held against what lies in the bucket.

`_siltstone/receipts/v1/<topic>/<Kafka partition:05>/<first:020>.json`, and beside each a `.claim`. Only what the
delivery rules promise is checked here: chains without gap or overlap, balances that add up, objects as named, nothing
unvouched. Replays of dead letters, `_siltstone/replays/v1/<topic>/<Kafka partition:05>/<first:020>.<n>.json` and `.claim`, name no dead
letter twice for one output. A topic of transactions, or a compacted one, has offsets without a record; then fewer records than offsets are right.
"""

import json
import re
from collections import defaultdict

RECEIPT = re.compile(r"_siltstone/receipts/v1/(?P<topic>[^/]+)/(?P<partition>\d{5,})/(?:g\d+/)?(?P<first>\d{20})\.(?P<kind>json|claim)")

REPLAY = re.compile(r"_siltstone/replays/v1/(?P<topic>[^/]+)/(?P<partition>\d{5,})(?:\.g\d+)?/(?P<first>\d{20})\.(?P<n>\d+)\.(?P<kind>json|claim)")


def check_receipts(store, sizes, read_objects, records, ends=None, topic=None, compacted=False):
    """What is wrong, as a list of sentences, and what was found.

    `sizes`: size of every object. `read_objects`: key -> Object for data and dead letters as they were read.
    `records`: of the topic, one an offset; None where offsets may have no record, and the last ones none that is visible.
    `ends`: {Kafka partition: (first, end)} of the topic, where known.
    `compacted`: Kafka removes records between two tries. The PUT of a process that is out of the group may then land late, with more
    rows than the try that has vouched: that is in the delivery rules. Such objects are found as `late`: key -> rows that are more.
    """
    wrong, receipts, claims = [], defaultdict(list), set()
    for key in sizes:
        match = RECEIPT.fullmatch(key)
        if not match or (topic and match["topic"] != topic):
            continue
        place = (match["topic"], int(match["partition"]), int(match["first"]))
        if match["kind"] == "claim":
            claims.add(place)
            continue
        receipt = json.loads(store.read(key))
        if (receipt["topic"], receipt["partition"], receipt["first"]) != place:
            wrong.append(f"{key} says {receipt['topic']}/{receipt['partition']} from {receipt['first']}")
        receipts[place[:2]].append(receipt)
    vouched, late = {}, {}
    for partition, chain in sorted(receipts.items()):
        chain.sort(key=lambda receipt: receipt["first"])
        wrong += check_chain(partition, chain, (ends or {}).get(partition[1]), records is None)
        for receipt in chain:
            try:
                wrong += check_balance(receipt, records is None)
                wrong += check_objects(receipt, sizes, read_objects, vouched, late if compacted else None)
            except (KeyError, TypeError, AttributeError) as error:
                wrong.append(f"the receipt of {partition[0]}/{partition[1]} at {receipt['first']} has another form: {error!r}")
    wrong += check_replays(store, sizes, read_objects, topic, vouched)
    covered = sum(receipt["end"] - receipt["first"] for chain in receipts.values() for receipt in chain)
    if records is not None and covered != records:
        wrong.append(f"the receipts cover {covered} offsets, {records} records were produced")
    finished = {(*partition, receipt["first"]) for partition, chain in receipts.items() for receipt in chain}
    wrong += [f"the claim of {topic}/{partition} at {first} has no receipt" for topic, partition, first in sorted(claims - finished)]
    wrong += [f"{topic}/{partition} at {first} has a receipt but no claim" for topic, partition, first in sorted(finished - claims)]
    wrong += [f"no receipt names {key}" for key in sorted(set(read_objects) - set(vouched))]
    kept = sum("kept" in entry for chain in receipts.values() for receipt in chain for entry in receipt.get("objects", ()))
    return wrong, {"receipts": len(finished), "claims": len(claims), "vouched": len(vouched), "kept": kept, "late": late}


def check_replays(store, sizes, read_objects, topic, vouched):
    """Each replay is finished, has a number without a gap, says what its claim says, and names each dead letter of its batch once."""
    found = defaultdict(dict)
    for key in sizes:
        match = REPLAY.fullmatch(key)
        if match and (not topic or match["topic"] == topic):
            batch = (match["topic"], int(match["partition"]), int(match["first"]))
            found[batch].setdefault(int(match["n"]), {})[match["kind"]] = json.loads(store.read(key))
    for batch, replays in sorted(found.items()):
        name = f"{batch[0]}/{batch[1]} at {batch[2]}"
        if sorted(replays) != list(range(1, len(replays) + 1)):
            yield f"the replays of {name} have the numbers {sorted(replays)}"
        seen = set()
        for number, kinds in sorted(replays.items()):
            claim, receipt = kinds.get("claim"), kinds.get("json")
            if claim is None or receipt is None:
                yield f"replay {number} of {name} has {'no claim' if claim is None else 'no receipt'}"
                continue
            for field in ("topic", "partition", "first", "end", "n", "object", "fingerprint", "rows"):
                if claim[field] != receipt[field]:
                    yield f"replay {number} of {name}: claim and receipt differ in {field}"
            if (receipt["topic"], receipt["partition"], receipt["first"], receipt["n"]) != (*batch, number):
                yield f"replay {number} of {name} says that it is another one"
            letters = [(output, *letter) for output, named in receipt["rows"].items() for letter in named]
            if len(set(letters)) < len(letters) or seen & set(letters):
                yield f"replay {number} of {name} names dead letters that are named already"
            seen |= set(letters)
            if any(not receipt["first"] <= offset < receipt["end"] for _, offset, _ in letters):
                yield f"replay {number} of {name} names dead letters of another batch"
            yield from check_objects(receipt, sizes, read_objects, vouched)


def check_chain(partition, chain, watermarks, skips=False):
    name = f"{partition[0]}/{partition[1]}"
    expected = watermarks[0] if watermarks else 0
    for receipt in chain:
        if receipt["first"] != expected:
            kind = "gap" if receipt["first"] > expected else "overlap"
            yield f"{name}: {kind}: [{receipt['first']}, {receipt['end']}) follows an end of {expected}"
        if receipt["end"] <= receipt["first"]:
            yield f"{name}: the range [{receipt['first']}, {receipt['end']}) is empty"
        expected = receipt["end"]
    if watermarks and (expected > watermarks[1] or expected < watermarks[1] and not skips):
        yield f"{name}: the receipts end at {expected}, the topic at {watermarks[1]}"


def check_balance(receipt, skips=False):
    """consumed = archived + dead-lettered + dropped, per output, and rows in the balance = rows in the objects."""
    name = f"{receipt['topic']}/{receipt['partition']} [{receipt['first']}, {receipt['end']})"
    balance = receipt["balance"]
    absent = sum(gap["end"] - gap["first"] for gap in balance.get("absent", ()))
    offsets = receipt["end"] - receipt["first"]
    if balance["consumed"] + absent > offsets or balance["consumed"] + absent < offsets and not skips:
        yield f"{name} consumed {balance['consumed']} records, {absent} were absent"
    for output, counts in balance["outputs"].items():
        if counts["archived"] + counts.get("dead_lettered", 0) + sum(counts.get("dropped", {}).values()) != balance["consumed"]:
            yield f"{name}: the balance of {output} does not add up: {counts}, consumed {balance['consumed']}"
        rows, kept = defaultdict(int), False
        for entry in receipt["objects"]:
            if entry["output"] == output:
                rows[entry["destination"]] += entry["rows"]
                kept = kept or "kept" in entry
        # An object of an earlier try, from before Kafka removed some of its records: more than this try consumed, never fewer.
        wrong = any(found < counts["rows"] or found > counts["rows"] and not (kept and skips) for found in rows.values())
        if wrong or bool(counts["rows"]) != bool(rows):
            yield f"{name}: the balance of {output} has {counts['rows']} rows, its objects {dict(rows)}"


def check_objects(receipt, sizes, read_objects, vouched, late=None):
    name = f"{receipt['topic']}/{receipt['partition']} [{receipt['first']}, {receipt['end']})"
    for entry in receipt["objects"]:
        key = entry["key"]
        if key in vouched:
            yield f"{key} is named by {vouched[key]} and by {name}"
        vouched[key] = name
        if entry["folder"] != key.rpartition("/")[0]:
            yield f"{key}: the receipt says that its folder is {entry['folder']}"
        if key not in sizes:
            yield f"{name} names {key}, which is not there"
            continue
        found = read_objects.get(key)
        if late is not None and found is not None and (found.rows or 0) > entry["rows"]:
            late[key] = found.rows - entry["rows"]
            if found.kafka_partitions - {receipt["partition"]}:
                yield f"{key} holds records of the Kafka partitions {sorted(found.kafka_partitions)}"
            continue
        if sizes[key] != entry["bytes"]:
            yield f"{key} has {sizes[key]} bytes, the receipt says {entry['bytes']}"
        if found is None:
            yield f"{name} names {key}, which the reader did not take for data"
            continue
        if entry.get("sha256") is None:
            yield f"{key}: the receipt has no SHA-256"
        elif found.sha256 != entry["sha256"]:
            yield f"{key} has SHA-256 {found.sha256}, the receipt says {entry['sha256']}"
        if found.rows is not None and found.rows != entry["rows"]:
            yield f"{key} has {found.rows} rows, the receipt says {entry['rows']}"
        if found.kafka_partitions - {receipt["partition"]}:
            yield f"{key} holds records of the Kafka partitions {sorted(found.kafka_partitions)}"
