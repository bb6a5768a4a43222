//! Container files put behind each other: their blocks move to another file as they are.

use super::{ContainerAssembler, MAGIC, MARKER_BYTES, count_blocks};
use crate::format::{Appended, Assembler, BlockLimit, EncodedBlock, Format, FormatError, Row, RowError};
use std::fs::File;
use std::io::{self, Read, Write};

/// Longest header that is read: a schema is much shorter.
const HEADER_BYTES_MAX: u64 = 64 << 20;

/// Container files with one header. Blocks of files whose header is the same, to the byte, can stand in one file: schema, codec and marker are
/// in it, and a block has nothing that tells its place.
pub struct AvroAgain {
    header: Vec<u8>,
}

impl AvroAgain {
    /// For files that begin with `header`, as [`read_header`] reads it.
    pub fn new(header: Vec<u8>) -> Self {
        Self { header }
    }
}

/// The header of a container file: everything in front of its first block. `file` stands there then.
///
/// # Errors
/// It cannot be read, or is no container file.
pub fn read_header(file: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut reader = Noted { file: file.take(HEADER_BYTES_MAX), bytes: Vec::new() };
    let mut magic = [0; 4];
    reader.exact(&mut magic)?;
    if magic != MAGIC {
        return Err(io::Error::other("no Avro container file"));
    }
    loop {
        let mut count = reader.long()?;
        if count == 0 {
            break;
        }
        if count < 0 {
            reader.long()?;
            count = count.checked_neg().ok_or_else(broken)?;
        }
        for _ in 0..count {
            for _ in ["name", "value"] {
                let length = u64::try_from(reader.long()?).map_err(|_| broken())?;
                reader.skip(length)?;
            }
        }
    }
    reader.skip(MARKER_BYTES as u64)?;
    Ok(reader.bytes)
}

fn broken() -> io::Error {
    io::Error::other("the header of the Avro file is broken")
}

/// Keeps what it reads.
struct Noted<'f> {
    file: io::Take<&'f mut dyn Read>,
    bytes: Vec<u8>,
}

impl Noted<'_> {
    fn exact(&mut self, room: &mut [u8]) -> io::Result<()> {
        self.file.read_exact(room)?;
        self.bytes.extend_from_slice(room);
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let read = Read::take(&mut self.file, bytes).read_to_end(&mut self.bytes)?;
        if read as u64 == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// A number as Avro writes it: zigzag, seven bits a byte.
    fn long(&mut self) -> io::Result<i64> {
        let mut number: u64 = 0;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.exact(&mut byte)?;
            number |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] < 0x80 {
                let half = i64::try_from(number >> 1).map_err(|_| broken())?;
                return Ok(if number & 1 == 0 { half } else { !half });
            }
        }
        Err(broken())
    }
}

impl Format for AvroAgain {
    fn extension(&self) -> String {
        "avro".to_string()
    }

    fn content_type(&self) -> &'static str {
        "application/avro"
    }

    fn block_limit(&self) -> BlockLimit {
        BlockLimit { bytes: usize::MAX, rows: u32::MAX }
    }

    fn append_row(&self, _: &Row<'_>, _: &mut Vec<u8>) -> Result<Appended, RowError> {
        Err(RowError("rows of files that are there come as blocks".to_string()))
    }

    fn encode_block(&self, _: &[u8], count: u32) -> Result<EncodedBlock, FormatError> {
        Err(FormatError::Encode { rows: count, what: "rows of files that are there come as blocks".to_string() })
    }

    fn assemble(&self, mut out: Box<dyn Write + Send>) -> Result<Box<dyn Assembler>, FormatError> {
        out.write_all(&self.header)?;
        Ok(Box::new(ContainerAssembler { out }))
    }

    fn count_rows(&self, file: File) -> io::Result<u64> {
        count_blocks(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_ends_where_its_marker_does() {
        // Two entries in a block with its size, then one in a block without, then the end.
        let mut file = b"Obj\x01\x03\x10".to_vec();
        for entry in ["avro.codec", "null", "x", ""] {
            file.push(u8::try_from(entry.len()).expect("short") << 1);
            file.extend_from_slice(entry.as_bytes());
        }
        file.extend_from_slice(b"\x02\x02y\x00\x00");
        file.extend_from_slice(&[7; 16]);
        let header = file.clone();
        file.extend_from_slice(b"blocks");
        let mut unread = file.as_slice();
        assert_eq!(read_header(&mut unread).expect("a header"), header);
        assert_eq!(unread, b"blocks");
        for end in 0..header.len() {
            assert!(read_header(&mut &header[..end]).is_err(), "cut at {end}");
        }
        read_header(&mut b"PAR1".as_slice()).expect_err("a stranger");
        read_header(&mut [b"Obj\x01".as_slice(), &[0xff; 12]].concat().as_slice()).expect_err("no number");
    }
}
