"""Links between the archivers and everything else, through toxiproxy: one set for each archiver, to be cut, slowed and reset.

An archiver on link L speaks to broker N through `kafka-L-N`, to its first destination through `main-L` and to its second
through `second-L`: both lie on one S3 server and fail apart all the same. The brokers tell a client of link L only the
addresses of that link, so there is no way round.

toxiproxy sometimes hangs for good while it changes what a busy connection suffers (its issue 558). Then it is killed and
started anew, which resets every link once.
"""

import json
import os
import subprocess
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from urllib.parse import urlsplit

from trial import ROOT, Failed

BROKERS = (1, 2, 3)
ANSWER_SECONDS = 10
STORES = {"main": 40, "second": 60}  # destination -> its port on link L, less the base port and L


class Hung(Failed):
    """toxiproxy does not answer any more."""


class Links:
    """All of them. Made anew at the start, gone at the end."""

    def __init__(self, count, stores):
        """`stores`: the destinations on the S3 server."""
        self.url, self.base = os.environ["TOXIPROXY_URL"], int(os.environ["KAFKA3_BASE"])
        self.count, self.stores, self.proxies, self.renewed = count, tuple(stores), {}, 0
        self.taken, self.taking = set(), threading.Lock()
        self.s3 = urlsplit(os.environ["S3_ENDPOINT"]).netloc
        try:
            self.make()
        except Hung:  # since an earlier run
            self.restart()
            self.make()

    def make(self):
        for link in range(1, self.count + 1):
            for node in BROKERS:
                port = self.base + 100 * node
                self.add(f"kafka-{link}-{node}", port + 30 + link, f"127.0.0.1:{port + 20 + link}")
            for store in self.stores:
                self.add(f"{store}-{link}", self.base + STORES[store] + link, self.s3)

    def add(self, name, port, upstream):
        if name in self.ask("GET", "/proxies"):  # of a run that was killed
            self.ask("DELETE", f"/proxies/{name}")
        self.ask("POST", "/proxies", {"name": name, "listen": f"127.0.0.1:{port}", "upstream": upstream, "enabled": True})
        self.proxies[name] = port

    def brokers(self, link):
        return ",".join(f"127.0.0.1:{self.proxies[f'kafka-{link}-{node}']}" for node in BROKERS)

    def s3_endpoint(self, link, store):
        return f"http://127.0.0.1:{self.proxies[f'{store}-{link}']}"

    def names(self, link, targets):
        """The proxies of a link to some of `kafka`, `main` and `second`."""
        kafka = [f"kafka-{link}-{node}" for node in BROKERS] if "kafka" in targets else []
        return kafka + [f"{store}-{link}" for store in self.stores if store in targets]

    def ports(self, names):
        return [self.proxies[name] for name in names]

    def busy(self, names):
        with self.taking:
            return bool(self.taken.intersection(names))

    @contextmanager
    def alone(self, names, keep_waiting):
        """One fault at a time on each proxy. `keep_waiting` is called between looks."""
        names = set(names)
        while True:
            with self.taking:
                if not names & self.taken:
                    self.taken |= names
                    break
            keep_waiting(0.2)
        try:
            yield
        finally:
            with self.taking:
                self.taken -= names

    def close(self, name):
        """Connections end, and new ones are refused."""
        self.ask("POST", f"/proxies/{name}", {"enabled": False})

    def open(self, name):
        self.ask("POST", f"/proxies/{name}", {"enabled": True})

    def poison(self, name, kind, stream, **attributes):
        """Adds a toxic, at once also for open connections."""
        toxic = {"name": f"{kind}-{stream}", "type": kind, "stream": stream, "toxicity": 1.0, "attributes": attributes}
        self.ask("POST", f"/proxies/{name}/toxics", toxic)

    def heal(self, names=None):
        """Everything, or those named, open and unhindered."""
        try:
            for name in names or self.proxies:
                for toxic in self.ask("GET", f"/proxies/{name}/toxics"):
                    self.ask("DELETE", f"/proxies/{name}/toxics/{toxic['name']}")
                self.open(name)
        except Hung:
            self.renew()

    def renew(self):
        """Another toxiproxy, without any fault."""
        self.renewed += 1
        self.restart()
        self.make()

    def restart(self):
        script = ROOT / "scripts" / "services.sh"
        for action in ("kill", "start"):
            found = subprocess.run([script, action, "toxiproxy"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if found.returncode != 0:
                raise Failed(f"{action} toxiproxy:\n{found.stdout}")

    def end(self):
        try:
            for name in self.proxies:
                self.ask("DELETE", f"/proxies/{name}")
        except Hung:
            self.restart()

    def ask(self, method, path, body=None):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode() if body is not None else None, method=method)
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            kind = Hung if error.code == 503 else Failed
            raise kind(f"toxiproxy: {method} {path}: {error.code} {error.read().decode(errors='replace')}") from None
        except OSError as error:
            raise Hung(f"toxiproxy: {method} {path}: {error}") from None
        return json.loads(text) if text else None
