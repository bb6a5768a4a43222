"""The archivers of one group under siege: their configurations, layouts and lives.

Each has a link of its own (see links.py), a spool of its own, and its configuration written anew at each rolling restart.
One that ends by itself is started again, as any supervisor would, but only for one of three reasons while a fault was at what
the reason is about (see weather.py), and not often. Everything else that ends is a failure of the proof.
"""

import json
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from cast import Archiver
from trial import SCHEMA, Failed, tail
from weather import BROKERS, Weather

SESSION_SECONDS = 6
CLIENT = {"session.timeout.ms": str(SESSION_SECONDS * 1000), "heartbeat.interval.ms": "2000"}
ROTATE = {"size": "256KiB", "age": "4s"}
LARGE_ROTATE = {"size": "6MiB", "age": "5s"}  # of the topic whose objects go up in pieces
PIECE = "5MiB"
SHUTDOWN = "20s"
UNREACHABLE, STOPPED, INCOMPLETE = 4, 5, 6  # exit codes
NOT_RELEASED = "The instance ID is still used"
FENCED = "fenced by other consumer"
AWAY, FENCED_ITSELF, IN_USE = (
    "at its start a fault kept away what it needs", "as a static member it fenced itself during a fault",
    "the instance id of the life before was still in use")
EXCUSES = (AWAY, FENCED_ITSELF)

LAYOUTS = (  # what the rolling restarts change between: (path before the window, JSON's compression, Parquet's)
    ("{topic}", '"gzip", level = 6', '"zstd", level = 3'),
    ("second/{topic}", '"zstd", level = 3', '"snappy"'),
)
ERROR = re.compile(r"^\S+ +ERROR |panicked at ")
WARN = re.compile(r"^\S+ +WARN (?P<text>.*)$", re.MULTILINE)
LIFE = re.compile(r"^---- started at ", re.MULTILINE)
MOVED = re.compile(r"shutting down: sealing.*\bpartition (?:revoked|lost) partition=", re.DOTALL)
REDO = re.compile(r"redoing an unfinished batch partition=")
TO_COMMIT = re.compile(r"receipts prove finished batches above the committed offset")
SEAL = re.compile(r"batch sealed partition=")


class Replica(Archiver):
    """One place of the group."""

    def __init__(self, slot, program, folder):
        super().__init__(f"archiver-{slot}", program, folder, folder / f"archiver-{slot}.toml")
        self.slot, self.lock = slot, threading.RLock()


@dataclass
class Group:
    """What all of them have in common."""

    name: str
    topics: list
    large: str  # the topic whose objects are large
    urls: list  # of JSON and of Parquet
    region: str
    protocol: str
    members: str  # dynamic, static (each has an instance id), or mixed

    def instance(self, slot):
        return self.members == "static" or self.members == "mixed" and slot % 2 == 1


class Fleet:
    def __init__(self, program, folder, group, links, size):
        self.program, self.group, self.links, self.layout = program, group, links, 0
        self.weather = Weather()
        self.replicas = [Replica(slot, program, folder) for slot in range(1, links.count + 1)]
        self.size = size
        self.excused, self.incomplete, self.ends = Counter(), 0, []
        (folder / "schema.json").write_text(json.dumps(SCHEMA))

    def running(self):
        return self.replicas[: self.size]

    def configure(self, replica):
        replica.config.write_text(self.config(replica.slot, replica.spool))

    def config(self, link, spool):
        group = self.group
        lines = ["[kafka]", f"brokers = {json.dumps(self.links.brokers(link))}", f"group = {json.dumps(group.name)}"]
        lines += [f'protocol = "{group.protocol}"'] + ([f'instance_id = "archiver-{link}"'] if group.instance(link) else [])
        if group.protocol == "classic":  # otherwise the brokers decide
            lines += ["[kafka.client]", *settings(CLIENT)]
        lines += ["[spool]", f"dir = {json.dumps(str(spool))}", "[shutdown]", f'timeout = "{SHUTDOWN}"', "[upload]", f'part_size = "{PIECE}"']
        for name, url in zip(("main", "second"), group.urls):
            lines += [f"[destinations.{name}]", f"url = {json.dumps(url)}"]
            if url.startswith("s3:"):
                lines += [f"endpoint = {json.dumps(self.links.s3_endpoint(link, name))}", f"region = {json.dumps(group.region)}"]
        path, json_compression, parquet_compression = LAYOUTS[self.layout]
        lines += archive("torture", group.topics, ROTATE, path, json_compression, parquet_compression)
        lines += archive("large", [group.large], LARGE_ROTATE, path, '"none"', parquet_compression)
        return "\n".join(lines) + "\n"

    def start(self):
        for replica in self.running():
            self.configure(replica)
            replica.start()

    # ---- those that ended ----------------------------------------------------------------------------------------------

    def watch(self):
        """Starts those again that may have ended by themselves. One that is being treated just now is left alone."""
        for replica in self.running():
            if replica.lock.acquire(blocking=False):
                try:
                    self.revive(replica)
                finally:
                    replica.lock.release()

    def revive(self, replica):
        code = replica.process.poll() if replica.process else None
        if code is None:
            return
        if not self.may_have_ended(replica, code):
            raise Failed(f"{replica.name} ended by itself with {code}:\n{tail(replica.log_path)}")
        replica.start()

    def may_have_ended(self, replica, code):
        """Counts the excuse that it has, if any."""
        excuse, fault = self.excuse_of(replica, code)
        if excuse is not None and fault is not None:
            self.excused[excuse] += 1
            self.ends.append(f"{replica.name} ended with {code}: {excuse} ({fault})")
            return True
        return False

    def excuse_of(self, replica, code):
        """What it may have ended of, and the fault that was at its place; either may be missing."""
        links = self.links
        if code == UNREACHABLE:
            return AWAY, self.weather.excuse([BROKERS, *links.names(replica.slot, ("kafka", *links.stores))])
        if code == STOPPED and self.group.instance(replica.slot):
            said = tail(replica.log_path, 5)
            if self.group.protocol == "consumer" and NOT_RELEASED in said:
                time.sleep(0.5)  # no need to ask the brokers all the time
                return IN_USE, self.weather.excuse([replica.name])
            if FENCED in said:
                return FENCED_ITSELF, self.weather.excuse([BROKERS, replica.name, *links.names(replica.slot, ("kafka",))])
        return None, None

    def why_incomplete(self, replica):
        """Why it may have left with open batches; None where it may not."""
        fault = self.weather.excuse([BROKERS, *self.links.names(replica.slot, ("kafka", *self.links.stores))])
        if fault:
            return fault
        moved = MOVED.search(LIFE.split(tail(replica.log_path, 60))[-1])
        return "the group moved for another one's sake and took away what it was about to finish" if moved else None

    def stop(self, replica, strict=False):
        """SIGTERM, and how it ended. `strict`: nothing is an excuse."""
        self.revive(replica)
        replica.stop()
        code = replica.ended()
        replica.process = None
        if code == 0:
            return
        if code == INCOMPLETE and not strict:
            fault = self.why_incomplete(replica)
            if fault:
                self.incomplete += 1
                self.ends.append(f"{replica.name} ended with {code}: left with open batches ({fault})")
                return
        if strict or not self.may_have_ended(replica, code):
            raise Failed(f"{replica.name} ended with {code} after SIGTERM:\n{tail(replica.log_path)}")

    def end(self):
        for replica in self.replicas:
            if replica.process and replica.process.poll() is None:
                replica.process.kill()
                replica.process.wait()

    # ---- what the logs tell --------------------------------------------------------------------------------------------

    def lives(self):
        """The log of each life of each archiver."""
        for replica in self.replicas:
            if replica.log_path.exists():
                yield from LIFE.split(replica.log_path.read_text(errors="replace"))[1:]

    def told(self):
        """What all the logs say together."""
        told = Told()
        for log in self.lives():
            told.take(log)
        return told


@dataclass
class Told:
    """Lives, those that began on a plan that was not committed (to redo it, or only to commit it), such batches, and lines."""

    lives: int = 0
    to_redo: int = 0
    to_commit: int = 0
    redone: int = 0
    warnings: list = field(default_factory=list)
    errors: list = field(default_factory=list)

    def take(self, log):
        self.lives += 1
        self.redone += len(REDO.findall(log))
        first_seal = SEAL.search(log)
        beginning = log[: first_seal.start()] if first_seal else log
        if REDO.search(beginning):
            self.to_redo += 1
        elif TO_COMMIT.search(beginning):
            self.to_commit += 1
        self.warnings += [match["text"] for match in WARN.finditer(log)]
        self.errors += [line for line in log.splitlines() if ERROR.search(line)]


def settings(values):
    """Lines of TOML, of which JSON's strings, numbers and booleans are a part."""
    return [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in values.items()]


def archive(name, topics, rotate, path, json_compression, parquet_compression):
    layout = f'layout = {{ path = "{path}/dt=%Y-%m-%d/hr=%H" }}'
    return [
        "[[archive]]", f'name = "{name}"', f"topics = {json.dumps(topics)}", 'timestamp = { field = "time", unit = "ms" }',
        'dead_letters = { destination = "main" }', "[archive.rotate]", *settings(rotate),
        "[[archive.output]]", f'format = {{ type = "json", compression = {json_compression} }}', layout, 'destination = "main"',
        "[[archive.output]]", f'format = {{ type = "parquet", compression = {parquet_compression}, schema = "schema.json" }}', layout,
        'destination = "second"']
