//! Loaders: what brings a complete folder of an archive into a catalogue or a database.
//!
//! A loader is handed what is complete and makes it so over there, as often as it is asked: asked again it changes nothing, and it never
//! takes anything away. When a folder is complete, and what becomes of one that fails, others decide. None of these modules knows an archive.

pub mod bigquery;
pub mod hive;
