#!/usr/bin/env python3
"""The benchmark's transform, in VRL and in Python; and whether an archive of gzip JSON holds every record of scripts/logs.py once, transformed.

    $PYTHON tests/proofs/transformed.py URL RECORDS
"""

import gzip
import json
import sys
from pathlib import Path
from urllib.parse import parse_qsl

HERE = Path(__file__).parent
COMPARED_EVERY = 10  # rows
PROGRAM = """\
.query = parse_query_string(string!(.query))
.agent = split(string!(.agent), " ", limit: 2)[0]
.failed = int!(.status) >= 500
del(.referer)
del(.geo.lat)
del(.geo.lon)
"""


def transformed(row):
    """What PROGRAM makes of a record."""
    row["query"] = dict(parse_qsl(row["query"], keep_blank_values=True))
    row["agent"], row["failed"] = row["agent"].split(" ")[0], row["status"] >= 500
    for taken, name in ((row, "referer"), (row["geo"], "lat"), (row["geo"], "lon")):
        del taken[name]
    return row


def main():
    sys.path[:0] = [str(HERE.parent / "reader"), str(HERE.parents[1] / "scripts")]
    from logs import Logs
    from stores import open_store

    url, records = sys.argv[1], int(sys.argv[2])
    logs, store, seen, objects, size = Logs(records), open_store(url), bytearray(records), 0, 0
    for key, bytes_ in store.list():
        if key.startswith("_siltstone/"):
            continue
        objects, size = objects + 1, size + bytes_
        for line in gzip.decompress(store.read(key)).splitlines():
            row = json.loads(line)
            seen[row["id"]] += 1
            if row["id"] % COMPARED_EVERY == 0 and row != transformed(json.loads(logs.line(row["id"]))):
                sys.exit(f"error: {key} has a row that the transform does not make: {row}")
    if seen.count(1) != records:
        sys.exit(f"error: {seen.count(0)} rows are missing, {records - seen.count(0) - seen.count(1)} are there more than once: {url}")
    print(f"records={records} objects={objects} bytes={size}")


if __name__ == "__main__":
    main()
