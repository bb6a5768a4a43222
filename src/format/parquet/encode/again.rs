//! Row groups of arrays that were read from files of the same schema: rows move to another file and stay what they are.
//!
//! # Memory
//! A batch of arrays as it is read, and of every column at most 1 MiB of dictionary, 1 MiB of unfinished page, the compressed pages of the row
//! group, and bloom filters.

use super::super::pages::PageRules;
use super::{EncodedRowGroup, Encoder, ParquetAssembler, created_by, leaves_of, pages, write_column};
use crate::format::{Appended, Assembler, BlockLimit, EncodedBlock, Format, FormatError, Row, RowError};
use crate::layout::{OutputFormat, SchemaSource};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::SchemaRef;
use parquet::arrow::arrow_writer::ArrowColumnWriter;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::SchemaDescriptor;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

/// Parquet of a schema that a file has, with the pages that an output wants.
pub struct ParquetAgain {
    encoder: Encoder,
    limit: BlockLimit,
}

/// A row group in the making.
pub struct OpenRowGroup<'a> {
    again: &'a ParquetAgain,
    writers: Vec<ArrowColumnWriter>,
    rows: u64,
    bytes: u64,
}

impl ParquetAgain {
    /// For files with the columns of one: `schema` as its reader gives them, `parquet` as its footer has them.
    ///
    /// # Errors
    /// `output` is no Parquet, or its pages do not fit these columns.
    pub fn new(output: &OutputFormat, schema: SchemaRef, parquet: &SchemaDescriptor) -> Result<Self, String> {
        let OutputFormat::Parquet {
            compression, schema: source, row_group_bytes, row_group_rows, pages: rules, ..
        } = output
        else {
            return Err("it is no output of type parquet".to_string());
        };
        let limit = super::super::super::row_group(*row_group_bytes, *row_group_rows)?;
        let rules = PageRules { pages: rules, is_given: matches!(source, SchemaSource::Columns(_)) };
        let properties = WriterProperties::builder()
            .set_compression(pages(*compression)?)
            .set_created_by(created_by())
            .set_dictionary_enabled(true)
            .set_statistics_enabled(EnabledStatistics::Page);
        let (properties, filters) = rules.apply(properties, parquet, limit)?;
        let leaf_paths = parquet.columns().iter().map(|column| column.path().clone()).collect();
        let encoder = Encoder {
            arrow: schema,
            parquet: parquet.root_schema_ptr(),
            properties: Arc::new(properties.build()),
            leaf_paths,
            slice_rows: 0,
            filters,
        };
        Ok(Self { encoder, limit })
    }

    /// Begins a row group whose first rows are those of `batch`, which are not yet in it.
    ///
    /// # Errors
    /// [`FormatError::Encode`]: the library refuses the schema.
    pub fn begin(&self, batch: &RecordBatch) -> Result<OpenRowGroup<'_>, FormatError> {
        let first: Vec<ArrayRef> = batch.columns().to_vec();
        let writers = self.encoder.column_writers(Some(&first));
        let writers = writers.map_err(|error| FormatError::Encode { rows: 0, what: error.to_string() })?;
        Ok(OpenRowGroup { again: self, writers, rows: 0, bytes: 0 })
    }
}

impl OpenRowGroup<'_> {
    /// Adds the rows of `batch`, and says whether the row group is full.
    ///
    /// # Errors
    /// [`FormatError::Encode`]: they are not of this schema.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<bool, FormatError> {
        let refuse = |what: String| FormatError::Encode { rows: 0, what };
        let fields = self.again.encoder.arrow.fields();
        if batch.schema().fields() != fields {
            return Err(refuse("its columns are not those of the file before".to_string()));
        }
        let slices = [batch.columns().to_vec()];
        let mut unwritten = self.writers.iter_mut();
        for (at, field) in fields.iter().enumerate() {
            let leaves = leaves_of(field.data_type());
            write_column(field, at, &slices, &mut unwritten.by_ref().take(leaves).collect::<Vec<_>>())
                .map_err(refuse)?;
        }
        self.rows += batch.num_rows() as u64;
        let bytes = |array: &ArrayRef| array.to_data().get_slice_memory_size().unwrap_or(0) as u64;
        self.bytes += batch.columns().iter().map(bytes).sum::<u64>();
        let limit = self.again.limit;
        Ok(self.rows >= u64::from(limit.rows) || self.bytes >= limit.bytes as u64)
    }

    /// The row group, ready for a file.
    ///
    /// # Errors
    /// [`FormatError::Encode`]: the library refuses it.
    pub fn finish(self) -> Result<EncodedBlock, FormatError> {
        let mut chunks = Vec::with_capacity(self.writers.len());
        for writer in self.writers {
            let closed = writer.close();
            chunks.push(closed.map_err(|error| FormatError::Encode { rows: 0, what: error.to_string() })?);
        }
        Ok(EncodedBlock::RowGroup(EncodedRowGroup { chunks }))
    }
}

impl Format for ParquetAgain {
    fn extension(&self) -> String {
        super::super::EXTENSION.to_string()
    }

    fn content_type(&self) -> &'static str {
        super::super::CONTENT_TYPE
    }

    fn block_limit(&self) -> BlockLimit {
        self.limit
    }

    fn append_row(&self, _: &Row<'_>, _: &mut Vec<u8>) -> Result<Appended, RowError> {
        Err(RowError("rows of files that are there come as arrays".to_string()))
    }

    fn encode_block(&self, _: &[u8], count: u32) -> Result<EncodedBlock, FormatError> {
        Err(FormatError::Encode { rows: count, what: "rows of files that are there come as arrays".to_string() })
    }

    fn assemble(&self, out: Box<dyn Write + Send>) -> Result<Box<dyn Assembler>, FormatError> {
        let (schema, properties) = (Arc::clone(&self.encoder.parquet), Arc::clone(&self.encoder.properties));
        let file = SerializedFileWriter::new(out, schema, properties).map_err(super::failed)?;
        Ok(Box::new(ParquetAssembler { file, footer: 0 }))
    }

    fn count_rows(&self, file: File) -> io::Result<u64> {
        super::super::count_rows(&file)
    }
}
