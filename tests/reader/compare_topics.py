"""Two topics as a plain consumer sees them, record by record: key, value, headers, timestamp, partition and order. Shares no code with siltstone.

    compare_topics.py BROKERS TOPIC OTHER

Exit code 0: equal; 1: the first differences are printed. Offsets are not compared: restored records have new ones."""

import sys
import time

SILENT_SECONDS = 60
SHOWN = 10


def records(brokers, topic):
    """Committed records by partition, each as it can be told from outside."""
    from confluent_kafka import Consumer, KafkaError, TopicPartition

    consumer = Consumer({
        "bootstrap.servers": brokers, "group.id": "compare-look", "enable.auto.commit": False, "isolation.level": "read_committed",
        "enable.partition.eof": True, "auto.offset.reset": "error"})
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        firsts = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=30)[0] for p in partitions}
        consumer.assign([TopicPartition(topic, p, first) for p, first in firsts.items()])
        found = {p: [] for p in partitions}
        left, heard = set(partitions), time.monotonic()
        while left:
            messages = consumer.consume(10_000, timeout=1)
            if messages:
                heard = time.monotonic()
            elif time.monotonic() - heard > SILENT_SECONDS:
                raise TimeoutError(f"{topic}: nothing from the Kafka partitions {sorted(left)} in {SILENT_SECONDS} s")
            for message in messages:
                error = message.error()
                if error is None:
                    found[message.partition()].append(
                        (message.key(), message.value(), message.headers() or [], message.timestamp()))
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                elif not error.retriable():
                    raise RuntimeError(f"{topic}: {error}")
        return found
    finally:
        consumer.close()


def differences(one, other):
    for partition in sorted(set(one) | set(other)):
        left, right = one.get(partition, []), other.get(partition, [])
        for index, (a, b) in enumerate(zip(left, right)):
            if a != b:
                yield f"partition {partition} record {index}: {a} and {b}"
        if len(left) != len(right):
            yield f"partition {partition}: {len(left)} and {len(right)} records"


def main():
    brokers, topic, other = sys.argv[1:]
    one, two = records(brokers, topic), records(brokers, other)
    found = list(differences(one, two))
    for line in found[:SHOWN]:
        print(line)
    print(f"{sum(map(len, one.values()))} and {sum(map(len, two.values()))} records, {len(found)} differences")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
