//! Block compression of text formats.
//!
//! Rows are compressed in blocks of [`BLOCK_BYTES`] that know nothing of each other, so that blocks of one file can be
//! compressed on any core, in any order, and lie as plain rows until then. What an assembler keeps between two blocks
//! is a checksum and a length (F-4).
//!
//! - **gzip**: one member a file, so that readers which stop after the first member read all of it. Each block is raw
//!   deflate without a dictionary, ended by a sync flush on a byte border (pigz's way); an empty final block and the
//!   trailer close the member. Modification time 0, system 255 ("unknown"): equal rows give equal bytes (F-2).
//! - **zstd**: each block is a frame of its own with content size and checksum. Frames behind each other are one
//!   valid stream.
//! - **none**: the rows.
//!
//! Never writes a clock, a name or anything else of the machine into a file.

use super::{Assembler, BlockLimit, EncodedBlock, FormatError};
use crate::layout::Compression;
use crc32fast::Hasher;
use flate2::bufread::MultiGzDecoder;
use flate2::{Compress, FlushCompress};
use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, Read, Write};
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

/// Bytes of plain rows that fill a block of a text format. Part of what equal bytes across processes rest on: a
/// different number is a different file.
///
/// 1 MiB: a block that starts without a dictionary costs about 1 % of size here, and one block a core is all the
/// memory that compression needs.
pub const BLOCK_BYTES: usize = 1 << 20;

/// Bytes of each buffer while reading.
const READ_BYTES: usize = 16 << 10;

/// Empty deflate block with the final bit set: closes the one stream of a gzip file.
const DEFLATE_END: [u8; 2] = [0x03, 0x00];

/// A compressed block of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompressedBlock {
    /// What the file gets.
    pub bytes: Vec<u8>,
    /// Bytes of plain rows.
    pub plain_bytes: u64,
    /// CRC-32 (as in gzip) of the plain rows.
    pub crc32: u32,
}

/// Codec and level of a text format, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    None,
    Gzip(u32),
    Zstd(i32),
}

impl Codec {
    /// Takes what a layout says.
    ///
    /// # Errors
    /// A codec or level that text has not, in words for the person who wrote the layout.
    pub(crate) fn new(compression: Compression) -> Result<Self, String> {
        match compression {
            Compression::None => Ok(Self::None),
            Compression::Gzip(level @ 1..=9) => Ok(Self::Gzip(level)),
            Compression::Gzip(level) => Err(format!("gzip level {level}: 1 to 9 are allowed")),
            Compression::Zstd(level @ 1..=19) => Ok(Self::Zstd(level)),
            Compression::Zstd(level) => Err(format!("zstd level {level}: 1 to 19 are allowed")),
            Compression::Snappy => Err("snappy is for Parquet only: text takes gzip, zstd or none".to_string()),
            Compression::Lz4 => Err("lz4 is for Parquet only: text takes gzip, zstd or none".to_string()),
        }
    }

    /// `extension` with the codec's own behind it.
    pub(crate) fn extension(self, extension: &str) -> String {
        match self {
            Self::None => extension.to_string(),
            Self::Gzip(_) => format!("{extension}.gz"),
            Self::Zstd(_) => format!("{extension}.zst"),
        }
    }

    /// When a block of text is full.
    pub(crate) fn block_limit(self) -> BlockLimit {
        BlockLimit { bytes: BLOCK_BYTES, rows: u32::MAX }
    }

    /// Compresses one block of `count` rows.
    ///
    /// # Errors
    /// [`FormatError::Encode`] where the codec refuses, which no input makes it do.
    pub(crate) fn encode(self, rows: &[u8], count: u32) -> Result<EncodedBlock, FormatError> {
        let compressed = match self {
            Self::None => Ok(rows.to_vec()),
            Self::Gzip(level) => deflate(rows, level),
            Self::Zstd(level) => zstd_frame(rows, level),
        };
        let bytes = compressed.map_err(|what| FormatError::Encode { rows: count, what })?;
        Ok(EncodedBlock::Bytes(CompressedBlock { bytes, plain_bytes: rows.len() as u64, crc32: crc32fast::hash(rows) }))
    }

    /// Starts a file.
    ///
    /// # Errors
    /// [`FormatError::Io`]: the header could not be written.
    pub(crate) fn assemble(self, mut out: Box<dyn Write + Send>) -> Result<Box<dyn Assembler>, FormatError> {
        if let Self::Gzip(level) = self {
            out.write_all(&gzip_header(level))?;
        }
        Ok(Box::new(TextAssembler { codec: self, out, sum: Hasher::new(), plain_bytes: 0, blocks: 0 }))
    }

    /// Plain rows of a whole file, or of an object that was compressed as this says.
    pub(crate) fn reader<R: Read + 'static>(self, file: R) -> io::Result<Box<dyn BufRead>> {
        let file = BufReader::with_capacity(READ_BYTES, file);
        Ok(match self {
            Self::None => Box::new(file),
            Self::Gzip(_) => Box::new(BufReader::with_capacity(READ_BYTES, MultiGzDecoder::new(file))),
            Self::Zstd(_) => Box::new(BufReader::with_capacity(READ_BYTES, zstd::Decoder::with_buffer(file)?)),
        })
    }

    /// The same where somebody on the way may have undone the codec, as stores do that are told of it by `Content-Encoding`: bytes that do
    /// not begin as a file of the codec are taken as they are.
    pub(crate) fn lenient_reader<R: Read + 'static>(self, object: R) -> io::Result<Box<dyn BufRead>> {
        let magic: &[u8] = match self {
            Self::None => &[],
            Self::Gzip(_) => &[0x1f, 0x8b],
            Self::Zstd(_) => &[0x28, 0xb5, 0x2f, 0xfd],
        };
        let mut object = object;
        let mut begin = Vec::with_capacity(magic.len());
        Read::take(&mut object, magic.len() as u64).read_to_end(&mut begin)?;
        let codec = if begin == magic || begin.is_empty() { self } else { Self::None };
        codec.reader(io::Cursor::new(begin).chain(object))
    }

    /// Lines of a whole file of rows that are a line each.
    pub(crate) fn count_lines(self, file: impl Read + 'static) -> io::Result<u64> {
        let mut rows = self.reader(file)?;
        let mut count = 0;
        loop {
            let read = rows.fill_buf()?;
            let bytes = read.len();
            if bytes == 0 {
                return Ok(count);
            }
            count += memchr::memchr_iter(b'\n', read).count() as u64;
            rows.consume(bytes);
        }
    }
}

thread_local! {
    /// Compressor state takes longer to make than to reset; one of each codec a thread, for the level used last.
    static DEFLATE: RefCell<Option<(u32, Compress)>> = const { RefCell::new(None) };
    static ZSTD: RefCell<Option<(i32, Compressor<'static>)>> = const { RefCell::new(None) };
}

/// Raw deflate blocks on their own, ended on a byte border, none of them final.
fn deflate(rows: &[u8], level: u32) -> Result<Vec<u8>, String> {
    DEFLATE.with_borrow_mut(|slot| {
        let state = match slot {
            Some((made_for, state)) if *made_for == level => {
                state.reset();
                state
            }
            _ => &mut slot.insert((level, Compress::new(flate2::Compression::new(level), false))).1,
        };
        let mut out = Vec::with_capacity(rows.len() / 4 + 4096);
        loop {
            let taken = usize::try_from(state.total_in()).map_err(|e| e.to_string())?;
            let unread = rows.get(taken..).unwrap_or_default();
            state.compress_vec(unread, &mut out, FlushCompress::Sync).map_err(|e| e.to_string())?;
            // Room left over means that the flush came to its end; a full buffer may mean anything.
            if out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(out.len().max(4096));
        }
    })
}

/// One zstd frame with content size and checksum.
fn zstd_frame(rows: &[u8], level: i32) -> Result<Vec<u8>, String> {
    ZSTD.with_borrow_mut(|slot| {
        let state = match slot {
            Some((made_for, state)) if *made_for == level => state,
            _ => {
                let mut fresh = Compressor::new(level).map_err(|e| e.to_string())?;
                fresh.set_parameter(CParameter::ChecksumFlag(true)).map_err(|e| e.to_string())?;
                fresh.set_parameter(CParameter::ContentSizeFlag(true)).map_err(|e| e.to_string())?;
                &mut slot.insert((level, fresh)).1
            }
        };
        let mut out = state.compress(rows).map_err(|e| e.to_string())?;
        out.shrink_to_fit(); // It was made for the worst case, and waits for its turn in the file.
        Ok(out)
    })
}

/// RFC 1952 header: no name, no time, no system.
fn gzip_header(level: u32) -> [u8; 10] {
    let effort = match level {
        1 => 4,
        9 => 2,
        _ => 0,
    };
    [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, effort, 255]
}

/// Puts compressed blocks behind each other.
struct TextAssembler {
    codec: Codec,
    out: Box<dyn Write + Send>,
    /// Of the plain rows so far.
    sum: Hasher,
    plain_bytes: u64,
    blocks: u64,
}

impl Assembler for TextAssembler {
    fn append(&mut self, block: EncodedBlock) -> Result<(), FormatError> {
        let EncodedBlock::Bytes(block) = block else {
            return Err(FormatError::Encode { rows: 0, what: "a row group in a text file".to_string() });
        };
        self.out.write_all(&block.bytes)?;
        self.sum.combine(&Hasher::new_with_initial_len(block.crc32, block.plain_bytes));
        self.plain_bytes += block.plain_bytes;
        self.blocks += 1;
        Ok(())
    }

    fn finish(mut self: Box<Self>, _metadata: &[(String, String)]) -> Result<(), FormatError> {
        match self.codec {
            Codec::None => {}
            Codec::Gzip(_) => {
                self.out.write_all(&DEFLATE_END)?;
                self.out.write_all(&self.sum.finalize().to_le_bytes())?;
                // ISIZE counts modulo 2^32: the low half, whatever the size.
                let size_low = (self.plain_bytes & u64::from(u32::MAX)) as u32;
                self.out.write_all(&size_low.to_le_bytes())?;
            }
            // No frame at all is no zstd file.
            Codec::Zstd(level) if self.blocks == 0 => {
                let empty = zstd_frame(&[], level).map_err(|what| FormatError::Encode { rows: 0, what })?;
                self.out.write_all(&empty)?;
            }
            Codec::Zstd(_) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::testing::assembled;
    use flate2::read::{GzDecoder, GzEncoder};
    use proptest::prelude::*;

    fn file(codec: Codec, blocks: &[&[u8]]) -> Vec<u8> {
        let encode = |rows: &&[u8]| codec.encode(rows, 1).expect("takes any bytes");
        assembled(|out| codec.assemble(out), blocks.iter().map(encode), &[])
    }

    fn read(codec: Codec, file: &[u8]) -> Vec<u8> {
        let mut rows = Vec::new();
        match codec {
            Codec::None => rows.extend_from_slice(file),
            Codec::Gzip(_) => {
                // Stops after the first member, as naive readers do, and checks sum and size.
                let mut reader = GzDecoder::new(file);
                reader.read_to_end(&mut rows).expect("a gzip file");
                assert!(reader.into_inner().is_empty(), "one member is all of the file");
            }
            Codec::Zstd(_) => rows = zstd::decode_all(file).expect("a zstd file"),
        }
        rows
    }

    /// Rows as a web server logs them: what all sizes here are about.
    fn access_logs(count: u64) -> Vec<u8> {
        let mut rows = Vec::new();
        for line in 0..count {
            let mix = line.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let row = format!(
                concat!(
                    r#"{{"time":{},"id":"{:016x}","host":"web-{:02}","method":"{}","path":"/api/v1/items/{}","status":{},"#,
                    r#""bytes":{},"duration_ms":{}.{:03},"user":"u{}","agent":"Mozilla/5.0 (X11; Linux x86_64) rv:{}.0"}}"#,
                    "\n"
                ),
                1_763_712_000_000 + line * 7,
                mix,
                mix % 24,
                ["GET", "POST", "PUT"][(mix >> 8) as usize % 3],
                (mix >> 16) % 5000,
                [200, 200, 200, 304, 404, 500][(mix >> 24) as usize % 6],
                (mix >> 32) % 90_000,
                (mix >> 40) % 900,
                (mix >> 12) % 1000,
                (mix >> 48) % 20_000,
                100 + (mix >> 56) % 40,
            );
            rows.extend_from_slice(row.as_bytes());
        }
        rows
    }

    #[test]
    fn gzip_bytes_are_pinned() {
        let bytes = file(Codec::Gzip(6), &[b"a\n", b"b\n"]);
        let header = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
        let blocks = [0x4a, 0xe4, 2, 0, 0, 0, 255, 255, 0x4a, 0xe2, 2, 0, 0, 0, 255, 255, 3, 0];
        let trailer = [151, 42, 87, 24, 4, 0, 0, 0];
        assert_eq!(bytes, [&header[..], &blocks, &trailer].concat());
        assert_eq!(file(Codec::Gzip(1), &[])[8..10], [4, 255]);
        assert_eq!(file(Codec::Gzip(9), &[])[8..10], [2, 255]);
    }

    #[test]
    fn files_without_blocks_are_files() {
        for codec in [Codec::None, Codec::Gzip(6), Codec::Zstd(3)] {
            assert_eq!(read(codec, &file(codec, &[])), b"", "{codec:?}");
        }
    }

    #[test]
    fn bytes_do_not_depend_on_thread_or_history() {
        let rows = access_logs(2000);
        for codec in [Codec::Gzip(1), Codec::Gzip(6), Codec::Gzip(9), Codec::Zstd(1), Codec::Zstd(19)] {
            let first = file(codec, &[&rows, b"", &rows[..100]]);
            // The thread's compressor now has a past; another thread's has none.
            let again = file(codec, &[&rows, b"", &rows[..100]]);
            let elsewhere = std::thread::scope(|scope| {
                scope.spawn(|| file(codec, &[&rows, b"", &rows[..100]])).join().expect("no panic")
            });
            assert_eq!(first, again, "{codec:?}");
            assert_eq!(first, elsewhere, "{codec:?}");
        }
    }

    /// Blocks on their own may cost little: within 2 % of one stream at the same level.
    #[test]
    fn independent_blocks_cost_little_size() {
        let rows = access_logs(12_000);
        let blocks: Vec<&[u8]> = rows.chunks(BLOCK_BYTES).collect();
        assert!(blocks.len() > 2);
        let in_blocks = file(Codec::Gzip(6), &blocks);
        let mut in_one = Vec::new();
        GzEncoder::new(rows.as_slice(), flate2::Compression::new(6)).read_to_end(&mut in_one).expect("memory");
        let ratio = in_blocks.len() as f64 / in_one.len() as f64;
        assert!(ratio < 1.02, "{} bytes in blocks, {} in one stream", in_blocks.len(), in_one.len());
        assert_eq!(read(Codec::Gzip(6), &in_blocks), rows);
    }

    #[test]
    fn layouts_that_text_cannot_have_are_refused() {
        for wrong in [
            Compression::Snappy,
            Compression::Gzip(0),
            Compression::Gzip(10),
            Compression::Zstd(0),
            Compression::Zstd(20),
        ] {
            Codec::new(wrong).expect_err("refused");
        }
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(blocks: Vec<Vec<u8>>, level in 1_u32..=9) {
            let borrowed: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
            for codec in [Codec::None, Codec::Gzip(level), Codec::Zstd(3)] {
                prop_assert_eq!(read(codec, &file(codec, &borrowed)), blocks.concat());
            }
        }

        /// Bytes that do not compress make the output larger than the input: no block is cut.
        #[test]
        fn noise_survives(seed: u64, length in 0_usize..300_000) {
            let mut state = seed | 1;
            let noise: Vec<u8> = (0..length).map(|_| {
                state ^= state << 13; state ^= state >> 7; state ^= state << 17;
                (state >> 33) as u8
            }).collect();
            prop_assert_eq!(read(Codec::Gzip(6), &file(Codec::Gzip(6), &[&noise])), noise);
        }
    }
}
