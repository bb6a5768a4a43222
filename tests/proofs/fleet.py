"""The archivers of one group under siege: their configurations, layouts and lives.

Each has a link of its own (see links.py), a spool of its own, and its configuration written anew at each rolling restart.
One that ends by itself is started again, as any supervisor would, but only if it may have ended: because a store or Kafka
could not be reached at its start (exit 4) while a fault made it so, or as a static member: because the protocol `consumer` still
knows its killed predecessor, or because it joined again while the brokers were slow and so fenced itself. Everything else that
ends is a failure of the proof.
"""

import json
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass

from cast import Archiver
from trial import SCHEMA, Failed, tail

SESSION_SECONDS = 6
CLIENT = {"session.timeout.ms": str(SESSION_SECONDS * 1000), "heartbeat.interval.ms": "2000"}
ROTATE = {"size": "256KiB", "age": "4s"}
SHUTDOWN = "20s"
UNREACHABLE, STOPPED, INCOMPLETE = 4, 5, 6  # exit codes
NOT_RELEASED = "The instance ID is still used"
FENCED = "fenced by other consumer"
AFTERMATH = 60  # seconds after a fault in which a process may still end because of it: Kafka's patience at a start, and leaving

LAYOUTS = (  # what the rolling restarts change between: (path before the window, JSON's compression, Parquet's)
    ("{topic}", '"gzip", level = 6', '"zstd", level = 3'),
    ("second/{topic}", '"zstd", level = 3', '"snappy"'),
)
ERROR = re.compile(r"^\S+ +ERROR |panicked at ")
WARN = re.compile(r"^\S+ +WARN (?P<text>.*)$", re.MULTILINE)
LIFE = re.compile(r"^---- started at ", re.MULTILINE)
REDO = re.compile(r"redoing an unfinished batch partition=")
OPEN = re.compile(REDO.pattern + r"|receipts prove finished batches above the committed offset")  # to redo, or only to commit
SEAL = re.compile(r"batch sealed partition=")


class Weather:
    """Which faults are on, and which were lately."""

    def __init__(self):
        self.lock, self.on, self.ended = threading.Lock(), [], {}

    @contextmanager
    def trouble(self, place):
        """`place`: the number of a link, or "brokers"."""
        with self.lock:
            self.on.append(place)
        try:
            yield
        finally:
            with self.lock:
                self.on.remove(place)
                self.ended[place] = time.monotonic()

    def was_bad(self, link):
        """Whether an archiver on the link had to do with a fault of its surroundings just now."""
        now = time.monotonic()
        with self.lock:
            return any(place in self.on or now - self.ended.get(place, -1e9) < AFTERMATH for place in (link, "brokers"))


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
        self.restarted, self.incomplete = 0, 0
        (folder / "schema.json").write_text(json.dumps(SCHEMA))

    def running(self):
        return self.replicas[: self.size]

    def configure(self, replica):
        replica.config.write_text(self.config(replica.slot, replica.spool))

    def config(self, link, spool):
        """JSON strings, numbers and booleans are TOML, too."""
        path, gzip, parquet = LAYOUTS[self.layout]
        layout = f'layout = {{ path = "{path}/dt=%Y-%m-%d/hr=%H" }}'
        group = self.group
        lines = ["[kafka]", f"brokers = {json.dumps(self.links.brokers(link))}", f"group = {json.dumps(group.name)}"]
        lines += [f'protocol = "{group.protocol}"'] + ([f'instance_id = "archiver-{link}"'] if group.instance(link) else [])
        if group.protocol == "classic":  # otherwise the brokers decide
            lines += ["[kafka.client]", *(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in CLIENT.items())]
        lines += ["[spool]", f"dir = {json.dumps(str(spool))}", "[shutdown]", f'timeout = "{SHUTDOWN}"']
        for name, url in zip(("main", "second"), group.urls):
            lines += [f"[destinations.{name}]", f"url = {json.dumps(url)}"]
            if url.startswith("s3:"):
                lines += [f"endpoint = {json.dumps(self.links.s3_endpoint(link))}", f"region = {json.dumps(group.region)}"]
        lines += ["[rotate]", *(f"{key} = {json.dumps(value)}" for key, value in ROTATE.items())]
        lines += ["[[archive]]", 'name = "torture"', f"topics = {json.dumps(group.topics)}", 'timestamp = { field = "time", unit = "ms" }']
        lines += ['dead_letters = { destination = "main" }']
        lines += ["[[archive.output]]", f'format = {{ type = "json", compression = {gzip} }}', layout, 'destination = "main"']
        lines += ["[[archive.output]]", f'format = {{ type = "parquet", compression = {parquet}, schema = "schema.json" }}', layout,
                  'destination = "second"']
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
        self.restarted += 1
        replica.start()

    def may_have_ended(self, replica, code):
        bad = self.weather.was_bad(replica.slot)
        if code == STOPPED and self.group.instance(replica.slot):
            said = tail(replica.log_path, 5)
            if self.group.protocol == "consumer" and NOT_RELEASED in said:
                time.sleep(0.5)  # no need to ask the brokers all the time
                return True
            return bad and FENCED in said
        return code == UNREACHABLE and bad

    def stop(self, replica, strict=False):
        """SIGTERM, and how it ended. `strict`: nothing is an excuse."""
        self.revive(replica)
        replica.stop()
        code = replica.ended()
        replica.process = None
        if code == INCOMPLETE and not strict and self.weather.was_bad(replica.slot):
            self.incomplete += 1
        elif code != 0 and (strict or not self.may_have_ended(replica, code)):
            raise Failed(f"{replica.name} ended with {code} after SIGTERM:\n{tail(replica.log_path)}")
        self.restarted += code not in (0, INCOMPLETE)

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
        """Lives, those that began on a plan that was not committed, such batches, warnings, and errors as they stand."""
        lives, open_starts, redone, warnings, errors = 0, 0, 0, [], []
        for log in self.lives():
            lives += 1
            redone += len(REDO.findall(log))
            first_seal = SEAL.search(log)
            open_starts += bool(OPEN.search(log, 0, first_seal.start() if first_seal else len(log)))
            warnings += [match["text"] for match in WARN.finditer(log)]
            errors += [line for line in log.splitlines() if ERROR.search(line)]
        return lives, open_starts, redone, warnings, errors
