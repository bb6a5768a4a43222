#!/usr/bin/env python3
"""Whole pipelines, as people run them, from Kafka to the bucket and back, each read by Python alone.

    scripts/pipelines.sh [NAME...] [--records N] [--release] [--keep]

Each: N records of the people's own in four Kafka partitions, one in a hundred broken; an archiver that is killed once in the middle and started
again; a drain; then every row and every dead letter against what this script knows of payload number i. One line for each.

    ltsv       access logs with a cookie: types, a transform that splits, trims, drops and routes, two outputs
    fluentd    tag, time, record as MessagePack, several in one Kafka record: unfolded, in folders of the tag, one object a minute
"""

import argparse
import base64
import gzip
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path

from trial import STORES, Failed, drop_topic, measured, program, services, tail

sys.path.append(str(Path(__file__).parents[1] / "reader"))

PARTITIONS = 4
BROKEN_EVERY = 100
START = datetime(2025, 11, 21, 3, tzinfo=timezone.utc)
PROGRESS_DEADLINE = 120
DRAIN_DEADLINE = 300
NULL = "__HIVE_DEFAULT_PARTITION__"


def at(number, records, hours):
    """Event time of a record: they ascend over the hours, to the millisecond."""
    return START + timedelta(milliseconds=number * hours * 3_600_000 // records)


class Ltsv:
    """A portal's access logs: LTSV to JSON, the cookie split, fields dropped, errors beside everything."""

    name, hours, entries = "ltsv", 3, 1
    config = r"""
decode = { type = "ltsv", types = { status = "int", size = "int", reqtime = "float" }, nulls = ["-"] }
timestamp = { field = "time", zone = "Asia/Tokyo", format = "%d/%b/%Y:%H:%M:%S%.3f" }
transform = '''
if .uri == "/healthz" { abort }
del(.forwardedfor)
.cookie = parse_key_value(.cookie, key_value_delimiter: "=", field_delimiter: "; ") ?? {}
parts = split(string!(.uri), "?", limit: 2)
.path = parts[0]
.query = parse_query_string(parts[1]) ?? {}
del(.uri)
.output = if int!(.status) >= 500 { ["all", "errors"] } else { "all" }
'''
[[archive.output]]
name = "all"
layout = { path = "all/dt=%Y-%m-%d/hr=%H", zone = "Asia/Tokyo" }
[[archive.output]]
name = "errors"
filter = '.host != "test"'
layout = { path = "errors/dt=%Y-%m-%d", zone = "Asia/Tokyo" }
"""

    def __init__(self, records):
        self.records = records

    def payload(self, number):
        if number % BROKEN_EVERY == 7:
            return (b"no label at all %d", b"host:\xff%d", b"id:%d\tid:%d", b"id:%d\tstatus:five")[number // BROKEN_EVERY % 4].replace(b"%d", b"%d" % number)
        tokyo = at(number, self.records, self.hours) + timedelta(hours=9)
        uri = "/healthz" if number % 50 == 3 else f"/p/{number % 97}?a={number}&b=x%20y" if number % 3 else f"/p/{number % 97}"
        fields = {
            "id": str(number), "time": tokyo.strftime("%d/%b/%Y:%H:%M:%S.") + f"{tokyo.microsecond // 1000:03}",
            "host": ("www", "test", "m")[number % 3], "status": ("200", "404", "503")[number % 7 % 3], "size": "-" if number % 5 == 0 else str(number * 3),
            "reqtime": f"0.{number % 1000:03}", "uri": uri, "forwardedfor": "10.0.0.1, 10.0.0.2", "ua": f"Mozilla: {number} \u00e4",
            "cookie": f"sid=s{number}; lang=ja" if number % 4 else "-"}
        return "\t".join(f"{label}:{value}" for label, value in fields.items()).encode()

    def is_broken(self, number):
        return number % BROKEN_EVERY == 7

    def expected(self, number):
        """(output, folder, row) of each row."""
        if self.is_broken(number) or number % 50 == 3:
            return
        tokyo = at(number, self.records, self.hours) + timedelta(hours=9)
        status, host = (200, 404, 503)[number % 7 % 3], ("www", "test", "m")[number % 3]
        row = {
            "id": str(number), "time": tokyo.strftime("%d/%b/%Y:%H:%M:%S.") + f"{tokyo.microsecond // 1000:03}", "host": host, "status": status,
            "size": None if number % 5 == 0 else number * 3, "reqtime": float(f"0.{number % 1000:03}"), "ua": f"Mozilla: {number} \u00e4",
            "cookie": {"sid": f"s{number}", "lang": "ja"} if number % 4 else {}, "path": f"/p/{number % 97}",
            "query": {"a": str(number), "b": "x y"} if number % 3 else {}}
        yield "all", tokyo.strftime("all/dt=%Y-%m-%d/hr=%H"), row
        if status >= 500 and host != "test":
            yield "errors", tokyo.strftime("errors/dt=%Y-%m-%d"), row

    def check_objects(self, keys):
        """Nothing about names but their folders."""


class Fluentd:
    """What Fluentd's agents send: entries of tag, time and record, five to a Kafka record."""

    name, hours = "fluentd", 1
    entries = 5
    config = r"""
decode = { type = "msgpack", unfold = true, names = ["tag", "time", "record"] }
timestamp = { field = "time", unit = "s" }
[archive.rotate]
grace = "5s"
[[archive.output]]
name = "json"
layout = { path = "{field.tag[2]}/{field.tag[3]}/%Y/%m/%d/%H", name = "%Y%m%d-%H%M_{topic}_{partition}_{first}-{end}" }
"""

    def __init__(self, records):
        self.records = records

    def payload(self, number):
        import msgpack

        if number % BROKEN_EVERY == 7:
            return (b"\xc1" + b"%d" % number, b"\x93\xa1", b"\xdd\xff\xff\xff\xff", b"\x91\x92\x01\x02" + b"%d" % number)[number // BROKEN_EVERY % 4]
        return msgpack.packb([[tag, self.event_time(when), record] for tag, when, record in self.of(number)])

    def of(self, number):
        """The entries of a record."""
        for entry in range(self.entries):
            one = number * self.entries + entry
            tag = ".".join(("app", "prod", ("web", "api", "batch")[one % 3], f"node{one % 4}", "log")[: 3 if one % 11 == 0 else 5])
            yield tag, at(number, self.records, self.hours), {"id": one, "msg": f"line {one} \u00e4\n", "bin": b"\xff%d" % one, "f": one / 8}

    @staticmethod
    def event_time(when):
        import msgpack

        seconds = int(when.timestamp())
        return msgpack.ExtType(0, seconds.to_bytes(4, "big") + (when.microsecond * 1000 + 1).to_bytes(4, "big"))

    def is_broken(self, number):
        return number % BROKEN_EVERY == 7

    def expected(self, number):
        if self.is_broken(number):
            return
        for tag, when, record in self.of(number):
            row = {"tag": tag, "time": None, "record": {**record, "bin": base64.b64encode(record["bin"]).decode()}}
            # Compared as text: a double does not hold nanoseconds.
            row["time"] = f"{int(when.timestamp())}.{when.microsecond * 1000 + 1:09}"
            words = [*tag.split("."), NULL, NULL][2:4]
            yield "json", when.strftime(f"{words[0]}/{words[1]}/%Y/%m/%d/%H"), row

    def check_objects(self, keys):
        """One object a minute, folder and batch: the minute in the name is that of all its rows (see rows_of)."""
        for key in keys:
            if not re.fullmatch(r".+/\d{8}-\d{4}_.+_\d_\d+-\d+\.json\.gz", key):
                raise Failed(f"{key} is not named as the layout says")


PIPELINES = {kind.name: kind for kind in (Ltsv, Fluentd)}


def produce(brokers, topic, pipeline):
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": brokers})
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(30)
    failed = []
    producer = Producer({"bootstrap.servers": brokers, "enable.idempotence": True, "compression.type": "lz4", "linger.ms": 20,
                         "delivery.report.only.error": True})
    note = lambda error, _: error and failed.append(error)  # noqa: E731
    for number in range(pipeline.records):
        while True:
            try:
                producer.produce(topic, pipeline.payload(number), partition=number % PARTITIONS, on_delivery=note)
                break
            except BufferError:
                producer.poll(0.05)
    if producer.flush(120) or failed:
        raise Failed(f"records were not delivered: {failed[:1]}")


class Run:
    """One pipeline, its topic, its bucket and its folder."""

    def __init__(self, pipeline, program_path):
        self.pipeline, self.program = pipeline, program_path
        self.id = f"pipeline-{pipeline.name}-{secrets.token_hex(4)}"
        self.url = f"s3://{os.environ['S3_BUCKET']}/proofs/{self.id}"
        self.folder = Path(tempfile.mkdtemp(prefix=f"siltstone-{self.id}-"))
        self.brokers = os.environ["KAFKA_BROKERS"]
        self.config = self.folder / "siltstone.toml"
        self.config.write_text("\n".join([
            "[kafka]", f"brokers = {json.dumps(self.brokers)}", f"group = {json.dumps(self.id)}", "[kafka.client]", '"session.timeout.ms" = 6000',
            "[spool]", f"dir = {json.dumps(str(self.folder / 'spool'))}", "[destinations.main]", f"url = {json.dumps(self.url)}",
            f"endpoint = {json.dumps(os.environ['S3_ENDPOINT'])}", f"region = {json.dumps(os.environ['AWS_REGION'])}",
            "[rotate]", f"records = {max(1_000, pipeline.records // PARTITIONS // 5)}",
            "[[archive]]", 'name = "proof"', f"topics = [{json.dumps(self.id)}]", pipeline.config]))

    def store(self):
        from stores import open_store

        return open_store(self.url)

    def archive(self):
        """Runs, is killed in the middle, and drains."""
        log_path = self.folder / "run.log"
        with open(log_path, "w") as log:
            process = subprocess.Popen([self.program, "run", "-c", self.config], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + PROGRESS_DEADLINE
            while sum(key.endswith(".json") for key, _ in self.store().list() if key.startswith("_siltstone/receipts/")) < PARTITIONS:
                if process.poll() is not None:
                    raise Failed(f"siltstone ended with {process.returncode}:\n{tail(log_path)}")
                if time.monotonic() > deadline:
                    raise Failed(f"no {PARTITIONS} receipts in {PROGRESS_DEADLINE} s:\n{tail(log_path)}")
                time.sleep(0.05)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
        used = measured([self.program, "run", "-c", self.config, "--drain"], self.folder / "drain.log", DRAIN_DEADLINE)
        if used.code != 0:
            raise Failed(f"siltstone run --drain ended with {used.code}:\n{tail(self.folder / 'drain.log')}")

    def check(self):
        """Every row and every dead letter, once, where it belongs."""
        store, pipeline = self.store(), self.pipeline
        keys = [key for key, _ in store.list() if not key.startswith("_siltstone/")]
        dead_keys = [key for key in keys if key.startswith("_dead/")]
        data_keys = [key for key in keys if not key.startswith("_dead/")]
        pipeline.check_objects(data_keys)
        found = Counter()
        for key in data_keys:
            folder = key.rsplit("/", 1)[0]
            for line in gzip.decompress(store.read(key)).splitlines():
                found[folder, canonical(line)] += 1
        wanted, rows = Counter(), 0
        for number in range(pipeline.records):
            for _, folder, row in pipeline.expected(number):
                wanted[folder, canonical(json.dumps(row).encode(), row)] += 1
                rows += 1
        if found != wanted:
            lost, more = wanted - found, found - wanted
            raise Failed(f"{lost.total()} rows are missing, such as {list(lost)[:2]}; {more.total()} are too many, such as {list(more)[:2]}")
        broken = Counter(pipeline.payload(number) for number in range(pipeline.records) if pipeline.is_broken(number))
        letters, stages = Counter(), Counter()
        for key in dead_keys:
            for line in gzip.decompress(store.read(key)).splitlines():
                letter = json.loads(line)
                letters[base64.b64decode(letter["value_base64"])] += 1
                stages[letter["stage"]] += 1
        if letters != broken:
            raise Failed(f"dead letters: {(broken - letters).total()} are missing, {(letters - broken).total()} are too many")
        return {"rows": rows, "objects": len(data_keys), "dead": letters.total(), "dead_objects": len(dead_keys), **self.balance(store)}

    def balance(self, store):
        """What the receipts say, summed up; it must add up for each output."""
        total, outputs, receipts = 0, {}, 0
        for key, _ in store.list():
            if not re.fullmatch(r"_siltstone/receipts/v1/.+\.json", key):
                continue
            receipts += 1
            balance = json.loads(store.read(key))["balance"]
            total += balance["consumed"]
            for output, counts in balance["outputs"].items():
                outputs.setdefault(output, Counter()).update({
                    "archived": counts["archived"], "dead": counts["dead_lettered"], **counts.get("dropped", {})})
        for output, counts in outputs.items():
            if counts.total() != total or total != self.pipeline.records:
                raise Failed(f"the receipts of {output} do not add up to {self.pipeline.records} records: {dict(counts)} of {total}")
        return {"receipts": receipts, **{f"{output}.{what}": count for output, counts in outputs.items() for what, count in counts.items() if count}}

    def clean(self):
        drop_topic(self.brokers, self.id)
        subprocess.run([sys.executable, STORES, "delete", self.url], check=True)
        subprocess.run(["rm", "-rf", "--", self.folder], check=True)


def canonical(line, row=None):
    """A row as one text, whatever the order of its fields; numbers with a fraction as they are written."""
    if row is None:
        row = json.loads(line, parse_float=str)
        return json.dumps(numbers(row), sort_keys=True)
    return json.dumps(numbers(row), sort_keys=True)


def numbers(value):
    """Numbers with a fraction as text, to all their digits."""
    if isinstance(value, dict):
        return {name: numbers(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [numbers(inner) for inner in value]
    if isinstance(value, float):
        return repr(value)
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PIPELINES))
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--release", action="store_true", help="use target/release")
    parser.add_argument("--keep", action="store_true", help="delete neither topic nor objects")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in PIPELINES]:
        parser.error(f"{unknown[0]}: one of {', '.join(PIPELINES)}")
    services(["s3"])
    wrong = 0
    for name in args.names or PIPELINES:
        kind = PIPELINES[name]
        began, run = time.monotonic(), Run(kind(args.records // kind.entries), program(args.release))
        try:
            produce(run.brokers, run.id, run.pipeline)
            run.archive()
            found = run.check()
        except Failed as failed:
            wrong += 1
            print(f"WRONG {name}: {failed}\nleft as it is: {run.url}, {run.folder}", flush=True)
            continue
        told = " ".join(f"{what}={count}" for what, count in found.items())
        print(f"ok {name} records={args.records} kafka={run.pipeline.records} {told} seconds={time.monotonic() - began:.0f}", flush=True)
        if not args.keep:
            run.clean()
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
