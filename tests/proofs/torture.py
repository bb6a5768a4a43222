"""The real thing: archivers of one group against three brokers and an S3 server, while everything around them breaks.

    scripts/torture.sh [--minutes 3] [--seed S] [--rate 2000] [--second s3|file] [--release] [--keep]

Two to four archivers write JSON to one destination and Parquet to another, from four topics: a plain one, one written in
transactions (three in ten are aborted, some are left by their producer), a compacted one, and one whose objects go up in
pieces. They reach Kafka and both destinations through links of their own; faults.py and outages.py say what happens to them,
fleet.py who they are, feed.py what is produced. Producers and the reader go direct. At the end all faults are removed,
everything is caught up, stopped and drained, and the independent reader (tests/reader/ledgers.py, which shares nothing with the
archiver) holds both outputs against the producers' ledgers and the topics themselves.

One table at the end, with what each number must be beside it (demands.py); faults that nobody felt are not counted. Exit 0 only
if every number is as it must be: every acked id in both outputs exactly once, no aborted one in any, no ERROR logged, and
enough of each fault. Otherwise the folder is left and named; events.log in it tells what happened when.
"""

import argparse
import fcntl
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from brokers import COMPACTED, Brokers
from cast import Bucket, UploadsInPieces
from demands import Demands, Row, broken, table
from faults import PROCESS_FAULTS, Processes
from fleet import EXCUSES, IN_USE, LAYOUTS, Fleet, Group
from links import STORES as DESTINATIONS
from links import Links
from outages import BROKER_FAULTS, NETWORK_FAULTS, UPLOAD_FAULTS, BrokerDeaths, Network, Uploads
from trial import ROOT, STORES, Failed, measured, program, services, tail

FEED = ROOT / "tests" / "proofs" / "feed.py"
READER = ROOT / "tests" / "reader" / "ledgers.py"
CATCH_UP_DEADLINE = 300
DRAIN_DEADLINE = 180
FEED_DEADLINE = 300
RETRIES_OF_STATIC = 12  # starts of a killed static member of the protocol `consumer` until its session is over, at most
KILLS = ("SIGKILL, aimed", "SIGKILL, random", "SIGKILL, all")
TOPICS = (  # kind, Kafka partitions, producers, share of the rate, hours
    ("plain", 4, 1, 0.42, 2), ("transactions", 3, 2, 0.22, 2), ("compacted", 2, 1, 0.13, 2), ("large", 1, 1, 0.23, 1))


@dataclass
class Topic:
    """What is produced to it; the reader is told the same."""

    name: str
    kind: str
    seed: int
    partitions: int
    lanes: int
    share: float
    hours: int

    def ledgers(self, folder):
        return [folder / f"ledger-{self.kind}-{lane}" for lane in range(self.lanes)]


class Feeds:
    """All producers."""

    def __init__(self, folder, brokers, topics, rate):
        self.folder, self.topics, self.processes = folder, topics, {}
        for topic in topics:
            for lane, ledger in enumerate(topic.ledgers(folder)):
                command = [sys.executable, FEED, "--brokers", brokers, "--topic", topic.name, "--kind", topic.kind, "--lane", lane,
                           "--lanes", topic.lanes, "--ledger", ledger, "--rate", rate * topic.share / topic.lanes, "--seed", topic.seed,
                           "--partitions", topic.partitions, "--hours", topic.hours]
                log_path = folder / f"feed-{topic.kind}-{lane}.log"
                with open(log_path, "w") as log:
                    self.processes[log_path] = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)

    def must_run(self):
        for log_path, process in self.processes.items():
            if process.poll() is not None:
                raise Failed(f"a producer ended by itself:\n{tail(log_path)}")

    def stop(self):
        """(topic, Kafka partition) -> highest acked offset."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for log_path, process in self.processes.items():
            try:
                code = process.wait(FEED_DEADLINE)
            except subprocess.TimeoutExpired:
                code = f"nothing, {FEED_DEADLINE} s after SIGTERM"
            if code != 0:
                raise Failed(f"a producer ended with {code}:\n{tail(log_path)}")
        tops = Counter()
        for topic in self.topics:
            for ledger in topic.ledgers(self.folder):
                for partition, offset in json.loads(tail(ledger, 1).removeprefix("tops ")).items():
                    place = (topic.name, int(partition))
                    tops[place] = max(tops[place], offset)
        return tops

    def end(self):
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()


class Siege:
    def __init__(self, args):
        self.args, self.id = args, f"torture-{secrets.token_hex(4)}"
        self.folder = Path(tempfile.mkdtemp(prefix=f"siltstone-{self.id}-"))
        self.events = open(self.folder / "events.log", "w", buffering=1)
        self.over, self.lock, self.failures = threading.Event(), threading.Lock(), []
        self.faults, self.unfelt, self.one_destination, self.layouts_changed = Counter(), Counter(), 0, 0
        self.after_put, self.unvouched = [], 0
        self.links = self.feeds = self.fleet = None
        self.threads = []
        self.topics = [Topic(f"{self.id}-{kind}", kind, args.seed + number, partitions, lanes, share, hours)
                       for number, (kind, partitions, lanes, share, hours) in enumerate(TOPICS)]
        prefixes = [f"proofs/{self.id}/json", f"proofs/{self.id}/parquet"]
        self.urls = [f"s3://{os.environ['S3_BUCKET']}/{prefix}" for prefix in prefixes]
        self.bucket, self.claims = Bucket.of_s3(prefixes), Bucket.of_s3(prefixes, claims=True)
        self.uploads = UploadsInPieces(prefixes[0])
        if args.second == "file":
            self.urls[1] = f"file://{self.folder}/parquet"
            self.bucket.roots[1] = self.folder / "parquet"

    # ---- told by the lanes -----------------------------------------------------------------------------------------------

    def note(self, text):
        self.events.write(f"{time.strftime('%H:%M:%S', time.gmtime())} {text}\n")

    def count(self, kind, hit):
        with self.lock:
            (self.faults if hit.felt else self.unfelt)[kind] += 1
            self.one_destination += hit.felt and hit.target in DESTINATIONS
        self.note(f"{kind}: {hit.told}{'' if hit.felt else ': nobody felt it, not counted'}")

    def killed(self, now, path, hit, vouched):
        """A process was killed after the PUT of the object at `path`, `hit`: the process that had put it."""
        if hit:
            self.after_put.append((now - os.stat(path).st_mtime) * 1000)
            self.unvouched += not vouched

    def fail(self, text):
        self.failures.append(text)
        self.note(f"FAILED: {text}")
        self.over.set()

    # ---- the course ------------------------------------------------------------------------------------------------------

    def run(self):
        began = time.monotonic()
        self.prepare()
        lanes = [lane(self) for lane in (Processes, Network, Uploads, BrokerDeaths)]
        self.threads = [threading.Thread(target=lane.run, daemon=True) for lane in lanes]
        self.feeds = Feeds(self.folder, self.brokers.direct, self.topics, self.args.rate)
        self.fleet.start()
        for thread in self.threads:
            thread.start()
        while any(thread.is_alive() for thread in self.threads):
            self.look()
            self.over.wait(0.1)
        if self.failures:
            raise Failed("\n".join(self.failures))
        self.note("all faults are over")
        self.finish()
        found = self.read()
        self.report(found, time.monotonic() - began)

    def prepare(self):
        stores = [name for name, url in zip(DESTINATIONS, self.urls) if url.startswith("s3:")]
        self.brokers, self.links = Brokers(), Links(int(os.environ["KAFKA3_LINKS"]), stores)
        for topic in self.topics:
            self.brokers.create(topic.name, topic.partitions, COMPACTED if topic.kind == "compacted" else None)
        self.brokers.wait_in_sync(time.sleep)
        size = random.Random(self.args.seed).randint(2, self.links.count)
        large = [topic.name for topic in self.topics if topic.kind == "large"][0]
        others = [topic.name for topic in self.topics if topic.name != large]
        group = Group(self.id, others, large, self.urls, os.environ["AWS_REGION"], self.args.protocol, self.args.members)
        self.fleet = Fleet(program(self.args.release), self.folder, group, self.links, size)

    def look(self):
        try:
            self.feeds.must_run()
            self.fleet.watch()
        except Failed as failed:
            self.fail(str(failed))

    def finish(self):
        """No more faults: everything is caught up with, stopped and drained."""
        self.links.heal()
        self.brokers.all_must_run()
        self.brokers.wait_in_sync(time.sleep)
        tops = self.feeds.stop()
        self.note("the producers have stopped")
        self.catch_up(tops)
        for replica in self.fleet.running():
            self.fleet.stop(replica, strict=True)
        config = self.folder / "drain.toml"
        config.write_text(self.fleet.config(1, self.folder / "spool-drain"))
        usage = measured([self.fleet.program, "run", "-c", config, "--drain"], self.folder / "drain.log", DRAIN_DEADLINE)
        if usage.code != 0:
            raise Failed(f"siltstone run --drain ended with {usage.code} after {usage.wall:.1f} s:\n{tail(self.folder / 'drain.log')}")
        self.note("drained")

    def catch_up(self, tops):
        deadline = time.monotonic() + CATCH_UP_DEADLINE
        while True:
            committed = self.brokers.committed(self.id)
            behind = {place: top + 1 - committed.get(place, 0) for place, top in tops.items() if committed.get(place, 0) <= top}
            if not behind:
                self.note("caught up")
                return
            self.fleet.watch()
            if time.monotonic() > deadline:
                raise Failed(f"{CATCH_UP_DEADLINE} s after the last record and the last fault there are not committed: {behind}")
            time.sleep(0.3)

    def read(self):
        """What the independent reader found."""
        manifest, result, log_path = (self.folder / name for name in ("manifest.json", "check.json", "check.log"))
        topics = [{**asdict(topic), "ledgers": [str(path) for path in topic.ledgers(self.folder)]} for topic in self.topics]
        outputs = [{"name": "json", "url": self.urls[0], "format": "json"}, {"name": "parquet", "url": self.urls[1], "format": "parquet"}]
        manifest.write_text(json.dumps({"brokers": self.brokers.direct, "topics": topics, "outputs": outputs,
                                        "second": LAYOUTS[1][0].split("/")[0]}))
        with open(log_path, "w") as log:
            code = subprocess.run([sys.executable, READER, manifest, "--json", result], stdout=log, stderr=subprocess.STDOUT).returncode
        if not result.exists():
            raise Failed(f"the reader failed:\n{tail(log_path)}")
        if code != 0:
            self.failures.append(f"the reader found the archive wrong:\n{log_path.read_text()}")
        return json.loads(result.read_text())

    # ---- the table -------------------------------------------------------------------------------------------------------

    def report(self, found, seconds):
        told = self.fleet.told()
        (self.folder / "warnings.txt").write_text("".join(f"{count:6} {text}\n" for text, count in Counter(told.warnings).most_common()))
        demands = Demands(self.args.minutes, self.args.rate)
        rows = [Row("minutes", f"{seconds / 60:.1f}"), Row("group", f"{self.args.protocol}, {self.args.members}"),
                Row("seed, rate, program", f"{self.args.seed}, {self.args.rate:g}/s, {'release' if self.args.release else 'debug'}")]
        rows += demands.of_ids(found["ids"])
        for name, output in found["outputs"].items():
            rows += demands.of_output(name, output)
        rows += [Row("receipts", found["receipts"], least=1), Row("objects kept from before compaction", found["kept"]),
                 Row("objects with more rows than vouched, put late", found["late"], most=self.interruptions()),
                 Row("uploads in pieces left unfinished", found["unfinished"], most=self.interruptions()),
                 Row("hidden files of dead processes", found["left_over"], most=self.interruptions())]
        rows += self.rows_of_faults(demands)
        excused = self.fleet.excused
        rows += [Row("lives of processes", told.lives),
                 demands.counted("lives that began on an open plan", told.to_redo + told.to_commit),
                 Row("  to redo", told.to_redo), Row("  only to commit", told.to_commit), Row("batches redone", told.redone)]
        in_use = excused.pop(IN_USE, 0)  # of the protocol `consumer` alone: then again and again until the session is over
        rows += [Row(f"ended: {excuse}", excused[excuse]) for excuse in EXCUSES]
        rows += [demands.bounded("ended by themselves, excused", sum(excused.values())),
                 Row(f"ended: {IN_USE}", in_use, most=RETRIES_OF_STATIC * sum(self.faults[kind] for kind in PROCESS_FAULTS)),
                 demands.bounded("left with open batches in a fault", self.fleet.incomplete),
                 Row("toxiproxy hung, all links reset", self.links.renewed), Row("WARN lines", len(told.warnings)),
                 Row("ERROR lines", len(told.errors), most=0)]
        print(table(rows), flush=True)
        for end in self.fleet.ends:
            self.note(end)
        self.failures += broken(rows) + told.errors[:40]
        if self.failures:
            raise Failed("\n".join(self.failures))

    def interruptions(self):
        """How often something may have been left: what dies cannot clean up, and what is cut off cannot tell the store."""
        return sum(both[kind] for both in (self.faults, self.unfelt) for kind in (*KILLS, *NETWORK_FAULTS, *UPLOAD_FAULTS))

    def rows_of_faults(self, demands):
        faults = self.faults
        rows = [demands.counted("faults that were felt", sum(faults.values())),
                demands.counted("SIGKILL in all", sum(faults[kind] for kind in KILLS), "  SIGKILL in all")]
        rows += [demands.counted(kind, faults[kind], f"  {kind}") for kind in (*PROCESS_FAULTS, *NETWORK_FAULTS, *UPLOAD_FAULTS, *BROKER_FAULTS)]
        rows += [demands.counted("restarts that changed the layout", self.layouts_changed, "  restarts that changed the layout"),
                 demands.counted("of one destination alone", self.one_destination, "  of one destination alone"),
                 Row("faults that nobody felt, not counted", sum(self.unfelt.values()))]
        rows += [Row(f"  {kind}", count) for kind, count in sorted(self.unfelt.items())]
        median = sorted(self.after_put)[len(self.after_put) // 2] if self.after_put else 0
        rows += [Row("aimed: ms after the PUT, median", round(median)), demands.counted("aimed: before the receipt", self.unvouched)]
        return rows

    def end(self):
        """Whatever happened: nothing of ours stays alive, and a broker that was killed is back."""
        self.over.set()
        for thread in self.threads:
            if thread.is_alive():
                thread.join(120)
        for ours in (self.feeds, self.fleet, self.links):
            if ours:
                ours.end()

    def clean(self):
        self.brokers.drop(topic.name for topic in self.topics)
        for url in self.urls:
            if not url.startswith("file:"):
                subprocess.run([sys.executable, STORES, "delete", url], check=True)
        subprocess.run(["rm", "-rf", "--", self.folder], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3, help="of faults")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--rate", type=float, default=2000, help="records a second, in all topics together")
    parser.add_argument("--second", choices=("s3", "file"), default="s3", help="where the Parquet output goes")
    parser.add_argument("--protocol", choices=("classic", "consumer"), default="classic", help="of the group")
    parser.add_argument("--members", choices=("dynamic", "static", "mixed"), default="mixed", help="which have an instance id")
    parser.add_argument("--release", action="store_true", help="use target/release")
    parser.add_argument("--keep", action="store_true", help="leave topics, objects and logs for a look")
    args = parser.parse_args()
    print(f"seed {args.seed}", file=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("error: ended by SIGTERM"))
    alone = open(Path(tempfile.gettempdir()) / "siltstone-torture.lock", "w")
    fcntl.flock(alone, fcntl.LOCK_EX)  # the brokers and the links are the same for all
    services(["s3"], ("kafka3", "toxiproxy"))
    siege = Siege(args)
    print(f"events: {siege.folder}/events.log", file=sys.stderr)
    try:
        siege.run()
    except Failed as failed:
        sys.exit(f"error: {failed}\nleft as it is: {siege.folder}, {' and '.join(siege.urls)}")
    except BaseException:
        traceback.print_exc()
        sys.exit(f"left as it is: {siege.folder}")
    finally:
        siege.end()
    if not args.keep:
        siege.clean()


if __name__ == "__main__":
    main()
