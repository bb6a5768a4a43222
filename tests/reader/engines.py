"""Statements and queries in an engine that runs here: duckdb, duckdb-1.4 (the last one whose extensions are packages: avro, aws and httpfs),
clickhouse (chdb, which is ClickHouse in the process) or spark (pyspark).

    engines.py ENGINE < work.json     {"script": "CREATE …;\\n", "queries": ["SELECT …", …]}

Prints a list with the rows of each query: lists are lists, structs and maps are objects, bytes are hex, and every other value is text. What each
engine needs is in tests/parts: python, duckdb, clickhouse, spark.
"""

import json
import os
import sys
import time
from decimal import Decimal


def statements(script):
    """The statements of a script, without its comments. None of ours has a line that ends in `;` inside of a text."""
    lines = [line for line in script.splitlines() if not line.startswith("--")]
    return [one.strip() for one in "\n".join(lines).split(";\n") if one.strip().strip(";")]


def shown(value):
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex()
    if hasattr(value, "asDict"):  # a struct of Spark, which is a tuple as well
        return shown(value.asDict())
    if isinstance(value, dict):
        return {key: shown(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown(inner) for inner in value]
    if hasattr(value, "isoformat"):
        return value.isoformat(sep=" ") if hasattr(value, "hour") else value.isoformat()
    return str(value)


def duckdb(work, extensions=()):
    import duckdb as engine

    connection = engine.connect()
    connection.execute("SET TimeZone = 'UTC'")
    if extensions:
        import duckdb_ext

        connection.execute(f"SET extension_directory = '{list(duckdb_ext.__path__)[0]}/extensions'")
    for name in extensions:
        connection.execute(f"LOAD {name}")
    for one in statements(work["script"] + "\n"):
        connection.execute(one)
    return [connection.execute(query).fetchall() for query in work["queries"]]


def duckdb_with_extensions(work):
    return duckdb(work, ("avro", "httpfs", "aws"))


def clickhouse(work):
    from chdb import session

    engine = session.Session()
    engine.query("CREATE DATABASE d ENGINE = Atomic")
    engine.query("USE d")
    for one in statements(work["script"] + "\n"):
        engine.query(one)
    # Numbers that JSON's readers would round are texts, with all their digits.
    settings = "SETTINGS output_format_json_quote_decimals = 1, output_format_decimal_trailing_zeros = 1"
    return [json.loads(str(engine.query(f"{query} {settings}", "JSONCompact")))["data"] for query in work["queries"]]


def spark(work):
    from pyspark.sql import SparkSession

    settings = {"spark.driver.memory": "700m", "spark.ui.enabled": "false", "spark.sql.session.timeZone": "UTC",
                "spark.sql.shuffle.partitions": "2", "spark.log.level": "ERROR", **work.get("settings", {})}
    builder = SparkSession.builder.master("local[2]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    engine = builder.getOrCreate()
    for one in statements(work["script"] + "\n"):
        engine.sql(one)
    # A row of an answer is a tuple, not a struct.
    return [[tuple(row) for row in engine.sql(query).collect()] for query in work["queries"]]


def main():
    # Some engines' clients turn instants into local time.
    os.environ["TZ"] = "UTC"
    time.tzset()
    engines = {"duckdb": duckdb, "duckdb-1.4": duckdb_with_extensions, "clickhouse": clickhouse, "spark": spark}
    answers = engines[sys.argv[1]](json.load(sys.stdin))
    json.dump([[[shown(value) for value in row] for row in rows] for rows in answers], sys.stdout)


if __name__ == "__main__":
    main()
