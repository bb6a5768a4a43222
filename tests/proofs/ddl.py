"""Tables over a real archive, in the engines that run here: what `siltstone ddl` prints is executed, and its rows are compared.

    scripts/ddl.sh [--stores file,s3] [--engines duckdb,duckdb-1.4,spark,clickhouse] [--records 10000] [--release] [--keep]

Two topics of one archive, and a third one of an archive beside it, go into each store: Parquet, Avro and JSON lines by topic, day and hour; envelopes
in folders `t={topic}`; gzip lines in folders without names at the root; Parquet by a field of the rows, with days in front of the topic, and with a
schema that was inferred. A share of the payloads is broken, so dead letters lie beside them. Each engine must then give, for each table:

- the rows of each hour, of one topic or of both, as they were produced: their number, and the sum of their ids;
- the rows with the first ids value by value, in columns of every type: full ones, ones with nothing but what must be there, ones with nulls, and ones
  with values at the edge of a type;
- the envelopes with the first offsets value by value, and lines as they were produced;
- no table where one of a single topic would have another's rows.

duckdb is the newest one, which gets its extensions from the network, so no Avro and no S3; duckdb-1.4 has them. Spark has no S3 here. Hive, Athena and
BigQuery do not run here.
"""

import argparse
import base64
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Context, Decimal
from urllib.parse import unquote

from trial import ROOT, Failed, Trial, drain, drop_topic, measured, program, services

DIALECTS = {"duckdb": "duckdb", "duckdb-1.4": "duckdb", "spark": "spark", "clickhouse": "clickhouse"}  # of each engine
ENGINES = {"file": list(DIALECTS), "s3": ["duckdb-1.4", "clickhouse"]}  # that read each store here
WITHOUT_AVRO = ("duckdb",)
READ = ROOT / "tests" / "reader" / "engines.py"
# Spark's own Avro is beside it; the newest that Maven's mirrors have.
SPARK_AVRO = ("org.apache.spark", "spark-avro_2.13", "4.2.0")
BASE_MS = 1_763_694_000_000  # 2025-11-21T03:00:00Z
HOURS = 6
HOSTS = ["a", "b/c", "d e", "ü", None]
TOPIC_IDS = 1_000_000_000  # ids of the second topic begin here
COMPARED = 40  # so many ids of each topic are compared value by value
OFFSETS = 6  # and the envelopes of so many offsets of each Kafka partition
BIG = "99999999999999999999999999999.999999999"  # all 38 digits

SCHEMA = [
    {"name": "id", "type": "INT64", "mode": "REQUIRED"},
    {"name": "time", "type": "TIMESTAMP", "unit": "ms"},
    {"name": "seen", "type": "TIMESTAMP"},
    {"name": "price", "type": "NUMERIC", "precision": 12, "scale": 2},
    {"name": "big", "type": "NUMERIC", "precision": 38, "scale": 9},
    {"name": "day", "type": "DATE"},
    {"name": "ok", "type": "BOOL"},
    {"name": "ratio", "type": "FLOAT64"},
    {"name": "body", "type": "BYTES"},
    {"name": "extra", "type": "JSON"},
    {"name": "order", "type": "STRING"},
    {"name": "user-agent", "type": "STRING"},
    {"name": "tags", "type": "STRING", "mode": "REPEATED"},
    {"name": "sizes", "type": "INT64", "mode": "REPEATED"},
    {"name": "items", "type": "RECORD", "mode": "REPEATED", "fields": [{"name": "label", "type": "STRING"}, {"name": "amount", "type": "INT64"}]},
    {"name": "request", "type": "RECORD", "fields": [
        {"name": "path", "type": "STRING"}, {"name": "size", "type": "INT64"}, {"name": "at", "type": "TIMESTAMP", "unit": "s"}]},
    {"name": "labels", "type": "MAP", "value": {"type": "INT64"}},
]
LISTS = ("tags", "sizes", "items")


def row(topic, number):
    """The payload of that record: full, with what must be there alone, with nulls, or with values at the edge of their types."""
    must = {"id": topic * TOPIC_IDS + number, "time": BASE_MS + number * 7_919 % (HOURS * 3_600_000), "host": HOSTS[number % len(HOSTS)]}
    kind = number % 4
    if kind == 1:
        return must
    if kind == 2:
        return must | dict.fromkeys(column["name"] for column in SCHEMA if column["name"] not in must)
    if kind == 3:
        return must | {
            "seen": "1969-12-31T23:59:59.123456Z", "price": f"-{number}.05", "big": f"-{BIG}", "day": "1950-02-28", "ok": False, "ratio": -1e300,
            "body": "", "extra": [1, "x"], "order": f"o'{number}\"\\ü\n`", "user-agent": "", "tags": [], "sizes": [2**63 - 1, -2**63], "items": [],
            "request": {"path": ""}, "labels": {}}
    return must | {
        "seen": "2025-11-21T03:00:00.000001Z", "price": f"{number}.25", "big": f"{10**20 + number}.000000001", "day": "2025-11-21", "ok": True,
        "ratio": number + 0.5, "body": "AP8=", "extra": {"a": [1, {"b": None}], "c": "ü"}, "order": f"o{number}", "user-agent": "curl",
        "tags": ["x", "ü"], "sizes": [number, -1], "items": [{"label": "one", "amount": number}, {"label": "two"}],
        "request": {"path": f"/{number}", "size": number, "at": BASE_MS // 1000 + number}, "labels": {"k": number, "ü": -1}, "new": [number]}


@dataclass
class Made:
    """What was produced into a topic."""

    topic: str
    by_hour: dict = field(default_factory=lambda: defaultdict(list))  # (day, hour) -> ids
    rows: dict = field(default_factory=dict)  # number -> payload, those that are compared
    records: dict = field(default_factory=dict)  # (Kafka partition, offset) -> (time, key, value, headers), all
    offsets: dict = field(default_factory=dict)  # number -> offset
    hosts: dict = field(default_factory=lambda: defaultdict(lambda: [0, 0]))  # host -> rows and the sum of ids
    seen: list = field(default_factory=lambda: [0, 0])  # the same of hosts that are not null
    broken: int = 0

    @property
    def table(self):
        return re.sub(r"[^a-z0-9]", "_", self.topic.lower())

    @property
    def ids(self):
        return [number for ids in self.by_hour.values() for number in ids]


def produce(trial, producer, index, topic, records, dice):
    made = Made(topic)

    def send(number, value, key, moment):
        headers = [("trace", f"h{number}".encode())] if number % 2 else []
        def delivered(error, message):
            if error:
                raise Failed(f"{topic}: {error}")
            made.records[message.partition(), message.offset()] = (moment, key, value, headers)
            made.offsets[number] = message.offset()
        producer.produce(topic, value, key=key, partition=number % 3, timestamp=moment, headers=headers, on_delivery=delivered)
        producer.poll(0)

    for number in range(records):
        payload = row(index, number)
        if number >= COMPARED and dice.random() < 0.01:
            send(number, b"{broken", None, BASE_MS)
            made.broken += 1
            continue
        send(number, json.dumps(payload).encode(), None if number % 7 == 0 else str(number).encode(), payload["time"])
        made.by_hour["2025-11-21", 3 + (payload["time"] - BASE_MS) // 3_600_000].append(payload["id"])
        if number < COMPARED:
            made.rows[number] = payload
        for sums in (made.hosts[payload["host"]], *([made.seen] if payload["host"] is not None else [])):
            sums[0] += 1
            sums[1] += payload["id"]
    return made


def produce_all(trial, topics, records, seed):
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": trial.brokers})
    for made in admin.create_topics([NewTopic(topic, 3, 1) for topic in topics]).values():
        made.result(30)
    producer, dice = Producer({"bootstrap.servers": trial.brokers, "linger.ms": 50}), random.Random(seed)
    made = [produce(trial, producer, index, topic, records, dice) for index, topic in enumerate(topics)]
    producer.flush()
    return made


def write_config(trial, topics):
    *own, beside = topics
    path = trial.write_config()
    (trial.folder / "schema.json").write_text(json.dumps(SCHEMA))
    lines = path.read_text()
    first = lines[:lines.index("[[archive.output]]")].replace(json.dumps([trial.topic]), json.dumps(own))
    parquet = '{ type = "parquet", schema = "schema.json" }'
    outputs = [
        ("parquet", parquet, "{topic}/dt=%Y-%m-%d/hr=%H", 'keep = ["offset"]'),
        ("json", '"json"', "json/{topic}/dt=%Y-%m-%d/hr=%H", 'keep = ["key", "offset"]'),
        ("avro", '{ type = "avro", schema = "schema.json" }', "avro/{topic}/dt=%F/hr=%H", ""),
        ("envelope", '"envelope"', "all/t={topic}/dt=%F", ""),
        ("raw", '{ type = "raw", compression = "gzip" }', "%Y/%m/%d/%H", ""),
        ("by_host", parquet, "by/host={field.host}", ""),
        ("bare", parquet, "bare/{field.host}/%Y%m%d", ""),
        ("below", parquet, "below/%Y/%m/%d/{topic}", ""),
        ("guessed", '{ type = "parquet", schema = "infer" }', "guessed/{topic}/dt=%F", ""),
    ]
    # See `unescaped`: a name with a plus would not be found either.
    name_template = "{topic}_{partition:05}_{first:020}-{end:020}" if trial.store == "s3" else "{topic}+{partition:05}+{first:020}-{end:020}"
    for name, format, folder, more in outputs:
        first += f'[[archive.output]]\nname = "{name}"\nformat = {format}\nlayout.path = "{folder}"\nlayout.name = "{name_template}"\n{more}\n'
    first += f'[[archive]]\nname = "beside"\ntopics = {json.dumps([beside])}\n'
    first += f'[[archive.output]]\nformat = "json"\nlayout.path = "beside/{{topic}}/dt=%F"\nlayout.name = "{name_template}"\n'
    path.write_text(first)
    return path


def ddl(args, trial, config, engine, *more, code=0):
    command = [program(args.release), "ddl", DIALECTS[engine], "-c", config, *more]
    log = trial.folder / f"ddl-{engine}.log"
    used = measured(command, log, 60)
    if used.code != code:
        raise Failed(f"siltstone ddl {engine} {' '.join(more)} ended with {used.code} and not {code}: {log.read_text()}{used.output}")
    return used.output if code == 0 else log.read_text()


def python_of(engine):
    """A Python that has the engine."""
    if engine == "duckdb":
        return sys.executable
    arguments = [ROOT / "scripts" / "python.sh", DIALECTS[engine]]
    return subprocess.run(arguments, check=True, stdout=subprocess.PIPE).stdout.decode().strip()


def spark_avro():
    """The path of Spark's reader of Avro."""
    group, name, version = SPARK_AVRO
    cache = os.environ.get("SILTSTONE_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "siltstone")
    folder = os.path.join(cache, "parts", f"{name}-{version}")
    path = os.path.join(folder, f"{name}-{version}.jar")
    if not os.path.exists(path):
        command = ["mvn", "-q", "-B", "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy",
                   f"-Dartifact={group}:{name}:{version}", f"-DoutputDirectory={folder}"]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return path


def without(script, table):
    """The script without the statements about `table`."""
    return re.sub(rf"(?ms)^-- {table}: .*?(?=^-- \S+: archive|\Z)", "", script)


def answers(trial, engine, script, queries):
    """The rows of each query, by its name."""
    # What the comments say of credentials is for people to run; here it is run.
    secret = re.search(r"^-- Credentials: (CREATE SECRET .*;)$", script, re.MULTILINE)
    work = {"script": f"{secret[1]}\n{script}" if secret else script, "queries": list(queries.values())}
    (trial.folder / f"{engine}.sql").write_text(script)
    if engine == "spark":
        work["settings"] = {"spark.jars": spark_avro(), "spark.sql.warehouse.dir": str(trial.folder / "warehouse")}
    ended = subprocess.run([python_of(engine), READ, engine], input=json.dumps(work).encode(), capture_output=True)
    if ended.returncode != 0:
        raise Failed(f"{engine} on {trial.store} refused:\n{ended.stderr.decode(errors='replace')[-4000:]}\nleft as it is: {trial.folder}")
    return dict(zip(queries, json.loads(ended.stdout)))


class Words:
    """A dialect's words for what all of them can say."""

    def __init__(self, engine):
        self.engine, self.dialect = engine, DIALECTS[engine]

    def quoted(self, name):
        return f'"{name}"' if self.dialect == "duckdb" else f"`{name}`"

    def micros(self, name):
        return {"duckdb": "epoch_us({})", "spark": "unix_micros({})", "clickhouse": "toUnixTimestamp64Micro({})"}[self.dialect].format(name)

    def bytes(self, name):
        return f"lower(hex({name}))" if self.dialect == "clickhouse" else name

    def headers(self, name):
        if self.dialect != "clickhouse":
            return name
        return f"arrayMap(h -> CAST((h.key, lower(hex(h.value))), 'Tuple(key String, value Nullable(String))'), {name})"

    def knows_no_logical_types(self, kind):
        return kind == "avro" and self.dialect == "duckdb"

    def columns(self, kind):
        """Name and expression of every column of the rows of a kind: parquet, avro or json."""
        plain = {name: self.quoted(name) for name in
                 ("id", "price", "big", "day", "ok", "ratio", "extra", "order", *LISTS, "labels", "request.path", "request.size")}
        plain |= {name: name for name in ("request.path", "request.size")}
        plain["user-agent"] = self.quoted("user_agent" if kind == "avro" else "user-agent")
        if kind == "json":
            plain |= {name: name for name in ("time", "seen", "body", "request.at", "_kafka_key", "_kafka_offset")}
        else:
            # What DuckDB has of Avro's instants are numbers.
            instant = (lambda name: name) if self.knows_no_logical_types(kind) else self.micros
            plain |= {name: instant(name) for name in ("time", "seen", "request.at")} | {"body": self.bytes("body"), "_rest": "_rest"}
        if kind == "parquet":
            plain["_kafka_offset"] = "_kafka_offset"
        return plain


def micros(text):
    moment = datetime.fromisoformat(text.replace("Z", "+00:00")) - datetime(1970, 1, 1, tzinfo=timezone.utc)
    return (moment.days * 86_400 + moment.seconds) * 1_000_000 + moment.microseconds


def text(value):
    """A value as tests/reader/engines.py shows it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return [text(inner) for inner in value]
    if isinstance(value, dict):
        return {key: text(inner) for key, inner in value.items()}
    return repr(value)


def expected_row(made, number, kind, dialect):
    """That row, by column, as `siltstone help tables` says that the dialect shows it."""
    payload = made.rows[number]
    request = payload.get("request") or {}
    found = {name: text(payload.get(name)) for name in ("id", "price", "big", "day", "ok", "ratio", "order", "user-agent", *LISTS, "labels")}
    found |= {f"request.{name}": text(request.get(name)) for name in ("path", "size")}
    found["extra"] = payload.get("extra")
    if found["items"]:
        found["items"] = [{"label": None, "amount": None} | item for item in found["items"]]
    if kind != "avro":
        found["_kafka_offset"] = text(made.offsets[number])
    if kind == "json":
        found |= {name: text(payload.get(name)) for name in ("time", "seen", "body")} | {"request.at": text(request.get("at"))}
        found["_kafka_key"] = None if number % 7 == 0 else str(number)
    else:
        at, seen, body = request.get("at"), payload.get("seen"), payload.get("body")
        found["time"] = text(payload["time"] * 1000)
        found["seen"] = text(seen and micros(seen))
        found["request.at"] = text(at and at * 1_000_000)
        found["body"] = None if body is None else base64.b64decode(body).hex()
        found["_rest"] = {name: value for name, value in payload.items() if name in ("host", "new")}
    # Lists and maps of ClickHouse are never null; nor are those lists that a file has, whose columns are REPEATED.
    for name in (*LISTS, "labels"):
        if found[name] is None and dialect == "clickhouse":
            found[name] = {} if name == "labels" else []
    return found


def compare_rows(wrong, table, made, kind, words, rows):
    names = list(words.columns(kind))
    if [line[names.index("id")] for line in rows] != [str(payload["id"]) for payload in made.rows.values()]:
        wrong.append(f"{table}: other ids: {rows}")
        return
    for number, line in zip(made.rows, rows):
        found = dict(zip(names, line))
        for name in ("extra", "_rest"):  # JSON, whose white space does not matter
            if found.get(name) is not None:
                found[name] = json.loads(found[name])
        if words.knows_no_logical_types(kind):
            for name, digits in (("price", 2), ("big", 9)):
                if found[name] is not None:
                    found[name] = str(Decimal(int.from_bytes(bytes.fromhex(found[name]), "big", signed=True)).scaleb(-digits, Context(prec=38)))
            if found["day"] is not None:
                found["day"] = str(date(1970, 1, 1) + timedelta(days=int(found["day"])))
        expected = expected_row(made, number, kind, words.dialect)
        wrong.extend(f"{table}, id {found['id']}, {name}: {found.get(name)!r} and not {value!r}"
                     for name, value in expected.items() if found.get(name) != value or name not in found)


def host(engine, value):
    """The value of a folder, as `siltstone help tables` says that the engine shows it."""
    if engine == "clickhouse":
        value = unquote(value)
    if engine in ("clickhouse", "duckdb-1.4"):
        return None if value == "__HIVE_DEFAULT_PARTITION__" else value
    # Spark undoes the encoding byte by byte.
    return value.encode("latin-1").decode() if engine == "spark" and value is not None else value


def envelopes(made, words):
    """The envelopes that are compared, value by value, and the query for them."""
    q = words.quoted
    moment = words.micros(q("timestamp"))
    columns = f"t, topic, {q('partition')}, {q('offset')}, {moment}, {words.bytes(q('key'))}, {words.bytes(q('value'))}, {words.headers('headers')}"
    query = f"SELECT {columns} FROM proof_envelope WHERE {q('offset')} < {OFFSETS} ORDER BY topic, {q('partition')}, {q('offset')}"
    lines = []
    for one in made:
        for (partition, offset), (moment, key, value, headers) in one.records.items():
            if offset < OFFSETS:
                shown = [{"key": name, "value": content.hex()} for name, content in headers]
                lines.append([one.topic, one.topic, str(partition), str(offset), str(moment * 1000), key.hex() if key else None, value.hex(), shown])
    return query, sorted(lines, key=lambda line: (line[0], int(line[2]), int(line[3])))


def judge(args, trial, config, engine, made):
    *own, beside = made
    words, began = Words(engine), time.monotonic()
    one = own[0]
    script = ddl(args, trial, config, engine)
    script += "\n" + ddl(args, trial, config, engine, "--topic", one.topic, "--output", "envelope", "--table", "one_topic")
    refusal = ddl(args, trial, config, engine, "--topic", one.topic, "--output", "raw", code=2)
    if f"no folder of topic {one.topic} alone" not in refusal:
        raise Failed(f"a table of one topic in folders of two: {refusal}")
    # Spark looks through all folders, so where the topic stands below the days there is no table of one.
    has_below = words.dialect != "spark"
    # DuckDB asks the server to escape keys in listings, which that of the tests does not do, so it would take %XX in a key for something else.
    unescaped = words.dialect == "duckdb" and trial.store == "s3"
    for table in ("proof_by_host", "proof_bare") if unescaped else ():
        script = without(script, table)
    if not has_below and script.count("it would read other topics or generations as well") != len(own):
        raise Failed(f"tables of one topic in folders below those of two are not refused:\n{script}")
    queries, expected, compared = {}, {}, {}

    def ask(name, query, rows):
        queries[name], expected[name] = query, rows

    sums = lambda table: f"SELECT count(*), sum(id) FROM {table}"
    for topic in own:
        hours = [[day, str(hour), str(len(ids)), str(sum(ids))] for (day, hour), ids in sorted(topic.by_hour.items())]
        for kind in ("parquet", "json", "avro"):
            table = f"{topic.table}_{kind}"
            if kind == "avro" and engine in WITHOUT_AVRO:
                script = without(script, table)
                continue
            ask(f"hours of {table}", f"SELECT dt, hr, count(*), sum(id) FROM {table} GROUP BY dt, hr ORDER BY dt, hr", hours)
            # Of two hours alone: the partition columns are compared as what they are.
            last = max(hour for _, hour in topic.by_hour)
            late = [number for (_, hour), ids in topic.by_hour.items() if hour >= last - 1 for number in ids]
            ask(f"late hours of {table}", f"{sums(table)} WHERE hr >= {last - 1}", [[str(len(late)), str(sum(late))]])
            names = ", ".join(words.columns(kind).values())
            queries[f"rows of {table}"] = f"SELECT {names} FROM {table} WHERE id % {TOPIC_IDS} < {COMPARED} ORDER BY id"
            compared[f"rows of {table}"] = (topic, kind)
        all_of_topic = [[str(len(topic.ids)), str(sum(topic.ids))]]
        ask(f"guessed, {topic.topic}", sums(f"{topic.table}_guessed"), all_of_topic)
        if has_below:
            ask(f"below, {topic.topic}", sums(f"{topic.table}_below"), all_of_topic)
    partition = words.quoted("partition")
    by_topic = sorted([topic.topic, str(len(topic.records)), "3"] for topic in own)
    ask("envelope", f"SELECT t, count(*), count(DISTINCT {partition}) FROM proof_envelope GROUP BY t ORDER BY t", by_topic)
    ask("envelopes", *envelopes(own, words))
    ask("one topic", "SELECT topic, count(*) FROM one_topic GROUP BY topic", [[one.topic, str(len(one.records))]])
    ask("raw", "SELECT count(*) FROM proof_raw", [[str(sum(len(topic.records) for topic in own))]])
    for topic in own:
        payload = json.dumps(topic.rows[3])
        ask(f"line of {topic.topic}", f"SELECT line FROM proof_raw WHERE line LIKE '{{\"id\": {topic.rows[3]['id']}, %'", [[payload]])
    # Spark passes over folders that begin with `_`, as that of null does where it stands alone.
    seen = [topic.seen for topic in own] if words.dialect == "spark" else [[len(topic.ids), sum(topic.ids)] for topic in own]
    if not unescaped:
        ask("bare", sums("proof_bare"), [[str(sum(count for count, _ in seen)), str(sum(total for _, total in seen))]])
        queries["hosts"] = "SELECT host, count(*), sum(id) FROM proof_by_host GROUP BY host"
    # Broken payloads of this archive's are dead letters, too.
    ask("beside", f"SELECT count(*) FROM {beside.table}", [[str(len(beside.ids))]])

    found = answers(trial, engine, script, queries)
    wrong = [f"{name}: {found[name]} and not {rows}" for name, rows in expected.items() if found[name] != rows]
    for name, (topic, kind) in compared.items():
        compare_rows(wrong, name, topic, kind, words, found[name])
    hosts = Counter()
    for topic in own:
        for name, (count, total) in topic.hosts.items():
            hosts[name, "rows"] += count
            hosts[name, "ids"] += total
    shown = {(host(engine, value), what): int(number)
             for value, count, total in found.get("hosts", []) for what, number in (("rows", count), ("ids", total))}
    if "hosts" in found and shown != hosts:
        wrong.append(f"hosts: {found['hosts']} and not {dict(hosts)}")
    if wrong:
        shown = "\n".join(wrong[:40] + ([f"and {len(wrong) - 40} more"] if len(wrong) > 40 else []))
        raise Failed(f"{engine} on {trial.store}:\n{shown}\nleft as it is: {trial.folder}, what was run in {engine}.sql")
    rows = sum(len(topic.ids) for topic in own)
    print(f"ok {engine} store={trial.store} tables={len(re.findall('^CREATE ', script, re.MULTILINE))} queries={len(queries)} rows={rows} "
          f"compared={sum(len(topic.rows) for topic, _ in compared.values())} seconds={time.monotonic() - began:.0f}", flush=True)


def try_store(args, store, engines):
    """How many engines were wrong."""
    trial = Trial("ddl", store, "gzip")
    topics = [f"{trial.id}.a", f"{trial.id}-b", f"{trial.id}-beside"]
    made = produce_all(trial, topics, args.records, args.seed)
    config = write_config(trial, topics)
    drain(trial, program(args.release), config)
    wrong = 0
    for engine in engines:
        try:
            judge(args, trial, config, engine, made)
        except Failed as failed:
            wrong += 1
            print(f"WRONG {failed}", flush=True)
    if not args.keep and not wrong:
        for topic in topics:
            drop_topic(os.environ["KAFKA_BROKERS"], topic)
        trial.clean()
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", default=",".join(ENGINES), help=f"some of {', '.join(ENGINES)}")
    parser.add_argument("--engines", default=",".join(DIALECTS), help=f"some of {', '.join(DIALECTS)}")
    parser.add_argument("--records", type=int, default=10_000, help="of each topic")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--release", action="store_true", help="use target/release")
    parser.add_argument("--keep", action="store_true", help="delete nothing")
    args = parser.parse_args()
    stores, engines = args.stores.split(","), args.engines.split(",")
    if unknown := [engine for engine in engines if engine not in DIALECTS]:
        parser.error(f"{unknown[0]}: one of {', '.join(DIALECTS)}")
    if unknown := [store for store in stores if store not in ENGINES]:
        parser.error(f"{unknown[0]}: one of {', '.join(ENGINES)}")
    if args.records < COMPARED:
        parser.error(f"--records {args.records}: at least {COMPARED}, which are compared")
    wrong = 0
    try:
        program(args.release)
        services(stores)
        for store in stores:
            wrong += try_store(args, store, [engine for engine in ENGINES[store] if engine in engines])
    except Failed as failed:
        sys.exit(f"error: {failed}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
