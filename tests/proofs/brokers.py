"""The three brokers: topics, ends, committed offsets, and the death of one of them."""

import os
import subprocess
import sys
import time

from trial import ROOT, Failed

NODES = (1, 2, 3)
START_DEADLINE = 180
IN_SYNC_DEADLINE = 180
COMPACTED = {  # compacted all the time: small segments, closed soon, cleaned however little there is to clean
    "cleanup.policy": "compact", "segment.ms": "4000", "segment.bytes": str(1 << 20), "min.cleanable.dirty.ratio": "0.01",
    "max.compaction.lag.ms": "8000"}


class Brokers:
    def __init__(self):
        from confluent_kafka.admin import AdminClient

        self.direct = os.environ["KAFKA3_BROKERS"]
        self.admin = AdminClient({"bootstrap.servers": self.direct, "socket.timeout.ms": 10_000, "log_level": 0})
        self.script = ROOT / "scripts" / "services.sh"

    # ---- topics --------------------------------------------------------------------------------------------------------

    def create(self, topic, partitions, settings=None):
        from confluent_kafka.admin import NewTopic

        wanted = NewTopic(topic, num_partitions=partitions, replication_factor=len(NODES), config=settings or {})
        self.admin.create_topics([wanted])[topic].result(60)

    def drop(self, topics):
        for answer in self.admin.delete_topics(list(topics), operation_timeout=30).values():
            answer.result(60)

    def committed(self, group):
        """(topic, Kafka partition) -> committed offset."""
        from confluent_kafka import ConsumerGroupTopicPartitions

        answer = self.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(30)
        return {(found.topic, found.partition): found.offset for found in answer.topic_partitions}

    # ---- one dies ------------------------------------------------------------------------------------------------------

    def kill(self, node):
        self.service("kill", node)

    def start(self, node, keep_waiting):
        """Starts it and waits until every Kafka partition has all of its copies again. `keep_waiting` is called between looks."""
        process = subprocess.Popen([self.script, "start", f"kafka3-{node}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        deadline = time.monotonic() + START_DEADLINE
        while process.poll() is None:
            if time.monotonic() > deadline:
                process.kill()
                raise Failed(f"broker {node} did not start in {START_DEADLINE} s")
            time.sleep(0.1)
        if process.returncode != 0:
            raise Failed(f"broker {node} did not start:\n{process.stdout.read()}")
        self.wait_in_sync(keep_waiting)

    def wait_in_sync(self, keep_waiting):
        from confluent_kafka import KafkaException

        deadline = time.monotonic() + IN_SYNC_DEADLINE
        while True:
            try:
                missing = self.behind()
            except KafkaException as error:
                missing = [str(error)]
            if not missing:
                return
            if time.monotonic() > deadline:
                raise Failed(f"after {IN_SYNC_DEADLINE} s there are not all copies of {', '.join(missing[:5])}")
            keep_waiting(0.3)

    def behind(self):
        """Kafka partitions without all of their copies in sync."""
        found = self.admin.list_topics(timeout=10)
        if len(found.brokers) < len(NODES):
            return [f"{len(NODES) - len(found.brokers)} brokers"]
        return [f"{topic.topic}/{partition.id}" for topic in found.topics.values() for partition in topic.partitions.values()
                if len(partition.isrs) < len(NODES) or partition.leader < 0]

    def service(self, action, node):
        found = subprocess.run([self.script, action, f"kafka3-{node}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if found.returncode != 0:
            raise Failed(f"{action} broker {node}:\n{found.stdout}")

    def all_must_run(self):
        found = subprocess.run([self.script, "status", "kafka3"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if found.returncode != 0:
            print(found.stdout, file=sys.stderr)
            raise Failed("not all brokers run")
