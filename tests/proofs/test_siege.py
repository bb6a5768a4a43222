#!/usr/bin/env python3
"""Proves the judges of a siege: what counts as felt, what excuses an end, what a table must hold.

    $PYTHON tests/proofs/test_siege.py [NAME...]

Without any service: connections are made here, logs are written by hand.
"""

import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path
from types import SimpleNamespace

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "reader")]
import weather  # noqa: E402
from cast import Archiver, Bucket, owner, uploader  # noqa: E402
from demands import FLOORS, Demands, Row, broken  # noqa: E402
from faults import Hit, Lane  # noqa: E402
from feed import Ending  # noqa: E402
from fleet import AWAY, FENCED_ITSELF, IN_USE, INCOMPLETE, STOPPED, UNREACHABLE, Fleet, Group, Told  # noqa: E402
from links import Links  # noqa: E402
from outages import felt_bytes, felt_cut, felt_end  # noqa: E402
from topics import mark  # noqa: E402
from torture import Siege  # noqa: E402
from traffic import Passed, Watch, connections  # noqa: E402
from trial import Failed  # noqa: E402
from weather import BROKERS, SESSION_OVER, UPLOAD_FAILED, Listener, Weather, store_trouble  # noqa: E402

SOON = 5


def eventually(condition):
    deadline = time.monotonic() + SOON
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class Connections(unittest.TestCase):
    """The kernel's counts of connections that are made here."""

    def setUp(self):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.addCleanup(self.server.close)

    def connect(self):
        client = socket.create_connection(("127.0.0.1", self.port))
        served, _ = self.server.accept()
        self.addCleanup(client.close)
        self.addCleanup(served.close)
        return client, served

    def test_bytes_both_ways_are_counted(self):
        client, served = self.connect()
        watch = Watch([self.port])
        client.sendall(b"x" * 3000)
        served.sendall(b"y" * 500)
        client.recv(500)
        self.assertTrue(eventually(lambda: (watch.look().sent, watch.passed.received) == (3000, 500)), watch.passed)
        self.assertEqual((watch.passed.opened, watch.passed.ended, watch.open()), (0, 0, 1))

    def test_other_ports_are_not_looked_at(self):
        self.connect()
        self.assertEqual(connections([self.port + 1]), {})

    def test_ends_and_begins_are_seen(self):
        client, served = self.connect()
        client.sendall(b"x" * 700)
        watch = Watch([self.port])
        client.sendall(b"x" * 300)
        self.assertTrue(eventually(lambda: watch.look().sent == 300), watch.passed)
        client.close()
        served.close()
        self.assertTrue(eventually(lambda: watch.look().ended == 1), watch.passed)
        self.connect()
        self.assertTrue(eventually(lambda: watch.look().opened == 1), watch.passed)

    def test_the_same_port_again_is_another_connection(self):
        looks = iter([{(1, 2): (900, 0)}, {(1, 2): (40, 0)}])
        watch = Watch([2], lambda ports: next(looks))
        passed = watch.look()
        self.assertEqual((passed.sent, passed.opened, passed.ended), (40, 1, 1))


class Felt(unittest.TestCase):
    def test_slowness_needs_bytes(self):
        self.assertFalse(felt_bytes(Passed(), Passed(sent=10), False))
        self.assertTrue(felt_bytes(Passed(), Passed(received=1000), False))

    def test_a_reset_needs_a_connection_in_use(self):
        self.assertFalse(felt_end(Passed(sent=5000), Passed(ended=1), False))
        self.assertFalse(felt_end(Passed(), Passed(sent=5000), False))
        self.assertTrue(felt_end(Passed(), Passed(sent=5000, ended=1), False))

    def test_a_cut_needs_somebody_who_talked(self):
        self.assertFalse(felt_cut(Passed(), Passed(ended=2), False))
        self.assertTrue(felt_cut(Passed(sent=300), Passed(ended=2), False))
        self.assertTrue(felt_cut(Passed(), Passed(sent=300), False))
        self.assertTrue(felt_cut(Passed(), Passed(), True))

    def test_complaints_in_logs(self):
        upload = "T  WARN upload an object failed; trying again partition=t/0 reason=\"put a.json at s3://b/j: connection reset\" pause_ms=2\n"
        over = "T  WARN partition lost partition=t/0\n"
        patterns = store_trouble("s3://b/j"), store_trouble("s3://b/p"), SESSION_OVER, re.compile(UPLOAD_FAILED + "t/")
        self.assertEqual([bool(pattern.search(upload)) for pattern in patterns], [True, False, False, True])
        self.assertEqual([bool(pattern.search(over)) for pattern in patterns], [False, False, True, False])

    def test_a_log_is_read_from_now_on(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "log")
            path.write_text("partition lost\n")
            listener = Listener(path)
            self.assertIsNone(listener.heard(SESSION_OVER))
            with open(path, "a") as log:
                log.write("WARN partition lost\n")
            self.assertIsNotNone(listener.heard(SESSION_OVER))

    def test_a_fault_that_nobody_felt_counts_for_nothing(self):
        siege = SimpleNamespace(lock=threading.Lock(), faults={"cut": 0}, unfelt={"cut": 0}, one_destination=0, note=lambda text: None)
        Siege.count(siege, "cut", Hit("", False, "main"))
        self.assertEqual((siege.faults["cut"], siege.unfelt["cut"], siege.one_destination), (0, 1, 0))
        Siege.count(siege, "cut", Hit("", True, "stores"))
        Siege.count(siege, "cut", Hit("", True, "second"))
        self.assertEqual((siege.faults["cut"], siege.unfelt["cut"], siege.one_destination), (2, 1, 1))


class Ends(unittest.TestCase):
    """Which ends of a process are excused, by which fault."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        links = Links.__new__(Links)
        links.count, links.stores = 2, ("main", "second")
        group = Group("g", ["t"], "l", ["s3://b/j", "s3://b/p"], "r", "classic", "mixed")
        self.fleet = Fleet("siltstone", Path(temporary.name), group, links, 2)
        self.odd, self.even = self.fleet.replicas  # the odd one is a static member
        for replica in self.fleet.replicas:
            replica.log_path.write_text("fenced by other consumer\n")

    def may(self, replica, code):
        return self.fleet.may_have_ended(replica, code)

    def test_nothing_is_excused_in_fine_weather(self):
        for code in (0, 1, 2, 3, UNREACHABLE, STOPPED, INCOMPLETE, -9):
            self.assertFalse(self.may(self.odd, code), code)
        self.assertEqual(sum(self.fleet.excused.values()), 0)

    def test_unreachable_while_its_own_link_is_cut(self):
        with self.fleet.weather.trouble(["main-2"], "network cut"):
            self.assertTrue(self.may(self.even, UNREACHABLE))
            self.assertFalse(self.may(self.odd, UNREACHABLE))
        self.assertEqual(self.fleet.excused, {AWAY: 1})

    def test_a_fault_is_an_excuse_for_a_while(self):
        with self.fleet.weather.trouble([BROKERS], "broker SIGKILL"):
            pass
        self.assertTrue(self.may(self.odd, UNREACHABLE))
        self.addCleanup(setattr, weather, "AFTERMATH", weather.AFTERMATH)
        weather.AFTERMATH = 0
        self.assertFalse(self.may(self.odd, UNREACHABLE))

    def test_only_a_static_member_that_says_so_may_be_fenced(self):
        with self.fleet.weather.trouble([BROKERS], "broker SIGKILL"):
            self.assertFalse(self.may(self.even, STOPPED))
            self.assertTrue(self.may(self.odd, STOPPED))
            self.odd.log_path.write_text("another archive's prefix\n")
            self.assertFalse(self.may(self.odd, STOPPED))
        self.assertEqual(self.fleet.excused, {FENCED_ITSELF: 1})

    def test_an_instance_id_is_in_use_only_after_a_death(self):
        self.fleet.group.protocol = "consumer"
        self.odd.log_path.write_text("The instance ID is still used\n")
        self.assertFalse(self.may(self.odd, STOPPED))
        self.fleet.weather.struck(self.odd.name, "SIGKILL")
        self.assertTrue(self.may(self.odd, STOPPED))
        self.assertEqual(self.fleet.excused, {IN_USE: 1})

    def test_whoever_leaves_while_the_group_moves_may_leave_batches_open(self):
        moved = "INFO partition revoked partition=t/0\n"
        leaving = "INFO shutting down: sealing open batches\n"
        life = "---- started at 1.0\n"
        for log, may in ((leaving + moved, True), (moved + leaving, False), (leaving, False), (leaving + life + moved, False)):
            self.odd.log_path.write_text(life + log)
            self.assertEqual(bool(self.fleet.why_incomplete(self.odd)), may, log)

    def test_a_fault_of_stores_excuses_no_fencing(self):
        with self.fleet.weather.trouble(["main-1"], "network cut"):
            self.assertFalse(self.may(self.odd, STOPPED))

    def test_weather_knows_several_faults_of_one_place(self):
        sky = Weather()
        with sky.trouble(["a"], "one"):
            with sky.trouble(["a", "b"], "two"):
                self.assertEqual(sky.excuse(["b"]), "two at b")
            self.assertEqual(sky.excuse(["a"]), "one at a")
        self.assertIn("ago", sky.excuse(["a"]))
        self.assertIsNone(sky.excuse(["c"]))


class Logs(unittest.TestCase):
    def test_lives_on_an_open_plan(self):
        told = Told()
        seal, redo = "T  INFO batch sealed partition=t/0 first=5 ", "T  INFO redoing an unfinished batch partition=t/0 first=5 end=9\n"
        prove = "T  INFO receipts prove finished batches above the committed offset partition=t/0\n"
        for log in (redo + seal, prove + redo + seal, prove + seal, seal + redo, seal + prove, "T ERROR it\nT  WARN that\n"):
            told.take(log)
        self.assertEqual((told.lives, told.to_redo, told.to_commit, told.redone), (6, 2, 1, 3))
        self.assertEqual((told.errors, told.warnings), (["T ERROR it"], ["that"]))

    def test_the_uploader_is_who_sealed_that_very_batch(self):
        with tempfile.TemporaryDirectory() as folder:
            one, two = (Archiver(name, None, Path(folder), None) for name in ("one", "two"))
            one.log_path.write_text("2025-01-01T00:00:01Z  INFO batch sealed partition=t/0 first=5 end=9 reason=\"age\"\n")
            two.log_path.write_text("2025-01-01T00:00:02Z  INFO batch sealed partition=t/0 first=9 end=12 reason=\"age\"\n")
            batch = Bucket.batch(f"x/_siltstone/receipts/v1/t/00000/{5:020}.claim")
            self.assertIs(uploader([one, two], batch), one)
            with open(two.log_path, "a") as log:
                log.write("2025-01-01T00:00:03Z  INFO redoing an unfinished batch partition=t/0 first=5 end=9\n")
                log.write("2025-01-01T00:00:04Z  INFO batch committed partition=t/0 first=5 end=9\n")
            with open(one.log_path, "a") as log:
                log.write("2025-01-01T00:00:05Z  INFO batch committed partition=t/0 first=5 end=9\n")
            self.assertIs(uploader([one, two], batch), two)
            self.assertIsNone(uploader([one, two], Bucket.batch(f"x/_siltstone/receipts/v1/t/00000/{7:020}.claim")))

    def test_the_owner_is_who_got_it_last(self):
        with tempfile.TemporaryDirectory() as folder:
            one, two = (Archiver(name, None, Path(folder), None) for name in ("one", "two"))
            assigned = "{}  INFO partition assigned partition={} archive=\"a\"\n"
            one.log_path.write_text(assigned.format("T1", "t/0") + assigned.format("T3", "t/10"))
            two.log_path.write_text("")
            self.assertIs(owner([one, two], "t", 0), one)
            two.log_path.write_text(assigned.format("T2", "t/0"))
            self.assertIs(owner([one, two], "t", 0), two)
            self.assertIsNone(owner([one, two], "t", 1))

    def test_ids_in_payloads(self):
        found = bytearray()
        for payload in (b'{"id":3,"time":1}', None, b"other", b'{"id":0,"time":1}'):
            mark(found, payload)
        self.assertEqual(list(found), [1, 0, 0, 1])


class Endings(unittest.TestCase):
    """A producer is told to end while it waits, or just before."""

    def setUp(self):
        self.addCleanup(signal.pthread_sigmask, signal.SIG_SETMASK, signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        self.ending = Ending()

    def test_a_signal_ends_the_wait(self):
        telling = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
        telling.start()
        self.assertTrue(self.ending.wait(SOON))
        telling.join()
        self.assertTrue(self.ending.wait(-1), "once told is told")

    def test_a_signal_that_came_before_is_kept(self):
        self.assertFalse(self.ending.wait(0))
        os.kill(os.getpid(), signal.SIGTERM)
        self.assertTrue(self.ending.wait(0))


class Table(unittest.TestCase):
    def test_a_number_below_its_floor_or_above_its_ceiling_fails(self):
        rows = [Row("a", 5, least=5), Row("b", 4, least=5), Row("c", 1, most=0), Row("d", 0, most=0), Row("e", 10_000)]
        self.assertEqual(broken(rows), ["b is 4, which must be at least 5", "c is 1, which must be at most 0"])
        self.assertEqual([str(row) for row in rows], ["a  5  >= 5", "b  4  >= 5  FAILED", "c  1  <= 0  FAILED", "d  0  <= 0", "e  10,000"])

    def test_thirty_minutes_ask_for_everything(self):
        demands = Demands(30, 3800)
        self.assertEqual(demands.acked(), 5_000_000)
        self.assertEqual({name: demands.floor(name) for name in FLOORS}, FLOORS)
        self.assertGreaterEqual(min(FLOORS["SIGKILL in all"] - 60, FLOORS["SIGKILL, aimed"] - 30, FLOORS["faults that were felt"] - 200), 0)

    def test_three_minutes_ask_for_some_of_each(self):
        demands = Demands(3, 2000)
        self.assertEqual(demands.acked(), 180_000)
        self.assertEqual((demands.floor("faults that were felt"), demands.floor("SIGKILL in all"), demands.floor("rolling restart")), (10, 3, 1))
        self.assertIsNone(demands.floor("latency"))
        self.assertEqual(demands.ceiling("left with open batches in a fault"), 5)

    def test_each_wrong_number_of_an_output_is_asked_about(self):
        right = {"objects": 9, "archived": 9, "duplicated": 0, "lost": 0, "aborted seen": 0, "altered": 0, "misplaced": 0, "removed before": 3,
                 "kinds": {"plain": 4}, "layouts": {"first": 5, "second": 4}, "largest": 6_000_000}
        self.assertEqual(broken(Demands.of_output("json", right)), [])
        wrong = {"duplicated": 1, "lost": 1, "aborted seen": 1, "altered": 1, "misplaced": 1, "objects": 0, "largest": 5 << 20}
        for name, bad in wrong.items():
            self.assertEqual(len(broken(Demands.of_output("json", {**right, name: bad}))), 1, name)
        self.assertEqual(len(broken(Demands.of_output("json", {**right, "kinds": {"plain": 0}}))), 1)


class Lanes(unittest.TestCase):
    def test_the_seed_decides(self):
        def deck(seed):
            class Some(Lane):
                FAULTS = {"a": 30, "b": 3}

            return Some(SimpleNamespace(args=SimpleNamespace(seed=seed, minutes=10), fleet=SimpleNamespace(weather=None))).deck

        self.assertEqual(deck(1), deck(1))
        self.assertNotEqual(deck(1), deck(2))
        self.assertEqual((deck(1).count("a"), deck(1).count("b")), (10, 1))

    def test_one_fault_at_a_time_on_a_link(self):
        links, waits = Links.__new__(Links), []
        links.taken, links.taking = set(), threading.Lock()

        def give_up(seconds):
            waits.append(seconds)
            raise Failed("still taken")

        with links.alone(["main-1", "second-1"], give_up):
            self.assertTrue(links.busy(["main-1"]))
            with self.assertRaises(Failed), links.alone(["main-1"], give_up):
                pass
            with links.alone(["main-2"], give_up):
                pass
        self.assertFalse(links.busy(["main-1", "second-1", "main-2"]))
        self.assertEqual(len(waits), 1)


if __name__ == "__main__":
    unittest.main()
