"""Who takes part in the proofs that kill: archivers that are started again and again, and a watcher of the bucket."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

from trial import Failed, tail

AIM_MS_MAX = 200
STOP_DEADLINE = 120
OBJECT = re.compile(r"(?P<topic>[^/+]+)\+(?P<partition>\d{5,})\+(?P<first>\d{20})-(?P<end>\d{20})\.")
CLAIM = re.compile(r"/(?P<topic>[^/]+)/(?P<partition>\d{5,})/(?P<first>\d{20})\.claim$")
ASSIGNED = ("partition assigned ",)
AT_WORK = ("batch sealed ", "redoing an unfinished batch ")
STILL_NS = 50_000_000  # a folder changed more lately than this is looked at again: its time is coarse


def aim(random):
    """Seconds between a new object and the blow: 0 to 200 ms, more often early than late."""
    return AIM_MS_MAX / 1000 * random.random() ** 3


class Archiver:
    """A process that is started again and again."""

    def __init__(self, name, program, folder, config):
        self.name, self.program, self.config = name, program, config
        self.spool, self.log_path = folder / f"spool-{name}", folder / f"{name}.log"
        self.process, self.lives = None, 0

    def start(self):
        with open(self.log_path, "a") as log:
            log.write(f"---- started at {time.time():.3f}\n")
            log.flush()
            self.process = subprocess.Popen([self.program, "run", "-c", self.config], stdout=log, stderr=log)
        self.lives += 1

    def must_run(self):
        if self.process.poll() is not None:
            raise Failed(f"{self.name} ended by itself with {self.process.returncode}:\n{tail(self.log_path)}")

    def kill(self):
        self.must_run()
        self.process.kill()
        self.process.wait()

    def last_said(self, words, about):
        """When its log last said one of `words` before the fields that begin with `about`; empty if never."""
        text = tail(self.log_path, 200)
        at = len(text)
        while (at := text.rfind(about, 0, at)) >= 0:  # from the end, since a process that is aimed at is to be hit soon
            line = text[text.rfind("\n", 0, at) + 1 : at]
            if line.endswith(words):
                return line.split(" ", 1)[0]
        return ""

    def empty_spool(self):
        subprocess.run(["rm", "-rf", "--", self.spool], check=True)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)

    def ended(self):
        """Its exit code after SIGTERM."""
        try:
            return self.process.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} did not end within {STOP_DEADLINE} s of SIGTERM:\n{tail(self.log_path)}") from None

    def stopped(self):
        code = self.ended()
        if code != 0:
            raise Failed(f"{self.name} ended with {code} after SIGTERM:\n{tail(self.log_path)}")


def latest(archivers, words, about):
    """The process whose log said one of `words` last, if any did."""
    times = {archiver.last_said(words, about): archiver for archiver in archivers}
    return times[max(times)] if any(times) else None


def uploader(archivers, batch):
    """The process that sealed or took up `batch` last."""
    return latest(archivers, AT_WORK, f"partition={batch['topic']}/{int(batch['partition'])} first={int(batch['first'])} ")


def owner(archivers, topic, partition):
    """The process that got the Kafka partition last."""
    return latest(archivers, ASSIGNED, f"partition={topic}/{partition} ")


class Bucket:
    """The folders of an S3 server, or plain ones, watched: data objects appear in them under their final names.

    With `claims`, the claims are watched instead: objects, too, and each means that data will follow at once."""

    def __init__(self, folders, receipts, claims=False):
        self.receipts, self.claims = receipts, claims
        self.roots = [receipts] if claims else [Path(folder) for folder in folders]
        self.known = {}  # folder -> (time of its last change, names of objects, folders)
        self.seen = set()

    @classmethod
    def of_s3(cls, prefixes, claims=False):
        """Prefixes of the S3 server's bucket; claims and receipts lie in the first one."""
        folders = [Path(os.environ["S3_DATA"]) / prefix for prefix in prefixes]
        return cls(folders, folders[0] / "_siltstone" / "receipts" / "v1", claims)

    @staticmethod
    def batch(path):
        """Topic, Kafka partition and first offset in an object's name."""
        return CLAIM.search(path) or OBJECT.search(path)

    def has_receipt(self, batch):
        return (self.receipts / batch["topic"] / batch["partition"] / f"{batch['first']}.json").exists()

    def new(self):
        """Paths of objects that were not there at the last call."""
        found = set()
        for root in self.roots:
            self._collect(root, found)
        fresh, self.seen = found - self.seen, found
        return fresh

    def _collect(self, folder, found):
        try:
            changed = os.stat(folder).st_mtime_ns
        except FileNotFoundError:
            return
        if folder not in self.known or self.known[folder][0] != changed:
            objects, folders = [], []
            for entry in os.scandir(folder):
                if entry.name[0] not in "._":
                    (folders if entry.is_dir() else objects).append(Path(entry.path))
            if self.claims:
                objects = [path for path in objects if path.suffix == ".claim"]
            moved_lately = time.time_ns() - changed < STILL_NS
            self.known[folder] = (None if moved_lately else changed, [str(path) for path in objects], folders)
        _, objects, folders = self.known[folder]
        found.update(objects)
        for inner in folders:
            self._collect(inner, found)


class UploadsInPieces:
    """Those below a prefix that the S3 server has begun and not ended: it keeps the pieces in a folder for each."""

    def __init__(self, prefix):
        self.root, self.prefix = Path(os.environ["S3_DATA"]) / ".sgwtmp" / "multipart", prefix.encode()
        self.seen = set()

    def all(self):
        return {str(upload) for folder in entries(self.root) if self._is_ours(folder) for upload in entries(folder)}

    def _is_ours(self, folder):
        try:
            return os.getxattr(folder, "user.objname").startswith(self.prefix)
        except OSError:  # ended meanwhile, or not yet there as a whole
            return False

    def new(self):
        """Those that were not there at the last call."""
        found = self.all()
        fresh, self.seen = found - self.seen, found
        return fresh


def entries(folder):
    """What lies in a folder that may be gone."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []
