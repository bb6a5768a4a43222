//! What archives hold is what is read: every format and codec, times, offsets and orders, and where an offset is.

pub(crate) mod archives;
mod formats;
mod meanwhile;
