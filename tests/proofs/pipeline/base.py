"""What pipelines have in common: records made by number, an archiver that is killed and drained, and what must be found afterwards."""

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
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import cached_property
from pathlib import Path

from trial import ROOT, STORES, Failed, drop_topic, measured, tail

sys.path.append(str(ROOT / "tests" / "reader"))

PARTITIONS = 4
BROKEN_EVERY = 100
START = datetime(2025, 11, 21, 3, tzinfo=timezone.utc)
PROGRESS_DEADLINE = 240
DRAIN_DEADLINE = 600
NULL = "__HIVE_DEFAULT_PARTITION__"


class Pipeline:
    """What goes in, and what must come out. A subclass says `name`, `hours`, `config`, `payload`, and `expected` or `check` of its own."""

    hours = 1
    entries = 1  # rows of one Kafka record
    store = "s3"
    parts = ()  # services beside Kafka and the store, which it may kill

    def __init__(self, records):
        self.records = records

    def start(self):
        """Event time of the first record."""
        return START

    def at(self, number):
        """Event time of a record: they ascend over the hours, to the millisecond."""
        return self.start() + timedelta(milliseconds=number * self.hours * 3_600_000 // self.records)

    def sections(self):
        """More of the configuration, before the archive."""
        return []

    def rotate(self):
        """Batches of a fifth of a Kafka partition."""
        return [f"records = {max(100, self.records // PARTITIONS // 5)}"]

    def payload(self, number):
        raise NotImplementedError

    def is_broken(self, number):
        """One in a hundred, in each Kafka partition."""
        return number % BROKEN_EVERY == number // BROKEN_EVERY % BROKEN_EVERY

    def kind(self, number, kinds):
        """Which of so many ways a broken record is broken: each way in each Kafka partition."""
        return number // (BROKEN_EVERY * PARTITIONS) % kinds

    def expected(self, number):
        """(output, folder, row) of each row."""
        raise NotImplementedError

    def prepare(self, run):
        """Whatever must be there before the configuration is written and the records are made."""

    def produce(self, run):
        """Puts every record into the topic."""
        create_topic(run)
        self.send(run, range(self.records))

    def send(self, run, numbers):
        """Puts these records into the topic."""
        send(run, ((number % PARTITIONS, self.payload(number)) for number in numbers))

    def archive(self, run):
        run.start_and_kill()
        run.drain()

    def rows(self):
        """(output, folder, row) of everything that must be in the archive."""
        for number in range(self.records):
            yield from self.expected(number)

    def broken(self):
        """The payloads that must be dead letters."""
        return Counter(self.payload(number) for number in range(self.records) if self.is_broken(number))

    def clean(self, run):
        """Takes away what `prepare` made."""

    def rows_of(self, key, data):
        """The rows of an object, each in its one form."""
        for line in gzip.decompress(data).splitlines():
            yield canonical(line)

    def check_objects(self, keys):
        """More about names than their folders."""

    def check(self, run):
        """Every row and every dead letter, once, where it belongs."""
        data_keys, dead_keys = run.keys()
        self.check_objects(data_keys)
        found = Counter()
        for key in data_keys:
            folder = key.rsplit("/", 1)[0]
            found.update((folder, row) for row in self.rows_of(key, run.read(key)))
        wanted = Counter((folder, canonical(None, row)) for _, folder, row in self.rows())
        same(found, wanted, "rows")
        letters, _ = run.dead_letters(dead_keys)
        same(letters, self.broken(), "dead letters")
        return {"rows": wanted.total(), "objects": len(data_keys), "dead": letters.total(), "dead_objects": len(dead_keys), **run.balance()}


class Run:
    """One pipeline, its topic, its prefix in the store and its folder."""

    def __init__(self, pipeline, program_path):
        self.pipeline, self.program = pipeline, program_path
        self.id = f"pipeline-{pipeline.name}-{secrets.token_hex(4)}"
        bucket = {"s3": ("s3", "S3_BUCKET"), "azure": ("az", "AZURE_CONTAINER")}[pipeline.store]
        self.url = f"{bucket[0]}://{os.environ[bucket[1]]}/proofs/{self.id}"
        self.folder = Path(tempfile.mkdtemp(prefix=f"siltstone-{self.id}-"))
        self.brokers = os.environ["KAFKA_BROKERS"]
        self.config = self.folder / "siltstone.toml"

    def write_config(self):
        self.config.write_text("\n".join([
            "[kafka]", f"brokers = {json.dumps(self.brokers)}", f"group = {json.dumps(self.id)}", "[kafka.client]", '"session.timeout.ms" = 6000',
            "[spool]", f"dir = {json.dumps(str(self.folder / 'spool'))}", "[destinations.main]", f"url = {json.dumps(self.url)}", *self.destination(),
            *self.pipeline.sections(), "[rotate]", *self.pipeline.rotate(),
            "[[archive]]", 'name = "proof"', f"topics = [{json.dumps(self.id)}]", self.pipeline.config]))

    def destination(self):
        if self.pipeline.store == "azure":
            return ["use_emulator = true"]
        return [f"endpoint = {json.dumps(os.environ['S3_ENDPOINT'])}", f"region = {json.dumps(os.environ['AWS_REGION'])}"]

    @contextmanager
    def started(self, log_name, *arguments):
        """`siltstone run` beside what is done meanwhile, and SIGKILL behind it."""
        with open(self.folder / log_name, "w") as log:
            process = subprocess.Popen([self.program, "run", "-c", self.config, *arguments], stdout=log, stderr=log)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()

    def start_and_kill(self, receipts=PARTITIONS, before_kill=lambda process: None):
        """Runs until there are so many receipts, then SIGKILL."""
        with self.started("run.log") as process:
            self.wait_for_receipts(process, receipts)
            before_kill(process)

    def wait_for_receipts(self, process, receipts):
        self.wait(process, "run.log", f"{receipts} receipts", lambda: self.receipts() >= receipts)

    def wait(self, process, log_name, what, holds):
        """Until it holds; meanwhile the process may not end."""
        log_path, deadline = self.folder / log_name, time.monotonic() + PROGRESS_DEADLINE
        while not holds():
            if process.poll() is not None:
                raise Failed(f"siltstone ended with {process.returncode} instead of {what}:\n{tail(log_path)}")
            if time.monotonic() > deadline:
                raise Failed(f"no {what} in {PROGRESS_DEADLINE} s:\n{tail(log_path)}")
            time.sleep(0.05)

    def wait_for_end(self, process, log_name):
        """Until a drain that was started is done."""
        try:
            code = process.wait(DRAIN_DEADLINE)
        except subprocess.TimeoutExpired:
            code = f"nothing in {DRAIN_DEADLINE} s"
        if code != 0:
            raise Failed(f"siltstone run --drain ended with {code}:\n{tail(self.folder / log_name)}")

    def drain(self):
        """`siltstone run --drain` to its end."""
        log_path = self.folder / "drain.log"
        used = measured([self.program, "run", "-c", self.config, "--drain"], log_path, DRAIN_DEADLINE)
        if used.code != 0:
            raise Failed(f"siltstone run --drain ended with {used.code}:\n{tail(log_path)}")
        return used

    @cached_property
    def store(self):
        from stores import open_store

        return open_store(self.url)

    def receipts(self):
        return sum(key.endswith(".json") for key, _ in self.store.list() if key.startswith("_siltstone/receipts/"))

    def read(self, key):
        return self.store.read(key)

    def keys(self):
        """The keys of data, and those of dead letters."""
        keys = [key for key, _ in self.store.list() if not key.startswith("_siltstone/")]
        return [key for key in keys if not key.startswith("_dead/")], [key for key in keys if key.startswith("_dead/")]

    def dead_letters(self, keys):
        """How often each payload is there, and how often each stage and reason without its numbers."""
        letters, reasons = Counter(), Counter()
        for key in keys:
            for line in gzip.decompress(self.read(key)).splitlines():
                letter = json.loads(line)
                letters[base64.b64decode(letter["value_base64"])] += 1
                reasons[letter["stage"], re.sub(r"\d+", "N", letter["reason"])] += 1
        return letters, reasons

    def balance(self, records=None):
        """What the receipts say, summed up; it must add up for each output."""
        records = self.pipeline.records if records is None else records
        total, outputs, receipts = 0, {}, 0
        for key, _ in self.store.list():
            if not re.fullmatch(r"_siltstone/receipts/v1/.+\.json", key):
                continue
            receipts += 1
            balance = json.loads(self.read(key))["balance"]
            total += balance["consumed"]
            for output, counts in balance["outputs"].items():
                outputs.setdefault(output, Counter()).update({
                    "archived": counts["archived"], "dead": counts["dead_lettered"], **counts.get("dropped", {})})
        for output, counts in outputs.items():
            if counts.total() != total or total != records:
                raise Failed(f"the receipts of {output} do not add up to {records} records: {dict(counts)} of {total}")
        return {"receipts": receipts, **{f"{output}.{what}": count for output, counts in outputs.items() for what, count in counts.items() if count}}

    def clean(self):
        self.pipeline.clean(self)
        drop_topic(self.brokers, self.id)
        subprocess.run([sys.executable, STORES, "delete", self.url], check=True)
        subprocess.run(["rm", "-rf", "--", self.folder], check=True)


def create_topic(run):
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": run.brokers})
    admin.create_topics([NewTopic(run.id, PARTITIONS, 1)])[run.id].result(30)


def send(run, records):
    """Puts each (Kafka partition, payload) into the topic."""
    from confluent_kafka import Producer

    failed = []
    producer = Producer({"bootstrap.servers": run.brokers, "enable.idempotence": True, "compression.type": "lz4", "linger.ms": 20,
                         "delivery.report.only.error": True})
    note = lambda error, _: error and failed.append(error)  # noqa: E731
    for partition, payload in records:
        while True:
            try:
                producer.produce(run.id, payload, partition=partition, on_delivery=note)
                break
            except BufferError:
                producer.poll(0.05)
    if producer.flush(120) or failed:
        raise Failed(f"records were not delivered: {failed[:1]}")


def same(found, wanted, what):
    """Two counts of the same things, or what differs."""
    if found != wanted:
        lost, more = wanted - found, found - wanted
        raise Failed(f"{what}: {lost.total()} are missing, such as {list(lost)[:2]}; {more.total()} are too many, such as {list(more)[:2]}")


def canonical(line, row=None):
    """A row as one text, whatever the order of its fields; numbers with a fraction as they are written."""
    if row is None:
        row = json.loads(line, parse_float=str)
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
