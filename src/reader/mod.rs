//! The rows of an archive, from its objects: which objects are meant, what they hold, in which order.
//!
//! ```text
//! receipts ──plan──▶ Chosen objects ──rows──▶ Row (JSON line, payload, record) ──merge──▶ rows in order
//! ```
//! Objects come from receipts, never from their names, so that archives of every layout are read alike. They are streamed: nothing is
//! downloaded whole, and no object that is not meant is touched.
//!
//! - [`plan`]: objects by topic, Kafka partition, output, offsets and event times; [`shape`]: how their layout wrote them.
//! - [`rows`]: the rows of one object; [`columns`]: Avro and Parquet as JSON; [`told`]: what a row tells of its record.
//! - [`records`]: whole records of an envelope, as they were.
//! - [`sieve`]: which rows are taken, by offsets, times and conditions.
//! - [`merge`]: rows of many objects in one order; [`again`]: which are left where objects gave way to others; [`find`]: where one offset is.

pub mod again;
pub mod columns;
pub mod find;
pub mod merge;
pub mod plan;
pub mod ranges;
pub mod records;
pub mod row;
pub mod rows;
pub mod shape;
pub mod sieve;
pub mod told;

#[cfg(test)]
pub(crate) mod tests;
