"""Tables over a real archive, in the engines that run here: what `siltstone ddl` prints is executed, and its rows are counted.

    scripts/ddl.sh [--engines duckdb,spark,clickhouse] [--records 20000] [--release] [--keep]

One topic is archived once, into a local folder: Parquet of every type, Avro, JSON lines, envelopes, gzip
lines in folders without names at the root, and Parquet by a field of the rows. A share of the payloads is broken, so dead letters lie beside
them. Each engine must then give, for each output, the rows of each hour as they were produced: their number, the sum of their ids, and the values
of one row of every type. Hive, Athena and BigQuery do not run here.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from urllib.parse import unquote

from trial import ROOT, Failed, Trial, drain, drop_topic, measured, program, services

ENGINES = ("duckdb", "spark", "clickhouse")
READ = ROOT / "tests" / "reader" / "engines.py"
# Spark's own Avro is beside it; the newest that Maven's mirrors have.
SPARK_AVRO = ("org.apache.spark", "spark-avro_2.13", "4.2.0")
BASE_MS = 1_763_694_000_000  # 2025-11-21T03:00:00Z
HOURS = 6
HOSTS = ["a", "b/c", "d e", "ü", None]
SHOWN = 7  # the id of the row that is looked at

SCHEMA = [
    {"name": "id", "type": "INT64", "mode": "REQUIRED"},
    {"name": "time", "type": "TIMESTAMP", "unit": "ms"},
    {"name": "price", "type": "NUMERIC", "precision": 12, "scale": 2},
    {"name": "big", "type": "NUMERIC", "precision": 38, "scale": 9},
    {"name": "day", "type": "DATE"},
    {"name": "ok", "type": "BOOL"},
    {"name": "ratio", "type": "FLOAT64"},
    {"name": "body", "type": "BYTES"},
    {"name": "order", "type": "STRING"},
    {"name": "user-agent", "type": "STRING"},
    {"name": "tags", "type": "STRING", "mode": "REPEATED"},
    {"name": "request", "type": "RECORD", "fields": [{"name": "path", "type": "STRING"}, {"name": "size", "type": "INT64"}]},
    {"name": "labels", "type": "MAP", "value": {"type": "INT64"}},
]


def row(number):
    return {
        "id": number, "time": BASE_MS + number * 7_919 % (HOURS * 3_600_000), "price": f"{number}.25", "big": f"{10**20 + number}.000000001",
        "day": "2025-11-21", "ok": number % 2 == 1, "ratio": number / 4, "body": "AP8=", "order": f"o{number}", "user-agent": "curl",
        "tags": ["x", "y"] if number % 3 else None, "request": {"path": f"/{number}", "size": number}, "labels": {"k": number},
        "host": HOSTS[number % len(HOSTS)], "new": [number]}


def produce(trial, records, seed):
    """Gives the ids by (day, hour), those by host, and how many payloads are broken."""
    from confluent_kafka import Producer

    dice, by_hour, by_host, broken = random.Random(seed), defaultdict(list), Counter(), 0
    producer = Producer({"bootstrap.servers": trial.brokers, "linger.ms": 50})
    for number in range(records):
        payload = row(number)
        if number != SHOWN and dice.random() < 0.01:
            producer.produce(trial.topic, b"{broken", partition=number % 3, timestamp=BASE_MS)
            broken += 1
        else:
            producer.produce(trial.topic, json.dumps(payload).encode(), key=str(number).encode(), partition=number % 3, timestamp=payload["time"])
            by_hour["2025-11-21", 3 + (payload["time"] - BASE_MS) // 3_600_000].append(number)
            by_host[payload["host"]] += 1
        producer.poll(0)
    producer.flush()
    return by_hour, by_host, broken


def create_topic(trial):
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": trial.brokers})
    admin.create_topics([NewTopic(trial.topic, 3, 1)])[trial.topic].result(30)


def write_config(trial):
    path = trial.write_config()
    (trial.folder / "schema.json").write_text(json.dumps(SCHEMA))
    lines = path.read_text()
    first = lines[:lines.index("[[archive.output]]")]
    outputs = [
        ("parquet", '{ type = "parquet", schema = "schema.json" }', "{topic}/dt=%Y-%m-%d/hr=%H", 'keep = ["offset"]'),
        ("json", '"json"', "json/{topic}/dt=%Y-%m-%d/hr=%H", 'keep = ["key", "offset"]'),
        ("avro", '{ type = "avro", schema = "schema.json" }', "avro/{topic}/dt=%F/hr=%H", ""),
        ("envelope", '"envelope"', "all/t={topic}/dt=%F", ""),
        ("raw", '{ type = "raw", compression = "gzip" }', "%Y/%m/%d/%H", ""),
        ("by_host", '{ type = "parquet", schema = "schema.json" }', "by/host={field.host}", ""),
        ("bare", '{ type = "parquet", schema = "schema.json" }', "bare/{field.host}/%Y%m%d", ""),
    ]
    for name, format, folder, more in outputs:
        first += f'[[archive.output]]\nname = "{name}"\nformat = {format}\nlayout.path = "{folder}"\n{more}\n'
    path.write_text(first)
    return path


def ddl(args, trial, config, engine):
    command = [program(args.release), "ddl", engine, "-c", config]
    used = measured(command, trial.folder / f"ddl-{engine}.log", 60)
    if used.code != 0:
        raise Failed(f"siltstone ddl {engine} ended with {used.code}: {(trial.folder / f'ddl-{engine}.log').read_text()}")
    return used.output


def python_of(engine):
    """A Python that has the engine."""
    if engine == "duckdb":
        return sys.executable
    arguments = [ROOT / "scripts" / "python.sh", engine]
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
    work = {"script": script, "queries": list(queries.values())}
    if engine == "spark":
        work["settings"] = {"spark.jars": spark_avro(), "spark.sql.warehouse.dir": str(trial.folder / "warehouse")}
    ended = subprocess.run([python_of(engine), READ, engine], input=json.dumps(work).encode(), capture_output=True)
    if ended.returncode != 0:
        raise Failed(f"{engine} refused:\n{script}\n{ended.stderr.decode(errors='replace')[-4000:]}")
    return dict(zip(queries, json.loads(ended.stdout)))


def host(engine, value):
    """The value of a folder, as `siltstone help tables` says that the engine shows it."""
    if engine == "clickhouse":
        value = unquote(value)
        return None if value == "__HIVE_DEFAULT_PARTITION__" else value
    # Spark undoes the encoding byte by byte.
    return value.encode("latin-1").decode() if engine == "spark" and value is not None else value


def judge(args, trial, config, engine, by_hour, by_host, broken):
    script = ddl(args, trial, config, engine)
    quote = (lambda name: f'"{name}"') if engine == "duckdb" else (lambda name: f"`{name}`")
    topic = re.sub(r"[^a-z0-9]", "_", trial.topic.lower())
    good, total = sum(map(len, by_hour.values())), sum(map(len, by_hour.values())) + broken
    # DuckDB gets its Avro from the network.
    has_avro = engine != "duckdb"
    if not has_avro:
        script = without(script, f"{topic}_avro")
    hours = "SELECT dt, hr, count(*), sum(id) FROM {} GROUP BY dt, hr ORDER BY dt, hr"
    # The same in each engine's words: milliseconds, the second of a list, bytes as hex.
    millis = {"duckdb": "epoch_ms(time)", "spark": "unix_millis(time)", "clickhouse": "toUnixTimestamp64Milli(time)"}[engine]
    second = "tags[1]" if engine == "spark" else "tags[2]"
    of_row = (f"SELECT price, big, day, {quote('order')}, request.path, request.size, labels['k'], ratio, CASE WHEN ok THEN 1 ELSE 0 END, {second}, "
              f"hex(body), {{}} FROM {{}} "
              f"WHERE id = {SHOWN} AND hr = {3 + (row(SHOWN)['time'] - BASE_MS) // 3_600_000}")
    queries = {
        "parquet": hours.format(f"{topic}_parquet"), "json": hours.format(f"{topic}_json"),
        "row of parquet": of_row.format(millis, f"{topic}_parquet"), "row of json": of_row.format("time", f"{topic}_json"),
        "names": f"SELECT count({quote('user-agent')}), count(_rest), count(_kafka_offset) FROM {topic}_parquet",
        "envelope": f"SELECT t, count(*), count(DISTINCT {quote('partition')}) FROM proof_envelope GROUP BY t",
        "raw": "SELECT count(*) FROM proof_raw",
        "hosts": "SELECT host, count(*) FROM proof_by_host GROUP BY host",
        "bare": "SELECT count(*), sum(id) FROM proof_bare",
    }
    if has_avro:
        queries |= {"avro": hours.format(f"{topic}_avro"), "row of avro": of_row.format(millis, f"{topic}_avro"),
                    "names of avro": f"SELECT count(user_agent), count(_rest) FROM {topic}_avro"}
    found = answers(trial, engine, script, queries)
    shown = row(SHOWN)
    expected_hours = [[day, str(hour), str(len(ids)), str(sum(ids))] for (day, hour), ids in sorted(by_hour.items())]
    def expected_row(body):
        return [[shown["price"], shown["big"], shown["day"], shown["order"], f"/{SHOWN}", str(SHOWN), str(SHOWN), str(SHOWN / 4), "1", "y", body,
                 str(shown["time"])]]
    # Spark passes over folders that begin with `_`, as that of null does where it stands alone.
    seen = [number for ids in by_hour.values() for number in ids if engine != "spark" or row(number)["host"] is not None]
    expected = {
        "parquet": expected_hours, "json": expected_hours, "avro": expected_hours,
        # Bytes of JSON lines are base64.
        "row of parquet": expected_row("00FF"), "row of json": expected_row(b"AP8=".hex().upper()), "row of avro": expected_row("00FF"),
        "names": [[str(good), str(good), str(good)]], "names of avro": [[str(good), str(good)]],
        "envelope": [[trial.topic, str(total), "3"]], "raw": [[str(total)]], "bare": [[str(len(seen)), str(sum(seen))]],
    }
    wrong = [f"{name}: {found[name]} and not {rows}" for name, rows in expected.items() if name in found and found[name] != rows]
    if {host(engine, value): int(count) for value, count in found["hosts"]} != dict(by_host):
        wrong.append(f"hosts: {found['hosts']} and not {dict(by_host)}")
    if wrong:
        raise Failed(f"{engine}:\n" + "\n".join(wrong) + f"\n{script}\nleft as it is: {trial.folder}")
    print(f"ok {engine} tables={script.count('CREATE ')} hours={len(expected_hours)} rows={good} broken={broken}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="duckdb,spark,clickhouse", help="some of duckdb, spark, clickhouse")
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--release", action="store_true", help="use target/release")
    parser.add_argument("--keep", action="store_true", help="delete nothing")
    args = parser.parse_args()
    engines = args.engines.split(",")
    if unknown := [engine for engine in engines if engine not in ENGINES]:
        parser.error(f"{unknown[0]}: one of {', '.join(ENGINES)}")
    wrong = 0
    try:
        program(args.release)
        services(["file"])
        trial = Trial("ddl", "file", "gzip")
        create_topic(trial)
        made = produce(trial, args.records, args.seed)
        config = write_config(trial)
        drain(trial, program(args.release), config)
    except Failed as failed:
        sys.exit(f"error: {failed}")
    for engine in engines:
        try:
            judge(args, trial, config, engine, *made)
        except Failed as failed:
            wrong += 1
            print(f"WRONG {failed}", flush=True)
    if not args.keep and not wrong:
        drop_topic(os.environ["KAFKA_BROKERS"], trial.topic)
        trial.clean()
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
