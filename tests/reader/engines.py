"""Statements and queries in an engine that runs here: duckdb, clickhouse (chdb, which is ClickHouse in the process) or spark (pyspark).

    engines.py ENGINE < work.json     {"script": "CREATE …;\\n", "queries": ["SELECT …", …]}

Prints a list with the rows of each query, every value as text. What each engine needs is in tests/parts/python.
"""

import json
import sys


def statements(script):
    """The statements of a script, without its comments. None of ours has a line that ends in `;` inside of a text."""
    lines = [line for line in script.splitlines() if not line.startswith("--")]
    return [one.strip() for one in "\n".join(lines).split(";\n") if one.strip().strip(";")]


def shown(value):
    if value is None:
        return None
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex()
    if hasattr(value, "isoformat"):
        return value.isoformat(sep=" ") if hasattr(value, "hour") else value.isoformat()
    return str(value)


def duckdb(work):
    import duckdb as engine

    connection = engine.connect()
    connection.execute("SET TimeZone = 'UTC'")
    for one in statements(work["script"] + "\n"):
        connection.execute(one)
    return [connection.execute(query).fetchall() for query in work["queries"]]


def clickhouse(work):
    from chdb import session

    engine = session.Session()
    engine.query("CREATE DATABASE d ENGINE = Atomic")
    engine.query("USE d")
    for one in statements(work["script"] + "\n"):
        engine.query(one)
    answers = []
    for query in work["queries"]:
        text = str(engine.query(query, "JSONCompactStrings"))
        answers.append([[None if value == "ᴺᵁᴸᴸ" else value for value in row] for row in json.loads(text)["data"]])
    return answers


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
    return [[tuple(row) for row in engine.sql(query).collect()] for query in work["queries"]]


def main():
    engines = {"duckdb": duckdb, "clickhouse": clickhouse, "spark": spark}
    answers = engines[sys.argv[1]](json.load(sys.stdin))
    json.dump([[[shown(value) for value in row] for row in rows] for rows in answers], sys.stdout)


if __name__ == "__main__":
    main()
