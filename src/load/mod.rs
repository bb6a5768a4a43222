//! Loaders: what makes tables of complete hours, in systems that are not ours.
//!
//! A loader is told which objects are meant and does the same however often it is called: what it has done is read back from the
//! system itself. It knows nothing of how an hour became complete, and nothing it fails at holds offsets back.

pub mod bigquery;
