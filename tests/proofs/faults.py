"""The faults of processes: one of the lanes of a siege that go on side by side (the others: outages.py).

The seed decides the order of the faults, whom they hit and how hard. Within a lane they never overlap and are evenly spaced; a
fault of processes also waits until something new was archived since the one before. Each undoes itself, and each that does
not work as it should ends the proof. One that nobody felt is told, and counts for nothing.
"""

import os
import signal
import time
import traceback
from dataclasses import dataclass
from random import Random

from cast import aim, uploader
from fleet import SESSION_SECONDS
from trial import Failed
from weather import SESSION_OVER, Listener

PROGRESS_DEADLINE = 150  # seconds without any new object: something hangs
CLAIMS = 0.75  # share of the aimed ones that wait for a claim, the first object of a batch, instead of data
CLAIM_SECONDS = 0.05  # from a claim to the blow at most: then the batch is hardly committed yet
AIM_TRIES = 30
RANDOM_WAIT = (0.1, 3.0)
NOTICE_SECONDS = 20  # until a process that woke has said that its session is over

# How often in 30 minutes.
PROCESS_FAULTS = {"SIGKILL, aimed": 56, "SIGKILL, random": 18, "SIGKILL, all": 20, "SIGSTOP": 30, "rolling restart": 7}


class Over(Exception):
    """Another lane failed."""


@dataclass
class Hit:
    """A fault as it went."""

    told: str
    felt: bool
    target: str = ""  # of a fault of links: kafka, main, second, stores or all


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
            began, seconds = time.monotonic(), self.siege.args.minutes * 60
            every = seconds / len(self.deck)
            for number, kind in enumerate(self.deck):
                if time.monotonic() - began > seconds + every:  # the machine is too slow for all of them: the table says so
                    self.siege.note(f"{type(self).__name__}: no time for {', '.join(self.deck[number:])}")
                    return
                self.pause(max(0.5, began + number * every - time.monotonic()))
                self.siege.count(kind, self.inflict(kind))
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
        self.wait_for_object(kind, self.bucket)
        return {"SIGKILL, aimed": self.kill_aimed, "SIGKILL, random": self.kill_random, "SIGKILL, all": self.kill_all,
                "SIGSTOP": self.stop, "rolling restart": self.roll}[kind]()

    def wait_for_object(self, what, bucket):
        bucket.new()
        deadline = time.monotonic() + PROGRESS_DEADLINE
        while not (fresh := bucket.new()):
            if time.monotonic() > deadline:
                raise Failed(f"{what}: no new object in {PROGRESS_DEADLINE} s; see the logs of the archivers")
            self.pause(0.003)
        return min(fresh)

    def aimed(self, what, claim):
        """(who uploaded a new object, its process, the batch, the object's path), as soon as one is there."""
        for _ in range(AIM_TRIES):
            path = self.wait_for_object(what, self.claims if claim else self.bucket)
            batch = self.bucket.batch(path)
            replica = uploader(self.fleet.running(), batch)
            if replica is not None:
                return replica, replica.process, batch, path
        raise Failed(f"{what}: nobody says that it sealed or took up what is in the bucket")

    def delay(self, claim):
        return CLAIM_SECONDS * self.random.random() ** 2 if claim else aim(self.random)

    def kill_aimed(self):
        """Felt only by the process that had just put the object."""
        claim = self.random.random() < CLAIMS
        replica, process, batch, path = self.aimed("SIGKILL, aimed", claim)
        self.pause(self.delay(claim))
        with replica.lock:
            self.fleet.revive(replica)
            hit, now = replica.process is process, time.time()
            replica.kill()
            self.siege.killed(now, path, hit, vouched := self.bucket.has_receipt(batch))
            emptied = self.restart(replica)
        state = f"batch with{'' if vouched else 'out'} receipt"
        return Hit(f"{replica.name}, after {'a claim' if claim else 'data'}, {state}, {emptied} spool", hit)

    def kill_random(self):
        self.pause(self.random.uniform(*RANDOM_WAIT))
        replica = self.random.choice(self.fleet.running())
        with replica.lock:
            self.fleet.revive(replica)
            replica.kill()
            emptied = self.restart(replica)
        return Hit(f"{replica.name}, {emptied} spool", True)

    def kill_all(self):
        """Just after a claim, too."""
        self.aimed("SIGKILL, all", True)
        self.pause(self.delay(True))
        victims = self.fleet.running()
        for replica in victims:
            replica.lock.acquire()
        try:
            for replica in victims:
                self.fleet.revive(replica)
            for replica in victims:
                replica.kill()
            for replica in victims:
                self.restart(replica)
        finally:
            for replica in victims:
                replica.lock.release()
        return Hit(f"{len(victims)} archivers", True)

    def restart(self, replica):
        self.weather.struck(replica.name, "SIGKILL")
        emptied = self.maybe_empty(replica)
        replica.start()
        return emptied

    def maybe_empty(self, replica):
        if self.random.random() < 0.5:
            return "same"
        replica.empty_spool()
        return "empty"

    def stop(self):
        """Longer than the group waits; then it wakes, and must find out by itself."""
        at_claim = self.random.random() < CLAIMS
        if at_claim:
            replica, *_ = self.aimed("SIGSTOP", True)
            self.pause(self.delay(True))
        else:
            self.pause(self.random.uniform(*RANDOM_WAIT))
            replica = self.random.choice(self.fleet.running())
        seconds = SESSION_SECONDS + self.random.uniform(1.5, 8)
        with replica.lock:
            self.fleet.revive(replica)
            process, listener = replica.process, Listener(replica.log_path)
            with self.weather.trouble([replica.name], "SIGSTOP"):
                os.kill(process.pid, signal.SIGSTOP)
                try:
                    self.pause(seconds)
                finally:
                    os.kill(process.pid, signal.SIGCONT)
                noticed = self.notices(process, listener)
        return Hit(f"{replica.name} for {seconds:.1f} s{', after a claim' if at_claim else ''}, "
                   f"{'then it noticed that its session was over' if noticed else 'and its session was never over'}", noticed)

    def notices(self, process, listener):
        deadline = time.monotonic() + NOTICE_SECONDS
        while not listener.heard(SESSION_OVER):
            if time.monotonic() > deadline or process.poll() is not None:
                return listener.heard(SESSION_OVER) is not None
            self.pause(0.1)
        return True

    def roll(self):
        """Another number of archivers, one after the other; once, and then half of the times, another layout."""
        before = self.fleet.size
        size = self.random.choice([number for number in range(2, self.fleet.links.count + 1) if number != before])
        if changed := self.layout_due or self.random.random() < 0.5:
            self.fleet.layout, self.layout_due = 1 - self.fleet.layout, False
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
        self.siege.layouts_changed += changed
        return Hit(f"{before} to {size} archivers{', other layout' if changed else ''}", True)
