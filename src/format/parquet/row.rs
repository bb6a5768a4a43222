//! The plain form of a row: what lies between `append_row` and `encode_block`, in memory or in the spool.
//!
//! Internal to one process and release: no file and no other process ever sees it. A row is the fields of the file's
//! schema that are not null, in the order in which they came:
//!
//! ```text
//! row, struct   (number of the field + 1, value)* 0
//! list          (1 value | 2)* 0                          2 is a null element
//! map           (1 key (1 value | 2))* 0
//! bool          0 | 1
//! integer, double, date, instant, decimal                 little-endian, in the width of their arrow type
//! text, bytes   length, bytes
//! ```
//! Numbers of fields and lengths are LEB128. Reading is guided by the same schema, checks every bound and never
//! panics: bytes that are no rows are an error.

/// Ends a row, struct, list or map.
pub(super) const END: u8 = 0;

/// A value, element or entry follows.
pub(super) const VALUE: u8 = 1;

/// An element or a map's value is null.
pub(super) const NULL: u8 = 2;

/// Bits of a LEB128 byte.
const LEB_BITS: u32 = 7;

/// Says that another LEB128 byte follows.
const LEB_MORE: u8 = 0x80;

/// Announces field `number` of the row or struct.
#[inline]
pub(super) fn push_field(number: usize, rows: &mut Vec<u8>) {
    push_length(number + 1, rows);
}

/// Adds text or bytes.
#[inline]
pub(super) fn push_bytes(bytes: &[u8], rows: &mut Vec<u8>) {
    push_length(bytes.len(), rows);
    rows.extend_from_slice(bytes);
}

#[inline]
fn push_length(mut length: usize, rows: &mut Vec<u8>) {
    while length >= usize::from(LEB_MORE) {
        // The low bits: the rest follows.
        rows.push(length.to_le_bytes()[0] | LEB_MORE);
        length >>= LEB_BITS;
    }
    rows.push(length.to_le_bytes()[0]);
}

/// Why bytes are no rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rows are broken: {0}")]
pub(super) struct Broken(pub(super) &'static str);

/// Walks through rows.
pub(super) struct RowReader<'a> {
    unread: &'a [u8],
}

impl<'a> RowReader<'a> {
    pub(super) fn new(rows: &'a [u8]) -> Self {
        Self { unread: rows }
    }

    /// Bytes not read yet.
    pub(super) fn left(&self) -> usize {
        self.unread.len()
    }

    /// A byte that is one of those above.
    #[inline]
    pub(super) fn byte(&mut self) -> Result<u8, Broken> {
        let (&byte, unread) = self.unread.split_first().ok_or(Broken("they end too early"))?;
        self.unread = unread;
        Ok(byte)
    }

    /// The number of the next field; `None` at the end of the row or struct.
    #[inline]
    pub(super) fn field(&mut self) -> Result<Option<usize>, Broken> {
        Ok(self.length()?.checked_sub(1))
    }

    /// A value of `N` bytes.
    #[inline]
    pub(super) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let (value, unread) = self.unread.split_first_chunk::<N>().ok_or(Broken("they end too early"))?;
        self.unread = unread;
        Ok(*value)
    }

    /// Text or bytes.
    #[inline]
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Broken> {
        let length = self.length()?;
        let (bytes, unread) = self.unread.split_at_checked(length).ok_or(Broken("they end too early"))?;
        self.unread = unread;
        Ok(bytes)
    }

    #[inline]
    fn length(&mut self) -> Result<usize, Broken> {
        let first = self.byte()?;
        if first < LEB_MORE {
            return Ok(usize::from(first));
        }
        let mut length = usize::from(first & !LEB_MORE);
        let mut shift = LEB_BITS;
        loop {
            let byte = self.byte()?;
            let bits = usize::from(byte & !LEB_MORE);
            let shifted = bits << shift;
            if shifted >> shift != bits {
                return Err(Broken("a length past what memory holds"));
            }
            length |= shifted;
            if byte < LEB_MORE {
                return Ok(length);
            }
            shift += LEB_BITS;
            if shift >= usize::BITS {
                return Err(Broken("a length past what memory holds"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_come_back() {
        for length in [0, 1, 127, 128, 300, 16_383, 16_384, 1 << 20, usize::MAX] {
            let mut rows = Vec::new();
            push_length(length, &mut rows);
            assert_eq!(RowReader::new(&rows).length(), Ok(length));
            for end in 0..rows.len() {
                assert!(RowReader::new(&rows[..end]).length().is_err(), "{length} cut at {end}");
            }
        }
        assert!(RowReader::new(&[0xff; 10]).length().is_err());
        assert!(RowReader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]).length().is_err());
    }

    #[test]
    fn values_never_reach_past_the_end() {
        let mut rows = Vec::new();
        push_field(0, &mut rows);
        push_bytes(b"ab", &mut rows);
        let mut reader = RowReader::new(&rows);
        assert_eq!((reader.field(), reader.bytes(), reader.left()), (Ok(Some(0)), Ok(b"ab".as_slice()), 0));
        assert!(reader.byte().is_err() && reader.fixed::<8>().is_err());
        assert!(RowReader::new(&[3, b'a', b'b']).bytes().is_err());
        assert_eq!(RowReader::new(&[END]).field(), Ok(None));
    }
}
