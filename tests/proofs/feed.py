#!/usr/bin/env python3
"""One producer that never rests: records of scripts/logs.py, and a ledger that says what became of every id.

    feed.py --brokers B --topic T --kind plain|transactions|compacted|large --ledger FILE [--lane 0 --lanes 1] --rate R
            --seed S --partitions P --hours H

Ids go in blocks of BLOCK, block b to lane b modulo --lanes, so that several producers can share a topic. The ledger has a
line a block, written only after the brokers' answer: `acked FIRST END` is in the log for good, `aborted` was written in a
transaction that was aborted, `unsent` the same, but not all of it was in the log before; `unknown` got no answer that tells.
SIGTERM ends it; the last line of the ledger, `tops {...}`, is the highest acked offset of each Kafka partition.

`transactions`: of one to eight blocks, one in ten held open for seconds, three in ten aborted after everything was written, and
one in fifty left by a producer that goes away when it is about to commit: it may have asked for it and not waited for the answer.
`compacted`: three ids in four have a key of their own, so that nothing may take them away; the fourth shares its key with
others of its Kafka partition, and Kafka may remove it as soon as a later one is there.
`large`: what the rate allows is saved up and sent at once, so that the archiver's objects are large.
"""

import argparse
import json
import random
import signal
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "scripts"))
from logs import Logs  # noqa: E402

BLOCK = 64
IDS_MAX = 100_000_000
SHARED_KEYS = 40
ABORTED, HELD_OPEN, ABANDONED = 0.3, 0.1, 0.02  # shares of transactions
HELD_SECONDS = (0.5, 4.0)
BEHIND_MAX = 15  # seconds behind the rate
SAVED_UP = 18_500  # ids of `large` that are sent at once: 7 MB
PATIENCE = 240  # seconds for the brokers to decide a transaction


def key_of(number, partition):
    """The key of a record in a compacted topic, and whether others have the same."""
    if number % 4 == 3:
        return b"shared-%d-%d" % (partition, number // 4 % SHARED_KEYS), True
    return b"id-%d" % number, False


class Ledger:
    def __init__(self, path):
        self.file, self.tops, self.failure = open(path, "w", buffering=1), {}, None

    def note(self, outcome, first, end):
        self.file.write(f"{outcome} {first} {end}\n")

    def acked(self, partition, offset):
        if offset > self.tops.get(partition, -1):
            self.tops[partition] = offset

    def close(self):
        self.file.write(f"tops {json.dumps(self.tops)}\n")
        self.file.close()


class Block:
    """Ids on their way; knows when all of them are there."""

    def __init__(self, ledger, first, transactional):
        self.ledger, self.first, self.transactional = ledger, first, transactional
        self.missing, self.offsets = BLOCK, []

    def delivered(self, error, message):
        if error is not None:
            self.ledger.failure = self.ledger.failure or error
            return
        self.missing -= 1
        self.offsets.append((message.partition(), message.offset()))
        if self.missing == 0 and not self.transactional:
            self.done("acked")

    def done(self, outcome):
        self.ledger.note(outcome, self.first, self.first + BLOCK)
        if outcome == "acked":
            for place in self.offsets:
                self.ledger.acked(*place)


class Ending:
    """SIGTERM, asked for instead of handled: a handler that sets a threading.Event while its own thread is about to wait for
    that event stops that thread for good, as both take the event's lock. Made before other threads are."""

    def __init__(self):
        self.came = False
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait(self, seconds):
        """Whether it came, at the latest after `seconds`."""
        self.came = self.came or signal.sigtimedwait({signal.SIGTERM}, max(0.0, seconds)) is not None
        return self.came


class Undecided(Exception):
    """A transaction of which nobody knows the outcome."""


class Feed:
    def __init__(self, args):
        self.args, self.ending = args, Ending()
        self.logs = Logs(IDS_MAX, args.seed, hours=args.hours, partitions=args.partitions, mixed=True)
        self.ledger = Ledger(args.ledger)
        self.random = random.Random(f"{args.seed}/{args.lane}")
        self.transactional = args.kind == "transactions"
        self.saved_up = SAVED_UP if args.kind == "large" else 0
        self.connect()

    def connect(self):
        from confluent_kafka import Producer

        settings = {"bootstrap.servers": self.args.brokers, "enable.idempotence": True, "compression.type": "lz4", "linger.ms": 30}
        if self.transactional:
            settings["transactional.id"] = f"{self.args.topic}-{self.args.lane}"
        else:
            settings["message.timeout.ms"] = 0  # for as long as it takes
        self.producer = Producer(settings)
        if self.transactional:
            self.insist(self.producer.init_transactions)

    def insist(self, call):
        """Repeats what may be repeated. Gives the error that a transaction must be aborted for, if there is one."""
        from confluent_kafka import KafkaException

        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                call(30)
                return None
            except KafkaException as failed:
                error = failed.args[0]
                if error.txn_requires_abort():
                    return error
                if not error.retriable() or time.monotonic() > deadline:
                    raise Undecided(str(error)) from None

    def send(self, block_number):
        block = Block(self.ledger, block_number * BLOCK, self.transactional)
        for number in range(block.first, block.first + BLOCK):
            partition, key = self.logs.partition(number), None
            if self.args.kind == "compacted":
                key, _ = key_of(number, partition)
            while True:
                try:
                    self.producer.produce(self.args.topic, self.logs.line(number), key, partition, block.delivered)
                    break
                except BufferError:
                    self.producer.poll(0.05)
        self.producer.poll(0)
        return block

    def transaction(self, numbers):
        from confluent_kafka import KafkaException

        blocks, outcome = [Block(self.ledger, number * BLOCK, True) for number in numbers], "unknown"
        try:
            self.producer.begin_transaction()
            blocks = [self.send(number) for number in numbers]
            self.producer.flush(60)  # what is aborted was in the log before
            if self.random.random() < HELD_OPEN:
                self.ending.wait(self.random.uniform(*HELD_SECONDS))
            if self.random.random() < ABANDONED:
                self.abandon()
            wanted = "aborted" if self.random.random() < ABORTED else "acked"
            if wanted == "acked" and self.insist(self.producer.commit_transaction) is None:
                outcome = "acked"
            else:
                self.insist(self.producer.abort_transaction)
                outcome = "unsent" if any(block.missing for block in blocks) else "aborted"
        except (Undecided, KafkaException) as failed:
            print(f"transaction of ids from {blocks[0].first}: {failed}; going on with a new producer", flush=True)
            self.connect()
        self.ledger.failure = None  # the transaction's outcome says it all
        for block in blocks:
            block.done(outcome)

    def abandon(self):
        """Goes away; half of the times it asks for the commit before."""
        from confluent_kafka import KafkaException

        if self.random.random() < 0.5:
            try:
                self.producer.commit_transaction(self.random.uniform(0.001, 0.02))
            except KafkaException:
                pass
        raise Undecided("left without waiting for the answer")

    def run(self):
        began, sent, block = time.monotonic(), 0, self.args.lane
        while not self.ending.wait(0):
            count = self.random.choice((1, 2, 4, 8)) if self.transactional else 1
            numbers = [block + step * self.args.lanes for step in range(count)]
            if self.transactional:
                self.transaction(numbers)
            else:
                self.send(numbers[0])
            if self.ledger.failure:
                sys.exit(f"error: a record was not delivered: {self.ledger.failure}")
            block, sent = numbers[-1] + self.args.lanes, sent + count * BLOCK
            ahead = began + sent / self.args.rate - time.monotonic()
            if ahead > self.saved_up / self.args.rate:
                self.ending.wait(ahead)
            elif ahead < -BEHIND_MAX:  # what a long outage cost is not made up for
                began -= ahead + BEHIND_MAX
        left = self.producer.flush(PATIENCE)
        if left or self.ledger.failure:
            sys.exit(f"error: {left} records were not delivered in {PATIENCE} s: {self.ledger.failure}")
        self.ledger.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--kind", choices=("plain", "transactions", "compacted", "large"), required=True)
    parser.add_argument("--ledger", required=True)
    parser.add_argument("--lane", type=int, default=0)
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--rate", type=float, required=True, help="records a second")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--hours", type=int, required=True)
    Feed(parser.parse_args()).run()


if __name__ == "__main__":
    main()
