#!/usr/bin/env python3
"""What Spark reads of a table through the Hive Metastore: rows by partition, as JSON lines on standard output.

    $(scripts/python.sh spark) tests/proofs/spark_reads.py --uri $HMS_URI --table default.events [--columns who,n] [--conf KEY=VALUE...]

Each line is an object of the partition's values, `rows` and, with --columns, `distinct`: how many different combinations of those
columns, and `sum`: of the first of them, a number. Before that it reads the table's partitions from the metastore, so that one that is missing there is missing here, whatever
lies in the folder. --conf are settings of Spark, such as those of s3a.
"""

import argparse
import json
import sys
import tempfile


def session(uri, settings, warehouse):
    from pyspark.sql import SparkSession

    building = SparkSession.builder.master("local[1]").appName("spark_reads")
    fixed = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.memory": "700m",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.warehouse.dir": warehouse,
        "spark.hadoop.hive.metastore.uris": uri,
    }
    for name, value in {**fixed, **settings}.items():
        building = building.config(name, value)
    spark = building.enableHiveSupport().getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def quoted(name):
    return ".".join(f"`{part}`" for part in name.split("."))


def rows_by_partition(spark, table, columns):
    from pyspark.sql import functions

    frame = spark.table(quoted(table))
    keys = [column.name for column in spark.catalog.listColumns(table) if column.isPartition]
    if not keys:
        sys.exit(f"{table} has no partition keys: {frame.columns}")
    registered = {row[0] for row in spark.sql(f"SHOW PARTITIONS {quoted(table)}").collect()}
    counts = [functions.count(functions.lit(1)).alias("rows")]
    if columns:
        counts.append(functions.countDistinct(*columns).alias("distinct"))
        counts.append(functions.sum(columns[0]).alias("sum"))
    counted = [row.asDict() for row in frame.groupBy(*keys).agg(*counts).orderBy(*keys).collect()]
    # A partition without rows is one all the same.
    return keys, registered, counted


def main():
    parsing = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parsing.add_argument("--uri", required=True, help="of the metastore: thrift://host:port")
    parsing.add_argument("--table", required=True, help="database.table")
    parsing.add_argument("--columns", default="", help="columns whose different combinations are counted too")
    parsing.add_argument("--conf", action="append", default=[], metavar="KEY=VALUE", help="a setting of Spark")
    arguments = parsing.parse_args()
    settings = dict(setting.split("=", 1) for setting in arguments.conf)
    columns = [column for column in arguments.columns.split(",") if column]
    with tempfile.TemporaryDirectory() as warehouse:
        spark = session(arguments.uri, settings, warehouse)
        try:
            keys, registered, counted = rows_by_partition(spark, arguments.table, columns)
        finally:
            spark.stop()
    for row in counted:
        print(json.dumps({name: value if isinstance(value, int) else str(value) for name, value in row.items()}))
    empty = len(registered) - len(counted)
    print(f"{arguments.table}: {len(registered)} partitions by {', '.join(keys)}, {empty} of them without rows", file=sys.stderr)


if __name__ == "__main__":
    main()
