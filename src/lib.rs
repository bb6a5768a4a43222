//! siltstone archives Kafka topics to object stores, exactly once, with nothing but Kafka and the bucket.
//!
//! # Modules, in reading order
//! - [`record`], [`clock`]: Kafka's words; time.
//! - [`config`]: the file; [`layout`]: what decides names and rows.
//! - [`consume`]: the seams towards Kafka; [`kafka`]: librdkafka behind them.
//! - [`registry`]: schemas by their ids; [`decode`]: payloads into rows; [`transform`]: what the user's programs make of them; [`parse`]: their fields and event
//!   times; [`mod@format`]: rows, blocks and files.
//! - [`spool`]: local parts; [`batch`]: the batch and its rules.
//! - [`destination`], [`upload`], [`bucket`]: object stores, objects, claims and receipts.
//! - [`ledger`]: what receipts say of an archive; [`backfill`]: any range of offsets archived; [`verify`]: whether all is there.
//! - [`reader`]: the rows of archived objects, and which objects are meant.
//! - [`ddl`]: outputs as tables of other engines.
//! - [`compact`]: small objects made large, with the proof that no row is another.
//! - [`complete`]: when an hour is complete, and its marker.
//! - [`load`]: complete folders brought into catalogues and databases. [`hook`]: somebody else told of batches and folders.
//! - [`effect`]: the only doors to what lasts, each with its failpoints.
//! - [`planted`]: rules turned off on purpose, for the simulation; in no release.
//! - [`pipeline`]: everything wired together; [`replay`]: dead letters decoded again; [`restore`]: records back to Kafka; [`cli`], [`commands`]: what a user types and calls.

pub mod backfill;
pub mod batch;
pub mod bucket;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod compact;
pub mod complete;
pub mod config;
pub mod consume;
pub mod ddl;
pub mod decode;
pub mod destination;
pub mod effect;
pub mod exit;
pub mod format;
pub mod hook;
pub mod kafka;
pub mod layout;
pub mod ledger;
pub mod load;
pub mod parse;
pub mod pipeline;
pub mod planted;
pub mod reader;
pub mod record;
pub mod registry;
pub mod replay;
pub mod restore;
pub mod spool;
pub mod telemetry;
pub mod transform;
pub mod upload;
pub mod verify;
