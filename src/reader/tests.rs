//! What archives hold is what is read: every format and codec, times, offsets and orders, and where an offset is.

mod archives;
mod formats;
