"""The faults of what archivers talk to, in three lanes: links, uploads in pieces, brokers.

A fault of a link counts only if something was on its way there: bytes that went through it, connections that it ended (see
traffic.py), or an archiver that complained of that destination. One that nobody has felt yet stays a while longer.
"""

import itertools
import re
import time

from cast import owner
from faults import Hit, Lane
from links import STORES, Hung
from traffic import Passed, Watch
from weather import BROKERS, UPLOAD_FAILED, Listener, store_trouble

NODES = (1, 2, 3)
LOOK_SECONDS = 0.25
WARM_UP = 1.0  # seconds before a fault in which its link is watched
LONGER_SECONDS = 10  # that a fault stays on until somebody feels it
PLACES_TRIED = 20
PIECES_SECONDS = 60  # to wait for an upload in pieces

# How often in 30 minutes.
NETWORK_FAULTS = {"network cut": 36, "latency": 22, "reset": 30, "narrow": 18}
UPLOAD_FAULTS = {"upload reset": 20}
BROKER_FAULTS = {"broker SIGKILL": 15}
TARGETS = {"kafka": ("kafka",), "main": ("main",), "second": ("second",), "stores": ("main", "second"), "all": ("kafka", "main", "second")}


class Network(Lane):
    """Cuts, latency, resets and narrow links between one archiver and what it talks to."""

    FAULTS = NETWORK_FAULTS

    def __init__(self, siege):
        super().__init__(siege)
        targets = [name for name, parts in TARGETS.items() if name == "kafka" or set(parts) & set(siege.links.stores)]
        self.random.shuffle(targets)
        self.targets = itertools.cycle(targets)

    def inflict(self, kind):
        links = self.siege.links
        link, target, names = self.place()
        fault, felt_by = {"network cut": (self.cut, felt_cut), "latency": (self.latency, felt_bytes), "reset": (self.reset, felt_end),
                          "narrow": (self.narrow, felt_bytes)}[kind]
        with links.alone(names, self.pause), self.weather.trouble(names, kind):
            watch = Watch(links.ports(names))
            self.watched(watch, WARM_UP)
            before, watch.passed = watch.passed, Passed()
            try:
                listener = Listener(self.fleet.replicas[link - 1].log_path)
                how, seconds = self.set_up(fault, links, names)
                self.watched(watch, seconds)
                longer = time.monotonic() + LONGER_SECONDS
                while not (felt := felt_by(before, watch.look(), self.complaint(listener, target))) and time.monotonic() < longer:
                    self.pause(LOOK_SECONDS)
            finally:
                links.heal(names)
        passed = watch.passed
        told = f"link {link}, {target}: {how} for {seconds:.1f} s, {passed.sent} bytes sent, {passed.ended} connections ended"
        return Hit(told, felt, target)

    @staticmethod
    def set_up(fault, links, names):
        try:
            return fault(links, names)
        except Hung:
            links.renew()
            return fault(links, names)

    def place(self):
        """Some archiver's link to something, where no other fault is if possible. All targets get their turn."""
        links, target = self.siege.links, next(self.targets)
        for _ in range(PLACES_TRIED):
            link = self.random.randint(1, self.fleet.size)
            names = links.names(link, TARGETS[target])
            if not links.busy(names):
                break
        return link, target, names

    def watched(self, watch, seconds):
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.pause(min(LOOK_SECONDS, left))
            watch.look()

    def complaint(self, listener, target):
        """Whether the archiver says that it cannot reach one of the destinations that are meant."""
        urls = [url for name, url in zip(STORES, self.fleet.group.urls) if name in TARGETS[target]]
        return any(listener.heard(store_trouble(url)) for url in urls)

    def cut(self, links, names):
        silent = self.random.random() < 0.5
        for name in names:
            if silent:
                for stream in ("upstream", "downstream"):
                    links.poison(name, "timeout", stream, timeout=0)
            else:
                links.close(name)
        return "silence" if silent else "refused", self.random.uniform(1, 14)

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


LEAST_BYTES = 200  # less may be a handshake, or the kernel's own


def felt_bytes(before, during, complained):
    """Slow links: something went through."""
    return complained or during.sent + during.received >= LEAST_BYTES


def felt_end(before, during, complained):
    """Resets: a connection in use ended."""
    return complained or during.ended > 0 and during.sent >= LEAST_BYTES


def felt_cut(before, during, complained):
    """Somebody complained, sent what was never answered, or was cut off in the middle of talking."""
    in_use = before.sent + before.received >= LEAST_BYTES
    return complained or during.sent >= LEAST_BYTES or in_use and during.ended > 0


class Uploads(Lane):
    """Connections that end in the middle of an object that goes up in pieces."""

    FAULTS = UPLOAD_FAULTS

    def inflict(self, kind):
        """Set up at whoever has the large topic, until an upload in pieces has run into it."""
        limit, deadline = self.random.randint(400_000, 4_500_000), time.monotonic() + PIECES_SECONDS
        while True:
            replica, began = self.owner(), time.monotonic()
            felt = self.lie_in_wait(replica, kind, limit, deadline)
            if felt or time.monotonic() > deadline:
                return Hit(f"{replica.name}: reset after {limit} bytes, {time.monotonic() - began:.1f} s after it was set up", felt, "main")

    def lie_in_wait(self, replica, kind, limit, deadline):
        links, uploads = self.siege.links, self.siege.uploads
        names, failed = links.names(replica.slot, ("main",)), re.compile(UPLOAD_FAILED + re.escape(self.fleet.group.large))
        with links.alone(names, self.pause), self.weather.trouble(names, kind):
            uploads.new()
            listener, begun, felt = Listener(replica.log_path), False, False
            try:
                self.poison(links, names[0], limit)
                while not felt and time.monotonic() < deadline and (begun or self.owner() is replica):
                    self.pause(LOOK_SECONDS)
                    begun = begun or bool(uploads.new())
                    felt = begun and bool(uploads.all()) and listener.heard(failed) is not None
                if felt:
                    self.pause(self.random.uniform(0.2, 2))
            finally:
                links.heal(names)
        return felt

    def poison(self, links, name, limit):
        try:
            links.poison(name, "limit_data", "upstream", bytes=limit)
        except Hung:
            links.renew()
            links.poison(name, "limit_data", "upstream", bytes=limit)

    def owner(self):
        while True:
            running = [replica for replica in self.fleet.running() if replica.log_path.exists()]
            if found := owner(running, self.fleet.group.large, 0):
                return found
            self.pause(LOOK_SECONDS)


class BrokerDeaths(Lane):
    """One broker at a time dies, comes back, and has all of its copies again before the next."""

    FAULTS = BROKER_FAULTS

    def inflict(self, kind):
        brokers, links, node = self.siege.brokers, self.siege.links, self.random.choice(NODES)
        watch = Watch(links.ports([f"kafka-{link}-{node}" for link in range(1, links.count + 1)]))
        with self.weather.trouble([BROKERS], kind):
            brokers.kill(node)
            try:
                self.pause(self.random.uniform(0.5, 8))
                felt = watch.look().ended > 0
            finally:
                began = time.monotonic()
                brokers.start(node, self.pause)
        return Hit(f"broker {node}, {watch.passed.ended} connections of archivers ended, "
                   f"all copies in sync {time.monotonic() - began:.1f} s after its start", felt)
