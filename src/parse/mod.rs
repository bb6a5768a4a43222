//! Payloads and event times: what of a record is looked into.
//!
//! ```text
//! payload ──JsonScan──▶ its JSON text, and the raw text of the wanted fields
//! raw text of a field, or a header ──TimeReader──▶ event time
//! ```
//! # Guarantees
//! - Verdicts depend on the bytes alone: the same payload is good or bad for ever, wherever it is read.
//! - Whatever the bytes are: no panic, no unbounded recursion, no copy of the payload in an error.
//! - A time that is missing or unreadable is an error, never a default.

pub mod json;
pub mod text;
pub mod timestamp;

/// Why a payload does not decode. Permanent: the record is a dead letter. Positions are bytes of the payload, from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// No bytes, or white space only.
    #[error("the payload is empty")]
    Empty,
    /// Not text.
    #[error("the payload is not UTF-8 at byte {at}")]
    NotUtf8 {
        /// First byte that is none.
        at: usize,
    },
    /// Not JSON.
    #[error("the payload is not JSON near byte {at}: {what}")]
    Syntax {
        /// Where reading stopped: the offending byte or the one before it.
        at: usize,
        /// What was expected there.
        what: String,
    },
    /// The payload ends inside its value.
    #[error("the payload ends inside its JSON value, after {bytes} bytes")]
    Truncated {
        /// Bytes there are.
        bytes: usize,
    },
    /// More than one value.
    #[error("the payload goes on behind its JSON value, at byte {at}")]
    Trailing {
        /// First byte behind the value.
        at: usize,
    },
    /// Arrays and objects nested too deeply.
    #[error("the payload nests arrays and objects deeper than {depth_max}, at byte {at}")]
    TooDeep {
        /// The bracket that is too deep.
        at: usize,
        /// What is allowed.
        depth_max: usize,
    },
}
