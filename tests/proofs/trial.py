"""What the proofs share: the program, its configuration for one store, and processes that are measured.

Nothing heavy is imported here: a child's peak memory, as the kernel counts it, is at least its parent's.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOGS = ROOT / "scripts" / "logs.py"
CHECK = ROOT / "tests" / "reader" / "check.py"
STORES = ROOT / "tests" / "reader" / "stores.py"

# The columns of scripts/logs.py in the form that the configuration takes.
SCHEMA = [
    {"name": "id", "type": "INT64", "mode": "REQUIRED"},
    {"name": "time", "type": "TIMESTAMP", "unit": "ms"},
    *({"name": name, "type": "STRING"} for name in ("method", "host", "path", "query")),
    {"name": "status", "type": "INT64"},
    {"name": "bytes", "type": "INT64"},
    {"name": "duration", "type": "FLOAT64"},
    *({"name": name, "type": "STRING"} for name in ("ip", "user", "referer", "agent")),
    {"name": "geo", "type": "RECORD", "fields": [
        {"name": "country", "type": "STRING"}, {"name": "city", "type": "STRING"},
        {"name": "lat", "type": "FLOAT64"}, {"name": "lon", "type": "FLOAT64"}]},
    {"name": "trace", "type": "STRING"},
]

FORMATS = {  # name here -> (the output's format, the reader's name of it)
    "gzip": ('{ type = "json", compression = "gzip", level = 6 }', "json"),
    "zstd": ('{ type = "json", compression = "zstd", level = 3 }', "json"),
    "raw": ('{ type = "raw", compression = "gzip", level = 6 }', "raw"),
    "parquet": ('{ type = "parquet", compression = "zstd", level = 3, schema = "infer" }', "parquet"),
    "parquet-schema": ('{ type = "parquet", compression = "zstd", level = 3, schema = "schema.json" }', "parquet"),
}
STORE_NAMES = ("s3", "gcs", "azure", "file")
SERVICES = {"s3": ["s3"], "gcs": ["gcs"], "azure": ["azure"], "file": []}


class Failed(Exception):
    """A proof that did not hold, in words."""


def services(stores, others=("kafka",)):
    """Starts what is needed and puts its settings into the environment."""
    names = [*others, *(name for store in stores for name in SERVICES[store])]
    script = ROOT / "scripts" / "services.sh"
    subprocess.run([script, "start", *names], check=True, stdout=sys.stderr)
    command = ["bash", "-c", 'set -a; eval "$("$0" env "$@")"; env -0', script, *names]
    printed = subprocess.run(command, check=True, capture_output=True)
    for setting in printed.stdout.decode().split("\0"):
        name, _, value = setting.partition("=")
        if name:
            os.environ[name] = value


def program(release):
    """The archiver, built by `cargo build` before."""
    path = Path(os.environ.get("SILTSTONE_BIN") or ROOT / "target" / ("release" if release else "debug") / "siltstone")
    if not path.exists():
        raise Failed(f"{path} is missing: cargo build{' --release' if release else ''}")
    return path


class Trial:
    """One topic, one group, one prefix, one folder for everything local."""

    def __init__(self, name, store, format_name, topic=None):
        self.id = f"{name}-{secrets.token_hex(4)}"
        self.store, self.format = store, format_name
        self.topic, self.group = topic or self.id, self.id
        self.folder = Path(tempfile.mkdtemp(prefix=f"siltstone-{self.id}-"))
        self.brokers = os.environ["KAFKA_BROKERS"]
        self.url = self._url()

    def _url(self):
        if self.store == "file":
            return f"file://{self.folder}/archive"
        bucket = {"s3": ("s3", "S3_BUCKET"), "gcs": ("gs", "GCS_BUCKET"), "azure": ("az", "AZURE_CONTAINER")}[self.store]
        return f"{bucket[0]}://{os.environ[bucket[1]]}/proofs/{self.id}"

    def _destination(self):
        if self.store == "s3":  # the keys come from the environment, as they should
            return {"endpoint": os.environ["S3_ENDPOINT"], "region": os.environ["AWS_REGION"]}
        if self.store == "gcs":
            return {"endpoint": os.environ["GCS_ENDPOINT"]}
        if self.store == "azure":
            return {"use_emulator": True}
        return {}

    def write_config(self, name="siltstone", spool="spool", rotate=None, client=None, memory=None, archive=()):
        """Writes `name`.toml, with the lines `archive` in its archive, and gives its path. JSON strings, numbers and booleans are TOML, too."""
        (self.folder / "schema.json").write_text(json.dumps(SCHEMA))
        lines = ["[kafka]", f"brokers = {json.dumps(self.brokers)}", f"group = {json.dumps(self.group)}"]
        if client:
            lines += ["[kafka.client]", *(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in client.items())]
        lines += ["[spool]", f"dir = {json.dumps(str(self.folder / spool))}"]
        if memory:
            lines += ["[memory]", f"budget = {json.dumps(memory)}"]
        lines += ["[destinations.main]", f"url = {json.dumps(self.url)}"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in self._destination().items()]
        if rotate:
            lines += ["[rotate]", *(f"{key} = {json.dumps(value)}" for key, value in rotate.items())]
        lines += [
            "[[archive]]", 'name = "proof"', f"topics = [{json.dumps(self.topic)}]", 'timestamp = { field = "time", unit = "ms" }', *archive,
            "[[archive.output]]", f"format = {FORMATS[self.format][0]}", 'layout = { preset = "hive" }']
        path = self.folder / f"{name}.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def check(self, records, set_arguments=(), receipts=True):
        """Reads the archive back; gives what the reader found, after it has found it right."""
        result_path, log_path = self.folder / "check.json", self.folder / "check.log"
        command = [sys.executable, CHECK, "--url", self.url, "--format", FORMATS[self.format][1], "--records", str(records),
                   "--topic", self.topic, "--json", result_path, "--list-ids", self.folder / "ids.txt", *set_arguments]
        if receipts:
            command += ["--receipts", "--brokers", self.brokers]
        with open(log_path, "w") as log:
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
        if code != 0:
            raise Failed(f"the reader found the archive wrong:\n{log_path.read_text()}\nleft as it is: {self.url}, {self.folder}")
        return json.loads(result_path.read_text())

    def clean(self):
        """Deletes the objects and the folder."""
        if self.store != "file":
            subprocess.run([sys.executable, STORES, "delete", self.url], check=True)
        subprocess.run(["rm", "-rf", "--", self.folder], check=True)


def produce(brokers, topic, records, arguments=()):
    command = [sys.executable, LOGS, "produce", "--brokers", brokers, "--topic", topic, "--records", str(records), *arguments]
    subprocess.run(command, check=True, stdout=sys.stderr)


def drop_topic(brokers, topic):
    subprocess.run([sys.executable, LOGS, "drop", "--brokers", brokers, "--topic", topic], check=True)


@dataclass
class Usage:
    """What a process took, with the children it waited for."""

    code: int
    wall: float
    cpu: float
    peak_mib: float
    output: str


def measured(command, log_path, deadline):
    """Runs `command` to its end, or ends it after `deadline` seconds. Standard output is kept, the rest goes to the log."""
    out_path = Path(f"{log_path}.out")
    with open(log_path, "w") as log, open(out_path, "w") as out:
        began = time.monotonic()
        process = subprocess.Popen([str(word) for word in command], stdout=out, stderr=log, start_new_session=True)
        signal.signal(signal.SIGALRM, lambda *_: os.killpg(process.pid, signal.SIGKILL))
        signal.alarm(deadline)
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            signal.alarm(0)
        wall = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)  # reaped here, not by subprocess
    return Usage(process.returncode, wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, out_path.read_text())


def tail(path, lines=30):
    """The last lines of a log, of which the last 1,000 bytes for each line are read."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 1000 * lines))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


def drain(trial, program_path, config, name="run", deadline=900):
    """`siltstone run --drain`, measured; it must end well."""
    log_path = trial.folder / f"{name}.log"
    usage = measured([program_path, "run", "-c", config, "--drain"], log_path, deadline)
    if usage.code != 0:
        raise Failed(f"siltstone run --drain ended with {usage.code} after {usage.wall:.1f} s:\n{tail(log_path)}\nleft as it is: {trial.folder}")
    return usage
