"""An archive that is begun late, proven complete, damaged, mended and brought back to Kafka.

    scripts/rescue.sh [--records 60000] [--seed S] [--release] [--keep]

1. A topic is full before its archiver starts, which begins at the end and archives what comes from then on.
2. What is older is backfilled by three processes of one job, each killed in the middle of the job and started again, while records come in
   and the live group archives them.
3. `verify --deep --against-kafka` must find nothing.
4. Ten objects are deleted, cut short or changed by one bit. `verify --deep` must name these ten and nothing else.
5. `backfill --missing` must put back exactly those, and leave every other object as it was.
6. Its windows are compacted, and `verify` must find nothing.
7. All is restored to a fresh topic by a process that is killed in the middle and started again. A plain consumer then reads both topics: keys,
   payloads, headers, timestamps and Kafka partitions must be the same, record by record.

Records have keys and none, headers with repeats and nulls, tombstones, empty and binary payloads, and times out of order.
"""

import argparse
import json
import os
import random
import secrets
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "reader"))

from compare_topics import differences, records
from stores import open_store
from trial import Failed, Trial, drop_topic, program, services, tail

PARTITIONS = 6
CHUNK = 1_000
BASE_MS = int(time.time() * 1000) - 6 * 3_600_000
DEADLINE = 180
DAMAGED = 10


def record(number, dice):
    """Key, payload, headers and time of one record, of every kind that Kafka has."""
    key = dice.choice([None, b"", f"user-{number % 997}".encode(), bytes([0, 255, number % 256])])
    payload = dice.choice([None, b"", dice.randbytes(dice.randrange(1, 300)), json.dumps({"id": number}).encode(), "zwölf".encode()])
    names = dice.choices(["trace", "tenant", "", "größe"], k=dice.randrange(0, 4))
    headers = [(name, dice.choice([None, b"", b"value", bytes([200, 0])])) for name in names]
    return key, payload, headers, BASE_MS + number % 5 * 1_700_000 + dice.randrange(0, 900_000)


class Rescue:
    def __init__(self, args):
        self.args, self.dice = args, random.Random(args.seed)
        self.program = program(args.release)
        self.trial = Trial("rescue", "s3", "gzip")
        self.target = f"{self.trial.topic}-back"
        self.config = self.write_config()
        self.store = open_store(self.trial.url)
        self.started = []
        self.produced = 0

    def write_config(self):
        trial = self.trial
        lines = [
            "[kafka]", f"brokers = {json.dumps(trial.brokers)}", f"group = {json.dumps(trial.group)}", 'start = "latest"',
            "[kafka.client]", '"session.timeout.ms" = "6000"', '"heartbeat.interval.ms" = "2000"',
            "[spool]", f"dir = {json.dumps(str(trial.folder / 'spool'))}",
            "[destinations.main]", f"url = {json.dumps(trial.url)}", f"endpoint = {json.dumps(os.environ['S3_ENDPOINT'])}",
            f"region = {json.dumps(os.environ['AWS_REGION'])}",
            "[rotate]", 'age = "2s"',
            "[[archive]]", 'name = "rescue"', f"topics = [{json.dumps(trial.topic)}]", 'decode = "raw"',
            "[[archive.output]]", 'name = "records"', 'format = "envelope"', 'layout = { preset = "hive" }']
        path = trial.folder / "siltstone.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    # ---- Kafka ------------------------------------------------------------------------------------------------------

    def create(self, topic):
        from confluent_kafka.admin import AdminClient, NewTopic

        admin = AdminClient({"bootstrap.servers": self.trial.brokers})
        for answer in admin.create_topics([NewTopic(topic, PARTITIONS, 1)]).values():
            answer.result(30)

    def produce(self, count, dice=None):
        from confluent_kafka import Producer

        first, dice = self.produced, dice or self.dice
        self.produced += count
        producer = Producer({"bootstrap.servers": self.trial.brokers, "enable.idempotence": True, "linger.ms": 20})
        for number in range(first, first + count):
            key, payload, headers, time_ms = record(number, dice)
            while True:
                try:
                    producer.produce(self.trial.topic, key=key, value=payload, headers=headers, timestamp=time_ms, partition=number % PARTITIONS)
                    break
                except BufferError:
                    producer.poll(0.1)
        if producer.flush(60):
            raise Failed("Kafka did not take all records")

    def feed(self, ends):
        """Records that come in until the event."""
        dice = random.Random(self.args.seed + 1)
        while not ends.is_set():
            self.produce(60, dice)
            ends.wait(0.1)

    def ends(self, topic=None):
        from confluent_kafka import Consumer, TopicPartition

        topic = topic or self.trial.topic
        consumer = Consumer({"bootstrap.servers": self.trial.brokers, "group.id": "rescue-look"})
        ends = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=30)[1] for p in range(PARTITIONS)}
        consumer.close()
        return ends

    def committed(self):
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": self.trial.brokers, "group.id": self.trial.group})
        found = consumer.committed([TopicPartition(self.trial.topic, p) for p in range(PARTITIONS)], timeout=30)
        consumer.close()
        return {one.partition: one.offset for one in found}

    # ---- processes --------------------------------------------------------------------------------------------------

    def start(self, name, *words):
        log = open(self.trial.folder / f"{name}.log", "a")
        out = open(self.trial.folder / f"{name}.out", "a")
        self.started.append(subprocess.Popen([self.program, *words, "-c", self.config], stdout=out, stderr=log))
        return self.started[-1]

    def stop(self):
        """Ends what runs still."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()

    def said(self, name):
        return (self.trial.folder / f"{name}.out").read_text()

    def ended(self, name, process, expected):
        code = process.wait(DEADLINE)
        if code != expected:
            raise Failed(f"{name} ended with {code}:\n{self.said(name)[-3000:]}\n{tail(self.trial.folder / f'{name}.log')}")

    def to_its_end(self, name, expected, *words):
        self.ended(name, self.start(name, *words), expected)
        return [json.loads(line) for line in self.said(name).splitlines()]

    def until(self, what, holds):
        deadline = time.monotonic() + DEADLINE
        while not holds():
            if time.monotonic() > deadline:
                raise Failed(f"not within {DEADLINE} s: {what}")
            time.sleep(0.2)

    def killed(self, words, count, what, done, whole):
        """`count` processes that do the same, each killed once in the middle of it and started again, to the end of all. `done()` of `whole`:
        how far they are."""
        processes = [[f"{what}-{number}", self.start(f"{what}-{number}", *words)] for number in range(count)]
        for number, one in enumerate(processes):
            name, process = one
            level = whole * self.dice.uniform(number + 0.3, number + 1) / (count + 1)
            self.until(f"{what} is {level:.0f} of {whole} far", lambda: process.poll() is not None or done() >= level)
            if process.poll() is not None or done() >= whole:
                raise Failed(f"{name} was through before it could be killed: more --records are needed")
            process.kill()
            process.wait()
            one[1] = self.start(name, *words)
        for name, process in processes:
            self.ended(name, process, 0)
        return count

    # ---- the proof --------------------------------------------------------------------------------------------------

    def run(self):
        began, count = time.monotonic(), self.args.records
        self.create(self.trial.topic)
        self.create(self.target)
        self.produce(count)
        live = self.start("live", "run")
        self.until("the live group has begun", lambda: live.poll() is not None or all(offset > 0 for offset in self.committed().values()))
        self.produce(count // 10)
        words = ["backfill", "--topic", self.trial.topic, "--job", "older", "--chunk", str(CHUNK), "--json"]
        archived, through = sum(self.committed().values()), threading.Event()
        feeding = threading.Thread(target=self.feed, args=(through,))
        feeding.start()
        try:
            kills = self.killed(words, 3, "backfill", lambda: self.backfilled(count // PARTITIONS), count // CHUNK)
        finally:
            through.set()
            feeding.join()
        if sum(self.committed().values()) <= archived:
            raise Failed("the live group has archived nothing beside the backfill")
        self.until("the live group has all", lambda: self.committed() == self.ends())
        self.verified("complete", 0, "--against-kafka")
        self.damage()
        self.mended()
        live.terminate()
        self.ended("live", live, 0)
        self.verified("at-the-end", 0, "--against-kafka")
        objects = len(self.objects())
        self.to_its_end("compact", 0, "compact", "--before", "3h", "--min-age", "0s", "--json")
        if len(self.objects()) >= objects:
            raise Failed(f"{objects} objects before they were compacted, and {len(self.objects())} behind it")
        self.verified("compacted", 0)
        words = ["restore", "--topic", self.trial.topic, "--to-topic", self.target, "--preserve-partitions", "--job", "back", "--json"]
        kills += self.killed(words, 1, "restore", lambda: sum(self.ends(self.target).values()), self.produced)
        compared = self.compare()
        print(f"ok rescue records={compared} kills={kills} objects={objects} compacted={len(self.objects())} damaged={DAMAGED} mended={DAMAGED} "
              f"seconds={time.monotonic() - began:.0f}", flush=True)
        if not self.args.keep:
            for topic in (self.trial.topic, self.target):
                drop_topic(self.trial.brokers, topic)
            self.trial.clean()

    def backfilled(self, below):
        """Receipts of batches that begin below that offset."""
        client, prefix = self.store.client, f"{self.store.prefix}_siltstone/receipts/v1/{self.trial.topic}/"
        names = []
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.store.bucket, Prefix=prefix):
            names.extend(one["Key"].rsplit("/", 1)[1] for one in page.get("Contents", ()))
        return sum(name.endswith(".json") and int(name.split(".")[0]) < below for name in names)

    def objects(self):
        """Every data object with what S3 says of it: when it was written and what it is."""
        client, prefix = self.store.client, self.store.prefix
        found = {}
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.store.bucket, Prefix=prefix):
            for one in page.get("Contents", ()):
                key = one["Key"][len(prefix):]
                if not key.startswith("_siltstone/") and not key.endswith("/"):
                    found[key] = (one["ETag"], one["LastModified"], one["Size"])
        return found

    def verified(self, name, expected, *words):
        *findings, summary = self.to_its_end(f"verify-{name}", expected, "verify", "--deep", "--json", *words)
        findings = [finding for finding in findings if finding["kind"] != "note"]
        if (expected == 0) != (not findings):
            raise Failed(f"verify {name}: {findings}, {summary}")
        return findings

    def damage(self):
        self.before = self.objects()
        self.harmed = {}
        for number, key in enumerate(self.dice.sample(sorted(self.before), DAMAGED)):
            full, bytes_ = self.store.prefix + key, self.store.read(key)
            kind = ("missing", "size", "checksum")[number % 3]
            if kind == "missing":
                self.store.delete_full(full)
            else:
                position = self.dice.randrange(len(bytes_))
                changed = bytes_[:-1] if kind == "size" else bytes_[:position] + bytes([bytes_[position] ^ 1]) + bytes_[position + 1:]
                # With what the store was told of it before: only its bytes are not what they were.
                metadata = self.store.client.head_object(Bucket=self.store.bucket, Key=full)["Metadata"]
                self.store.client.put_object(Bucket=self.store.bucket, Key=full, Body=changed, Metadata=metadata)
            self.harmed[key] = kind
        found = {finding["key"]: finding["kind"] for finding in self.verified("damaged", 8)}
        if found != self.harmed:
            raise Failed(f"verify found {found} and not {self.harmed}")
        self.after_harm = self.objects()

    def mended(self):
        lines = self.to_its_end("missing", 0, "backfill", "--topic", self.trial.topic, "--missing", "--deep", "--job", "mend", "--json")
        after = self.objects()
        if set(after) != set(self.before):
            raise Failed(f"other objects than before: {set(after) ^ set(self.before)}")
        touched = {key for key in after if after[key] != self.after_harm.get(key)}
        if touched != set(self.harmed):
            raise Failed(f"backfill --missing has written {sorted(touched)} and not {sorted(self.harmed)}")
        other = [key for key in touched if after[key][2] != self.before[key][2]]
        if other:
            raise Failed(f"not of the size that they had: {other}")
        self.verified("mended", 0)
        return lines

    def compare(self):
        """Records that both topics hold, the same in the same order."""
        archived, restored = (records(self.trial.brokers, topic) for topic in (self.trial.topic, self.target))
        if found := list(differences(archived, restored)):
            raise Failed(f"{len(found)} differences between the topic and what came back: {found[:5]}")
        count = sum(len(of) for of in archived.values())
        if count != self.produced:
            raise Failed(f"{count} records in Kafka")
        return count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    parser.add_argument("--release", action="store_true", help="use target/release")
    parser.add_argument("--keep", action="store_true", help="delete neither topics nor objects")
    args = parser.parse_args()
    rescue = None
    try:
        services(["s3"])
        rescue = Rescue(args)
        rescue.run()
    except Failed as failed:
        where = f", left as it is: {rescue.trial.folder}" if rescue else ""
        sys.exit(f"WRONG, seed {args.seed}: {failed}{where}")
    finally:
        if rescue:
            rescue.stop()


if __name__ == "__main__":
    main()
