#!/usr/bin/env python3
"""Names and paths of the test programs in what `cargo test --no-run --message-format=json` prints: a line each."""

import json
import sys

for line in sys.stdin:
    message = json.loads(line)
    if message.get("reason") == "compiler-artifact" and message["profile"]["test"] and message["executable"]:
        target = message["target"]
        kind = target["kind"][0]
        print(target["name"] if kind == "test" else kind, message["executable"])
