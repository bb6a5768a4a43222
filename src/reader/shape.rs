//! What an object holds, as the layout says that it was written with.

use super::told::Teller;
use crate::format::compress::Codec;
use crate::format::dead_letter::CODEC;
use crate::layout::{Column, DeadLetterFormat, Keep, Layout, Newlines, OutputFormat, SchemaSource};
use crate::pipeline::archive::DEAD_LETTERS;

/// How the objects of an output are read.
pub struct Shape {
    /// What their bytes are.
    pub(super) kind: Kind,
    /// Columns of Kafka's own in their rows.
    pub(super) keep: Option<Keep>,
    /// Columns of the payload's, where the layout or what it pinned has them.
    pub(super) columns: Vec<Column>,
    /// Its columns were made of JSON lines, so that Kafka's own are among them as those lines had them.
    pub(super) from_lines: bool,
    /// What the rows tell of their records.
    pub teller: Teller,
}

/// What the bytes of an object are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Lines of JSON.
    Lines(Codec),
    /// Payloads.
    Payloads(Codec, Newlines),
    /// Avro container files.
    Avro,
    /// Parquet with the payload's columns.
    Parquet,
    /// Whole records in Parquet.
    Envelope,
    /// Dead letters in Parquet.
    DeadLetters,
}

impl Shape {
    /// How the objects of `output` are read that were written with `layout`. `pinned`: its inferred columns, where there are any.
    ///
    /// # Errors
    /// The layout has no such output, or says of it what this release cannot read.
    pub fn of(layout: &Layout, output: &str, pinned: Option<Vec<Column>>) -> Result<Self, String> {
        if output == DEAD_LETTERS {
            let kind = match layout.dead_letters.format {
                DeadLetterFormat::Json => Kind::Lines(CODEC),
                DeadLetterFormat::Parquet => Kind::DeadLetters,
            };
            let teller = Teller::of_dead_letters()?;
            return Ok(Self { kind, keep: None, columns: Vec::new(), from_lines: false, teller });
        }
        let found = layout.outputs.iter().find(|known| known.name == output);
        let found = found.ok_or_else(|| format!("its layout has no output {output}"))?;
        let kind = match &found.format {
            OutputFormat::Raw { compression, newlines } => Kind::Payloads(Codec::new(*compression)?, *newlines),
            OutputFormat::Json { compression } => Kind::Lines(Codec::new(*compression)?),
            OutputFormat::Avro { .. } => Kind::Avro,
            OutputFormat::Envelope { .. } => Kind::Envelope,
            OutputFormat::Parquet { .. } => Kind::Parquet,
        };
        let columns = match found.format.schema() {
            Some(SchemaSource::Columns(columns)) => columns.clone(),
            Some(SchemaSource::Infer) => pinned.unwrap_or_default(),
            Some(SchemaSource::Registry) | None => Vec::new(),
        };
        let teller = Teller::of(layout, found)?;
        Ok(Self { kind, keep: found.keep.clone(), columns, from_lines: false, teller })
    }

    /// The same rows in Parquet: JSON lines whose fields became columns. What they tell of their records they tell as JSON lines do, Kafka's own
    /// columns included.
    pub fn as_parquet(self) -> Self {
        Self { kind: Kind::Parquet, columns: Vec::new(), from_lines: true, ..self }
    }

    /// What becomes of newlines in the payloads of the output.
    pub fn newlines(&self) -> Newlines {
        match self.kind {
            Kind::Payloads(_, newlines) => newlines,
            _ => Newlines::Refuse,
        }
    }

    /// Whether its rows are payloads, or records with theirs.
    pub fn has_payloads(&self) -> bool {
        matches!(self.kind, Kind::Payloads(..) | Kind::Envelope)
    }

    /// Whether its rows are whole records.
    pub fn has_records(&self) -> bool {
        self.kind == Kind::Envelope
    }

    /// Whether its rows can tell their event time. Where they can, some may yet tell none.
    pub fn tells_times(&self) -> bool {
        self.teller.tells_times(self.has_payloads(), self.has_records())
    }

    /// Whether its rows tell their offset.
    pub fn tells_offsets(&self) -> bool {
        self.teller.tells_offsets(self.has_records())
    }

    /// Columns of Kafka's own in its rows; `None` where they are none, or whole records.
    pub fn keep(&self) -> Option<&Keep> {
        self.keep.as_ref().filter(|keep| !keep.columns.is_empty() && !self.has_payloads())
    }

    /// Whether whole row groups of its objects are in memory.
    pub(super) fn has_row_groups(&self) -> bool {
        matches!(self.kind, Kind::Parquet | Kind::Envelope | Kind::DeadLetters)
    }

    /// Whether its rows are JSON made of columns.
    pub fn has_columns(&self) -> bool {
        matches!(self.kind, Kind::Avro | Kind::Parquet)
    }
}
