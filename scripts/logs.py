#!/usr/bin/env python3
"""Realistic JSON access logs, the same every time: what the proofs put in, and the truth about it.

    PYTHON=$(scripts/python.sh)
    $PYTHON scripts/logs.py produce --brokers B --topic T --records N     make the topic and put N records into it
    $PYTHON scripts/logs.py truth --records N                             what belongs into each hour, as JSON lines
    $PYTHON scripts/logs.py files --dir D --records N                     the same records as plain files, no Kafka
    $PYTHON scripts/logs.py drop --brokers B --topic T                    delete the topic

Record `id` of a set is a pure function of (id, --records, --seed, --start, --hours, --mixed, --broken); its Kafka
partition also of --partitions. Ids are 0 to N-1, each in exactly one record. A reader imports `Logs` and asks
`Logs.line(id)` for the exact bytes, `Logs.hour(id)` for the hour 0 to hours-1 and `Logs.window(hour)` for its folder.

Event times ascend over --hours with 30 s of jitter, and one record in 64 is up to 45 min late; with --mixed every
record lies anywhere in the hours, so that all windows are open all the time. Within a Kafka partition, offsets
ascend with ids, and the shares of the partitions are unequal. The Kafka timestamp is the time of producing.
"""

import argparse
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from bisect import bisect_right
from datetime import datetime, timedelta, timezone

HOUR_MS = 3_600_000
JITTER_MS = 30_000
LATE_MS_MAX = 45 * 60_000
SHARES = (610, 406, 514, 470)  # of four Kafka partitions; more partitions repeat them
CHUNK = 2_000  # records between two looks at the clock and the queue
MASK = (1 << 64) - 1


def mix(number, salt):
    """64 bits that look random: the finaliser of splitmix64."""
    z = (number * 0x9E3779B97F4A7C15 + salt) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


class Pools:
    """Parts of lines, made once: what repeats in real logs repeats here."""

    def __init__(self, salt):
        pick = Picker(salt)
        self.requests = [self._request(pick) for _ in range(4096)]
        self.clients = [self._client(pick) for _ in range(1024)]
        self.places = [self._place(pick) for _ in range(256)]
        self.outcomes = [self._outcome(pick) for _ in range(256)]

    @staticmethod
    def _request(pick):
        """Has one %d: the number in the path."""
        method = pick.of(("GET",) * 12 + ("POST",) * 3 + ("PUT", "DELETE", "HEAD"))
        host = pick.of(("www.example.com", "shop.example.com", "api.example.com", "img.example.net"))
        section = pick.of(("api/v1/items", "api/v2/orders", "products", "search", "images/catalog", "users", "blog"))
        action = pick.of(("", "", "/reviews", "/edit", "/small.jpg", "/related", "/all.csv"))
        query = pick.of(("", "", "page=%d" % pick.below(40), "sort=price", "q=" + pick.word() + "+" + pick.word(),
                         "utm=" + pick.word()))
        fields = f'"method":"{method}","host":"{host}","path":"/{section}/%d{action}","query":"{query}"'
        return fields.encode()

    @staticmethod
    def _client(pick):
        system = pick.of(("Windows NT 10.0; Win64", "Macintosh", "X11; Linux x86_64", "iPhone", "Linux; Android 14"))
        agent = f"Mozilla/5.0 ({system}) Chrome/{100 + pick.below(31)}.0.{pick.below(9999)}.{pick.below(99)}"
        referer = pick.of(("", f"https://example.com/{pick.word()}", "https://search.example/"))
        return f'"referer":"{referer}","agent":"{agent}"'.encode()

    @staticmethod
    def _place(pick):
        country, city, lat, lon = pick.of((
            ("DE", "Berlin", 52, 13), ("FR", "Paris", 48, 2), ("US", "New York", 40, -74), ("BR", "São Paulo", -23, -46),
            ("JP", "Tokyo", 35, 139), ("IN", "Mumbai", 19, 72), ("GB", "London", 51, 0), ("AU", "Sydney", -33, 151)))
        lat, lon = lat + pick.below(9999) / 1e4, lon + pick.below(9999) / 1e4
        return f'"geo":{{"country":"{country}","city":"{city}","lat":{lat:.4f},"lon":{lon:.4f}}}'.encode()

    @staticmethod
    def _outcome(pick):
        status = pick.of((200,) * 14 + (304, 304, 301, 404, 403, 500, 503))
        return f'"status":{status}'.encode()


class Picker:
    """A stream of choices from a seed."""

    WORDS = ("summer", "winter", "shoes", "lamp", "garden", "coffee", "bicycle", "guitar", "camera", "desk", "jacket", "mountain")

    def __init__(self, salt):
        self.salt, self.count = salt, 0

    def below(self, limit):
        self.count += 1
        return mix(self.count, self.salt) % limit

    def of(self, values):
        return values[self.below(len(values))]

    def word(self):
        return self.of(self.WORDS)


class Logs:
    """One set of records."""

    def __init__(self, records, seed=1, start="2025-11-21T00:00:00Z", hours=4, partitions=4, mixed=False, broken=0.0):
        self.records, self.hours, self.partitions, self.mixed = records, hours, partitions, mixed
        self.start = datetime.fromisoformat(start.replace("Z", "+00:00")).astimezone(timezone.utc)
        if (self.start.minute, self.start.second, self.start.microsecond) != (0, 0, 0):
            raise ValueError(f"--start {start}: a full hour is needed, so that {hours} hours are {hours} windows")
        self.start_ms = int(self.start.timestamp()) * 1000
        self.span_ms = hours * HOUR_MS
        self.salt = mix(seed, 0x5117)
        self.broken_per_million = round(broken * 1_000_000)
        self.pools = Pools(self.salt)
        self.share_ends = []
        for number in range(partitions):
            self.share_ends.append((self.share_ends[-1] if number else 0) + SHARES[number % len(SHARES)])

    def _event_ms(self, number, z):
        if self.mixed:
            return (z >> 16) % self.span_ms
        at = number * self.span_ms // self.records + (z >> 40) % (2 * JITTER_MS + 1) - JITTER_MS
        if (z >> 8) & 63 == 0:
            at -= (z >> 16) % LATE_MS_MAX
        return min(max(at, 0), self.span_ms - 1)

    def event_ms(self, number):
        """Event time of record `number`, epoch milliseconds."""
        return self.start_ms + self._event_ms(number, mix(number, self.salt))

    def hour(self, number):
        """Hour of record `number`, counted from the start."""
        return self._event_ms(number, mix(number, self.salt)) // HOUR_MS

    def window(self, hour):
        """Folder of an hour, as Hive names it."""
        return (self.start + timedelta(hours=hour)).strftime("dt=%Y-%m-%d/hr=%H")

    def partition(self, number):
        """Kafka partition of record `number`."""
        return bisect_right(self.share_ends, mix(number, self.salt) % self.share_ends[-1])

    def place(self, number):
        """Hour and Kafka partition of record `number`."""
        z = mix(number, self.salt)
        return self._event_ms(number, z) // HOUR_MS, bisect_right(self.share_ends, z % self.share_ends[-1])

    def is_broken(self, number):
        """Whether the payload of record `number` is not JSON."""
        return mix(number, self.salt ^ MASK) % 1_000_000 < self.broken_per_million

    def line(self, number):
        """Payload of record `number`."""
        return self._line(number, mix(number, self.salt))

    def _line(self, number, z):
        y = (z * 0xD1342543DE82EF95 + 0x632BE59BD9B4E019) & MASK
        pools = self.pools
        user = b'"u%06d"' % (y % 50_000) if z & 3 else b"null"
        line = b'{"id":%d,"time":%d,%b,%b,"bytes":%d,"duration":%d.%03d,"ip":"10.%d.%d.%d","user":%b,%b,%b,"trace":"%016x"}' % (
            number, self.start_ms + self._event_ms(number, z), pools.requests[y >> 52] % ((y >> 20) % 100_000),
            pools.outcomes[(y >> 40) & 255], (z >> 33) % 90_000, (y & 127) == 0, (z >> 22) % 1000,
            (y >> 10) & 3, (y >> 12) & 63, (z >> 48) & 255, user,
            pools.clients[(y >> 30) & 1023], pools.places[(y >> 12) & 255], y ^ z)
        if self.broken_per_million and self.is_broken(number):
            return line[: len(line) // 2]
        return line

    def of_partitions(self, wanted):
        """(Kafka partition, payload) of every record in `wanted`, by id."""
        salt, ends, total = self.salt, self.share_ends, self.share_ends[-1]
        for number in range(self.records):
            z = mix(number, salt)
            partition = bisect_right(ends, z % total)
            if partition in wanted:
                yield partition, self._line(number, z)

    # -- command line --------------------------------------------------------------------------------------------------

    @staticmethod
    def add_arguments(parser):
        """The arguments that decide a set."""
        parser.add_argument("--records", type=int, required=True)
        parser.add_argument("--seed", type=int, default=1)
        parser.add_argument("--start", default="2025-11-21T00:00:00Z", help="a full hour, ISO 8601")
        parser.add_argument("--hours", type=int, default=4)
        parser.add_argument("--partitions", type=int, default=4)
        parser.add_argument("--mixed", action="store_true", help="every record anywhere in the hours: all windows open at once")
        parser.add_argument("--broken", type=float, default=0.0, help="share of payloads that are not JSON")

    @classmethod
    def of(cls, args):
        """The set that parsed arguments ask for."""
        return cls(args.records, args.seed, args.start, args.hours, args.partitions, args.mixed, args.broken)


# ---- produce ---------------------------------------------------------------------------------------------------------


def create_topic(brokers, topic, partitions):
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": brokers})
    admin.create_topics([NewTopic(topic, num_partitions=partitions, replication_factor=1)])[topic].result(30)
    deadline = time.monotonic() + 30
    while True:  # the answer comes before every partition has its leader
        found = admin.list_topics(topic, timeout=10).topics[topic].partitions
        if len(found) == partitions and all(p.leader >= 0 for p in found.values()):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"topic {topic} has no leaders after 30 s")
        time.sleep(0.05)


def drop_topic(brokers, topic):
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": brokers})  # must outlive its own answer
    admin.delete_topics([topic])[topic].result(30)


def topic_ends(brokers, topic):
    """{Kafka partition: (first, end)} as the broker has them."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "logs-ends"})
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        return {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10) for p in sorted(partitions)}
    finally:
        consumer.close()


class Sender:
    """Hands lines to librdkafka; a record that could not be delivered is an error at the next chunk, never silent."""

    def __init__(self, brokers, topic, linger_ms):
        from confluent_kafka import Producer

        self.topic, self.failure = topic, None
        self.producer = Producer({
            "bootstrap.servers": brokers, "enable.idempotence": True, "compression.type": "lz4", "linger.ms": linger_ms,
            "batch.size": 1_000_000, "batch.num.messages": 20_000, "queue.buffering.max.messages": 200_000,
            "queue.buffering.max.kbytes": 131_072, "delivery.report.only.error": True})

    def send(self, chunk):
        """`chunk`: list of (Kafka partition, payload)."""
        for partition, payload in chunk:
            while True:
                try:
                    self.producer.produce(self.topic, payload, partition=partition, on_delivery=self._failed)
                    break
                except BufferError:
                    self.producer.poll(0.05)
        self.producer.poll(0)
        self._check()

    def close(self):
        left = self.producer.flush(120)
        self._check()
        if left:
            raise TimeoutError(f"{left} records were not delivered in 120 s")

    def _failed(self, error, _message):
        if error is not None:
            self.failure = error

    def _check(self):
        if self.failure is not None:
            raise RuntimeError(f"a record was not delivered: {self.failure}")


def produce_some(logs, brokers, topic, wanted, linger_ms, rate=None, stop=None):
    """Sends the records of the Kafka partitions in `wanted`, until `stop` is set; gives their number."""
    sender = Sender(brokers, topic, linger_ms)
    began, sent, chunk = time.monotonic(), 0, []
    chunk_size = CHUNK if rate is None else max(1, min(CHUNK, int(rate / 20)))
    for item in logs.of_partitions(wanted):
        chunk.append(item)
        if len(chunk) == chunk_size:
            sender.send(chunk)
            sent += len(chunk)
            chunk.clear()
            if rate is not None:
                time.sleep(max(0.0, began + sent / rate - time.monotonic()))
            if stop is not None and stop.is_set():
                break
    sender.send(chunk)
    sender.close()
    return sent + len(chunk)


def produce_all(logs, args):
    """As fast as possible: a process for each half of the partitions, which keeps offsets in the order of ids."""
    everything = list(range(args.partitions))
    processes = min(os.cpu_count() or 1, 2, args.partitions)
    groups = [set(everything[number::processes]) for number in range(processes)]
    workers = [multiprocessing.Process(target=produce_some, args=(logs, args.brokers, args.topic, group, args.linger)) for group in groups]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode != 0 for worker in workers):
        sys.exit("error: producing failed")
    return args.records


def produce(args):
    if args.until_stopped and not args.mixed:
        sys.exit("error: --until-stopped needs --mixed: without it, event times depend on the number of records")
    logs = Logs.of(args)
    create_topic(args.brokers, args.topic, args.partitions)
    began = time.monotonic()
    if args.rate or args.until_stopped:
        stop = threading.Event()
        if args.until_stopped:
            signal.signal(signal.SIGTERM, lambda *_: stop.set())
        records = produce_some(logs, args.brokers, args.topic, set(range(args.partitions)), args.linger, args.rate, stop)
    else:
        records = produce_all(logs, args)
    ends = topic_ends(args.brokers, args.topic)
    found = sum(end - first for first, end in ends.values())
    if found != records:
        sys.exit(f"error: topic {args.topic} holds {found} records, {records} were produced")
    shares = " ".join(str(end) for _, end in ends.values())
    print(f"produced {records} records to {args.topic} in {time.monotonic() - began:.1f} s, by Kafka partition: {shares}")


# ---- the other commands ----------------------------------------------------------------------------------------------


def truth(args):
    logs = Logs.of(args)
    hours = [{"window": logs.window(hour), "records": 0, "broken": 0, "sum": 0, "xor": 0} for hour in range(args.hours)]
    for number in range(args.records):
        entry, z = hours[logs.hour(number)], mix(number, 0)
        entry["records"] += 1
        entry["broken"] += logs.is_broken(number)
        entry["sum"] = (entry["sum"] + z) & MASK
        entry["xor"] ^= z
    for entry in hours:
        print(json.dumps(entry))


def files(args):
    """One file for each Kafka partition and hour, named <partition>-<hour>.jsonl, lines in offset order."""
    logs = Logs.of(args)
    os.makedirs(args.dir, exist_ok=True)
    opened, total = {}, 0
    for partition, line in logs.of_partitions(set(range(args.partitions))):
        event_ms = int(line[line.index(b'"time":') + 7 :].split(b",", 1)[0])
        name = (partition, (event_ms - logs.start_ms) // HOUR_MS)
        if name not in opened:
            opened[name] = open(os.path.join(args.dir, "%05d-%02d.jsonl" % name), "wb", buffering=1 << 20)
        opened[name].write(line)
        opened[name].write(b"\n")
        total += len(line)
    for file in opened.values():
        file.close()
    print(f"wrote {args.records} records, {total} bytes of payload, to {len(opened)} files")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("produce", help="make the topic and put the records into it")
    command.add_argument("--brokers", required=True)
    command.add_argument("--topic", required=True)
    command.add_argument("--rate", type=float, help="records a second; as fast as possible without")
    command.add_argument("--until-stopped", action="store_true", help="SIGTERM ends it with records 0 to N-1 of the set, N as printed")
    command.add_argument("--linger", type=float, default=50, help="milliseconds a batch may wait for more records")
    Logs.add_arguments(command)
    command.set_defaults(run=produce)
    command = commands.add_parser("truth", help="records and order-free checksums of ids by hour")
    Logs.add_arguments(command)
    command.set_defaults(run=truth)
    command = commands.add_parser("files", help="write the records to plain files by Kafka partition and hour")
    command.add_argument("--dir", required=True)
    Logs.add_arguments(command)
    command.set_defaults(run=files)
    command = commands.add_parser("drop", help="delete a topic")
    command.add_argument("--brokers", required=True)
    command.add_argument("--topic", required=True)
    command.set_defaults(run=lambda args: drop_topic(args.brokers, args.topic))
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
