"""What a budget is worth: many Kafka partitions and hours open at once, and the memory of the process as the kernel counts it.

    scripts/memory.sh [--budget 256MiB] [--partitions 200] [--hours 24] [--records 1500000] [--format gzip,parquet] [--each] [--debug] [--keep]

Every record lies anywhere in the hours, and nothing ends a batch but SIGTERM, which comes when everything is read and one part is open for each
Kafka partition and hour: then all that was read is in open parts. Afterwards there must be one object for each Kafka partition and hour, every record in it once (read back
by tests/reader/check.py), and the process may never have held more than the budget and 64 MiB: VmHWM of /proc/PID/status, which counts the
program's own pages, too. One line for each format, with the greatest
number of open descriptors and the kinds of memory at the peak.

With --each the name has the record's id in it: every record is an object of its own, and what ends a batch is the room that the
names of objects take. Then the run is `--drain`, and there must be as many objects as records.
"""

import argparse
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from trial import FORMATS, Failed, Trial, drop_topic, produce, program, services, tail

BESIDE_BUDGET_MIB = 64
DEADLINE = 1800
LOOK_SECONDS = 0.05
IDLE_SECONDS, IDLE_SHARE = 2, 0.1
LISTEN = "127.0.0.1:18099"
SPOOL_EVERY = 20  # looks
ROTATE = {"records": 1_000_000_000, "size": "1GiB", "age": "7d", "grace": "off"}
UNITS = {"MiB": 1, "GiB": 1024}


def mebibytes(text):
    for unit, factor in UNITS.items():
        if text.endswith(unit) and text.removesuffix(unit).isdigit():
            return int(text.removesuffix(unit)) * factor
    raise argparse.ArgumentTypeError(f"{text}: a whole number with MiB or GiB")


@dataclass
class Look:
    """A process as /proc shows it, again and again until it ends."""

    pid: int
    spool: Path
    peak_kib: int = 0
    files_max: int = 0
    spool_bytes_max: int = 0
    spool_files_max: int = 0
    at_peak: dict = field(default_factory=dict)
    looks: int = 0

    def watch(self, ended):
        while not ended.wait(LOOK_SECONDS):
            try:
                self.look()
            except (FileNotFoundError, ProcessLookupError):  # it has ended
                return

    def look(self):
        status = kibibytes(f"/proc/{self.pid}/status")
        if status["VmHWM"] > self.peak_kib:
            self.peak_kib = status["VmHWM"]
            self.at_peak = {name: status[name] for name in ("VmRSS", "RssAnon", "RssFile")}
        self.files_max = max(self.files_max, len(os.listdir(f"/proc/{self.pid}/fd")))
        if self.looks % SPOOL_EVERY == 0:
            sizes = list(sizes_of_files(self.spool))
            self.spool_bytes_max, self.spool_files_max = max(self.spool_bytes_max, sum(sizes)), max(self.spool_files_max, len(sizes))
        self.looks += 1


def kibibytes(path):
    """What such a file of /proc tells in kB."""
    with open(path) as lines:
        return {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines) if value.rstrip().endswith("kB")}


def sizes_of_files(folder):
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                yield path.stat().st_size
        except FileNotFoundError:  # done with meanwhile
            pass


def run(trial, args, config):
    """`siltstone run` until it has read everything, then SIGTERM, watched; (seconds, Look)."""
    log_path, began, ended = trial.folder / "run.log", time.monotonic(), threading.Event()
    with open(log_path, "w") as log:
        command = [program(not args.debug), "run", "-c", config, *(["--drain"] if args.each else [])]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    look = Look(process.pid, trial.folder / "spool")
    watcher = threading.Thread(target=look.watch, args=[ended])
    watcher.start()
    try:
        if not args.each:
            wait_until_read(process, args.partitions * args.hours, log_path)
            process.send_signal(signal.SIGTERM)
        code = process.wait(DEADLINE)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        ended.set()
        watcher.join()
    if code != 0:
        raise Failed(f"siltstone run ended with {code}:\n{tail(log_path)}\nleft as it is: {trial.folder}")
    return time.monotonic() - began, look


def wait_until_read(process, parts, log_path):
    """Until so many parts are open, and the process has nothing to do any more: then it has read everything."""
    deadline, before = time.monotonic() + DEADLINE, None
    while True:
        time.sleep(IDLE_SECONDS)
        if process.poll() is not None or time.monotonic() > deadline:
            raise Failed(f"siltstone ended with {process.poll()} and not when it was asked to:\n{tail(log_path)}")
        used = cpu_seconds(process.pid)
        if before is not None and used - before < IDLE_SECONDS * IDLE_SHARE and open_parts() == parts:
            return
        before = used


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        words = stat.read().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def open_parts():
    with urllib.request.urlopen(f"http://{LISTEN}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith("siltstone_open_parts{"))


def one(args, topic, format_name):
    """One line; whether it holds."""
    trial = Trial("memory", "file", format_name, topic)
    config = trial.write_config(rotate=ROTATE, memory=f"{args.budget}MiB")
    text = f'[http]\nlisten = "{LISTEN}"\n[shutdown]\ntimeout = "1h"\n' + config.read_text()
    if args.each:
        text = text.replace('layout = { preset = "hive" }', 'layout = { preset = "hive", name = "{topic}+{partition:05}+{first:020}-{end:020}+{field.id}" }')
    config.write_text(text)
    wall, look = run(trial, args, config)
    found = trial.check(args.records, set_arguments(args))
    peak, allowed, objects = look.peak_kib / 1024, args.budget + BESIDE_BUDGET_MIB, args.records if args.each else args.partitions * args.hours
    kinds = " ".join(f"{name}={kib / 1024:.0f}" for name, kib in look.at_peak.items())
    holds = peak <= allowed and found["objects"] == objects
    print(f"{'ok' if holds else 'WRONG'} {format_name:8} budget={args.budget}MiB peak={peak:.0f}MiB allowed={allowed}MiB open_files={look.files_max} "
          f"spool={look.spool_bytes_max >> 20}MiB spool_files={look.spool_files_max} records={found['records']} distinct={found['distinct']} "
          f"objects={found['objects']} wanted={objects} seconds={wall:.0f} | at the peak, MiB: {kinds}", flush=True)
    if not args.keep:
        trial.clean()
    return holds


def set_arguments(args):
    return ["--partitions", str(args.partitions), "--hours", str(args.hours), "--mixed"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=mebibytes, default="256MiB")
    parser.add_argument("--partitions", type=int, default=200)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--records", type=int, default=1_500_000)
    parser.add_argument("--format", type=lambda text: text.split(","), default=["gzip", "parquet"], help=f"of {', '.join(FORMATS)}")
    parser.add_argument("--each", action="store_true", help="one object for each record")
    parser.add_argument("--debug", action="store_true", help="use target/debug, whose own pages are many more")
    parser.add_argument("--keep", action="store_true", help="delete neither topic nor objects")
    args = parser.parse_args()
    if unknown := [name for name in args.format if name not in FORMATS]:
        parser.error(f"{unknown[0]}: one of {', '.join(FORMATS)}")
    services([])
    brokers, topic, wrong = os.environ["KAFKA_BROKERS"], f"memory-{secrets.token_hex(4)}", 0
    try:
        produce(brokers, topic, args.records, set_arguments(args))
        for format_name in args.format:
            wrong += not one(args, topic, format_name)
    except Failed as failed:
        sys.exit(f"error: {failed}")
    if not args.keep:
        drop_topic(brokers, topic)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
