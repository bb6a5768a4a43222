"""The faults of a siege, in three lanes that go on side by side: processes, network, brokers.

The seed decides the order of the faults, whom they hit and how hard. Within a lane they never overlap and are evenly spaced; a
fault of processes also waits until something new was archived since the one before. Each undoes itself, and each that does
not work as it should ends the proof.
"""

import signal
import time
import traceback
from random import Random

from cast import aim, uploader
from fleet import SESSION_SECONDS
from links import Hung
from trial import Failed

PROGRESS_DEADLINE = 150  # seconds without any new object: something hangs
CLAIMS = 0.75  # share of the aimed ones that wait for a claim, the first object of a batch, instead of data
RANDOM_WAIT = (0.1, 3.0)
NODES = (1, 2, 3)

# How often in 30 minutes.
PROCESS_FAULTS = {"SIGKILL, aimed": 40, "SIGKILL, random": 32, "SIGKILL, all": 14, "SIGSTOP": 26, "rolling restart": 7}
NETWORK_FAULTS = {"network cut": 30, "latency": 24, "reset": 30, "narrow": 20}
BROKER_FAULTS = {"broker SIGKILL": 14}


class Over(Exception):
    """Another lane failed."""


class Lane:
    """One kind of faults, one after the other, on a thread of its own."""

    FAULTS = {}

    def __init__(self, siege):
        self.siege, self.fleet, self.weather = siege, siege.fleet, siege.fleet.weather
        self.random = Random(f"{siege.args.seed}/{type(self).__name__}")
        self.deck = self.shuffled(siege.args.minutes)

    def shuffled(self, minutes):
        deck = [kind for kind, often in self.FAULTS.items() for _ in range(max(1, round(often * minutes / 30)))]
        self.random.shuffle(deck)
        return deck

    def run(self):
        try:
            began, every = time.monotonic(), self.siege.args.minutes * 60 / len(self.deck)
            for number, kind in enumerate(self.deck):
                self.pause(max(0.5, began + number * every - time.monotonic()))
                told = self.inflict(kind)
                self.siege.count(kind, told)
        except Over:
            pass
        except Failed as failed:
            self.siege.fail(str(failed))
        except BaseException:
            self.siege.fail(traceback.format_exc())

    def pause(self, seconds):
        if self.siege.over.wait(seconds):
            raise Over


class Processes(Lane):
    """SIGKILL, SIGSTOP and rolling restarts."""

    FAULTS = PROCESS_FAULTS

    def __init__(self, siege):
        super().__init__(siege)
        self.bucket, self.claims, self.layout_due = siege.bucket, siege.claims, True

    def inflict(self, kind):
        found = self.wait_for_object(kind)
        if kind in ("SIGKILL, aimed", "SIGKILL, all") and self.random.random() < CLAIMS:
            found = self.wait_for_object(kind, self.claims)
        if kind == "rolling restart":
            return self.roll()
        if kind == "SIGKILL, all":
            return self.kill_all(found)
        if kind == "SIGSTOP":
            return self.stop(found if self.random.random() < 0.5 else None)
        return self.kill(found if kind == "SIGKILL, aimed" else None)

    def wait_for_object(self, what, bucket=None):
        bucket = bucket or self.bucket
        bucket.new()
        deadline = time.monotonic() + PROGRESS_DEADLINE
        while not (fresh := bucket.new()):
            if time.monotonic() > deadline:
                raise Failed(f"{what}: no new object in {PROGRESS_DEADLINE} s; see the logs of the archivers")
            self.pause(0.003)
        return min(fresh)

    def victim(self, found):
        """Whom it hits and when: at once the one that uploaded `found`, or anybody at any time."""
        if found is None:
            self.pause(self.random.uniform(*RANDOM_WAIT))
            return self.random.choice(self.fleet.running()), None
        batch, delay = self.bucket.batch(found), aim(self.random)
        seen = time.monotonic()  # looking for the uploader takes time
        replica = uploader(self.fleet.running(), batch) or self.random.choice(self.fleet.running())
        self.pause(max(0, seen + delay - time.monotonic()))
        return replica, batch

    def kill(self, found):
        replica, batch = self.victim(found)
        with replica.lock:
            self.fleet.revive(replica)
            replica.kill()
            state = "" if batch is None else ", batch with receipt" if self.bucket.has_receipt(batch) else ", batch without receipt"
            self.siege.unvouched += "without" in state
            emptied = self.maybe_empty(replica)
            replica.start()
        return f"{replica.name}{state}, {emptied} spool"

    def kill_all(self, found):
        self.victim(found)  # just after it, too
        victims = self.fleet.running()
        for replica in victims:
            replica.lock.acquire()
        try:
            for replica in victims:
                self.fleet.revive(replica)
            for replica in victims:
                replica.kill()
            for replica in victims:
                self.maybe_empty(replica)
                replica.start()
        finally:
            for replica in victims:
                replica.lock.release()
        return f"{len(victims)} archivers"

    def maybe_empty(self, replica):
        if self.random.random() < 0.5:
            return "same"
        replica.empty_spool()
        return "empty"

    def stop(self, found):
        """Longer than the group waits; then it wakes, and must find out by itself."""
        replica, batch = self.victim(found)
        seconds = SESSION_SECONDS + self.random.uniform(1.5, 8)
        with replica.lock:
            self.fleet.revive(replica)
            process = replica.process
            process.send_signal(signal.SIGSTOP)
            try:
                self.pause(seconds)
            finally:
                process.send_signal(signal.SIGCONT)
        self.pause(2)
        with replica.lock:
            self.fleet.revive(replica)
            woke = replica.process is process
            self.siege.woken += woke
        return f"{replica.name} for {seconds:.1f} s{', aimed' if batch else ''}, {'awake again' if woke else 'ended'}"

    def roll(self):
        """Another number of archivers, one after the other; once, and then half of the times, another layout."""
        before = self.fleet.size
        size = self.random.choice([number for number in range(2, self.fleet.links.count + 1) if number != before])
        if changed := self.layout_due or self.random.random() < 0.5:
            self.fleet.layout, self.layout_due = 1 - self.fleet.layout, False
            self.siege.layouts_changed += 1
        for replica in self.fleet.replicas[: max(before, size)]:
            with replica.lock:
                if replica.slot <= before:
                    self.fleet.stop(replica)
                if replica.slot <= size:
                    self.maybe_empty(replica)
                    self.fleet.configure(replica)
                    replica.start()
                if replica.slot == size:
                    self.fleet.size = size
            self.pause(self.random.uniform(0.2, 2))
        self.fleet.size = size
        return f"{before} to {size} archivers{', other layout' if changed else ''}"


class Network(Lane):
    """Cuts, latency, resets and narrow links between one archiver and what it talks to."""

    FAULTS = NETWORK_FAULTS

    def inflict(self, kind):
        links, link = self.siege.links, self.random.randint(1, self.fleet.size)
        what = self.random.choice(("kafka", "s3", "both"))
        names = links.names(link, what)
        fault = {"network cut": self.cut, "latency": self.latency, "reset": self.reset, "narrow": self.narrow}[kind]
        with self.weather.trouble(link):
            try:
                try:
                    how, seconds = fault(links, names)
                except Hung:
                    links.renew()
                    how, seconds = fault(links, names)
                self.pause(seconds)
            finally:
                links.heal(names)
        return f"link {link}, {what}: {how} for {seconds:.1f} s"

    def cut(self, links, names):
        silent = self.random.random() < 0.5
        for name in names:
            if silent:
                for stream in ("upstream", "downstream"):
                    links.poison(name, "timeout", stream, timeout=0)
            else:
                links.close(name)
        return "silence" if silent else "refused", self.random.uniform(0.5, 14)

    def latency(self, links, names):
        delay = self.random.randint(50, 1500)
        for name in names:
            links.poison(name, "latency", "downstream", latency=delay, jitter=delay // 2)
        return f"{delay} ms", self.random.uniform(3, 10)

    def reset(self, links, names):
        """After some bytes or some time; connections are opened and reset again and again."""
        after_bytes = self.random.random() < 0.5
        limit = self.random.randint(500, 60_000) if after_bytes else self.random.randint(0, 400)
        for name in names:
            if after_bytes:
                links.poison(name, "limit_data", "upstream", bytes=limit)
            else:
                links.poison(name, "reset_peer", "upstream", timeout=limit)
        return f"reset after {limit} {'bytes' if after_bytes else 'ms'}", self.random.uniform(1, 5)

    def narrow(self, links, names):
        rate = self.random.randint(5, 100)
        for name in names:
            links.poison(name, "bandwidth", "upstream", rate=rate)
            links.poison(name, "bandwidth", "downstream", rate=rate)
        return f"{rate} KB/s", self.random.uniform(3, 12)


class BrokerDeaths(Lane):
    """One broker at a time dies, comes back, and has all of its copies again before the next."""

    FAULTS = BROKER_FAULTS

    def inflict(self, kind):
        brokers, node = self.siege.brokers, self.random.choice(NODES)
        with self.weather.trouble("brokers"):
            brokers.kill(node)
            try:
                self.pause(self.random.uniform(0.5, 8))
            finally:
                began = time.monotonic()
                brokers.start(node, self.pause)
        return f"broker {node}, all copies in sync {time.monotonic() - began:.1f} s after its start"
