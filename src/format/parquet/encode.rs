//! Rows into row groups, row groups into files.
//!
//! A row group is encoded away from its file: it comes as finished column chunks that any file of the same schema can
//! take (F-4). Nothing of the machine, the clock or the file goes into it (F-2).
//!
//! # Memory
//! Columns are encoded one behind the other. Beside the rows it is given, encoding holds them as arrow's arrays (about
//! their size, at most [`SEGMENT_BYTES`] and one row), of the one column at work at most 1 MiB of dictionary, 1 MiB of
//! unfinished page and the compressor, and the compressed pages; and bloom filters, see [`Filters`]. Of row groups past [`SEGMENT_BYTES`], it holds that of
//! every column at once.

pub(super) mod again;

use super::columns::Columns;
use super::pages::{Filters, PageRules};
use super::row::RowReader;
use super::schema::parquet_schema;
use super::unique;
use crate::format::{Assembler, BlockLimit, EncodedBlock, FormatError};
use crate::layout::{Compression, ROWS_REVISION};
use arrow_array::ArrayRef;
use arrow_schema::{DataType, Field, SchemaRef};
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{Compression as Pages, GzipLevel, ZstdLevel};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, KeyValue};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::page_index::offset_index::OffsetIndexMetaData;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnPath, SchemaDescriptor, TypePtr};
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

/// Bytes of rows that become one array of each column.
const SLICE_BYTES: usize = 1 << 20;

/// Most rows of a slice.
const SLICE_ROWS_MAX: usize = 4096;

/// Most rows × columns of a slice: room for every cell is reserved beforehand.
const SLICE_CELLS_MAX: usize = 1 << 17;

/// Bytes of rows that are arrays at the same time.
const SEGMENT_BYTES: usize = 16 << 20;

/// An encoded row group: the closed column chunks, not yet in any file.
pub struct EncodedRowGroup {
    chunks: Vec<ArrowColumnChunk>,
}

impl fmt::Debug for EncodedRowGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncodedRowGroup({} column chunks)", self.chunks.len())
    }
}

/// Encodes row groups of one schema and makes files of them.
pub(super) struct Encoder {
    arrow: SchemaRef,
    parquet: TypePtr,
    properties: WriterPropertiesPtr,
    leaf_paths: Vec<ColumnPath>,
    slice_rows: usize,
    filters: Filters,
}

impl Encoder {
    /// Prepares for `arrow`'s columns.
    ///
    /// # Errors
    /// The compression level is out of range, Parquet refuses the schema, or `rules` name columns that are not there.
    pub(super) fn new(
        arrow: SchemaRef,
        compression: Compression,
        rules: &PageRules<'_>,
        limit: BlockLimit,
    ) -> Result<Self, String> {
        let parquet = parquet_schema(&arrow).map_err(|e| format!("the Parquet schema: {e}"))?;
        let leaves = SchemaDescriptor::new(Arc::clone(&parquet));
        let properties = WriterProperties::builder()
            .set_compression(pages(compression)?)
            .set_created_by(created_by())
            .set_dictionary_enabled(true)
            .set_statistics_enabled(EnabledStatistics::Page);
        let (properties, filters) = rules.apply(properties, &leaves, limit)?;
        let columns = arrow.flattened_fields().len().max(1);
        let slice_rows = (SLICE_CELLS_MAX / columns).clamp(16, SLICE_ROWS_MAX);
        let leaf_paths = leaves.columns().iter().map(|column| column.path().clone()).collect();
        Ok(Self { arrow, parquet, properties: Arc::new(properties.build()), leaf_paths, slice_rows, filters })
    }

    /// Bytes of memory that encoding a row group of `rows` bytes takes: the rows, their arrays, pages of half their size, and
    /// filters. Incompressible rows have larger pages, but not all of them while the arrays are there.
    pub(super) fn memory(&self, rows: u64) -> u64 {
        let arrays = rows.min(SEGMENT_BYTES as u64);
        rows.saturating_add(arrays).saturating_add(rows / 2).saturating_add(self.filters.memory())
    }

    /// Encodes `count` rows as one row group.
    ///
    /// # Errors
    /// [`FormatError::Encode`]: they are not rows of this schema.
    pub(super) fn encode(&self, rows: &[u8], count: u32) -> Result<EncodedBlock, FormatError> {
        let refuse = |what: String| FormatError::Encode { rows: count, what };
        let (chunks, encoded) = self.encode_rows(rows).map_err(refuse)?;
        if encoded != u64::from(count) {
            return Err(refuse(format!("the block holds {encoded} rows")));
        }
        Ok(EncodedBlock::RowGroup(EncodedRowGroup { chunks }))
    }

    /// The column chunks of `rows`, and how many rows they are.
    fn encode_rows(&self, rows: &[u8]) -> Result<(Vec<ArrowColumnChunk>, u64), String> {
        let mut reader = RowReader::new(rows);
        let mut encoded = 0;
        let mut segment = self.read_segment(&mut reader, &mut encoded)?;
        let mut writers = self.column_writers(segment.first()).map_err(|e| e.to_string())?;
        while reader.left() > 0 {
            let mut unwritten = writers.iter_mut();
            for (at, field) in self.arrow.fields().iter().enumerate() {
                let leaves = leaves_of(field.data_type());
                write_column(field, at, &segment, &mut unwritten.by_ref().take(leaves).collect::<Vec<_>>())?;
            }
            segment = self.read_segment(&mut reader, &mut encoded)?;
        }
        // Each column is closed before the next one begins: only one holds pages and a compressor then.
        let mut chunks = Vec::with_capacity(writers.len());
        let mut unwritten = writers.into_iter();
        for (at, field) in self.arrow.fields().iter().enumerate() {
            let mut column: Vec<_> = unwritten.by_ref().take(leaves_of(field.data_type())).collect();
            write_column(field, at, &segment, &mut column.iter_mut().collect::<Vec<_>>())?;
            for writer in column {
                chunks.push(writer.close().map_err(|e| e.to_string())?);
            }
        }
        Ok((chunks, encoded))
    }

    /// The next rows as arrays by slice and column, at most about [`SEGMENT_BYTES`]; counts their rows in `encoded`.
    fn read_segment(&self, reader: &mut RowReader<'_>, encoded: &mut u64) -> Result<Vec<Vec<ArrayRef>>, String> {
        let mut slices = Vec::new();
        let start = reader.left();
        while reader.left() > 0 && start - reader.left() < SEGMENT_BYTES {
            let mut columns = Columns::new(self.arrow.fields(), self.slice_rows)?;
            let slice_start = reader.left();
            while reader.left() > 0 && columns.rows() < self.slice_rows && slice_start - reader.left() < SLICE_BYTES {
                columns.read(reader).map_err(|broken| broken.to_string())?;
            }
            *encoded += u64::try_from(columns.rows()).map_err(|e| e.to_string())?;
            slices.push(columns.finish().map_err(|e| e.to_string())?);
        }
        Ok(slices)
    }

    /// Starts a file.
    ///
    /// # Errors
    /// [`FormatError::Io`]: the magic number could not be written.
    pub(super) fn assemble(&self, out: Box<dyn Write + Send>) -> Result<Box<dyn Assembler>, FormatError> {
        let file = SerializedFileWriter::new(out, Arc::clone(&self.parquet), Arc::clone(&self.properties));
        Ok(Box::new(ParquetAssembler { file: file.map_err(failed)?, footer: 0 }))
    }

    /// Writers for the columns of a row group whose first rows are `first`.
    fn column_writers(&self, first: Option<&Vec<ArrayRef>>) -> Result<Vec<ArrowColumnWriter>, ParquetError> {
        let mut properties = WriterProperties::clone(&self.properties);
        if let Some(first) = first {
            let mut leaves = Vec::new();
            first.iter().for_each(|array| unique::leaves(array, &mut leaves));
            let mut builder = properties.into_builder();
            for (leaf, path) in leaves.iter().zip(&self.leaf_paths) {
                if unique::is_nearly_unique(leaf.as_ref()) {
                    builder = builder.set_column_dictionary_enabled(path.clone(), false);
                }
            }
            properties = builder.build();
        }
        // The factory takes schema and properties from a file; the sink is one that leaves nothing behind.
        let nowhere = SerializedFileWriter::new(io::sink(), Arc::clone(&self.parquet), Arc::new(properties))?;
        ArrowRowGroupWriterFactory::new(&nowhere, Arc::clone(&self.arrow)).create_column_writers(0)
    }
}

/// Hands column `at` of each slice to the writers of its leaves.
fn write_column(
    field: &Field,
    at: usize,
    slices: &[Vec<ArrayRef>],
    writers: &mut [&mut ArrowColumnWriter],
) -> Result<(), String> {
    for slice in slices {
        let array = slice.get(at).ok_or("fewer columns than fields")?;
        let leaves = compute_leaves(field, array).map_err(|e| e.to_string())?;
        if leaves.len() != writers.len() {
            return Err(format!("{} leaves for {} column writers", leaves.len(), writers.len()));
        }
        for (leaf, writer) in leaves.iter().zip(writers.iter_mut()) {
            writer.write(leaf).map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}

/// Columns of Parquet that a field makes.
fn leaves_of(data_type: &DataType) -> usize {
    match data_type {
        DataType::Struct(fields) => fields.iter().map(|field| leaves_of(field.data_type())).sum(),
        DataType::List(element) => leaves_of(element.data_type()),
        DataType::Map(entries, _) => leaves_of(entries.data_type()),
        _ => 1,
    }
}

/// The name in the footer, in the form that readers take apart: application, version, build.
fn created_by() -> String {
    format!("siltstone version {} (build rows{ROWS_REVISION})", env!("CARGO_PKG_VERSION"))
}

fn pages(compression: Compression) -> Result<Pages, String> {
    match compression {
        Compression::None => Ok(Pages::UNCOMPRESSED),
        Compression::Snappy => Ok(Pages::SNAPPY),
        Compression::Lz4 => Ok(Pages::LZ4_RAW),
        Compression::Gzip(level @ 1..=9) => {
            Ok(Pages::GZIP(GzipLevel::try_new(level).map_err(|e| format!("gzip level {level}: {e}"))?))
        }
        Compression::Gzip(level) => Err(format!("gzip level {level}: 1 to 9 are allowed")),
        Compression::Zstd(level @ 1..=19) => {
            Ok(Pages::ZSTD(ZstdLevel::try_new(level).map_err(|e| format!("zstd level {level}: {e}"))?))
        }
        Compression::Zstd(level) => Err(format!("zstd level {level}: 1 to 19 are allowed")),
    }
}

/// One Parquet file in the making.
struct ParquetAssembler {
    file: SerializedFileWriter<Box<dyn Write + Send>>,
    /// Bytes of memory of the row groups' metadata and page indexes, which the writer keeps for the footer.
    footer: u64,
}

/// Bytes of memory that the writer keeps of a column chunk, about the most: statistics and the bounds of pages are cut at 64 bytes.
fn kept_of(chunk: &ColumnCloseResult) -> u64 {
    /// Statistics, encodings and histograms on the heap.
    const CHUNK: usize = 512;
    /// A page's place, counts, and two bounds with their offsets.
    const PAGE: usize = 24 + 3 * 8 + 2 * (24 + 64);
    let fixed = size_of::<ColumnChunkMetaData>() + size_of::<ColumnIndexMetaData>() + size_of::<OffsetIndexMetaData>();
    let pages = chunk.offset_index.as_ref().map_or(0, |index| index.page_locations.len());
    (fixed + CHUNK + pages * PAGE) as u64
}

impl Assembler for ParquetAssembler {
    fn append(&mut self, block: EncodedBlock) -> Result<(), FormatError> {
        let EncodedBlock::RowGroup(group) = block else {
            return Err(FormatError::Encode { rows: 0, what: "a block of text in a Parquet file".to_string() });
        };
        let mut row_group = self.file.next_row_group().map_err(failed)?;
        for chunk in group.chunks {
            self.footer += kept_of(chunk.close());
            chunk.append_to_row_group(&mut row_group).map_err(failed)?;
        }
        row_group.close().map_err(failed)?;
        Ok(())
    }

    fn memory(&self) -> u64 {
        self.footer
    }

    fn finish(mut self: Box<Self>, metadata: &[(String, String)]) -> Result<(), FormatError> {
        for (key, value) in metadata {
            self.file.append_key_value_metadata(KeyValue::new(key.clone(), value.clone()));
        }
        self.file.close().map_err(failed)?;
        Ok(())
    }
}

/// While a file is put together nothing is encoded any more: what fails is the disk below, or a bug, which trying again
/// would only repeat.
fn failed(error: ParquetError) -> FormatError {
    let what = error.to_string();
    match error {
        ParquetError::External(source) if source.is::<io::Error>() => {
            FormatError::Io(*source.downcast().expect("looked at above"))
        }
        _ => FormatError::Encode { rows: 0, what },
    }
}
