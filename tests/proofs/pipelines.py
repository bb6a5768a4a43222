#!/usr/bin/env python3
"""Whole pipelines, as people run them, from Kafka to the bucket and back, each read by Python alone.

    scripts/pipelines.sh [NAME...] [--records N] [--release] [--keep]

Each: N records of the people's own in four Kafka partitions, one in a hundred broken; an archiver that is killed once in the middle and started
again; a drain; then every row and every dead letter against what this script knows of payload number i. One line for each.

    ltsv       access logs with a cookie: types, a transform that splits, trims, drops and routes, as JSON and as Avro in Hive's folders, errors once more
    fluentd    tag, time, record as MessagePack, several in one Kafka record: unfolded, in folders of the tag, one object a minute
    fluentd-json  the same as JSON
    syslog     a real rsyslog that takes UDP, TCP and a unix socket and sends to Kafka: hourly on Azure blob storage
    protobuf   through a registry that is killed and comes back: raw to one prefix, Parquet to another; dead letters replayed once their schema is there
    avro       five versions of a schema through such a registry, alternating: Parquet with the columns of the newest, few objects
    clicks     JSON by a JSON Schema of such a registry, two versions; whole records beside it; and what `siltstone preview` says of the newest
"""

import argparse
import multiprocessing
import sys
import time

from pipeline.avro import Avro
from pipeline.base import Run
from pipeline.clicks import Clicks
from pipeline.logs import Fluentd, FluentdJson, Ltsv
from pipeline.protobuf import Protobuf
from pipeline.syslog import Syslog
from trial import Failed, program, services

PIPELINES = {kind.name: kind for kind in (Ltsv, Fluentd, FluentdJson, Syslog, Protobuf, Avro, Clicks)}


def prove(kind, args):
    """Runs one; gives its line."""
    services([kind.store], ["kafka", *kind.parts])
    began, run = time.monotonic(), Run(kind(args.records // kind.entries), program(args.release))
    try:
        run.pipeline.prepare(run)
        run.write_config()
        run.pipeline.produce(run)
        run.pipeline.archive(run)
        found = run.pipeline.check(run)
    except Failed as failed:
        raise Failed(f"{failed}\nleft as it is: {run.url}, {run.folder}") from None
    if not args.keep:
        run.clean()
    told = " ".join(f"{what}={count}" for what, count in found.items())
    return f"records={args.records} kafka={run.pipeline.records} {told} seconds={time.monotonic() - began:.0f}"


def prove_all(names, args):
    """Runs one after the other; ends with 1 where one is wrong."""
    wrong = 0
    for name in names:
        try:
            print(f"ok {name} {prove(PIPELINES[name], args)}", flush=True)
        except Failed as failed:
            wrong += 1
            print(f"WRONG {name}: {failed}", flush=True)
    sys.exit(1 if wrong else 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PIPELINES))
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--release", action="store_true", help="use target/release")
    parser.add_argument("--keep", action="store_true", help="delete neither topic nor objects")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in PIPELINES]:
        parser.error(f"{unknown[0]}: one of {', '.join(PIPELINES)}")
    names = args.names or list(PIPELINES)
    # Side by side, but for those that kill the same registry.
    lanes = [[name for name in names if bool(PIPELINES[name].parts) == kills_parts] for kills_parts in (False, True)]
    workers = [multiprocessing.Process(target=prove_all, args=(lane, args)) for lane in lanes]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sys.exit(1 if any(worker.exitcode for worker in workers) else 0)


if __name__ == "__main__":
    main()
