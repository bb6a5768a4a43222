"""The topics as a plain consumer sees them: which ids are in Kafka now. Shares no code with the archiver."""

import re
import time

ID = re.compile(rb'\{"id":(\d+),')
SILENT_SECONDS = 60  # without any record or end: the brokers do not answer


def ids_in_kafka(brokers, topic):
    """One byte an id, 1 where a committed record of `topic` holds it. Whoever reads later finds no more."""
    from confluent_kafka import Consumer, KafkaError, TopicPartition

    consumer = Consumer({
        "bootstrap.servers": brokers, "group.id": "ledgers-look", "enable.auto.commit": False, "isolation.level": "read_committed",
        "enable.partition.eof": True, "auto.offset.reset": "error", "queued.max.messages.kbytes": 65_536})
    try:
        found = bytearray()
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        firsts = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=30)[0] for p in partitions}
        consumer.assign([TopicPartition(topic, p, first) for p, first in firsts.items()])
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
                    mark(found, message.value())
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                elif not error.retriable():
                    raise RuntimeError(f"{topic}: {error}")
        return found
    finally:
        consumer.close()


def mark(found, payload):
    match = ID.match(payload or b"")
    if match:
        number = int(match[1])
        if number >= len(found):
            found.extend(bytes(number + 1 - len(found)))
        found[number] = 1
