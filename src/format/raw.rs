//! Raw payloads: the bytes of each record, never looked into. Takes every record, decodable or not, but for payloads
//! that the newline rule refuses.
//!
//! | rule | a row | a tombstone |
//! |---|---|---|
//! | [`Newlines::Refuse`] | payload, newline; a payload with a newline is refused | an empty line |
//! | [`Newlines::Escape`] | payload with `\` as `\\` and newline as `\n`, newline | an empty line |
//! | [`Newlines::Length`] | length as 4 bytes big endian, payload | the length [`TOMBSTONE_LENGTH`] and nothing behind it |
//!
//! Only length framing tells a tombstone from an empty payload: in lines both are an empty line.

use super::compress::Codec;
use super::{Appended, Assembler, BlockLimit, EncodedBlock, Format, FormatError, Row, RowError};
use crate::layout::Newlines;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};

/// The length that stands for a null payload in length framing: no payload can be that long.
pub const TOMBSTONE_LENGTH: u32 = u32::MAX;

/// Raw payloads, compressed by `codec`.
pub(super) struct RawFormat {
    codec: Codec,
    newlines: Newlines,
}

impl RawFormat {
    pub(super) fn new(codec: Codec, newlines: Newlines) -> Self {
        Self { codec, newlines }
    }
}

impl Format for RawFormat {
    fn extension(&self) -> String {
        match self.newlines {
            Newlines::Refuse | Newlines::Escape => self.codec.extension("txt"),
            Newlines::Length => self.codec.extension("bin"),
        }
    }

    fn content_type(&self) -> &'static str {
        match self.newlines {
            Newlines::Refuse | Newlines::Escape => "text/plain",
            Newlines::Length => "application/octet-stream",
        }
    }

    fn block_limit(&self) -> BlockLimit {
        self.codec.block_limit()
    }

    fn append_row(&self, row: &Row<'_>, rows: &mut Vec<u8>) -> Result<Appended, RowError> {
        append_payload(self.newlines, row.record.value, rows)?;
        Ok(Appended::default())
    }

    fn encode_block(&self, rows: &[u8], count: u32) -> Result<EncodedBlock, FormatError> {
        self.codec.encode(rows, count)
    }

    fn assemble(&self, out: Box<dyn Write + Send>) -> Result<Box<dyn Assembler>, FormatError> {
        self.codec.assemble(out)
    }

    fn count_rows(&self, file: File) -> io::Result<u64> {
        self.count(file)
    }
}

impl RawFormat {
    /// Rows of a whole file.
    pub(super) fn count(&self, bytes: impl Read + 'static) -> io::Result<u64> {
        match self.newlines {
            Newlines::Refuse | Newlines::Escape => self.codec.count_lines(bytes),
            Newlines::Length => count_frames(&mut *self.codec.reader(bytes)?),
        }
    }
}

/// Adds a payload (`None`: a tombstone) by the rule of its output.
///
/// # Errors
/// The rule refuses it; nothing is added.
pub fn append_payload(newlines: Newlines, payload: Option<&[u8]>, rows: &mut Vec<u8>) -> Result<(), RowError> {
    match newlines {
        Newlines::Refuse => {
            let line = payload.unwrap_or_default();
            if memchr::memchr(b'\n', line).is_some() {
                return Err(RowError("the payload holds a newline, and the rule is to refuse it".to_string()));
            }
            rows.extend_from_slice(line);
            rows.push(b'\n');
        }
        Newlines::Escape => {
            append_escaped(payload.unwrap_or_default(), rows);
            rows.push(b'\n');
        }
        Newlines::Length => append_framed(payload, rows)?,
    }
    Ok(())
}

/// Reads back what [`append_payload`] wrote. The outer `None`: there is no further one. A tombstone that is a line is an empty payload.
///
/// # Errors
/// The bytes end within a payload, or it has more than `bytes_max`.
pub fn next_payload(
    newlines: Newlines,
    rows: &mut dyn BufRead,
    bytes_max: usize,
) -> io::Result<Option<Option<Vec<u8>>>> {
    match newlines {
        Newlines::Refuse => Ok(next_line(rows, bytes_max)?.map(Some)),
        Newlines::Escape => Ok(next_line(rows, bytes_max)?.map(|line| Some(unescaped(line)))),
        Newlines::Length => next_frame(rows, bytes_max),
    }
}

/// The next line, without its newline; `None` behind the last one.
///
/// # Errors
/// The last one has no newline, or it has more than `bytes_max` bytes.
pub fn next_line(rows: &mut dyn BufRead, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    Read::take(&mut *rows, (bytes_max as u64).saturating_add(1)).read_until(b'\n', &mut line)?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) if line.len() >= bytes_max => Err(io::Error::other(format!("a line of more than {bytes_max} bytes"))),
        Some(_) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "its last line has no end")),
    }
}

fn next_frame(rows: &mut dyn BufRead, bytes_max: usize) -> io::Result<Option<Option<Vec<u8>>>> {
    if rows.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut length = [0; 4];
    rows.read_exact(&mut length)?;
    let length = match u32::from_be_bytes(length) {
        TOMBSTONE_LENGTH => return Ok(Some(None)),
        length => length as usize,
    };
    if length > bytes_max {
        return Err(io::Error::other(format!("a payload of {length} bytes, where at most {bytes_max} are read")));
    }
    // Room grows with what is there: a damaged length is not believed.
    let mut payload = Vec::new();
    if Read::take(&mut *rows, length as u64).read_to_end(&mut payload)? < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(Some(payload)))
}

/// Undoes [`append_escaped`].
fn unescaped(line: Vec<u8>) -> Vec<u8> {
    if memchr::memchr(b'\\', &line).is_none() {
        return line;
    }
    let mut payload = Vec::with_capacity(line.len());
    let mut bytes = line.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => payload.extend(bytes.next().map(|&escaped| if escaped == b'n' { b'\n' } else { escaped })),
            other => payload.push(other),
        }
    }
    payload
}

fn append_escaped(payload: &[u8], rows: &mut Vec<u8>) {
    let mut unread = 0;
    for at in memchr::memchr2_iter(b'\\', b'\n', payload) {
        rows.extend_from_slice(&payload[unread..at]);
        rows.extend_from_slice(if payload[at] == b'\n' { b"\\n" } else { b"\\\\" });
        unread = at + 1;
    }
    rows.extend_from_slice(&payload[unread..]);
}

fn append_framed(payload: Option<&[u8]>, rows: &mut Vec<u8>) -> Result<(), RowError> {
    let Some(payload) = payload else {
        rows.extend_from_slice(&TOMBSTONE_LENGTH.to_be_bytes());
        return Ok(());
    };
    match u32::try_from(payload.len()) {
        Ok(length) if length != TOMBSTONE_LENGTH => rows.extend_from_slice(&length.to_be_bytes()),
        _ => return Err(RowError(format!("a payload of {} bytes does not fit a 4-byte length", payload.len()))),
    }
    rows.extend_from_slice(payload);
    Ok(())
}

fn count_frames(rows: &mut dyn BufRead) -> io::Result<u64> {
    let mut count = 0;
    while !rows.fill_buf()?.is_empty() {
        let mut length = [0; 4];
        rows.read_exact(&mut length)?;
        let length = match u32::from_be_bytes(length) {
            TOMBSTONE_LENGTH => 0,
            length => u64::from(length),
        };
        if io::copy(&mut Read::take(&mut *rows, length), &mut io::sink())? < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::testing::row_of;
    use proptest::prelude::*;

    fn rows_of(newlines: Newlines, payloads: &[Option<&[u8]>]) -> Result<Vec<u8>, RowError> {
        let format = RawFormat::new(Codec::None, newlines);
        let mut rows = Vec::new();
        for payload in payloads {
            row_of(*payload, None, |row| format.append_row(row, &mut rows))?;
        }
        Ok(rows)
    }

    #[test]
    fn each_rule_writes_its_rows() {
        let payloads: [Option<&[u8]>; 3] = [Some(b"a\\b"), Some(b""), None];
        let cases: [(Newlines, &[u8]); 3] = [
            (Newlines::Refuse, b"a\\b\n\n\n"),
            (Newlines::Escape, b"a\\\\b\n\n\n"),
            (Newlines::Length, b"\0\0\0\x03a\\b\0\0\0\0\xff\xff\xff\xff"),
        ];
        for (newlines, expected) in cases {
            assert_eq!(rows_of(newlines, &payloads).expect("no newline inside"), expected, "{newlines:?}");
        }
    }

    #[test]
    fn a_newline_inside_follows_the_rule() {
        assert!(rows_of(Newlines::Refuse, &[Some(b"a\nb")]).is_err());
        assert_eq!(rows_of(Newlines::Escape, &[Some(b"a\nb\r")]).expect("escaped"), b"a\\nb\r\n");
        assert_eq!(rows_of(Newlines::Length, &[Some(b"a\nb")]).expect("framed"), b"\0\0\0\x03a\nb");
    }

    #[test]
    fn names_tell_the_framing_and_the_codec() {
        let cases = [
            (Codec::None, Newlines::Refuse, "txt", "text/plain"),
            (Codec::Gzip(6), Newlines::Escape, "txt.gz", "text/plain"),
            (Codec::Zstd(3), Newlines::Length, "bin.zst", "application/octet-stream"),
        ];
        for (codec, newlines, extension, content_type) in cases {
            let format = RawFormat::new(codec, newlines);
            assert_eq!((format.extension().as_str(), format.content_type()), (extension, content_type));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(payloads: Vec<Option<Vec<u8>>>) {
            for newlines in [Newlines::Escape, Newlines::Length] {
                let borrowed: Vec<Option<&[u8]>> = payloads.iter().map(Option::as_deref).collect();
                let rows = rows_of(newlines, &borrowed).expect("takes every record");
                let (mut unread, mut found) = (rows.as_slice(), Vec::new());
                while let Some(payload) = next_payload(newlines, &mut unread, usize::MAX >> 1).expect("well formed") {
                    found.push(payload);
                }
                let told = |payload: &Option<Vec<u8>>| match newlines {
                    Newlines::Length => payload.clone(),
                    _ => Some(payload.clone().unwrap_or_default()),
                };
                prop_assert_eq!(found, payloads.iter().map(told).collect::<Vec<_>>());
                if !rows.is_empty() {
                    // Without its last byte an empty line is no line at all; everything else is noticed.
                    let (mut cut, mut whole) = (&rows[..rows.len() - 1], 0);
                    while let Ok(Some(_)) = next_payload(newlines, &mut cut, usize::MAX >> 1) {
                        whole += 1;
                    }
                    prop_assert_eq!(whole, payloads.len() - 1);
                }
            }
        }
    }

    #[test]
    fn longer_ones_than_allowed_are_refused() {
        for (newlines, rows) in [(Newlines::Refuse, &b"abcd\n"[..]), (Newlines::Length, b"\0\0\0\x04abcd")] {
            next_payload(newlines, &mut &rows[..], 3).expect_err("four bytes");
            assert_eq!(next_payload(newlines, &mut &rows[..], 4).expect("four bytes"), Some(Some(b"abcd".to_vec())));
        }
    }
}
