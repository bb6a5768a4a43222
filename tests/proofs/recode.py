#!/usr/bin/env python3
"""The records of scripts/logs.py as LTSV, Avro or Protocol Buffers: the same rows, so that the same reader checks them.

    $PYTHON tests/proofs/recode.py --kind avro --brokers B --topic T --dir D --records N

Puts them into a new topic and, as they lie there, into files of D, one for each Kafka partition and hour: lines of LTSV; of the other two each
payload behind its length in four bytes, little endian. D also gets the schema: hit.avsc, hit.pb.
"""

import argparse
import json
import os
import struct
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "scripts"))
from logs import Logs, create_topic, produce_all  # noqa: E402

TEXTS = ("method", "host", "path", "query")
MORE_TEXTS = ("ip", "referer", "agent")
GEO = ("country", "city", "lat", "lon")


class Ltsv:
    """Labels are the fields; what nests is JSON."""

    suffix = "ltsv"

    @staticmethod
    def write_schema(folder):
        pass

    @staticmethod
    def encode(row):
        row["geo"] = json.dumps(row["geo"], ensure_ascii=False, separators=(",", ":"))
        return "\t".join([f"{name}:{'-' if value is None else value}" for name, value in row.items()]).encode()

    @staticmethod
    def framed(payload):
        return payload + b"\n"


class Avro:
    """A record with a record in it."""

    suffix = "avro"
    schema = {"type": "record", "name": "Hit", "fields": [
        {"name": "id", "type": "long"}, {"name": "time", "type": "long"}, *({"name": name, "type": "string"} for name in TEXTS),
        {"name": "status", "type": "int"}, {"name": "bytes", "type": "long"}, {"name": "duration", "type": "double"},
        {"name": "user", "type": ["null", "string"]}, *({"name": name, "type": "string"} for name in MORE_TEXTS),
        {"name": "geo", "type": {"type": "record", "name": "Geo", "fields": [
            {"name": name, "type": "string" if name in GEO[:2] else "double"} for name in GEO]}},
        {"name": "trace", "type": "string"}]}

    @classmethod
    def write_schema(cls, folder):
        (folder / "hit.avsc").write_text(json.dumps(cls.schema))

    @classmethod
    def encode(cls, row):
        import io

        from fastavro import parse_schema, schemaless_writer

        if "__fastavro_parsed__" not in cls.schema:
            cls.schema = parse_schema(cls.schema)
        out = io.BytesIO()
        schemaless_writer(out, cls.schema, row)
        return out.getvalue()

    @staticmethod
    def framed(payload):
        return struct.pack("<I", len(payload)) + payload


class Protobuf:
    """A message with a message in it; numbers of the fields as in `FIELDS`, from 1."""

    suffix = "pb"
    FIELDS = (("id", "INT64"), ("time", "INT64"), *((name, "STRING") for name in TEXTS), ("status", "INT32"), ("bytes", "INT64"), ("duration", "DOUBLE"),
              ("user", "STRING"), *((name, "STRING") for name in MORE_TEXTS), ("geo", ".web.Geo"), ("trace", "STRING"))
    message = None

    @classmethod
    def file(cls):
        from google.protobuf import descriptor_pb2

        kinds = descriptor_pb2.FieldDescriptorProto
        file = descriptor_pb2.FileDescriptorProto(name="hit.proto", package="web", syntax="proto3")
        hit, geo = file.message_type.add(name="Hit"), file.message_type.add(name="Geo")
        for number, (name, kind) in enumerate(cls.FIELDS, 1):
            field = hit.field.add(name=name, number=number, label=kinds.LABEL_OPTIONAL)
            if kind.startswith("."):
                field.type, field.type_name = kinds.TYPE_MESSAGE, kind
            else:
                field.type = getattr(kinds, f"TYPE_{kind}")
            if name == "user":  # the one that may be missing
                hit.oneof_decl.add(name="_user")
                field.proto3_optional, field.oneof_index = True, 0
        for number, name in enumerate(GEO, 1):
            geo.field.add(name=name, number=number, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_STRING if name in GEO[:2] else kinds.TYPE_DOUBLE)
        return file

    @classmethod
    def write_schema(cls, folder):
        from google.protobuf import descriptor_pb2

        (folder / "hit.pb").write_bytes(descriptor_pb2.FileDescriptorSet(file=[cls.file()]).SerializeToString())

    @classmethod
    def encode(cls, row):
        if cls.message is None:
            from google.protobuf import descriptor_pool, message_factory

            pool = descriptor_pool.DescriptorPool()
            pool.AddSerializedFile(cls.file().SerializeToString())
            cls.message = message_factory.GetMessageClass(pool.FindMessageTypeByName("web.Hit"))
        if row["user"] is None:
            del row["user"]
        return cls.message(**row).SerializeToString()

    framed = Avro.framed


KINDS = {"ltsv": Ltsv, "avro": Avro, "protobuf": Protobuf}


class Recoded:
    """A set of records in another form; writes down what it hands out."""

    def __init__(self, logs, kind, folder):
        self.logs, self.kind, self.folder = logs, kind, folder

    def of_partitions(self, wanted):
        files = {}
        for partition, line in self.logs.of_partitions(wanted):
            row = json.loads(line)
            hour = (row["time"] - self.logs.start_ms) // 3_600_000
            payload = self.kind.encode(row)
            if (partition, hour) not in files:
                files[partition, hour] = open(self.folder / f"{partition:05}-{hour:02}.{self.kind.suffix}", "wb", buffering=1 << 20)
            files[partition, hour].write(self.kind.framed(payload))
            yield partition, payload
        for file in files.values():
            file.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=list(KINDS), required=True)
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--linger", type=float, default=50)
    Logs.add_arguments(parser)
    args = parser.parse_args()
    os.makedirs(args.dir, exist_ok=True)
    kind = KINDS[args.kind]
    kind.write_schema(args.dir)
    create_topic(args.brokers, args.topic, args.partitions)
    produce_all(Recoded(Logs.of(args), kind, args.dir), args)


if __name__ == "__main__":
    main()
