"""The schema registry as its HTTP API shows it, killed and started as a process; and payloads that name their schema."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request

from trial import ROOT, Failed

from .base import PARTITIONS, Pipeline, create_topic

MAGIC = b"\0"
TYPE = "application/vnd.schemaregistry.v1+json"


class Registry:
    def __init__(self):
        self.url = os.environ["REGISTRY_URL"]

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": TYPE}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise Failed(f"{method} {path}: {error.code} {error.read()!r}") from None

    def register(self, subject, schema, kind="AVRO"):
        """The schema's id, which payloads name."""
        return self.ask("POST", f"/subjects/{subject}/versions", {"schema": schema, "schemaType": kind})["id"]

    def require_compatible(self, subject):
        """From now on, versions that cannot read what the one before wrote are refused."""
        self.ask("PUT", f"/config/{subject}", {"compatibility": "BACKWARD"})

    def delete(self, subject):
        self.ask("DELETE", f"/subjects/{subject}")
        self.ask("DELETE", f"/subjects/{subject}?permanent=true")

    @staticmethod
    def service(action):
        subprocess.run([ROOT / "scripts" / "services.sh", action, "registry"], check=True, stdout=sys.stderr)

    def kill(self):
        self.service("kill")

    def start(self):
        self.service("start")


def framed(schema_id, payload, indexes=b""):
    """As Confluent's serializers do: a zero, the id in four bytes, of Protocol Buffers which message of the file, the payload."""
    return MAGIC + schema_id.to_bytes(4, "big") + indexes + payload


class RegistryPipeline(Pipeline):
    """One with a registry that dies: while the archiver runs, which must wait for a schema that comes then and go on, and once more together
    with the archiver, whose successor must wait for it."""

    parts = ("registry",)
    known_share = 0.5  # of the records, which name no schema that comes later

    def prepare(self, run):
        self.registry, self.subject = Registry(), f"{run.id}-value"

    def sections(self):
        return ["[registry]", f"url = {json.dumps(self.registry.url)}"]

    def produce(self, run):
        create_topic(run)
        self.known = int(self.records * self.known_share)
        self.send(run, range(self.known))

    def archive(self, run):
        def outage(process):
            self.registry.kill()
            self.send(run, range(self.known, self.records))
            misses_the_registry(run, process, "run.log")
            before = run.receipts()
            self.registry.start()
            run.wait_for_receipts(process, before + 1)
            self.registry.kill()

        run.start_and_kill(before_kill=outage)
        before = run.receipts()
        with run.started("drain.log", "--drain") as process:
            misses_the_registry(run, process, "drain.log")
            # What was planned may be finished without a schema, where all of its objects were there.
            if run.receipts() > before + PARTITIONS:
                raise Failed(f"{run.receipts() - before} batches were finished while no schema could be had")
            self.registry.start()
            run.wait_for_end(process, "drain.log")

    def clean(self, run):
        self.registry.delete(self.subject)


def misses_the_registry(run, process, log_name):
    """Returns once the archiver says that it does not reach the registry; it must not end for that."""
    log = run.folder / log_name
    run.wait(process, log_name, "word of the registry", lambda: "schema registry" in log.read_text())
