//! `CREATE TABLE` statements: an output as a table of Hive, Athena, BigQuery, Spark, DuckDB or ClickHouse.
//!
//! ```text
//! layout, columns, store ──▶ Table (columns, folders, format, place) ──▶ statement(dialect)
//! ```
//! A [`Table`] is what an output is to a reader: columns as its files have them ([`types`]), folders that are partition columns or not
//! ([`folders`]), and where all of it lies. One module a dialect turns it into text. What an engine cannot read, or would read besides, is
//! refused in words.
//!
//! - **D-1** No statement reads an object of another output, a dead letter, a marker of a complete window or a document of `_siltstone`: what the
//!   statement reads is compared, as a pattern, with the keys that everything else in the store can have ([`pattern`]). A table of one topic has no
//!   rows of another: it is refused unless folders keep them apart.
//! - **D-2** Identifiers are always quoted, texts always escaped, by the dialect's own rules: a name of a column is data.
//!
//! Pure: no clock, no network. Whoever calls knows the columns of schemas that are pinned in the bucket or registered.

mod athena;
pub(crate) mod bigquery;
mod clickhouse;
mod duckdb;
pub mod folders;
pub(crate) mod hive;
pub mod pattern;
mod spark;
mod store;
#[cfg(test)]
mod tests;
mod text;
pub mod types;

pub use store::Store;

use crate::format::{self, Columns};
use crate::layout::{
    AvroCodec, Column as LayoutColumn, Compression, Layout, Newlines, OutputFormat, OutputLayout, Tombstones,
};
use chrono::NaiveDate;
use folders::Folders;
use pattern::{Other, Token};
use types::Column;

/// Whose language a statement is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Apache Hive, 4; and 3 where no note says otherwise.
    Hive,
    /// Amazon Athena, with partition projection.
    Athena,
    /// Google BigQuery: an external table.
    BigQuery,
    /// Apache Spark SQL, 3 and 4: a table of a data source.
    Spark,
    /// DuckDB: a view.
    DuckDb,
    /// ClickHouse: a table of an engine that reads objects.
    ClickHouse,
}

/// What the objects of a table hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Rows {
    /// Parquet.
    Parquet(Vec<Column>),
    /// Avro object container files, and the schema that stands in them, as JSON.
    Avro(Vec<Column>, String),
    /// A JSON value a line, and its fields where something tells them.
    Json(Option<Vec<Column>>),
    /// A payload a line.
    Lines,
}

impl Rows {
    /// Its columns, where they are known.
    fn columns(&self) -> Option<&[Column]> {
        match self {
            Self::Parquet(columns) | Self::Avro(columns, _) | Self::Json(Some(columns)) => Some(columns),
            Self::Json(None) | Self::Lines => None,
        }
    }
}

/// How objects, or the pages and blocks in them, are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// Snappy.
    Snappy,
    /// `LZ4_RAW` of Parquet.
    Lz4,
    /// deflate of Avro.
    Deflate,
}

/// An output, as a table.
#[derive(Clone, Debug)]
pub struct Table {
    /// What it is called; parts of a longer name are divided by dots.
    pub name: String,
    /// What it is of, for people.
    pub about: String,
    /// What its objects hold.
    pub rows: Rows,
    /// How that is compressed.
    pub codec: Codec,
    /// What the names of its objects end in, without the first dot. May be empty.
    pub extension: String,
    /// Its folders below the destination.
    pub folders: Folders,
    /// The destination.
    pub store: Store,
    /// What else lies in the same bucket.
    pub others: Vec<Other>,
    /// The first day that a projection covers.
    pub since: NaiveDate,
    /// Some of its lines may be `null` and nothing else.
    pub has_null_lines: bool,
    /// What a reader should know, a line each.
    pub notes: Vec<String>,
}

/// An archive of the configuration: what it has in the bucket.
#[derive(Clone, Copy, Debug)]
pub struct Beside<'a> {
    /// Its layout.
    pub layout: &'a Layout,
    /// All topics that it can have, where they are known.
    pub topics: &'a [String],
    /// The name of the markers in its complete folders, where it has such.
    pub marker: Option<&'a str>,
}

/// What a [`Table`] is made of.
pub struct Source<'a> {
    /// The archive's layout.
    pub layout: &'a Layout,
    /// The output.
    pub output: &'a OutputLayout,
    /// Its topic, where the table is of one.
    pub topic: Option<&'a str>,
    /// All topics that the output can have, where they are known.
    pub topics: &'a [String],
    /// Whether `topic` was asked for: then it is no column either.
    pub one_topic: bool,
    /// The columns, where the layout names none itself: pinned, or of the registry. Of JSON: what is known of the payload's fields.
    pub columns: Option<&'a [LayoutColumn]>,
    /// The destination.
    pub store: Store,
    /// What it is called.
    pub name: String,
    /// See [`Table::since`].
    pub since: NaiveDate,
    /// All archives, this one among them: what else may lie in the bucket.
    pub all: &'a [Beside<'a>],
}

impl Table {
    /// The output of `source` as a table.
    ///
    /// # Errors
    /// It cannot be one, in words for the person who wrote the layout.
    pub fn new(source: &Source<'_>) -> Result<Self, String> {
        let Source { layout, output, store, .. } = source;
        let mut notes = Vec::new();
        let rows = rows(source, &mut notes)?;
        let extension = output.place.extension(&output.format);
        let mut folders = Folders::new(source)?;
        folders.taken = rows.columns().unwrap_or_default().iter().map(|column| column.name.clone()).collect();
        let others = pattern::others(source, &folders);
        let topic = source.topic.map_or(String::new(), |topic| format!(", topic {topic}"));
        if folders.of_generation {
            notes.push(format!(
                "Of generation {} alone, whose folders these are: another generation is another table.",
                layout.generation
            ));
        }
        let is_json = matches!(output.format, OutputFormat::Json { .. });
        let keeps_nothing = output.keep.as_ref().is_none_or(|keep| keep.columns.is_empty());
        Ok(Self {
            name: source.name.clone(),
            about: format!("archive {}, output {}{topic}", layout.archive, output.name),
            rows,
            codec: codec(&output.format),
            extension,
            folders,
            store: store.clone(),
            others,
            since: source.since,
            has_null_lines: is_json && layout.tombstones == Tombstones::Keep && keeps_nothing,
            notes,
        })
    }

    /// The columns of its rows, where they are known.
    fn columns(&self) -> Option<&[Column]> {
        self.rows.columns()
    }

    /// What it is, in a word.
    fn kind(&self) -> &'static str {
        match self.rows {
            Rows::Parquet(_) => "Parquet",
            Rows::Avro(..) => "Avro",
            Rows::Json(_) => "JSON lines",
            Rows::Lines => "lines",
        }
    }

    /// Refuses what would be read besides this table's own objects (D-1). `passes_hidden`: the engine passes over names that start with `_` or `.`,
    /// below the location.
    fn check_alone(&self, reads: &[Token], passes_hidden: bool) -> Result<(), String> {
        let depth = self.store.prefix_segments().count() + self.folders.fixed.len();
        for other in &self.others {
            if !(passes_hidden && other.is_hidden_below(depth)) && pattern::meets(reads, &other.tokens()) {
                return Err(format!("it would read {} as well: {}", other.what, other.advice));
            }
        }
        Ok(())
    }

    /// Refuses folders of other topics and generations beside its own, for an engine that looks through all folders below the fixed ones.
    fn check_chosen(&self) -> Result<(), String> {
        if self.folders.chosen_below {
            return Err(
                "it would read other topics or generations as well, whose folders stand below the same ones that change: write {topic} and \
                 {generation} in front of these in layout.path, or, where the topic is name=value, leave --topic out"
                    .to_string(),
            );
        }
        Ok(())
    }

    /// Refuses a column that is both in the rows and in the path.
    fn check_columns(&self) -> Result<(), String> {
        let Some(columns) = self.columns() else { return Ok(()) };
        for partition in self.folders.columns() {
            if columns.iter().any(|column| column.name.eq_ignore_ascii_case(&partition.name)) {
                return Err(format!(
                    "the column {0} is in the rows and in the path; call the folder otherwise, such as p_{0}=… in layout.path",
                    partition.name
                ));
            }
        }
        Ok(())
    }

    /// The key patterns of its objects: folders by level, and the name's extension.
    fn own_keys(&self) -> Vec<Token> {
        let mut tokens = self.folder_keys();
        tokens.extend(self.name_keys());
        tokens
    }

    /// The pattern of its folders, with a slash behind each.
    fn folder_keys(&self) -> Vec<Token> {
        let mut tokens = Vec::new();
        for segment in self.store.prefix_segments().chain(self.folders.fixed.iter().map(String::as_str)) {
            tokens.extend(pattern::text(segment));
            tokens.push(Token::Char('/'));
        }
        for level in &self.folders.levels {
            tokens.extend(level.tokens());
            tokens.push(Token::Char('/'));
        }
        tokens
    }

    /// As [`Table::own_keys`], without folders that begin with `_` or `.`.
    fn visible_keys(&self) -> Vec<Token> {
        let fixed = self.store.prefix_segments().chain(self.folders.fixed.iter().map(String::as_str));
        let mut segments: Vec<Vec<Token>> = fixed.map(pattern::text).collect();
        for level in &self.folders.levels {
            let mut tokens = level.tokens();
            if level.can_be_hidden() {
                tokens[0] = Token::Visible;
            }
            segments.push(tokens);
        }
        segments.push(self.name_keys());
        segments.join(&Token::Char('/'))
    }

    /// What is missed by engines that pass over names which begin with `_`, where there can be such.
    fn hidden_note(&self) -> Option<String> {
        let can_be = self.folders.levels.iter().any(folders::Level::can_be_hidden);
        can_be.then(|| {
            "Rows whose folder is __HIVE_DEFAULT_PARTITION__ (null) are not seen: it begins with _. Write x={field.x} in the path.".to_string()
        })
    }

    /// What becomes of rows of JSON lines that are made Parquet. `reads_all`: the engine reads every object of a folder.
    fn compacted_note(&self, reads_all: bool) -> Option<String> {
        let note = if reads_all {
            "`siltstone compact --to parquet` puts Parquet into these folders, which this table would read as text: do without --to here."
        } else {
            "Rows that `siltstone compact --to parquet` has made Parquet are not here any more."
        };
        matches!(self.rows, Rows::Json(_)).then(|| note.to_string())
    }

    /// What is said of payloads with a carriage return inside, by engines that end a line there, too.
    fn returns_note(&self) -> Option<String> {
        let note = "A payload with a carriage return inside is several rows: the engine ends lines there as well.";
        matches!(self.rows, Rows::Lines).then(|| note.to_string())
    }

    /// The pattern of its objects' names.
    fn name_keys(&self) -> Vec<Token> {
        if self.extension.is_empty() {
            return vec![Token::Visible];
        }
        let mut tokens = vec![Token::Run];
        tokens.extend(pattern::text(&format!(".{}", self.extension)));
        tokens
    }

    /// The lines above a statement. `reads`: what it reads, as people would write it.
    fn head(&self, reads: &str, more: &[String]) -> String {
        let mut head = format!(
            "-- {}: {}.\n-- Reads {reads}: {}.\n",
            text::one_line(&self.name),
            text::one_line(&self.about),
            self.kind()
        );
        for note in self.notes.iter().chain(more) {
            head.push_str(&format!("-- {}\n", text::one_line(note)));
        }
        head
    }
}

/// The statement that makes `table` in `dialect`, with what a reader should know in comments above.
///
/// # Errors
/// The engine cannot read it, or would read something else besides; in words.
pub fn statement(dialect: Dialect, table: &Table) -> Result<String, String> {
    match dialect {
        Dialect::Hive => hive::statement(table),
        Dialect::Athena => athena::statement(table),
        Dialect::BigQuery => bigquery::statement(table),
        Dialect::Spark => spark::statement(table),
        Dialect::DuckDb => duckdb::statement(table),
        Dialect::ClickHouse => clickhouse::statement(table),
    }
}

/// Whether `dialect` can read objects under such a URL at all; why not, otherwise.
///
/// # Errors
/// In words.
pub fn reaches(dialect: Dialect, url: &str) -> Result<(), String> {
    let scheme = url.split("://").next().unwrap_or_default();
    match (dialect, scheme) {
        (Dialect::Athena, "s3") | (Dialect::BigQuery, "gs") => Ok(()),
        (Dialect::Athena, _) => Err(format!("Athena reads s3:// alone, and the output goes to {url}")),
        (Dialect::BigQuery, _) => Err(format!(
            "BigQuery reads gs:// without more ado, and the output goes to {url}: it needs a connection of BigQuery Omni, or a second \
             destination"
        )),
        _ => Ok(()),
    }
}

fn rows(source: &Source<'_>, notes: &mut Vec<String>) -> Result<Rows, String> {
    let (layout, output, keep) = (source.layout, source.output, source.output.keep.as_ref());
    match &output.format {
        OutputFormat::Raw { newlines: Newlines::Length, .. } => {
            Err("its payloads follow their length in four bytes (newlines = \"length\"), which no engine reads"
                .to_string())
        }
        OutputFormat::Raw { newlines, .. } => {
            if *newlines == Newlines::Escape {
                notes.push(
                    r#"newlines = "escape": \\ stands for a backslash and \n for a newline in each line."#.to_string(),
                );
            }
            notes.push("Payloads that are not UTF-8 are shown as the engine likes, or refused by it.".to_string());
            Ok(Rows::Lines)
        }
        OutputFormat::Json { .. } => {
            let columns = source.columns.map(|columns| types::of_json(columns, keep));
            let keeps_nothing = keep.is_none_or(|keep| keep.columns.is_empty());
            if layout.tombstones == Tombstones::Keep && keeps_nothing {
                notes.push(
                    "A record without a payload is a line with null: tombstones = \"drop\" leaves it out.".to_string(),
                );
            }
            if columns.is_none() {
                notes.push("Nothing tells the fields of these rows: they are one column of JSON text.".to_string());
            } else {
                notes.push(
                    "Columns are those of the archive's schema; fields that it has not are passed over.".to_string(),
                );
            }
            if source.columns.is_some_and(types::has_times_with_unit) {
                notes.push(
                    "Times with a unit are numbers here; one that a payload has as text (RFC 3339) is null, or an error, as the engine likes."
                        .to_string(),
                );
            }
            Ok(Rows::Json(columns))
        }
        format => match format::columns_of_files(format, keep, source.columns)? {
            Some(Columns { schema, avro: Some(json) }) => Ok(Rows::Avro(types::of_files(&schema)?, json)),
            Some(Columns { schema, avro: None }) => Ok(Rows::Parquet(types::of_files(&schema)?)),
            None => Err("it has no columns".to_string()),
        },
    }
}

fn codec(format: &OutputFormat) -> Codec {
    match format {
        OutputFormat::Avro { codec, .. } => match codec {
            AvroCodec::None => Codec::None,
            AvroCodec::Deflate => Codec::Deflate,
            AvroCodec::Snappy => Codec::Snappy,
            AvroCodec::Zstd => Codec::Zstd,
        },
        OutputFormat::Raw { compression, .. }
        | OutputFormat::Json { compression }
        | OutputFormat::Envelope { compression, .. }
        | OutputFormat::Parquet { compression, .. } => match compression {
            Compression::None => Codec::None,
            Compression::Gzip(_) => Codec::Gzip,
            Compression::Zstd(_) => Codec::Zstd,
            Compression::Snappy => Codec::Snappy,
            Compression::Lz4 => Codec::Lz4,
        },
    }
}
