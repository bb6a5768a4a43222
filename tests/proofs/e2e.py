"""Kafka to a store and back: every record of a topic through `siltstone run --drain`, counted by the independent reader.

    scripts/e2e.sh [--records N] [--store s3,gcs,azure,file] [--format gzip,parquet,zstd,raw,parquet-schema] [--broken SHARE] [--release] [--keep]

One topic is made and read once for each store and format. A second drain of the same group must find nothing to do. One
line for each; the exit code is not 0 when one of them is wrong, and what it left is then kept for a look.
"""

import argparse
import os
import secrets
import sys

from trial import FORMATS, STORE_NAMES, Failed, Trial, drain, drop_topic, produce, program, services


def several(allowed):
    def parse(text):
        names = text.split(",")
        if unknown := [name for name in names if name not in allowed]:
            raise argparse.ArgumentTypeError(f"{unknown[0]}: one of {', '.join(allowed)}")
        return names

    return parse


def one(args, topic, store, format_name):
    trial = Trial("e2e", store, format_name, topic)
    config = trial.write_config()
    used = drain(trial, program(args.release), config)
    found = trial.check(args.records, ["--broken", str(args.broken)])
    again = drain(trial, program(args.release), config, "again")
    found_again = trial.check(args.records, ["--broken", str(args.broken)])
    same = ("objects", "bytes", "receipts", "dead_objects")
    if any(found[name] != found_again[name] for name in same):
        raise Failed(f"a second drain changed the archive: {[(name, found[name], found_again[name]) for name in same]}: {trial.url}")
    names = ("records", "distinct", "duplicated", "lost", "wrong_hour", "dead", "objects", "bytes", "receipts")
    counted = " ".join(f"{name}={found[name]}" for name in names)
    print(f"ok {store} {format_name} {counted} run={used.wall:.1f}s cpu={used.cpu:.1f}s peak={used.peak_mib:.0f}MiB "
          f"again={again.wall:.1f}s check={found['seconds']}s", flush=True)
    if not args.keep:
        trial.clean()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--store", type=several(STORE_NAMES), default=["s3"])
    parser.add_argument("--format", type=several(list(FORMATS)), default=["gzip"])
    parser.add_argument("--broken", type=float, default=0.0, help="share of payloads that are not JSON")
    parser.add_argument("--release", action="store_true", help="use target/release")
    parser.add_argument("--keep", action="store_true", help="delete neither topic nor objects")
    args = parser.parse_args()
    try:
        program(args.release)
        services(args.store)
    except Failed as failed:
        sys.exit(f"error: {failed}")
    brokers, topic, wrong = os.environ["KAFKA_BROKERS"], f"e2e-{secrets.token_hex(4)}", 0
    produce(brokers, topic, args.records, ["--broken", str(args.broken)])
    for store in args.store:
        for format_name in args.format:
            try:
                one(args, topic, store, format_name)
            except Failed as failed:
                wrong += 1
                print(f"WRONG {store} {format_name}, topic {topic}: {failed}", flush=True)
    if not args.keep and not wrong:
        drop_topic(brokers, topic)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
