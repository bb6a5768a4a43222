//! Trouble: bad input, stores and brokers that refuse, disks that fill, groups that forget, processes that are told to go.
//! The real binary against the real Kafka and stores: `scripts/services.sh start`, then run with what
//! `scripts/services.sh env` prints. A missing service is a failure, never a skip.
//!
//! Every test has topics, a group, a spool and a destination of its own, waits for events with a deadline and never for a
//! time. What a test is about is asserted as message or outcome; that nothing was lost or doubled is counted by
//! `Archive::assert_even`, which reads every object back without siltstone's code.

// An unwrap that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod backfill;
mod bad_records;
mod bigquery;
mod commands;
mod compact;
mod complete;
mod ddl;
mod dead_letters;
mod disk;
mod duplicates;
mod failpoints;
mod folds;
mod gaps;
mod group;
mod hdfs;
mod hive;
mod hooks;
mod left_over;
mod life;
mod load;
mod logs;
mod missing;
mod names;
mod restore;
mod rolling;
mod rows;
mod spool;
mod stores;
mod support;
mod verify;
