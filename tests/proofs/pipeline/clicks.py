"""JSON through the registry, two versions of a JSON Schema alternating: columns of the newer one, and what `siltstone preview` says of it."""

import io
import json
import os
import subprocess
from collections import Counter

from trial import Failed

from .base import same
from .registry import RegistryPipeline, framed

RECORDS_MAX = 20_000


def schema(version):
    """Version 2 has a property more, and a whole number is any number."""
    properties = {
        "id": {"type": "integer"},
        "at": {"type": "integer"},
        "page": {"type": "object", "properties": {"path": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}}},
        "took": {"type": "integer" if version < 2 else "number"}}
    if version >= 2:
        properties["user"] = {"oneOf": [{"type": "null"}, {"type": "string"}]}
    return {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": properties, "required": ["id", "at"]}


class Clicks(RegistryPipeline):
    name, known_share = "clicks", 0.5
    config = r"""
decode = "json_schema"
timestamp = { field = "at", unit = "ms", fallback = "dead_letter" }
[[archive.output]]
name = "rows"
format = { type = "parquet", schema = "registry" }
layout = { path = "rows/dt=%Y-%m-%d/hr=%H" }
[[archive.output]]
name = "everything"
format = "envelope"
layout = { path = "everything/dt=%Y-%m-%d" }
"""

    def __init__(self, records):
        super().__init__(min(records, RECORDS_MAX))

    def sections(self):
        """Over TLS, by an authority that only the configuration knows."""
        url, authority = os.environ["REGISTRY_TLS_URL"], os.environ["REGISTRY_CA_FILE"]
        return ["[registry]", f"url = {json.dumps(url)}", f"ca_file = {json.dumps(authority)}"]

    def prepare(self, run):
        super().prepare(run)
        self.ids = [self.registry.register(self.subject, json.dumps(schema(version)), "JSON") for version in (1, 2)]

    def version(self, number):
        """The second one begins where the registry is away."""
        return 2 if number >= self.records * self.known_share and number % 3 else 1

    def row(self, number):
        row = {"id": number, "at": round(self.at(number).timestamp() * 1000), "page": {"path": f"/p/{number % 97}", "tags": ["a"] * (number % 3)}}
        if self.version(number) == 1:
            return row | {"took": number % 1000}
        return row | {"took": number % 1000 / 8, "user": None if number % 2 else f"user-{number % 97} \u00e4"}

    def payload(self, number):
        data, schema_id = json.dumps(self.row(number)).encode(), self.ids[self.version(number) - 1]
        if not self.is_broken(number):
            return framed(schema_id, data)
        return (
            framed(schema_id, data[:-1]),
            framed(2_000_000_000, data),
            data,
            framed(schema_id, json.dumps({"at": self.row(number)["at"]}).encode()),  # no id
            framed(schema_id, json.dumps(self.row(number) | {"took": "long"}).encode()))[self.kind(number, 5)]

    def check(self, run):
        import pyarrow.parquet as parquet

        data_keys, dead_keys = run.keys()
        found, whole = Counter(), Counter()
        for key in data_keys:
            for row in parquet.read_table(io.BytesIO(run.read(key))).to_pylist():
                if "everything/" in key:
                    whole[row["value"]] += 1
                    continue
                if row.pop("_rest", None) is not None:
                    raise Failed(f"{key}: a field has no column: {row}")
                found[one_form(row)] += 1
        numbers = [number for number in range(self.records) if not self.is_broken(number)]
        same(found, Counter(one_form(self.row(number)) for number in numbers), "rows")
        same(whole, Counter(self.payload(number) for number in range(self.records)), "records in the envelope")
        letters, reasons = run.dead_letters(dead_keys)
        same(letters, self.broken(), "dead letters")
        return {"rows": len(numbers), "objects": len(data_keys), "dead": letters.total(), "reasons": len(reasons), "previewed": self.preview(run)}

    def preview(self, run):
        """The newest records, as `siltstone preview` sees them."""
        done = subprocess.run([run.program, "preview", "-c", run.config, "-n", "40", "--json"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failed(f"siltstone preview ended with {done.returncode}: {done.stderr}")
        outcomes = [json.loads(line) for line in done.stdout.splitlines()]
        for outcome in outcomes:
            number = outcome["offset"] * 4 + outcome["partition"]
            rows = [entry["row"] for entry in outcome["rows"]]
            refused = any("rows" in letter["outputs"] for letter in outcome["dead_letters"])
            if refused != self.is_broken(number) or (not refused and rows != [self.row(number)]):
                raise Failed(f"siltstone preview says of record {number}: {outcome}")
        return len(outcomes)


def one_form(row):
    """A row as both versions have it: objects of the first one have no user, and whole numbers."""
    return json.dumps({**row, "took": float(row["took"]), "user": row.get("user")}, sort_keys=True)
