//! What the names of objects end in. The one place that knows it; a test holds it together with the formats themselves.

use super::{Compression, DeadLetterFormat, DeadLetterLayout, Newlines, OutputFormat, Place};
use serde::{Deserialize, Serialize};

/// How much of a format's extension the names of a [`Place`] have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Format and codec: `json.gz`, `txt`, `parquet`.
    #[default]
    Whole,
    /// Secor's way: the codec alone, for text (`gz`, `zst`, nothing where it is plain); Parquet is `parquet`, Avro `avro`.
    Codec,
}

impl Ending {
    /// Whether it is the one that layouts leave out.
    pub fn is_whole(&self) -> bool {
        *self == Self::Whole
    }
}

impl OutputFormat {
    /// What the names of its objects end in, without the first dot: `json.gz`. May be empty.
    pub fn extension(&self, ending: Ending) -> String {
        let (kind, compression) = match self {
            Self::Raw { compression, newlines: Newlines::Length } => ("bin", compression),
            Self::Raw { compression, .. } => ("txt", compression),
            Self::Json { compression } => ("json", compression),
            Self::Avro { .. } => return "avro".to_string(),
            Self::Parquet { .. } | Self::Envelope { .. } => return "parquet".to_string(),
        };
        let codec = match compression {
            Compression::Gzip(_) => Some("gz"),
            Compression::Zstd(_) => Some("zst"),
            Compression::None | Compression::Snappy | Compression::Lz4 => None,
        };
        match (ending, codec) {
            (Ending::Whole, Some(codec)) => format!("{kind}.{codec}"),
            (Ending::Whole, None) => kind.to_string(),
            (Ending::Codec, codec) => codec.unwrap_or_default().to_string(),
        }
    }
}

impl DeadLetterLayout {
    /// What the names of its objects end in, without the first dot.
    pub fn extension(&self) -> String {
        self.format.extension(self.place.ending)
    }
}

impl DeadLetterFormat {
    /// See [`OutputFormat::extension`].
    pub fn extension(self, ending: Ending) -> String {
        match (self, ending) {
            (Self::Json, Ending::Whole) => "json.gz".to_string(),
            (Self::Json, Ending::Codec) => "gz".to_string(),
            (Self::Parquet, _) => "parquet".to_string(),
        }
    }
}

impl Place {
    /// What the names of `format`'s objects end in here, without the first dot. May be empty.
    pub fn extension(&self, format: &OutputFormat) -> String {
        format.extension(self.ending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Column, ColumnKind, Pages, SchemaSource, UnknownFields};

    const COMPRESSIONS: [Compression; 5] =
        [Compression::None, Compression::Gzip(6), Compression::Zstd(3), Compression::Snappy, Compression::Lz4];

    fn formats(compression: Compression) -> Vec<OutputFormat> {
        let column = Column { name: "a".to_string(), kind: ColumnKind::Bool, nullable: true };
        let raw = |newlines| OutputFormat::Raw { compression, newlines };
        vec![
            raw(Newlines::Refuse),
            raw(Newlines::Escape),
            raw(Newlines::Length),
            OutputFormat::Json { compression },
            OutputFormat::Envelope { compression, row_group_bytes: 1 << 20, row_group_rows: 1000 },
            OutputFormat::Parquet {
                compression,
                schema: SchemaSource::Columns(vec![column]),
                unknown: UnknownFields::Rest,
                row_group_bytes: 1 << 20,
                row_group_rows: 1000,
                pages: Pages::default(),
            },
        ]
    }

    /// Goal: names end in what the formats say of themselves. Method: every format and compression that can be built.
    #[test]
    fn names_end_in_what_the_formats_say() {
        let mut built = 0;
        for format in COMPRESSIONS.into_iter().flat_map(formats) {
            let Ok(own) = crate::format::build(&format, None, None) else { continue };
            assert_eq!(format.extension(Ending::Whole), own.extension(), "{format:?}");
            built += 1;
        }
        assert_eq!(built, 4 * 3 + 2 * 5, "text has neither snappy nor LZ4; Parquet has all five");
        for format in [DeadLetterFormat::Json, DeadLetterFormat::Parquet] {
            assert_eq!(format.extension(Ending::Whole), crate::format::dead_letters(format).extension());
        }
    }

    #[test]
    fn secor_shows_the_codec_alone() {
        for (compression, expected) in
            [(Compression::None, ""), (Compression::Gzip(1), "gz"), (Compression::Zstd(19), "zst")]
        {
            let (parquet, text) = formats(compression).pop().map(|last| (last, formats(compression))).expect("formats");
            assert_eq!(parquet.extension(Ending::Codec), "parquet");
            assert!(text[..4].iter().all(|format| format.extension(Ending::Codec) == expected), "{compression:?}");
        }
    }

    /// A layout that was stored before there were endings means what it meant, and has the fingerprint it had.
    #[test]
    fn layouts_say_nothing_of_the_usual_ending() {
        let old = r#"{"path":"{topic}","name":"{first}","zone":"UTC","destinations":["s3://b"]}"#;
        let place: Place = serde_json::from_str(old).expect("a place");
        assert_eq!(place.ending, Ending::Whole);
        assert_eq!(serde_json::to_string(&place).expect("JSON"), old);
        let secor = Place { ending: Ending::Codec, ..place };
        let text = serde_json::to_string(&secor).expect("JSON");
        assert!(text.ends_with(r#","ending":"codec"}"#), "{text}");
        assert_eq!(serde_json::from_str::<Place>(&text).expect("a place"), secor);
    }

    /// Nor of the usual dead letters.
    #[test]
    fn layouts_say_nothing_of_dead_letters_in_lines() {
        let old = r#"{"place":{"path":"{topic}","name":"{first}","zone":"UTC","destinations":["s3://b"]}}"#;
        let dead: DeadLetterLayout = serde_json::from_str(old).expect("a layout");
        assert_eq!((dead.format, dead.extension().as_str()), (DeadLetterFormat::Json, "json.gz"));
        assert_eq!(serde_json::to_string(&dead).expect("JSON"), old);
        let parquet = DeadLetterLayout { format: DeadLetterFormat::Parquet, ..dead };
        let text = serde_json::to_string(&parquet).expect("JSON");
        assert!(text.ends_with(r#","format":"parquet"}"#), "{text}");
    }
}
