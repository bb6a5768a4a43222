"""Protocol Buffers through the registry: raw to one prefix, columns to another, from one read; and dead letters that are decoded after all."""

import gzip
import io
import json
import subprocess
import zlib
from collections import Counter
from functools import cached_property

from trial import Failed, tail

from .avro import plain
from .base import PARTITIONS, same
from .registry import RegistryPipeline, framed

SECOND_BEGINS = 0.6  # share of the records behind which the second version alternates with the first
LATE_ID_AHEAD = 40  # ids between the second version and the third, which records name before it is there
ORDER = b"\2\2"  # one index, 1: the second message of the file
STATES = ("NEW", "PAID", "SENT")
# name, number, type, label or "map": of all versions together.
FIELDS = (
    ("id", 1, "int64", ""), ("created", 2, "google.protobuf.Timestamp", ""), ("customer", 3, "string", ""), ("state", 4, "State", ""),
    ("lines", 5, "Line", "repeated"), ("labels", 6, "string", "map"), ("note", 7, "string", "optional"), ("token", 8, "bytes", ""))
ADDED = {2: (("coupon", 9, "string", ""), ("tax_cents", 10, "int64", "")), 3: (("channel", 11, "string", ""),)}
DEFAULTS = {"coupon": "", "tax_cents": 0, "channel": ""}
LINE = (("sku", 1, "string", ""), ("count", 2, "int32", ""), ("price", 3, "double", ""))


def fields(version):
    return FIELDS + sum((added for since, added in ADDED.items() if version >= since), ())


def declared(name, number, kind, label):
    if label == "map":
        return f"map<string, {kind}> {name} = {number};"
    return f"{label + ' ' if label else ''}{kind} {name} = {number};"


def schema(version):
    """The .proto file of version 1 to 3."""
    lines = ['syntax = "proto3";', "package shop;", 'import "google/protobuf/timestamp.proto";', "message Ping { int64 at = 1; }", "message Order {",
             "  message Line {", *(f"    {declared(*field)}" for field in LINE), "  }",
             "  enum State {", *(f"    {state} = {number};" for number, state in enumerate(STATES)), "  }",
             *(f"  {declared(*field)}" for field in fields(version)), "}"]
    return "\n".join(lines) + "\n"


def message_class(version):
    """The same for Python's own Protocol Buffers, written down once more."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="order.proto", package="shop", syntax="proto3", dependency=["google/protobuf/timestamp.proto"])
    ping = file.message_type.add(name="Ping")
    ping.field.add(name="at", number=1, type=kinds.TYPE_INT64, label=kinds.LABEL_OPTIONAL)
    order = file.message_type.add(name="Order")
    state = order.enum_type.add(name="State")
    for number, name in enumerate(STATES):
        state.value.add(name=name, number=number)
    named = {"Line": (kinds.TYPE_MESSAGE, ".shop.Order.Line"), "State": (kinds.TYPE_ENUM, ".shop.Order.State"),
             "google.protobuf.Timestamp": (kinds.TYPE_MESSAGE, ".google.protobuf.Timestamp")}

    def add(message, name, number, kind, label):
        field = message.field.add(name=name, number=number, label=kinds.LABEL_REPEATED if label in ("repeated", "map") else kinds.LABEL_OPTIONAL)
        if label == "map":
            entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
            entry.options.map_entry = True
            add(entry, "key", 1, "string", "")
            add(entry, "value", 2, kind, "")
            field.type, field.type_name = kinds.TYPE_MESSAGE, f".shop.Order.{entry.name}"
        elif kind in named:
            field.type, field.type_name = named[kind]
        else:
            field.type = getattr(kinds, f"TYPE_{kind.upper()}")
        if label == "optional":
            field.proto3_optional = True
            field.oneof_index = len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{name}")

    line = order.nested_type.add(name="Line")
    for field in LINE:
        add(line, *field)
    for field in fields(version):
        add(order, *field)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Order"))


class Protobuf(RegistryPipeline):
    """Orders of a shop. One in a hundred is broken, some of them only until their schema is registered."""

    name, hours = "protobuf", 2
    config = r"""
decode = { type = "protobuf", registry = true }
timestamp = { field = "created", fallback = "dead_letter" }
[[archive.output]]
name = "raw"
format = { type = "raw", compression = "gzip", newlines = "length" }
layout = { path = "raw/dt=%Y-%m-%d" }
[[archive.output]]
name = "orders"
format = { type = "parquet", schema = "registry" }
keep = ["partition", "offset"]
layout = { path = "orders/dt=%Y-%m-%d/hr=%H" }
"""

    def prepare(self, run):
        super().prepare(run)
        self.ids = [self.registry.register(self.subject, schema(version), "PROTOBUF") for version in (1, 2)]
        self.ids.append(self.ids[-1] + LATE_ID_AHEAD)
        self.is_late = True  # the third version is not there yet

    @cached_property
    def classes(self):
        return [message_class(version) for version in (1, 2, 3)]

    def is_of_third(self, number):
        """Broken until the third version is registered."""
        return super().is_broken(number) and self.kind(number, 8) in (6, 7)

    def is_broken(self, number):
        return super().is_broken(number) and (self.is_late or not self.is_of_third(number))

    def version(self, number):
        if self.is_of_third(number):
            return 3
        return 1 + (number >= self.records * SECOND_BEGINS and zlib.crc32(b"version %d" % number) % 2)

    def values(self, number, version):
        """The fields of a record in a row of that version."""
        row = {
            "id": number * 10**9, "created": round(self.at(number).timestamp() * 1000), "customer": f"customer-{number % 997} \u00e4",
            "state": STATES[number % 3], "lines": [{"sku": f"sku-{n}", "count": number % 9, "price": n / 4} for n in range(number % 4)],
            "labels": {f"k{n}": str(number) for n in range(number % 3)}, "note": f"note {number}" if number % 5 == 0 else None,
            "token": b"\xff%d" % number, "coupon": f"c{number % 7}", "tax_cents": number % 1000, "channel": "app"}
        written = {name for name, *_ in fields(self.version(number))}
        return {name: row[name] if name in written else DEFAULTS[name] for name, *_ in fields(version)}

    def encoded(self, number):
        version = self.version(number)
        message = self.classes[version - 1]()
        for name, value in self.values(number, version).items():
            if name == "created":
                message.created.FromMilliseconds(value)
            elif name == "lines":
                for line in value:
                    message.lines.add(**line)
            elif name == "labels":
                message.labels.update(value)
            elif value is not None:
                setattr(message, name, STATES.index(value) if name == "state" else value)
        return message.SerializeToString(deterministic=True)

    def payload(self, number):
        data, schema_id = self.encoded(number), self.ids[self.version(number) - 1]
        if not super().is_broken(number) or self.is_of_third(number):
            return framed(schema_id, data, ORDER)
        return (
            framed(schema_id, data[:-1], ORDER),  # cut off
            b"\1" + framed(schema_id, data, ORDER)[1:],  # another magic byte
            framed(2_000_000_000 + number % 5, data, ORDER),  # nobody's schema
            framed(schema_id, b"\x0a\x03abc" + data, ORDER),  # an id that is text
            framed(schema_id, data, b"\2\x12"),  # the tenth message of the file
            framed(schema_id, data + b"\x7a\x01x", ORDER))[self.kind(number, 8)]  # a field that the schema does not have

    def expected(self, number):
        raise NotImplementedError("rows are compared one by one: see rows_of_object")

    def check(self, run):
        data_keys, dead_keys = run.keys()
        raw_keys = [key for key in data_keys if key.startswith("raw/")]
        same(Counter(payload for key in raw_keys for payload in split(key, gzip.decompress(run.read(key)))),
             Counter(self.payload(number) for number in range(self.records)), "raw payloads")
        rows = self.check_rows(run, data_keys)
        letters, reasons = run.dead_letters(dead_keys)
        same(letters, self.broken(), "dead letters")
        found = {"raw_objects": len(raw_keys), "rows": rows, "objects": len(data_keys) - len(raw_keys), "dead": letters.total(),
                 "reasons": len(reasons), **run.balance()}
        return {**found, **self.check_replay(run, rows)}

    def check_rows(self, run, keys):
        """Every row of the objects below orders/; gives how many there are."""
        import pyarrow.parquet as parquet

        rows = set()
        for key in (key for key in keys if key.startswith("orders/")):
            table = parquet.read_table(io.BytesIO(run.read(key)))
            version = self.target_of(key, table.schema.names)
            folder = key.rsplit("/", 1)[0]
            for row in table.to_pylist(maps_as_pydicts="strict"):
                place = row.pop("_kafka_partition"), row.pop("_kafka_offset")
                number = place[1] * PARTITIONS + place[0]
                if place in rows or number >= self.records or self.is_broken(number):
                    raise Failed(f"{key} holds the record {place}, which is {'there twice' if place in rows else 'no row'}")
                rows.add(place)
                if self.version(number) > version or folder != self.at(number).strftime("orders/dt=%Y-%m-%d/hr=%H"):
                    raise Failed(f"{key} has columns of version {version} and the record {place} of version {self.version(number)}, {self.at(number)}")
                if row.pop("_rest", None) is not None or plain(row) != (wanted := self.values(number, version)):
                    raise Failed(f"{key}, {place}: {plain(row)} is not {wanted}")
        wanted = sum(not self.is_broken(number) for number in range(self.records))
        if len(rows) != wanted:
            raise Failed(f"{wanted - len(rows)} of {wanted} rows are missing")
        return len(rows)

    @staticmethod
    def target_of(key, names):
        """The version whose columns an object has."""
        found = set(names) - {"_kafka_partition", "_kafka_offset", "_rest"}
        for version in (1, 2, 3):
            if found == {name for name, *_ in fields(version)}:
                return version
        raise Failed(f"{key} has the columns of no version: {names}")

    def check_replay(self, run, before):
        """The third version is registered; its dead letters become rows, once, however often they are replayed."""
        filler = f"{run.id}-filler"
        number = self.ids[1]
        while number < self.ids[2] - 1:
            number = self.registry.register(filler, json.dumps({"type": "fixed", "name": f"F{number}", "size": 1}))
        late = self.registry.register(self.subject, schema(3), "PROTOBUF")
        self.registry.delete(filler)
        if late != self.ids[2]:
            raise Failed(f"the registry gave the third version the id {late}, and not {self.ids[2]}: somebody else registered schemas meanwhile")
        self.is_late = False
        for attempt in ("first", "second"):
            replay(run, attempt)
            data_keys, _ = run.keys()
            rows = self.check_rows(run, data_keys)
        return {"replayed": rows - before}


def replay(run, attempt):
    log_path = run.folder / f"replay-{attempt}.log"
    with open(log_path, "w") as log:
        code = subprocess.run([run.program, "dead-letters", "replay", "-c", run.config], stdout=log, stderr=log, timeout=300).returncode
    if code != 0:
        raise Failed(f"siltstone dead-letters replay ended with {code}:\n{tail(log_path)}")


def split(key, data):
    """Payloads that follow their length in four bytes."""
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            raise Failed(f"{key} ends within a payload")
        yield data[at + 4 : end]
        at = end
