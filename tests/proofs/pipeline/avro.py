"""Avro through the registry, five versions of one schema alternating at random: few objects, and each row as fastavro resolves it."""

import io
import json
import zlib
from bisect import bisect_right
from collections import Counter
from datetime import datetime, timezone
from functools import cached_property

from trial import Failed

from .base import PARTITIONS, same
from .registry import RegistryPipeline, framed

EXTRA_OBJECTS_MAX = 4
BEGINS = (0, 0.1, 0.3, 0.5, 0.7)  # share of the records that a version first appears behind
LEVELS = ["INFO", "WARN", "ERROR"]


def schema(version):
    """The schema of version 1 to 5: with a field more; an int that is a long, and a double more; a field less; a symbol and a map more."""
    fields = [
        {"name": "id", "type": "long"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "host", "type": "string"},
        {"name": "size", "type": "int" if version < 3 else "long"},
        {"name": "user", "type": ["null", "string"], "default": None},
        {"name": "level", "type": {"type": "enum", "name": "Level", "symbols": LEVELS + ["FATAL"] * (version >= 5), "default": "INFO"}},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "request", "type": {"type": "record", "name": "Request", "fields": [
            {"name": "path", "type": "string"}, {"name": "took", "type": "double"}, {"name": "secure", "type": "boolean"}]}}]
    if version < 4:
        fields.append({"name": "legacy", "type": "string", "default": ""})
    if version >= 2:
        fields.append({"name": "region", "type": "string", "default": "eu"})
    if version >= 3:
        fields.append({"name": "score", "type": "double", "default": 0.5})
    if version >= 5:
        fields.append({"name": "labels", "type": {"type": "map", "values": "string"}, "default": {}})
    return {"type": "record", "name": "Hit", "namespace": "web", "fields": fields}


STRANGER = {"type": "record", "name": "Other", "fields": [{"name": "id", "type": "string"}, {"name": "host", "type": "long"}]}


class Avro(RegistryPipeline):
    """All in one hour and with large limits: only a newer schema ends a batch."""

    name, hours = "avro", 1
    config = r"""
decode = { type = "avro", registry = true }
timestamp = { field = "at", fallback = "dead_letter" }
[[archive.output]]
name = "rows"
format = { type = "parquet", schema = "registry" }
keep = ["partition", "offset"]
layout = { path = "rows/dt=%Y-%m-%d/hr=%H" }
"""

    def rotate(self):
        return ["records = 1_000_000_000", 'size = "1GiB"', 'age = "1h"']

    def prepare(self, run):
        super().prepare(run)
        self.registry.require_compatible(self.subject)
        self.ids = [self.registry.register(self.subject, json.dumps(schema(version))) for version in range(1, 6)]
        self.stranger = self.registry.register(f"{run.id}-stranger", json.dumps(STRANGER))

    def clean(self, run):
        super().clean(run)
        self.registry.delete(f"{run.id}-stranger")

    @cached_property
    def parsed(self):
        from fastavro import parse_schema

        return [parse_schema(schema(version)) for version in range(1, 6)]

    def version(self, number):
        """Any of those that have begun: they alternate."""
        return 1 + zlib.crc32(b"version %d" % number) % bisect_right(BEGINS, number / self.records)

    def datum(self, number):
        """All fields of all versions; a writer takes those of its own."""
        levels = LEVELS + ["FATAL"] * (self.version(number) >= 5)
        return {
            "id": number, "at": self.at(number), "host": ("www", "shop", "m")[number % 3], "size": number % 70_000 if self.version(number) < 3 else number * 10**6,
            "user": None if number % 4 == 0 else f"user-{number % 997} \u00e4", "level": levels[number % len(levels)], "tags": [f"t{n}" for n in range(number % 4)],
            "request": {"path": f"/p/{number % 97}", "took": number % 1000 / 8, "secure": number % 2 == 0}, "legacy": f"old {number % 13}",
            "region": ("us", "jp")[number % 2], "score": number % 64 / 4, "labels": {f"k{n}": str(number) for n in range(number % 3)}}

    def encoded(self, number):
        from fastavro import schemaless_writer

        out = io.BytesIO()
        schemaless_writer(out, self.parsed[self.version(number) - 1], self.datum(number))
        return out.getvalue()

    def payload(self, number):
        data, schema_id = self.encoded(number), self.ids[self.version(number) - 1]
        if not self.is_broken(number):
            return framed(schema_id, data)
        return (
            framed(schema_id, data[: 1 + number % (len(data) - 1)]),  # cut off
            b"\1" + framed(schema_id, data)[1:],  # another magic byte
            framed(2_000_000_000 + number % 5, data),  # nobody's schema
            framed(schema_id, data + b"%d" % number),  # something behind it
            framed(self.stranger, b"\x06%03d\x02" % (number % 1000)),  # a schema that cannot be projected
            b"\0\0%d" % (number % 10),  # less than an id
            b'{"id": %d}' % number)[self.kind(number, 7)]

    def check(self, run):
        import pyarrow.parquet as parquet

        data_keys, dead_keys = run.keys()
        objects, rows, targets = Counter(), set(), Counter()
        for key in data_keys:
            table = parquet.read_table(io.BytesIO(run.read(key)))
            version = self.target_of(key, table.schema.names)
            partitions = set(table["_kafka_partition"].to_pylist())
            if len(partitions) != 1:
                raise Failed(f"{key} holds rows of the Kafka partitions {partitions}")
            objects[partitions.pop()] += 1
            targets[version] += 1
            for row in table.to_pylist(maps_as_pydicts="strict"):
                place = row.pop("_kafka_partition"), row.pop("_kafka_offset")
                number = place[1] * PARTITIONS + place[0]
                if place in rows or number >= self.records or self.is_broken(number):
                    raise Failed(f"{key} holds the record {place}, which is {'there twice' if place in rows else 'no row'}")
                rows.add(place)
                if self.version(number) > version:
                    raise Failed(f"{key} has columns of version {version} and a record {place} of version {self.version(number)}")
                if row.pop("_rest", None) is not None or plain(row) != (wanted := self.resolved(number, version)):
                    raise Failed(f"{key}, {place}, version {self.version(number)} as {version}: {plain(row)} is not {wanted}")
        wanted = sum(not self.is_broken(number) for number in range(self.records))
        if len(rows) != wanted:
            raise Failed(f"{wanted - len(rows)} of {wanted} rows are missing")
        if max(objects.values()) > 1 + EXTRA_OBJECTS_MAX or len(objects) != PARTITIONS:
            raise Failed(f"objects of each Kafka partition: {dict(objects)}, at most {1 + EXTRA_OBJECTS_MAX} were expected")
        letters, reasons = run.dead_letters(dead_keys)
        same(letters, self.broken(), "dead letters")
        return {"rows": len(rows), "objects": len(data_keys), "objects_of_a_partition_max": max(objects.values()),
                **{f"as_v{version}": count for version, count in sorted(targets.items())}, "dead": letters.total(), "reasons": len(reasons), **run.balance()}

    @staticmethod
    def target_of(key, found):
        """The version whose columns an object has."""
        names = set(found) - {"_kafka_partition", "_kafka_offset", "_rest"}
        for version in range(5, 0, -1):
            if names == {field["name"] for field in schema(version)["fields"]}:
                return version
        raise Failed(f"{key} has the columns of no version: {found}")

    def resolved(self, number, version):
        """The record as fastavro reads it with another version's schema."""
        from fastavro import schemaless_reader

        return plain(schemaless_reader(io.BytesIO(self.encoded(number)), self.parsed[self.version(number) - 1], self.parsed[version - 1]))


def plain(value):
    """A row as pyarrow or fastavro gives it, in one form: instants are milliseconds."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    if isinstance(value, datetime):
        return round(value.astimezone(timezone.utc).timestamp() * 1000)
    return value
