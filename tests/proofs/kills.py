"""Two archivers of one group under SIGKILL, while records keep coming: every id exactly once, or the proof fails.

    scripts/kills.sh [--kills 20] [--format gzip|parquet] [--rate 5000] [--seed S] [--release] [--keep]

Records are produced all the time, with event times anywhere in four hours, so that four windows are open always. Half of the
kills come at random times and hit either process. Half are aimed: 0 to 200 ms after a new data object appears in the bucket,
more often early than late, at the process that uploaded it; `no receipt` and `no commit` count those that came before the
batch's receipt and between receipt and commit. The victim starts again at once, half of the times with an empty spool. At
the end producing stops, both catch up and get SIGTERM, a `--drain` run must find everything done, and the independent reader
counts ids and checks the receipts. The schedule depends on the seed; what the processes were doing at that moment does not.
What happened when is in events.log of the folder that a failure leaves.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from cast import STOP_DEADLINE, Archiver, Bucket, aim, uploader
from trial import FORMATS, LOGS, Failed, Trial, drain, drop_topic, program, services, tail

PARTITIONS = 4
HOURS = 4
RANDOM_WAIT = (0.2, 6.0)
PROGRESS_DEADLINE = 90  # seconds without any new object before a kill: something hangs
CATCH_UP_DEADLINE = 180
RECORDS_MAX = 5_000_000  # of the producer, which is stopped long before
CLIENT = {"session.timeout.ms": "6000", "heartbeat.interval.ms": "2000"}
ROTATE = {"size": "512KiB", "age": "3s"}


class Producer:
    """Records without end, until it is stopped."""

    def __init__(self, trial, args):
        self.log_path = trial.folder / "producer.log"
        self.log = open(self.log_path, "w")
        command = [sys.executable, LOGS, "produce", "--brokers", trial.brokers, "--topic", trial.topic, "--records", str(RECORDS_MAX),
                   "--rate", str(args.rate), "--until-stopped", *set_arguments(args)]
        self.process = subprocess.Popen([str(word) for word in command], stdout=self.log, stderr=self.log)

    def must_run(self):
        if self.process.poll() is not None:
            raise Failed(f"the producer ended by itself:\n{tail(self.log_path)}")

    def stop(self):
        """Records produced in all."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        match = re.search(r"^produced (\d+) records", self.log_path.read_text(), re.MULTILINE)
        if self.process.returncode != 0 or not match:
            raise Failed(f"the producer failed:\n{tail(self.log_path)}")
        return int(match[1])


def set_arguments(args):
    return ["--seed", str(args.seed), "--partitions", str(PARTITIONS), "--hours", str(HOURS), "--mixed"]


def admin_client(brokers):
    from confluent_kafka.admin import AdminClient

    return AdminClient({"bootstrap.servers": brokers})


class Siege:
    """The whole proof."""

    def __init__(self, args):
        self.args, self.random = args, random.Random(args.seed)
        self.trial = Trial("kills", "s3", args.format)
        self.program = program(args.release)
        self.archivers = [self.archiver(name) for name in ("first", "second")]
        self.bucket = Bucket.of_s3([f"proofs/{self.trial.id}"])
        self.admin = admin_client(self.trial.brokers)
        self.events = open(self.trial.folder / "events.log", "w", buffering=1)
        self.producer = None
        self.found = {"no receipt": 0, "no commit": 0, "done": 0}  # by aimed kills

    def archiver(self, name):
        config = self.trial.write_config(name, f"spool-{name}", ROTATE, CLIENT)
        return Archiver(name, self.program, self.trial.folder, config)

    def note(self, text):
        self.events.write(f"{time.time():.3f} {text}\n")

    def run(self):
        began = time.monotonic()
        self.producer = Producer(self.trial, self.args)
        self.wait_for_topic()
        for archiver in self.archivers:
            archiver.start()
        self.wait_for_object("the first")
        for number, (aimed, empty) in enumerate(self.schedule()):
            self.kill(number + 1, aimed, empty)
        records = self.producer.stop()
        self.note(f"produced {records}")
        self.catch_up()
        for archiver in self.archivers:
            archiver.must_run()
            archiver.stop()
        for archiver in self.archivers:
            archiver.stopped()
        drain(self.trial, self.program, self.trial.write_config("drain", "spool-drain"), "drain", STOP_DEADLINE)
        found = self.trial.check(records, set_arguments(self.args))
        self.report(records, found, time.monotonic() - began)

    def schedule(self):
        """(aimed, empty spool) of each kill: half and half of both, in an order that the seed decides."""
        count = self.args.kills
        aimed = [number < count // 2 for number in range(count)]
        empty = [number % 2 == 0 for number in range(count)]
        self.random.shuffle(aimed)
        self.random.shuffle(empty)
        return zip(aimed, empty)

    def kill(self, number, aimed, empty):
        victim, state = self.random.choice(self.archivers), ""
        if aimed:
            found = self.wait_for_object(f"kill {number}")
            batch = self.bucket.batch(found)
            victim = uploader(self.archivers, batch) or victim
            delay = aim(self.random)
        else:
            found, delay = "", self.random.uniform(*RANDOM_WAIT)
        self.pause(delay)
        victim.kill()
        if aimed:
            state = self.state(batch)
            self.found[state] += 1
        if empty:
            victim.empty_spool()
        victim.start()
        self.note(f"kill {number}: {victim.name} {'aimed' if aimed else 'random'}, {delay * 1000:.0f} ms after {found or 'the one before'}, "
                  f"{state}, {'empty' if empty else 'same'} spool, {len(self.bucket.seen)} objects")

    def state(self, batch):
        """How far a batch has come. Nobody else can carry it on before the group has missed the dead member."""
        if not self.bucket.has_receipt(batch):
            return "no receipt"
        return "done" if self.committed().get(int(batch["partition"]), -1) >= int(batch["end"]) else "no commit"

    def everybody_must_run(self):
        self.producer.must_run()
        for archiver in self.archivers:
            archiver.must_run()

    def pause(self, seconds):
        """Lets a time pass that is part of the schedule."""
        time.sleep(seconds)
        self.everybody_must_run()

    def wait_for_object(self, what):
        self.bucket.new()
        deadline = time.monotonic() + PROGRESS_DEADLINE
        while not (fresh := self.bucket.new()):
            self.everybody_must_run()
            if time.monotonic() > deadline:
                logs = "\n".join(f"---- {a.name}\n{tail(a.log_path, 15)}" for a in self.archivers)
                raise Failed(f"{what}: no new object in {PROGRESS_DEADLINE} s\n{logs}")
            time.sleep(0.002)
        return min(fresh)

    def wait_for_topic(self):
        deadline = time.monotonic() + 60
        while self.trial.topic not in self.admin.list_topics(timeout=10).topics:
            self.producer.must_run()
            if time.monotonic() > deadline:
                raise Failed(f"topic {self.trial.topic} did not appear")
            time.sleep(0.1)

    def committed(self):
        """Committed offset of each Kafka partition that has one."""
        from confluent_kafka import ConsumerGroupTopicPartitions

        answer = self.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(self.trial.group)])[self.trial.group].result(30)
        return {found.partition: found.offset for found in answer.topic_partitions if found.topic == self.trial.topic}

    def catch_up(self):
        """Waits until everything is committed."""
        sys.path.append(str(LOGS.parent))
        from logs import topic_ends

        ends, deadline = topic_ends(self.trial.brokers, self.trial.topic), time.monotonic() + CATCH_UP_DEADLINE
        while True:
            committed = self.committed()
            lag = sum(end - max(committed.get(partition, first), first) for partition, (first, end) in ends.items())
            if lag == 0:
                break
            for archiver in self.archivers:
                archiver.must_run()
            if time.monotonic() > deadline:
                raise Failed(f"{lag} offsets are still not committed {CATCH_UP_DEADLINE} s after the last record")
            time.sleep(0.2)
        self.note("caught up")

    def report(self, records, found, seconds):
        text = "".join(archiver.log_path.read_text(errors="replace") for archiver in self.archivers)
        warnings, errors = len(re.findall(r"\bWARN\b", text)), len(re.findall(r"\bERROR\b", text))
        columns = {"format": self.args.format, "kills": self.args.kills, "aimed": sum(self.found.values()),
                   "no receipt": self.found["no receipt"], "no commit": self.found["no commit"], "records": records, "objects": found["objects"],
                   "receipts": found["receipts"], "duplicated": found["duplicated"], "lost": found["lost"],
                   "wrong hour": found["wrong_hour"], "WARN": warnings, "ERROR": errors, "seconds": round(seconds)}
        widths = [max(len(name), len(str(value))) for name, value in columns.items()]
        for row in (columns.keys(), columns.values()):
            print("  ".join(f"{value!s:>{width}}" for value, width in zip(row, widths)), flush=True)
        if errors:
            lines = "\n".join(line for line in text.splitlines() if re.search(r"\bERROR\b", line))
            raise Failed(f"a killed process is no reason for an error in the log of a living one:\n{lines}")

    def end(self):
        """Whatever happened: nothing of ours stays alive."""
        for process in [archiver.process for archiver in self.archivers] + [self.producer and self.producer.process]:
            if process and process.poll() is None:
                process.kill()
                process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--format", choices=sorted(FORMATS), default="gzip")
    parser.add_argument("--rate", type=float, default=5000, help="records a second")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--release", action="store_true", help="use target/release")
    parser.add_argument("--keep", action="store_true", help="delete neither topic nor objects")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    siege = None
    try:
        services(["s3"])
        siege = Siege(args)
        siege.run()
    except Failed as failed:
        place = f"\nleft as it is: {siege.trial.url}, {siege.trial.folder}" if siege and "left as it is" not in str(failed) else ""
        sys.exit(f"error: {failed}{place}")
    finally:
        if siege:
            siege.end()
    if not args.keep:
        drop_topic(siege.trial.brokers, siege.trial.topic)
        siege.trial.clean()


if __name__ == "__main__":
    main()
