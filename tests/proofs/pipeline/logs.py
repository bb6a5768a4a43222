"""What web servers and Fluentd's agents send."""

import base64
import io
import json
import re
from collections import Counter
from datetime import timedelta

from trial import Failed

from .base import NULL, Pipeline, canonical, same


class Ltsv(Pipeline):
    """A portal's access logs: LTSV to JSON, the cookie split, fields dropped, errors beside everything."""

    name, hours = "ltsv", 3
    config = r"""
decode = { type = "ltsv", types = { status = "int", size = "int", reqtime = "float" }, nulls = ["-"] }
timestamp = { field = "time", zone = "Asia/Tokyo", format = "%d/%b/%Y:%H:%M:%S%.3f" }
transform = '''
if .uri == "/healthz" { abort }
del(.forwardedfor)
.cookie = parse_key_value(.cookie, key_value_delimiter: "=", field_delimiter: "; ") ?? {}
parts = split(string!(.uri), "?", limit: 2)
.path = parts[0]
.query = parse_query_string(parts[1]) ?? {}
del(.uri)
.output = if int!(.status) >= 500 { ["all", "avro", "errors"] } else { ["all", "avro"] }
'''
[[archive.output]]
name = "all"
layout = { path = "all/dt=%Y-%m-%d/hr=%H", zone = "Asia/Tokyo" }
[[archive.output]]
name = "errors"
filter = '.host != "test"'
layout = { path = "errors/dt=%Y-%m-%d", zone = "Asia/Tokyo" }
[[archive.output]]
name = "avro"
layout = { path = "avro/dt=%Y-%m-%d/hr=%H", zone = "Asia/Tokyo" }
[archive.output.format]
type = "avro"
compression = "deflate"
unknown = "dead_letter"
schema = [
  { name = "id", type = "STRING", mode = "REQUIRED" }, { name = "time", type = "STRING" }, { name = "host", type = "STRING" },
  { name = "status", type = "INT64" }, { name = "size", type = "INT64" }, { name = "reqtime", type = "FLOAT64" }, { name = "ua", type = "STRING" },
  { name = "cookie", type = "MAP", value = { type = "STRING", mode = "REQUIRED" } }, { name = "path", type = "STRING" },
  { name = "query", type = "RECORD", fields = [{ name = "a", type = "STRING" }, { name = "b", type = "STRING" }] },
]
"""

    def payload(self, number):
        if self.is_broken(number):
            return (b"no label at all %d", b"host:\xff%d", b"id:%d\tid:%d", b"id:%d\tstatus:five")[self.kind(number, 4)].replace(b"%d", b"%d" % number)
        tokyo = self.at(number) + timedelta(hours=9)
        uri = "/healthz" if number % 50 == 3 else f"/p/{number % 97}?a={number}&b=x%20y" if number % 3 else f"/p/{number % 97}"
        fields = {
            "id": str(number), "time": tokyo.strftime("%d/%b/%Y:%H:%M:%S.") + f"{tokyo.microsecond // 1000:03}",
            "host": ("www", "test", "m")[number % 3], "status": ("200", "404", "503")[number % 7 % 3], "size": "-" if number % 5 == 0 else str(number * 3),
            "reqtime": f"0.{number % 1000:03}", "uri": uri, "forwardedfor": "10.0.0.1, 10.0.0.2", "ua": f"Mozilla: {number} \u00e4",
            "cookie": f"sid=s{number}; lang=ja" if number % 4 else "-"}
        return "\t".join(f"{label}:{value}" for label, value in fields.items()).encode()

    def expected(self, number):
        """(output, folder, row) of each row."""
        if self.is_broken(number) or number % 50 == 3:
            return
        tokyo = self.at(number) + timedelta(hours=9)
        status, host = (200, 404, 503)[number % 7 % 3], ("www", "test", "m")[number % 3]
        row = {
            "id": str(number), "time": tokyo.strftime("%d/%b/%Y:%H:%M:%S.") + f"{tokyo.microsecond // 1000:03}", "host": host, "status": status,
            "size": None if number % 5 == 0 else number * 3, "reqtime": float(f"0.{number % 1000:03}"), "ua": f"Mozilla: {number} \u00e4",
            "cookie": {"sid": f"s{number}", "lang": "ja"} if number % 4 else {}, "path": f"/p/{number % 97}",
            "query": {"a": str(number), "b": "x y"} if number % 3 else {}}
        yield "all", tokyo.strftime("all/dt=%Y-%m-%d/hr=%H"), row
        yield "avro", tokyo.strftime("avro/dt=%Y-%m-%d/hr=%H"), {**row, "query": {name: row["query"].get(name) for name in ("a", "b")}}
        if status >= 500 and host != "test":
            yield "errors", tokyo.strftime("errors/dt=%Y-%m-%d"), row

    def rows_of(self, key, data):
        if not key.endswith(".avro"):
            yield from super().rows_of(key, data)
            return
        from fastavro import reader

        for row in reader(io.BytesIO(data)):
            yield canonical(None, row)

    def check(self, run):
        """Beside what is checked of all: DuckDB finds the same rows in the partitions that the folders are for Hive."""
        return {**super().check(run), "partitions": self.check_partitions(run)}

    def check_partitions(self, run):
        import duckdb

        folder = run.folder / "duckdb"
        for key in run.keys()[0]:
            if key.startswith("all/"):
                (folder / key).parent.mkdir(parents=True, exist_ok=True)
                (folder / key).write_bytes(run.read(key))
        source = f"read_json('{folder}/all/**/*.json.gz', hive_partitioning=true, hive_types_autocast=false)"
        with duckdb.connect() as connection:
            counted = connection.execute(f"select 'all/dt=' || dt || '/hr=' || hr, count(distinct id) from {source} group by 1").fetchall()
        same(Counter(dict(counted)), Counter(folder for output, folder, _ in self.rows() if output == "all"), "rows by partition, as DuckDB reads them")
        return len(counted)


class Fluentd(Pipeline):
    """What Fluentd's agents send: entries of tag, time and record, five to a Kafka record."""

    name, hours = "fluentd", 1
    entries = 5
    config = r"""
decode = { type = "msgpack", unfold = true, names = ["tag", "time", "record"] }
timestamp = { field = "time", unit = "s" }
[archive.rotate]
grace = "5s"
[[archive.output]]
name = "json"
layout = { path = "{field.tag[2]}/{field.tag[3]}/%Y/%m/%d/%H", name = "%Y%m%d-%H%M_{topic}_{partition}_{first}-{end}" }
"""

    def payload(self, number):
        import msgpack

        if self.is_broken(number):
            return (b"\xc1" + b"%d" % number, b"\x93\xa1", b"\xdd\xff\xff\xff\xff", b"\x91\x92\x01\x02" + b"%d" % number)[self.kind(number, 4)]
        return msgpack.packb([[tag, self.event_time(when), record] for tag, when, record in self.of(number)])

    def of(self, number):
        """The entries of a record."""
        for entry in range(self.entries):
            one = number * self.entries + entry
            tag = ".".join(("app", "prod", ("web", "api", "batch")[one % 3], f"node{one % 4}", "log")[: 3 if one % 11 == 0 else 5])
            yield tag, self.at(number), {"id": one, "msg": f"line {one} \u00e4\n", "bin": b"\xff%d" % one, "f": one / 8}

    @staticmethod
    def event_time(when):
        import msgpack

        seconds = int(when.timestamp())
        return msgpack.ExtType(0, seconds.to_bytes(4, "big") + (when.microsecond * 1000 + 1).to_bytes(4, "big"))

    def expected(self, number):
        if self.is_broken(number):
            return
        for tag, when, record in self.of(number):
            words = [*tag.split("."), NULL, NULL][2:4]
            yield "json", when.strftime(f"{words[0]}/{words[1]}/%Y/%m/%d/%H"), self.row(tag, when, record)

    def row(self, tag, when, record):
        return {"tag": tag, "time": self.time_text(when), "record": {**record, "bin": base64.b64encode(record["bin"]).decode()}}

    @staticmethod
    def time_text(when):
        """Compared as text: a double does not hold nanoseconds."""
        return f"{int(when.timestamp())}.{when.microsecond * 1000 + 1:09}"

    def check_objects(self, keys):
        """One object a minute, folder and batch: the minute in the name is that of all its rows (see rows_of)."""
        for key in keys:
            if not re.fullmatch(r".+/\d{8}-\d{4}_.+_\d_\d+-\d+\.json\.gz", key):
                raise Failed(f"{key} is not named as the layout says")


class FluentdJson(Fluentd):
    """The same as JSON: an array of entries, or two behind each other."""

    name = "fluentd-json"
    config = Fluentd.config.replace("msgpack", "json")

    def payload(self, number):
        if self.is_broken(number):
            return (b'[["app.prod", %d, {}]', b'[["app.prod.web", %d]]', b'[["\xff", %d, {}]]', b"[%d, ]")[self.kind(number, 4)] % number
        entries = [f'["{tag}", {self.time_text(when)}, {json.dumps(self.plain(record))}]' for tag, when, record in self.of(number)]
        arrays = [entries[:2], entries[2:]] if number % 2 else [entries]
        return "\n".join(f"[{', '.join(array)}]" for array in arrays).encode()

    @staticmethod
    def plain(record):
        """Without what JSON has not."""
        return {name: value for name, value in record.items() if name != "bin"}

    def row(self, tag, when, record):
        return {"tag": tag, "time": self.time_text(when), "record": self.plain(record)}
