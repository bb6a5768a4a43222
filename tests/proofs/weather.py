"""Which faults are on and which were lately: the only excuse that an archiver has for ending by itself.

A fault has a place: a proxy of links.py, BROKERS for all of them, or the name of the archiver that was killed or stopped. What
an archiver's log says about it is looked for here, too.
"""

import re
import threading
import time
from contextlib import contextmanager

BROKERS = "brokers"
AFTERMATH = 45  # seconds after a fault in which a process may still end because of it: Kafka's patience at a start, and leaving

# What the log of an archiver says when an upload fails, or a session is over.
UPLOAD_FAILED = "upload an object failed; trying again partition="
SESSION_OVER = re.compile(r'partition lost|facility="SESSTMOUT"|session timed out|[Ff]enced|[Uu]nknown member')


def store_trouble(url):
    """What it says when the destination at `url` cannot be reached."""
    return re.compile(rf"failed; trying again .* at {re.escape(url)}: ")


class Weather:
    def __init__(self):
        self.lock, self.on, self.ended = threading.Lock(), [], {}

    @contextmanager
    def trouble(self, places, name):
        """A fault called `name` at all of `places`."""
        with self.lock:
            self.on += [(place, name) for place in places]
        try:
            yield
        finally:
            now = time.monotonic()
            with self.lock:
                for place in places:
                    self.on.remove((place, name))
                    self.ended[place] = (now, name)

    def struck(self, place, name):
        """A fault without duration."""
        with self.trouble([place], name):
            pass

    def excuse(self, places):
        """The name of a fault at one of `places` that is on or was just now; None without one."""
        now = time.monotonic()
        with self.lock:
            for place, name in self.on:
                if place in places:
                    return f"{name} at {place}"
            for place in places:
                ended, name = self.ended.get(place, (float("-inf"), None))
                if now - ended < AFTERMATH:
                    return f"{name} at {place} {now - ended:.0f} s ago"
        return None


class Listener:
    """What a log says from now on."""

    def __init__(self, path):
        self.path = path
        self.at = path.stat().st_size if path.exists() else 0

    def heard(self, pattern):
        if not self.path.exists():
            return None
        with open(self.path, "rb") as log:
            log.seek(self.at)
            return pattern.search(log.read().decode(errors="replace"))
