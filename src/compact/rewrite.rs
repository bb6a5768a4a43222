//! One new file of the rows of several objects, in the spool.
//!
//! | output | how |
//! |---|---|
//! | JSON lines, raw | unpacked, and packed again in blocks as the pipeline does |
//! | Avro | the blocks as they are, behind one header; the headers must be the same |
//! | Parquet | read as columns, and written with row groups and pages as the layout says; the columns must be the same |
//! | envelope | record by record, as the pipeline does |
//! | JSON lines to Parquet | columns that hold all values of all rows ([`crate::format::parquet::infer`]), or those of the archive's own Parquet output and such for all other fields; what has no column is under `_rest` |
//!
//! # Memory
//! Text: a block and a row. Avro: a piece. Parquet: [`BATCH_ROWS`] rows as columns, and what [`crate::format::ParquetAgain`] says. Envelope and JSON to Parquet: the
//! plain rows of a row group, and what encoding it takes. No more than the pipeline takes for one part.

use crate::bucket::compactions::To;
use crate::config::{DEFAULT_ROW_GROUP_BYTES, DEFAULT_ROW_GROUP_ROWS, DEFAULT_ZSTD_LEVEL};
use crate::exit::{Exit, Failure};
use crate::format::compress::Codec;
use crate::format::parquet::envelope::read::records;
use crate::format::parquet::infer::Inference;
use crate::format::parquet::{OpenRowGroup, ParquetAgain};
use crate::format::raw::{append_payload, next_line, next_payload};
use crate::format::{self, AvroAgain, EncodedBlock, Format, FormatError, Row, read_header};
use crate::layout::{Column, Compression, Newlines, OutputFormat, OutputLayout, Pages, SchemaSource, UnknownFields};
use crate::record::OwnedRecord;
use crate::spool::BatchDir;
use crate::spool::part::{Block, Finished, Part};
use arrow_array::RecordBatch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows that are columns at once: as many as the pipeline makes columns of, so that dictionaries are chosen by as many.
const BATCH_ROWS: usize = 4_096;

/// Bytes of Avro blocks that are moved at once.
const PIECE_BYTES: usize = 1 << 20;

/// Longest row: far more than Kafka lets a record be.
const ROW_BYTES_MAX: usize = 1 << 30;

/// Why there is no new file.
#[derive(Debug)]
pub enum Trouble {
    /// The objects are to stay what they are, and why.
    Left(String),
    /// This process cannot go on.
    Failed(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Failed(Failure::new(Exit::Failed, format!("write to the spool: {error}")))
    }
}

impl From<FormatError> for Trouble {
    fn from(error: FormatError) -> Self {
        match error {
            FormatError::Io(error) => error.into(),
            FormatError::Encode { what, .. } => Self::Left(what),
        }
    }
}

/// A new file, and how objects of it are called.
pub struct Rewritten {
    /// The file.
    pub file: Finished,
    /// Its format.
    pub format: Arc<dyn Format>,
}

/// What is made of the rows.
pub struct Rewriting {
    /// The output, as the layout that wrote the objects has it.
    pub output: OutputLayout,
    /// What they become, where it is not what they are.
    pub to: Option<To>,
    /// Copies of the objects, in the order of their rows.
    pub inputs: Vec<PathBuf>,
    /// What Parquet says in the file itself.
    pub metadata: Vec<(String, String)>,
    /// Where the new file goes.
    pub dir: Arc<BatchDir>,
    /// Its number there.
    pub number: usize,
    /// JSON lines become Parquet like this one: with its compression, row groups and pages, and with its columns where it declares them.
    pub like: Option<OutputFormat>,
}

impl Rewriting {
    /// Writes the new file. Takes a core for a while, and blocks.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn write(self) -> Result<Rewritten, Trouble> {
        match (self.to, &self.output.format) {
            (Some(To::Parquet), _) => self.json_to_parquet(),
            (None, OutputFormat::Json { compression }) => {
                let codec = Codec::new(*compression).map_err(Trouble::Left)?;
                self.by_rows(move |file, take| {
                    let mut text = codec.lenient_reader(file)?;
                    while let Some(mut line) = next_line(&mut *text, ROW_BYTES_MAX)? {
                        line.push(b'\n');
                        take(&|rows: &mut Vec<u8>| rows.extend_from_slice(&line))?;
                    }
                    Ok(())
                })
            }
            (None, OutputFormat::Raw { compression, newlines }) => {
                let codec = Codec::new(*compression).map_err(Trouble::Left)?;
                let newlines = *newlines;
                self.by_rows(move |file, take| raw_rows(&mut *codec.lenient_reader(file)?, newlines, take))
            }
            (None, OutputFormat::Avro { .. }) => self.by_blocks(),
            (None, OutputFormat::Parquet { .. }) => self.by_columns(),
            (None, OutputFormat::Envelope { .. }) => self.by_records(),
        }
    }

    fn part(&self, format: &Arc<dyn Format>) -> Part {
        Part::new(self.dir.clone(), self.number, format.clone())
    }

    fn built(&self) -> Result<Arc<dyn Format>, Trouble> {
        // Text and envelopes have no columns of their own; what rows keep is in them already.
        format::build(&self.output.format, None, None).map_err(Trouble::Left)
    }

    /// Rows of text, in their plain form.
    fn by_rows(
        self,
        read: impl Fn(BufReader<File>, &mut Take<'_>) -> Result<(), Trouble>,
    ) -> Result<Rewritten, Trouble> {
        let format = self.built()?;
        let mut part = self.part(&format);
        for path in &self.inputs {
            read(BufReader::new(File::open(path)?), &mut |append| {
                append(part.rows());
                if part.row_added() { encode(part.cut()).map(drop) } else { Ok(()) }
            })
            .map_err(broken_text)?;
        }
        finished(part, self.metadata, format)
    }

    fn by_records(self) -> Result<Rewritten, Trouble> {
        let format = self.built()?;
        let mut part = self.part(&format);
        for path in &self.inputs {
            for batch in open_parquet(path)?.build().map_err(unreadable)? {
                let batch = batch.map_err(unreadable)?;
                for record in records(&batch).map_err(Trouble::Left)? {
                    let row = Row { record: &record.as_record(), json: None, event_ms: 0 };
                    format.append_row(&row, part.rows()).map_err(|error| Trouble::Left(error.0))?;
                    if part.row_added() {
                        encode(part.cut())?;
                    }
                }
            }
        }
        finished(part, self.metadata, format)
    }

    fn by_columns(self) -> Result<Rewritten, Trouble> {
        let first = self.inputs.first().ok_or_else(|| Trouble::Left("there is nothing to compact".to_string()))?;
        let first = open_parquet(first)?;
        let again = ParquetAgain::new(&self.output.format, first.schema().clone(), first.parquet_schema());
        let again = Arc::new(again.map_err(Trouble::Left)?);
        let columns = first.parquet_schema().root_schema_ptr();
        let format: Arc<dyn Format> = again.clone();
        let mut part = self.part(&format);
        let (mut open, mut waiting) = (None, Vec::new());
        for path in &self.inputs {
            let builder = open_parquet(path)?;
            if *builder.parquet_schema().root_schema_ptr() != *columns {
                return Err(Trouble::Left("the objects have different columns".to_string()));
            }
            for batch in builder.build().map_err(unreadable)? {
                waiting.push(batch.map_err(unreadable)?);
                if open.is_some() || waiting.iter().map(RecordBatch::num_rows).sum::<usize>() >= BATCH_ROWS {
                    add_batches(&again, &mut part, &mut open, std::mem::take(&mut waiting))?;
                }
            }
        }
        add_batches(&again, &mut part, &mut open, waiting)?;
        if let Some(group) = open {
            part.add_encoded(group.finish()?)?;
        }
        finished(part, self.metadata, format)
    }

    fn by_blocks(self) -> Result<Rewritten, Trouble> {
        let mut made: Option<(Vec<u8>, Arc<dyn Format>, Part)> = None;
        for path in &self.inputs {
            let mut file = BufReader::new(File::open(path)?);
            let header = read_header(&mut file).map_err(unreadable)?;
            let (known, _, part) = match &mut made {
                Some(made) => made,
                None => {
                    let format: Arc<dyn Format> = Arc::new(AvroAgain::new(header.clone()));
                    let part = self.part(&format);
                    made.insert((header.clone(), format, part))
                }
            };
            if *known != header {
                return Err(Trouble::Left("the objects have different schemas".to_string()));
            }
            loop {
                let mut piece = Vec::new();
                Read::take(&mut file, PIECE_BYTES as u64).read_to_end(&mut piece)?;
                if piece.is_empty() {
                    break;
                }
                part.add_encoded(EncodedBlock::Container(piece))?;
            }
        }
        let (_, format, part) = made.ok_or_else(|| Trouble::Left("there is nothing to compact".to_string()))?;
        finished(part, self.metadata, format)
    }

    fn json_to_parquet(self) -> Result<Rewritten, Trouble> {
        let OutputFormat::Json { compression } = &self.output.format else {
            return Err(Trouble::Left("only JSON lines become Parquet".to_string()));
        };
        let codec = Codec::new(*compression).map_err(Trouble::Left)?;
        let mut inference = Inference::new(None);
        self.each_line(codec, &mut |line, text| {
            let added = inference.add(text.as_bytes());
            added.map_err(|why| Trouble::Left(format!("line {line} has no columns: {why}")))
        })?;
        let output = parquet_with(inference.finish(), self.like.as_ref());
        if matches!(output.schema(), Some(SchemaSource::Columns(columns)) if columns.is_empty()) {
            return Err(Trouble::Left("no line has a field with a value, so there are no columns".to_string()));
        }
        let format = format::build(&output, None, None).map_err(Trouble::Left)?;
        let mut part = self.part(&format);
        let record = OwnedRecord::default();
        self.each_line(codec, &mut |line, text| {
            let row = Row { record: &record.as_record(), json: Some(text), event_ms: 0 };
            let appended = format.append_row(&row, part.rows());
            appended.map_err(|why| Trouble::Left(format!("line {line} does not fit the columns: {why}")))?;
            if part.row_added() { encode(part.cut()).map(drop) } else { Ok(()) }
        })?;
        finished(part, self.metadata, format)
    }

    /// Every line of all inputs, with its number from 1.
    fn each_line(&self, codec: Codec, take: &mut dyn FnMut(u64, &str) -> Result<(), Trouble>) -> Result<(), Trouble> {
        let mut count = 0;
        for path in &self.inputs {
            let mut text = codec.lenient_reader(File::open(path)?).map_err(unreadable)?;
            while let Some(line) = next_line(&mut *text, ROW_BYTES_MAX).map_err(unreadable)? {
                count += 1;
                let line = std::str::from_utf8(&line);
                take(count, line.map_err(|_| Trouble::Left(format!("line {count} is no text")))?)?;
            }
        }
        Ok(())
    }
}

/// Parquet with these columns, or with those that `like` declares and these for all other fields. No field is dropped, whatever `like` says.
fn parquet_with(inferred: Vec<Column>, like: Option<&OutputFormat>) -> OutputFormat {
    let like = match like {
        Some(like @ OutputFormat::Parquet { .. }) => like.clone(),
        _ => OutputFormat::Parquet {
            compression: Compression::Zstd(DEFAULT_ZSTD_LEVEL),
            schema: SchemaSource::Infer,
            unknown: UnknownFields::Rest,
            row_group_bytes: DEFAULT_ROW_GROUP_BYTES,
            row_group_rows: DEFAULT_ROW_GROUP_ROWS,
            pages: Pages::default(),
        },
    };
    let mut output = like;
    if let OutputFormat::Parquet { schema, unknown, .. } = &mut output {
        let mut columns = match schema {
            SchemaSource::Columns(declared) => std::mem::take(declared),
            SchemaSource::Infer | SchemaSource::Registry => Vec::new(),
        };
        for column in inferred {
            if !columns.iter().any(|known| known.name.eq_ignore_ascii_case(&column.name)) {
                columns.push(column);
            }
        }
        (*schema, *unknown) = (SchemaSource::Columns(columns), UnknownFields::Rest);
    }
    output
}

/// Adds a row to plain rows, and counts it.
type Take<'t> = dyn FnMut(&dyn Fn(&mut Vec<u8>)) -> Result<(), Trouble> + 't;

/// Adds rows to the row group that is open. Whether a column of a new one gets a dictionary is told by the largest of the batches: the first
/// may be that of an object of a few rows, which look all different.
fn add_batches<'a>(
    again: &'a ParquetAgain,
    part: &mut Part,
    open: &mut Option<OpenRowGroup<'a>>,
    batches: Vec<RecordBatch>,
) -> Result<(), Trouble> {
    let sample = batches.iter().max_by_key(|batch| batch.num_rows()).cloned();
    for batch in batches {
        let mut group = match open.take() {
            Some(group) => group,
            None => again.begin(sample.as_ref().unwrap_or(&batch))?,
        };
        if group.add(&batch)? {
            part.add_encoded(group.finish()?)?;
        } else {
            *open = Some(group);
        }
    }
    Ok(())
}

fn raw_rows(text: &mut dyn BufRead, newlines: Newlines, take: &mut Take<'_>) -> Result<(), Trouble> {
    while let Some(payload) = next_payload(newlines, text, ROW_BYTES_MAX)? {
        let mut row = Vec::new();
        append_payload(newlines, payload.as_deref(), &mut row).map_err(|why| Trouble::Left(why.0))?;
        take(&|rows: &mut Vec<u8>| rows.extend_from_slice(&row))?;
    }
    Ok(())
}

/// What cannot be unpacked is no fault of the disk.
fn broken_text(trouble: Trouble) -> Trouble {
    match trouble {
        Trouble::Failed(failure) => Trouble::Left(failure.message),
        left => left,
    }
}

fn unreadable(error: impl std::fmt::Display) -> Trouble {
    Trouble::Left(format!("it cannot be read: {error}"))
}

fn open_parquet(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>, Trouble> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?).map_err(unreadable)?;
    Ok(builder.with_batch_size(BATCH_ROWS))
}

fn encode(block: Block) -> Result<Option<Finished>, Trouble> {
    Ok(block.encode()?)
}

fn finished(part: Part, metadata: Vec<(String, String)>, format: Arc<dyn Format>) -> Result<Rewritten, Trouble> {
    let file = encode(part.cut_last(metadata))?;
    let file = file.ok_or_else(|| Failure::new(Exit::Failed, "the new file was never completed, which is a bug"))?;
    Ok(Rewritten { file, format })
}
