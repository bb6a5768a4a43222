"""A real rsyslog between programs and Kafka: UDP, TCP and a unix socket in, one topic out, hourly gzip JSON on Azure blob storage."""

import re
import socket
import subprocess
import threading
import time
from collections import Counter
from datetime import datetime, timedelta, timezone

from trial import ROOT, Failed, tail

from .base import PARTITIONS, Pipeline, create_topic

TEMPLATE = ROOT / "tests" / "parts" / "rsyslog" / "rsyslog.conf"
START_DEADLINE, SEND_DEADLINE = 20, 60
BURST = 50  # datagrams between two looks at what rsyslog has not read yet
UNREAD_MAX = 128 << 10
HOSTS = [f"{role}-{number}" for role in ("web", "db", "mail", "edge") for number in range(6)]
FACILITIES = {1: "user", 3: "daemon", 4: "auth", 16: "local0"}
SEVERITIES = {3: "err", 4: "warning", 5: "notice", 6: "info"}
SPEAKERS = (  # facility, severity, program, what it says
    (3, 6, "nginx", '10.1.{a}.{b} - - "GET /p/{c}?page={a} HTTP/1.1" 200 {c} "-" "Mozilla/5.0" id={id}'),
    (4, 5, "sshd", "Accepted publickey for deploy from 192.0.2.{b} port {c} ssh2: ED25519 SHA256:q{c}Z id={id}"),
    (1, 4, "kernel", "TCP: request_sock_TCP: Possible SYN flooding on port {c}. Sending cookies. id={id}"),
    (3, 6, "systemd", "Started Session {c} of User caf\u00e9. id={id}"),
    (16, 3, "app", 'failed: user="{a}" took={b}.5ms: connection reset by peer id={id}'))
NUMBER = re.compile(rb"id=(\d+)")


class Syslog(Pipeline):
    """Which way a record goes is told by its number. Every hour is one of the last three: RFC 3164 tells no year."""

    name, hours, store = "syslog", 3, "azure"
    config = r"""
decode = { type = "syslog", zone = "UTC" }
timestamp = { field = "timestamp" }
[[archive.output]]
format = { type = "json", compression = "gzip" }
layout = { path = "syslog/dt=%Y-%m-%d/hr=%H", zone = "UTC" }
"""

    def __init__(self, records):
        super().__init__(records)
        now = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
        self.first_hour = now - timedelta(hours=self.hours)

    def start(self):
        return self.first_hour

    @staticmethod
    def way(number):
        return ("udp", "udp", "tcp", "tcp", "unix")[number % 5]

    @staticmethod
    def said(number):
        facility, severity, program, words = SPEAKERS[number % 7 % len(SPEAKERS)]
        return facility, severity, program, words.format(a=number % 251, b=number % 241, c=number % 40_000 + 1024, id=number)

    def payload(self, number):
        """What is sent, without the frame."""
        if self.is_broken(number):
            return self.broken_payload(number)
        at = self.at(number)
        facility, severity, program, message = self.said(number)
        host, priority = HOSTS[number % len(HOSTS)], facility * 8 + severity
        bsd = at.strftime("%b %e %H:%M:%S")
        if self.way(number) == "unix":
            return f"<{priority}>{bsd} {program}[{number % 30_000}]: {message}".encode()
        if self.way(number) == "udp":
            return f"<{priority}>{bsd} {host} {program}[{number % 30_000}]: {message}".encode()
        elements = f'[origin@32473 ip="192.0.2.{number % 200}" seq="{number}"]' if number % 3 else "-"
        return f"<{priority}>1 {at.strftime('%Y-%m-%dT%H:%M:%S')}.{at.microsecond // 1000:03}Z {host} {program} {number % 30_000} ID{number % 9} {elements} {message}".encode()

    def broken_payload(self, number):
        bsd = self.at(number).strftime("%b %e %H:%M:%S")
        kinds = {
            "udp": (f"no syslog at all id={number}".encode(), f"<999>{bsd} web-0 nginx: id={number}".encode(),
                    f"<13>{bsd} web-0 nginx: \u00fc id={number}".encode("latin-1"), f'{{"level":"error","id":"id={number}"}}'.encode()),
            "tcp": (f"<34>1 2025-13-28T03:00:00Z web-0 su - - - id={number}".encode(), f"<34>1 - web-0 su - - [origin@32473 id={number}".encode(),
                    f"<34>1 - web-0 su - - - \u00fc id={number}".encode("latin-1"), f"id={number} goes on from the line before".encode()),
            "unix": (f"<13>{bsd} app[1]: \u00fc id={number}".encode("latin-1"),)}[self.way(number)]
        return kinds[self.kind(number, len(kinds))]

    def expected(self, number):
        if self.is_broken(number):
            return
        at, way = self.at(number), self.way(number)
        facility, severity, program, message = self.said(number)
        told = at.strftime("%Y-%m-%dT%H:%M:%S")
        if way == "tcp" and at.microsecond >= 1000:
            told += f".{at.microsecond // 1000:03}"
        row = {"facility": FACILITIES[facility], "severity": SEVERITIES[severity], "timestamp": told + "Z",
               "hostname": "node-7" if way == "unix" else HOSTS[number % len(HOSTS)], "appname": program, "procid": str(number % 30_000),
               "message": message}
        if way == "unix":
            # The %msg% of rsyslog begins with the space behind the tag, also where a template puts one of its own before it.
            row["message"] = f" {message}"
        if way == "tcp":
            row["msgid"] = f"ID{number % 9}"
            if number % 3:
                row["structured_data"] = {"origin@32473": {"ip": f"192.0.2.{number % 200}", "seq": str(number)}}
        yield "json", at.strftime("syslog/dt=%Y-%m-%d/hr=%H"), row

    def produce(self, run):
        """Through rsyslog, then back from Kafka: what is there is what must be archived."""
        create_topic(run)
        with Rsyslog(run) as rsyslog:
            self.sent = rsyslog.send(self)
            self.dropped = rsyslog.datagrams()[1]
            self.in_kafka = read_topic(run, sum(self.sent.values()) - self.dropped)
        if self.dropped > self.records // 1000:
            raise Failed(f"the kernel dropped {self.dropped} datagrams")
        self.numbers = Counter()
        for value in self.in_kafka:
            self.numbers[int(NUMBER.search(value)[1])] += 1
        if len(self.numbers) != len(self.in_kafka):
            raise Failed(f"{len(self.in_kafka)} records in Kafka hold {len(self.numbers)} different ones")

    def rows(self):
        for number in self.numbers:
            yield from self.expected(number)

    def broken(self):
        """As they lie in Kafka. What came over the network must lie there as it was sent."""
        found = Counter(value for value in self.in_kafka if self.is_broken(int(NUMBER.search(value)[1])))
        for number in self.numbers:
            if self.is_broken(number) and self.way(number) != "unix" and self.payload(number) not in found:
                raise Failed(f"rsyslog changed {self.payload(number)!r}")
        return found

    def check(self, run):
        """Beside what is checked of all: nothing but dropped datagrams is missing in Kafka."""
        self.records = len(self.in_kafka)  # from here on, those that must be in the archive
        return {**self.sent, "dropped_datagrams": self.dropped, **super().check(run)}


class Rsyslog:
    """rsyslogd as an ordinary process with a configuration, a port and a socket of its own."""

    def __init__(self, run):
        self.folder, self.run = run.folder / "rsyslog", run
        self.folder.mkdir()
        self.socket = self.folder / "log.sock"
        self.port = free_port()

    def __enter__(self):
        subprocess.run([ROOT / "scripts" / "services.sh", "install", "rsyslog"], check=True)
        text = TEMPLATE.read_text()
        values = {"PORT": str(self.port), "SOCKET": str(self.socket), "BROKERS": self.run.brokers, "TOPIC": self.run.id, "DIR": str(self.folder)}
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        config, self.log = self.folder / "rsyslog.conf", self.folder / "log"
        config.write_text(text)
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(["/usr/sbin/rsyslogd", "-n", "-iNONE", "-f", config], stdout=log, stderr=log, env={"TZ": "UTC"})
        deadline = time.monotonic() + START_DEADLINE
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise Failed(f"rsyslogd did not start:\n{tail(self.log)}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(30)

    def ready(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return self.socket.exists() and self.datagrams() is not None

    def datagrams(self):
        """(bytes that wait in the UDP socket, datagrams the kernel dropped), as /proc/net/udp tells."""
        mine = f"0100007F:{self.port:04X}"
        with open("/proc/net/udp") as table:
            for line in table:
                words = line.split()
                if words[1] == mine:
                    return int(words[4].split(":")[1], 16), int(words[-1])
        return None

    def send(self, pipeline):
        """Three senders side by side; gives how many records each sent."""
        ways = {"udp": self.send_udp, "tcp": self.send_tcp, "unix": self.send_unix}
        sent, failed = {}, []

        def sender(way):
            try:
                numbers = (number for number in range(pipeline.records) if pipeline.way(number) == way)
                sent[way] = ways[way](pipeline, numbers)
            except BaseException as error:
                failed.append(f"{way}: {error!r}")
                raise

        threads = [threading.Thread(target=sender, args=[way]) for way in ways]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise Failed(f"sending failed: {failed}")
        return sent

    def send_udp(self, pipeline, numbers):
        """No faster than rsyslog reads."""
        count = 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(("127.0.0.1", self.port))
            for number in numbers:
                if count % BURST == 0:
                    while self.datagrams()[0] > UNREAD_MAX:
                        time.sleep(0.001)
                sender.send(pipeline.payload(number))
                count += 1
        return count

    def send_tcp(self, pipeline, numbers):
        """Two connections: lines, and octet counting (RFC 6587)."""
        count, address = 0, ("127.0.0.1", self.port)
        with socket.create_connection(address) as lines, socket.create_connection(address) as counted:
            for number in numbers:
                payload = pipeline.payload(number)
                if pipeline.is_broken(number) or count % 2:
                    lines.sendall(payload + b"\n")
                else:
                    counted.sendall(b"%d %s" % (len(payload), payload))
                count += 1
        return count

    def send_unix(self, pipeline, numbers):
        """The kernel lets the sender wait where the socket is full."""
        count = 0
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(str(self.socket))
            for number in numbers:
                sender.send(pipeline.payload(number))
                count += 1
        return count


def free_port():
    """One that is free for TCP and for UDP now."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            try:
                udp.bind(tcp.getsockname())
            except OSError:
                continue
            return tcp.getsockname()[1]


def read_topic(run, records):
    """The payloads of the whole topic, as another consumer sees them, once `records` are there."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": run.brokers, "group.id": f"{run.id}-reader", "auto.offset.reset": "earliest", "enable.auto.commit": False})
    consumer.assign([TopicPartition(run.id, partition, 0) for partition in range(PARTITIONS)])
    values, deadline = [], time.monotonic() + SEND_DEADLINE
    while len(values) < records:
        if time.monotonic() > deadline:
            raise Failed(f"{len(values)} of {records} records came to Kafka in {SEND_DEADLINE} s")
        for message in consumer.consume(5_000, 0.5):
            if message.error():
                raise Failed(f"reading the topic back: {message.error()}")
            values.append(message.value())
    if extra := consumer.consume(100, 1):
        raise Failed(f"more records in Kafka than were sent, such as {extra[0].value()!r}")
    consumer.close()
    return values
